//! Searches against devices that are made up: what they take is known, and a little noise.

use proptest::prelude::*;

use super::*;
use crate::timeline::Hole;

/// A device that forwards so many packets per second; above that it loses the rest, and now and then a trial has a little
/// loss for no reason.
#[derive(Clone, Debug)]
struct Device {
    capacity: f64,
    /// The share of trials with such a loss.
    noise: f64,
    random: u64,
    spent_s: f64,
}

impl Device {
    fn new(capacity: f64, noise: f64, random: u64) -> Self {
        Self {
            capacity,
            noise,
            random,
            spent_s: 0.0,
        }
    }

    fn draw(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn try_it(&mut self, ask: Ask) -> Outcome {
        self.spent_s += ask.duration_s;
        let over = (1.0 - self.capacity / ask.packets_per_s).max(0.0);
        let noise = if self.draw() < self.noise { 0.001 } else { 0.0 };
        Outcome::of((over + noise).min(1.0), ask.duration_s)
    }
}

const LIMITS: Limits = Limits {
    min_packets_per_s: 9001.0,
    max_packets_per_s: 14_880_952.0,
    warm_up_s: 1.0,
};

fn search(goals: &[Goal], device: &mut Device) -> Vec<GoalResult> {
    let mut search = Mlr::new(goals.to_vec(), LIMITS).unwrap();
    while let Some(ask) = search.ask() {
        assert_eq!(search.ask(), Some(ask), "asking changes nothing");
        assert!((LIMITS.min_packets_per_s..=LIMITS.max_packets_per_s).contains(&ask.packets_per_s));
        search.tell(device.try_it(ask));
    }
    search.results()
}

#[test]
fn a_device_without_noise_is_found_at_both_goals() {
    for capacity in [10_000.0, 1e6, 3_333_333.0, 14e6] {
        let mut device = Device::new(capacity, 0.0, 1);
        let [ndr, pdr] = &search(&[Goal::ndr(), Goal::pdr()], &mut device)[..] else {
            panic!()
        };
        for (result, edge) in [(ndr, capacity), (pdr, capacity / 0.995)] {
            assert!(result.regular, "{result:?}");
            let (lower, upper) = (result.lower.unwrap(), result.upper.unwrap());
            assert!(lower <= edge && edge <= upper, "{edge}: {result:?}");
            assert!(
                (upper - lower) / upper <= 0.005 * (1.0 + 1e-9),
                "{result:?}"
            );
            let through = result.conditional_throughput.unwrap();
            assert!(
                through <= capacity && through >= capacity * 0.99,
                "{result:?}"
            );
        }
        // CSIT's own searches of both take some minutes.
        assert!(device.spent_s < 250.0, "{} s", device.spent_s);
    }
}

#[test]
fn ends_of_the_range_are_irregular_and_explained() {
    let mut fast = Device::new(1e9, 0.0, 1);
    let results = search(&[Goal::ndr()], &mut fast);
    assert_eq!(
        (results[0].lower, results[0].upper),
        (Some(LIMITS.max_packets_per_s), None)
    );
    assert!(!results[0].regular && results[0].why.as_ref().unwrap().contains("takes more"));
    let mut dead = Device::new(0.0, 0.0, 1);
    let results = search(&[Goal::ndr(), Goal::pdr()], &mut dead);
    assert_eq!(
        (results[0].lower, results[0].upper),
        (None, Some(LIMITS.min_packets_per_s))
    );
    assert!(
        results
            .iter()
            .all(|it| it.why.as_ref().unwrap().contains("takes less"))
    );
}

#[test]
fn the_strict_goal_takes_full_trials_for_its_lower_bound() {
    let mut device = Device::new(2e6, 0.0, 1);
    let results = search(&[Goal::rfc2544()], &mut device);
    assert!(results[0].regular);
    assert!(results[0].lower.unwrap() <= 2e6 && results[0].upper.unwrap() >= 2e6);
    assert!(device.spent_s < 600.0, "{} s", device.spent_s);
}

#[test]
fn a_search_that_is_stopped_tells_what_it_has() {
    let mut device = Device::new(1e6, 0.0, 1);
    let mut search = Mlr::new(vec![Goal::ndr()], LIMITS).unwrap();
    for _ in 0..8 {
        let ask = search.ask().unwrap();
        search.tell(device.try_it(ask));
    }
    let results = search.results();
    assert!(!results[0].regular && results[0].why.as_ref().unwrap().contains("ended before"));
    assert_eq!(search.trials(), 8);
}

#[test]
fn disturbed_trials_are_asked_for_again_a_few_times() {
    let mut device = Device::new(1e6, 0.0, 1);
    let mut search = Mlr::new(vec![Goal::ndr()], LIMITS).unwrap();
    let mut trials = 0;
    while let Some(ask) = search.ask() {
        trials += 1;
        // Every third is disturbed: nothing of it counts.
        match trials % 3 {
            0 => search.disturbed(),
            _ => search.tell(device.try_it(ask)),
        }
    }
    assert!(search.results()[0].regular);
    let mut search = Mlr::new(vec![Goal::ndr()], LIMITS).unwrap();
    let mut asked = 0;
    while search.ask().is_some() {
        search.disturbed();
        asked += 1;
    }
    assert_eq!(asked, crate::limits::DISTURBED_MAX);
    assert!(
        search.results()[0]
            .why
            .as_ref()
            .unwrap()
            .contains("disturbed")
    );
}

#[test]
fn wrong_limits_are_refused() {
    for (min, max) in [
        (0.0, 1.0),
        (2.0, 1.0),
        (1.0, 1.0),
        (1.0, f64::INFINITY),
        (f64::NAN, 1.0),
    ] {
        let limits = Limits {
            min_packets_per_s: min,
            max_packets_per_s: max,
            warm_up_s: 0.0,
        };
        assert!(Mlr::new(vec![Goal::ndr()], limits).is_err(), "{min} {max}");
    }
    assert!(Mlr::new(vec![], LIMITS).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With fewer trials with loss than half, NDR is where the device is; more of them, and it can't be above.
    #[test]
    fn noise_below_the_exceed_ratio_moves_nothing(capacity in 2e4f64..14e6, noise in 0.0f64..0.15, seed: u64) {
        let mut device = Device::new(capacity, noise, seed);
        for result in search(&[Goal::ndr(), Goal::pdr()], &mut device) {
            let (lower, upper) = (result.lower.unwrap(), result.upper.unwrap());
            prop_assert!(lower <= upper * 0.9999 && (upper - lower) / upper <= 0.005 * (1.0 + 1e-9));
            prop_assert!(lower <= capacity * 1.006, "{result:?}");
            prop_assert!(upper >= capacity * 0.99, "{result:?}");
        }
    }

    /// Whatever comes, it ends, and bounds never contradict each other.
    #[test]
    fn a_search_ends_whatever_the_device_does(losses in prop::collection::vec(0.0f64..0.02, 1..40), seed: u64) {
        let mut device = Device::new(1e6, 0.0, seed);
        let mut search = Mlr::new(vec![Goal::pdr(), Goal::ndr()], LIMITS).unwrap();
        let mut trials = 0;
        while let Some(ask) = search.ask() {
            let drawn = device.draw() * losses.len() as f64;
            let place = (1..losses.len()).take_while(|&it| it as f64 <= drawn).count();
            search.tell(Outcome::of(losses[place], ask.duration_s));
            trials += 1;
            prop_assert!(trials < 3000);
        }
        for result in search.results() {
            if let (Some(lower), Some(upper)) = (result.lower, result.upper) {
                prop_assert!(lower < upper);
            }
        }
    }
}

#[test]
fn the_loss_curve_goes_down_until_nothing_is_lost_twice() {
    let mut curve = LossCurve::new(10e6, 1.0);
    let mut device = Device::new(7.5e6, 0.0, 1);
    while let Some(ask) = curve.ask() {
        curve.tell(device.try_it(ask));
    }
    let loads: Vec<_> = curve.points().iter().map(|(load, _)| load / 1e6).collect();
    assert_eq!(loads, [10.0, 9.0, 8.0, 7.0, 6.0]);
    assert!((curve.points()[0].1 - 0.25).abs() < 1e-9);
    let mut dead = LossCurve::new(10e6, 1.0);
    while dead.ask().is_some() {
        dead.tell(Outcome::of(1.0, 1.0));
    }
    assert_eq!(dead.points().len(), 10);
}

#[test]
fn bursts_find_the_buffer() {
    // A device of 2 Mpps with room for 10,000 frames, on a line of 10 Mpps: a burst fills it at 8 Mpps.
    let mut search = BackToBack::new(10e6, 2e6, 2.0, 5).unwrap();
    let longest = 10_000.0 / (1.0 - 0.2);
    while let Some(ask) = search.ask() {
        let frames = ask.duration_s * ask.packets_per_s;
        search.tell(Outcome::of(
            if frames > longest { 0.01 } else { 0.0 },
            ask.duration_s,
        ));
    }
    let found = search.result().unwrap();
    assert_eq!((found.searches, found.unbounded), (5, false));
    assert!(
        (found.frames - longest).abs() <= longest / 500.0,
        "{found:?}"
    );
    // 10,000 frames at the line's rate are a millisecond.
    assert!((found.corrected_buffer_s - 1e-3).abs() < 1e-5, "{found:?}");
    assert!(BackToBack::new(10e6, 10e6, 2.0, 1).is_err());
    let mut endless = BackToBack::new(10e6, 9e6, 2.0, 1).unwrap();
    endless.tell(Outcome::of(0.0, 2.0));
    assert!(endless.ask().is_none() && endless.result().unwrap().unbounded);
}

#[test]
fn mrr_is_the_mean_of_what_came_through() {
    let mut mrr = Mrr::new(10e6, 1.0, 3);
    for loss in [0.5, 0.4, 0.6] {
        assert!(mrr.ask().is_some());
        mrr.tell(Outcome::of(loss, 1.0));
    }
    assert_eq!(mrr.ask(), None);
    let result = mrr.result().unwrap();
    assert!((result.packets_per_s - 5e6).abs() < 1.0 && (result.deviation - 1e6).abs() < 1.0);
}

#[test]
fn recovery_is_from_the_change_to_the_last_loss() {
    let recovery = Recovery::of(1e6, 14e6);
    assert!((recovery.overload_packets_per_s - 1.1e6).abs() < 1.0);
    assert!((recovery.then * recovery.overload_packets_per_s - 5e5).abs() < 1.0);
    let hole = |from_ns, to_ns| Hole {
        from_ns,
        to_ns,
        lost: 3,
    };
    let overload = hole(0, 61_500_000_000);
    assert_eq!(recovery.took_ns(&[overload]), 1_500_000_000);
    assert_eq!(recovery.took_ns(&[hole(0, 10)]), 0);
    assert_eq!(recovery.took_ns(&[]), 0);
    assert_eq!(latency_loads(1e6)[0].1, 9000.0);
}
