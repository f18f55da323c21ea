//! Sleep: how an adaptive worker waits, and how nothing is lost meanwhile.
//!
//! In: an idle worker. Out: the same, woken by its doorbell, a kick, an interface, a socket, or the time. Never: a sleep
//! while there is work: it announces itself, asks every guest for kicks and looks at each ring once more, looks at
//! commands and snapshot once more, and polls after that. Whoever produces publishes first and rings the doorbell after.

use std::{os::fd::BorrowedFd, sync::atomic::Ordering, time::Duration};

use rustix::event::{PollFd, PollFlags, poll};

use super::Worker;
use crate::shared::{
    clock,
    snapshot::{Guest, Snapshot},
};

/// How long an adaptive worker looks for work before it sleeps.
pub(super) const SPIN: Duration = Duration::from_micros(30);
/// The least and the most that it looks when each look is a system call: the most is what two sleeps cost.
const SPIN_CALLS: [Duration; 2] = [Duration::from_micros(1), Duration::from_micros(10)];
/// The first and the longest sleep beside queues that can't wake the worker.
pub(super) const NAP_MIN: Duration = Duration::from_micros(50);
/// See `NAP_MIN`: whoever pings an idle device waits for one at the most, and is answered within a millisecond.
const NAP_MAX: Duration = Duration::from_micros(250);
/// The longest sleep when everything can wake the worker.
const SLEEP_MAX: Duration = Duration::from_secs(1);

impl Worker {
    /// Step 5.
    pub(super) fn sleep(&mut self, snapshot: &Snapshot) {
        self.has_napped = false;
        self.link.wake.announce();
        let stays_awake = self.arm(snapshot)
            || !self.link.commands.is_empty()
            || !self.link.stack_commands.is_empty()
            || self
                .from_kernel
                .as_ref()
                .is_some_and(|frames| !frames.is_empty())
            || self.snapshots.load().generation != snapshot.generation;
        if !stays_awake {
            self.wait(snapshot);
        }
        self.link.wake.awake();
        let now = clock::monotonic();
        let slept = now.as_nanos().saturating_sub(self.now.as_nanos());
        self.stats.sleep_nanos.fetch_add(slept, Ordering::Relaxed);
        self.stats.sleeps.fetch_add(1, Ordering::Relaxed);
        self.spin = self.next_spin(snapshot, Duration::from_nanos(slept));
        self.now = now;
        self.idle_since = None;
    }

    /// How long to look next time, after a sleep of this length.
    ///
    /// A guest's ring is a load from memory, and waking us by a kick costs the guest more than looking costs us. A
    /// socket or an interface is a system call per look, and its kernel wakes us cheaply: there it pays to look only
    /// while work comes so close that a sleep ends before the looking would have.
    fn next_spin(&self, snapshot: &Snapshot, slept: Duration) -> Duration {
        let is_cheap = self
            .guest_rings(snapshot)
            .any(|(port, _)| matches!(port.guest, Guest::Vhost(_)))
            || self.queues.iter().any(|queue| queue.rx.is_polled());
        let [least, most] = SPIN_CALLS;
        if is_cheap {
            SPIN
        } else if slept < most {
            (self.spin * 2).clamp(least, most)
        } else {
            (self.spin / 2).clamp(least, most)
        }
    }

    /// Asks all guests for kicks; whether work arrived meanwhile.
    fn arm(&self, snapshot: &Snapshot) -> bool {
        let mut found = false;
        for (port, queue) in self.guest_rings(snapshot) {
            // An interface's descriptor stays readable while there is a frame.
            let Guest::Vhost(guest) = &port.guest else {
                continue;
            };
            let ring = guest.guest_tx(queue);
            if ring.is_live() {
                // Held by the session thread: look again at once.
                found |= ring
                    .try_lock()
                    .is_none_or(|mut burst| burst.enable_notifications());
            }
        }
        found
    }

    fn wait(&mut self, snapshot: &Snapshot) {
        let mut polled = vec![PollFd::new(&*self.link.wake, PollFlags::IN)];
        let mut blind = false;
        let mut timeout = SLEEP_MAX;
        for (port, queue) in self.guest_rings(snapshot) {
            let fd = match &port.guest {
                Guest::Vhost(guest) => {
                    let ring = guest.guest_tx(queue);
                    // A guest that was given no way to kick can't wake us.
                    blind |= ring.is_live() && !ring.can_kick();
                    Some(ring.kick_fd())
                }
                Guest::Tun(tun) => {
                    // Nothing tells when there is room again for what is held back.
                    blind |= tun.holds(queue);
                    tun.readable_fd(queue)
                }
            };
            polled.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        }
        let mut sockets = Vec::new();
        let mut ends = Vec::with_capacity(self.queues.len());
        for queue in self.queues.iter() {
            let before = sockets.len();
            queue.rx.descriptors(&mut sockets);
            blind |= sockets.len() == before;
            timeout = queue.rx.owed().map_or(timeout, |owed| timeout.min(owed));
            ends.push(sockets.len());
        }
        polled.extend(
            sockets
                .iter()
                .map(|fd: &BorrowedFd<'_>| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        if blind {
            timeout = timeout.min(self.nap);
        }
        // An interrupted or failed poll is an early end of the sleep.
        let woken = poll(
            &mut polled,
            rustix::time::Timespec::try_from(timeout).ok().as_ref(),
        );
        self.has_napped = blind && woken == Ok(0);
        let slept = clock::monotonic().since(self.now);
        let answers = &polled[polled.len() - sockets.len()..];
        let ready: Vec<bool> = answers.iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut begin = 0;
        for (queue, end) in self.queues.iter_mut().zip(ends) {
            queue.rx.woken(&ready[begin..end], slept);
            begin = end;
        }
        self.nap = (self.nap * 2).min(NAP_MAX);
        for (port, queue) in self.guest_rings(snapshot) {
            if let Guest::Vhost(guest) = &port.guest {
                guest.guest_tx(queue).clear_kick();
            }
        }
    }
}
