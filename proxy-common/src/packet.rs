//! A packet, as the datapath may touch it.

use crate::{
    checksum::{Sum, update},
    crc32c,
    datapath::{
        Work,
        answer::{Answer, build},
    },
};

/// How a change reaches a transport checksum.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChecksumChange {
    /// Change of the pseudo-header: addresses, length, protocol.
    pub pseudo: Sum,
    /// Change of what the checksum covers beside: ports, header fields, payload.
    pub data: Sum,
    /// UDP over IPv4: a field of zero means "no checksum" and stays, a result of zero is written as `0xffff`
    /// (RFC 768).
    pub zero_means_none: bool,
    /// The pseudo-header is an IPv6 one.
    pub v6: bool,
}

impl ChecksumChange {
    /// What a transport checksum that is all there becomes (RFC 1624).
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

/// How a packet is cut when it leaves (GSO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Not at all.
    None,
    /// Into pieces of so many bytes of payload.
    Payload(u32),
    /// Into pieces that are there already (SCTP).
    Cut,
}

/// A packet in a buffer: XDP frame, skb, or bytes on the host.
///
/// Offsets are in bytes from the start of the packet (Ethernet or IP header). Everything that can fail is tried
/// before the first write: a verdict of "pass" must leave the packet as it came.
pub trait Packet {
    /// `N` bytes at `off`, or nothing if the packet ends before. Take one for each header and use constant
    /// indices inside: the verifier then sees one bounds check.
    fn window<const N: usize>(&mut self, off: usize) -> Option<&mut [u8; N]>;

    /// Length in bytes.
    fn len(&self) -> u32;

    /// Whether it has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Overwrites `N` bytes whose change no header checksum cancels (an IPv6 address, a hop limit, SCTP's header), so that a
    /// sum over the whole packet, where the kernel keeps one, stays right.
    fn store<const N: usize>(&mut self, off: usize, bytes: &[u8; N]) -> Option<()>;

    /// Updates the transport checksum field of TCP or UDP at `off`. Must come before the change itself is written.
    fn l4_checksum(&mut self, off: usize, change: ChecksumChange) -> Option<()>;

    /// Whether the transport checksum at `off` is left to the sender's device: the field then holds the
    /// pseudo-header's sum, not complemented (`CHECKSUM_PARTIAL`).
    fn checksum_pending(&mut self, off: usize) -> bool;

    /// [`crc32c::change`]; the kernel's implementation makes it a function that is verified by itself.
    fn crc32c_change(&mut self, ports: u32, len: u16) -> u32 {
        crc32c::change(ports, len)
    }

    /// Cuts or extends the packet at its tail. What is new is zero. Afterwards it is in one piece.
    fn resize(&mut self, len: u32) -> Option<()>;

    /// Takes out so many bytes from the IP header on, which is at `l3`, and with them a checksum that is left to the sender's
    /// device, if it covers any of them.
    fn remove(&mut self, l3: usize, len: u32) -> Option<()>;

    /// Whether it will be cut when it leaves.
    fn segment(&self) -> Segment;

    /// [`build`]; the kernel's implementation makes it a function that is verified by itself, with a stack frame of
    /// its own.
    fn answer(&mut self, work: &Work, answer: Answer, mtu: u32) -> bool
    where
        Self: Sized,
    {
        build(self, work.headers(), answer, mtu)
    }
}
