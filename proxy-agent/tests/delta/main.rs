//! From plans to maps: safe at every step, whatever changes, fails or restarts.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on says so by a panic"
)]

mod chance;
mod cost;
mod crowded;
#[path = "../scenario/dump.rs"]
mod dump;
mod faults;
mod planned;
mod prefixes;
mod reader;
mod restart;
mod slow_start;
mod tables;
mod world;
