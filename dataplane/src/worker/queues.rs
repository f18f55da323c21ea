//! A worker's uplink queues, and which of them a path takes.
//!
//! In: queues attached, detached, handed to other tunnels. Out: one to receive from, with all of them to send through;
//! the queue of an uplink and a tunnel. Never: a choice by the configuration, where a sending half's uplink is looked up:
//! by which a datagram leaves, its path says; what a queue serves, the queue.

use std::{cmp::Ordering, slice};

use crate::{
    shared::{
        control_link::Seat,
        ids::{TunnelIndex, UplinkIndex},
        path::Path,
        snapshot::Snapshot,
    },
    uplink::{Queue, Rx, Tx, Uplink},
};

/// One of a worker's queues, as long as the turn lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueIndex(usize);

/// All queues of a worker.
#[derive(Default)]
pub(super) struct Queues {
    list: Vec<Queue>,
    /// By `UplinkIndex`.
    serving: Vec<Serving>,
    /// Queues that went to another uplink, and that paths may not know there yet: from, to.
    left: Vec<(Seat, Seat)>,
}

/// The queues of one uplink.
#[derive(Default)]
struct Serving {
    /// That of all tunnels: a device's.
    any: Option<QueueIndex>,
    /// Those of one tunnel each, by `TunnelIndex`: sockets'.
    one: Vec<Option<QueueIndex>>,
}

impl Queues {
    /// Owns this queue from now on.
    pub(super) fn attach(&mut self, queue: Queue) {
        self.list.push(queue);
        self.find_anew();
    }

    /// Drops the queues of a tunnel, or of a whole uplink.
    pub(super) fn detach(&mut self, uplink: UplinkIndex, tunnel: Option<TunnelIndex>) {
        self.list.retain(|queue| !is_of(queue, uplink, tunnel));
        self.left
            .retain(|((from, of), _)| *from != uplink || tunnel.is_some_and(|it| it != *of));
        self.find_anew();
    }

    /// Whether the queue at `place` is one that [`Queues::detach`] drops.
    pub(super) fn goes(
        &self,
        place: usize,
        uplink: UplinkIndex,
        tunnel: Option<TunnelIndex>,
    ) -> bool {
        let queue = self.list.get(place);
        queue.is_some_and(|queue| is_of(queue, uplink, tunnel))
    }

    /// Queues of tunnels are others' from now on: from, to.
    pub(super) fn hand_over(&mut self, pairs: &[(Seat, Seat)]) {
        for queue in &mut self.list {
            let seat = queue.tunnel.map(|tunnel| (queue.uplink, tunnel));
            let heir = |&(from, to)| (seat == Some(from)).then_some(to);
            if let Some((uplink, tunnel)) = pairs.iter().find_map(heir) {
                (queue.uplink, queue.tunnel) = (uplink, Some(tunnel));
            }
        }
        let moved = |pair: &&(Seat, Seat)| pair.0.0 != pair.1.0;
        self.left.extend(pairs.iter().filter(moved));
        self.find_anew();
    }

    fn find_anew(&mut self) {
        self.serving.clear();
        for (place, queue) in self.list.iter().enumerate() {
            let uplink = queue.uplink.slot();
            grow(&mut self.serving, uplink);
            let serving = &mut self.serving[uplink];
            match queue.tunnel {
                None => serving.any = Some(QueueIndex(place)),
                Some(tunnel) => {
                    grow(&mut serving.one, tunnel.slot());
                    serving.one[tunnel.slot()] = Some(QueueIndex(place));
                }
            }
        }
        for &((from, tunnel), (to, heir)) in &self.left {
            let there = self.serving.get(to.slot());
            let queue = there.and_then(|serving| *serving.one.get(heir.slot())?);
            grow(&mut self.serving, from.slot());
            let one = &mut self.serving[from.slot()].one;
            grow(one, tunnel.slot());
            one[tunnel.slot()] = one[tunnel.slot()].or(queue);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn iter(&self) -> slice::Iter<'_, Queue> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> slice::IterMut<'_, Queue> {
        self.list.iter_mut()
    }

    /// All of them, to send through.
    pub(super) fn sending(&mut self) -> Sending<'_> {
        Sending {
            before: &mut self.list,
            here: None,
            behind: &mut [],
            serving: &self.serving,
        }
    }

    /// The queue at `place` to receive from, and all of them to send through meanwhile.
    pub(super) fn receiving(&mut self, place: usize) -> Option<(Receiving<'_>, Sending<'_>)> {
        let (before, rest) = self.list.split_at_mut_checked(place)?;
        let (here, behind) = rest.split_first_mut()?;
        let receiving = Receiving {
            uplink: here.uplink,
            tunnel: here.tunnel,
            rx: &mut here.rx,
        };
        let sending = Sending {
            before,
            here: Some((here.uplink, &mut here.tx)),
            behind,
            serving: &self.serving,
        };
        Some((receiving, sending))
    }
}

/// Whether a queue is a tunnel's on an uplink, or any of the uplink's.
fn is_of(queue: &Queue, uplink: UplinkIndex, tunnel: Option<TunnelIndex>) -> bool {
    queue.uplink == uplink && (tunnel.is_none() || queue.tunnel == tunnel)
}

/// Makes sure that there is a `place`.
fn grow<T: Default>(list: &mut Vec<T>, place: usize) {
    if list.len() <= place {
        list.resize_with(place + 1, T::default);
    }
}

/// The half of a queue that is received from.
pub(super) struct Receiving<'a> {
    pub(super) uplink: UplinkIndex,
    pub(super) tunnel: Option<TunnelIndex>,
    pub(super) rx: &'a mut Rx,
}

/// The sending halves of all queues.
pub(crate) struct Sending<'a> {
    before: &'a mut [Queue],
    /// That of the queue which is received from.
    here: Option<(UplinkIndex, &'a mut Tx)>,
    behind: &'a mut [Queue],
    serving: &'a [Serving],
}

impl Sending<'_> {
    /// Has the device that is received from say what it says by itself: once a turn.
    #[inline]
    pub(super) fn keep_up(&mut self) {
        if let Some((_, tx)) = &mut self.here {
            tx.keep_up();
        }
    }

    /// The queue by which `tunnel`'s datagrams leave through `uplink`.
    #[inline]
    pub(crate) fn queue(&self, uplink: UplinkIndex, tunnel: TunnelIndex) -> Option<QueueIndex> {
        let serving = self.serving.get(uplink.slot())?;
        let one = || *serving.one.get(tunnel.slot())?;
        serving.any.or_else(one)
    }

    /// The queue by which frames without a tunnel leave.
    pub(super) fn shared(&self, uplink: UplinkIndex) -> Option<QueueIndex> {
        self.serving.get(uplink.slot())?.any
    }

    /// A queue's sending half, with its uplink.
    #[inline]
    pub(crate) fn outlet<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        QueueIndex(place): QueueIndex,
    ) -> Option<(&'s Uplink, &mut Tx)> {
        let here = self.before.len();
        let (uplink, tx) = match place.cmp(&here) {
            Ordering::Less => of(self.before.get_mut(place)?),
            Ordering::Equal => {
                let (uplink, tx) = self.here.as_mut()?;
                (*uplink, &mut **tx)
            }
            Ordering::Greater => of(self.behind.get_mut(place - here - 1)?),
        };
        Some((snapshot.uplink(uplink)?, tx))
    }

    /// The queue that `tunnel`'s datagrams along `path` take.
    pub(crate) fn along<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        path: &Path,
        tunnel: TunnelIndex,
    ) -> Option<(&'s Uplink, &mut Tx)> {
        let queue = self.queue(path.uplink(), tunnel)?;
        self.outlet(snapshot, queue)
    }
}

fn of(queue: &mut Queue) -> (UplinkIndex, &mut Tx) {
    (queue.uplink, &mut queue.tx)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{shared::hop::Hop, uplink::memory};

    const TUNNELS: [TunnelIndex; 3] = [TunnelIndex(0), TunnelIndex(1), TunnelIndex(2)];
    const UPLINKS: [UplinkIndex; 3] = [UplinkIndex(0), UplinkIndex(1), UplinkIndex(2)];

    fn queue(uplink: UplinkIndex, tunnel: Option<TunnelIndex>) -> Queue {
        let (queue, _wire) = memory::open(&memory::Config {
            uplink,
            tunnel: TUNNELS[0],
            address: [192, 0, 2, 1].into(),
            datagrams: 1,
            longest: 100,
        });
        Queue { tunnel, ..queue }
    }

    /// Sockets of tunnels 0 and 1 on uplink 0, of tunnel 0 on uplink 1; uplink 2 has a device.
    fn queues() -> Queues {
        let mut queues = Queues::default();
        let [a, b, c] = UPLINKS;
        let all = [
            (a, Some(TUNNELS[0])),
            (a, Some(TUNNELS[1])),
            (c, None),
            (b, Some(TUNNELS[0])),
        ];
        for (uplink, tunnel) in all {
            queues.attach(queue(uplink, tunnel));
        }
        queues
    }

    fn found(queues: &mut Queues) -> [[Option<usize>; 3]; 3] {
        let sending = queues.sending();
        let find = |uplink| TUNNELS.map(|tunnel| sending.queue(uplink, tunnel).map(|at| at.0));
        UPLINKS.map(find)
    }

    #[test]
    fn a_path_takes_its_tunnels_queue_of_its_uplink() {
        let mut queues = queues();
        let before = [
            [Some(0), Some(1), None],
            [Some(3), None, None],
            [Some(2); 3],
        ];
        assert_eq!(found(&mut queues), before);
        let shared = UPLINKS.map(|uplink| queues.sending().shared(uplink));
        assert_eq!(shared, [None, None, Some(QueueIndex(2))]);

        let [one, two] = [TUNNELS[0], TUNNELS[1]].map(|tunnel| (UPLINKS[0], tunnel));
        queues.hand_over(&[(one, two), (two, one)]);
        let [_, b, c] = before;
        assert_eq!(found(&mut queues), [[Some(1), Some(0), None], b, c]);
        queues.detach(UPLINKS[0], Some(TUNNELS[1]));
        assert_eq!(
            found(&mut queues),
            [[Some(0), None, None], [Some(2), None, None], [Some(1); 3]]
        );
        queues.detach(UPLINKS[2], None);
        queues.detach(UPLINKS[0], None);
        assert_eq!(
            found(&mut queues),
            [[None; 3], [Some(0), None, None], [None; 3]]
        );
    }

    #[test]
    fn a_queue_that_went_to_another_uplink_is_found_by_old_paths_until_they_are_given_up() {
        let mut queues = queues();
        let [a, b, _] = UPLINKS;
        queues.hand_over(&[((a, TUNNELS[1]), (b, TUNNELS[1]))]);
        let both = [[Some(0), Some(1), None], [Some(3), Some(1), None]];
        assert_eq!(found(&mut queues)[..2], both);
        let (receiving, _) = queues.receiving(1).unwrap();
        assert_eq!((receiving.uplink, receiving.tunnel), (b, Some(TUNNELS[1])));
        queues.detach(a, Some(TUNNELS[1]));
        let one = [[Some(0), None, None], [Some(3), Some(1), None]];
        assert_eq!(found(&mut queues)[..2], one);
        // Back, and its place is taken by another meanwhile.
        queues.hand_over(&[((b, TUNNELS[1]), (a, TUNNELS[1]))]);
        queues.attach(queue(b, Some(TUNNELS[1])));
        let own = [[Some(0), Some(1), None], [Some(3), Some(4), None]];
        assert_eq!(found(&mut queues)[..2], own);
        queues.detach(b, None);
        assert_eq!(
            found(&mut queues)[..2],
            [[Some(0), Some(1), None], [None; 3]]
        );
    }

    #[test]
    fn all_queues_send_while_one_receives() {
        let mut queues = queues();
        let uplink = |index| {
            Some(Arc::new(Uplink {
                index,
                name: String::new(),
                addresses: Vec::new(),
                tunnels: Vec::new(),
                hop: Arc::new(Hop::kernel(index)),
                kernel: None,
                counters: Arc::default(),
            }))
        };
        let snapshot = Snapshot {
            uplinks: UPLINKS.map(uplink).into_iter().collect(),
            ..Snapshot::default()
        };
        let [a, b, c] = UPLINKS;
        for place in 0..4 {
            let (receiving, mut sending) = queues.receiving(place).unwrap();
            assert_eq!(receiving.uplink, [a, a, c, b][place]);
            for (other, expected) in [a, a, c, b].into_iter().enumerate() {
                let (uplink, tx) = sending.outlet(&snapshot, QueueIndex(other)).unwrap();
                assert_eq!((uplink.index, tx.reserve(1, 10)), (expected, 1));
            }
            assert!(sending.outlet(&snapshot, QueueIndex(4)).is_none());
        }
        assert!(queues.receiving(4).is_none());
        let mut sending = queues.sending();
        assert!(sending.outlet(&snapshot, QueueIndex(3)).is_some());
        assert!(
            sending
                .outlet(&Snapshot::default(), QueueIndex(3))
                .is_none()
        );
    }
}
