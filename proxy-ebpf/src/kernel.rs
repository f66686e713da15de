//! Maps and helpers as the `Tables` of the datapath: all access to shared memory.

use core::{arch::asm, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, bpf_fib_lookup as FibLookup, bpf_sock_tuple, xdp_md,
    },
    helpers::generated::{
        bpf_fib_lookup, bpf_get_prandom_u32, bpf_jiffies64, bpf_sk_lookup_udp, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
    maps::lpm_trie,
};
use proxy_common::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        counter::Counter,
        device::Device,
        flow::{FlowKey, FlowValue},
        frontend::{FrontendKey, FrontendValue, Scope},
        load::Load,
        protocol,
        settings::Settings,
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::{Backend, BackendWord, RangeKey, Slot, Target, TargetWord},
    },
    addr::Addr,
    datapath::{Work, begin::translates},
    tables::{
        FlowRef, FlowState, FlowTable, Insert, PacketTables, Route, RouteQuery, SocketTables,
        Tables,
    },
};

use crate::{log, maps};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const EEXIST: i32 = 17;
/// `size_of::<bpf_fib_lookup>()`, as the helper takes it.
const FIB_LEN: i32 = 64;
const _: () = assert!(size_of::<FibLookup>() == FIB_LEN as usize);

/// The world of a program with the context `C`.
pub struct Kernel<C>(pub *mut C);

impl<C> Tables for Kernel<C> {
    #[inline(always)]
    fn now(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn settings(&mut self) -> Settings {
        maps::SETTINGS.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn frontend(&mut self, key: &FrontendKey) -> Option<FrontendValue> {
        let value = maps::FRONTENDS.get_ptr(key)?;
        // SAFETY: the pointer is to a live element; one aligned word, read once, is never torn.
        Some(FrontendValue(unsafe {
            ptr::read_volatile(value.cast::<u64>())
        }))
    }

    #[inline(always)]
    fn target(&mut self, id: u32) -> Option<Target> {
        let p = maps::TARGETS.get_ptr(id)?;
        // SAFETY: the pointer is to an array element, which lives as long as the map; the word is read once.
        unsafe {
            Some(Target {
                word: TargetWord(ptr::read_volatile(&raw const (*p).word.0)),
                affinity_seconds: ptr::read_volatile(&raw const (*p).affinity_seconds),
                ranges: ptr::read_volatile(&raw const (*p).ranges),
                ..*p
            })
        }
    }

    #[inline(always)]
    fn slot(&mut self, index: u32) -> Option<Slot> {
        let p = maps::SLOTS.get_ptr(index)?;
        // SAFETY: as above; a slot is one aligned word.
        let word = unsafe { ptr::read_volatile(p.cast::<u64>()) };
        Some(Slot {
            backend: word as u32,
            generation: (word >> 32) as u32,
        })
    }

    #[inline(always)]
    fn backend(&mut self, id: u32) -> Option<Backend> {
        let p = maps::BACKENDS.get_ptr(id)?;
        // SAFETY: as above. All but the word is fixed while the generation in the word is in use.
        unsafe {
            Some(Backend {
                word: BackendWord(ptr::read_volatile(&raw const (*p).word.0)),
                ..*p
            })
        }
    }

    #[inline(always)]
    fn in_ranges(&mut self, key: &RangeKey) -> bool {
        let a = key.addr.words();
        let key = lpm_trie::Key::new(key.prefix_len, [key.set, a[0], a[1], a[2], a[3]]);
        maps::SOURCE_RANGES.get(key).is_some()
    }

    #[inline(always)]
    fn node_addr(&mut self, addr: &Addr) -> Option<u32> {
        // SAFETY: the element is a single aligned word.
        maps::NODE_ADDRS
            .get_ptr(addr)
            .map(|p| unsafe { ptr::read_volatile(p) })
    }

    #[inline(always)]
    fn affinity(&mut self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: an element that is reused meanwhile is another client's: at worst this one gets another backend, since
        // backend, generation and list are checked.
        unsafe { maps::AFFINITY.get(key).copied() }
    }

    #[inline(always)]
    fn put_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        // An LRU table has room always; if not, the client's next connection chooses anew.
        let _ = maps::AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn turn(&mut self, target: u32) -> u32 {
        let Some(p) = maps::TURNS.get_ptr_mut(target) else {
            return 0;
        };
        // SAFETY: the pointer is to an array element, one aligned word. Two CPUs that take the same turn give two
        // connections to one backend, and the next one to the next.
        unsafe {
            let turn = ptr::read_volatile(p);
            ptr::write_volatile(p, turn.wrapping_add(1));
            turn as u32
        }
    }

    #[inline(always)]
    fn load(&mut self, slot: Slot) -> u32 {
        match maps::LOADS.get_ptr(slot.backend) {
            // SAFETY: the pointer is to an array element, one aligned word.
            Some(p) => load_of(unsafe { ptr::read_volatile(p.cast::<u64>()) }).of(slot.generation),
            None => 0,
        }
    }

    #[inline(always)]
    fn add_load(&mut self, slot: Slot) {
        let Some(p) = maps::LOADS.get_ptr_mut(slot.backend) else {
            return;
        };
        // SAFETY: as above. Of two CPUs that count the first connections of a generation, one may be lost: the agent
        // counts the records now and then.
        unsafe {
            if load_of(ptr::read_volatile(p.cast::<u64>())).generation == slot.generation {
                atomic_add(&raw mut (*p).count, 1);
            } else {
                let first = u64::from(slot.generation) << 32 | 1;
                ptr::write_volatile(p.cast::<u64>(), first);
            }
        }
    }

    #[inline(always)]
    fn take_load(&mut self, slot: Slot) {
        if self.load(slot) != 0
            && let Some(p) = maps::LOADS.get_ptr_mut(slot.backend)
        {
            // SAFETY: as above.
            unsafe { atomic_add(&raw mut (*p).count, u32::MAX) };
        }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        if let Some(p) = maps::COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the element belongs to this CPU.
            unsafe { *p = (*p).wrapping_add(1) };
        }
    }
}

/// An element of `LOADS`, read as one word.
#[inline(always)]
const fn load_of(word: u64) -> Load {
    Load {
        count: word as u32,
        generation: (word >> 32) as u32,
    }
}

/// Adds to a word that other CPUs and the agent write. No kernel gives back what was there before 5.12, so nobody asks.
///
/// # Safety
///
/// `at` is aligned and in a map's element.
#[inline(always)]
unsafe fn atomic_add(at: *mut u32, n: u32) {
    // SAFETY: the caller's.
    unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) at, in(wreg) n, options(nostack)) };
}

/// A flow table's element, which other CPUs may write.
#[derive(Clone, Copy)]
pub struct FlowElement(*mut FlowValue);

impl FlowRef for FlowElement {
    #[inline(always)]
    fn load(&self, key: &FlowKey, into: &mut FlowValue) -> bool {
        // SAFETY: the pointer is to memory of the map, valid until the program ends; whether it still is this
        // key's element is told by the fingerprint, read last.
        unsafe {
            // Word by word: a copy of the whole is a call of memmove, which goes byte by byte.
            let (from, to) = (self.0.cast::<u32>(), ptr::from_mut(into).cast::<u32>());
            let mut i = 0;
            while i < size_of::<FlowValue>() / size_of::<u32>() {
                to.add(i).write(ptr::read_volatile(from.add(i)));
                i += 1;
            }
            ptr::read_volatile(&raw const (*self.0).fingerprint) == key.fingerprint()
        }
    }

    #[inline(always)]
    fn state(&self, key: &FlowKey) -> Option<FlowState> {
        // SAFETY: as above.
        unsafe {
            let state = FlowState {
                last_seen: (*self.0).last_seen,
                half: (*self.0).half,
                flags: (*self.0).flags,
                seen: (*self.0).seen,
            };
            let fingerprint = ptr::read_volatile(&raw const (*self.0).fingerprint);
            (fingerprint == key.fingerprint()).then_some(state)
        }
    }

    #[inline(always)]
    fn touch(&self, now: u32, seen: u8) {
        // SAFETY: as above; single aligned words, whose loss in a race costs nothing but accuracy. They are
        // written only when they change, to leave the cache line shared.
        unsafe {
            if (*self.0).last_seen != now {
                (*self.0).last_seen = now;
            }
            if (*self.0).seen | seen != (*self.0).seen {
                (*self.0).seen |= seen;
            }
        }
    }

    #[inline(always)]
    fn set_flags(&self, flags: u8) {
        // SAFETY: as above.
        unsafe { (*self.0).flags = flags };
    }
}

/// The context of a packet program.
pub trait PacketContext: Sized {
    /// `datapath::begin::begin` (XDP: `begin_early`), as a function that takes this context.
    fn begin(this: *mut Self, ifindex: u32, scope: Scope) -> u32;
    /// `datapath::begin::create`, likewise.
    fn create(this: *mut Self) -> u32;
}

impl PacketContext for __sk_buff {
    #[inline(always)]
    fn begin(this: *mut Self, ifindex: u32, scope: Scope) -> u32 {
        crate::calls::begin_flow(this, ifindex, scope as u32)
    }

    #[inline(always)]
    fn create(this: *mut Self) -> u32 {
        crate::calls::create_flow(this)
    }
}

impl PacketContext for xdp_md {
    #[inline(always)]
    fn begin(this: *mut Self, ifindex: u32, _scope: Scope) -> u32 {
        crate::calls::begin_flow_early(this, ifindex)
    }

    #[inline(always)]
    fn create(this: *mut Self) -> u32 {
        crate::calls::create_flow_early(this)
    }
}

/// What [`begin`](PacketTables::begin) said, told of if that was asked for.
#[inline(always)]
fn told(step: u32) -> u32 {
    if log::flows() && translates(step) {
        log::log_flow();
    }
    step
}

impl<C: PacketContext> PacketTables for Kernel<C> {
    type Flow = FlowElement;

    #[inline(always)]
    fn device(&mut self, ifindex: u32) -> Option<Device> {
        // SAFETY: elements of DEVICES are replaced, not written.
        unsafe { maps::DEVICES.get(ifindex).copied() }
    }

    #[inline(always)]
    fn flow(&mut self, table: FlowTable, key: &FlowKey) -> Option<FlowElement> {
        match table {
            FlowTable::Confirmed => maps::FLOWS.get_ptr_mut(key),
            FlowTable::New => maps::NEW_FLOWS.get_ptr_mut(key),
            FlowTable::Claims => maps::SNAT_CLAIMS.get_ptr_mut(key),
        }
        .map(FlowElement)
    }

    #[inline(always)]
    fn insert_flow(&mut self, table: FlowTable, key: &FlowKey, value: &FlowValue) -> Insert {
        let flags = u64::from(BPF_NOEXIST);
        let result = match table {
            FlowTable::Confirmed => maps::FLOWS.insert(key, value, flags),
            FlowTable::New => maps::NEW_FLOWS.insert(key, value, flags),
            FlowTable::Claims => maps::SNAT_CLAIMS.insert(key, value, flags),
        };
        match result {
            Ok(()) => Insert::Done,
            Err(rc) if rc == -EEXIST => Insert::Exists,
            Err(_) => Insert::Full,
        }
    }

    #[inline(always)]
    fn remove_flow(&mut self, table: FlowTable, key: &FlowKey) -> bool {
        match table {
            FlowTable::Confirmed => maps::FLOWS.remove(key),
            FlowTable::New => maps::NEW_FLOWS.remove(key),
            FlowTable::Claims => maps::SNAT_CLAIMS.remove(key),
        }
        .is_ok()
    }

    #[inline(always)]
    fn put_flow_load(&mut self, key: &FlowKey, slot: Slot) -> bool {
        // A connection that finds no room is not counted.
        maps::FLOW_LOADS
            .insert(key, slot, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    #[inline(always)]
    fn remove_flow_load(&mut self, key: &FlowKey) -> bool {
        maps::FLOW_LOADS.remove(key).is_ok()
    }

    #[inline(always)]
    fn route(&mut self, query: RouteQuery<'_>) -> Route {
        let Some(params) = maps::FIB.get_ptr_mut(0) else {
            return Route::None;
        };
        // SAFETY: this CPU's element; all fields are integers and arrays of them, for which zero is a value.
        let params = unsafe {
            ptr::write_bytes(params, 0, 1);
            &mut *params
        };
        params.l4_protocol = query.protocol;
        params.ifindex = query.ifindex;
        if query.dst.is_v4() {
            params.family = AF_INET;
            params.__bindgen_anon_3.ipv4_src = query.src.words()[3];
            params.__bindgen_anon_4.ipv4_dst = query.dst.words()[3];
        } else {
            params.family = AF_INET6;
            params.__bindgen_anon_3.ipv6_src = query.src.words();
            params.__bindgen_anon_4.ipv6_dst = query.dst.words();
        }
        // SAFETY: the context and the parameters are valid, and the length is theirs.
        let rc = unsafe { bpf_fib_lookup(self.0.cast(), ptr::from_mut(params), FIB_LEN, 0) };
        let ifindex = params.ifindex;
        // A packet that is too big for the device is told so last, when all else is known: whether that matters is the
        // caller's to say.
        if rc == i64::from(BPF_FIB_LKUP_RET_SUCCESS)
            || rc == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED)
        {
            Route::Neighbour {
                ifindex,
                mac: params.dmac,
            }
        } else if rc == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
            Route::Device { ifindex }
        } else {
            Route::None
        }
    }

    #[inline(always)]
    fn listens(&mut self, tuple: &FlowKey) -> bool {
        // Nothing finds SCTP's sockets.
        if tuple.protocol == protocol::SCTP {
            return false;
        }
        // SAFETY: all fields are integers and arrays of them, for which zero is a value.
        let mut t: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let (sport, dport) = (
            u16::from_ne_bytes(tuple.src_port.to_bytes()),
            u16::from_ne_bytes(tuple.dst_port.to_bytes()),
        );
        // SAFETY: the fields of the family that the size names are written; others are not read.
        let len = unsafe {
            if tuple.dst.is_v4() {
                t.__bindgen_anon_1.ipv4.saddr = tuple.src.words()[3];
                t.__bindgen_anon_1.ipv4.daddr = tuple.dst.words()[3];
                t.__bindgen_anon_1.ipv4.sport = sport;
                t.__bindgen_anon_1.ipv4.dport = dport;
                size_of_val(&t.__bindgen_anon_1.ipv4)
            } else {
                t.__bindgen_anon_1.ipv6.saddr = tuple.src.words();
                t.__bindgen_anon_1.ipv6.daddr = tuple.dst.words();
                t.__bindgen_anon_1.ipv6.sport = sport;
                t.__bindgen_anon_1.ipv6.dport = dport;
                size_of_val(&t.__bindgen_anon_1.ipv6)
            }
        } as u32;
        // -1: the namespace that the packet is in.
        let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
        // SAFETY: the context and the tuple are valid; the socket found is released and not used.
        unsafe {
            let socket = if tuple.protocol == protocol::TCP {
                bpf_skc_lookup_tcp(self.0.cast(), &raw mut t, len, netns, 0)
            } else {
                bpf_sk_lookup_udp(self.0.cast(), &raw mut t, len, netns, 0)
            };
            if socket.is_null() {
                return false;
            }
            bpf_sk_release(socket.cast());
        }
        true
    }

    #[inline(always)]
    fn begin(&mut self, _work: &mut Work, ifindex: u32, scope: Scope) -> u32 {
        told(C::begin(self.0, ifindex, scope))
    }

    #[inline(always)]
    fn create(&mut self, _work: &mut Work) -> u32 {
        told(C::create(self.0))
    }

    #[inline(always)]
    fn choose(&mut self, _work: &mut Work, tried: u32) -> u32 {
        crate::calls::choose(tried)
    }

    #[inline(always)]
    fn count_flow(&mut self, _work: &mut Work, what: u32) -> u32 {
        crate::calls::count_flow(what)
    }

    #[inline(always)]
    fn claim_tuple(&mut self, _work: &mut Work) -> u32 {
        crate::calls::claim_tuple()
    }

    #[inline(always)]
    fn begin_early(&mut self, _work: &mut Work, ifindex: u32) -> u32 {
        told(C::begin(self.0, ifindex, Scope::External))
    }
}

impl<C> SocketTables for Kernel<C> {
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn socket_backend(&mut self, key: &SocketKey) -> Option<SocketBackend> {
        // SAFETY: an element that is reused meanwhile is another socket's: at worst one datagram goes to another
        // backend that serves, since backend and generation are checked.
        unsafe { maps::SOCKET_BACKENDS.get(key).copied() }
    }

    #[inline(always)]
    fn put_socket_backend(&mut self, key: &SocketKey, value: &SocketBackend) {
        // An LRU table has room always; if not, the socket chooses again at its next datagram.
        let _ = maps::SOCKET_BACKENDS.insert(key, value, 0);
    }

    #[inline(always)]
    fn socket_frontend(&mut self, key: &SocketKey) -> Option<SocketFrontend> {
        // SAFETY: an element that is reused meanwhile would misreport one peer's name.
        unsafe { maps::SOCKET_FRONTENDS.get(key).copied() }
    }

    #[inline(always)]
    fn put_socket_frontend(&mut self, key: &SocketKey, value: &SocketFrontend) {
        let _ = maps::SOCKET_FRONTENDS.insert(key, value, 0);
    }

    #[inline(always)]
    fn remove_socket_frontend(&mut self, key: &SocketKey) {
        let _ = maps::SOCKET_FRONTENDS.remove(key);
    }

    #[inline(always)]
    fn socket_load(&mut self, cookie: u64) -> Option<Slot> {
        // SAFETY: the element of a living socket's cookie, which no other socket has.
        unsafe { maps::SOCKET_LOADS.get(cookie).copied() }
    }

    #[inline(always)]
    fn put_socket_load(&mut self, cookie: u64, slot: Slot) -> bool {
        // A connection that finds no room is not counted.
        maps::SOCKET_LOADS
            .insert(cookie, slot, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    #[inline(always)]
    fn remove_socket_load(&mut self, cookie: u64) -> bool {
        maps::SOCKET_LOADS.remove(cookie).is_ok()
    }
}
