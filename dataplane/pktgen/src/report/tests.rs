//! The three forms, over results as a run has them; the page in a browser, if there is one.

use std::path::PathBuf;
use std::process::Command;

use super::*;
use crate::search::{Goal, Limits, Mlr, Outcome};
use crate::transmit::Sent;
use crate::trial::{Counts, Irregular};

fn trial(number: u64, packets_per_s: f64, capacity: f64) -> Trial {
    let intended = crate::number::whole(packets_per_s);
    let lost = crate::number::whole((packets_per_s - capacity).max(0.0));
    let mut trial = Trial {
        number,
        packets_per_s,
        duration_ns: 1_000_000_000,
        whole_ns: 1_000_000_000,
        ..Trial::default()
    };
    trial.total = Counts {
        sent: Sent {
            intended,
            offered: intended,
            sent: intended,
            ..Sent::default()
        },
        lost,
        ..Counts::default()
    };
    trial.total.received.received = intended - lost;
    trial.latency = summary(20_000);
    trial
}

fn summary(median_ns: u64) -> LatencySummary {
    let shares = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 99.999, 100.0];
    let values = [1, 1, 2, 3, 8, 20, 45, 90].map(|it| it * median_ns);
    LatencySummary {
        count: 90_000,
        min_ns: median_ns / 2,
        mean_ns: median_ns as f64 * 1.1,
        max_ns: median_ns * 90,
        percentiles: shares.into_iter().zip(values).collect(),
    }
}

fn searched(name: &str, size: u32, capacity: f64) -> Test {
    let limits = Limits {
        min_packets_per_s: 9001.0,
        max_packets_per_s: 14_880_952.0 * 84.0 / f64::from(size + 20),
        warm_up_s: 0.0,
    };
    let mut search = Mlr::new(vec![Goal::ndr(), Goal::pdr()], limits).unwrap();
    let mut trials = Vec::new();
    while let Some(ask) = search.ask() {
        let trial = trial(trials.len() as u64, ask.packets_per_s, capacity);
        search.tell(Outcome::of(trial.loss_ratio(), 1.0));
        trials.push(trial);
    }
    trials[5].irregular.push(Irregular::Steal { share: 0.04 });
    Test {
        name: format!("{name} {size}"),
        topology: name.into(),
        size: size.to_string(),
        inner_bare_bytes: f64::from(size - 4),
        outer_bare_bytes: f64::from((size - 18).next_multiple_of(16) + 74),
        trials,
        goals: search.results(),
        latency: [
            ("idle", 12_000),
            ("10%", 14_000),
            ("50%", 21_000),
            ("90%", 60_000),
        ]
        .map(|(load, ns)| (load.into(), summary(ns)))
        .to_vec(),
        cycles: [
            ("ring", 42.0),
            ("route", 31.0),
            ("seal", 240.0 + f64::from(size)),
            ("encap", 25.0),
            ("send", 60.0),
        ]
        .map(|(stage, cycles)| (stage.into(), cycles))
        .to_vec(),
        ..Test::default()
    }
}

fn results() -> Results {
    let mut tests = Vec::new();
    for (size, capacity) in [(64, 3.9e6f64), (512, 2.4e6), (1518, 1.1e6)] {
        tests.push(searched(
            "p2t",
            size,
            capacity.min(14.8e6 * 84.0 / f64::from(size + 20) * 0.9),
        ));
        tests.push(searched("t2p", size, capacity * 0.8));
    }
    tests.push(Test {
        name: "<b>v2v</b>, \"odd\"".into(),
        topology: "v2v".into(),
        size: "imix".into(),
        inner_bare_bytes: 350.0,
        outer_bare_bytes: 350.0,
        mrr: Some(MrrResult {
            packets_per_s: 5.1e6,
            deviation: 1e4,
            trials: vec![5.1e6; 3],
            why: None,
        }),
        explanation: vec!["port vm1 dropped 997 packets as `guard-address`".into()],
        ..Test::default()
    });
    let machine = [
        (
            "Processor",
            "Example 9000, 2 cores at 2.6 GHz, microcode 0x1",
        ),
        ("Cores", "generator 0, device 1: near (one cache)"),
        ("Kernel", "6.12"),
        ("Stolen time", "0.2 %"),
    ];
    Results {
        format: FORMAT,
        title: "How fast is it?".into(),
        program: "culvert 0.1.0".into(),
        started: "2026-11-30T12:00:00Z".into(),
        machine: machine
            .map(|(key, value)| (key.into(), value.into()))
            .into(),
        configuration: serde_json::json!({ "profile": { "rate": "max", "size": "</pre><script>" } }),
        own: Some(Own {
            packets_per_s: 11.2e6,
            size: "64".into(),
            latency: summary(900),
            gaps: summary(1000),
            gaps_at: 1e6,
        }),
        notes: vec!["Phases of RFC 2544: 0.1 s settle, 0.5 s residual, no rest.".into()],
        tests,
    }
}

#[test]
fn json_reads_back_as_it_was() {
    let results = results();
    let text = results.json();
    assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    assert!(text.starts_with("{\n  \"format\": 1,"));
}

#[test]
fn csv_has_a_line_for_every_trial() {
    let results = results();
    let text = csv(&results);
    let lines: Vec<&str> = text.lines().collect();
    let trials: usize = results.tests.iter().map(|it| it.trials.len()).sum();
    assert_eq!(lines.len(), trials + 1);
    let columns = lines[0].split(',').count();
    assert!(
        lines.iter().all(|line| line.split(',').count() == columns),
        "no field here has a comma"
    );
    assert!(text.contains("others had 4.0 % of the processor"));
}

#[test]
fn the_page_is_whole_and_has_no_markup_of_others() {
    let page = html(&results());
    assert!(
        !page.contains("<script")
            && !page.contains("http:")
            && !page.contains("https:")
            && !page.contains("<b>v2v")
    );
    assert!(page.contains("&lt;/pre&gt;&lt;script&gt;") && page.contains("&lt;b&gt;v2v"));
    assert!(!page.contains("NaN") && !page.contains("inf"));
    for tag in [
        "figure", "svg", "table", "tbody", "details", "div", "p", "title", "text",
    ] {
        let opened =
            page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    // Three of throughput, one of loss and one of latency for each of six tests, one of cycles.
    assert_eq!(page.matches("<figure>").count(), 3 + 6 + 6 + 1);
    let nothing = html(&Results::default());
    assert_eq!(nothing.matches("<figure>").count(), 0);
    assert!(nothing.contains("own ceiling and latency were not measured"));
}

#[test]
fn two_runs_differ_by_more_than_noise_or_not() {
    let (old, mut new) = (results(), results());
    assert!(
        compare(&old, &new)
            .changes
            .iter()
            .all(|it| !it.beyond_noise)
    );
    let through = |test: &mut Test, times: f64| {
        let goal = &mut test.goals[0];
        goal.conditional_throughput = goal.conditional_throughput.map(|it| it * times);
    };
    // Within both widths of half a percent, and beyond.
    through(&mut new.tests[0], 1.009);
    through(&mut new.tests[1], 0.98);
    new.tests[2].latency[2].1 = summary(40_000);
    new.tests[3].name = "renamed".into();
    new.machine.insert("Kernel".into(), "6.13".into());
    let comparison = compare(&old, &new);
    let beyond = comparison.changes.iter().filter(|it| it.beyond_noise);
    let named: Vec<_> = beyond
        .map(|it| (it.test.as_str(), it.figure.as_str()))
        .collect();
    assert_eq!(
        named,
        [
            ("t2p 64", "NDR"),
            ("p2t 512", "latency 50%, 50 %"),
            ("p2t 512", "latency 50%, 99 %")
        ]
    );
    assert_eq!(
        comparison.alone,
        [
            ("now".into(), "renamed".into()),
            ("before".into(), "t2p 512".into())
        ]
    );
    assert_eq!(
        comparison.machine,
        [("Kernel".into(), "6.12".into(), "6.13".into())]
    );
    // What a search did not end regularly is no figure to compare.
    assert!(
        !comparison
            .changes
            .iter()
            .any(|it| it.test == "t2p 1518" && it.figure == "NDR")
    );
}

/// Debian's chromium, or the headless part of it alone.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let names = [
        "chromium-headless-shell",
        "chromium",
        "chromium-browser",
        "google-chrome",
    ];
    names
        .iter()
        .flat_map(|name| folders.iter().map(move |it| it.join(name)))
        .find(|it| it.is_file())
}

#[test]
fn a_browser_draws_the_page_in_light_and_dark_and_prints_it() {
    let Some(browser) = browser() else {
        let allowed = std::env::var("CULVERT_TEST_SKIP").unwrap_or_default();
        let is_allowed = allowed
            .split(',')
            .any(|word| word == "chromium" || word == "all");
        assert!(
            is_allowed,
            "no chromium; run: scripts/test, which installs it (CULVERT_TEST_SKIP=chromium skips it)"
        );
        return;
    };
    let kept = std::env::var_os("CULVERT_TEST_PAGES").map(PathBuf::from);
    let temporary = tempfile::tempdir().unwrap();
    let folder = kept.unwrap_or_else(|| temporary.path().into());
    let page = folder.join("page.html");
    std::fs::write(&page, html(&results())).unwrap();
    let run = |options: &[String]| {
        let status = Command::new(&browser)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
            ])
            .arg(format!(
                "--user-data-dir={}",
                temporary.path().join("profile").display()
            ))
            .args(options)
            .arg(format!("file://{}", page.display()))
            .output()
            .unwrap();
        assert!(
            status.status.success(),
            "{}",
            String::from_utf8_lossy(&status.stderr)
        );
    };
    let picture = |name: &str, more: &[&str]| {
        let file = folder.join(name);
        let mut options = vec![
            format!("--screenshot={}", file.display()),
            "--window-size=1120,4600".into(),
        ];
        options.extend(more.iter().map(|it| (*it).into()));
        run(&options);
        std::fs::read(file).unwrap()
    };
    let light = picture("light.png", &[]);
    let dark = picture("dark.png", &["--blink-settings=preferredColorScheme=0"]);
    let narrow = picture("narrow.png", &["--window-size=420,4600"]);
    assert!(
        [&light, &dark, &narrow]
            .iter()
            .all(|it| it.starts_with(b"\x89PNG") && it.len() > 50_000)
    );
    assert_ne!(light, dark);
    let printed = folder.join("page.pdf");
    run(&[format!("--print-to-pdf={}", printed.display())]);
    assert!(std::fs::read(printed).unwrap().starts_with(b"%PDF"));
}
