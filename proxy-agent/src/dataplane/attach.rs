//! Attaching: socket hooks on the cgroup, packet programs on devices, each by a pinned link.
//!
//! A restart finds the links by their pins and replaces their programs in place, so that nothing passes untranslated
//! meanwhile. Each call compares what is wanted with what the kernel has, and mends what somebody changed; what this process
//! remembers only tells a repair from something new. Programs of others stay where they are. In a device's chain ours is first at ingress and last at egress:
//! there the packets are those that the client sends and gets, and whatever a CNI attached between us and the node
//! sees one tuple, client ↔ pod, in both directions.

mod clsact;
mod error;
mod port;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::Path,
};

use self::clsact::Clsact;
pub use self::{
    error::AttachError,
    port::{Below, Direction, Port, TcMode, program_for},
};
use super::{
    audit::{Findings, Kind},
    load::{PacketProgram, ProgramName, Programs, SOCKET_HOOKS, SocketHook},
    pin::{Held, PinFolder, unpin},
    sys::{
        link,
        object::{self, LinkInfo},
    },
};

fn device_link(ifindex: u32, side: Direction) -> String {
    format!("dev-{ifindex}-{}", side.label())
}

/// The ifindex and side in the name of a device's link.
fn parse_device_link(name: &str) -> Option<(u32, Direction)> {
    let (ifindex, side) = name.strip_prefix("dev-")?.split_once('-')?;
    let side = Direction::ALL
        .into_iter()
        .find(|direction| direction.label() == side)?;
    Some((ifindex.parse().ok()?, side))
}

/// How a place was found: as it should be, or otherwise.
type Found = Option<&'static str>;

const DETACHED: &str = "it was detached";
const REPLACED: &str = "its program was replaced";

/// What is attached, and how to attach more.
#[derive(Debug)]
pub struct Attachments {
    pins: PinFolder,
    programs: Programs,
    mode: TcMode,
    links: Held,
    clsact: Clsact,
    /// Socket hooks that were in place once.
    hooks: BTreeSet<SocketHook>,
    /// Programs on devices that were in place once.
    devices: BTreeMap<(u32, Direction), PacketProgram>,
    /// Filters of an earlier run may be anywhere.
    fresh: bool,
}

impl Attachments {
    /// Attaches `programs`, nothing yet.
    pub fn new(pins: PinFolder, programs: Programs, mode: TcMode) -> Self {
        Self {
            links: Held::new(pins.links()),
            pins,
            programs,
            mode,
            clsact: Clsact::default(),
            hooks: BTreeSet::new(),
            devices: BTreeMap::new(),
            fresh: true,
        }
    }

    /// Whether the folder of the pins is ours. Links are neither pinned in another one, nor taken from it.
    pub fn trust_pins(&mut self, trusted: bool) {
        self.links.trust(trusted);
    }

    /// The loaded programs.
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The same, to load more.
    pub const fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Makes the socket hooks on a cgroup what they should be. One hook's failure does not keep the others from theirs.
    pub fn reconcile_sockets(&mut self, cgroup: &File) -> Findings {
        let mut findings = Findings::default();
        for hook in SOCKET_HOOKS {
            match self.attach_socket(cgroup, hook) {
                Ok(found) => {
                    let known = !self.hooks.insert(hook);
                    if let (true, Some(found)) = (known, found) {
                        findings.repaired(Kind::Cgroup, hook.name, found);
                    }
                }
                Err(error) => findings.failed(Kind::Cgroup, hook.name, error),
            }
        }
        findings
    }

    fn attach_socket(&mut self, cgroup: &File, hook: SocketHook) -> Result<Found, AttachError> {
        let failed = |source| AttachError::Cgroup {
            hook: hook.name,
            source,
        };
        let name = format!("cgroup-{}", hook.name);
        let program = self.programs.fd(ProgramName::Socket(hook))?;
        // A cgroup's id is its inode number (kernfs).
        let id = cgroup.metadata().map_err(failed)?.ino();
        if let Some((link, _)) = self.links.get(&name)? {
            let info: LinkInfo = object::info(link).map_err(failed)?;
            if (info.detail, info.attach_type) == (id, hook.attach_type as u32) {
                if info.program == self.programs.id(ProgramName::Socket(hook))? {
                    return Ok(None);
                }
                link::update(link, program).map_err(failed)?;
                return Ok(Some(REPLACED));
            }
            remove_link(&mut self.links, &name)?;
        }
        let link = link::attach_cgroup(program, cgroup, hook.attach_type).map_err(failed)?;
        self.links.put(&name, link);
        Ok(Some(DETACHED))
    }

    /// Makes the programs on devices what `wanted` (by ifindex) says, and pins the links that are not pinned. One
    /// device's failure does not keep the others from theirs.
    pub fn reconcile(&mut self, wanted: &BTreeMap<u32, Port>) -> Findings {
        let mut findings = Findings::default();
        for (&ifindex, port) in wanted {
            // Egress first: a packet that is translated on its way in must find its way back.
            for side in Direction::ALL {
                if let Some(program) = program_for(&port.device, side) {
                    self.reconcile_side(ifindex, &port.name, side, program, &mut findings);
                }
            }
        }
        let kind = self.kind();
        let unwanted = self.unwanted(wanted).unwrap_or_else(|error| {
            findings.failed(kind, "what is not wanted any more", error);
            Vec::new()
        });
        for (mode, ifindex, side) in unwanted {
            match self.detach_device(mode, ifindex, side) {
                Ok(()) if mode == self.mode => drop(self.devices.remove(&(ifindex, side))),
                Ok(()) => {}
                Err(error) => {
                    let what = format!("{} of device number {ifindex}", side.label());
                    findings.failed(kind, what, error);
                }
            }
        }
        self.fresh &= !findings.failures.is_empty();
        findings.repinned(Kind::LinkPin, &mut self.links);
        findings
    }

    const fn kind(&self) -> Kind {
        match self.mode {
            TcMode::Tcx => Kind::Tcx,
            TcMode::Clsact => Kind::Clsact,
        }
    }

    fn reconcile_side(
        &mut self,
        ifindex: u32,
        device: &str,
        side: Direction,
        program: PacketProgram,
        findings: &mut Findings,
    ) {
        let what = || format!("{} of {device}", side.label());
        let known = self.devices.get(&(ifindex, side)) == Some(&program);
        let done = match self.mode {
            TcMode::Tcx => self.attach_tcx(ifindex, device, side, program),
            TcMode::Clsact => self
                .attach_filter(ifindex, side, program)
                .map(|found| (found, false)),
        };
        match done {
            Ok((found, displaced)) => {
                self.devices.insert((ifindex, side), program);
                if let (true, Some(found)) = (known, found) {
                    findings.repaired(self.kind(), what(), found);
                }
                if displaced {
                    findings.displaced.push(what());
                }
            }
            Err(error) if error.is_device_gone() => {
                tracing::debug!(device, "gone since the devices were listed");
            }
            Err(error) => findings.failed(self.kind(), what(), error),
        }
    }

    /// What is attached, by this run or by an earlier one, and is wanted no more; or is attached the other way, and by now
    /// ours too. (A packet that meets both meanwhile is translated by the first and is nothing to the second.)
    fn unwanted(
        &self,
        wanted: &BTreeMap<u32, Port>,
    ) -> Result<Vec<(TcMode, u32, Direction)>, AttachError> {
        let own = self.devices.keys().copied();
        let mut attached: BTreeSet<_> = own.map(|(i, side)| (self.mode, i, side)).collect();
        let pinned = self.pins.link_names()?;
        let names = pinned.iter().map(String::as_str).chain(self.links.names());
        let links = names.filter_map(parse_device_link);
        attached.extend(links.map(|(i, side)| (TcMode::Tcx, i, side)));
        if self.fresh {
            let filters = clsact::attached()?.into_iter();
            attached.extend(filters.map(|(i, side)| (TcMode::Clsact, i, side)));
        }
        attached.retain(|&(mode, ifindex, side)| {
            let wanted = wanted
                .get(&ifindex)
                .is_some_and(|port| program_for(&port.device, side).is_some());
            !wanted || mode != self.mode && self.devices.contains_key(&(ifindex, side))
        });
        Ok(attached.into_iter().collect())
    }

    fn attach_filter(
        &mut self,
        ifindex: u32,
        side: Direction,
        program: PacketProgram,
    ) -> Result<Found, AttachError> {
        let name = ProgramName::Packet(program);
        let (fd, id) = (self.programs.fd(name)?, self.programs.id(name)?);
        Ok(self.clsact.attach(ifindex, side, program, fd, id)?)
    }

    /// Also says whether another program has the place in the chain that ours should have.
    fn attach_tcx(
        &mut self,
        ifindex: u32,
        device: &str,
        side: Direction,
        program: PacketProgram,
    ) -> Result<(Found, bool), AttachError> {
        let fd = self.programs.fd(ProgramName::Packet(program))?;
        let failed = |action| {
            move |source| AttachError::Device {
                action,
                program: program.name(),
                side: side.label(),
                device: device.to_owned(),
                source,
            }
        };
        let name = device_link(ifindex, side);
        if let Some((link, id)) = self.links.get(&name)? {
            // By its id, since the number may be another device's by now, here or in the namespace that the device went to.
            let chain = link::tcx_chain(ifindex, side.attach_type()).map_err(failed("query"))?;
            if let Some(place) = chain.iter().position(|entry| entry.link == id) {
                let displaced = match side {
                    Direction::Ingress => place != 0,
                    Direction::Egress => place + 1 != chain.len(),
                };
                if chain[place].program == self.programs.id(ProgramName::Packet(program))? {
                    return Ok((None, displaced));
                }
                link::update(link, fd).map_err(failed("replace"))?;
                return Ok((Some(REPLACED), displaced));
            }
            remove_link(&mut self.links, &name)?;
        }
        let link = link::attach_tcx(fd, ifindex, side.attach_type(), side.order())
            .map_err(failed("attach"))?;
        self.links.put(&name, link);
        Ok((Some(DETACHED), false))
    }

    fn detach_device(
        &mut self,
        mode: TcMode,
        ifindex: u32,
        side: Direction,
    ) -> Result<(), AttachError> {
        match mode {
            TcMode::Tcx => remove_link(&mut self.links, &device_link(ifindex, side)),
            TcMode::Clsact => {
                self.clsact.forget(ifindex, side);
                Ok(clsact::detach(ifindex, side).map(drop)?)
            }
        }
    }
}

/// Detaches a link, whoever else holds it open, lets go of it and removes its pin. If the link cannot be detached, it stays
/// held and pinned.
pub(super) fn remove_link(links: &mut Held, name: &str) -> Result<(), AttachError> {
    let path = links.path(name);
    if let Some((link, _)) = links.get(name)? {
        detach(link, &path)?;
    }
    links.remove(name)?;
    Ok(())
}

/// Whether an earlier run, or another agent, has filters on devices. They carry no sign of whose they are.
pub fn has_filters() -> Result<bool, AttachError> {
    Ok(!clsact::attached()?.is_empty())
}

/// Removes the filters that an earlier run left on devices; returns how many.
pub fn detach_filters() -> Result<usize, AttachError> {
    let mut removed = 0;
    for (ifindex, side) in clsact::attached()? {
        removed += clsact::detach(ifindex, side)?;
    }
    Ok(removed)
}

/// Detaches a pinned link, whoever else holds it open, and removes its pin; false where there was none. While a program is
/// still attached its pin stays, because the program is found by it.
pub fn detach_pinned(path: &Path) -> Result<bool, AttachError> {
    match object::open(path) {
        Ok(link) => detach(link, path)?,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => {
            return Err(AttachError::Link {
                action: "open",
                path: path.to_path_buf(),
                source,
            });
        }
    }
    Ok(unpin(path)?)
}

fn detach(link: impl AsFd, path: &Path) -> Result<(), AttachError> {
    match link::detach(link) {
        Err(source) if !ends_with_its_pin(&source) => Err(AttachError::Link {
            action: "detach",
            path: path.to_path_buf(),
            source,
        }),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "nothing is attached by this pin alone");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Whether a link that cannot be detached attaches nothing once its pin is gone: its device or cgroup is gone (`ENOLINK`), the
/// pin is of a map or a program (`EINVAL`), or the link is of a kind that ends with the last reference to it (`EOPNOTSUPP`).
fn ends_with_its_pin(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOLINK | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests;
