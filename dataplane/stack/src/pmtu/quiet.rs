//! Quiet: a search along the path to a peer behind which nobody answers.
//!
//! In: that data came or went, empty packets of the peer's, the time. Out: probes that want no answer. Never: a probe while
//! data flows, or where the peer sends empty packets of its own accord: then they say nothing.
//!
//! Who was sent data and has none to send says so ten seconds later, with an empty packet (whitepaper, section 6.5): a
//! probe is data, so that empty packet is its answer. Any other data in between would bring it, too, or put it off. So
//! a search takes twelve times as long as one that is answered: its clock is that much slower.
//!
//! ```text
//!   data ──── 25 s: one empty packet, and no more ────▶ probe ── 10 s ──▶ empty: it passed ──▶ the next
//!                                                         └── 12 s without: it did not
//! ```

use std::{ops::RangeInclusive, time::Duration};

use culvert_wireguard::Instant;

use super::{BASE, Bucket, Phase, Probe, Search};

/// The search's second.
const SECOND: u64 = 12;
/// How long nothing may have come or gone: twice the time of an empty packet, and more.
const QUIET: Duration = Duration::from_secs(25);
/// Until when a session is good for probes, since data went through it.
const ALIVE: Duration = Duration::from_secs(150);
/// When a probe's empty packet comes (`KEEPALIVE_TIMEOUT`), with a round trip and some slack.
const ANSWER: RangeInclusive<Duration> =
    Duration::from_millis(9_500)..=Duration::from_millis(11_500);
/// How long a peer that sends empty packets of its own accord is left alone.
const NOISY: Duration = Duration::from_secs(600);
/// Answers that a size needs that not every path has: empty packets may come by chance.
const ANSWERS: u8 = 2;

/// What is waited for.
#[derive(Clone, Debug)]
pub struct Quiet {
    /// When data came or went last.
    last: Instant,
    /// The last probe, and when it left; none if that is to be sent once more.
    probe: Option<(Probe, Option<Instant>)>,
    answers: u8,
    noisy_until: Instant,
}

impl Quiet {
    /// Data may have flowed until now.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            last: now,
            probe: None,
            answers: 0,
            noisy_until: now,
        }
    }

    /// What the search's clock shows.
    #[must_use]
    pub const fn clock(now: Instant) -> Instant {
        Instant::from_nanos(now.as_nanos() / SECOND)
    }

    /// Data came or went: what is under way will say nothing.
    pub fn handle_traffic(&mut self, now: Instant) {
        self.last = now;
        if let Some((_, sent)) = &mut self.probe {
            *sent = None;
        }
    }

    /// An empty packet came.
    pub fn handle_empty(&mut self, search: &mut Search, now: Instant) {
        let sent = self.probe.and_then(|(probe, sent)| Some((probe, sent?)));
        let since = now.since(sent.map_or(self.last, |(_, sent)| sent));
        match sent {
            Some((probe, _)) if ANSWER.contains(&since) => {
                self.answers += 1;
                let is_known = probe.size <= BASE || search.phase() == Phase::Done;
                if is_known || self.answers >= ANSWERS {
                    (self.probe, self.answers) = (None, 0);
                    search.handle_answer(probe.token, Self::clock(now));
                } else {
                    self.probe = Some((probe, None));
                }
            }
            _ if since > *ANSWER.end() => self.noisy_until = now + NOISY,
            _ => {}
        }
    }

    /// When to look again.
    #[must_use]
    pub fn poll_timeout(&self, search: &Search, now: Instant) -> Option<Instant> {
        let due = match self.probe {
            Some((_, Some(sent))) => sent + Duration::from_secs(SECOND),
            Some((_, None)) => now,
            None => {
                let clock = Self::clock(now);
                let mut search = search.clone();
                search.handle_traffic(clock);
                let due = search.poll_timeout(clock)?;
                // Rounded up: it is due then.
                Instant::from_nanos((due.as_nanos() + 1).saturating_mul(SECOND))
            }
        };
        let due = due.max(self.last + QUIET).max(self.noisy_until);
        (due < self.last + ALIVE).then_some(due)
    }

    /// The next probe, if one is due.
    pub fn poll_probe(
        &mut self,
        search: &mut Search,
        now: Instant,
        bucket: &mut Bucket,
    ) -> Option<Probe> {
        let is_quiet = now >= self.last + QUIET && now < self.last + ALIVE;
        if !is_quiet || now < self.noisy_until {
            return None;
        }
        let probe = match self.probe {
            Some((_, Some(sent))) if now.since(sent) < Duration::from_secs(SECOND) => return None,
            Some((probe, None)) => probe,
            Some(_) | None => {
                (self.probe, self.answers) = (None, 0);
                let clock = Self::clock(now);
                search.handle_traffic(clock);
                search.poll_probe(clock, bucket)?
            }
        };
        self.probe = Some((probe, Some(now)));
        Some(probe)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    /// A peer that says nothing but what the protocol has it say.
    struct World {
        now: Instant,
        search: Search,
        quiet: Quiet,
        bucket: Bucket,
        mtu: u16,
        empties: VecDeque<Instant>,
        /// It sends one of its own accord so often, since it sent or heard anything.
        persistent: Option<Duration>,
        traversed: Instant,
        probes: Vec<u16>,
    }

    impl World {
        fn new(mtu: u16, persistent: Option<u64>) -> Self {
            let now = Instant::from_nanos(5_000_000_000_000);
            Self {
                now,
                search: Search::new(1_500, 7),
                quiet: Quiet::new(now),
                bucket: Bucket::default(),
                mtu,
                empties: VecDeque::new(),
                persistent: persistent.map(Duration::from_secs),
                traversed: now,
                probes: Vec::new(),
            }
        }

        /// Data comes to the peer; it answers none.
        fn data(&mut self) {
            self.quiet.handle_traffic(self.now);
            self.arrives();
        }

        fn arrives(&mut self) {
            self.traversed = self.now;
            if self.empties.is_empty() {
                self.empties.push_back(self.now + Duration::from_secs(10));
            }
        }

        fn run(&mut self, seconds: u64) {
            let end = self.now + Duration::from_secs(seconds);
            while self.now < end {
                self.now = self.now + STEP;
                let persists = self
                    .persistent
                    .is_some_and(|it| self.now.since(self.traversed) >= it);
                let is_due = self.empties.front().is_some_and(|&at| at <= self.now);
                if is_due {
                    self.empties.pop_front();
                }
                if is_due || persists {
                    self.traversed = self.now;
                    self.quiet.handle_empty(&mut self.search, self.now);
                }
                let Self {
                    quiet,
                    search,
                    bucket,
                    ..
                } = self;
                let due = quiet
                    .poll_timeout(search, self.now)
                    .is_some_and(|due| due <= self.now);
                if due && let Some(probe) = quiet.poll_probe(search, self.now, bucket) {
                    self.probes.push(probe.size);
                    if probe.size <= self.mtu {
                        self.arrives();
                    }
                }
            }
        }

        /// Data now and then, and quiet between.
        fn live(&mut self, times: usize) {
            for _ in 0..times {
                self.data();
                self.run(170);
            }
        }
    }

    #[test]
    fn a_path_is_found_in_quiet_times() {
        for mtu in [1_500, 1_400, 1_300, 1_280] {
            let mut world = World::new(mtu, None);
            world.live(24);
            let found = world.search.mtu().expect("it is found");
            assert!(found <= mtu && mtu - found < 16, "{found} of {mtu}");
        }
    }

    #[test]
    fn nothing_is_sent_while_data_flows_nor_long_after_it() {
        let mut world = World::new(1_500, None);
        for _ in 0..100 {
            world.data();
            world.run(20);
        }
        assert_eq!(world.probes, []);
        world.run(60);
        let probes = world.probes.len();
        assert!((1..=4).contains(&probes), "{probes}");
        world.run(200);
        let probes = world.probes.len();
        world.run(10_000);
        assert_eq!(world.probes.len(), probes);
    }

    #[test]
    fn a_peer_that_speaks_of_its_own_accord_never_says_that_more_passes_than_does() {
        for persistent in 1..130 {
            let mut world = World::new(1_400, Some(persistent));
            world.live(20);
            let found = world.search.mtu();
            assert!(
                found.is_none_or(|mtu| mtu <= 1_400),
                "{found:?} at {persistent} s"
            );
        }
    }

    #[test]
    fn data_between_a_probe_and_its_answer_makes_it_none() {
        let mut world = World::new(1_300, None);
        world.data();
        while world.probes.is_empty() {
            world.run(1);
        }
        // The next ones are lost, and data brings empty packets instead.
        for _ in 0..40 {
            while world.probes.last() != Some(&1_500) && world.probes.len() < 200 {
                world.run(1);
                if world.now.since(world.quiet.last) > Duration::from_secs(140) {
                    world.data();
                }
            }
            world.data();
            world.run(11);
            world.probes.push(0);
        }
        assert!(world.search.mtu().is_none_or(|mtu| mtu <= 1_300));
    }
}
