//! What is told to those who read: all of it, in pages, between which the core does what else is due.

use std::{collections::HashSet, fmt::Write as _, thread};

use super::*;
use culvert_dataplane::shared::drops::DropReason;

use crate::{
    api::Audience,
    report::look::{self, Look},
    state,
};

/// A port, and a tunnel that has the peer `far` first and so many others.
pub(super) fn crowd(port: u16, others: usize) -> Config {
    let far = key("far").public_key().to_base64();
    let mut peers = format!("      far: {{public_key: \"{far}\", allowed_ips: [10.8.0.0/16]}}\n");
    for peer in 0..others {
        let key = other(peer).to_base64();
        let [.., a, b] = peer.to_be_bytes();
        let prefix = format!("10.9.{a}.{b}/32");
        writeln!(
            peers,
            "      p{peer}: {{public_key: \"{key}\", allowed_ips: [{prefix}]}}"
        )
        .unwrap();
    }
    parse(&format!(
        "{UPLINK}tunnels:\n  a:\n    uplink: lo\n    uapi: off\n    listen_port: {port}\n    private_key_file: a.key\n    \
         peers:\n{peers}networks: {{blue: {{gateway: [10.0.1.1/24], tunnel: a}}}}\n\
         ports: {{vm1: {{network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.0.1.5]}}}}\n"
    ))
}

fn other(peer: usize) -> PublicKey {
    let mut key = [0x11; 32];
    key[..8].copy_from_slice(&peer.to_le_bytes());
    PublicKey::from_bytes(key)
}

/// What is looked at for a part: the kinds of looks, and how much each asks for.
fn looks(engine: &mut Engine, part: Option<Part>) -> (State, Vec<(&'static str, usize)>) {
    looked(engine, |requester| read(requester, part).unwrap())
}

/// What somebody reads, and what is looked at for it.
fn looked<T: Send>(
    engine: &mut Engine,
    read: impl FnOnce(&Requester) -> T + Send,
) -> (T, Vec<(&'static str, usize)>) {
    let (requester, requests) = api::channel().unwrap();
    let mut looks = Vec::new();
    let told = thread::scope(|scope| {
        let reader = scope.spawn(|| read(&requester));
        while !reader.is_finished() {
            let Some(Request::Look(look)) = requests.wait(Some(Duration::from_millis(1))) else {
                continue;
            };
            looks.push(kind(&look));
            engine.look(look, clock::monotonic());
        }
        reader.join().unwrap()
    });
    (told, looks)
}

/// What a look is at, and how much it asks for.
fn kind(look: &Look) -> (&'static str, usize) {
    match look {
        Look::Head(_) => ("head", 0),
        Look::Ports(asked, _) => ("ports", asked.len()),
        Look::Losses(asked, _) => ("losses", asked.len()),
        Look::Tunnels(asked, _) => ("tunnels", asked.len()),
        Look::Peers(_, asked, _) => ("peers", asked.len()),
        Look::Cells(_) => ("cells", 0),
        Look::Snapshot(_) => ("snapshot", 0),
        Look::Neighbors(_) => ("neighbors", 0),
    }
}

#[test]
fn everything_is_told_in_its_order_and_peers_a_page_at_a_time() {
    let [port] = free_ports();
    let others = 2 * look::PEERS;
    let mut site = Site::start(crowd(port, others));
    let added = key("new").public_key();
    let net = Change::AllowedIp("10.7.0.0/16".parse().unwrap());
    site.set("a", &[Change::Peer(added), net]);
    site.set("a", &[Change::Peer(other(1)), Change::Remove]);
    let (state, looks) = looks(&mut site.engine, None);

    let names: Vec<_> = state.peers.iter().map(|peer| &*peer.name).collect();
    assert_eq!(names.len(), others + 1);
    // What `wg` adds is called by its key.
    let mut sorted = names.clone();
    sorted.sort_unstable();
    assert_eq!(names, sorted);
    let mut peers = state.peers.iter();
    let last = peers.find(|it| it.public_key == added.to_base64());
    let last = last.unwrap();
    assert_eq!(last.drift, ["not in the file"]);
    assert_eq!(state.tunnels[0].peers, others + 1);
    assert_eq!(state.tunnels[0].drift, ["peer p1 removed"]);
    let routes: Vec<_> = state
        .routes
        .iter()
        .map(|it| (&*it.to, &*it.next_hop))
        .collect();
    assert_eq!(
        routes[..4],
        [
            ("10.0.1.0/24", "on-link"),
            ("10.7.0.0/16", &*format!("peer {} (a)", last.name)),
            ("10.8.0.0/16", "peer far (a)"),
            ("10.9.0.0/32", "peer p0 (a)")
        ]
    );
    assert_eq!(routes.len(), others + 3);
    assert_eq!(
        (&*state.ports[0].name, &*state.uplinks[0].name),
        ("vm1", "lo")
    );
    assert_eq!(state.neighbors[0].port.as_deref(), Some("vm1"));
    let cores: Vec<_> = state.cores.iter().map(|core| &*core.name).collect();
    assert_eq!(cores[..2], ["control", "worker 0"]);
    assert_eq!(state.cores[1].queues, ["vm1:0", "lo:0"]);

    let pages: Vec<_> = looks.iter().filter(|(kind, _)| *kind == "peers").collect();
    let sizes: Vec<_> = pages.iter().map(|(_, size)| *size).collect();
    // Their losses say by themselves whose they are.
    assert_eq!(sizes, [look::PEERS, look::PEERS, 1]);
}

#[test]
fn a_part_is_that_part_of_the_whole_and_looks_at_nothing_else() {
    let [port] = free_ports();
    let mut site = Site::start(crowd(port, 10));
    let whole = looks(&mut site.engine, None).0;
    let mut kinds = |part| {
        let (state, looks) = looks(&mut site.engine, Some(part));
        let kinds = looks.into_iter().map(|(kind, _)| kind);
        // Each list begins with a head.
        let kinds: Vec<_> = kinds.filter(|kind| *kind != "head").collect();
        (state, kinds)
    };
    let (state, looked) = kinds(Part::Ports);
    assert_eq!(
        (&state.ports, &state.uplinks),
        (&whole.ports, &whole.uplinks)
    );
    assert_eq!(looked, ["ports"]);
    let (state, looked) = kinds(Part::Cores);
    let names = |state: &State| -> Vec<_> {
        state
            .cores
            .iter()
            .map(|core| (core.name.clone(), core.queues.clone()))
            .collect()
    };
    assert_eq!(names(&state), names(&whole));
    assert_eq!(looked, [""; 0]);
    let (state, looked) = kinds(Part::Peers);
    assert_eq!(
        (&state.peers, &state.tunnels),
        (&whole.peers, &whole.tunnels)
    );
    assert_eq!(looked, ["tunnels", "peers"]);
    let (state, looked) = kinds(Part::Routes);
    assert_eq!(state.routes, whole.routes);
    assert_eq!(looked, [""; 0]);
    let (state, looked) = kinds(Part::Neighbors);
    assert_eq!(state.neighbors, whole.neighbors);
    assert_eq!(looked, ["neighbors"]);
    let (state, looked) = kinds(Part::Drops);
    assert_eq!(state.drops, whole.drops);
    assert!(state.peers.is_empty() && state.ports.is_empty());
    assert_eq!(looked, ["cells", "losses"]);
}

/// However short its pages are, a list has the same things in the same order, and each page asks for what is on it.
#[test]
fn pages_are_the_whole_together() {
    let [port] = free_ports();
    let others = 3 * look::PEERS;
    let mut site = Site::start(crowd(port, others));
    let lost = |slot: usize| {
        let peer = site.engine.peers.get(slot).unwrap();
        for reason in [DropReason::Replayed, DropReason::NoEndpoint] {
            peer.cell.drops.add(reason, 7);
        }
    };
    (0..others).step_by(3).for_each(lost);
    let all = Which::default();
    let (state, _) = looks(&mut site.engine, None);
    assert_eq!(state.drops.len(), 2 * others / 3);
    for limit in [1, 7, others] {
        let (pages, looks) = looked(&mut site.engine, |source| {
            let routes = whole(limit, |window, put| source.routes(&all, window, put)).unwrap();
            let neighbors = whole(limit, |window, put| source.neighbors(&all, window, put));
            (routes, neighbors.unwrap())
        });
        assert_eq!(pages, (state.routes.clone(), state.neighbors.clone()));
        assert!(
            looks
                .iter()
                .all(|(kind, _)| ["head", "neighbors"].contains(kind))
        );
        let (drops, looks) = looked(&mut site.engine, |source| {
            whole(limit, |window, put| source.drops(&all, window, put)).unwrap()
        });
        assert_eq!(drops, state.drops);
        let kinds: HashSet<_> = looks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, HashSet::from(["head", "cells", "losses"]));
        let (peers, looks) = looked(&mut site.engine, |source| {
            whole(limit, |window, put| source.peers(&all, window, put)).unwrap()
        });
        let names = |peers: &[Peer]| -> Vec<_> { peers.iter().map(|it| it.name.clone()).collect() };
        assert_eq!(names(&peers), names(&state.peers));
        // Each is asked for once.
        let asked: usize = looks.iter().map(|(_, asked)| asked).sum();
        assert_eq!(asked, peers.len());
    }
    let one = Which {
        name: Some("vm1".into()),
        ..Which::default()
    };
    let window = Window {
        after: None,
        limit: 1,
    };
    let (next, looks) = looked(&mut site.engine, |source| {
        let mut put = |port: state::Port| assert_eq!(port.name, "vm1");
        source.ports(&one, &window, &mut put).unwrap()
    });
    assert_eq!((next, looks), (None, vec![("head", 0), ("ports", 1)]));
}

/// Whoever has left has nothing more asked of the core.
#[test]
fn nothing_is_read_for_a_client_that_has_left() {
    let [port] = free_ports();
    let mut site = Site::start(crowd(port, 3 * look::PEERS));
    let audience = Audience::default();
    let mut told = 0;
    let (answer, looks) = looked(&mut site.engine, |requester| {
        let requester = requester.for_audience(&audience);
        let window = Window {
            after: None,
            limit: LIMIT,
        };
        let mut seat = Some(audience.seat());
        requester.peers(&Which::default(), &window, &mut |_| {
            told += 1;
            seat = None;
        })
    });
    assert_eq!(answer, Err(SendError::Left));
    assert_eq!((told, looks.len()), (look::PEERS, 2));
}

/// `wg` is told all peers, too, some at a time.
#[test]
fn a_get_is_answered_in_parts_that_are_the_whole_together() {
    let [port] = free_ports();
    let site = Site::start(crowd(port, 600));
    let (mut keys, mut parts, mut from) = (HashSet::new(), 0, Some(0));
    while let Some(place) = from {
        let (device, rest) = site.engine.tell(&name("a"), place).unwrap();
        assert!(device.peers.len() <= 128);
        assert_eq!(device.listen_port, port);
        keys.extend(device.peers.iter().map(|peer| peer.config.public_key));
        (parts, from) = (parts + 1, rest);
    }
    assert_eq!((keys.len(), parts), (601, 5));
}

/// Between two pages of a state there is a round, in which handshakes are answered.
#[test]
fn who_reads_all_the_time_holds_up_nobody() {
    let others = 20_000;
    let [port] = free_ports();
    let mut site = Site::start(crowd(port, others));
    let pages = others.div_ceil(look::PEERS);
    let (requester, over) = (site.requester.clone(), AtomicBool::new(false));
    let (states, rounds, answered) = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut states = 0;
            while states == 0 || !over.load(Ordering::Relaxed) {
                let state = read(&requester, None).unwrap();
                assert_eq!(state.peers.len(), others + 1);
                states += 1;
            }
            states
        });
        let (mut rounds, mut answered) = (0, 0);
        let mut far = Far::call(&key("far"), key("a").public_key(), port);
        while !reader.is_finished() {
            site.engine.take_requests(&site.requests, clock::now());
            site.engine.round(clock::now()).unwrap();
            rounds += 1;
            if rounds % 16 == 0 && far.hears(Duration::from_millis(1)) {
                answered += 1;
                over.store(answered >= 3, Ordering::Relaxed);
                far = Far::call(&key("far"), key("a").public_key(), port);
            } else if rounds % 1_024 == 0 {
                // It was too soon after the last one.
                far = Far::call(&key("far"), key("a").public_key(), port);
            }
        }
        (reader.join().unwrap(), rounds, answered)
    });
    assert!(answered >= 3);
    assert!(
        rounds >= states * pages,
        "{rounds} rounds for {states} states"
    );
}
