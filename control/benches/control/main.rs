//! What many peers cost the control core:
//! `cargo bench -p culvert --bench control -- [--json] [--peers N] [--case TEXT] [--smoke]`.
//!
//! In: the binary, started with a file of so many peers, each with one prefix, or with more; no packet passes. Out: one
//! line per case. Never: a figure that fails. The reference is the goal for 100,000 peers.
//!
//! Times of the core are those that its thread spent on a processor: what runs beside it doesn't count. They want root,
//! for the socket that `wg` speaks to.

#![allow(clippy::unwrap_used, reason = "what can't be set up can't be measured")]

mod flood;
mod measure;
mod process;

use std::time::Duration;

use measure::{Figure, Size};

/// `--peers` without a number.
const PEERS: usize = 100_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let mut behind = arguments.iter().skip_while(|it| *it != name);
        behind.nth(1).map(String::as_str)
    };
    let peers = value("--peers");
    let size = match (has("--smoke"), peers) {
        (true, _) => Size::SMOKE,
        (false, peers) => Size {
            peers: peers.map_or(PEERS, |text| text.parse().unwrap()),
            sets: 300,
            rounds: 5,
            churn: (6_000, 100),
            rest: Duration::from_millis(2_500),
        },
    };
    let print = if has("--json") { json } else { text };
    measure::all(size, value("--case"), print);
}

fn text(figure: &Figure) {
    let Figure {
        case, unit, value, ..
    } = figure;
    let goal = figure.goal.map(|goal| format!(" (goal: {goal})"));
    println!(
        "{case:32} {value:12.1} {unit:3}{}",
        goal.unwrap_or_default()
    );
}

fn json(figure: &Figure) {
    let Figure {
        case, unit, value, ..
    } = figure;
    let goal = figure.goal.map_or_else(String::new, |goal| {
        let ratio = goal / value;
        format!(",\"reference\":\"goal\",\"reference_value\":{goal},\"ratio\":{ratio:.3}")
    });
    println!(
        "{{\"section\":\"control\",\"case\":\"{case}\",\"unit\":\"{unit}\",\"value\":{value:.3}{goal}}}"
    );
}
