//! Properties of devices on which programs depend, and the programs of each device.

use std::collections::BTreeSet;

use proxy_common::abi::device::{Device, DeviceClass, LinkType};

use crate::dataplane::{
    load::PacketProgram,
    sys::link::{AttachType, Order},
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
    pub(in crate::dataplane) const fn attach_type(self) -> AttachType {
        match self {
            Self::Ingress => AttachType::TcxIngress,
            Self::Egress => AttachType::TcxEgress,
        }
    }

    pub(super) const fn order(self) -> Order {
        match self {
            Self::Ingress => Order::First,
            Self::Egress => Order::Last,
        }
    }
}

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TcMode {
    /// Links in the tcx chain (Linux 6.6).
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// The properties of a device on which its programs depend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of the device.
    pub name: String,
    /// The devices that its packets pass first; only for an uplink.
    pub below: Below,
    /// Its class and form.
    pub device: Device,
}

impl Port {
    /// Whether it leads to a pod of this node.
    pub const fn faces_a_pod(&self) -> bool {
        self.device.class == DeviceClass::Pod as u8
    }
}

/// The devices below an uplink, including the uplink itself, as far as they matter to XDP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// veth (or netkit) devices, by ifindex.
    pub veths: BTreeSet<u32>,
    /// Whether there is a device below in another network namespace, which can't be examined.
    pub unknown: bool,
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
