//! The contract between the BPF programs and user space: names, key and value types, and sizes of all maps.
//!
//! Every type is `repr(C)` without padding (the `IntoBytes` derive rejects padding), and its size is asserted.
//! Ports are in network byte order, in keys and in values; all other integers are in host byte order.

use core::marker::PhantomData;

pub mod affinity;
pub mod counter;
pub mod device;
pub mod flow;
pub mod fragment;
pub mod frontend;
pub mod load;
pub mod meta;
pub mod settings;
pub mod socket;
pub mod target;

/// Version of everything in this module. The maps of each version are pinned in a directory of their own
/// (`<bpffs>/v<ABI_VERSION>`), so an agent never reads maps of another version.
pub const ABI_VERSION: u32 = 4;

/// Kind of a map, as far as both sides must agree on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_HASH`, not preallocated.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_ARRAY` with `BPF_F_MMAPABLE`: user space maps it into memory and writes it directly.
    MappedArray,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_LPM_TRIE`, which the kernel never preallocates.
    LpmTrie,
}

/// Shape of one map. A test compares it with the map definition in the BPF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name in the object, and file name under the bpffs directory.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Size of a key in bytes.
    pub key: usize,
    /// Size of a value in bytes.
    pub value: usize,
    /// Capacity in entries.
    pub entries: u32,
}

/// Kinds of maps as types. How a map is read and written depends on its kind, so code asks for the kinds that it can serve.
pub mod kind {
    use super::MapKind;

    /// A [`MapKind`] as a type.
    pub trait Kind {
        /// The same as a value.
        const KIND: MapKind;
    }

    /// Kinds whose elements have one value each. (An element of a per-CPU map has one for each CPU.)
    pub trait OneValue: Kind {}

    macro_rules! kinds {
        ($($name:ident),*) => {$(
            #[doc = concat!("[`MapKind::", stringify!($name), "`].")]
            #[derive(Clone, Copy, Debug)]
            pub struct $name;

            impl Kind for $name {
                const KIND: MapKind = MapKind::$name;
            }
        )*};
    }

    kinds! { Hash, LruHash, MappedArray, Array, PerCpuArray, LpmTrie }

    impl OneValue for Hash {}
    impl OneValue for LruHash {}
    impl OneValue for MappedArray {}
    impl OneValue for Array {}
    impl OneValue for LpmTrie {}
}

/// A [`MapSpec`] whose kind `S`, key `K` and value `V` are types: a map is opened by one of these, and so never as anything
/// else than it is.
#[derive(Debug)]
pub struct TypedSpec<S, K, V> {
    /// The same without types.
    pub spec: MapSpec,
    types: PhantomData<(S, K, V)>,
}

impl<S, K, V> Clone for TypedSpec<S, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S, K, V> Copy for TypedSpec<S, K, V> {}

impl<S: kind::Kind, K, V> TypedSpec<S, K, V> {
    /// A map of that name and capacity.
    pub const fn new(name: &'static str, entries: u32) -> Self {
        Self {
            spec: MapSpec {
                name,
                kind: S::KIND,
                key: size_of::<K>(),
                value: size_of::<V>(),
                entries,
            },
            types: PhantomData,
        }
    }
}

/// The maps of the object, with their types.
#[derive(Debug)]
pub enum Pinned {}

macro_rules! maps {
    ($($(#[$doc:meta])* $name:ident: $kind:ident<$key:ty, $value:ty>[$entries:expr];)*) => {
        /// Capacities in entries, by map.
        pub mod capacity {
            $($(#[$doc])* pub const $name: u32 = $entries;)*
        }
        impl Pinned {
            $($(#[$doc])* pub const $name: TypedSpec<kind::$kind, $key, $value> =
                TypedSpec::new(stringify!($name), capacity::$name);)*
        }
        /// All maps of the object.
        pub const MAPS: &[MapSpec] = &[$(Pinned::$name.spec),*];
    };
}

maps! {
    /// (address, port, protocol, scope) → target. Written by the agent.
    FRONTENDS: Hash<frontend::FrontendKey, frontend::FrontendValue>[262_144];
    /// Target id → range of slots and load-balancing algorithm. Written by the agent.
    TARGETS: MappedArray<u32, target::Target>[262_144];
    /// Flat array of backend ids. Each target owns a contiguous range. Written by the agent.
    SLOTS: MappedArray<u32, target::Slot>[4_194_304];
    /// Backend id → address, port and state. Written by the agent.
    BACKENDS: MappedArray<u32, target::Backend>[524_288];
    /// (set of ranges, prefix) → 1: `loadBalancerSourceRanges`. Written by the agent.
    SOURCE_RANGES: LpmTrie<target::RangeKey, u32>[65_536];
    /// This node's addresses → flags. Written by the agent.
    NODE_ADDRS: Hash<crate::addr::Addr, u32>[8_192];
    /// ifindex → device. Written by the agent.
    DEVICES: Hash<u32, device::Device>[8_192];
    /// Settings for all programs, in one element. Written by the agent.
    SETTINGS: Array<u32, settings::Settings>[1];
    /// Both halves of confirmed flows. Written by the packet programs; the agent removes expired flows.
    FLOWS: Hash<flow::FlowKey, flow::FlowValue>[1_048_576];
    /// Both halves of flows that have seen no reply yet. Written by the packet programs.
    NEW_FLOWS: LruHash<flow::FlowKey, flow::FlowValue>[131_072];
    /// Reverse halves of flows with a translated source. Each claims its (address, port) exclusively. Written
    /// by the packet programs; the agent removes expired flows.
    SNAT_CLAIMS: Hash<flow::FlowKey, flow::FlowValue>[1_048_576];
    /// (addresses, identification) → ports of a fragmented packet. Written by the packet programs.
    FRAGMENTS: LruHash<fragment::FragmentKey, fragment::FragmentValue>[8_192];
    /// (socket cookie, frontend) → backend of an unconnected UDP socket. Written by the socket hooks.
    SOCKET_BACKENDS: LruHash<socket::SocketKey, socket::SocketBackend>[131_072];
    /// (socket cookie, backend) → frontend, for recvmsg and getpeername. Written by the socket hooks.
    SOCKET_FRONTENDS: LruHash<socket::SocketKey, socket::SocketFrontend>[262_144];
    /// (client, Service port) → backend, for `sessionAffinity`. Written by the packet programs and the socket
    /// hooks.
    AFFINITY: LruHash<affinity::AffinityKey, affinity::AffinityValue>[131_072];
    /// Target id → number of selections so far, for round robin. Written by the packet programs and the socket
    /// hooks.
    TURNS: Array<u32, u64>[262_144];
    /// Backend id → number of connections from this node, for least connections. Written by the packet programs
    /// and the socket hooks; corrected by the agent.
    LOADS: MappedArray<u32, load::Load>[524_288];
    /// Socket cookie → backend for which the socket is counted in `LOADS`. Written by the socket hooks.
    SOCKET_LOADS: Hash<u64, target::Slot>[262_144];
    /// Forward half of a confirmed flow → backend for which the flow is counted in `LOADS`. Written by the
    /// packet programs; the agent removes expired flows.
    FLOW_LOADS: Hash<flow::FlowKey, target::Slot>[524_288];
    /// Drop reasons and other events, indexed by `Counter`, with room for counters of later versions. Written
    /// by all programs.
    COUNTERS: PerCpuArray<u32, u64>[64];
    /// Target id → Service port. Never read by the datapath.
    META_TARGETS: Hash<u32, meta::TargetMeta>[262_144];
    /// Backend id → node, zone, weight. Never read by the datapath.
    META_BACKENDS: Hash<u32, meta::BackendMeta>[524_288];
    /// Name id → name of a node or zone; id 0 is the name of this node. Never read by the datapath.
    META_NAMES: Hash<u32, meta::Name>[65_536];
}

const _: () = assert!(counter::Counter::COUNT <= capacity::COUNTERS);

/// Protocol numbers (IANA).
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// `ICMPv6`.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;

    /// Whether flows of this protocol are connections: packets open and close them, and they keep their backend
    /// (semantics L3). True for TCP and SCTP, false for UDP.
    #[inline(always)]
    pub const fn has_connections(protocol: u8) -> bool {
        protocol != UDP
    }
}
