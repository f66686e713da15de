//! Internet checksums (RFC 1071) and their incremental update (RFC 1624).
//!
//! Sums are of 16-bit words in memory order, like the kernel's `__wsum`. A one's complement sum does not depend
//! on byte order, as long as all terms use the same (RFC 1071 §2).

/// A one's complement sum, not folded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(pub u32);

impl Sum {
    /// Adds a word of four bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn add(self, word: u32) -> Self {
        let (sum, carry) = self.0.overflowing_add(word);
        Self(sum.wrapping_add(carry as u32))
    }

    /// Adds two bytes in memory order.
    #[inline(always)]
    #[must_use]
    pub const fn add16(self, half: u16) -> Self {
        self.add(half as u32)
    }

    /// Adds the difference that replacing `old` by `new` makes.
    #[inline(always)]
    #[must_use]
    pub const fn replace(self, old: u32, new: u32) -> Self {
        self.add(!old).add(new)
    }

    /// Adds the difference that replacing a 16-bit word makes.
    #[inline(always)]
    #[must_use]
    pub const fn replace16(self, old: u16, new: u16) -> Self {
        self.add((!old) as u32).add(new as u32)
    }

    /// Adds bytes. If their number is odd, a zero byte is appended.
    #[inline(always)]
    #[must_use]
    pub fn bytes<const N: usize>(self, bytes: &[u8; N]) -> Self {
        let (mut sum, mut i) = (self, 0);
        while i + 1 < N {
            sum = sum.add16(u16::from_ne_bytes([bytes[i], bytes[i + 1]]));
            i += 2;
        }
        if i < N {
            sum = sum.add16(u16::from_ne_bytes([bytes[i], 0]));
        }
        sum
    }

    /// The sum folded to 16 bits, not complemented.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let s = (self.0 & 0xffff) + (self.0 >> 16);
        ((s & 0xffff) + (s >> 16)) as u16
    }
}

/// A checksum field after `change` in the covered data: `HC' = ~(~HC + ~m + m')` (RFC 1624, eqn. 3).
#[inline(always)]
pub const fn update(field: u16, change: Sum) -> u16 {
    !change.add16(!field).fold()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(data: &[u8]) -> u16 {
        let mut sum = Sum::default();
        for pair in data.chunks(2) {
            sum = sum.add16(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        !sum.fold()
    }

    proptest! {
        #[test]
        fn incremental_update_equals_a_full_sum(mut data in prop::array::uniform32(any::<u8>()), at in 0usize..8, new in any::<u32>()) {
            let field = full(&data);
            let old = u32::from_ne_bytes(data[at * 4..at * 4 + 4].try_into().unwrap());
            data[at * 4..at * 4 + 4].copy_from_slice(&new.to_ne_bytes());
            let updated = update(field, Sum::default().replace(old, new));
            let expected = full(&data);
            // 0x0000 and 0xffff are both zero in one's complement.
            prop_assert!(updated == expected || (updated ^ expected == 0xffff && (updated == 0 || expected == 0)));
        }

        #[test]
        fn bytes_adds_every_pair(data in prop::array::uniform20(any::<u8>())) {
            prop_assert_eq!(!Sum::default().bytes(&data).fold(), full(&data));
        }
    }
}
