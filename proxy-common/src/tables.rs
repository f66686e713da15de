//! What the datapath asks of the world: maps, time, chance, routes. The kernel and the host each have one
//! implementation, and the host's is deterministic.

use core::ops::Deref;

use crate::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        counter::Counter,
        device::Device,
        flow::{FlowKey, FlowValue},
        fragment::{FragmentKey, FragmentValue},
        frontend::{FrontendKey, FrontendValue, Scope},
        settings::Settings,
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Backend, RangeKey, Slot, Target},
    },
    addr::Addr,
    balance::{Draw, Found},
    datapath::{
        Ingress, Work,
        begin::{begin, begin_early, create},
        choose::{choose, reconsider},
        claim::claim_tuple,
        icmp,
    },
    load::count_flow,
    packet::Packet,
    slow_start,
};

/// What every hook needs: finding a frontend and a backend for it.
pub trait Tables {
    /// Jiffies, low 32 bits.
    fn now(&mut self) -> u32;
    /// Nanoseconds of `CLOCK_MONOTONIC`, which never come round again. Costs as much as a lookup: for ages alone.
    fn monotonic(&mut self) -> u64;
    /// The agent's settings; all zero before it has written any.
    fn settings(&mut self) -> Settings;
    /// Looks up `FRONTENDS`.
    fn frontend(&mut self, key: &FrontendKey) -> Option<FrontendValue>;
    /// Looks up `TARGETS`.
    fn target(&mut self, id: u32) -> Option<Target>;
    /// Looks up `SLOTS`.
    fn slot(&mut self, index: u32) -> Option<Slot>;
    /// Looks up `BACKENDS`.
    fn backend(&mut self, id: u32) -> Option<Backend>;
    /// Looks up `SOURCE_RANGES`: whether an address is in a range of a set.
    fn in_ranges(&mut self, key: &RangeKey) -> bool;
    /// Looks up `NODE_ADDRS`: flags of an address of this node.
    fn node_addr(&mut self, addr: &Addr) -> Option<u32>;
    /// Looks up `AFFINITY`.
    fn affinity(&mut self, key: &AffinityKey) -> Option<AffinityValue>;
    /// Writes `AFFINITY`.
    fn put_affinity(&mut self, key: &AffinityKey, value: &AffinityValue);
    /// Adds one to an element of `TURNS`, and gives what it was.
    fn turn(&mut self, target: u32) -> u32;
    /// Looks up `LOADS`: connections of a backend's generation.
    fn load(&mut self, slot: Slot) -> u32;
    /// Adds one to an element of `LOADS`.
    fn add_load(&mut self, slot: Slot);
    /// Takes one off an element of `LOADS`, if it counts for that generation.
    fn take_load(&mut self, slot: Slot);
    /// Adds one to a counter.
    fn count(&mut self, counter: Counter);
}

/// One of the three flow tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowTable {
    /// `FLOWS`.
    Confirmed,
    /// `NEW_FLOWS`.
    New,
    /// `SNAT_CLAIMS`.
    Claims,
}

/// The part of a flow's half that says how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// Jiffies of about the last packet.
    pub last_seen: u32,
    /// `abi::flow::Half` as a number.
    pub half: u8,
    /// `abi::flow::flow_flags`.
    pub flags: u8,
    /// `abi::flow::seen`.
    pub seen: u8,
}

/// An element of a flow table. Others may write it at the same time.
pub trait FlowRef: Copy {
    /// Copies the element, if it still is that of `key`.
    fn load(&self, key: &FlowKey, into: &mut FlowValue) -> bool;
    /// How the element stands, if it still is that of `key`.
    fn state(&self, key: &FlowKey) -> Option<FlowState>;
    /// Notes a packet: the time, and TCP flags (`abi::flow::seen`) not seen before.
    fn touch(&self, now: u32, seen: u8);
    /// Sets flags (`abi::flow::flow_flags`).
    fn set_flags(&self, flags: u8);
}

/// What came of an insertion that must not replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Inserted.
    Done,
    /// The key is there already.
    Exists,
    /// The table is full.
    Full,
}

/// A question to the routing table, as for a packet that is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery<'a> {
    /// Source address.
    pub src: &'a Addr,
    /// Destination address.
    pub dst: &'a Addr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Device that the packet came in by.
    pub ifindex: u32,
}

/// What the routing table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Out of a device, to a neighbour whose MAC is known.
    Neighbour {
        /// Device.
        ifindex: u32,
        /// The neighbour's MAC.
        mac: [u8; 6],
    },
    /// Out of a device, to a neighbour that is not resolved (or the device needs none).
    Device {
        /// Device.
        ifindex: u32,
    },
    /// Nowhere.
    None,
}

/// What the packet hooks need beside.
pub trait PacketTables: Tables {
    /// A flow table's element.
    type Flow: FlowRef;
    /// Looks up `DEVICES`. Lent: compilers copy one that is not there, too, which the kernel's verifier refuses.
    fn device(&mut self, ifindex: u32) -> Option<impl Deref<Target = Device>>;
    /// Looks up a flow table.
    fn flow(&mut self, table: FlowTable, key: &FlowKey) -> Option<Self::Flow>;
    /// Inserts into a flow table what is not there.
    fn insert_flow(&mut self, table: FlowTable, key: &FlowKey, value: &FlowValue) -> Insert;
    /// Removes from a flow table; says whether it was there (only one of several removers hears yes).
    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey) -> bool;
    /// Looks up `FRAGMENTS`.
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Writes `FRAGMENTS`.
    fn put_fragment(&mut self, key: &FragmentKey, value: &FragmentValue);
    /// Inserts into `FLOW_LOADS` what is not there; says whether it was inserted.
    fn put_flow_load(&mut self, key: &FlowKey, slot: Slot) -> bool;
    /// Removes from `FLOW_LOADS`; says whether it was there (only one of several removers hears yes).
    fn remove_flow_load(&mut self, key: &FlowKey) -> bool;
    /// Asks the routing table.
    fn route(&mut self, query: RouteQuery<'_>) -> Route;
    /// Whether a local socket of TCP or UDP would take the packet.
    fn listens(&mut self, tuple: &FlowKey) -> bool;
    /// [`begin`]; the kernel's implementation makes it a function that is verified by itself, with a stack frame of
    /// its own.
    fn begin(&mut self, work: &mut Work, ifindex: u32, scope: Scope) -> u32
    where
        Self: Sized,
    {
        begin(self, work, ifindex, scope)
    }
    /// [`begin_early`], likewise.
    fn begin_early(&mut self, work: &mut Work, ifindex: u32) -> u32
    where
        Self: Sized,
    {
        begin_early(self, work, ifindex)
    }
    /// [`create`], likewise.
    fn create(&mut self, work: &mut Work) -> u32
    where
        Self: Sized,
    {
        create(self, work)
    }
    /// [`choose`], likewise.
    fn choose(&mut self, work: &mut Work, tried: u32) -> u32
    where
        Self: Sized,
    {
        choose(self, work, tried)
    }
    /// [`reconsider`], likewise.
    fn reconsider(&mut self, work: &mut Work, tried: u32) -> u32
    where
        Self: Sized,
    {
        reconsider(self, work, tried)
    }
    /// [`count_flow`], likewise.
    fn count_flow(&mut self, work: &mut Work, what: u32) -> u32
    where
        Self: Sized,
    {
        count_flow(self, work, what)
    }
    /// [`claim_tuple`], likewise.
    fn claim_tuple(&mut self, work: &mut Work) -> u32
    where
        Self: Sized,
    {
        claim_tuple(self, work)
    }
    /// [`icmp::incoming`], likewise.
    fn icmp_in<P: Packet>(
        &mut self,
        packet: &mut P,
        work: &mut Work,
        at: Ingress,
        scope: Scope,
    ) -> u32
    where
        Self: Sized,
    {
        icmp::incoming(packet, self, work, at, scope)
    }
    /// [`icmp::outgoing`], likewise.
    fn icmp_out<P: Packet>(&mut self, packet: &mut P, work: &mut Work) -> u32
    where
        Self: Sized,
    {
        icmp::outgoing(packet, self, work)
    }
}

/// What the socket hooks need beside.
pub trait SocketTables: Tables {
    /// A random number.
    fn random(&mut self) -> u32;
    /// Looks up `SOCKET_BACKENDS`.
    fn socket_backend(&mut self, key: &SocketKey) -> Option<SocketBackend>;
    /// Writes `SOCKET_BACKENDS`.
    fn put_socket_backend(&mut self, key: &SocketKey, value: &SocketBackend);
    /// Looks up `SOCKET_FRONTENDS`.
    fn socket_frontend(&mut self, key: &SocketKey) -> Option<SocketFrontend>;
    /// Writes `SOCKET_FRONTENDS`.
    fn put_socket_frontend(&mut self, key: &SocketKey, value: &SocketFrontend);
    /// Removes from `SOCKET_FRONTENDS`.
    fn remove_socket_frontend(&mut self, key: &SocketKey);
    /// Looks up `SOCKET_LOADS`.
    fn socket_load(&mut self, cookie: u64) -> Option<Slot>;
    /// Inserts into `SOCKET_LOADS` what is not there; says whether it was inserted.
    fn put_socket_load(&mut self, cookie: u64, slot: Slot) -> bool;
    /// Removes from `SOCKET_LOADS`; says whether it was there.
    fn remove_socket_load(&mut self, cookie: u64) -> bool;
    /// [`slow_start::reconsider`], for a draw of two equal numbers; the kernel's implementation makes it a function that is
    /// verified by itself.
    fn reconsider(&mut self, found: &Found, draw: Draw, chosen: Slot) -> Slot
    where
        Self: Sized,
    {
        slow_start::reconsider(self, found, draw, chosen)
    }
}
