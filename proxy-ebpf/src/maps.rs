//! All maps of the BPF object. A test compares their names and shapes with `proxy_common::abi::MAPS`.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray},
};
use proxy_common::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        capacity,
        device::Device,
        flow::{FlowKey, FlowValue},
        fragment::{FragmentKey, FragmentValue},
        frontend::{FrontendKey, FrontendValue},
        load::Load,
        meta::{BackendMeta, Name, TargetMeta},
        settings::Settings,
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Backend, Slot, Target},
    },
    addr::Addr,
    datapath::Work,
};

/// Whether socket address programs may call `bpf_set_retval` (Linux 5.18). The agent probes this and sets it
/// before loading.
#[unsafe(no_mangle)]
pub static HAVE_SET_RETVAL: Global<u32> = Global::new(0);

#[map]
pub static FRONTENDS: HashMap<FrontendKey, FrontendValue> =
    HashMap::pinned(capacity::FRONTENDS, BPF_F_NO_PREALLOC);
#[map]
pub static TARGETS: Array<Target> = Array::pinned(capacity::TARGETS, BPF_F_MMAPABLE);
#[map]
pub static SLOTS: Array<Slot> = Array::pinned(capacity::SLOTS, BPF_F_MMAPABLE);
#[map]
pub static BACKENDS: Array<Backend> = Array::pinned(capacity::BACKENDS, BPF_F_MMAPABLE);
/// The key is `set` and `addr` of a `RangeKey`, as words.
#[map]
pub static SOURCE_RANGES: LpmTrie<[u32; 5], u32> = LpmTrie::pinned(capacity::SOURCE_RANGES, 0);
#[map]
pub static NODE_ADDRS: HashMap<Addr, u32> =
    HashMap::pinned(capacity::NODE_ADDRS, BPF_F_NO_PREALLOC);
#[map]
pub static DEVICES: HashMap<u32, Device> = HashMap::pinned(capacity::DEVICES, BPF_F_NO_PREALLOC);
#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(capacity::SETTINGS, 0);
#[map]
pub static FLOWS: HashMap<FlowKey, FlowValue> = HashMap::pinned(capacity::FLOWS, BPF_F_NO_PREALLOC);
#[map]
pub static NEW_FLOWS: LruHashMap<FlowKey, FlowValue> = LruHashMap::pinned(capacity::NEW_FLOWS, 0);
#[map]
pub static SNAT_CLAIMS: HashMap<FlowKey, FlowValue> =
    HashMap::pinned(capacity::SNAT_CLAIMS, BPF_F_NO_PREALLOC);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> =
    LruHashMap::pinned(capacity::FRAGMENTS, 0);
#[map]
pub static SOCKET_BACKENDS: LruHashMap<SocketKey, SocketBackend> =
    LruHashMap::pinned(capacity::SOCKET_BACKENDS, 0);
#[map]
pub static SOCKET_FRONTENDS: LruHashMap<SocketKey, SocketFrontend> =
    LruHashMap::pinned(capacity::SOCKET_FRONTENDS, 0);
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityValue> =
    LruHashMap::pinned(capacity::AFFINITY, 0);
#[map]
pub static TURNS: Array<u64> = Array::pinned(capacity::TURNS, 0);
#[map]
pub static LOADS: Array<Load> = Array::pinned(capacity::LOADS, BPF_F_MMAPABLE);
#[map]
pub static SOCKET_LOADS: HashMap<u64, Slot> =
    HashMap::pinned(capacity::SOCKET_LOADS, BPF_F_NO_PREALLOC);
#[map]
pub static FLOW_LOADS: HashMap<FlowKey, Slot> =
    HashMap::pinned(capacity::FLOW_LOADS, BPF_F_NO_PREALLOC);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::pinned(capacity::COUNTERS, 0);
#[map]
pub static META_TARGETS: HashMap<u32, TargetMeta> =
    HashMap::pinned(capacity::META_TARGETS, BPF_F_NO_PREALLOC);
#[map]
pub static META_BACKENDS: HashMap<u32, BackendMeta> =
    HashMap::pinned(capacity::META_BACKENDS, BPF_F_NO_PREALLOC);
#[map]
pub static META_NAMES: HashMap<u32, Name> =
    HashMap::pinned(capacity::META_NAMES, BPF_F_NO_PREALLOC);

/// State for one packet, per CPU: packet programs do not interrupt each other on a CPU (ADR 12).
#[map]
pub static WORK: PerCpuArray<Work> = PerCpuArray::with_max_entries(1, 0);

/// Parameters of `bpf_fib_lookup`, per CPU for the same reason.
#[map]
pub static FIB: PerCpuArray<bpf_fib_lookup> = PerCpuArray::with_max_entries(1, 0);
