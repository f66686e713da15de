//! XDP program for the ingress of uplinks with Ethernet headers.

use core::{hint, ptr};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_tail},
    macros::xdp,
    programs::XdpContext,
};
use proxy_common::{
    abi::device::LinkType,
    datapath::{self, Ingress, Verdict},
    packet::{ChecksumChange, Packet, Segment},
};

use crate::{kernel::Kernel, log, maps::WORK};

/// Largest offset that is accessed; see `frame`.
const MAX_OFFSET: usize = 0x1ff;

/// Ingress of an uplink, before the kernel allocates an skb.
#[xdp]
pub fn xdp_uplink_ingress(ctx: XdpContext) -> u32 {
    let xdp: *mut xdp_md = ctx.as_ptr().cast();
    let Some(work) = WORK.get_ptr_mut(0) else {
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the context of an XDP program is valid.
    let ifindex = unsafe { (*xdp).ingress_ifindex };
    let at = Ingress {
        ifindex,
        link: LinkType::Ethernet,
    };
    // SAFETY: the element belongs to this CPU, and no other program uses it before this one returns.
    let work = unsafe { &mut *work };
    match datapath::xdp_ingress(&mut XdpFrame(xdp), &mut Kernel(xdp), work, at) {
        Verdict::Drop(reason) => {
            if log::drops() {
                log::log_drop(reason as u32);
            }
            xdp_action::XDP_DROP
        }
        Verdict::Bounce => xdp_action::XDP_TX,
        // SAFETY: the helper takes any ifindex.
        Verdict::Send { ifindex } => unsafe { bpf_redirect(ifindex, 0).cast_unsigned() as u32 },
        // The datapath returns only `Pass` of these: XDP cannot pass a translated packet to the kernel.
        Verdict::Pass | Verdict::Continue | Verdict::Masquerade | Verdict::Forward { .. } => {
            xdp_action::XDP_PASS
        }
    }
}

/// The frame of an XDP program, of which only the linear part is accessible.
struct XdpFrame(*mut xdp_md);

impl Packet for XdpFrame {
    #[inline(always)]
    fn window<const N: usize>(&mut self, off: usize) -> Option<&mut [u8; N]> {
        if off > MAX_OFFSET {
            return None;
        }
        // SAFETY: the context is valid. The pointer is used only after the check against `data_end`, and the
        // borrow of `self` ends before any helper can move the packet.
        unsafe {
            let data = (*self.0).data as usize;
            let end = (*self.0).data_end as usize;
            let start = data + off;
            if start + N > end {
                return None;
            }
            Some(&mut *(start as *mut [u8; N]))
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is valid. The pointers are read separately from those in `window`: the difference
        // turns them into scalars, and the verifier would keep that for later uses.
        unsafe {
            ptr::read_volatile(&raw const (*self.0).data_end)
                .wrapping_sub(ptr::read_volatile(&raw const (*self.0).data))
        }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, off: usize, bytes: &[u8; N]) -> Option<()> {
        *self.window::<N>(off)? = *bytes;
        Some(())
    }

    #[inline(always)]
    fn l4_checksum(&mut self, off: usize, change: ChecksumChange) -> Option<()> {
        let field = self.window::<2>(off)?;
        *field = change.applied_to(u16::from_ne_bytes(*field)).to_ne_bytes();
        Some(())
    }

    #[inline(always)]
    fn checksum_pending(&mut self, _off: usize) -> bool {
        // XDP does not know. `datapath::xdp` compares the field with the pseudo-header's sum.
        false
    }

    #[inline(always)]
    fn crc32c_change(&mut self, ports: u32, len: u16) -> u32 {
        crate::calls::crc32c_change(ports, u32::from(len))
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        let by = len.wrapping_sub(hint::black_box(self.len())).cast_signed();
        // SAFETY: the context is valid; the helper checks the length.
        let rc = unsafe { bpf_xdp_adjust_tail(self.0, by) };
        (rc == 0).then_some(())
    }

    #[inline(always)]
    fn remove(&mut self, _l3: usize, _len: u32) -> Option<()> {
        // Needed only to build ICMP errors, which XDP leaves to tc.
        None
    }

    #[inline(always)]
    fn segment(&self) -> Segment {
        Segment::None
    }
}
