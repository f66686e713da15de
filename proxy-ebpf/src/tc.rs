//! tc: ingress and egress. "Not ours" and "goes on to the kernel" are both TCX_NEXT (= TC_ACT_UNSPEC): the
//! programs of others on the same hook see the packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{
    abi::device::LinkType,
    datapath::{self, Ingress, Verdict, Work},
    packet::Packet as _,
};

use crate::{frame::Frame, kernel::Kernel, maps::WORK};

/// `skb->pkt_type` of a frame that is addressed to another host.
const PACKET_OTHERHOST: u32 = 3;
const ETH_HLEN: u32 = 14;
const VLAN_VID_MASK: u32 = 0x0fff;

/// Ingress of a pod-facing device.
#[classifier]
pub fn tc_pod_ingress(ctx: TcContext) -> i32 {
    run(&ctx, LinkType::Ethernet, |frame, kernel, work, at| {
        datapath::pod_ingress(frame, kernel, work, at)
    })
}

/// Ingress of an uplink or overlay with Ethernet headers.
#[classifier]
pub fn tc_uplink_ingress(ctx: TcContext) -> i32 {
    uplink(&ctx, LinkType::Ethernet)
}

/// Ingress of an uplink or overlay without Ethernet headers.
#[classifier]
pub fn tc_uplink_ingress_l3(ctx: TcContext) -> i32 {
    uplink(&ctx, LinkType::RawIp)
}

/// Egress of any device with Ethernet headers.
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    run(&ctx, LinkType::Ethernet, |frame, kernel, work, at| {
        datapath::egress(frame, kernel, work, at.link)
    })
}

/// Egress of any device without Ethernet headers.
#[classifier]
pub fn tc_egress_l3(ctx: TcContext) -> i32 {
    run(&ctx, LinkType::RawIp, |frame, kernel, work, at| {
        datapath::egress(frame, kernel, work, at.link)
    })
}

/// Never attached: the agent runs it to read the clock of the flow tables, which it writes over the first eight
/// bytes of the packet (jiffies, native order).
#[classifier]
pub fn clock(ctx: TcContext) -> i32 {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_jiffies64() };
    if let Some(w) = Frame::new(ctx.as_ptr().cast()).window::<8>(0) {
        *w = now.to_ne_bytes();
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn uplink(ctx: &TcContext, link: LinkType) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the context of a tc program is valid.
    if unsafe { (*skb).pkt_type } == PACKET_OTHERHOST {
        return TC_ACT_UNSPEC;
    }
    run(ctx, link, |frame, kernel, work, at| {
        datapath::uplink_ingress(frame, kernel, work, at)
    })
}

#[inline(always)]
fn run(
    ctx: &TcContext,
    link: LinkType,
    process: impl FnOnce(&mut Frame, &mut Kernel<__sk_buff>, &mut Work, Ingress) -> Verdict,
) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the context of a tc program is valid.
    let (tagged, tci, ifindex) = unsafe { ((*skb).vlan_present, (*skb).vlan_tci, (*skb).ifindex) };
    // The tag is not in the bytes: the frame belongs to a VLAN's own device, which sees it without.
    if tagged != 0 && tci & VLAN_VID_MASK != 0 {
        return TC_ACT_UNSPEC;
    }
    let mut frame = Frame::new(skb);
    let Some(work) = WORK.get_ptr_mut(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: this CPU's element, which no other program uses before this one returns.
    let work = unsafe { &mut *work };
    let verdict = process(
        &mut frame,
        &mut Kernel(skb),
        work,
        Ingress { ifindex, link },
    );
    match verdict {
        Verdict::Pass | Verdict::Continue => TC_ACT_UNSPEC,
        Verdict::Drop(_) => TC_ACT_SHOT as i32,
        // SAFETY: the helper takes any ifindex.
        Verdict::Bounce => unsafe { bpf_redirect(ifindex, 0) as i32 },
        Verdict::Forward { ifindex } => forward(skb, link, ifindex),
    }
}

/// Out of a device, by way of its neighbours. A packet that came in without an Ethernet header gets room for one,
/// which the neighbour code writes: without it the packet would be dropped in silence.
#[inline(always)]
fn forward(skb: *mut __sk_buff, link: LinkType, ifindex: u32) -> i32 {
    if matches!(link, LinkType::RawIp) {
        // SAFETY: the context is valid; the helper checks the length.
        unsafe {
            let protocol = ((*skb).protocol as u16).to_ne_bytes();
            if bpf_skb_change_head(skb, ETH_HLEN, 0) != 0 {
                return TC_ACT_SHOT as i32;
            }
            if let Some(w) = Frame::new(skb).window::<14>(0) {
                (w[12], w[13]) = (protocol[0], protocol[1]);
            }
        }
    }
    // SAFETY: no parameters: the helper looks the neighbour up by the packet's destination.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}
