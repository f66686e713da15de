//! The datapath's interface to its environment: maps, time, random numbers, routes. The kernel and the host
//! have one implementation each. The host's is deterministic.

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

/// Access that every hook needs, to find a frontend and choose a backend.
pub trait Tables {
    /// Jiffies, low 32 bits.
    fn now(&mut self) -> u32;
    /// Nanoseconds of `CLOCK_MONOTONIC`, which never wrap. Costs as much as a map lookup; used only for a
    /// backend's age.
    fn monotonic(&mut self) -> u64;
    /// The agent's settings. All zero before the agent has written them.
    fn settings(&mut self) -> Settings;
    /// Looks up `FRONTENDS`.
    fn frontend(&mut self, key: &FrontendKey) -> Option<FrontendValue>;
    /// Looks up `TARGETS`.
    fn target(&mut self, id: u32) -> Option<Target>;
    /// Looks up `SLOTS`.
    fn slot(&mut self, index: u32) -> Option<Slot>;
    /// Looks up `BACKENDS`.
    fn backend(&mut self, id: u32) -> Option<Backend>;
    /// Looks up `SOURCE_RANGES`: whether a range of the set contains the address.
    fn in_ranges(&mut self, key: &RangeKey) -> bool;
    /// Looks up `NODE_ADDRS`: flags of an address of this node.
    fn node_addr(&mut self, addr: &Addr) -> Option<u32>;
    /// Looks up `AFFINITY`.
    fn affinity(&mut self, key: &AffinityKey) -> Option<AffinityValue>;
    /// Writes `AFFINITY`.
    fn put_affinity(&mut self, key: &AffinityKey, value: &AffinityValue);
    /// Increments an element of `TURNS` and returns its previous value, low 32 bits.
    fn turn(&mut self, target: u32) -> u32;
    /// Looks up `LOADS`: number of connections to this generation of the backend.
    fn load(&mut self, slot: Slot) -> u32;
    /// Increments an element of `LOADS`. Restarts it at 1 if it counts for another generation.
    fn add_load(&mut self, slot: Slot);
    /// Decrements an element of `LOADS`, if it counts for this generation and is not zero.
    fn take_load(&mut self, slot: Slot);
    /// Increments a counter.
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

/// The fields of a flow's half that change during its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// Approximate time of the last packet, in jiffies (low 32 bits).
    pub last_seen: u32,
    /// `abi::flow::Half` as a number.
    pub half: u8,
    /// `abi::flow::flow_flags`.
    pub flags: u8,
    /// `abi::flow::seen`.
    pub seen: u8,
}

/// Reference to an element of a flow table. Other CPUs may write the element concurrently.
pub trait FlowRef: Copy {
    /// Copies the element to `into`. Returns false if the element no longer belongs to `key`.
    fn load(&self, key: &FlowKey, into: &mut FlowValue) -> bool;
    /// The element's state, or `None` if the element no longer belongs to `key`.
    fn state(&self, key: &FlowKey) -> Option<FlowState>;
    /// Records a packet: its time, and its TCP flags (`abi::flow::seen`).
    fn touch(&self, now: u32, seen: u8);
    /// Replaces the flags (`abi::flow::flow_flags`).
    fn set_flags(&self, flags: u8);
}

/// Result of an insertion that does not replace (`BPF_NOEXIST`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// Inserted.
    Done,
    /// The key already exists.
    Exists,
    /// The table is full.
    Full,
}

/// A lookup in the routing table, for a packet to be forwarded.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery<'a> {
    /// Source address.
    pub src: &'a Addr,
    /// Destination address.
    pub dst: &'a Addr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Device that the packet came in on.
    pub ifindex: u32,
}

/// Result of a route lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Leaves by a device, to a neighbour with a known MAC address.
    Neighbour {
        /// Device.
        ifindex: u32,
        /// The neighbour's MAC.
        mac: [u8; 6],
    },
    /// Leaves by a device. The neighbour is not resolved, or the device needs none.
    Device {
        /// Device.
        ifindex: u32,
    },
    /// No route.
    None,
}

/// Access that only the packet hooks need.
pub trait PacketTables: Tables {
    /// Reference to an element of a flow table.
    type Flow: FlowRef;
    /// Looks up `DEVICES`. Returns a reference: if it returned `Option<Device>`, LLVM would copy the value of a
    /// `None` too, and the verifier rejects reads of uninitialised stack.
    fn device(&mut self, ifindex: u32) -> Option<impl Deref<Target = Device>>;
    /// Looks up a flow table.
    fn flow(&mut self, table: FlowTable, key: &FlowKey) -> Option<Self::Flow>;
    /// Inserts into a flow table, without replacing.
    fn insert_flow(&mut self, table: FlowTable, key: &FlowKey, value: &FlowValue) -> Insert;
    /// Removes from a flow table. Of several concurrent removers, only one gets true.
    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey) -> bool;
    /// Looks up `FRAGMENTS`.
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentValue>;
    /// Writes `FRAGMENTS`.
    fn put_fragment(&mut self, key: &FragmentKey, value: &FragmentValue);
    /// Inserts into `FLOW_LOADS`, without replacing. Returns whether it was inserted.
    fn put_flow_load(&mut self, key: &FlowKey, slot: Slot) -> bool;
    /// Removes from `FLOW_LOADS`. Of several concurrent removers, only one gets true.
    fn remove_flow_load(&mut self, key: &FlowKey) -> bool;
    /// Looks up the routing table.
    fn route(&mut self, query: RouteQuery<'_>) -> Route;
    /// Whether a local TCP or UDP socket would receive a packet with this tuple.
    fn listens(&mut self, tuple: &FlowKey) -> bool;
    /// [`begin`]. `proxy-ebpf` compiles it as a separately verified BPF function with a stack frame of its own,
    /// like all following functions.
    fn begin(&mut self, work: &mut Work, ifindex: u32, scope: Scope) -> u32
    where
        Self: Sized,
    {
        begin(self, work, ifindex, scope)
    }
    /// [`begin_early`].
    fn begin_early(&mut self, work: &mut Work, ifindex: u32) -> u32
    where
        Self: Sized,
    {
        begin_early(self, work, ifindex)
    }
    /// [`create`].
    fn create(&mut self, work: &mut Work) -> u32
    where
        Self: Sized,
    {
        create(self, work)
    }
    /// [`choose`].
    fn choose(&mut self, work: &mut Work, tried: u32) -> u32
    where
        Self: Sized,
    {
        choose(self, work, tried)
    }
    /// [`reconsider`].
    fn reconsider(&mut self, work: &mut Work, tried: u32) -> u32
    where
        Self: Sized,
    {
        reconsider(self, work, tried)
    }
    /// [`count_flow`].
    fn count_flow(&mut self, work: &mut Work, what: u32) -> u32
    where
        Self: Sized,
    {
        count_flow(self, work, what)
    }
    /// [`claim_tuple`].
    fn claim_tuple(&mut self, work: &mut Work) -> u32
    where
        Self: Sized,
    {
        claim_tuple(self, work)
    }
    /// [`icmp::incoming`].
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
    /// [`icmp::outgoing`].
    fn icmp_out<P: Packet>(&mut self, packet: &mut P, work: &mut Work) -> u32
    where
        Self: Sized,
    {
        icmp::outgoing(packet, self, work)
    }
}

/// Access that only the socket hooks need.
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
    /// Inserts into `SOCKET_LOADS`, without replacing. Returns whether it was inserted.
    fn put_socket_load(&mut self, cookie: u64, slot: Slot) -> bool;
    /// Removes from `SOCKET_LOADS`. Returns whether it existed.
    fn remove_socket_load(&mut self, cookie: u64) -> bool;
    /// [`slow_start::reconsider`], for a draw whose two numbers are equal. `proxy-ebpf` compiles it as a
    /// separately verified BPF function.
    fn reconsider(&mut self, found: &Found, draw: Draw, chosen: Slot) -> Slot
    where
        Self: Sized,
    {
        slow_start::reconsider(self, found, draw, chosen)
    }
}
