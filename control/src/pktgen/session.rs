//! A whole run: the device, the generator alone, the seats, the campaign, in this order.
//!
//! In: an order. Out: [`Results`], also when it was ended early. Never: results without what the generator does alone.

use std::path::PathBuf;
use std::time::SystemTime;

use culvert_pktgen::limits::RESIDUAL_NS;
use culvert_pktgen::profile::Checksums;
use culvert_pktgen::report::{FORMAT, Results, Test};
use culvert_pktgen::size::Tunnel;
use culvert_pktgen::{Mistake, Profile};
use culvert_vhost::Offloads;
use serde_json::{Value, json};

use super::campaign::{Campaign, Search, Wanted, sizes};
use super::cores::Cores;
use super::device::{Device, DeviceError};
use super::guest::Guest;
use super::rings::GuestOptions;
use super::sealed::{Sealed, TRIAL_MAX};
use super::seat::{Place, Seat};
use super::stage::{Manner, Progress, Stage};
use super::stop::Stop;
use super::topology::{self, Plan, Topology};
use super::{machine, own};
use crate::events::rfc3339;

/// After so much quiet nothing more comes out of a device: in searches of many short trials. Others wait as RFC 2544 does.
const QUIET_NS: u64 = 100_000_000;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is measured.
    pub target: Target,
    /// What is sent.
    pub profile: Profile,
    /// The same as it was asked for.
    pub asked: Value,
    /// What guests are.
    pub guest: GuestOptions,
    /// Where threads run.
    pub cores: Cores,
    /// What is to be found.
    pub wanted: Wanted,
    /// Who may end it.
    pub stop: Stop,
}

/// The device under test.
#[derive(Clone, Debug)]
pub enum Target {
    /// A Culvert that is started for it.
    Own(Topology),
    /// One that is there: its vhost-user sockets, by the names of their seats.
    There(Vec<(String, PathBuf)>),
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A seat.
    #[error("seat {seat} at {socket}: {error}; does a vhost-user backend listen there?", socket = .socket.display())]
    Seat {
        /// Which.
        seat: String,
        /// Where.
        socket: PathBuf,
        /// What happened.
        error: std::io::Error,
    },
    /// What was asked for can't be.
    #[error("the profile has mistakes")]
    Profile(Vec<Mistake>),
    /// The kernel won't have the generator where it was to be.
    #[error("can't run on the generator's CPU: {0}")]
    Pin(std::io::Error),
}

/// Runs an order; also why it ended early.
///
/// # Errors
/// There is nothing to measure, or nothing to measure it by.
pub fn run(
    mut order: Order,
    progress: Progress<'_>,
) -> Result<(Results, Option<String>), SessionError> {
    topology::seat_streams(&mut order.profile, &order.target.ends());
    order.sealed_within_a_session()?;
    let started = SystemTime::now();
    // Mistakes of rates, before anything is started.
    let shares = shares(&order.profile)?;
    let Started {
        mut device,
        mut sealed,
        plan,
    } = start(&order)?;
    let (config, mut notes) = (plan.config.clone(), plan.notes.clone());
    // Not before the device was started, which would be where we are.
    order.cores.pin().map_err(SessionError::Pin)?;
    let manner = Manner {
        cores: order.cores,
        stop: order.stop.clone(),
        quiet_ns: order.quiet_ns(),
    };
    let own = own::measure(&order.profile, &shares, &manner);
    let rates = order.profile.packets_per_s(Some(own.packets_per_s));
    let rates = rates.map_err(SessionError::Profile)?;
    let seats = seats(&order, device.as_ref())?;
    if let Some(device) = &mut device {
        device.wait_for_guests(&order.stop)?;
    }
    let mut stage = Stage::new(seats, order.profile.clone(), manner);
    let load: f64 = rates.iter().sum();
    let mut campaign = Campaign {
        stage: &mut stage,
        device: device.as_mut(),
        sealed: sealed.as_mut(),
        reconfigure: &|way_out| order.configuration(way_out),
        shares: rates.iter().map(|rate| rate / load).collect(),
        stop: order.stop.clone(),
        progress,
        test: test(&order),
        drops: Vec::new(),
        failed: None,
    };
    campaign.run(&order.wanted, load);
    let (test, drops, failed) = (campaign.test, campaign.drops, campaign.failed);
    for clue in drops {
        notes.push(format!(
            "in all trials {} dropped {} packets as `{}`",
            clue.scope, clue.packets, clue.reason
        ));
    }
    notes.extend(order.notes());
    let since_1970 = started.duration_since(SystemTime::UNIX_EPOCH);
    let results = Results {
        format: FORMAT,
        title: format!("culvert pktgen {}", order.target.name()),
        program: format!("culvert {}", env!("CARGO_PKG_VERSION")),
        started: rfc3339(since_1970.unwrap_or_default()),
        machine: machine::facts(order.cores),
        configuration: json!({
            "profile": order.asked, "topology": order.target.name(), "device": config,
            "guest": {
                "rings": if order.guest.is_packed { "packed" } else { "split" },
                "ring_size": order.guest.ring_size,
                "offloads": order.guest.offloads.iter_names().map(|(name, _)| name).collect::<Vec<_>>(),
            },
        }),
        own: Some(own),
        notes,
        tests: vec![test],
    };
    Ok((results, failed))
}

/// Each stream's part of all packets. A rate that is a share of what the generator can is one of a number that cancels out.
fn shares(profile: &Profile) -> Result<Vec<f64>, SessionError> {
    let rates = profile.packets_per_s(Some(1e6));
    let rates = rates.map_err(SessionError::Profile)?;
    let all: f64 = rates.iter().sum();
    Ok(rates.iter().map(|rate| rate / all).collect())
}

/// What is there before the first trial.
struct Started {
    device: Option<Device>,
    sealed: Option<Sealed>,
    plan: Plan,
}

fn start(order: &Order) -> Result<Started, SessionError> {
    let Target::Own(topology) = order.target else {
        let plan = Plan::default();
        return Ok(Started {
            device: None,
            sealed: None,
            plan,
        });
    };
    let sealed = match topology {
        Topology::V2v => None,
        Topology::P2t => Some(Sealed::new(order.profile.mtu).map_err(DeviceError::System)?),
    };
    let way_out = |on_nic| {
        sealed
            .as_ref()
            .map_or(String::new(), |it| it.config(on_nic))
    };
    let secrets: Vec<_> = sealed.iter().map(Sealed::key_file).collect();
    let first = topology.plan(&order.profile, order.cores, &way_out(false));
    let device = Device::start(&first.config, &secrets, &order.stop)?;
    Ok(Started {
        device: Some(device),
        // What it is while it is measured.
        plan: topology.plan(&order.profile, order.cores, &way_out(true)),
        sealed,
    })
}

fn seats(order: &Order, device: Option<&Device>) -> Result<Vec<Seat>, SessionError> {
    let longest = own::longest(&order.profile);
    let sockets: Vec<(String, PathBuf)> = match (&order.target, device) {
        (Target::There(seats), _) => seats.clone(),
        (Target::Own(_), Some(device)) => {
            let seats = order.target.guests();
            seats
                .iter()
                .map(|seat| ((*seat).to_owned(), device.socket(&format!("{seat}.sock"))))
                .collect()
        }
        (Target::Own(_), None) => Vec::new(),
    };
    let seats = sockets.into_iter().map(|(name, socket)| {
        let guest = Guest::connect(&socket, &order.guest, longest);
        let guest = guest.map_err(|error| SessionError::Seat {
            seat: name.clone(),
            socket,
            error,
        })?;
        negotiated(&order.profile, &name, guest.offloads())?;
        Ok(Seat::new(&name, Place::Guest(guest), &order.profile))
    });
    seats.collect()
}

/// What streams leave to the device has to be what it offers.
fn negotiated(profile: &Profile, seat: &str, offloads: Offloads) -> Result<(), SessionError> {
    let wrong = |path: String, what: &str| {
        let message = format!("seat {seat} has not negotiated {what}");
        let mistake = Mistake::new(path, message).help("leave it out, or `--offloads none`");
        SessionError::Profile(vec![mistake])
    };
    for stream in profile.streams.iter().filter(|it| it.from == seat) {
        if stream.checksums == Checksums::Partial && !offloads.contains(Offloads::CSUM) {
            return Err(wrong(
                format!("{}.checksum", stream.path),
                "partial checksums",
            ));
        }
        if stream.segment.is_some()
            && !offloads.intersects(Offloads::HOST_TSO4 | Offloads::HOST_USO)
        {
            return Err(wrong(format!("{}.segment", stream.path), "segmentation"));
        }
    }
    Ok(())
}

fn test(order: &Order) -> Test {
    let lengths = order.profile.mean_lengths();
    let size = sizes(&order.profile);
    Test {
        name: format!("{} {size}", order.target.name()),
        topology: order.target.name().into(),
        size,
        inner_bare_bytes: lengths.inner_bare_bytes,
        outer_bare_bytes: lengths.outer_bare_bytes,
        ..Test::default()
    }
}

impl Target {
    /// Its name at the command line.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Own(topology) => topology.name(),
            Self::There(_) => "run",
        }
    }

    const fn guests(&self) -> &'static [&'static str] {
        match self {
            Self::Own(topology) => topology.guests(),
            Self::There(_) => &[],
        }
    }

    /// What streams may go from and to.
    #[must_use]
    pub fn ends(&self) -> Vec<String> {
        match self {
            Self::Own(topology) => topology.ends().iter().map(ToString::to_string).collect(),
            Self::There(seats) => seats.iter().map(|(name, _)| name.clone()).collect(),
        }
    }
}

impl Order {
    fn is_sealed(&self) -> bool {
        matches!(self.target, Target::Own(Topology::P2t))
    }

    /// The device's whole configuration with another way out.
    fn configuration(&self, way_out: &str) -> String {
        match self.target {
            Target::Own(topology) => topology.plan(&self.profile, self.cores, way_out).config,
            Target::There(_) => String::new(),
        }
    }

    /// Frames leave sealed, so results have outer figures; a trial ends before its session.
    fn sealed_within_a_session(&mut self) -> Result<(), SessionError> {
        if !self.is_sealed() {
            return Ok(());
        }
        let mtu = self.profile.mtu;
        let tunnel = Tunnel { ipv6: false, mtu };
        self.profile.tunnel.get_or_insert(tunnel);
        if u128::from(self.profile.duration_ns) <= TRIAL_MAX.as_nanos() {
            return Ok(());
        }
        let message = format!("is longer than {} s", TRIAL_MAX.as_secs());
        let help = "a session ends after 180 s, and nobody is behind a null NIC who shakes hands anew: take several `--trials`";
        let mistake = Mistake::new("duration", message).help(help);
        Err(SessionError::Profile(vec![mistake]))
    }

    fn quiet_ns(&self) -> u64 {
        let searches = &self.wanted.searches;
        // What is sealed comes to nobody who could be waited for.
        if self.is_sealed() {
            return QUIET_NS;
        }
        match searches.is_empty() || searches.contains(&Search::Rfc2544) {
            true => RESIDUAL_NS,
            false => QUIET_NS,
        }
    }

    /// What a reader has to know of every such run.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.cores.is_shared() {
            notes.push("generator and device share a processor: figures say little".into());
        }
        if cfg!(debug_assertions) {
            notes.push(
                "this is a build for debugging: figures are far below those of a release build"
                    .into(),
            );
        }
        if self.is_sealed() {
            notes.push("received is what Culvert's own uplink counted as sent: nobody is behind a null NIC, so there are no latencies".into());
        }
        if matches!(self.target, Target::There(_)) {
            notes.push(
                "the device was started by somebody else: where its threads run is not known here"
                    .into(),
            );
        }
        if !self.wanted.searches.is_empty() {
            let wait_s = self.quiet_ns() as f64 / 1e9;
            notes.push(format!(
                "after a trial packets are waited for until all have come, or none for {wait_s} s; there is no rest between trials (RFC 2544 has 2 s and 5 s)"
            ));
            notes.push("loads are of all streams together, in packets per second".into());
        }
        notes
    }
}
