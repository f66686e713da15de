//! An skb as a `Packet`. All packet pointer arithmetic of tc programs is here.

use core::ptr;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_pull_data,
        bpf_skb_store_bytes,
    },
};
use proxy_common::{
    datapath::{Work, answer::Answer},
    packet::{ChecksumChange, Packet, Segment},
};

/// Bytes that are made linear before parsing: Ethernet, VLAN tag, IP with options or a few extension headers,
/// TCP.
const HEADERS: u32 = 14 + 4 + 60 + 60;

/// `gso_size` of a GSO packet that is segmented along its `frag_list` (SCTP).
const GSO_BY_FRAGS: u32 = 0xffff;

/// Largest offset that is accessed, which bounds offsets for the verifier. It exceeds the sum of a `u8` and the
/// constants added to it, so that the check never fails for offsets kept in a `u8`.
const MAX_OFFSET: usize = 0x1ff;

/// The packet of a tc program.
pub struct Frame {
    skb: *mut __sk_buff,
}

impl Frame {
    /// Wraps the context of a tc program, and makes the packet's headers linear.
    #[inline(always)]
    pub fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the context of a tc program is a valid `__sk_buff`, which the helper takes. The pointers are
        // read separately from those in `window`: the difference turns them into scalars, and the verifier
        // would keep that for later uses.
        unsafe {
            let len = (*skb).len;
            let wanted = if len < HEADERS { len } else { HEADERS };
            let linear = ptr::read_volatile(&raw const (*skb).data_end)
                .wrapping_sub(ptr::read_volatile(&raw const (*skb).data));
            if linear < wanted {
                bpf_skb_pull_data(skb, wanted);
            }
        }
        Self { skb }
    }

    /// Wraps the context again, in a function called by a program that has used [`Frame::new`].
    #[inline(always)]
    pub const fn again(skb: *mut __sk_buff) -> Self {
        Self { skb }
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn window<const N: usize>(&mut self, off: usize) -> Option<&mut [u8; N]> {
        if off > MAX_OFFSET {
            return None;
        }
        // SAFETY: the context is valid. The pointer is used only after the check against `data_end`, and the
        // borrow of `self` ends before any helper can move the packet.
        unsafe {
            let data = (*self.skb).data as usize;
            let end = (*self.skb).data_end as usize;
            let start = data + off;
            if start + N > end {
                return None;
            }
            Some(&mut *(start as *mut [u8; N]))
        }
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context of a tc program is valid.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn store<const N: usize>(&mut self, off: usize, bytes: &[u8; N]) -> Option<()> {
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: `bytes` points to N readable bytes, and the helper checks the offset.
        let rc = unsafe {
            bpf_skb_store_bytes(self.skb, off as u32, bytes.as_ptr().cast(), N as u32, flags)
        };
        (rc == 0).then_some(())
    }

    #[inline(always)]
    fn l4_checksum(&mut self, off: usize, change: ChecksumChange) -> Option<()> {
        let mangled = if change.zero_means_none {
            u64::from(BPF_F_MARK_MANGLED_0)
        } else {
            0
        };
        let pseudo = u64::from(BPF_F_PSEUDO_HDR) | mangled;
        // SAFETY: the helper checks the offset. A size of 0 in the flags means that `to` is a difference.
        let rc = unsafe {
            bpf_l4_csum_replace(self.skb, off as u32, 0, u64::from(change.pseudo.0), pseudo)
                | bpf_l4_csum_replace(self.skb, off as u32, 0, u64::from(change.data.0), mangled)
        };
        (rc == 0).then_some(())
    }

    #[inline(always)]
    fn checksum_pending(&mut self, off: usize) -> bool {
        // Probes: the helper leaves a pending checksum field unchanged when covered data changes, because the
        // device sums up the data.
        let Some(before) = self.window::<2>(off).map(|w| *w) else {
            return false;
        };
        // SAFETY: the helper checks the offset.
        let rc = unsafe { bpf_l4_csum_replace(self.skb, off as u32, 0, 1, 0) };
        let Some(field) = self.window::<2>(off) else {
            return false;
        };
        let pending = rc == 0 && *field == before;
        *field = before;
        pending
    }

    #[inline(always)]
    fn crc32c_change(&mut self, ports: u32, len: u16) -> u32 {
        crate::calls::crc32c_change(ports, u32::from(len))
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> Option<()> {
        // SAFETY: the helper checks the length.
        let rc = unsafe { bpf_skb_change_tail(self.skb, len, 0) };
        (rc == 0).then_some(())
    }

    #[inline(always)]
    fn remove(&mut self, _l3: usize, len: u32) -> Option<()> {
        let less = len.cast_signed().wrapping_neg();
        // SAFETY: the helper checks the length. It removes bytes behind the MAC header, where the IP header is
        // in all packets that it accepts. When the bytes at a pending checksum's start go, the kernel forgets
        // that checksum (`skb_postpull_rcsum`).
        let rc = unsafe { bpf_skb_adjust_room(self.skb, less, BPF_ADJ_ROOM_MAC, 0) };
        (rc == 0).then_some(())
    }

    #[inline(always)]
    fn segment(&self) -> Segment {
        // SAFETY: the context of a tc program is valid.
        match unsafe { (*self.skb).gso_size } {
            0 => Segment::None,
            GSO_BY_FRAGS => Segment::Cut,
            bytes => Segment::Payload(bytes),
        }
    }

    #[inline(always)]
    fn answer(&mut self, _work: &Work, answer: Answer, mtu: u32) -> bool {
        crate::calls::answer(self.skb, answer as u32, mtu) != 0
    }
}
