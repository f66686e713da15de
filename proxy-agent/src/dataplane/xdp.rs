//! XDP on uplinks: which of them have it, in which mode, and why others do not (docs/adr/0022). Where there is none, tc does all.
//!
//! Links are pinned under a name with their mode, replaced in place by the next agent, and removed where they are not wanted
//! any more. A program of somebody else's is never replaced.

mod plan;
mod query;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io,
};

use proxy_common::abi::device::{DeviceClass, LinkType, device_flags};

use self::{plan::plan, query::programs_on};
pub use self::{
    plan::{Choice, Reason, RunMode, XdpMode},
    query::{Features, program_on},
};
use super::{
    attach::{AttachError, Port, remove_link},
    audit::{Findings, Kind},
    load::{ProgramName, Programs},
    pin::{Held, PinFolder},
    sys::{
        link,
        object::{self, LinkInfo},
    },
};

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
    links: Held,
    mode: XdpMode,
    /// What was decided and told, by ifindex.
    choices: BTreeMap<u32, Choice>,
    /// Devices that programs can send frames out by.
    reached: BTreeSet<u32>,
}

impl Uplinks {
    /// Nothing is attached yet.
    pub fn new(pins: PinFolder, mode: XdpMode) -> Self {
        Self {
            links: Held::new(pins.links()),
            pins,
            mode,
            choices: BTreeMap::new(),
            reached: BTreeSet::new(),
        }
    }

    /// See [`Attachments::trust_pins`](super::attach::Attachments::trust_pins).
    pub fn trust_pins(&mut self, trusted: bool) {
        self.links.trust(trusted);
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
        let no_tx = if port.below.veths.is_empty() {
            0
        } else {
            device_flags::XDP_NO_TX
        };
        reached | no_tx
    }

    /// Makes the programs on uplinks what they should be, and says what was decided where that is new. One device's failure
    /// does not keep the others from theirs.
    pub fn reconcile(&mut self, programs: &mut Programs, ports: &BTreeMap<u32, Port>) -> Findings {
        let mut findings = Findings::default();
        let uplinks = ports.iter().filter(|(_, port)| is_candidate(port));
        let plans: BTreeMap<u32, Result<RunMode, Reason>> = uplinks
            .map(|(&ifindex, port)| {
                let unknown = Cell::new(false);
                let features = |ifindex| {
                    self.features(ifindex).unwrap_or_else(|error| {
                        tracing::debug!(ifindex, %error, "the driver's XDP features are not known");
                        unknown.set(true);
                        None
                    })
                };
                let plan = plan(self.mode, ifindex, &port.below, features);
                // A question that failed changes nothing.
                let before = self
                    .choices
                    .get(&ifindex)
                    .filter(|_| unknown.get())
                    .copied();
                (ifindex, before.map_or(plan, Choice::plan))
            })
            .collect();
        // First, since a device has one mode at a time.
        if let Err(error) = self.remove_others(&plans) {
            findings.failed(Kind::Xdp, "what is not wanted any more", error);
        }
        let mut choices = BTreeMap::new();
        for (&ifindex, plan) in &plans {
            let name = &ports[&ifindex].name;
            let choice = match *plan {
                Ok(mode) => match self.attach(programs, ifindex, mode) {
                    Ok(Attached::Gone) => continue,
                    Ok(Attached::There) => Choice::Xdp(mode),
                    Ok(Attached::Now(found)) => {
                        let choice = Choice::Xdp(mode);
                        if self.choices.get(&ifindex) == Some(&choice) {
                            findings.repaired(Kind::Xdp, name, found);
                        }
                        choice
                    }
                    Ok(Attached::Not(reason)) => Choice::Tc(reason),
                    Err(error) => {
                        findings.failed(Kind::Xdp, name, error);
                        // It had been in place: mended later, it counts.
                        if let Some(before) = self.choices.get(&ifindex) {
                            choices.insert(ifindex, *before);
                        }
                        continue;
                    }
                },
                Err(reason) => Choice::Tc(reason),
            };
            self.tell(name, ifindex, choice);
            choices.insert(ifindex, choice);
        }
        // Some drivers take frames only once they have a program of their own.
        self.reached = plans
            .keys()
            .copied()
            .filter(|ifindex| match self.mode {
                XdpMode::Off => false,
                XdpMode::Generic => true,
                XdpMode::Auto | XdpMode::Native => match self.features(*ifindex) {
                    Ok(features) => features.is_some_and(|f| f.has(Features::TRANSMIT)),
                    Err(_) => self.reached.contains(ifindex),
                },
            })
            .collect();
        self.choices = choices;
        findings.repinned(Kind::LinkPin, &mut self.links);
        findings
    }

    /// The features that a driver announces; `None` if the kernel does not say.
    fn features(&self, ifindex: u32) -> io::Result<Option<Features>> {
        if matches!(self.mode, XdpMode::Off | XdpMode::Generic) {
            return Ok(None);
        }
        query::features(ifindex)
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
        &mut self,
        plans: &BTreeMap<u32, Result<RunMode, Reason>>,
    ) -> Result<(), AttachError> {
        let mut names: BTreeSet<String> = self.links.names().map(str::to_owned).collect();
        names.extend(self.pins.link_names()?);
        for name in names {
            if let Some((ifindex, mode)) = parse_link_name(&name)
                && plans.get(&ifindex) != Some(&Ok(mode))
            {
                remove_link(&mut self.links, &name)?;
            }
        }
        Ok(())
    }

    /// Puts the program on a device, in place of that of an earlier run.
    fn attach(
        &mut self,
        programs: &mut Programs,
        ifindex: u32,
        mode: RunMode,
    ) -> Result<Attached, AttachError> {
        programs.load_xdp()?;
        let (program, id) = (
            programs.fd(ProgramName::Xdp)?,
            programs.id(ProgramName::Xdp)?,
        );
        let name = link_name(ifindex, mode);
        let on_device = match programs_on(ifindex) {
            Ok(on_device) => on_device,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(Attached::Gone),
            // What is there stays.
            Err(source) => {
                return Err(AttachError::Device {
                    action: "look for",
                    program: ProgramName::Xdp.name(),
                    side: "ingress",
                    device: format!("number {ifindex}"),
                    source,
                });
            }
        };
        let failed = |action| {
            let path = self.pins.link(&name);
            move |source| AttachError::Link {
                action,
                path,
                source,
            }
        };
        if let Some((link, _)) = self.links.get(&name)? {
            let about: LinkInfo = object::info(link).map_err(failed("examine"))?;
            // The number may be another device's by now, here or in the namespace that the device went to.
            if about.ifindex() == ifindex && on_device.contains(&about.program) {
                if about.program == id {
                    return Ok(Attached::There);
                }
                link::update(link, program).map_err(failed("update"))?;
                return Ok(Attached::Now("its program was replaced"));
            }
            remove_link(&mut self.links, &name)?;
        }
        match link::attach_xdp(program, ifindex, mode.flags()) {
            Ok(link) => {
                self.links.put(&name, link);
                Ok(Attached::Now("it was detached"))
            }
            Err(error) => Ok(Attached::Not(
                match (error.raw_os_error(), on_device.first()) {
                    (Some(libc::EBUSY | libc::EEXIST), Some(other)) => Reason::Occupied(*other),
                    (Some(libc::EOPNOTSUPP), _) => Reason::Driver,
                    (errno, _) => Reason::Refused(errno.unwrap_or_default()),
                },
            )),
        }
    }
}

/// What came of attaching.
enum Attached {
    /// It is in place.
    There,
    /// It was not, for this reason, and is now.
    Now(&'static str),
    /// It is left to tc.
    Not(Reason),
    /// The device is gone since the devices were listed.
    Gone,
}

/// XDP programs expect Ethernet headers, and are for what leads to the outside.
const fn is_candidate(port: &Port) -> bool {
    port.device.class == DeviceClass::Uplink as u8 && port.device.link == LinkType::Ethernet as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_links_come_back() {
        for mode in RunMode::ALL {
            assert_eq!(parse_link_name(&link_name(42, mode)), Some((42, mode)));
        }
        assert_eq!(parse_link_name("dev-42-ingress"), None);
        assert_eq!(parse_link_name("xdp-42-offload"), None);
    }
}
