//! What is attached and pinned is compared with the kernel, and mended: needs root, ip(8) and tc(8).

#![cfg(test)]

mod cost;
mod devices;
mod fixture;
#[path = "../devices/namespace.rs"]
mod namespace;
mod pins;
mod sockets;
