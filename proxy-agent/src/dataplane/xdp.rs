//! XDP on uplinks: which of them have it, in which mode, and why others do not (docs/adr/0022). Where there is none, tc does all.
//!
//! Links are pinned under a name with their mode, replaced in place by the next agent, and removed where they are not wanted
//! any more. A program of somebody else's is never replaced.

mod query;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    os::fd::BorrowedFd,
};

use proxy_common::abi::device::{DeviceClass, LinkType, device_flags};

pub use self::query::{Features, program_on};
use super::{
    attach::{AttachError, Port, detach_pinned},
    load::Programs,
    pin::PinFolder,
    sys::{
        link::{self, XdpFlags},
        object::{self, LinkInfo, ProgramInfo},
    },
};

/// Values of `--xdp`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpMode {
    /// Native where the driver supports it, but never on a veth: XDP would cost it segmentation offload.
    #[default]
    Auto,
    /// Native, on a veth too.
    Native,
    /// Generic (skb) mode, for drivers without XDP. It is no faster than tc.
    Generic,
    /// No XDP.
    Off,
}

/// How a program is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RunMode {
    /// By the driver, before there is an skb.
    Native,
    /// By the kernel, on an skb.
    Generic,
}

impl RunMode {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    const fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    const fn flags(self) -> XdpFlags {
        match self {
            Self::Native => XdpFlags::Driver,
            Self::Generic => XdpFlags::Skb,
        }
    }
}

/// Why an uplink is left to tc.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It was asked for.
    #[error("--xdp is off")]
    Off,
    /// Its packets would arrive one by one.
    #[error(
        "it is a veth, whose packets XDP would have segmented before they are sent; --xdp=native forces it"
    )]
    Veth,
    /// The driver says so.
    #[error("its driver runs no XDP programs")]
    Driver,
    /// Of a veth's other end.
    #[error(
        "the other end of this veth takes no frames from XDP: turn on its GRO (`ethtool -K DEVICE gro on`)"
    )]
    Peer,
    /// Somebody else was first.
    #[error("another XDP program (id {0}) is on it")]
    Occupied(u32),
    /// The kernel did not want it, for this `errno`.
    #[error("the kernel refused: {}", io::Error::from_raw_os_error(*.0))]
    Refused(i32),
}

impl Reason {
    /// Whether somebody has to do something about it.
    const fn is_trouble(self, mode: XdpMode) -> bool {
        match self {
            Self::Off => false,
            Self::Veth | Self::Driver | Self::Peer => !matches!(mode, XdpMode::Auto),
            Self::Occupied(_) | Self::Refused(_) => true,
        }
    }
}

/// What was decided for an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// XDP before tc.
    Xdp(RunMode),
    /// tc alone.
    Tc(Reason),
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp(mode) => write!(f, "{} XDP, then tc", mode.label()),
            Self::Tc(reason) => write!(f, "tc alone: {reason}"),
        }
    }
}

/// What to try on an uplink of a kind (`IFLA_INFO_KIND`), whose driver can what it says; nothing is said before Linux 6.3.
fn plan(mode: XdpMode, kind: &str, features: Option<Features>) -> Result<RunMode, Reason> {
    let veth = kind == "veth";
    let lacks = |what| features.is_some_and(|features| !features.has(what));
    match mode {
        XdpMode::Off => Err(Reason::Off),
        XdpMode::Generic => Ok(RunMode::Generic),
        XdpMode::Auto if veth => Err(Reason::Veth),
        XdpMode::Auto | XdpMode::Native => {
            if lacks(Features::BASIC) {
                Err(Reason::Driver)
            } else if veth && lacks(Features::TRANSMIT) {
                // What a program sends back out would vanish.
                Err(Reason::Peer)
            } else {
                Ok(RunMode::Native)
            }
        }
    }
}

fn link_name(ifindex: u32, mode: RunMode) -> String {
    format!("xdp-{ifindex}-{}", mode.label())
}

/// The ifindex and mode in the name of a link.
fn parse_link_name(name: &str) -> Option<(u32, RunMode)> {
    let (ifindex, label) = name.strip_prefix("xdp-")?.split_once('-')?;
    let mode = RunMode::ALL
        .into_iter()
        .find(|mode| mode.label() == label)?;
    Some((ifindex.parse().ok()?, mode))
}

/// XDP on this node's uplinks.
#[derive(Debug)]
pub struct Uplinks {
    pins: PinFolder,
    mode: XdpMode,
    /// What was decided and told, by ifindex.
    choices: BTreeMap<u32, Choice>,
    /// Devices that programs can send frames out by.
    reached: BTreeSet<u32>,
}

impl Uplinks {
    /// Nothing is attached yet.
    pub const fn new(pins: PinFolder, mode: XdpMode) -> Self {
        Self {
            pins,
            mode,
            choices: BTreeMap::new(),
            reached: BTreeSet::new(),
        }
    }

    /// How programs can send frames out by a device ([`device_flags`]), as far as was known at the last
    /// [`reconcile`](Self::reconcile).
    pub fn flags(&self, ifindex: u32, port: &Port) -> u32 {
        let reached = if self.reached.contains(&ifindex) {
            device_flags::XDP_OUT
        } else {
            0
        };
        // Of what a veth takes back, its other end is not told unless that has a program, too (Linux: `veth_xdp_flush`).
        let no_tx = if port.kind == "veth" {
            device_flags::XDP_NO_TX
        } else {
            0
        };
        reached | no_tx
    }

    /// Whether there are devices that could have XDP, so that looking again makes sense.
    pub fn is_used(&self) -> bool {
        self.mode != XdpMode::Off && !self.choices.is_empty()
    }

    /// Makes the programs on uplinks what they should be, and says what was decided where that is new. One device's failure
    /// does not keep the others from theirs; all failures are returned.
    pub fn reconcile(
        &mut self,
        programs: &mut Programs,
        ports: &BTreeMap<u32, Port>,
    ) -> Vec<AttachError> {
        let mut errors = Vec::new();
        let uplinks = ports.iter().filter(|(_, port)| is_candidate(port));
        let plans: BTreeMap<u32, Result<RunMode, Reason>> = uplinks
            .map(|(&ifindex, port)| {
                let features = self.features(ifindex, &port.name);
                (ifindex, plan(self.mode, &port.kind, features))
            })
            .collect();
        // First, since a device has one mode at a time.
        if let Err(error) = self.remove_others(&plans) {
            errors.push(error);
        }
        let mut choices = BTreeMap::new();
        for (&ifindex, plan) in &plans {
            let choice = match plan {
                Ok(mode) => match self.attach(programs, ifindex, *mode) {
                    Ok(choice) => choice,
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                },
                Err(reason) => Choice::Tc(*reason),
            };
            self.tell(&ports[&ifindex].name, ifindex, choice);
            choices.insert(ifindex, choice);
        }
        // Some drivers take frames only once they have a program of their own.
        self.reached = plans
            .keys()
            .copied()
            .filter(|ifindex| match self.mode {
                XdpMode::Off => false,
                XdpMode::Generic => true,
                XdpMode::Auto | XdpMode::Native => self
                    .features(*ifindex, &ports[ifindex].name)
                    .is_some_and(|features| features.has(Features::TRANSMIT)),
            })
            .collect();
        self.choices = choices;
        errors
    }

    fn features(&self, ifindex: u32, name: &str) -> Option<Features> {
        if matches!(self.mode, XdpMode::Off | XdpMode::Generic) {
            return None;
        }
        query::features(ifindex).unwrap_or_else(|error| {
            tracing::debug!(device = name, %error, "what its driver can is not known");
            None
        })
    }

    fn tell(&self, name: &str, ifindex: u32, choice: Choice) {
        if self.choices.get(&ifindex) == Some(&choice) {
            return;
        }
        match choice {
            Choice::Tc(reason) if reason.is_trouble(self.mode) => {
                tracing::warn!(device = name, "packets are translated by {choice}");
            }
            _ => tracing::info!(device = name, "packets are translated by {choice}"),
        }
    }

    /// Removes links, of this run or an earlier one, that are not planned.
    fn remove_others(
        &self,
        plans: &BTreeMap<u32, Result<RunMode, Reason>>,
    ) -> Result<(), AttachError> {
        for name in self.pins.link_names()? {
            if let Some((ifindex, mode)) = parse_link_name(&name)
                && plans.get(&ifindex) != Some(&Ok(mode))
            {
                detach_pinned(&self.pins.link(&name))?;
            }
        }
        Ok(())
    }

    /// Puts the program on a device, in place of that of an earlier run.
    fn attach(
        &self,
        programs: &mut Programs,
        ifindex: u32,
        mode: RunMode,
    ) -> Result<Choice, AttachError> {
        let program = programs.xdp()?;
        let path = self.pins.link(&link_name(ifindex, mode));
        let on_device = program_on(ifindex).unwrap_or_default();
        if replace(program, &path, ifindex, on_device)? {
            return Ok(Choice::Xdp(mode));
        }
        detach_pinned(&path)?;
        let link = match link::attach_xdp(program, ifindex, mode.flags()) {
            Ok(link) => link,
            Err(error) => {
                return Ok(Choice::Tc(match (error.raw_os_error(), on_device) {
                    (Some(libc::EBUSY | libc::EEXIST), Some(other)) => Reason::Occupied(other),
                    (Some(libc::EOPNOTSUPP), _) => Reason::Driver,
                    (errno, _) => Reason::Refused(errno.unwrap_or_default()),
                }));
            }
        };
        object::pin(&link, &path).map_err(|source| AttachError::Link {
            action: "pin",
            path,
            source,
        })?;
        Ok(Choice::Xdp(mode))
    }
}

/// Replaces the program of a pinned link; says no where there is none, or where it is not on this device.
fn replace(
    program: BorrowedFd<'_>,
    path: &std::path::Path,
    ifindex: u32,
    on_device: Option<u32>,
) -> Result<bool, AttachError> {
    let failed = |action| {
        move |source| AttachError::Link {
            action,
            path: path.to_path_buf(),
            source,
        }
    };
    let link = match object::open(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("open")(error)),
    };
    let about: LinkInfo = object::info(&link).map_err(failed("examine"))?;
    // The number may be another device's by now, here or in the namespace that the device went to.
    if about.ifindex() != ifindex || on_device != Some(about.program) {
        return Ok(false);
    }
    let ours: ProgramInfo = object::info(program).map_err(failed("examine"))?;
    if about.program != ours.id {
        link::update(&link, program).map_err(failed("update"))?;
    }
    Ok(true)
}

/// XDP programs expect Ethernet headers, and are for what leads to the outside.
const fn is_candidate(port: &Port) -> bool {
    port.device.class == DeviceClass::Uplink as u8 && port.device.link == LinkType::Ethernet as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAN: Option<Features> = Some(Features(7));
    const TAKES_NONE: Option<Features> = Some(Features(3));
    const CANNOT: Option<Features> = Some(Features(0));

    #[test]
    fn auto_is_native_where_the_driver_can_and_never_on_a_veth() {
        use XdpMode::Auto;
        assert_eq!(plan(Auto, "", CAN), Ok(RunMode::Native));
        assert_eq!(plan(Auto, "bond", TAKES_NONE), Ok(RunMode::Native));
        assert_eq!(plan(Auto, "", CANNOT), Err(Reason::Driver));
        assert_eq!(plan(Auto, "veth", CAN), Err(Reason::Veth));
        // An older kernel does not say: it is tried.
        assert_eq!(plan(Auto, "", None), Ok(RunMode::Native));
    }

    #[test]
    fn native_is_forced_on_a_veth_whose_other_end_takes_frames() {
        use XdpMode::Native;
        assert_eq!(plan(Native, "veth", CAN), Ok(RunMode::Native));
        assert_eq!(plan(Native, "veth", None), Ok(RunMode::Native));
        assert_eq!(plan(Native, "veth", TAKES_NONE), Err(Reason::Peer));
        assert_eq!(plan(Native, "bridge", CANNOT), Err(Reason::Driver));
    }

    #[test]
    fn generic_and_off_do_not_ask() {
        for features in [CAN, CANNOT, None] {
            assert_eq!(
                plan(XdpMode::Generic, "veth", features),
                Ok(RunMode::Generic)
            );
            assert_eq!(plan(XdpMode::Off, "", features), Err(Reason::Off));
        }
    }

    #[test]
    fn names_of_links_come_back() {
        for mode in RunMode::ALL {
            assert_eq!(parse_link_name(&link_name(42, mode)), Some((42, mode)));
        }
        assert_eq!(parse_link_name("dev-42-ingress"), None);
        assert_eq!(parse_link_name("xdp-42-offload"), None);
    }
}
