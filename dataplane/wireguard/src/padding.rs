//! The length of a data packet's plaintext once it is padded.
//!
//! In: a packet's length and the MTU of its route. Out: the padded length. Never: the packet.

use crate::limits::PADDING_MULTIPLE;

/// The plaintext length for a packet of `len` bytes on a route of `mtu` bytes (0: no limit).
///
/// Zeros fill up to a multiple of 16, but never beyond the MTU. A packet longer than the MTU (which a layer above
/// let through) is padded as its last MTU-sized piece would be (kernel `send.c`).
#[must_use]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return len.next_multiple_of(PADDING_MULTIPLE);
    }
    let last_unit = if len > mtu { len % mtu } else { len };
    let padded = last_unit.next_multiple_of(PADDING_MULTIPLE);
    let padded = if padded > mtu { mtu } else { padded };
    len - last_unit + padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_to_sixteen_within_the_mtu() {
        assert_eq!(padded_len(0, 1420), 0);
        assert_eq!(padded_len(1, 1420), 16);
        assert_eq!(padded_len(16, 1420), 16);
        assert_eq!(padded_len(1409, 1420), 1420);
        assert_eq!(padded_len(1420, 1420), 1420);
        assert_eq!(padded_len(17, 0), 32);
    }

    #[test]
    fn never_shrinks_never_passes_the_mtu_never_adds_sixteen() {
        for mtu in [1, 15, 16, 17, 68, 576, 1279, 1280, 1420, 9000] {
            for len in 0..3 * mtu {
                let padded = padded_len(len, mtu);
                assert!(
                    padded >= len && padded - len < PADDING_MULTIPLE,
                    "{len} {mtu}"
                );
                assert!(len > mtu || padded <= mtu, "{len} {mtu}");
            }
        }
    }
}
