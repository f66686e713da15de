//! Decides which mode of XDP is tried on which uplink, and why an uplink is left to tc.

use std::{fmt, io};

use super::Features;
use crate::dataplane::{attach::Below, sys::link::XdpFlags};

/// Values of `--xdp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// Native where the driver supports it, but never on or above a veth: XDP would cost it segmentation offload.
    #[default]
    Auto,
    /// Native, on and above a veth too.
    Native,
    /// Generic (skb) mode, for drivers without XDP. It is no faster than tc.
    Generic,
    /// No XDP.
    Off,
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunMode {
    /// In the driver, before an skb exists.
    Native,
    /// In the network stack, on an skb.
    Generic,
}

impl RunMode {
    pub(super) const ALL: [Self; 2] = [Self::Native, Self::Generic];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    pub(super) const fn flags(self) -> XdpFlags {
        match self {
            Self::Native => XdpFlags::Driver,
            Self::Generic => XdpFlags::Skb,
        }
    }
}

/// Why an uplink is left to tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// By configuration.
    #[error("--xdp is off")]
    Off,
    /// GSO packets would be segmented before they are sent.
    #[error(
        "it is a veth or is above one, whose packets XDP would have segmented before they are sent; --xdp=native forces it"
    )]
    Veth,
    /// The driver does not support XDP.
    #[error("its driver runs no XDP programs")]
    Driver,
    /// The other end of a veth does not accept frames from XDP.
    #[error(
        "the other end of its veth takes no frames from XDP: turn on GRO there (`ethtool -K DEVICE gro on`)"
    )]
    Peer,
    /// The kernel does not report whether the other end of a veth accepts frames from XDP.
    #[error(
        "this kernel does not say whether the other end of its veth takes frames from XDP (Linux 6.3 does), and frames would be lost if not"
    )]
    PeerUnknown,
    /// It is above a device of another network namespace.
    #[error(
        "the device below it is in another network namespace, so what XDP does there is not known"
    )]
    Below,
    /// Another XDP program is attached.
    #[error("another XDP program (id {0}) is on it")]
    Occupied(u32),
    /// The kernel refused with this `errno`.
    #[error("the kernel refused: {}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
}

impl Reason {
    /// Whether an administrator should act.
    pub(super) const fn is_trouble(self, mode: XdpMode) -> bool {
        match self {
            Self::Off => false,
            Self::Veth | Self::Driver | Self::Peer | Self::PeerUnknown | Self::Below => {
                !matches!(mode, XdpMode::Auto)
            }
            Self::Occupied(_) | Self::Refused(_) => true,
        }
    }
}

/// The decision for an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// XDP before tc.
    Xdp(RunMode),
    /// tc alone.
    Tc(Reason),
}

impl Choice {
    /// The plan that this choice stands for.
    pub(super) const fn plan(self) -> Result<RunMode, Reason> {
        match self {
            Self::Xdp(mode) => Ok(mode),
            Self::Tc(reason) => Err(reason),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp(mode) => write!(f, "{} XDP, then tc", mode.label()),
            Self::Tc(reason) => write!(f, "tc alone: {reason}"),
        }
    }
}

/// The mode to try on an uplink. `features` returns the XDP features of a device's driver; `None` before Linux 6.3.
pub(super) fn plan(
    mode: XdpMode,
    ifindex: u32,
    below: &Below,
    features: impl Fn(u32) -> Option<Features>,
) -> Result<RunMode, Reason> {
    match mode {
        XdpMode::Off => return Err(Reason::Off),
        XdpMode::Generic => return Ok(RunMode::Generic),
        XdpMode::Auto if !below.veths.is_empty() => return Err(Reason::Veth),
        XdpMode::Auto | XdpMode::Native => {}
    }
    if below.unknown {
        return Err(Reason::Below);
    }
    if features(ifindex).is_some_and(|features| !features.has(Features::BASIC)) {
        return Err(Reason::Driver);
    }
    // Frames that a program sends back out of a veth are lost unless the other end accepts them.
    for &veth in &below.veths {
        match features(veth) {
            None => return Err(Reason::PeerUnknown),
            Some(features) if !features.has(Features::TRANSMIT) => return Err(Reason::Peer),
            Some(_) => {}
        }
    }
    Ok(RunMode::Native)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAN: Option<Features> = Some(Features(7));
    const TAKES_NONE: Option<Features> = Some(Features(3));
    const CANNOT: Option<Features> = Some(Features(0));

    /// Of device 1, above these veths; `features` are its own and those of each veth.
    fn over(
        mode: XdpMode,
        veths: &[u32],
        features: impl Fn(u32) -> Option<Features>,
    ) -> Result<RunMode, Reason> {
        let below = Below {
            veths: veths.iter().copied().collect(),
            unknown: false,
        };
        plan(mode, 1, &below, features)
    }

    #[test]
    fn auto_is_native_where_the_driver_can_and_never_above_a_veth() {
        use XdpMode::Auto;
        assert_eq!(over(Auto, &[], |_| CAN), Ok(RunMode::Native));
        assert_eq!(over(Auto, &[], |_| TAKES_NONE), Ok(RunMode::Native));
        assert_eq!(over(Auto, &[], |_| CANNOT), Err(Reason::Driver));
        // An older kernel does not report features, so native mode is tried.
        assert_eq!(over(Auto, &[], |_| None), Ok(RunMode::Native));
        for features in [CAN, TAKES_NONE, None] {
            // The device itself; a bond of a veth and of something else.
            assert_eq!(over(Auto, &[1], |_| features), Err(Reason::Veth));
            assert_eq!(over(Auto, &[7], |_| features), Err(Reason::Veth));
        }
    }

    #[test]
    fn native_is_forced_above_veths_whose_other_ends_take_frames() {
        use XdpMode::Native;
        assert_eq!(over(Native, &[1], |_| CAN), Ok(RunMode::Native));
        assert_eq!(over(Native, &[1], |_| TAKES_NONE), Err(Reason::Peer));
        assert_eq!(over(Native, &[], |_| CANNOT), Err(Reason::Driver));
        // A bond says that it can; each of its veths is asked.
        let one_cannot = |ifindex| if ifindex == 8 { TAKES_NONE } else { CAN };
        assert_eq!(over(Native, &[7], one_cannot), Ok(RunMode::Native));
        assert_eq!(over(Native, &[7, 8], one_cannot), Err(Reason::Peer));
    }

    #[test]
    fn native_leaves_a_veth_to_tc_where_the_kernel_does_not_say() {
        use XdpMode::Native;
        assert_eq!(over(Native, &[1], |_| None), Err(Reason::PeerUnknown));
        assert_eq!(over(Native, &[7], |_| None), Err(Reason::PeerUnknown));
        let of_veth = |ifindex| if ifindex == 7 { None } else { CAN };
        assert_eq!(over(Native, &[7], of_veth), Err(Reason::PeerUnknown));
        // Not a veth: tried.
        assert_eq!(over(Native, &[], |_| None), Ok(RunMode::Native));
        // Whoever asked for it reads why not.
        assert!(Reason::PeerUnknown.is_trouble(Native));
    }

    #[test]
    fn what_is_below_in_another_namespace_is_left_to_tc() {
        let below = Below {
            unknown: true,
            ..Below::default()
        };
        for mode in [XdpMode::Auto, XdpMode::Native] {
            assert_eq!(plan(mode, 1, &below, |_| CAN), Err(Reason::Below));
        }
        assert_eq!(
            plan(XdpMode::Generic, 1, &below, |_| CAN),
            Ok(RunMode::Generic)
        );
    }

    #[test]
    fn generic_and_off_do_not_ask() {
        let never = |_| -> Option<Features> { panic!("asked") };
        assert_eq!(over(XdpMode::Generic, &[1], never), Ok(RunMode::Generic));
        assert_eq!(over(XdpMode::Off, &[], never), Err(Reason::Off));
    }
}
