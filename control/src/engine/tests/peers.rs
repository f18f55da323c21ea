//! Peers that go, with all that was known of them.

use culvert_dataplane::{
    shared::{
        drops::DropReason,
        hop::Hop,
        ids::TunnelIndex,
        path::Path,
        peer::{Origin, Peer as Cell, signal},
        snapshot::Snapshot,
    },
    uplink::Uplink,
};
use culvert_wire::MacAddr;
use culvert_wireguard::limits::UNDER_LOAD_BACKLOG;

use super::*;
use crate::events::{EVENTS, Event};

/// One tunnel with an identity and with peers of these names, each with its own prefix and with its endpoint.
fn peered(identity: &str, port: u16, peers: &[(&str, &str)]) -> Config {
    let mut text = String::new();
    for (number, (name, endpoint)) in peers.iter().enumerate() {
        let key = key(name).public_key().to_base64();
        text += &format!(
            "{name}: {{public_key: \"{key}\", endpoint: \"{endpoint}\", allowed_ips: [10.9.{number}.0/24]}}, "
        );
    }
    parse(&format!(
        "{UPLINK}tunnels: {{a: {{uplink: lo, uapi: off, listen_port: {port}, private_key_file: {identity}.key, peers: {{{text}}}}}}}
networks: {{blue: {{gateway: [10.0.1.1/24], tunnel: a}}}}
"
    ))
}

/// An uplink as it is for a tunnel that listens there.
fn listening(snapshot: &Snapshot, uplink: usize, tunnel: TunnelIndex) -> Uplink {
    let uplink = snapshot.uplink(UplinkIndex::from_slot(uplink)).unwrap();
    Uplink {
        index: uplink.index,
        name: uplink.name.clone(),
        addresses: uplink.addresses.clone(),
        tunnels: vec![(1, tunnel)],
        hop: Arc::clone(&uplink.hop),
        kernel: None,
        counters: Arc::clone(&uplink.counters),
    }
}

/// Nothing is left of the peer `kay`, the tunnel's only other one is `pal`, and one that comes is its own.
fn assert_gone(site: &mut Site, place: usize) {
    let engine = &site.engine;
    let tunnel = engine.tunnels.get(0).unwrap();
    assert_eq!(tunnel.named(&name("kay")), None);
    assert_eq!(tunnel.owner(&"10.9.1.0/24".parse().unwrap()), None);
    assert_eq!(tunnel.peers.len(), 1);
    assert!(engine.peers.get(place).is_none());
    let snapshot = engine.snapshots.load();
    assert!(
        snapshot
            .peer(culvert_dataplane::shared::ids::PeerIndex::from_slot(place))
            .is_none()
    );
    compile::assert_compiled(site);
    site.set("a", &[Change::Peer(key("new").public_key())]);
    let tunnel = site.engine.tunnels.get(0).unwrap();
    assert_eq!(tunnel.peers.len(), 2);
    for (id, &slot) in &tunnel.peers {
        assert_eq!(site.engine.peers.get(slot).unwrap().cell.id, *id);
        assert_ne!(slot, place);
    }
}

const PAL_AND_KAY: [(&str, &str); 2] = [("pal", "127.0.0.1:9"), ("kay", "127.0.0.1:9")];

#[test]
fn a_peer_whose_key_wg_makes_the_tunnels_own_is_gone() {
    let [port] = free_ports();
    let mut site = Site::start(peered("a", port, &PAL_AND_KAY));
    let place = site.engine.peer_place(&name("a"), &key("kay").public_key());
    site.set("a", &[Change::PrivateKey(Some(key("kay")))]);
    assert_gone(&mut site, place.unwrap());
}

#[test]
fn a_peer_whose_key_the_file_makes_the_tunnels_own_is_gone() {
    let [port] = free_ports();
    let mut site = Site::start(peered("a", port, &PAL_AND_KAY));
    let place = site.engine.peer_place(&name("a"), &key("kay").public_key());
    site.apply(peered("kay", port, &[("pal", "127.0.0.1:9")]))
        .unwrap();
    let tunnel = site.engine.tunnels.get(0).unwrap();
    let pal = tunnel.named(&name("pal")).unwrap();
    assert!(site.engine.peers.get(pal).is_some());
    assert_gone(&mut site, place.unwrap());
}

#[test]
fn what_is_wanted_of_a_peer_is_done_though_another_goes() {
    let [port] = free_ports();
    let mut site = Site::start(peered("a", port, &PAL_AND_KAY));
    site.engine.round(clock::now()).unwrap();
    let (pal, kay) = (key("pal").public_key(), key("kay").public_key());
    let place = site.engine.peer_place(&name("a"), &pal).unwrap();
    let endpoint = |site: &Site| {
        let path = site.engine.peers.get(place).unwrap().cell.path();
        path.as_deref().map(|path| path.endpoint)
    };
    let [before, after] = ["127.0.0.1:9", "127.0.0.1:10"].map(|at| Some(at.parse().unwrap()));
    assert_eq!(endpoint(&site), before);
    let tunnel = site.engine.tunnels.get_mut(0).unwrap();
    let id = tunnel.device.find(&pal).unwrap();
    tunnel.device.handle_endpoint(id, after.unwrap());
    site.set("a", &[Change::Peer(kay), Change::Remove]);
    site.engine.round(clock::now()).unwrap();
    assert_eq!(endpoint(&site), after);
}

#[test]
fn a_peer_that_is_heard_by_another_uplink_is_reached_by_it() {
    let [port] = free_ports();
    let mut config = tunnels(&[("a", port)], ", endpoint: \"127.0.0.1:9\"");
    let other = config::Uplink {
        name: name("other"),
        ..config.uplinks[0].clone()
    };
    config.uplinks.push(other);
    let mut site = Site::start(config.clone());
    let engine = &mut site.engine;
    let now = clock::now();
    let cell = Arc::clone(&engine.peers.iter().next().unwrap().1.cell);
    let reached_by = |engine: &mut Engine| {
        engine.rebuild_paths(now.monotonic);
        cell.path().as_ref().unwrap().uplink().slot()
    };
    assert_eq!(reached_by(engine), 0);
    let snapshot = engine.snapshots.load_full();
    let heard = |uplink: usize| {
        let uplink = listening(&snapshot, uplink, cell.tunnel);
        let source = "127.0.0.1:10".parse().unwrap();
        cell.note_source(source, None, &uplink, now.monotonic, &engine.attention);
    };
    heard(1);
    engine.round(now).unwrap();
    assert_eq!(reached_by(engine), 1);
    // What the operator says of its endpoint counts from there on.
    let moved = tunnels(&[("a", port)], ", endpoint: \"127.0.0.1:11\"");
    config.tunnels = moved.tunnels;
    site.apply(config).unwrap();
    assert_eq!(reached_by(&mut site.engine), 0);
}

/// Under load whoever calls gets a cookie first.
#[test]
fn a_stranger_is_answered_by_the_uplink_that_it_came_by() {
    let [port] = free_ports();
    let mut config = tunnels(&[("a", port)], "");
    let other = config::Uplink {
        name: name("other"),
        ..config.uplinks[0].clone()
    };
    config.uplinks.push(other);
    let mut site = Site::start(config);
    let engine = &mut site.engine;
    let (now, source) = (clock::now(), "127.0.0.1:9".parse().unwrap());
    let call = Far::first_call(&key("far"), key("a").public_key(), source, now);
    let tunnel = engine.tunnels.get_mut(0).unwrap();
    let origin = Origin {
        source,
        local: None,
        uplink: UplinkIndex::from_slot(1),
        at: now.monotonic,
    };
    let crowd = UNDER_LOAD_BACKLOG;
    tunnel.handshake(call.bytes(), origin, crowd, &mut engine.peers, now);
    assert_eq!(tunnel.drops["handshake-cookie-sent"], 1);
    // The tunnel has no sockets there, and so it is lost there.
    let counters = Arc::clone(&engine.uplinks.get(1).unwrap().counters);
    let lost = (0..10_000).any(|_| {
        engine.round(now).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        counters.drops.count(DropReason::UplinkDown) == 1
    });
    assert!(lost);
}

#[test]
fn a_stranger_is_answered_from_the_address_that_it_called() {
    let [port] = free_ports();
    let mut config = tunnels(&[("a", port)], "");
    config.uplinks[0]
        .addresses
        .push("127.0.0.2/8".parse().unwrap());
    let mut site = Site::start(config);
    let engine = &mut site.engine;
    let called = SocketAddr::from(([127, 0, 0, 2], port));
    let call = Far::first_call(&key("far"), key("a").public_key(), called, clock::now());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    socket.send_to(call.bytes(), called).unwrap();
    let counters = Arc::clone(&engine.uplinks.get(0).unwrap().counters);
    let answer = (0..10_000).find_map(|_| {
        counters.crowded.store(true, Ordering::Relaxed);
        engine.round(clock::now()).unwrap();
        socket.recv_from(&mut [0; 256]).ok()
    });
    // A cookie reply's.
    assert_eq!(answer, Some((64, called)));
}

#[test]
fn the_later_of_a_move_and_a_handshake_says_where_a_peer_is() {
    let [port] = free_ports();
    let mut config = tunnels(&[("a", port)], ", endpoint: \"127.0.0.1:9\"");
    let other = config::Uplink {
        name: name("other"),
        ..config.uplinks[0].clone()
    };
    config.uplinks.push(other);
    let mut site = Site::start(config);
    let engine = &mut site.engine;
    let start = clock::now();
    let snapshot = engine.snapshots.load_full();
    let cell = Arc::clone(&engine.peers.iter().next().unwrap().1.cell);
    let at = |millis| Now {
        monotonic: start.monotonic + Duration::from_millis(millis),
        unix: start.unix + Duration::from_millis(millis),
    };
    let place = |host: u16| ([127, 0, 0, 1], host).into();
    let moves = |engine: &Engine, millis: u64, host: u16, uplink: usize| {
        let uplink = listening(&snapshot, uplink, cell.tunnel);
        let now = at(millis).monotonic;
        cell.note_source(place(host), None, &uplink, now, &engine.attention);
    };
    let calls = |engine: &mut Engine, millis: u64, host: u16| {
        let call = Far::first_call(&key("far"), key("a").public_key(), place(9), at(millis));
        let origin = Origin {
            source: place(host),
            local: None,
            uplink: UplinkIndex::from_slot(0),
            at: at(millis).monotonic,
        };
        let tunnel = engine.tunnels.get_mut(0).unwrap();
        tunnel.handshake(call.bytes(), origin, 0, &mut engine.peers, at(millis));
    };
    let reached = |engine: &mut Engine, millis| {
        engine.round(at(millis)).unwrap();
        let path = cell.path().as_deref().cloned().unwrap();
        (path.endpoint, path.uplink().slot())
    };
    moves(engine, 1_000, 10, 1);
    calls(engine, 1_010, 12);
    assert_eq!(reached(engine, 1_020), (place(12), 0));
    moves(engine, 1_030, 13, 1);
    assert_eq!(reached(engine, 1_040), (place(13), 1));
    // What is read first need not have come first.
    moves(engine, 2_010, 14, 1);
    calls(engine, 2_000, 15);
    assert_eq!(reached(engine, 2_020), (place(14), 1));
}

#[test]
fn a_peer_that_only_keepalives_are_sent_to_has_its_next_hop_kept_fresh() {
    let [port] = free_ports();
    // Nobody can call it, which would have its path made anew.
    let mut site = Site::start(tunnels(&[("a", port)], ""));
    let engine = &mut site.engine;
    let now = clock::now();
    engine.round(now).unwrap();
    let cell = Arc::clone(&engine.peers.iter().next().unwrap().1.cell);
    let later = Now {
        monotonic: now.monotonic + Duration::from_secs(25),
        ..now
    };
    cell.raise(signal::KEEPALIVE_SENT, &engine.attention);
    engine.round(later).unwrap();
    let peer = engine.peers.iter().next().unwrap().1;
    assert_eq!(peer.refreshed, later.monotonic);
}

#[test]
fn what_a_peer_asked_that_goes_is_asked_by_others() {
    let [port] = free_ports();
    let mut site = Site::start(peered("a", port, &PAL_AND_KAY));
    let now = clock::now().monotonic;
    let [pal, kay] = ["pal", "kay"].map(|peer| {
        let key = key(peer).public_key();
        let place = site.engine.peer_place(&name("a"), &key).unwrap();
        (key, Arc::clone(&site.engine.peers.get(place).unwrap().cell))
    });
    let uplink = UplinkIndex::from_slot(0);
    let hop = Arc::new(Hop::ethernet(uplink, MacAddr([2; 6]), None));
    let there = "192.0.2.1:1".parse().unwrap();
    let path = Path::new(there, None, 1, Arc::clone(&hop));
    let attention = Arc::clone(&site.engine.attention);
    let asks = |cell: &Cell| {
        cell.want_next_hop(&hop, now, &attention);
        cell.take_signals() & signal::NEXT_HOP_WANTED != 0
    };
    kay.1.publish_path(Some(path));
    kay.1.want_next_hop(&hop, now, &attention);
    assert!(!asks(&pal.1));
    site.set("a", &[Change::Peer(kay.0), Change::Remove]);
    let gone = (0..10_000).any(|_| {
        site.engine.round(clock::now()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        site.engine.leaving.is_empty()
    });
    assert!(gone && asks(&pal.1));
}

/// Whether it was told since an event of that number.
fn is_told(since: u64, wanted: impl Fn(&Event) -> bool) -> bool {
    let records = EVENTS.behind(since, usize::MAX).records;
    records.iter().any(|record| wanted(&record.event))
}

#[test]
fn a_peer_that_moves_is_told_of() {
    let [port] = free_ports();
    let mut site = Site::start(tunnels(&[("a", port)], ""));
    let since = EVENTS.last();
    let mut far = Far::call(&key("far"), key("a").public_key(), port);
    await_round(&mut site, |_| far.hears(Duration::from_millis(2)));
    let (session, before) = (far.session(), far.place());
    far.keep_alive(&session, port);
    await_round(&mut site, |_| {
        is_told(
            since,
            |event| matches!(event, Event::PeerUp { endpoint, .. } if *endpoint == before),
        )
    });
    far.move_on();
    let after = far.place();
    far.keep_alive(&session, port);
    await_round(&mut site, |_| {
        is_told(
            since,
            |event| matches!(event, Event::PeerMoved { from, to, .. } if (*from, *to) == (before, after)),
        )
    });
}
