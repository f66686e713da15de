//! SCTP's checksum, `CRC32c` (RFC 9260 §6.8 and appendix A), and its incremental update.
//!
//! A CRC is linear. If some bits of a packet are flipped, the checksum changes by the CRC of a packet in which
//! only those bits are set. Each bit that follows them multiplies this CRC by x. So only the number of the
//! bytes after the ports matters, not their contents.
//!
//! Polynomials are bit-reflected: bit 31 is the coefficient of 1, bit 0 that of x³¹.

/// The generator polynomial, without its highest term.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;
/// x⁸: the factor for one byte.
const BYTE: u32 = ONE >> 8;

/// `LENGTHS[i][b]` is the factor for a length whose byte `i` (0: low, 1: high) is `b`: x^(8 × b × 256^i).
static LENGTHS: [[u32; 256]; 2] = {
    let low = powers(BYTE);
    [low, powers(multiply(low[255], BYTE))]
};

/// The value to XOR into the checksum, as a little-endian number, when the ports change.
///
/// `ports`: old XOR new value of the four bytes of the ports, as a little-endian number. `len`: number of bytes
/// from the ports to the end of the packet.
#[inline(always)]
pub fn change(ports: u32, len: u16) -> u32 {
    let [low, high] = len.to_le_bytes().map(usize::from);
    multiply(multiply(ports, LENGTHS[0][low]), LENGTHS[1][high])
}

/// The powers 0 to 255 of a polynomial.
const fn powers(of: u32) -> [u32; 256] {
    let mut all = [ONE; 256];
    let mut i = 1;
    while i < all.len() {
        all[i] = multiply(all[i - 1], of);
        i += 1;
    }
    all
}

/// Product of two polynomials modulo the generator. Masks replace branches: the branches would be
/// unpredictable, and the verifier would explore each one.
#[inline(always)]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut i) = (0, 0);
    while i < u32::BITS {
        // All ones if the bit is set, else zero: the arithmetic shift copies the sign bit.
        let coefficient = ((a << i).cast_signed() >> 31).cast_unsigned();
        product ^= b & coefficient;
        b = b >> 1 ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
        i += 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::host::crc32c_of;

    /// Replaces the ports of a packet and updates its checksum.
    fn translate(packet: &mut [u8], ports: [u8; 4]) {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let flipped = word(&packet[..4]) ^ word(&ports);
        let field = word(&packet[8..12]) ^ change(flipped, packet.len() as u16);
        packet[..4].copy_from_slice(&ports);
        packet[8..12].copy_from_slice(&field.to_le_bytes());
    }

    /// Computes and writes the whole checksum.
    fn sum_up(packet: &mut [u8]) {
        packet[8..12].fill(0);
        let sum = crc32c_of(packet);
        packet[8..12].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn every_length_has_its_power() {
        let mut packet = vec![0x5a; usize::from(u16::MAX)];
        // The CRC of a packet in which only the flipped bit is set, extended by one byte in each round.
        let mut carried = 1u32;
        for len in 1..=u16::MAX {
            for _ in 0..8 {
                carried = carried >> 1 ^ if carried & 1 == 0 { 0 } else { POLYNOMIAL };
            }
            assert_eq!(change(1, len), carried, "{len}");
        }
        sum_up(&mut packet);
        let mut expected = packet.clone();
        translate(&mut packet, [1, 2, 3, 4]);
        expected[..4].copy_from_slice(&[1, 2, 3, 4]);
        sum_up(&mut expected);
        assert!(packet == expected, "64 KiB");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

        #[test]
        fn p1_incremental_update_equals_a_full_sum(
            len in prop_oneof![16..2_000usize, 16..=usize::from(u16::MAX)],
            seed in any::<u64>(),
            ports in any::<[u8; 4]>(),
        ) {
            let mut state = seed;
            let mut packet: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(len)
            .collect();
            sum_up(&mut packet);
            let mut expected = packet.clone();
            translate(&mut packet, ports);
            expected[..4].copy_from_slice(&ports);
            sum_up(&mut expected);
            prop_assert!(packet == expected);
        }

        #[test]
        fn multiplication_is_that_of_a_field(a in any::<u32>(), b in any::<u32>(), c in any::<u32>()) {
            prop_assert_eq!(multiply(a, ONE), a);
            prop_assert_eq!(multiply(a, b), multiply(b, a));
            prop_assert_eq!(multiply(a, b ^ c), multiply(a, b) ^ multiply(a, c));
            prop_assert_eq!(multiply(multiply(a, b), c), multiply(a, multiply(b, c)));
        }
    }
}
