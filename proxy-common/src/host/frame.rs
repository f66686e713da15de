//! A packet in a `Vec`.

use crate::packet::{ChecksumChange, Packet, Segment};

/// A checksum that the sender left to its device (`CHECKSUM_PARTIAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingChecksum {
    /// Offset of the first covered byte. The checksum covers everything from there to the end.
    pub start: usize,
    /// Offset of the field. It holds the sum of the pseudo-header, not complemented; for a CRC it holds zero.
    pub field: usize,
    /// Whether it is SCTP's `CRC32c` (`csum_not_inet`).
    pub crc: bool,
}

/// A packet with its skb metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: Vec<u8>,
    pending: Option<PendingChecksum>,
    segment: u32,
    rigid: bool,
}

impl Frame {
    /// A packet whose checksums are complete.
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            pending: None,
            segment: 0,
            rigid: false,
        }
    }

    /// The same packet with a transport checksum left to the device.
    #[must_use]
    pub const fn pending(mut self, pending: PendingChecksum) -> Self {
        self.pending = Some(pending);
        self
    }

    /// The same packet as a GSO packet, to be segmented into this many bytes of payload (`gso_size`).
    #[must_use]
    pub const fn segmented(mut self, bytes: u32) -> Self {
        self.segment = bytes;
        self
    }

    /// The same packet, but [`remove`](Packet::remove) fails, as in the kernel if `skb->protocol` is not IP.
    #[must_use]
    pub const fn rigid(mut self, rigid: bool) -> Self {
        self.rigid = rigid;
        self
    }

    /// The packet's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Completes a pending checksum as a device does: sums all covered bytes, including the field, and writes
    /// the complement (Linux: `skb_checksum_help`, `skb_crc32c_csum_help`).
    #[must_use]
    pub fn completed(mut self) -> Self {
        let Some(PendingChecksum { start, field, crc }) = self.pending.take() else {
            return self;
        };
        if crc && field + 4 <= self.bytes.len() {
            let sum = crc32c_of(&self.bytes[start..]);
            self.bytes[field..field + 4].copy_from_slice(&sum.to_le_bytes());
        } else if !crc && field + 2 <= self.bytes.len() {
            let sum = match checksum_of(&[&self.bytes[start..]]) {
                0 => 0xffff,
                sum => sum,
            };
            self.bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self
    }
}

/// `CRC32c`, computed bit by bit. SCTP's field holds it in little-endian order (RFC 9260, appendix A).
pub fn crc32c_of(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 0 { 0 } else { 0x82f6_3b78 };
        }
    }
    !crc
}

/// Internet checksum of concatenated parts (RFC 1071), in host byte order. All parts but the last must have an
/// even length.
pub fn checksum_of(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl Packet for Frame {
    fn window<const N: usize>(&mut self, off: usize) -> Option<&mut [u8; N]> {
        self.bytes
            .get_mut(off..off.checked_add(N)?)?
            .try_into()
            .ok()
    }

    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn store<const N: usize>(&mut self, off: usize, bytes: &[u8; N]) -> Option<()> {
        *self.window::<N>(off)? = *bytes;
        Some(())
    }

    fn l4_checksum(&mut self, off: usize, change: ChecksumChange) -> Option<()> {
        let pending = self.pending.is_some();
        let field = self.window::<2>(off)?;
        let before = u16::from_ne_bytes(*field);
        let after = match (pending, before) {
            // Only the pseudo-header counts. The sum cannot become zero: a one's complement sum with a nonzero
            // term is never zero.
            (true, 1..) => change.pseudo.add16(before).fold(),
            (true, 0) if change.zero_means_none => 0,
            (true, 0) => change.pseudo.fold(),
            (false, _) => change.applied_to(before),
        };
        *field = after.to_ne_bytes();
        Some(())
    }

    fn checksum_pending(&mut self, _off: usize) -> bool {
        self.pending.is_some()
    }

    fn resize(&mut self, len: u32) -> Option<()> {
        self.bytes.resize(len as usize, 0);
        self.segment = 0;
        Some(())
    }

    fn remove(&mut self, l3: usize, len: u32) -> Option<()> {
        let len = len as usize;
        if self.rigid || self.bytes.len() < l3 + len {
            return None;
        }
        self.bytes.drain(l3..l3 + len);
        self.pending = self.pending.and_then(|pending| {
            Some(PendingChecksum {
                start: pending.start.checked_sub(len)?,
                field: pending.field.checked_sub(len)?,
                ..pending
            })
        });
        Some(())
    }

    fn segment(&self) -> Segment {
        match self.segment {
            0 => Segment::None,
            bytes => Segment::Payload(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;

    #[test]
    fn a_pending_checksum_is_completed_as_a_device_does() {
        let seed = Sum::default().add16(0x1234).fold();
        let mut bytes = vec![1, 2, 3, 4, 0, 0, 7];
        bytes[4..6].copy_from_slice(&seed.to_ne_bytes());
        let frame = Frame::new(bytes).pending(PendingChecksum {
            start: 2,
            field: 4,
            crc: false,
        });
        let done = frame.completed();
        let pseudo = 0x1234u16.to_ne_bytes();
        assert_eq!(checksum_of(&[&pseudo, &done.bytes()[2..]]), 0);
        assert_eq!(done.bytes()[..2], [1, 2]);
    }

    #[test]
    fn the_crc_is_that_of_the_catalogues() {
        assert_eq!(crc32c_of(b"123456789"), 0xe306_9283);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c_of(&[0; 32]).to_le_bytes(), [0xaa, 0x36, 0x91, 0x8a]);
    }
}
