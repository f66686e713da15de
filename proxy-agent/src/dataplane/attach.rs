//! Attaching: socket hooks on the cgroup, packet programs on devices, each by a pinned link.
//!
//! A restart finds the links by their pins and replaces their programs in place, so that nothing passes untranslated
//! meanwhile. Programs of others stay where they are. In a device's chain ours is first at ingress and last at egress:
//! there the packets are those that the client sends and gets, and whatever a CNI attached between us and the node
//! sees one tuple, client ↔ pod, in both directions.

mod clsact;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use proxy_common::abi::device::{Device, DeviceClass, LinkType};

use self::clsact::ClsactError;
use super::{
    load::{LoadError, PacketProgram, ProgramName, Programs, SOCKET_HOOKS, SocketHook},
    pin::{PinError, PinFolder, unpin},
    sys::{
        link::{self, AttachType, Order},
        object::{self, LinkInfo},
    },
};

/// Which side of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Packets that come in.
    Ingress,
    /// Packets that go out.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Egress, Self::Ingress];

    /// Its name.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// As bpf(2) wants it.
    pub(super) const fn attach_type(self) -> AttachType {
        match self {
            Self::Ingress => AttachType::TcxIngress,
            Self::Egress => AttachType::TcxEgress,
        }
    }

    const fn order(self) -> Order {
        match self {
            Self::Ingress => Order::First,
            Self::Egress => Order::Last,
        }
    }
}

/// How programs go on devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcMode {
    /// Links in the tcx chain (Linux 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// Why a program could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A socket hook.
    #[error("could not attach {hook} to the cgroup")]
    Cgroup {
        /// Hook.
        hook: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A device.
    #[error("could not {action} {program} at the {side} of device {device}")]
    Device {
        /// What was tried.
        action: &'static str,
        /// Program.
        program: &'static str,
        /// Ingress or egress.
        side: &'static str,
        /// Name, or ifindex.
        device: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A link could not be pinned or examined.
    #[error("could not {action} the link {}", .path.display())]
    Link {
        /// What was tried.
        action: &'static str,
        /// Pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The filters of a device without tcx.
    #[error(transparent)]
    Clsact(#[from] ClsactError),
    /// The bpffs folder.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What the programs of a device depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the device.
    pub name: String,
    /// `IFLA_INFO_KIND`; empty for hardware.
    pub kind: String,
    /// Its class and form.
    pub device: Device,
}

impl Port {
    /// Whether it leads to a pod of this node.
    pub const fn faces_a_pod(&self) -> bool {
        self.device.class == DeviceClass::Pod as u8
    }
}

/// The program that a device gets on a side; none for a bridge, whose ports have them.
pub const fn program_for(device: &Device, side: Direction) -> Option<PacketProgram> {
    const POD: u8 = DeviceClass::Pod as u8;
    const UPLINK: u8 = DeviceClass::Uplink as u8;
    const OVERLAY: u8 = DeviceClass::Overlay as u8;
    let raw = device.link == LinkType::RawIp as u8;
    Some(match (device.class, side, raw) {
        (POD, Direction::Ingress, false) => PacketProgram::PodIngress,
        (UPLINK | OVERLAY, Direction::Ingress, false) => PacketProgram::UplinkIngress,
        (UPLINK | OVERLAY, Direction::Ingress, true) => PacketProgram::UplinkIngressL3,
        (POD | UPLINK | OVERLAY, Direction::Egress, false) => PacketProgram::Egress,
        (UPLINK | OVERLAY, Direction::Egress, true) => PacketProgram::EgressL3,
        _ => return None,
    })
}

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

/// What is attached, and how to attach more.
#[derive(Debug)]
pub struct Attachments {
    pins: PinFolder,
    programs: Programs,
    mode: TcMode,
    /// Programs on devices, as attached by this process.
    devices: BTreeMap<(u32, Direction), PacketProgram>,
    /// Filters of an earlier run may be anywhere.
    fresh: bool,
}

impl Attachments {
    /// Attaches `programs`, nothing yet.
    pub const fn new(pins: PinFolder, programs: Programs, mode: TcMode) -> Self {
        Self {
            pins,
            programs,
            mode,
            devices: BTreeMap::new(),
            fresh: true,
        }
    }

    /// The loaded programs.
    pub const fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The same, to load more.
    pub const fn programs_mut(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Puts all socket hooks on a cgroup, in place of those of an earlier run.
    pub fn attach_sockets(&self, cgroup: &File) -> Result<(), AttachError> {
        for hook in SOCKET_HOOKS {
            self.attach_socket(cgroup, hook)?;
        }
        Ok(())
    }

    fn attach_socket(&self, cgroup: &File, hook: SocketHook) -> Result<(), AttachError> {
        let failed = |source| AttachError::Cgroup {
            hook: hook.name,
            source,
        };
        let program = self.programs.fd(ProgramName::Socket(hook))?;
        let name = format!("cgroup-{}", hook.name);
        // A cgroup's id is its inode number (kernfs).
        let id = cgroup.metadata().map_err(failed)?.ino();
        if let Some((link, info)) = self.open_link(&name)? {
            if info.detail == id {
                return link::update(&link, program).map_err(failed);
            }
            self.remove_link(&name)?;
        }
        let link = link::attach_cgroup(program, cgroup, hook.attach_type).map_err(failed)?;
        self.pin_link(&link, &name)
    }

    /// Makes the programs on devices what `wanted` (by ifindex) says. One device's failure does not keep the
    /// others from theirs; all failures are returned.
    pub fn reconcile(&mut self, wanted: &BTreeMap<u32, Port>) -> Vec<AttachError> {
        let mut errors = Vec::new();
        for (&ifindex, port) in wanted {
            // Egress first: a packet that is translated on its way in must find its way back.
            for side in Direction::ALL {
                let Some(program) = program_for(&port.device, side) else {
                    continue;
                };
                if self.devices.get(&(ifindex, side)) == Some(&program) {
                    continue;
                }
                match self.attach_device(ifindex, &port.name, side, program) {
                    Ok(()) => drop(self.devices.insert((ifindex, side), program)),
                    Err(error) => errors.push(error),
                }
            }
        }
        let unwanted = self.unwanted(wanted).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        for (mode, ifindex, side) in unwanted {
            match self.detach_device(mode, ifindex, side) {
                Ok(()) if mode == self.mode => drop(self.devices.remove(&(ifindex, side))),
                Ok(()) => {}
                Err(error) => errors.push(error),
            }
        }
        self.fresh &= !errors.is_empty();
        errors
    }

    /// What is attached, by this run or by an earlier one, and is wanted no more; or is attached the other way, and by now
    /// ours too. (A packet that meets both meanwhile is translated by the first and is nothing to the second.)
    fn unwanted(
        &self,
        wanted: &BTreeMap<u32, Port>,
    ) -> Result<Vec<(TcMode, u32, Direction)>, AttachError> {
        let own = self.devices.keys().copied();
        let mut attached: BTreeSet<_> = own.map(|(i, side)| (self.mode, i, side)).collect();
        let names = self.pins.link_names()?;
        let links = names.iter().filter_map(|name| parse_device_link(name));
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

    fn attach_device(
        &self,
        ifindex: u32,
        device: &str,
        side: Direction,
        program: PacketProgram,
    ) -> Result<(), AttachError> {
        let fd = self.programs.fd(ProgramName::Packet(program))?;
        if self.mode == TcMode::Clsact {
            return Ok(clsact::attach(ifindex, side, program, fd)?);
        }
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
        if let Some((link, info)) = self.open_link(&name)? {
            // The number may be another device's by now, here or in the namespace that the device went to.
            let chain = link::tcx_chain(ifindex, side.attach_type()).map_err(failed("query"))?;
            if info.ifindex() == ifindex && chain.iter().any(|entry| entry.link == info.id) {
                return link::update(&link, fd).map_err(failed("replace"));
            }
            self.remove_link(&name)?;
        }
        let link = link::attach_tcx(fd, ifindex, side.attach_type(), side.order())
            .map_err(failed("attach"))?;
        self.pin_link(&link, &name)
    }

    fn detach_device(
        &self,
        mode: TcMode,
        ifindex: u32,
        side: Direction,
    ) -> Result<(), AttachError> {
        match mode {
            TcMode::Tcx => self.remove_link(&device_link(ifindex, side)),
            TcMode::Clsact => Ok(clsact::detach(ifindex, side).map(drop)?),
        }
    }

    fn open_link(&self, name: &str) -> Result<Option<(OwnedFd, LinkInfo)>, AttachError> {
        let path = self.pins.link(name);
        let failed = |action| {
            let path = path.clone();
            move |source| AttachError::Link {
                action,
                path,
                source,
            }
        };
        match object::open(&path) {
            Ok(link) => {
                let info = object::info(&link).map_err(failed("examine"))?;
                Ok(Some((link, info)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open")(error)),
        }
    }

    fn pin_link(&self, link: impl AsFd, name: &str) -> Result<(), AttachError> {
        let path = self.pins.link(name);
        object::pin(link, &path).map_err(|source| AttachError::Link {
            action: "pin",
            path,
            source,
        })
    }

    /// Detaches a link and removes its pin.
    fn remove_link(&self, name: &str) -> Result<(), AttachError> {
        detach_pinned(&self.pins.link(name)).map(drop)
    }
}

/// Removes the filters that an earlier run left on devices; returns how many.
pub fn detach_filters() -> Result<usize, AttachError> {
    let mut removed = 0;
    for (ifindex, side) in clsact::attached()? {
        removed += clsact::detach(ifindex, side)?;
    }
    Ok(removed)
}

/// Detaches a pinned link, whoever else holds it open, and removes its pin; false where there was none. While a program is still
/// attached, its pin stays: it is what the program is found by.
pub fn detach_pinned(path: &Path) -> Result<bool, AttachError> {
    let failed = |action| {
        move |source| AttachError::Link {
            action,
            path: path.to_path_buf(),
            source,
        }
    };
    let link = match object::open(path) {
        Ok(link) => link,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(failed("open")(source)),
    };
    match link::detach(&link) {
        Err(error) if !ends_with_its_pin(&error) => return Err(failed("detach")(error)),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "nothing is attached by this pin alone");
        }
        Ok(()) => {}
    }
    Ok(unpin(path)?)
}

/// Whether a link that could not be detached attaches nothing once its pin is gone: its device or cgroup is gone (`ENOLINK`), the
/// pin is of a map or a program (`EINVAL`), or the link is of a kind that ends with the last reference to it (`EOPNOTSUPP`).
fn ends_with_its_pin(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOLINK | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

#[cfg(test)]
mod tests;
