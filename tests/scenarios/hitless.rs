//! Changes under load, as packets with numbers see them.
//!
//! ```text
//!   flow ── t0 (tun) ── near ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 ── far ── t0 (tun) ── flow
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Changing, Culvert, Kind, Namespace, Numbered, Pace, Part, Scenario, WINDOW, eventually,
};
use serde_json::Value;

const PARTS: [Part; 2] = [Part::Root, Part::Tun];
/// How long what must happen may take on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(90);
const PACE: Pace = Pace::Rate(2000);

/// The file in which the far end is no peer.
fn without_far(ground: &Changing) -> String {
    let yaml = ground.yaml();
    let lines = yaml
        .lines()
        .filter(|line| !line.trim_start().starts_with("far: {"));
    let text: Vec<_> = lines.collect();
    text.join("\n")
        .replace("{ to: 10.79.0.0/16, peer: far }", "")
}

fn apply(near: &Culvert, scenario: &Scenario, yaml: &str, how: &[&str]) -> Result<()> {
    let file = scenario.path("trial.yaml");
    fs::write(&file, yaml)?;
    let file = file.display().to_string();
    let mut words = vec!["apply", &file];
    words.extend(how);
    near.call(&words).map(drop)
}

fn pending(near: &Culvert) -> Result<Value> {
    Ok(near.show()?["pending"].clone())
}

/// What became of revisions, the newest first.
fn outcomes(near: &Culvert) -> Result<Vec<(String, String)>> {
    let text = near.call(&["history", "-o", "json"])?;
    let history: Value = serde_json::from_str(&text)?;
    let text = |it: &Value, key: &str| it[key].as_str().unwrap_or_default().to_owned();
    let revisions = history.as_array().context("a list")?.iter();
    Ok(revisions
        .map(|it| (text(it, "outcome"), text(it, "why")))
        .collect())
}

/// Every kind of change a few times: what is lost has a name, nothing comes twice.
#[test]
fn changes_lose_nothing_without_a_name() -> Result<()> {
    Scenario::run("changes_lose_nothing_without_a_name", &PARTS, |scenario| {
        let mut ground = Changing::lay(scenario)?;
        for kind in Kind::ALL {
            let mut left = 4;
            let seen = ground.watch(
                Duration::from_secs(2),
                Pace::Window(WINDOW / 4),
                Duration::from_millis(200),
                |ground| {
                    left -= i32::from(left > 0);
                    let changes = left > 0;
                    if changes {
                        ground.change(kind)?;
                    }
                    Ok(changes)
                },
            )?;
            let flows = seen.flows;
            scenario.say(format!(
                "{kind}: {} changes, {} sent, {} lost ({:?}), {} overtaken, longest gap {:?}",
                seen.changes,
                flows.sent,
                flows.lost(),
                seen.named,
                flows.overtaken,
                flows.gap
            ));
            ensure!(seen.changes > 0 && flows.received > 100, "{kind}: {seen:?}");
            ensure!(flows.duplicates == 0, "{kind}: {seen:?}");
            ensure!(flows.lost() <= seen.explained(), "{kind}: {seen:?}");
            // There is always a socket to send by, and one that hears.
            for lost in ["uplink-down", "kernel-no-port"] {
                ensure!(!seen.named.contains_key(lost), "{kind}: {seen:?}");
            }
            // An uplink is exchanged beside the old one: what came by either may meet.
            let may_overtake = kind == Kind::Uplinks;
            ensure!(flows.overtaken == 0 || may_overtake, "{kind}: {seen:?}");
        }
        Ok(())
    })
}

/// The peer of both flows is taken away on trial: with the way back its session goes on.
#[test]
fn a_rollback_gives_a_removed_peer_its_session_back() -> Result<()> {
    Scenario::run(
        "a_rollback_gives_a_removed_peer_its_session_back",
        &PARTS,
        |scenario| {
            let ground = Changing::lay(scenario)?;
            let (near, far) = (ground.near(), ground.far());
            let handshakes =
                || -> Result<(u64, u64)> { Ok((received(near, "rx")?, received(far, "tx")?)) };
            let flows = ground.flows(PACE)?;
            std::thread::sleep(Duration::from_secs(1));
            let age = far.handshake_age("near")?.context("a handshake")?;
            let since = Instant::now();
            apply(near, scenario, &without_far(&ground), &["--confirm", "60s"])?;
            ensure!(!pending(near)?.is_null());
            std::thread::sleep(Duration::from_millis(500));
            let before = handshakes()?;
            near.call(&["rollback", "--yes"])?;
            ensure!(pending(near)?.is_null());
            std::thread::sleep(Duration::from_secs(2));
            let after = handshakes()?;
            ensure!(
                after.0 > before.0 && after.1 > before.1,
                "{before:?} {after:?}"
            );
            for (culvert, peer) in [(near, "far"), (far, "near")] {
                let now = culvert.handshake_age(peer)?.context("a handshake")?;
                let least = age + since.elapsed().as_secs() - 1;
                ensure!(
                    now >= least,
                    "{peer}: a handshake {now} s ago, not {least} or more"
                );
            }
            let [out, back] = flows.map(Numbered::finish);
            for outcome in [out?, back?] {
                scenario.say(format!("{outcome:?}"));
                ensure!(outcome.lost() > 0 && outcome.duplicates == 0, "{outcome:?}");
            }
            Ok(())
        },
    )
}

fn received(culvert: &Culvert, way: &str) -> Result<u64> {
    let show = culvert.show()?;
    let peers = show["peers"].as_array().context("peers")?;
    let all = peers.iter().map(|peer| peer[way]["packets"].as_u64());
    Ok(all.map(Option::unwrap_or_default).sum())
}

/// Checks look at real peers: who is cut off has the change taken back, who is not has it kept.
#[test]
fn checks_of_a_real_peer_end_a_trial() -> Result<()> {
    Scenario::run("checks_of_a_real_peer_end_a_trial", &PARTS, |scenario| {
        let mut ground = Changing::lay(scenario)?;
        let yaml = ground.yaml();
        let near = ground.near();
        let checks = ["--confirm", "10m", "--check", "peer=far,port=t0", "--auto"];
        scenario.say("a route that nobody checks");
        let good = yaml.replace("10.79.0.0/16", "10.76.0.0/16");
        apply(near, scenario, &good, &checks)?;
        ensure!(!pending(near)?.is_null());
        eventually("the confirmation", PATIENCE, || {
            Ok(pending(near)?.is_null().then_some(()))
        })?;
        let ends = outcomes(near)?;
        ensure!(
            ends[0] == ("applied".into(), "all checks hold".into()),
            "{ends:?}"
        );

        scenario.say("an uplink on the wrong interface: nothing comes or goes");
        let flows = ground.flows(PACE)?;
        let bad = good.replace("wan0: { driver: udp", "wan0: { driver: udp, device: lo");
        apply(near, scenario, &bad, &checks)?;
        ensure!(!pending(near)?.is_null());
        eventually("the way back", PATIENCE, || {
            Ok(pending(near)?.is_null().then_some(()))
        })?;
        let ends = outcomes(near)?;
        let is_back = |(outcome, why): &(String, String)| {
            outcome == "rolled-back" && why.contains("peer wg0/far went down")
        };
        ensure!(ends.iter().any(is_back), "{ends:?}");
        scenario.say("packets pass again");
        let before = received(near, "rx")?;
        eventually("packets of the peer", PATIENCE, || {
            Ok((received(near, "rx")? > before + 100).then_some(()))
        })?;
        for flow in flows {
            flow.finish()?;
        }
        ground.change(Kind::Routes)
    })
}

/// Datagrams that nobody shall get.
fn send(from: &Namespace, source: &str, to: &str, count: u64) -> Result<()> {
    let socket = from.enter(|| Ok(UdpSocket::bind((source, 0))?))?;
    for _ in 0..count {
        socket.send_to(&[7; 100], (to, 9))?;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What is lost at the near end while something is done, by name, once that is still.
fn lost(near: &Culvert, act: impl FnOnce() -> Result<()>) -> Result<BTreeMap<String, u64>> {
    let before = near.drops()?;
    act()?;
    let mut after = eventually("the last losses counted", PATIENCE, || {
        let once = near.drops()?;
        std::thread::sleep(Duration::from_millis(300));
        Ok((near.drops()? == once).then_some(once))
    })?;
    for (name, count) in &mut after {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    after.retain(|_, count| *count > 0);
    Ok(after)
}

/// A peer, then a port, is switched off and on: what either end sends meanwhile is lost under a name, every packet of it.
#[test]
fn what_is_switched_off_loses_packets_by_name() -> Result<()> {
    let name = "what_is_switched_off_loses_packets_by_name";
    Scenario::run(name, &PARTS, |scenario| {
        let ground = Changing::lay(scenario)?;
        let (near, far) = (ground.near(), ground.far());
        let [near_space, far_space] = ground.namespaces();
        let out = |count| send(near_space, "10.1.1.10", "10.1.2.10", count);
        let back = |count| send(far_space, "10.1.2.10", "10.1.1.10", count);
        let passes = || {
            eventually("packets of the peer", PATIENCE, || {
                let before = received(near, "rx")?;
                back(10)?;
                std::thread::sleep(Duration::from_millis(200));
                Ok((received(near, "rx")? >= before + 10).then_some(()))
            })
        };
        passes()?;

        scenario.say("the peer is off");
        near.call(&["peer", "down", "wg0/far"])?;
        let there = lost(near, || out(50))?;
        scenario.say(format!("{there:?}"));
        ensure!(there.get("no-route") == Some(&50), "{there:?}");
        let sent = received(far, "tx")?;
        let here = lost(near, || back(60))?;
        let sent = received(far, "tx")? - sent;
        scenario.say(format!("{sent} sent, {here:?}"));
        ensure!(sent >= 60, "{sent}");
        ensure!(here.get("receiver-unknown") == Some(&sent), "{here:?}");
        near.call(&["peer", "up", "wg0/far"])?;
        passes()?;

        scenario.say("the port is off");
        near.call(&["port", "down", "t0"])?;
        ensure!(out(1).is_err(), "the interface is there");
        let before = received(near, "rx")?;
        let here = lost(near, || back(70))?;
        let heard = received(near, "rx")? - before;
        scenario.say(format!("{heard} heard, {here:?}"));
        ensure!(heard >= 70, "{heard}");
        ensure!(here.get("no-route") == Some(&70), "{here:?}");
        near.call(&["port", "up", "t0"])?;
        near_space.ip("route replace 10.1.2.0/24 dev t0")?;
        let none = lost(near, || out(20).and_then(|()| passes()))?;
        ensure!(none.is_empty(), "{none:?}");
        Ok(())
    })
}
