//! Frames that wait for a peer's key.
//!
//! In: frames whose peer has no usable keypair, copied uncut. Out: the same frames,
//! in order, when the key is there. Never: growth; a look at every frame; a frame lost for
//! another sender's, as long as that one has more.
//!
//! One per worker. A frame lies in a cell, a small one or one for any frame, so that neither
//! kind takes the other's room. Who fills the cells of a kind loses the oldest of its own to
//! the next frame, whoever sends that; and of one sender so many frames wait for one peer.
//!
//! ```text
//!  memory  | small cells              | large cells              |
//!  lists   | by peer: what leaves, in order                       |
//!          | by sender and kind: what makes room, the oldest first|
//!          | by sender and peer: its bound                        |
//! ```

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    ops::Range,
};

use culvert_wire::VnetHeader;

use crate::{
    guest::frames::Frames,
    pages::Pages,
    shared::{
        ids::{PeerIndex, PortIndex, UplinkIndex},
        limits,
    },
};

/// Who sent a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// A guest.
    Port(PortIndex),
    /// Another peer, or the gateway on its behalf.
    Peer(PeerIndex),
}

/// The peer that a frame waits for, and the uplink that it was reached by.
pub(crate) type Whom = (PeerIndex, Option<UplinkIndex>);

/// Bytes of a cell for any frame: whole cache lines.
const LARGE: usize = limits::FRAME_MAX.next_multiple_of(64);
const CELLS: usize = limits::STAGED_SMALL_FRAMES + limits::STAGED_LARGE_FRAMES;
const NONE: usize = usize::MAX;

/// Whether a frame needs a large cell.
type IsLarge = bool;

/// One frame, or none.
#[derive(Clone, Copy)]
struct Cell {
    whom: Whom,
    sender: Sender,
    vnet: VnetHeader,
    len: usize,
    /// The neighbors in each of its lists.
    links: [Link; 3],
}

#[derive(Clone, Copy)]
struct Link {
    before: usize,
    behind: usize,
}

/// Cells in the order of their frames' arrival.
#[derive(Clone, Copy)]
struct List {
    first: usize,
    last: usize,
    count: usize,
}

/// Which of a cell's links a list goes by.
const BY_PEER: usize = 0;
const BY_SENDER: usize = 1;
const BY_PAIR: usize = 2;

/// One worker's waiting frames.
pub(crate) struct Staged {
    memory: Pages,
    cells: Box<[Cell]>,
    /// Free cells, small and large.
    free: [Vec<usize>; 2],
    /// None of these maps has an empty list. A look-up per packet must not cost more because some
    /// guest fills the cells.
    peers: HashMap<PeerIndex, List>,
    senders: HashMap<(Sender, IsLarge), List>,
    pairs: HashMap<(Sender, PeerIndex), List>,
}

impl Staged {
    /// The most frames that wait.
    pub(crate) const CELLS: usize = CELLS;

    pub(crate) fn new() -> Self {
        let link = Link {
            before: NONE,
            behind: NONE,
        };
        let cell = Cell {
            whom: (PeerIndex(0), None),
            sender: Sender::Peer(PeerIndex(0)),
            vnet: VnetHeader::default(),
            len: 0,
            links: [link; 3],
        };
        let small = (0..limits::STAGED_SMALL_FRAMES).rev().collect();
        let large = (limits::STAGED_SMALL_FRAMES..CELLS).rev().collect();
        Self {
            memory: Pages::new(start(CELLS)),
            cells: vec![cell; CELLS].into_boxed_slice(),
            free: [small, large],
            peers: HashMap::with_capacity(CELLS),
            senders: HashMap::with_capacity(CELLS),
            pairs: HashMap::with_capacity(CELLS),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Those for whom frames wait.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerIndex> {
        self.peers.keys().copied()
    }

    /// Whether a frame waits for `peer`.
    pub(crate) fn holds(&self, peer: PeerIndex) -> bool {
        self.peers.contains_key(&peer)
    }

    /// Copies frame `i` of `sender` behind the others. `dropped` gets each older frame that
    /// made room for it. `false` if the frame itself can't be kept.
    pub(crate) fn push(
        &mut self,
        whom: Whom,
        sender: Sender,
        frames: &impl Frames,
        i: usize,
        mut dropped: impl FnMut(Whom, VnetHeader, &[u8]),
    ) -> bool {
        let len = frames.len(i);
        if len > limits::FRAME_MAX {
            return false;
        }
        let is_large = len > limits::STAGED_SMALL;
        let pair = self.pairs.get(&(sender, whom.0));
        let excess = pair.filter(|pair| pair.count >= limits::STAGED_PER_PEER);
        if let Some(oldest) = excess.map(|pair| pair.first) {
            self.drop_oldest(oldest, &mut dropped);
        }
        if self.free[usize::from(is_large)].is_empty()
            && let Some(oldest) = self.victim(sender, is_large)
        {
            self.drop_oldest(oldest, &mut dropped);
        }
        let Some(&at) = self.free[usize::from(is_large)].last() else {
            return false;
        };
        let place = start(at)..start(at) + len;
        if !frames.copy_whole(i, &mut self.memory[place]) {
            return false;
        }
        self.free[usize::from(is_large)].pop();
        self.insert(at, whom, sender, (*frames.vnet(i), len));
        true
    }

    fn drop_oldest(&mut self, oldest: usize, dropped: &mut impl FnMut(Whom, VnetHeader, &[u8])) {
        let whom = self.cells[oldest].whom;
        let (vnet, place) = self.remove(oldest);
        dropped(whom, vnet, self.bytes(place));
    }

    /// The frame that makes room for one of `sender`: the oldest of who has most.
    #[cold]
    fn victim(&self, sender: Sender, is_large: IsLarge) -> Option<usize> {
        let of_kind = self
            .senders
            .iter()
            .filter(|&(&(_, kind), _)| kind == is_large);
        // Among equals its own makes room.
        let most = of_kind.max_by_key(|&(&(who, _), list)| (list.count, who == sender));
        most.map(|(_, list)| list.first)
    }

    /// The oldest frame that waits for `peer`, and who sent it, taken out; its bytes lie at this place
    /// until the next `push`.
    pub(crate) fn take(&mut self, peer: PeerIndex) -> Option<(Sender, VnetHeader, Range<usize>)> {
        let oldest = self.peers.get(&peer)?.first;
        let sender = self.cells[oldest].sender;
        let (vnet, place) = self.remove(oldest);
        Some((sender, vnet, place))
    }

    /// The bytes of a frame that was taken out.
    pub(crate) fn bytes(&self, place: Range<usize>) -> &[u8] {
        &self.memory[place]
    }

    fn insert(&mut self, at: usize, whom: Whom, sender: Sender, (vnet, len): (VnetHeader, usize)) {
        let cell = &mut self.cells[at];
        (cell.whom, cell.sender) = (whom, sender);
        (cell.vnet, cell.len) = (vnet, len);
        let (peer, _) = whom;
        let cells = &mut self.cells;
        append(cells, &mut self.peers, peer, (BY_PEER, at));
        append(
            cells,
            &mut self.senders,
            (sender, is_large(at)),
            (BY_SENDER, at),
        );
        append(cells, &mut self.pairs, (sender, peer), (BY_PAIR, at));
    }

    fn remove(&mut self, at: usize) -> (VnetHeader, Range<usize>) {
        let Cell {
            whom: (peer, _),
            sender,
            vnet,
            len,
            ..
        } = self.cells[at];
        let cells = &mut self.cells;
        unlink(cells, &mut self.peers, peer, (BY_PEER, at));
        unlink(
            cells,
            &mut self.senders,
            (sender, is_large(at)),
            (BY_SENDER, at),
        );
        unlink(cells, &mut self.pairs, (sender, peer), (BY_PAIR, at));
        self.free[usize::from(is_large(at))].push(at);
        (vnet, start(at)..start(at) + len)
    }
}

const fn is_large(cell: usize) -> IsLarge {
    cell >= limits::STAGED_SMALL_FRAMES
}

/// Where a cell begins.
const fn start(cell: usize) -> usize {
    let large = cell.saturating_sub(limits::STAGED_SMALL_FRAMES);
    (cell - large) * limits::STAGED_SMALL + large * LARGE
}

/// Puts cell `at` behind the others of its list.
fn append<K: Eq + Hash>(
    cells: &mut [Cell],
    lists: &mut HashMap<K, List>,
    key: K,
    (by, at): (usize, usize),
) {
    let list = lists.entry(key).or_insert(List {
        first: at,
        last: NONE,
        count: 0,
    });
    cells[at].links[by] = Link {
        before: list.last,
        behind: NONE,
    };
    if let Some(last) = cells.get_mut(list.last) {
        last.links[by].behind = at;
    }
    list.last = at;
    list.count += 1;
}

/// Takes cell `at` out of its list.
fn unlink<K: Eq + Hash>(
    cells: &mut [Cell],
    lists: &mut HashMap<K, List>,
    key: K,
    (by, at): (usize, usize),
) {
    let Entry::Occupied(mut entry) = lists.entry(key) else {
        return;
    };
    let Link { before, behind } = cells[at].links[by];
    let list = entry.get_mut();
    match cells.get_mut(before) {
        Some(cell) => cell.links[by].behind = behind,
        None => list.first = behind,
    }
    match cells.get_mut(behind) {
        Some(cell) => cell.links[by].before = before,
        None => list.last = before,
    }
    list.count -= 1;
    if list.count == 0 {
        entry.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::guest::frames::{OwnFrame, OwnFrames};

    fn frame(fill: u8, len: usize) -> Vec<u8> {
        vec![fill; len]
    }

    fn push(staged: &mut Staged, peer: u32, bytes: &[u8]) -> Vec<PeerIndex> {
        push_of(staged, 0, peer, bytes)
    }

    fn push_of(staged: &mut Staged, port: u32, peer: u32, bytes: &[u8]) -> Vec<PeerIndex> {
        let mut dropped = Vec::new();
        let own = [OwnFrame {
            vnet: VnetHeader::default(),
            bytes,
        }];
        let (whom, sender) = ((PeerIndex(peer), None), Sender::Port(PortIndex(port)));
        let frames = OwnFrames(&own);
        assert!(staged.push(whom, sender, &frames, 0, |(peer, _), _, _| {
            dropped.push(peer)
        }));
        dropped
    }

    fn take(staged: &mut Staged, peer: u32) -> Vec<u8> {
        let (_, _, place) = staged.take(PeerIndex(peer)).unwrap();
        staged.bytes(place).to_vec()
    }

    #[test]
    fn frames_come_back_in_order_and_only_to_their_peer() {
        let mut staged = Staged::new();
        for fill in 1..=3 {
            assert!(push(&mut staged, 7, &frame(fill, 100)).is_empty());
            assert!(push(&mut staged, 8, &frame(fill + 100, 60_000)).is_empty());
        }
        for fill in 1..=3 {
            assert_eq!(take(&mut staged, 7), frame(fill, 100));
        }
        assert!(staged.take(PeerIndex(7)).is_none());
        for fill in 101..=103 {
            assert_eq!(take(&mut staged, 8), frame(fill, 60_000));
        }
        assert!(staged.is_empty());
    }

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let mut staged = Staged::new();
        for fill in 0..limits::STAGED_PER_PEER {
            assert!(push(&mut staged, 1, &[u8::try_from(fill).unwrap(); 64]).is_empty());
        }
        assert_eq!(push(&mut staged, 1, &[255; 64]), [PeerIndex(1)]);
        assert_eq!(take(&mut staged, 1)[0], 1);
    }

    #[test]
    fn who_has_most_makes_room() {
        for (len, cells) in [
            (60_000, limits::STAGED_LARGE_FRAMES),
            (100, limits::STAGED_SMALL_FRAMES),
        ] {
            let mut staged = Staged::new();
            // One guest's frames, to one peer and to many, fill all that there is.
            let cells = u32::try_from(cells).unwrap();
            for n in 0..cells {
                assert!(push_of(&mut staged, 0, n % 30, &frame(1, len)).is_empty());
            }
            // Another's are kept, and cost the first one its own, the oldest first.
            for n in 0..cells / 2 {
                let peer = 99 + n / 100;
                assert_eq!(
                    push_of(&mut staged, 1, peer, &frame(2, len)),
                    [PeerIndex(n % 30)]
                );
            }
            // Now both have as many: each pays for itself.
            for n in 0..50 {
                let lost = push_of(&mut staged, 0, n % 30, &frame(3, len));
                assert!(lost.iter().all(|peer| peer.0 < 30), "{lost:?}");
                let lost = push_of(&mut staged, 1, 99, &frame(4, len));
                assert!(lost.iter().all(|peer| peer.0 >= 99), "{lost:?}");
            }
        }
    }

    #[test]
    fn large_frames_take_no_small_ones_room() {
        let mut staged = Staged::new();
        assert!(push_of(&mut staged, 1, 1, &frame(7, 100)).is_empty());
        for n in 0..1_000 {
            push_of(&mut staged, 0, n % 50, &frame(1, 65_000));
        }
        for n in 0..1_000 {
            push_of(&mut staged, 0, 100 + n, &frame(1, 2_048));
        }
        assert_eq!(take(&mut staged, 1), frame(7, 100));
    }

    #[test]
    fn bytes_are_bounded_and_never_overlap() {
        let mut staged = Staged::new();
        let mut alive = VecDeque::new();
        for round in 0..5_000u32 {
            let fill = u8::try_from(round % 251).unwrap();
            // Of either kind, by several senders.
            let len = 1 + (round as usize * 7_919) % [65_000, 2_048][round as usize % 2];
            let (peer, sender) = (PeerIndex(round % 40), Sender::Port(PortIndex(round % 7)));
            let own = [OwnFrame {
                vnet: VnetHeader::default(),
                bytes: &frame(fill, len),
            }];
            let kept = staged.push(
                (peer, None),
                sender,
                &OwnFrames(&own),
                0,
                |(peer, _), _, bytes| {
                    let lost = (peer, bytes[0], bytes.len());
                    let position = alive.iter().position(|&frame| frame == lost).unwrap();
                    alive.remove(position);
                },
            );
            assert!(kept);
            alive.push_back((peer, fill, len));
        }
        let held = limits::STAGED_SMALL_FRAMES + limits::STAGED_LARGE_FRAMES;
        assert!(alive.len() <= held && alive.len() > held / 2);
        for (peer, fill, len) in alive {
            let taken = take(&mut staged, peer.0);
            assert!(taken.len() == len && taken.iter().all(|&byte| byte == fill));
        }
        assert!(staged.is_empty() && staged.senders.is_empty() && staged.pairs.is_empty());
    }
}
