//! The Internet checksum's sum (RFC 1071) of a payload that a seal passed over.
//!
//! **In**: private bytes, or sums of words that a kernel gathered.
//! **Out**: a folded sum. **Never**: a decision on what it summed.

/// One's complement sum of a payload as big-endian 16-bit words, folded, not complemented.
///
/// Add the pseudo-header's and the header's words to it, fold and complement, and the transport
/// checksum is there. The payload is taken to begin at an even offset from its checksum's start, as
/// it does behind every TCP and UDP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PayloadSum(u16);

impl PayloadSum {
    /// The sum as a number, in host order.
    #[must_use]
    pub fn value(self) -> u16 {
        self.0
    }

    /// From a folded sum of words that were loaded as a little-endian machine loads them.
    pub(crate) fn from_words(sum: u16) -> Self {
        Self(sum.swap_bytes())
    }

    /// Sums private bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::from_words(fold(words(bytes), false))
    }
}

/// The sum of little-endian words of private bytes, zeros to the last word's end.
pub(crate) fn words(bytes: &[u8]) -> u64 {
    let mut sum = 0u64;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        sum += u64::from(u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    sum + u64::from(u32::from_le_bytes(last))
}

/// Folds a sum to 16 bits; `odd` moves it by a byte, to words that begin at the other parity.
pub(crate) fn fold(sum: u64, odd: bool) -> u16 {
    // Halves meet in the upper one, with their carry; no branch depends on what was summed.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    let sum = (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16;
    if odd { sum.swap_bytes() } else { sum }
}

#[cfg(test)]
mod tests {
    use super::PayloadSum;

    #[test]
    fn sums_words_in_network_order() {
        assert_eq!(PayloadSum::of(&[]).value(), 0);
        assert_eq!(PayloadSum::of(&[0x12]).value(), 0x1200);
        assert_eq!(PayloadSum::of(&[0x12, 0x34, 0x00, 0x01]).value(), 0x1235);
        // RFC 1071, section 3: the example's sum is ddf2.
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(PayloadSum::of(&example).value(), 0xddf2);
    }
}
