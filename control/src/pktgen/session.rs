//! A whole run: the rig, the generator alone, the seats, the campaign, in this order.
//!
//! In: an order. Out: [`Results`], also when it was ended early. Never: results without what the generator does alone.

use std::time::SystemTime;

use culvert_pktgen::Profile;
use culvert_pktgen::limits::RESIDUAL_NS;
use culvert_pktgen::report::{FORMAT, Results, Test};
use serde_json::{Value, json};

use super::campaign::{Campaign, Search, Wanted, sizes};
use super::rig::{Rig, RigError, Setup, Target};
use super::stage::{Manner, Progress, Stage};
use super::{machine, own};
use crate::events::rfc3339;

/// After so much quiet nothing more comes out of a device: in searches of many short trials. Others wait as RFC 2544 does.
const QUIET_NS: u64 = 100_000_000;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// By what.
    pub setup: Setup,
    /// The profile as it was asked for.
    pub asked: Value,
    /// What is to be found.
    pub wanted: Wanted,
}

/// Runs an order; also why it ended early.
///
/// # Errors
/// There is nothing to measure, or nothing to measure it by.
pub fn run(order: Order, progress: Progress<'_>) -> Result<(Results, Option<String>), RigError> {
    let Order {
        setup,
        asked,
        wanted,
    } = order;
    let setup = setup.completed()?;
    let started = SystemTime::now();
    // Mistakes of rates, before anything is started.
    let shares = shares(&setup.profile)?;
    let mut rig = Rig::start(setup.clone())?;
    // Not before the device was started, which would be where we are.
    setup.cores.pin().map_err(RigError::Pin)?;
    let manner = Manner {
        cores: setup.cores.clone(),
        stop: setup.stop.clone(),
        quiet_ns: quiet_ns(&setup.target, &wanted),
    };
    let own = own::measure(&setup.profile, &shares, &manner);
    let rates = setup.profile.packets_per_s(Some(own.packets_per_s));
    let rates = rates.map_err(RigError::Profile)?;
    let mut notes = rig.plan().notes.clone();
    let config = rig.plan().config.clone();
    let load: f64 = rates.iter().sum();
    setup.holds(
        &rates,
        wanted.longest_s(setup.profile.duration_ns as f64 / 1e9),
    )?;
    let seats = rig.seats()?;
    let mut stage = Stage::new(seats, setup.profile.clone(), manner);
    let mut campaign = Campaign {
        stage: &mut stage,
        rig: &mut rig,
        shares: rates.iter().map(|rate| rate / load).collect(),
        progress,
        test: test(&setup, &rates),
        drops: Vec::new(),
        failed: None,
    };
    campaign.run(&wanted, load);
    let (test, drops, failed) = (campaign.test, campaign.drops, campaign.failed);
    for clue in drops {
        notes.push(format!(
            "in all trials {} dropped {} packets as `{}`",
            clue.scope, clue.packets, clue.reason
        ));
    }
    notes.extend(remarks(&setup, &wanted));
    let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH);
    let results = Results {
        format: FORMAT,
        title: format!("culvert pktgen {}", setup.target.name()),
        program: format!("culvert {}", env!("CARGO_PKG_VERSION")),
        started: rfc3339(since_1970.unwrap_or_default()),
        machine: machine::facts(&setup.cores),
        configuration: configuration(&setup, &asked, &config),
        own: Some(own),
        notes,
        tests: vec![test],
    };
    Ok((results, failed))
}

/// Each stream's part of all packets. A rate that is a share of what the generator can is one of a number that cancels out.
fn shares(profile: &Profile) -> Result<Vec<f64>, RigError> {
    let rates = profile.packets_per_s(Some(1e6));
    let rates = rates.map_err(RigError::Profile)?;
    let all: f64 = rates.iter().sum();
    Ok(rates.iter().map(|rate| rate / all).collect())
}

fn test(setup: &Setup, packets_per_s: &[f64]) -> Test {
    let lengths = setup.profile.mean_lengths(packets_per_s);
    let size = sizes(&setup.profile);
    Test {
        name: format!("{} {size}", setup.target.name()),
        topology: setup.target.name().into(),
        size,
        inner_bare_bytes: lengths.inner_bare_bytes,
        outer_bare_bytes: lengths.outer_bare_bytes,
        ..Test::default()
    }
}

fn configuration(setup: &Setup, asked: &Value, device: &str) -> Value {
    let guest = &setup.guest;
    let offloads = guest.offloads.iter_names().map(|(name, _)| name);
    json!({
        "profile": asked, "topology": setup.target.name(), "device": device,
        "guest": {
            "rings": if guest.is_packed { "packed" } else { "split" },
            "ring_size": guest.ring_size,
            "offloads": offloads.collect::<Vec<_>>(),
        },
    })
}

fn quiet_ns(target: &Target, wanted: &Wanted) -> u64 {
    // What is sealed comes to nobody who could be waited for.
    if target.is_sealed() {
        return QUIET_NS;
    }
    let searches = &wanted.searches;
    match searches.is_empty() || searches.contains(&Search::Rfc2544) {
        true => RESIDUAL_NS,
        false => QUIET_NS,
    }
}

/// What a reader has to know of every such run.
fn remarks(setup: &Setup, wanted: &Wanted) -> Vec<String> {
    let mut notes = Vec::new();
    if setup.cores.is_shared() {
        notes.push("generator and device share a processor: figures say little".into());
    }
    if cfg!(debug_assertions) {
        notes.push(
            "this is a build for debugging: figures are far below those of a release build".into(),
        );
    }
    if setup.target.is_sealed() {
        notes.push("received is what Culvert's own uplink counted as sent: nobody is behind a null NIC, so there are no latencies".into());
    }
    if matches!(setup.target, Target::There(_)) {
        notes.push(
            "the device was started by somebody else: where its threads run is not known here"
                .into(),
        );
    }
    if !wanted.searches.is_empty() {
        let wait_s = quiet_ns(&setup.target, wanted) as f64 / 1e9;
        notes.push(format!(
            "after a trial packets are waited for until all have come, or none for {wait_s} s; there is no rest between trials (RFC 2544 has 2 s and 5 s)"
        ));
        notes.push("loads are of all streams together, in packets per second".into());
    }
    notes
}
