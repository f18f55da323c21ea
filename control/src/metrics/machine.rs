//! The process, its cores, its ports and uplinks.
//!
//! In: a survey. Out: their samples. Never: a look at a peer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Chosen;
use super::families as of;
use super::text::{Gone, Text};
use crate::events::EVENTS;
use crate::report::Survey;
use crate::state::{Port, Uplink};

pub(super) fn write(survey: &Survey, chosen: &Chosen, text: &mut Text<'_>) -> Result<(), Gone> {
    process(survey, text)?;
    cores(survey, text)?;
    ports(&survey.ports, chosen, text)?;
    uplinks(&survey.head.uplinks, text)
}

fn process(survey: &Survey, text: &mut Text<'_>) -> Result<(), Gone> {
    let head = &survey.head;
    let node = head.desired.file().node.to_string();
    text.family(&of::BUILD);
    text.sample(&of::BUILD, &[env!("CARGO_PKG_VERSION"), &node], 1u64)?;
    text.single(&of::START, head.started.as_secs())?;
    text.single(&of::GENERATION, head.generation)?;
    text.single(&of::PENDING, survey.is_pending)?;
    text.family(&of::DRIFT);
    for (tunnel, drift) in &survey.drift {
        text.sample(&of::DRIFT, &[tunnel], *drift)?;
    }
    let log = crate::process::log::missing();
    text.single(&of::LOG_LOST, log.lost)?;
    text.single(&of::LOG_LEFT_OUT, log.left_out)?;
    text.family(&of::EVENTS);
    for (word, count) in EVENTS.counts() {
        text.sample(&of::EVENTS, &[word], count)?;
    }
    text.single(&of::EVENTS_LEFT_OUT, EVENTS.left_out())
}

fn cores(survey: &Survey, text: &mut Text<'_>) -> Result<(), Gone> {
    let head = &survey.head;
    let core = &head.core;
    let workers = head.workers.iter().enumerate();
    let workers: Vec<_> = workers
        .map(|(index, worker)| (format!("worker {index}"), &worker.stats))
        .collect();
    text.family(&of::CORE_SECONDS);
    let rest = head.uptime.saturating_sub(core.worked);
    for (state, time) in [("busy", core.worked), ("asleep", rest)] {
        text.sample(&of::CORE_SECONDS, &["control", state], time.as_secs_f64())?;
    }
    for (name, stats) in &workers {
        let times = [
            ("busy", &stats.busy_nanos),
            ("idle", &stats.idle_nanos),
            ("asleep", &stats.sleep_nanos),
        ];
        for (state, nanos) in times {
            let time = Duration::from_nanos(nanos.load(Ordering::Relaxed));
            text.sample(&of::CORE_SECONDS, &[name, state], time.as_secs_f64())?;
        }
    }
    text.family(&of::CORE_SLEEPS);
    text.sample(&of::CORE_SLEEPS, &["control"], core.sleeps)?;
    for (name, stats) in &workers {
        text.sample(
            &of::CORE_SLEEPS,
            &[name],
            stats.sleeps.load(Ordering::Relaxed),
        )?;
    }
    text.family(&of::WORKER_TURNS);
    for (name, stats) in &workers {
        let busy = stats.busy_turns.sum();
        let idle = stats.turns.load(Ordering::Relaxed).saturating_sub(busy);
        for (state, turns) in [("busy", busy), ("idle", idle)] {
            text.sample(&of::WORKER_TURNS, &[name, state], turns)?;
        }
    }
    text.family(&of::WORKER_TURN);
    for (name, stats) in &workers {
        let seconds = |nanos| Duration::from_nanos(nanos).as_secs_f64();
        let (at_most, all) = stats.busy_turns.at_most();
        let at_most = at_most
            .into_iter()
            .map(|(bound, turns)| (seconds(bound), turns));
        let at_most: Vec<_> = at_most.collect();
        let all = (all, seconds(stats.busy_nanos.load(Ordering::Relaxed)));
        text.histogram(&of::WORKER_TURN, &[name], &at_most, all)?;
    }
    let counts = [(&of::WORKER_FRAMES, true), (&of::WORKER_DATAGRAMS, false)];
    for (family, from_guests) in counts {
        text.family(family);
        for (name, stats) in &workers {
            let count = match from_guests {
                true => &stats.guest_frames,
                false => &stats.datagrams,
            };
            text.sample(family, &[name], count.load(Ordering::Relaxed))?;
        }
    }
    // It sleeps between its rounds, each of which was a stretch.
    let longer = [0.001, 0.01, 0.1, 1.0].into_iter().zip(core.long);
    let at_most = longer.map(|(bound, longer)| (bound, core.sleeps.saturating_sub(longer)));
    let at_most: Vec<_> = at_most.collect();
    let all = (core.sleeps, core.worked.as_secs_f64());
    text.family(&of::STRETCH);
    text.histogram::<&str>(&of::STRETCH, &[], &at_most, all)?;
    text.single(&of::STRETCH_MAX, core.longest.as_secs_f64())
}

fn ports(ports: &[Port], chosen: &Chosen, text: &mut Text<'_>) -> Result<(), Gone> {
    text.family(&of::PORTS);
    for state in ["up", "waiting", "hindered", "down", "disabled"] {
        let count = ports.iter().filter(|port| standing(port) == state).count();
        text.sample(&of::PORTS, &[state], count)?;
    }
    text.family(&of::PORT_INFO);
    for port in ports {
        let labels = [&port.name, &port.network, &port.driver];
        text.labelled(&of::PORT_INFO, &labels, own(port, chosen), 1u64)?;
    }
    text.family(&of::PORT_VLAN);
    for port in ports {
        for vlan in &port.vlans {
            let labels = [&port.name, &vlan.vlan.to_string(), &vlan.network];
            text.labelled(&of::PORT_VLAN, &labels, own(port, chosen), 1u64)?;
        }
    }
    type Count = fn(&Port) -> u64;
    let counts: [(_, Count); 7] = [
        (&of::PORT_UP, |port| port.link_up.into()),
        (&of::PORT_CONNECTED, |port| port.connected.into()),
        (&of::PORT_QUEUES, |port| port.queues.into()),
        (&of::PORT_RX_BYTES, |port| port.rx.bytes),
        (&of::PORT_RX_PACKETS, |port| port.rx.packets),
        (&of::PORT_TX_BYTES, |port| port.tx.bytes),
        (&of::PORT_TX_PACKETS, |port| port.tx.packets),
    ];
    for (family, count) in counts {
        text.family(family);
        for port in ports.iter().filter(|port| !port.disabled) {
            text.labelled(family, &[&port.name], own(port, chosen), count(port))?;
        }
    }
    Ok(())
}

/// The labels of a port that its series have.
fn own<'p>(port: &'p Port, chosen: &'p Chosen) -> impl Iterator<Item = (&'p str, &'p str)> {
    chosen.of_thing(|key| port.labels.get(key).map(String::as_str))
}

fn standing(port: &Port) -> &'static str {
    if port.disabled {
        return "disabled";
    }
    match (port.link_up, &port.hindrance) {
        (true, _) => "up",
        (false, None) => "waiting",
        (false, Some(why)) if why.starts_with("not open") => "down",
        (false, Some(_)) => "hindered",
    }
}

fn uplinks(uplinks: &[Uplink], text: &mut Text<'_>) -> Result<(), Gone> {
    text.family(&of::UPLINK_INFO);
    for uplink in uplinks {
        let labels = [&uplink.name, &uplink.driver, &uplink.device];
        text.sample(&of::UPLINK_INFO, &labels, 1u64)?;
    }
    text.family(&of::UPLINK_UP);
    for uplink in uplinks.iter().filter(|uplink| !uplink.disabled) {
        text.sample(&of::UPLINK_UP, &[&uplink.name], uplink.link_up)?;
    }
    text.family(&of::UPLINK_BFD);
    for uplink in uplinks {
        if let Some(state) = &uplink.bfd {
            text.sample(&of::UPLINK_BFD, &[&uplink.name], state == "up")?;
        }
    }
    text.family(&of::UPLINK_SPEED);
    for uplink in uplinks {
        if let Some(speed) = uplink.speed_mbps {
            text.sample(&of::UPLINK_SPEED, &[&uplink.name], speed * 125_000)?;
        }
    }
    text.family(&of::UPLINK_CONFLICTS);
    for uplink in uplinks {
        let conflicts = uplink.conflicts.len() as u64;
        text.sample(&of::UPLINK_CONFLICTS, &[&uplink.name], conflicts)?;
    }
    type Count = fn(&Uplink) -> u64;
    let counts: [(_, Count); 4] = [
        (&of::UPLINK_RX_BYTES, |uplink| uplink.rx.bytes),
        (&of::UPLINK_RX_PACKETS, |uplink| uplink.rx.packets),
        (&of::UPLINK_TX_BYTES, |uplink| uplink.tx.bytes),
        (&of::UPLINK_TX_PACKETS, |uplink| uplink.tx.packets),
    ];
    for (family, count) in counts {
        text.family(family);
        for uplink in uplinks {
            text.sample(family, &[&uplink.name], count(uplink))?;
        }
    }
    Ok(())
}
