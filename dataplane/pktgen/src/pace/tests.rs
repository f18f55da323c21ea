//! Intended times of every shape, and what is unsent.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;
const SHAPES: [Shape; 6] = [
    Shape::Constant,
    Shape::Burst(32),
    Shape::Ramp { from: 0.01 },
    Shape::Ramp { from: 1.0 },
    Shape::Drop { to: 0.4 },
    Shape::Poisson,
];

fn times(mut pace: Pace) -> Vec<u64> {
    std::iter::from_fn(|| pace.due_ns().map(|_| pace.take())).collect()
}

#[test]
fn constant_times_do_not_drift() {
    let times = times(Pace::new(Shape::Constant, 3_000_000.0, 10 * SECOND, 0, 1));
    assert_eq!(times.len(), 30_000_000);
    for (index, &ns) in (0u64..).zip(&times).step_by(997) {
        let exact = index * 1000 / 3;
        assert!(
            ns.abs_diff(exact) <= 1,
            "packet {index}: {ns} instead of {exact}"
        );
    }
}

#[test]
fn bursts_leave_at_once_and_keep_the_rate() {
    let times = times(Pace::new(Shape::Burst(4), 1000.0, SECOND, 0, 1));
    assert_eq!(times.len(), 1000);
    assert_eq!(
        times[..9],
        [
            0, 0, 0, 0, 4_000_000, 4_000_000, 4_000_000, 4_000_000, 8_000_000
        ]
    );
}

#[test]
fn a_ramp_rises_evenly() {
    let times = times(Pace::new(
        Shape::Ramp { from: 0.0 },
        1000.0,
        10 * SECOND,
        0,
        1,
    ));
    assert_eq!(times.len(), 5000);
    // After half the time a quarter of all.
    let half = times.iter().filter(|&&ns| ns < 5 * SECOND).count();
    assert!(half.abs_diff(1250) <= 1, "{half}");
    assert!(times.is_sorted());
}

#[test]
fn poisson_gaps_are_exponential_and_repeat_with_their_seed() {
    let of = |seed| times(Pace::new(Shape::Poisson, 100_000.0, 10 * SECOND, 0, seed));
    let drawn = of(7);
    assert_eq!(drawn, of(7));
    assert_ne!(drawn, of(8));
    // A million, within five standard deviations; a share of 1/e of the gaps is above the mean.
    assert!(drawn.len().abs_diff(1_000_000) < 5000, "{}", drawn.len());
    let long = drawn.windows(2).filter(|it| it[1] - it[0] > 10_000).count() as f64;
    let share = long / drawn.len() as f64;
    assert!((share - (-1f64).exp()).abs() < 0.003, "{share}");
}

#[test]
fn what_was_not_sent_in_its_time_is_unsent_and_the_end_stays() {
    for shape in SHAPES {
        let mut pace = Pace::new(shape, 1_000_000.0, SECOND, 1_000_000, 1);
        let all = times(pace.clone()).len() as u64;
        let mut taken = 0;
        // A sender that stalls from 0.2 s to 0.5 s.
        for now in (0..SECOND)
            .step_by(10_000)
            .filter(|now| !(200_000_000..500_000_000).contains(now))
        {
            while !pace.skip(now) {}
            while pace.due_ns().is_some_and(|due| due <= now) {
                let late = now - pace.take();
                assert!(late <= 1_000_000, "{shape:?}: sent {late} ns late");
                taken += 1;
            }
        }
        pace.close(SECOND);
        assert_eq!(pace.due_ns(), None);
        assert_eq!(pace.intended(), taken + pace.skipped(), "{shape:?}");
        assert!(
            pace.intended().abs_diff(all) <= 200,
            "{shape:?}: {} of {all}",
            pace.intended()
        );
        assert!(pace.skipped() > all / 10, "{shape:?}: {}", pace.skipped());
    }
}

#[test]
fn one_that_ends_early_intended_no_more() {
    let mut pace = Pace::new(Shape::Constant, 1000.0, 60 * SECOND, 1_000_000, 1);
    for _ in 0..500 {
        pace.take();
    }
    pace.close(SECOND);
    assert_eq!((pace.intended(), pace.skipped()), (1000, 500));
    let mut none = Pace::new(Shape::Constant, 0.0, SECOND, 0, 1);
    none.close(SECOND);
    assert_eq!((none.due_ns(), none.intended()), (None, 0));
}

#[test]
fn patterns_are_read() {
    assert_eq!(Shape::parse("burst 32"), Ok(Shape::Burst(32)));
    assert_eq!(Shape::parse("ramp 10%"), Ok(Shape::Ramp { from: 0.1 }));
    assert_eq!(Shape::parse("drop 45%"), Ok(Shape::Drop { to: 0.45 }));
    assert_eq!(Shape::parse("ramp"), Ok(Shape::Ramp { from: 0.01 }));
    for bad in [
        "",
        "burst",
        "burst 0",
        "burst 1 2",
        "ramp 10",
        "ramp 101%",
        "ramp nan%",
        "constant 1",
    ] {
        assert!(Shape::parse(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn skipping_counts_every_packet_once(
        rate in 0.1f64..20e6,
        shape in prop::sample::select(&SHAPES[..5]),
        steps in prop::collection::vec((0u64..50_000_000, 0u32..50), 1..30),
    ) {
        let mut pace = Pace::new(shape, rate, SECOND, 1000, 1);
        let (mut now, mut taken, mut last) = (0, 0, 0);
        for (step, most) in steps {
            now += step;
            prop_assert!(pace.skip(now));
            for _ in 0..most {
                if pace.due_ns().is_none_or(|due| due > now) {
                    break;
                }
                let intended = pace.take();
                prop_assert!(intended >= last && intended + 1000 >= now.min(SECOND));
                last = intended;
                taken += 1;
            }
            prop_assert_eq!(pace.intended(), taken + pace.skipped());
        }
        pace.close(SECOND);
        prop_assert_eq!(pace.intended(), taken + pace.skipped());
        let mean = match shape {
            Shape::Ramp { from: other } | Shape::Drop { to: other } => rate * (1.0 + other) / 2.0,
            Shape::Constant | Shape::Burst(_) | Shape::Poisson => rate,
        };
        prop_assert!((pace.intended() as f64 - mean).abs() <= 33.0, "{} of {mean}", pace.intended());
    }
}
