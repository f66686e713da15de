//! The interface through which the datapath reads and changes a packet.

use crate::{
    checksum::{Sum, update},
    crc32c,
    datapath::{
        Work,
        answer::{Answer, build},
    },
};

/// A change of the data that a transport checksum covers.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChecksumChange {
    /// Change of the pseudo-header (addresses, length, protocol).
    pub pseudo: Sum,
    /// Change of all other covered data (ports, header fields, payload).
    pub data: Sum,
    /// UDP: a field of zero means "no checksum" and stays zero; a computed zero is written as `0xffff`
    /// (RFC 768).
    pub zero_means_none: bool,
    /// Whether the pseudo-header is that of IPv6.
    pub v6: bool,
}

impl ChecksumChange {
    /// The new value of a complete transport checksum (RFC 1624).
    #[inline(always)]
    pub const fn applied_to(&self, field: u16) -> u16 {
        if self.zero_means_none && field == 0 {
            return 0;
        }
        match update(field, self.pseudo.add(self.data.0)) {
            0 if self.zero_means_none => 0xffff,
            field => field,
        }
    }
}

/// How the kernel or the device will segment a packet when it is sent (GSO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The packet is sent whole.
    None,
    /// Into segments with this many bytes of payload.
    Payload(u32),
    /// Along boundaries that the packet already has (`GSO_BY_FRAGS`, for SCTP).
    Cut,
}

/// A packet in a buffer: an XDP frame, an skb, or bytes on the host.
///
/// Offsets are in bytes from the start of the packet (Ethernet or IP header). The datapath tries everything
/// that can fail before its first write, because a passed packet must be unchanged.
pub trait Packet {
    /// `N` bytes at `off`, or `None` if the packet ends before. Take one window per header and index it with
    /// constants: the verifier then sees a single bounds check.
    fn window<const N: usize>(&mut self, off: usize) -> Option<&mut [u8; N]>;

    /// Length in bytes.
    fn len(&self) -> u32;

    /// Whether the packet has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Overwrites `N` bytes that no header checksum compensates for: an IPv6 address, an IPv6 hop limit, SCTP's
    /// common header. Also updates the sum over the whole packet, where the kernel keeps one
    /// (`CHECKSUM_COMPLETE`).
    fn store<const N: usize>(&mut self, off: usize, bytes: &[u8; N]) -> Option<()>;

    /// Updates the TCP or UDP checksum field at `off`. Call it before writing the change itself.
    fn l4_checksum(&mut self, off: usize, change: ChecksumChange) -> Option<()>;

    /// Whether the transport checksum at `off` is left to the sender's device (`CHECKSUM_PARTIAL`). The field
    /// then holds the sum of the pseudo-header, not complemented.
    fn checksum_pending(&mut self, off: usize) -> bool;

    /// [`crc32c::change`]. `proxy-ebpf` compiles it as a separately verified BPF function.
    fn crc32c_change(&mut self, ports: u32, len: u16) -> u32 {
        crc32c::change(ports, len)
    }

    /// Truncates or extends the packet at its end; new bytes are zero. Also makes the packet linear.
    fn resize(&mut self, len: u32) -> Option<()>;

    /// Removes `len` bytes, starting at the IP header, whose offset is `l3`. If a checksum is left to the
    /// sender's device and covers a removed byte, the kernel forgets that checksum.
    fn remove(&mut self, l3: usize, len: u32) -> Option<()>;

    /// How the packet will be segmented when it is sent.
    fn segment(&self) -> Segment;

    /// [`build`]. `proxy-ebpf` compiles it as a separately verified BPF function with a stack frame of its own.
    fn answer(&mut self, work: &Work, answer: Answer, mtu: u32) -> bool
    where
        Self: Sized,
    {
        build(self, work.headers(), answer, mtu)
    }
}
