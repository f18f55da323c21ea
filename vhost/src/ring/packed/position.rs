//! Where a packed ring stands.
//!
//! In: entries that were taken. Out: an index and the lap's wrap bit (virtio 1.2, section 2.8.1).
//! Never: an index beyond the ring's size, if it began below it.

/// A position in the ring: the index, the wrap bit above. One word, so that it is stored and
/// loaded in one piece: a load over two younger stores waits for both.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Position(pub(super) u16);

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in lap {}", self.index(), u8::from(self.wrap()))
    }
}

impl Position {
    #[inline]
    pub(super) const fn index(self) -> u16 {
        self.0 & 0x7fff
    }

    #[inline]
    pub(super) const fn wrap(self) -> bool {
        self.0 >> 15 != 0
    }

    #[inline]
    pub(super) const fn advance(&mut self, entries: u16, size: u16) {
        // Both are at most 32768, and the index is less: the sum fits.
        let sum = self.index() + entries;
        let lap = self.0 & 0x8000;
        self.0 = if sum >= size {
            (sum - size) | (lap ^ 0x8000)
        } else {
            sum | lap
        };
    }
}
