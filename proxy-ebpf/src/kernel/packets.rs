//! The part of the tables that packet programs need: flow tables, devices, routes, listeners.

use core::{ops::Deref, ptr};

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_CURRENT_NETNS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
        BPF_FIB_LKUP_RET_SUCCESS, BPF_NOEXIST, bpf_fib_lookup as FibLookup, bpf_sock_tuple, xdp_md,
    },
    helpers::generated::{bpf_fib_lookup, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
};
use proxy_common::{
    abi::{
        device::{Device, LinkType},
        flow::{FlowKey, FlowValue},
        fragment::{FragmentKey, FragmentValue},
        frontend::Scope,
        protocol,
        target::Slot,
    },
    datapath::{Ingress, Work, begin::translates, icmp},
    packet::Packet,
    tables::{FlowTable, Insert, PacketTables, Route, RouteQuery},
};

use super::{Kernel, flow::FlowElement};
use crate::{calls, log, maps};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const EEXIST: i32 = 17;
/// `size_of::<bpf_fib_lookup>()`, as the helper takes it.
const FIB_LEN: i32 = 64;
const _: () = assert!(size_of::<FibLookup>() == FIB_LEN as usize);

/// The context of a packet program (tc or XDP).
pub trait PacketContext: Sized {
    /// Calls the BPF function for `datapath::begin::begin` (in XDP, `begin_early`).
    fn begin(this: *mut Self, ifindex: u32, scope: Scope) -> u32;
    /// Calls the BPF function for `datapath::begin::create`.
    fn create(this: *mut Self) -> u32;
    /// Calls the BPF function for `datapath::icmp::incoming`.
    fn icmp_in(this: *mut Self, at: Ingress, scope: Scope) -> u32;
    /// Calls the BPF function for `datapath::icmp::outgoing`.
    fn icmp_out(this: *mut Self) -> u32;
}

impl PacketContext for __sk_buff {
    #[inline(always)]
    fn begin(this: *mut Self, ifindex: u32, scope: Scope) -> u32 {
        calls::begin_flow(this, ifindex, scope as u32)
    }

    #[inline(always)]
    fn create(this: *mut Self) -> u32 {
        calls::create_flow(this)
    }

    #[inline(always)]
    fn icmp_in(this: *mut Self, at: Ingress, scope: Scope) -> u32 {
        let has_link_header = matches!(at.link, LinkType::Ethernet);
        calls::icmp_in(this, at.ifindex, u32::from(has_link_header), scope as u32)
    }

    #[inline(always)]
    fn icmp_out(this: *mut Self) -> u32 {
        calls::icmp_out(this)
    }
}

impl PacketContext for xdp_md {
    #[inline(always)]
    fn begin(this: *mut Self, ifindex: u32, _scope: Scope) -> u32 {
        calls::begin_flow_early(this, ifindex)
    }

    #[inline(always)]
    fn create(this: *mut Self) -> u32 {
        calls::create_flow_early(this)
    }

    #[inline(always)]
    fn icmp_in(_this: *mut Self, _at: Ingress, _scope: Scope) -> u32 {
        icmp::PASS
    }

    #[inline(always)]
    fn icmp_out(_this: *mut Self) -> u32 {
        icmp::PASS
    }
}

/// Logs a new flow if flows are logged. Returns `step`, a result of `begin` or `create`.
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
    fn device(&mut self, ifindex: u32) -> Option<impl Deref<Target = Device>> {
        // SAFETY: elements of DEVICES are replaced, never written in place, and stay valid while the program
        // runs.
        unsafe { maps::DEVICES.get(ifindex) }
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
    fn fragment(&mut self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: a hash element may be reused for another packet during the copy. At worst the receiver
        // reassembles a wrong packet, which fails its checksum.
        unsafe { maps::FRAGMENTS.get(key).copied() }
    }

    #[inline(always)]
    fn put_fragment(&mut self, key: &FragmentKey, value: &FragmentValue) {
        // An insertion into an LRU table fails only in rare races. The sender then has to retransmit.
        let _ = maps::FRAGMENTS.insert(key, value, 0);
    }

    #[inline(always)]
    fn put_flow_load(&mut self, key: &FlowKey, slot: Slot) -> bool {
        // If the table is full, the connection is not counted.
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
        // SAFETY: the element belongs to this CPU. All its fields are integers and arrays of integers, so zero
        // is valid.
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
        // SAFETY: the context and the parameters are valid, and the length matches.
        let rc = unsafe { bpf_fib_lookup(self.0.cast(), ptr::from_mut(params), FIB_LEN, 0) };
        let ifindex = params.ifindex;
        // With `tot_len` zero, the helper compares the packet with the MTU last, so all results are valid. The
        // caller checks the MTU itself.
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
        // No helper looks up SCTP sockets.
        if tuple.protocol == protocol::SCTP {
            return false;
        }
        // SAFETY: all fields are integers and arrays of integers, so zero is valid.
        let mut t: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let (sport, dport) = (
            u16::from_ne_bytes(tuple.src_port.to_bytes()),
            u16::from_ne_bytes(tuple.dst_port.to_bytes()),
        );
        // SAFETY: only the fields of the family that `len` implies are written and read.
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
        // -1: the network namespace of the packet.
        let netns = i64::from(BPF_F_CURRENT_NETNS).cast_unsigned();
        // SAFETY: the context and the tuple are valid. The socket is released and not used.
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
        calls::choose(tried)
    }

    #[inline(always)]
    fn reconsider(&mut self, _work: &mut Work, tried: u32) -> u32 {
        calls::reconsider(tried)
    }

    #[inline(always)]
    fn count_flow(&mut self, _work: &mut Work, what: u32) -> u32 {
        calls::count_flow(what)
    }

    #[inline(always)]
    fn claim_tuple(&mut self, _work: &mut Work) -> u32 {
        calls::claim_tuple()
    }

    #[inline(always)]
    fn icmp_in<P: Packet>(
        &mut self,
        _packet: &mut P,
        _work: &mut Work,
        at: Ingress,
        scope: Scope,
    ) -> u32 {
        C::icmp_in(self.0, at, scope)
    }

    #[inline(always)]
    fn icmp_out<P: Packet>(&mut self, _packet: &mut P, _work: &mut Work) -> u32 {
        C::icmp_out(self.0)
    }

    #[inline(always)]
    fn begin_early(&mut self, _work: &mut Work, ifindex: u32) -> u32 {
        told(C::begin(self.0, ifindex, Scope::External))
    }
}
