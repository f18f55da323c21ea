//! Loss: the one place where a frame ends under a name.
//!
//! In: what is lost, for which reason, and in whose books: a port's, a peer's, an uplink's. Out: the count. Never: a
//! frame that is gone already: whoever loses it does so before its buffer is given back.
//!
//! Whoever wants to see lost frames stands here. Only what has no bytes of ours any more, or never had, is a mere
//! number. What is lost in a guest's rings, in the kernel and in a device is counted by those.

use culvert_wire::VnetHeader;

use crate::{
    guest::frames::{Frames, OwnFrame, OwnFrames},
    shared::{
        drops::{DropReason, Drops, PeerDrops},
        ids::{PeerIndex, PortIndex, UplinkIndex},
        peer::Peer,
        snapshot::Port,
    },
    uplink::Uplink,
};

/// What is lost.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "the bytes are for whoever looks at losses")]
pub(crate) enum Lost<'a> {
    /// Frame `1` of a burst.
    Guest(&'a dyn Frames, usize),
    /// So many (`2`) of the packets that frame `1` of a burst was cut into.
    Cut(&'a dyn Frames, usize, usize),
    /// A frame on its way to a guest, in pieces that lie one behind the other.
    Pieces(&'a [&'a [u8]]),
    /// An IP packet that came out of a tunnel.
    Inner(&'a [u8]),
    /// What came from the wire, or was on its way there.
    Wire(&'a [u8]),
    /// So many of which there is no more to see.
    Count(usize),
}

impl Lost<'_> {
    fn count(&self) -> usize {
        match *self {
            Self::Guest(..) | Self::Pieces(_) | Self::Inner(_) | Self::Wire(_) => 1,
            Self::Cut(_, _, count) | Self::Count(count) => count,
        }
    }
}

/// Whose loss it is.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "the name is for whoever looks at losses")]
pub(crate) enum Whose {
    /// A guest port's.
    Port(PortIndex),
    /// A peer's.
    Peer(PeerIndex),
    /// An uplink's.
    Uplink(UplinkIndex),
}

/// The books that a loss goes to.
#[derive(Clone, Copy)]
pub(crate) struct Books<'a> {
    #[allow(dead_code, reason = "the name is for whoever looks at losses")]
    whose: Whose,
    counters: Counters<'a>,
}

#[derive(Clone, Copy)]
enum Counters<'a> {
    Every(&'a Drops),
    Peers(&'a PeerDrops),
}

impl<'a> Books<'a> {
    pub(crate) const fn new(whose: Whose, drops: &'a Drops) -> Self {
        let counters = Counters::Every(drops);
        Self { whose, counters }
    }
}

impl Port {
    /// This port's books.
    pub(crate) fn books(&self) -> Books<'_> {
        Books::new(Whose::Port(self.index), &self.drops)
    }
}

impl Peer {
    /// This peer's books.
    pub(crate) fn books(&self) -> Books<'_> {
        Books {
            whose: Whose::Peer(self.index),
            counters: Counters::Peers(&self.drops),
        }
    }
}

impl Uplink {
    /// This uplink's books.
    pub(crate) fn books(&self) -> Books<'_> {
        Books::new(Whose::Uplink(self.index), &self.counters.drops)
    }
}

/// Ends one of them.
#[cold]
#[inline(never)]
pub(crate) fn lose(books: Books<'_>, reason: DropReason, lost: Lost<'_>) {
    let n = lost.count() as u64;
    match books.counters {
        Counters::Every(drops) => drops.add(reason, n),
        Counters::Peers(drops) => drops.add(reason, n),
    }
}

/// Ends several, for the same reason.
#[cold]
#[inline(never)]
pub(crate) fn lose_all<'l>(
    books: Books<'_>,
    reason: DropReason,
    lost: impl Iterator<Item = Lost<'l>>,
) {
    lost.for_each(|lost| lose(books, reason, lost));
}

/// Ends a whole frame that lies in our own memory.
#[cold]
#[inline(never)]
pub(crate) fn lose_own(books: Books<'_>, reason: DropReason, vnet: VnetHeader, bytes: &[u8]) {
    let own = [OwnFrame { vnet, bytes }];
    lose(books, reason, Lost::Guest(&OwnFrames(&own), 0));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn what_is_cut_counts_by_its_packets() {
        let drops = Drops::default();
        let books = Books::new(Whose::Port(PortIndex(0)), &drops);
        let own = [OwnFrame {
            vnet: VnetHeader::default(),
            bytes: &[1; 60],
        }];
        let frames = OwnFrames(&own);
        lose(books, DropReason::NoRoute, Lost::Guest(&frames, 0));
        lose(books, DropReason::NoRoute, Lost::Cut(&frames, 0, 45));
        lose(books, DropReason::NoRoute, Lost::Wire(&[1; 60]));
        lose_own(books, DropReason::NoRoute, VnetHeader::default(), &[1; 60]);
        lose_all(
            books,
            DropReason::TooBig,
            [Lost::Inner(&[2; 20]), Lost::Pieces(&[&[3; 14], &[4; 20]])].into_iter(),
        );
        lose(books, DropReason::TooBig, Lost::Count(0));
        let counted: Vec<_> = drops.iter().collect();
        assert_eq!(
            counted,
            [(DropReason::NoRoute, 48), (DropReason::TooBig, 2)]
        );
    }

    /// Nothing else in this crate counts a loss.
    #[test]
    fn a_loss_is_counted_here_alone() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut folders = vec![src.clone()];
        let mut read = 0;
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if ["loss.rs", "shared/drops.rs"]
                    .contains(&path.strip_prefix(&src).unwrap().to_str().unwrap())
                {
                    continue;
                }
                let text: String = fs::read_to_string(&path)
                    .unwrap()
                    .split_whitespace()
                    .collect();
                for call in ["drops.add(", ".add(DropReason::", ".add(reason,"] {
                    assert!(!text.contains(call), "{} says `{call}`", path.display());
                }
                read += 1;
            }
        }
        assert!(read > 40, "{read} files");
    }
}
