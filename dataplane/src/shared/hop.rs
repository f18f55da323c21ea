//! The next hop on a link of ours: one cell, which all paths through it refer to.
//!
//! In: from the control core, the neighbor's address, or that it is lost. Out: both ends of the Ethernet frames there.
//! Never: a path that has to be made anew because a neighbor changed: that is one store, however many peers are behind
//! it.

use std::sync::atomic::{AtomicU64, Ordering};

use culvert_wire::MacAddr;

use crate::shared::asked::Asked;

/// Above the bits of a MAC address: it is known.
const KNOWN: u64 = 1 << 48;

/// A next hop.
#[derive(Debug)]
pub struct Hop {
    source: MacAddr,
    /// The neighbor's address and [`KNOWN`], or 0.
    neighbor: AtomicU64,
    asked: Asked,
}

/// What a hop said at one moment, to tell later whether it still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor(u64);

impl Hop {
    /// A next hop from our address `source`.
    #[must_use]
    pub fn new(source: MacAddr, neighbor: Option<MacAddr>) -> Self {
        let hop = Self {
            source,
            neighbor: AtomicU64::new(0),
            asked: Asked::default(),
        };
        hop.set(neighbor);
        hop
    }

    /// Our own address.
    #[must_use]
    pub const fn source(&self) -> MacAddr {
        self.source
    }

    /// Control core: where the neighbor is now, if that is known.
    pub fn set(&self, neighbor: Option<MacAddr>) {
        let word = neighbor.map_or(0, |MacAddr([a, b, c, d, e, f])| {
            u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | KNOWN
        });
        if self.neighbor.swap(word, Ordering::Relaxed) != word {
            self.asked.anew();
        }
    }

    /// Whether the control core was asked for the neighbor.
    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// Where the neighbor is.
    #[must_use]
    pub fn neighbor(&self) -> Neighbor {
        Neighbor(self.neighbor.load(Ordering::Relaxed))
    }
}

impl Neighbor {
    /// Its address, if it is known.
    #[must_use]
    pub fn mac(self) -> Option<MacAddr> {
        let [_, _, mac @ ..] = self.0.to_be_bytes();
        (self.0 & KNOWN != 0).then_some(MacAddr(mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbor_comes_moves_and_goes() {
        let [ours, one, two] = [1, 2, 0xff].map(|n| MacAddr([n; 6]));
        let hop = Hop::new(ours, None);
        assert_eq!((hop.source(), hop.neighbor().mac()), (ours, None));
        for neighbor in [Some(one), Some(two), Some(MacAddr::ZERO), None] {
            let before = hop.neighbor();
            hop.set(neighbor);
            assert_eq!(hop.neighbor().mac(), neighbor);
            assert_ne!(hop.neighbor(), before);
        }
    }
}
