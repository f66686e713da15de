//! This node's network devices and addresses: seen by netlink, classified by a written rule (docs/adr/0011).

pub mod addresses;
mod below;
pub mod classify;
pub mod netlink;
pub mod observed;
