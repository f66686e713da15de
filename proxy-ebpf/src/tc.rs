//! tc programs for ingress and egress. For passed and translated packets they return `TCX_NEXT`, which equals
//! `TC_ACT_UNSPEC`, so that other programs on the same hook see the packet.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::generated::{bpf_jiffies64, bpf_redirect, bpf_redirect_neigh, bpf_skb_change_head},
    macros::classifier,
    programs::TcContext,
};
use proxy_common::{
    abi::{device::LinkType, settings::Settings},
    datapath::{self, Ingress, Verdict},
    packet::Packet as _,
};

use crate::{
    frame::Frame,
    kernel::Kernel,
    log,
    maps::{SETTINGS, WORK},
};

/// `skb->pkt_type` of a frame that is addressed to another host.
const PACKET_OTHERHOST: u32 = 3;
const ETH_HLEN: u32 = 14;
const VLAN_VID_MASK: u32 = 0x0fff;

/// The datapath function that a program runs.
#[derive(Clone, Copy)]
enum Hook {
    PodIngress,
    UplinkIngress,
    Egress,
}

/// Ingress of a pod-facing device.
#[classifier]
pub fn tc_pod_ingress(ctx: TcContext) -> i32 {
    run(&ctx, Hook::PodIngress, LinkType::Ethernet)
}

/// Ingress of an uplink or overlay with Ethernet headers.
#[classifier]
pub fn tc_uplink_ingress(ctx: TcContext) -> i32 {
    run(&ctx, Hook::UplinkIngress, LinkType::Ethernet)
}

/// Ingress of an uplink or overlay without Ethernet headers.
#[classifier]
pub fn tc_uplink_ingress_l3(ctx: TcContext) -> i32 {
    run(&ctx, Hook::UplinkIngress, LinkType::RawIp)
}

/// Egress of any device with Ethernet headers.
#[classifier]
pub fn tc_egress(ctx: TcContext) -> i32 {
    run(&ctx, Hook::Egress, LinkType::Ethernet)
}

/// Egress of any device without Ethernet headers.
#[classifier]
pub fn tc_egress_l3(ctx: TcContext) -> i32 {
    run(&ctx, Hook::Egress, LinkType::RawIp)
}

/// Never attached. The agent test-runs it to read the clock of the flow tables: it overwrites the packet's
/// first eight bytes with jiffies, in native byte order.
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
fn run(ctx: &TcContext, hook: Hook, link: LinkType) -> i32 {
    let skb: *mut __sk_buff = ctx.as_ptr().cast();
    // SAFETY: the context of a tc program is valid.
    let (tagged, tci, ifindex, kind) = unsafe {
        (
            (*skb).vlan_present,
            (*skb).vlan_tci,
            (*skb).ifindex,
            (*skb).pkt_type,
        )
    };
    // With VLAN offload the tag is not in the bytes. The frame belongs to the VLAN device, which sees it again
    // without the tag. On an uplink, a frame addressed to another host is passed. (On a bridge port, frames for
    // the bridge are also `PACKET_OTHERHOST`, and must be handled.)
    if tagged != 0 && tci & VLAN_VID_MASK != 0
        || matches!(hook, Hook::UplinkIngress) && kind == PACKET_OTHERHOST
    {
        return TC_ACT_UNSPEC;
    }
    let Some(work) = WORK.get_ptr_mut(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: the element belongs to this CPU, and no other program uses it before this one returns.
    let work = unsafe { &mut *work };
    let (mut frame, mut kernel, at) = (Frame::new(skb), Kernel(skb), Ingress { ifindex, link });
    let verdict = match hook {
        Hook::PodIngress => datapath::pod_ingress(&mut frame, &mut kernel, work, at),
        Hook::UplinkIngress => datapath::uplink_ingress(&mut frame, &mut kernel, work, at),
        Hook::Egress => datapath::egress(&mut frame, &mut kernel, work, link),
    };
    match verdict {
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Continue => {
            if !matches!(hook, Hook::Egress) {
                mark(skb, |settings| settings.mark);
            }
            TC_ACT_UNSPEC
        }
        Verdict::Masquerade => {
            mark(skb, |settings| settings.mark | settings.masquerade_mark);
            TC_ACT_UNSPEC
        }
        Verdict::Drop(reason) => {
            if log::drops() {
                log::log_drop(reason as u32);
            }
            TC_ACT_SHOT
        }
        // SAFETY: the helper takes any ifindex.
        Verdict::Bounce => unsafe { bpf_redirect(ifindex, 0) as i32 },
        // SAFETY: as above.
        Verdict::Send { ifindex } => unsafe { bpf_redirect(ifindex, 0) as i32 },
        Verdict::Forward { ifindex } => forward(skb, link, ifindex),
    }
}

/// Sets bits of the packet mark, by which netfilter rules recognise a translated packet. Other bits stay.
#[inline(always)]
fn mark(skb: *mut __sk_buff, bits: impl Fn(&Settings) -> u32) {
    if let Some(settings) = SETTINGS.get(0) {
        // SAFETY: the context is valid, and the program may write its mark.
        unsafe { (*skb).mark |= bits(settings) };
    }
}

/// Sends the packet out of a device, to the neighbour that the kernel resolves. A packet without an Ethernet
/// header gets room for one, which the neighbour code fills in. Without that room the kernel would drop the
/// packet silently.
#[inline(always)]
fn forward(skb: *mut __sk_buff, link: LinkType, ifindex: u32) -> i32 {
    if matches!(link, LinkType::RawIp) {
        // SAFETY: the context is valid; the helper checks the length.
        unsafe {
            let protocol = ((*skb).protocol as u16).to_ne_bytes();
            if bpf_skb_change_head(skb, ETH_HLEN, 0) != 0 {
                return TC_ACT_SHOT;
            }
            if let Some(w) = Frame::new(skb).window::<14>(0) {
                (w[12], w[13]) = (protocol[0], protocol[1]);
            }
        }
    }
    // SAFETY: without parameters, the helper looks up the neighbour by the packet's destination.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}
