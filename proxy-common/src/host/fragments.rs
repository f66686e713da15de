//! Fragmenting packets.

use super::checksum_of;

const MORE: u16 = 0x2000;
const FRAGMENT_HEADER: u8 = 44;
const IPV6: usize = 40;

/// Splits a packet into fragments of at most `payload` bytes (a multiple of eight), as a sender does
/// (RFC 791 §3.2, RFC 8200 §4.5). The IP header is at `l3`. An IPv6 packet must have no extension headers. `id`
/// is the identification; IPv4 uses its low 16 bits.
///
/// # Panics
///
/// If the packet has no data after its IP header, or `payload` is not a multiple of eight.
pub fn fragments(packet: &[u8], l3: usize, id: u32, payload: usize) -> Vec<Vec<u8>> {
    assert_eq!(
        payload % 8,
        0,
        "fragment offsets are in units of eight bytes"
    );
    let v4 = packet[l3] >> 4 == 4;
    let header = if v4 {
        usize::from(packet[l3] & 0x0f) * 4
    } else {
        IPV6
    };
    let (head, data) = packet.split_at(l3 + header);
    let last = data.len().div_ceil(payload) - 1;
    let pieces = data.chunks(payload).enumerate();
    pieces
        .map(|(index, piece)| {
            let (offset, more) = (index * payload, index < last);
            let mut bytes = head.to_vec();
            if v4 {
                mark_v4(&mut bytes[l3..], id, offset, more, piece.len());
            } else {
                mark_v6(&mut bytes, l3, id, offset, more, piece.len());
            }
            bytes.extend_from_slice(piece);
            bytes
        })
        .collect()
}

fn mark_v4(ip: &mut [u8], id: u32, offset: usize, more: bool, len: usize) {
    let total = (ip.len() + len) as u16;
    let field = (offset / 8) as u16 | if more { MORE } else { 0 };
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..6].copy_from_slice(&(id as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&field.to_be_bytes());
    ip[10..12].fill(0);
    let sum = checksum_of(&[ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn mark_v6(bytes: &mut Vec<u8>, l3: usize, id: u32, offset: usize, more: bool, len: usize) {
    let next = std::mem::replace(&mut bytes[l3 + 6], FRAGMENT_HEADER);
    bytes[l3 + 4..l3 + 6].copy_from_slice(&((8 + len) as u16).to_be_bytes());
    let field = offset as u16 | u16::from(more);
    bytes.extend_from_slice(&[next, 0]);
    bytes.extend_from_slice(&field.to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use crate::host::{Segment, fragments};

    #[test]
    fn the_pieces_are_the_packet() {
        for (src, dst) in [("10.0.0.1:5", "10.0.0.2:6"), ("[fd00::1]:5", "[fd00::2]:6")] {
            let payload: Vec<u8> = (0..100).collect();
            let packet = Segment::udp(src, dst).payload(&payload).bytes();
            let l4 = if src.starts_with('[') { 54 } else { 34 };
            let data = &packet[l4..];
            let pieces = fragments(&packet, 14, 7, 48);
            let header = pieces[0].len() - 48;
            let sizes: Vec<usize> = pieces.iter().map(|piece| piece.len() - header).collect();
            assert_eq!(sizes, [48, 48, 12]);
            let all: Vec<u8> = pieces
                .iter()
                .flat_map(|piece| piece[header..].to_vec())
                .collect();
            assert_eq!(all, data);
        }
    }
}
