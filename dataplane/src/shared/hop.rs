//! The next hop of paths: one cell, which all paths through it refer to.
//!
//! In: the uplink that it is on; from the control core, a neighbor's address, or that it is lost. Out: that uplink, and
//! both ends of the Ethernet frames there. Never: a path that has to be made anew because a neighbor changed: that is
//! one store, however many peers are behind it.

use std::{
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use culvert_wire::MacAddr;

use crate::shared::{asked::Asked, ids::UplinkIndex};

/// Above the bits of a MAC address: it is known.
const KNOWN: u64 = 1 << 48;

/// A next hop.
#[derive(Debug)]
pub struct Hop {
    uplink: UplinkIndex,
    link: Link,
    /// The neighbor's address and [`KNOWN`], or 0.
    neighbor: AtomicU64,
    asked: Asked,
}

/// What is below IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The kernel's business (UDP uplink).
    Kernel,
    /// A link of ours, on which we have this address (DPDK uplink).
    Ethernet(MacAddr),
    /// Nothing: no route leads there.
    Nowhere,
}

/// What a hop said at one moment, to tell later whether it still does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbor(u64);

impl Hop {
    /// The one hop of an uplink where the kernel finds the way.
    #[must_use]
    pub fn kernel(uplink: UplinkIndex) -> Self {
        Self::new(uplink, Link::Kernel)
    }

    /// The hop of what no route of `uplink` leads to.
    #[must_use]
    pub fn nowhere(uplink: UplinkIndex) -> Self {
        Self::new(uplink, Link::Nowhere)
    }

    /// A next hop on a link where we have the address `source`.
    #[must_use]
    pub fn ethernet(uplink: UplinkIndex, source: MacAddr, neighbor: Option<MacAddr>) -> Self {
        let hop = Self::new(uplink, Link::Ethernet(source));
        hop.set(neighbor);
        hop
    }

    fn new(uplink: UplinkIndex, link: Link) -> Self {
        Self {
            uplink,
            link,
            neighbor: AtomicU64::new(0),
            asked: Asked::default(),
        }
    }

    /// The uplink that it is on: what goes there leaves by that.
    #[must_use]
    pub const fn uplink(&self) -> UplinkIndex {
        self.uplink
    }

    /// What is below IP.
    #[must_use]
    pub const fn link(&self) -> Link {
        self.link
    }

    /// Whether the kernel finds the way.
    #[must_use]
    pub const fn is_kernels(&self) -> bool {
        matches!(self.link, Link::Kernel)
    }

    /// Whether a datagram could go there now.
    #[must_use]
    pub fn is_resolved(&self) -> bool {
        match self.link {
            Link::Kernel => true,
            Link::Ethernet(_) => self.neighbor().mac().is_some(),
            Link::Nowhere => false,
        }
    }

    /// Control core: where the neighbor is now, if that is known; whether that is new.
    pub fn set(&self, neighbor: Option<MacAddr>) -> bool {
        let word = neighbor.map_or(0, |MacAddr([a, b, c, d, e, f])| {
            u64::from_be_bytes([0, 0, a, b, c, d, e, f]) | KNOWN
        });
        let is_new = self.neighbor.swap(word, Ordering::Relaxed) != word;
        if is_new {
            self.asked.anew();
        }
        is_new
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

impl PartialEq for Hop {
    /// Whether they are one hop, not whether two happen to say the same.
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self, other)
    }
}

impl Eq for Hop {}

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

    const UPLINK: UplinkIndex = UplinkIndex(3);

    #[test]
    fn a_neighbor_comes_moves_and_goes() {
        let [ours, one, two] = [1, 2, 0xff].map(|n| MacAddr([n; 6]));
        let hop = Hop::ethernet(UPLINK, ours, None);
        assert_eq!((hop.uplink(), hop.link()), (UPLINK, Link::Ethernet(ours)));
        assert!(hop.neighbor().mac().is_none() && !hop.is_resolved());
        for neighbor in [Some(one), Some(two), Some(MacAddr::ZERO), None] {
            let before = hop.neighbor();
            hop.set(neighbor);
            assert_eq!(hop.neighbor().mac(), neighbor);
            assert_eq!(hop.is_resolved(), neighbor.is_some());
            assert_ne!(hop.neighbor(), before);
        }
    }

    #[test]
    fn the_kernel_finds_its_way_and_nowhere_is_no_way() {
        let [kernel, nowhere] = [Hop::kernel(UPLINK), Hop::nowhere(UPLINK)];
        assert!(kernel.is_kernels() && kernel.is_resolved());
        assert!(!nowhere.is_kernels() && !nowhere.is_resolved());
        assert!(kernel == kernel && kernel != Hop::kernel(UPLINK));
    }
}
