//! Parts of the datapath as global BPF functions. The verifier checks each one separately, independent of its
//! callers, and each has its own stack frame. They share data with their callers in `WORK`.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use proxy_common::{
    abi::{
        counter::Counter,
        device::LinkType,
        frontend::Scope,
        target::{Slot, TargetWord},
    },
    balance::{Draw, Found},
    crc32c,
    datapath::{
        Ingress,
        answer::{self, Answer},
        begin, choose, claim, icmp,
    },
    load, slow_start,
};

use crate::{frame::Frame, kernel::Kernel, maps::WORK};

/// `datapath::begin::begin` on the packet in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_flow(skb: *mut __sk_buff, ifindex: u32, scope: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return Counter::DropRewrite as u32;
    };
    // SAFETY: the element belongs to this CPU, and the caller does not access it until this function returns.
    let work = unsafe { &mut *work };
    begin::begin(&mut Kernel(skb), work, ifindex, scope_of(scope))
}

#[inline(always)]
const fn scope_of(number: u32) -> Scope {
    if number == Scope::External as u32 {
        Scope::External
    } else {
        Scope::Cluster
    }
}

/// `datapath::begin::begin_early` on the packet in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn begin_flow_early(xdp: *mut xdp_md, ifindex: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return Counter::DropRewrite as u32;
    };
    // SAFETY: as above.
    begin::begin_early(&mut Kernel(xdp), unsafe { &mut *work }, ifindex)
}

/// `datapath::begin::create` for the packet in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn create_flow(skb: *mut __sk_buff) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return Counter::DropRewrite as u32;
    };
    // SAFETY: as above.
    begin::create(&mut Kernel(skb), unsafe { &mut *work })
}

/// `datapath::begin::create` for the packet in `WORK`, in XDP.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn create_flow_early(xdp: *mut xdp_md) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return Counter::DropRewrite as u32;
    };
    // SAFETY: as above.
    begin::create(&mut Kernel(xdp), unsafe { &mut *work })
}

/// `datapath::choose::choose` for the packet in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn choose(tried: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return u32::MAX;
    };
    // The helpers in use need no context, so that programs of every type can call this function.
    let mut maps = Kernel(core::ptr::null_mut::<xdp_md>());
    // SAFETY: as above.
    choose::choose(&mut maps, unsafe { &mut *work }, tried)
}

/// `datapath::choose::reconsider` for the packet in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reconsider(tried: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 0;
    };
    let mut maps = Kernel(core::ptr::null_mut::<xdp_md>());
    // SAFETY: as above.
    choose::reconsider(&mut maps, unsafe { &mut *work }, tried)
}

/// `slow_start::reconsider` for a socket. Takes a target id, its word, the slow start window, a random number
/// and the chosen slot as a word. Returns the final slot as a word.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reconsider_slot(
    target: u32,
    word: u64,
    slow_start: u32,
    random: u32,
    chosen: u64,
) -> u64 {
    let mut maps = Kernel(core::ptr::null_mut::<xdp_md>());
    let found = Found {
        target,
        word: TargetWord(word),
        slow_start: slow_start as u16,
        ..Found::default()
    };
    let draw = Draw {
        random,
        shared: random,
    };
    let slot = slow_start::reconsider(&mut maps, &found, draw, Slot::from_word(chosen));
    slot.to_word()
}

/// `load::count_flow` on the flow in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_flow(what: u32) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return 0;
    };
    let mut maps = Kernel(core::ptr::null_mut::<xdp_md>());
    // SAFETY: as above.
    load::count_flow(&mut maps, unsafe { &mut *work }, what)
}

/// `datapath::claim::claim_tuple` on the flow in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_tuple() -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return u32::MAX;
    };
    let mut maps = Kernel(core::ptr::null_mut::<xdp_md>());
    // SAFETY: as above.
    claim::claim_tuple(&mut maps, unsafe { &mut *work })
}

/// `crc32c::change`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn crc32c_change(ports: u32, len: u32) -> u32 {
    crc32c::change(ports, len as u16)
}

/// `datapath::answer::build` on the packet in `WORK`. Returns 1 if the reply was built.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn answer(skb: *mut __sk_buff, answer: u32, mtu: u32) -> u32 {
    let Some(work) = WORK.get_ptr(0) else {
        return 0;
    };
    // SAFETY: the element belongs to this CPU, and nothing writes to it during this call.
    let headers = unsafe { &*work }.headers();
    u32::from(answer::build(
        &mut Frame::again(skb),
        headers,
        Answer::from_u32(answer),
        mtu,
    ))
}

/// `datapath::icmp::incoming` on the error in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn icmp_in(
    skb: *mut __sk_buff,
    ifindex: u32,
    has_link_header: u32,
    scope: u32,
) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return Counter::DropRewrite as u32;
    };
    let link = if has_link_header == 0 {
        LinkType::RawIp
    } else {
        LinkType::Ethernet
    };
    let at = Ingress { ifindex, link };
    // SAFETY: the element belongs to this CPU, and the caller does not access it until this function returns.
    let work = unsafe { &mut *work };
    icmp::incoming(
        &mut Frame::again(skb),
        &mut Kernel(skb),
        work,
        at,
        scope_of(scope),
    )
}

/// `datapath::icmp::outgoing` on the error in `WORK`.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn icmp_out(skb: *mut __sk_buff) -> u32 {
    let Some(work) = WORK.get_ptr_mut(0) else {
        return Counter::DropRewrite as u32;
    };
    // SAFETY: as above.
    let work = unsafe { &mut *work };
    icmp::outgoing(&mut Frame::again(skb), &mut Kernel(skb), work)
}
