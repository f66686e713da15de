//! A LAN as XDP programs in drivers know it: checksums are all there, and what a program sends out arrives.

use super::{LAN_DEVICE, veth};
use crate::error::{LabError, Result};
use crate::netns::Netns;
use crate::offload::{self, Offload};

/// Says `native` or `generic` where the agents of all labs shall be run so.
pub(crate) const VARIABLE: &str = "PROXY_LAB_XDP";

/// The mode in [`VARIABLE`], if it is set.
pub(crate) fn from_environment() -> Option<String> {
    std::env::var(VARIABLE).ok().filter(|mode| !mode.is_empty())
}

/// Has the switch take frames from XDP on the other ends of its ports (a veth does where it merges segments), and the hosts
/// sum up what they send over the LAN.
pub(crate) fn fit<'a>(
    switch: &Netns,
    hosts: impl IntoIterator<Item = (&'a str, &'a Netns)>,
) -> Result<()> {
    for (name, space) in hosts {
        set(switch, &veth(name), Offload::Receive, true)?;
        set(space, LAN_DEVICE, Offload::TxChecksum, false)?;
    }
    Ok(())
}

fn set(space: &Netns, device: &str, offload: Offload, on: bool) -> Result<()> {
    space.run(|| {
        let action = format!("switching {offload:?} of {device} in {}", space.name());
        offload::set(device, offload, on).map_err(LabError::kernel(action))
    })
}
