//! Searches along paths that are true, false, lossy and that change, on a virtual clock.

use std::{collections::VecDeque, time::Duration};

use culvert_wireguard::Instant;
use proptest::prelude::*;

use super::*;
use crate::limits::PROBES_PER_SECOND;

const MILLI: Duration = Duration::from_millis(1);

/// What routers say of a probe that is too large.
#[derive(Clone, Copy, Debug)]
enum Icmp {
    Blocked,
    True,
    Lying(u16),
}

/// A path with a peer at its end, and a search along it.
struct World {
    now: Instant,
    search: Search,
    bucket: Bucket,
    mtu: u16,
    round_trip: Duration,
    icmp: Icmp,
    answers: VecDeque<(Instant, u16)>,
    probes: Vec<(Instant, u16)>,
    /// Every so many-th packet is lost; 0 is none.
    loses: usize,
    is_sent_to: bool,
    answered: bool,
}

impl World {
    fn new(mtu: u16, ceiling: u16) -> Self {
        Self {
            now: Instant::from_nanos(5_000_000_000),
            search: Search::new(ceiling, 0xfff0),
            bucket: Bucket::default(),
            mtu,
            round_trip: 30 * MILLI,
            icmp: Icmp::Blocked,
            answers: VecDeque::new(),
            probes: Vec::new(),
            loses: 0,
            is_sent_to: true,
            answered: true,
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.step();
        }
    }

    /// Ten milliseconds.
    fn step(&mut self) {
        self.now = self.now + 10 * MILLI;
        if self.is_sent_to {
            self.search.handle_traffic(self.now);
        }
        while let Some(&(at, token)) = self.answers.front()
            && at <= self.now
        {
            self.answers.pop_front();
            self.search.handle_answer(token, self.now);
        }
        while let Some(Probe { size, token }) = self.search.poll_probe(self.now, &mut self.bucket) {
            self.probes.push((self.now, size));
            assert!(size >= BASE && size <= self.search.ceiling());
            let passes = size <= self.mtu;
            let lost = self.loses > 0 && self.probes.len().is_multiple_of(self.loses);
            if passes && !lost && self.answered {
                self.answers.push_back((self.now + self.round_trip, token));
            }
            match self.icmp {
                Icmp::True if !passes => {
                    assert!(self.search.handle_hint(self.mtu, true, self.now));
                }
                Icmp::Lying(mtu) => drop(self.search.handle_hint(mtu, false, self.now)),
                Icmp::True | Icmp::Blocked => {}
            }
        }
        assert!(self.search.mtu().is_none_or(|mtu| mtu >= BASE));
    }

    /// What is known is right, as far as it matters.
    fn assert_found(&self) {
        let most = self.mtu.min(self.search.ceiling());
        let found = self.search.mtu().expect("it is known");
        assert!(found <= most, "{found} of {most}");
        assert!(most - found < GRAIN, "{found} of {most}");
        assert_eq!(self.search.phase(), Phase::Done);
    }
}

fn icmp() -> impl Strategy<Value = Icmp> {
    prop_oneof![
        Just(Icmp::Blocked),
        Just(Icmp::True),
        any::<u16>().prop_map(Icmp::Lying)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_finds_what_passes_and_follows_what_changes(
        mtus in prop::collection::vec(BASE..9001, 1..4),
        ceiling in prop_oneof![Just(1500u16), Just(9000), BASE..9217],
        icmp in icmp(),
        round_trip in 1u32..900,
    ) {
        let mut world = World::new(mtus[0], ceiling);
        (world.icmp, world.round_trip) = (icmp, round_trip * MILLI);
        world.run(90);
        world.assert_found();
        for mtu in mtus {
            let falls = mtu < world.mtu;
            world.mtu = mtu;
            // What falls is noticed when it is confirmed, what rises when more is tried.
            world.run(if falls { 60 + 90 } else { 600 + 150 });
            world.assert_found();
        }
    }

    #[test]
    fn loss_never_makes_it_believe_in_more_than_passes(
        mtu in BASE..9001, loses in 2usize..9, icmp in icmp(),
    ) {
        let mut world = World::new(mtu, 9000);
        (world.loses, world.icmp) = (loses, icmp);
        for _ in 0..1500 {
            world.run(1);
            prop_assert!(world.search.mtu().is_none_or(|found| found <= mtu));
        }
    }

    #[test]
    fn probes_of_one_size_are_a_second_apart(mtu in BASE..9001, icmp in icmp()) {
        let mut world = World::new(mtu, 9000);
        world.icmp = icmp;
        world.run(300);
        for pair in world.probes.windows(2) {
            let [(before, one), (after, two)] = pair else { unreachable!() };
            prop_assert!(one != two || after.since(*before) >= ANSWER);
        }
        // A search and its confirmations, however much ICMP claims.
        prop_assert!(world.probes.len() < 80, "{}", world.probes.len());
    }
}

#[test]
fn a_path_that_lets_all_through_costs_two_probes_and_one_a_minute() {
    let mut world = World::new(1500, 1500);
    world.run(10);
    world.assert_found();
    let sizes: Vec<u16> = world.probes.iter().map(|&(_, size)| size).collect();
    assert_eq!(sizes, [1280, 1500]);
    world.run(590);
    assert_eq!(world.probes.len(), 2 + 9);
}

#[test]
fn icmp_that_tells_the_truth_saves_the_search() {
    let mut world = World::new(1437, 9000);
    world.icmp = Icmp::True;
    world.run(1);
    world.assert_found();
    assert_eq!(world.search.mtu(), Some(1437));
    let sizes: Vec<u16> = world.probes.iter().map(|&(_, size)| size).collect();
    assert_eq!(sizes, [1280, 9000, 1437]);
    // And a fall is noticed at once.
    world.run(30);
    world.mtu = 1337;
    assert!(world.search.handle_hint(1337, true, world.now));
    world.step();
    assert_eq!(
        world.search.mtu(),
        Some(1337),
        "nobody is told of less meanwhile"
    );
    world.run(2);
    world.assert_found();
    assert_eq!(world.search.mtu(), Some(1337));
}

#[test]
fn icmp_that_may_come_from_anywhere_has_all_probed_first() {
    let mut world = World::new(1500, 1500);
    world.run(10);
    assert!(world.search.handle_hint(1300, false, world.now));
    world.run(5);
    assert_eq!((world.search.mtu(), world.probes.len()), (Some(1500), 3));
    // It was the truth: three probes are lost, then it is believed.
    world.mtu = 1300;
    assert!(world.search.handle_hint(1300, false, world.now));
    world.run(20);
    assert_eq!(world.search.mtu(), Some(1300));
}

#[test]
fn icmp_is_not_followed_below_what_every_path_lets_through_nor_upwards() {
    let mut world = World::new(1500, 1500);
    world.run(10);
    for proven in [false, true] {
        for mtu in [1500, 1501, 9000, u16::MAX] {
            assert!(!world.search.handle_hint(mtu, proven, world.now), "{mtu}");
        }
        for mtu in [0, 68, 576, 1279] {
            world.search.handle_hint(mtu, proven, world.now);
            world.run(5);
            assert_eq!(world.search.mtu(), Some(1500));
        }
    }
}

#[test]
fn icmp_without_end_costs_a_probe_a_second() {
    let mut world = World::new(1500, 1500);
    world.run(10);
    for _ in 0..10_000 {
        world.search.handle_hint(1300, false, world.now);
        world.step();
    }
    world.assert_found();
    assert!(world.probes.len() <= 2 + 101, "{}", world.probes.len());
}

#[test]
fn who_does_not_answer_is_left_alone_and_nothing_is_claimed() {
    let mut world = World::new(9000, 9000);
    world.answered = false;
    world.run(590);
    assert_eq!(world.search.phase(), Phase::Silent);
    assert_eq!((world.search.mtu(), world.probes.len()), (None, 3));
    world.answered = true;
    world.run(100);
    world.assert_found();
    // It is gone: what it was told to let through is not known any more.
    world.answered = false;
    world.run(100);
    assert_eq!(world.search.mtu(), None);
}

#[test]
fn nobody_is_probed_who_is_not_sent_to() {
    let mut world = World::new(1500, 1500);
    world.is_sent_to = false;
    world.run(100);
    assert_eq!(world.probes, []);
    assert_eq!(world.search.poll_timeout(world.now), None);
    world.is_sent_to = true;
    world.run(10);
    world.assert_found();
    world.is_sent_to = false;
    let probes = world.probes.len();
    world.run(2_000);
    assert_eq!(world.probes.len(), probes);
    assert_eq!(world.search.mtu(), Some(1500), "what was found stays");
}

#[test]
fn answers_to_nothing_count_nothing() {
    let mut world = World::new(9000, 9000);
    world.answered = false;
    for token in 0..=u16::MAX {
        world.search.handle_answer(token, world.now);
    }
    world.run(1);
    let token = world.search.token;
    for other in (0..=u16::MAX).filter(|&it| it != token) {
        world.search.handle_answer(other, world.now);
    }
    assert_eq!((world.search.phase(), world.search.floor), (Phase::Base, 0));
    world.search.handle_answer(token, world.now);
    assert_eq!(world.search.phase(), Phase::Search);
    world.search.handle_answer(token, world.now);
    assert_eq!(world.search.floor, BASE);
}

#[test]
fn all_peers_together_are_probed_no_faster_than_the_bucket_lets() {
    let mut bucket = Bucket::default();
    let mut searches = vec![Search::new(9000, 0); 5_000];
    let begun = Instant::from_nanos(1_000_000_000_000);
    let mut sent = 0;
    for millis in 0..5_000 {
        let now = begun + MILLI * millis;
        for search in &mut searches {
            search.handle_traffic(now);
            sent += u64::from(search.poll_probe(now, &mut bucket).is_some());
        }
    }
    // A second's worth was saved.
    assert!(
        (5..=6).contains(&sent.div_ceil(PROBES_PER_SECOND)),
        "{sent}"
    );
}
