//! The search beside its reference, `MLRsearch` of PyPI: the same classes, the same bounds, about the same time.
//!
//! scripts/test installs it. Where it is missing the tests fail, unless `CULVERT_TEST_SKIP` has `mlrsearch` or `all`.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_pktgen::search::{Ask, Class, Goal, GoalResult, Limits, Mlr, Outcome, Stat};
use serde_json::{Value, json};

const MIN: f64 = 9001.0;
const MAX: f64 = 14_880_952.0;

/// What the reference says; `None` if it may be missing.
fn oracle(question: &Value) -> Option<Value> {
    let python = target().join("mlrsearch/bin/python");
    if !python.is_file() {
        skipped(&python);
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle.py");
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(question.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    )
}

fn skipped(python: &Path) {
    let allowed = std::env::var("CULVERT_TEST_SKIP").unwrap_or_default();
    let is_allowed = allowed
        .split(',')
        .any(|word| word == "mlrsearch" || word == "all");
    assert!(
        is_allowed,
        "no {}; run: scripts/test, which installs it (CULVERT_TEST_SKIP=mlrsearch skips it)",
        python.display()
    );
    let folder = target().join("scenarios");
    fs::create_dir_all(&folder).unwrap();
    let mut file = File::options()
        .create(true)
        .append(true)
        .open(folder.join("skipped"))
        .unwrap();
    writeln!(
        file,
        "SKIPPED pktgen::oracle: mlrsearch: it is not installed"
    )
    .unwrap();
}

/// The device of oracle.py, number for number.
struct Device {
    capacity: f64,
    noise: f64,
    random: u64,
    spent_s: f64,
}

impl Device {
    fn draw(&mut self) -> f64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn measure(&mut self, ask: Ask) -> Outcome {
        self.spent_s += ask.duration_s;
        let over = (1.0 - self.capacity / ask.packets_per_s).max(0.0);
        let noise = if self.draw() < self.noise { 0.001 } else { 0.0 };
        // In packets, as the reference counts them.
        let lost = ((over + noise).min(1.0) * 1e6).round_ties_even();
        Outcome::of(lost / 1e6, ask.duration_s)
    }
}

#[test]
fn classes_are_those_of_the_reference() {
    let mut draws = Device {
        capacity: 0.0,
        noise: 0.0,
        random: 5,
        spent_s: 0.0,
    };
    let mut pick = |of: &[f64]| {
        let drawn = draws.draw() * of.len() as f64;
        of[(1..of.len()).take_while(|&it| it as f64 <= drawn).count()]
    };
    let mut cases = Vec::new();
    for _ in 0..2000 {
        let goal = Goal {
            loss_ratio: pick(&[0.0, 0.005]),
            exceed_ratio: pick(&[0.0, 0.1, 0.5, 0.75]),
            final_trial_s: pick(&[1.0, 5.0]),
            duration_sum_s: pick(&[5.0, 21.0, 60.0]),
            ..Goal::ndr()
        };
        let count = pick(&[1.0, 2.0, 5.0, 20.0, 40.0]);
        let trials: Vec<(f64, f64)> = (0..40)
            .take_while(|&place| f64::from(place) < count)
            .map(|_| {
                (
                    pick(&[0.5, 1.0, 2.0, 5.0, 7.0]),
                    pick(&[0.0, 0.0, 0.001, 0.005, 0.01, 1.0]),
                )
            })
            .collect();
        cases.push((goal, trials));
    }
    let question: Vec<Value> = cases
        .iter()
        .map(|(goal, trials)| json!({ "goal": goal, "trials": trials }))
        .collect();
    let Some(answer) = oracle(&json!({ "classify": question, "search": [] })) else {
        return;
    };
    let mut seen = [0; 3];
    for ((goal, trials), said) in cases.iter().zip(answer["classified"].as_array().unwrap()) {
        let mut stat = Stat::default();
        for (duration_s, loss) in trials {
            stat.add(goal, *duration_s, Outcome::of(*loss, *duration_s));
        }
        let class = stat.class(goal);
        seen[class as usize] += 1;
        assert_eq!(
            format!("{class:?}"),
            said["class"].as_str().unwrap(),
            "{goal:?} {trials:?}"
        );
        if class == Class::Lower {
            assert_eq!(
                stat.conditional_loss_ratio(goal),
                said["loss_ratio"].as_f64().unwrap(),
                "{goal:?} {trials:?}"
            );
        }
    }
    assert!(seen.iter().all(|&count| count > 100), "{seen:?}");
}

fn search(goals: &[Goal], device: &mut Device) -> Vec<GoalResult> {
    let limits = Limits {
        min_packets_per_s: MIN,
        max_packets_per_s: MAX,
        warm_up_s: 1.0,
    };
    let mut search = Mlr::new(goals.to_vec(), limits).unwrap();
    while let Some(ask) = search.ask() {
        search.tell(device.measure(ask));
    }
    search.results()
}

#[test]
fn searches_find_what_the_reference_finds_about_as_fast() {
    let goals = [Goal::ndr(), Goal::pdr()];
    let strict = [Goal {
        final_trial_s: 10.0,
        duration_sum_s: 10.0,
        exceed_ratio: 0.0,
        ..Goal::ndr()
    }];
    let mut cases: Vec<(&[Goal], f64, f64, u64)> = Vec::new();
    for seed in 0..40u64 {
        let capacity = MIN * (MAX / MIN).powf((seed as f64 + 0.5) / 40.0);
        cases.push((&goals, capacity, 0.0, seed));
        cases.push((&goals, capacity, 0.1, seed));
        cases.push((&strict, capacity, 0.0, seed));
    }
    let question: Vec<Value> = cases
        .iter()
        .map(|(goals, capacity, noise, seed)| json!({ "goals": goals, "min": MIN, "max": MAX, "capacity": capacity, "noise": noise, "seed": seed }))
        .collect();
    let Some(answer) = oracle(&json!({ "classify": [], "search": question })) else {
        return;
    };
    let (mut ours_s, mut theirs_s) = (0.0, 0.0);
    for ((goals, capacity, noise, seed), said) in
        cases.iter().zip(answer["searched"].as_array().unwrap())
    {
        let mut device = Device {
            capacity: *capacity,
            noise: *noise,
            random: *seed,
            spent_s: 0.0,
        };
        let found = search(goals, &mut device);
        ours_s += device.spent_s;
        theirs_s += said["spent_s"].as_f64().unwrap();
        for (ours, theirs) in found.iter().zip(said["goals"].as_array().unwrap()) {
            agree(ours, theirs, *noise);
        }
    }
    println!("ours {ours_s:.0} s, the reference {theirs_s:.0} s of trials");
    assert!(
        ours_s <= theirs_s * 1.05,
        "ours {ours_s:.0} s, the reference {theirs_s:.0} s"
    );
}

/// Both intervals have the device's edge in them, so they overlap; noise moves an edge by a width at most.
fn agree(ours: &GoalResult, theirs: &Value, noise: f64) {
    let their = |key: &str| theirs[key].as_f64();
    let slack = if noise > 0.0 { 1.01 } else { 1.0 };
    match (
        ours.lower.zip(ours.upper),
        their("lower").zip(their("upper")),
    ) {
        (Some((low, high)), Some((their_low, their_high))) => {
            assert!(
                low <= their_high * slack && their_low <= high * slack,
                "{ours:?} {theirs}"
            );
            let (ours, theirs) = (
                ours.conditional_throughput.unwrap(),
                their("through").unwrap(),
            );
            assert!((ours - theirs).abs() <= theirs * 0.012, "{ours} {theirs}");
        }
        (None, None) => assert_eq!(
            (ours.lower.is_some(), ours.upper.is_some()),
            (their("lower").is_some(), their("upper").is_some())
        ),
        _ => panic!("{ours:?} {theirs}"),
    }
}
