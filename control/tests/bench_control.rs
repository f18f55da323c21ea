//! The benchmark of the control core, with few peers: its cases are still to be had.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;
#[path = "../benches/control/flood.rs"]
mod flood;
#[path = "../benches/control/measure.rs"]
mod measure;
#[path = "../benches/control/process.rs"]
mod process;

use std::cell::RefCell;

#[test]
fn every_case_can_be_measured() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("root", "the socket that `wg` speaks to is root's");
    }
    let cases = RefCell::new(Vec::new());
    measure::all(measure::Size::SMOKE, None, |figure| {
        assert!(figure.value.is_finite(), "{} {}", figure.case, figure.unit);
        assert!(figure.goal.is_none_or(|goal| goal > 0.0));
        cases.borrow_mut().push(figure.case.clone());
    });
    for part in [
        "start",
        "memory",
        "show",
        "wg-show",
        "wg-set",
        "layer",
        "churn",
        "file",
        "many-prefixes",
        "metrics-1000",
        "flood",
        "flood-and-show",
    ] {
        let is_there = |case: &String| case.split('/').next() == Some(part);
        assert!(cases.borrow().iter().any(is_there), "no case {part}");
    }
}
