//! Whole trials: a sender, a device that is made up, a receiver, and a search over them.

use super::*;
use crate::search::{Goal, Limits, Mlr};
use crate::tree::Node;

const TICK_NS: usize = 100_000;

/// A device with a queue: it forwards so many packets per second and has room for some.
struct Device {
    interval_ns: f64,
    room: usize,
    /// When each of those that wait is through.
    queue: std::collections::VecDeque<(u64, Vec<u8>)>,
    free_ns: f64,
    /// While it forwards nothing.
    blocked: std::ops::Range<u64>,
    /// Whether it refuses what does not fit, instead of dropping it.
    pushes_back: bool,
}

impl Device {
    fn new(packets_per_s: f64) -> Self {
        Self {
            interval_ns: 1e9 / packets_per_s,
            room: 64,
            queue: std::collections::VecDeque::new(),
            free_ns: 0.0,
            blocked: 0..0,
            pushes_back: false,
        }
    }

    /// False if it refuses it.
    fn take(&mut self, now: u64, frame: &[u8]) -> bool {
        if self.blocked.contains(&now) {
            return true;
        }
        if self.queue.len() >= self.room {
            return !self.pushes_back;
        }
        self.free_ns = self.free_ns.max(now as f64) + self.interval_ns;
        self.queue
            .push_back((crate::number::whole(self.free_ns), frame.to_vec()));
        true
    }
}

fn profile(yaml: &str) -> Profile {
    Profile::read(&serde_saphyr::from_str::<Node>(yaml).unwrap()).unwrap()
}

fn run(profile: &Profile, packets_per_s: f64, device: &mut Device) -> Trial {
    let total: f64 = packets_per_s;
    let rates: Vec<f64> = profile
        .streams
        .iter()
        .map(|_| total / profile.streams.len() as f64)
        .collect();
    let mut transmit = Transmit::new(profile, "", &rates, 1);
    let mut receive = Receive::new(profile, "", 1);
    let mut buffer = vec![0; transmit.longest()];
    device.free_ns = 0.0;
    for now in (0..=profile.duration_ns + 500_000_000).step_by(TICK_NS) {
        while let Some(due) = transmit.next(now) {
            let len = transmit.write(&due, &mut buffer, false);
            if !device.take(now, &buffer[..len]) {
                transmit.refused(&due);
            }
        }
        while device.queue.front().is_some_and(|(at, _)| *at <= now) {
            let (at, frame) = device.queue.pop_front().unwrap();
            receive.frame(&frame, 0, at);
        }
    }
    transmit.close(profile.duration_ns);
    let around = Around {
        packets_per_s: total,
        sent_for_ns: profile.duration_ns,
        whole_ns: profile.duration_ns,
        ..Around::default()
    };
    Trial::of(profile, &[&transmit], &[&receive], around)
}

fn adds_up(trial: &Trial) {
    let Counts {
        sent,
        received,
        lost,
        excess,
    } = trial.total;
    assert_eq!(sent.intended, sent.sent + sent.unsent);
    assert_eq!(sent.sent + excess, received.received + lost);
    assert_eq!(
        trial.streams.iter().map(|it| it.counts.lost).sum::<u64>(),
        lost
    );
}

#[test]
fn a_device_below_its_limit_loses_nothing() {
    let profile = profile("duration: 500ms\nsource_port: 1000+10\n");
    let trial = run(&profile, 20_000.0, &mut Device::new(50_000.0));
    adds_up(&trial);
    assert_eq!(
        (trial.total.sent.intended, trial.total.received.received),
        (10_000, 10_000)
    );
    assert!(
        trial.is_regular()
            && trial.loss_ratio() == 0.0
            && trial.worst.is_empty()
            && trial.holes.is_empty()
    );
    // From the intended time: a tick until it is sent, and its own 20 µs.
    assert!(
        trial.latency.min_ns >= 19_000 && trial.latency.max_ns < 400_000,
        "{:?}",
        trial.latency
    );
    let json = serde_json::to_string(&trial).unwrap();
    assert_eq!(serde_json::from_str::<Trial>(&json).unwrap(), trial);
}

#[test]
fn another_trial_in_the_same_memory_is_like_the_first() {
    let mut profile =
        profile("duration: 100ms\nsize: imix\nsource_port: 1000+10\npattern: poisson\n");
    let mut transmit = Transmit::new(&profile, "", &[50_000.0], 7);
    let mut receive = Receive::new(&profile, "", 7);
    let mut run = |profile: &Profile, transmit: &mut Transmit| {
        let mut buffer = vec![0; transmit.longest()];
        while let Some(due) = transmit.due_ns() {
            let due = transmit.next(due).unwrap();
            let len = transmit.write(&due, &mut buffer, false);
            receive.frame(&buffer[..len], 0, due.intended_ns() + 1000);
        }
        transmit.close(profile.duration_ns);
        let trial = Trial::of(profile, &[transmit], &[&receive], Around::default());
        receive.again(profile, 7);
        trial
    };
    let first = run(&profile, &mut transmit);
    transmit.again(&profile, &[50_000.0], 7);
    assert_eq!(run(&profile, &mut transmit), first);
    profile.duration_ns /= 2;
    transmit.again(&profile, &[20_000.0], 7);
    let shorter = run(&profile, &mut transmit);
    assert!(
        shorter.total.sent.intended.abs_diff(1000) < 200 && shorter.total.lost == 0,
        "{shorter:?}"
    );
}

#[test]
fn halves_of_two_processes_are_one_trial() {
    let profile = profile("duration: 100ms\nsource_port: 1000+10\n");
    let mut transmit = Transmit::new(&profile, "", &[10_000.0], 7);
    let mut receive = Receive::new(&profile, "", 7);
    let mut buffer = vec![0; transmit.longest()];
    while let Some(due) = transmit.due_ns() {
        let due = transmit.next(due).unwrap();
        let len = transmit.write(&due, &mut buffer, false);
        if due.flow() != 3 {
            receive.frame(&buffer[..len], 0, due.intended_ns() + 1000);
        }
    }
    transmit.close(profile.duration_ns);
    let whole = Trial::of(&profile, &[&transmit], &[&receive], Around::default());
    let mut near = Trial::of(&profile, &[&transmit], &[], Around::default());
    let far = Trial::of(&profile, &[], &[&receive], Around::default());
    assert!(near.total.lost == 1000 && !far.is_regular());
    near.join(&far);
    assert_eq!(
        (near.total, &near.streams, &near.latency),
        (whole.total, &whole.streams, &whole.latency)
    );
    assert!(near.is_regular() && near.total.lost == 100);
}

#[test]
fn overload_is_lost_or_unsent_and_never_hidden() {
    let profile = profile("duration: 500ms\n");
    for pushes_back in [false, true] {
        let mut device = Device {
            pushes_back,
            ..Device::new(10_000.0)
        };
        let trial = run(&profile, 20_000.0, &mut device);
        adds_up(&trial);
        assert_eq!(trial.total.sent.intended, 10_000);
        assert_eq!(
            if pushes_back {
                trial.total.lost
            } else {
                trial.total.sent.unsent
            },
            0
        );
        assert!(
            (trial.loss_ratio() - 0.5).abs() < 0.02,
            "{}",
            trial.loss_ratio()
        );
        assert!((trial.forwarded_per_s() - 10_000.0).abs() < 300.0);
    }
}

#[test]
fn a_hole_is_seen_where_it_was() {
    let profile = profile("duration: 1s\n");
    let mut device = Device {
        blocked: 300_000_000..350_000_000,
        ..Device::new(50_000.0)
    };
    let trial = run(&profile, 20_000.0, &mut device);
    adds_up(&trial);
    let [hole] = trial.holes[..] else {
        panic!("{:?}", trial.holes)
    };
    assert!(
        hole.from_ns.abs_diff(300_000_000) < 500_000 && hole.to_ns.abs_diff(350_000_000) < 500_000,
        "{hole:?}"
    );
    assert!(
        trial.blocked_ns().abs_diff(50_000_000) < 200_000,
        "{}",
        trial.blocked_ns()
    );
    assert_eq!((trial.worst.len(), trial.worst[0].flow), (1, 0));
}

#[test]
fn a_search_over_trials_finds_the_device() {
    let mut profile = profile("duration: 1s\n");
    let limits = Limits {
        min_packets_per_s: 1000.0,
        max_packets_per_s: 40_000.0,
        warm_up_s: 0.0,
    };
    let goal = Goal {
        duration_sum_s: 3.0,
        initial_trial_s: 0.5,
        ..Goal::ndr()
    };
    let mut search = Mlr::new(vec![goal], limits).unwrap();
    while let Some(ask) = search.ask() {
        profile.duration_ns = crate::number::whole(ask.duration_s * 1e9);
        let trial = run(&profile, ask.packets_per_s, &mut Device::new(15_000.0));
        search.tell(trial.outcome().unwrap());
    }
    let result = &search.results()[0];
    // Its queue takes a little more than it forwards for the time of a trial.
    let lower = result.lower.unwrap();
    assert!(
        result.regular && (14_800.0..15_300.0).contains(&lower),
        "{result:?}"
    );
}

#[test]
fn what_happened_meanwhile_keeps_a_trial_from_counting() {
    let profile = profile("duration: 1s\nrate: 1kpps\n");
    let transmit = Transmit::new(&profile, "", &[1000.0], 1);
    let receive = Receive::new(&profile, "", 1);
    let around = Around {
        irregular: vec![
            Irregular::DeviceRestarted,
            Irregular::Steal { share: 0.031 },
        ],
        ..Around::default()
    };
    let trial = Trial::of(&profile, &[&transmit], &[&receive], around);
    assert!(!trial.is_regular() && trial.outcome().is_none());
    let words: Vec<_> = trial.irregular.iter().map(Irregular::words).collect();
    assert_eq!(
        words,
        [
            "the device under test restarted",
            "others had 3.1 % of the processor"
        ]
    );
    assert_eq!(
        serde_json::to_value(&trial.irregular).unwrap(),
        serde_json::json!([{ "kind": "device-restarted" }, { "kind": "steal", "share": 0.031 }])
    );
}

#[test]
fn clocks_that_differ_and_counts_that_contradict_are_marked() {
    let profile = profile("duration: 10ms\nrate: 1kpps\n");
    let mut transmit = Transmit::new(&profile, "", &[1000.0], 1);
    let mut receive = Receive::new(&profile, "", 1);
    let mut buffer = vec![0; transmit.longest()];
    while let Some(due) = transmit.next(10_000_000) {
        transmit.write(&due, &mut buffer, false);
        receive.frame(&buffer, 0, due.intended_ns().saturating_sub(5));
        // It was taken after all.
        transmit.refused(&due);
    }
    transmit.close(10_000_000);
    let trial = Trial::of(&profile, &[&transmit], &[&receive], Around::default());
    adds_up(&trial);
    let received = trial.total.received;
    assert_eq!(trial.total.excess, received.received);
    assert!(trial.irregular.contains(&Irregular::Clock {
        packets: received.early
    }));
    assert!(trial.irregular.contains(&Irregular::Excess {
        packets: received.received
    }));
}

#[test]
fn a_trial_that_lost_all_is_explained() {
    let profile = profile("duration: 100ms\n");
    let mut device = Device {
        blocked: 0..u64::MAX,
        ..Device::new(1000.0)
    };
    let trial = run(&profile, 10_000.0, &mut device);
    let clue = |scope: &str, reason: &str, packets| Clue {
        scope: scope.into(),
        reason: reason.into(),
        packets,
    };
    let told = explain(
        &trial,
        &[
            clue("peer hv-b", "staged-expired", 3),
            clue("port vm1", "guard-address", 997),
            clue("x", "y", 0),
        ],
    );
    assert_eq!(told.len(), 2);
    assert!(
        told[0].starts_with("port vm1 dropped 997 packets as `guard-address`: the port's guard"),
        "{told:?}"
    );
    assert!(told[1].contains("has no session"));
    assert!(explain(&trial, &[])[0].contains("nothing arrived"));
    assert!(explain(&Trial::default(), &[])[0].contains("nothing was intended"));
    let good = run(&profile, 100.0, &mut Device::new(1000.0));
    assert!(explain(&good, &[]).is_empty());
}

#[test]
fn what_a_device_does_not_tell_is_unknown_and_not_lost() {
    let profile = profile("duration: 100ms\n");
    let mut transmit = Transmit::new(&profile, "", &[10_000.0], 7);
    while let Some(due) = transmit.due_ns() {
        transmit.next(due).unwrap();
    }
    transmit.close(profile.duration_ns);
    let mut trial = Trial::of(&profile, &[&transmit], &[], Around::default());
    trial.untold();
    assert_eq!((trial.total.sent.sent, trial.total.lost), (1000, 0));
    assert!(trial.irregular == [Irregular::Untold] && trial.outcome().is_none());
}

#[test]
fn a_device_s_own_count_stands_for_a_receiver() {
    let profile = profile("duration: 100ms\n");
    let mut transmit = Transmit::new(&profile, "", &[10_000.0], 1);
    while let Some(due) = transmit.due_ns() {
        transmit.next(due).unwrap();
    }
    let of = || Trial::of(&profile, &[&transmit], &[], Around::default());
    let mut trial = of();
    assert!(trial.total.lost == 1000 && !trial.holes.is_empty());
    trial.counted(990);
    adds_up(&trial);
    assert_eq!((trial.total.lost, trial.streams[0].counts.lost), (10, 10));
    assert!(trial.is_regular() && trial.holes.is_empty() && trial.worst.is_empty());
    let mut trial = of();
    trial.counted(1001);
    assert!(!trial.is_regular());
}
