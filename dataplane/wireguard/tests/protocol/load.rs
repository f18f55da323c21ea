//! Under load: cookies, the rate limiter, floods; and a great many peers.

use std::net::SocketAddr;

use culvert_wireguard::limits::UNDER_LOAD_BACKLOG;
use culvert_wireguard::message::Kind;
use culvert_wireguard::{
    Config, Event, Handshake, HandshakeDrop, PeerConfig, PeerId, PresharedKey, PublicKey,
};

use crate::world::{World, address, ms, secs};

/// Initiations of node 0 to node 1, `n` of them, none delivered.
fn initiations(world: &mut World, n: usize) -> Vec<Vec<u8>> {
    let loss = std::mem::replace(&mut world.faults.loss, 100);
    let peer = world.peer(0, 1);
    let made = (0..n)
        .map(|_| {
            world.run(secs(5) + ms(1));
            world.device(0, |device, now| device.initiate(peer, now));
            world.wire.last().unwrap().bytes.clone()
        })
        .collect();
    world.faults.loss = loss;
    made
}

#[test]
fn a_loaded_device_asks_for_a_cookie_and_takes_who_brings_it() {
    let mut world = World::new(2, 1);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    let start = world.now;
    world.send(0, 1, b"let me in");
    world.settle();
    assert_eq!(world.nodes[1].verdicts, [Handshake::CookieSent]);
    assert_eq!(
        world.nodes[0].verdicts,
        [Handshake::CookieAccepted(world.peer(0, 1))]
    );
    assert_eq!(
        world.count(0, start, Kind::Initiation),
        1,
        "a cookie doesn't hurry the next try"
    );
    world.run(secs(6));
    assert_eq!(
        world.nodes[1].verdicts[1..],
        [Handshake::InitiationAccepted(world.peer(1, 0))]
    );
    assert_eq!(world.payloads(1), [b"let me in"]);
}

#[test]
fn a_loaded_initiator_asks_its_responder_for_a_cookie() {
    let mut world = World::new(2, 1);
    world.nodes[0].backlog = UNDER_LOAD_BACKLOG;
    world.send(0, 1, b"x");
    world.settle();
    assert_eq!(
        world.nodes[0].verdicts,
        [Handshake::CookieSent],
        "for the response"
    );
    assert_eq!(
        world.nodes[1].verdicts[1..],
        [Handshake::CookieAccepted(world.peer(1, 0))]
    );
    world.run(secs(6));
    assert_eq!(world.payloads(1), [b"x"]);
}

#[test]
fn both_loaded_still_meet() {
    let mut world = World::new(2, 1);
    for node in &mut world.nodes {
        node.backlog = UNDER_LOAD_BACKLOG;
    }
    world.send(0, 1, b"x");
    world.run(secs(12));
    assert_eq!(world.payloads(1), [b"x"]);
}

#[test]
fn load_lingers_for_a_second() {
    let mut world = World::new(2, 1);
    let made = initiations(&mut world, 4);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    world.inject(1, address(0), &made[0]);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG - 1;
    world.run(ms(999));
    world.inject(1, address(0), &made[1]);
    world.run(ms(1));
    world.inject(1, address(0), &made[2]);
    let accepted = Handshake::InitiationAccepted(world.peer(1, 0));
    assert_eq!(
        world.nodes[1].verdicts,
        [Handshake::CookieSent, Handshake::CookieSent, accepted]
    );
}

#[test]
fn nothing_without_a_valid_mac1_is_answered_even_under_load() {
    let mut world = World::new(2, 1);
    let mut made = initiations(&mut world, 1).remove(0);
    made[120] ^= 1;
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    let sent = world.wire.len();
    world.inject(1, address(0), &made);
    assert_eq!(
        world.nodes[1].verdicts,
        [Handshake::Dropped(HandshakeDrop::InvalidMac1)]
    );
    assert_eq!(world.wire.len(), sent);
}

#[test]
fn a_cookie_reply_moves_no_endpoint() {
    let mut world = World::new(2, 1);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    world.send(0, 1, b"x");
    world.run(ms(0));
    let reply = world
        .wire
        .iter()
        .find(|sent| sent.kind() == Kind::CookieReply)
        .unwrap()
        .clone();
    let mut other = World::new(2, 1);
    other.faults.loss = 100;
    other.send(0, 1, b"x");
    other.inject(0, "203.0.113.66:6".parse().unwrap(), &reply.bytes);
    assert_eq!(
        other.nodes[0].verdicts,
        [Handshake::CookieAccepted(other.peer(0, 1))],
        "the same seed, the same keys"
    );
    assert_eq!(other.endpoint(0, 1), Some(address(1)));
}

#[test]
fn a_cookie_from_another_port_is_worth_nothing() {
    let mut world = World::new(2, 1);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    world.send(0, 1, b"x");
    world.settle();
    world.move_node(0, SocketAddr::from(([192, 0, 2, 1], 51821)));
    world.run(secs(6));
    assert_eq!(
        world.nodes[1].verdicts,
        [Handshake::CookieSent, Handshake::CookieSent]
    );
    world.run(secs(6));
    assert_eq!(
        world.payloads(1),
        [b"x"],
        "the second cookie is for the new port"
    );
}

#[test]
fn proven_sources_are_limited_by_address() {
    let mut world = World::new(2, 1);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    world.send(0, 1, b"x");
    world.settle();
    world.run(secs(5) + ms(400));
    let with_cookie = world
        .wire
        .iter()
        .filter(|sent| sent.from == 0 && sent.kind() == Kind::Initiation)
        .nth(1);
    let with_cookie = with_cookie.unwrap().bytes.clone();
    world.run(secs(2));
    world.nodes[1].verdicts.clear();
    for _ in 0..8 {
        world.inject(1, address(0), &with_cookie);
    }
    let replayed = Handshake::Dropped(HandshakeDrop::ReplayedTimestamp);
    let limited = Handshake::Dropped(HandshakeDrop::RateLimited);
    assert_eq!(
        world.nodes[1].verdicts,
        [[replayed; 5].as_slice(), &[limited; 3]].concat()
    );
}

/// A sender who knows our public key can make valid mac1s for any source; what it gets is one small answer each, and
/// no state.
#[test]
fn a_flood_of_spoofed_sources_costs_no_memory() {
    let mut world = World::new(2, 1);
    let made = initiations(&mut world, 1).remove(0);
    world.nodes[1].backlog = UNDER_LOAD_BACKLOG;
    for n in 0..2_000_u32 {
        let source = SocketAddr::from((n.wrapping_mul(0x9e37_79b1).to_be_bytes(), 7));
        let now = world.now();
        let verdict =
            world.nodes[1]
                .device
                .handle_handshake(&made, source, UNDER_LOAD_BACKLOG, now);
        assert_eq!(verdict, Handshake::CookieSent);
        let reply = world.nodes[1].device.poll_transmit().unwrap();
        assert_eq!((reply.to, reply.bytes().len()), (source, 64));
    }
    assert_eq!(
        world.nodes[1].device.poll_timeout(),
        None,
        "no bucket was made"
    );
    // Meanwhile a legitimate peer gets in.
    world.send(0, 1, b"me, too");
    world.run(secs(12));
    assert_eq!(world.payloads(1), [b"me, too"]);
}

/// A device of 100,000 peers, each with a timer: adding, finding, waking and removing them.
#[test]
fn a_hundred_thousand_peers() {
    const PEERS: u32 = 100_000;
    let config = Config {
        index_slots: 1 << 20,
        ..Config::default()
    };
    let mut world = World::strangers(2, 1, config);
    let key = |n: u32| {
        let mut key = [3; 32];
        key[..4].copy_from_slice(&n.to_le_bytes());
        PublicKey::from_bytes(key)
    };
    let now = world.now();
    let device = &mut world.nodes[0].device;
    for n in 0..PEERS {
        let config = PeerConfig {
            public_key: key(n),
            preshared_key: PresharedKey::default(),
            persistent_keepalive: Some(secs(u64::from(n % 1_000) + 1)),
            endpoint: None,
        };
        assert_eq!(device.add_peer(config, now), Ok(PeerId(n)));
    }
    assert_eq!(device.find(&key(77_777)), Some(PeerId(77_777)));
    // All are due at once, then each at its interval.
    let mut calls = 0;
    while device.poll_timeout().is_some_and(|at| at <= now.monotonic) {
        device.handle_timeout(now);
        calls += 1;
    }
    assert_eq!(calls, PEERS.div_ceil(64));
    assert_eq!(device.poll_timeout(), Some(now.monotonic + secs(1)));

    // Among them, one session works as ever.
    let friend = world.introduce(0, 1);
    assert_eq!(friend, PeerId(PEERS));
    world.introduce(1, 0);
    world.connect(1, 0);

    let device = &mut world.nodes[0].device;
    while device.poll_event().is_some() {}
    for n in (0..PEERS).rev() {
        device.remove_peer(PeerId(n));
    }
    let removed = std::iter::from_fn(|| device.poll_event())
        .filter(|e| matches!(e, Event::PeerRemoved { .. }));
    assert_eq!(removed.count(), PEERS as usize);
    assert_eq!(
        device.peers().map(|peer| peer.peer).collect::<Vec<_>>(),
        [friend]
    );
    // The slot that was left longest ago is taken first.
    let now = world.now();
    let config = PeerConfig {
        public_key: key(5),
        preshared_key: PresharedKey::default(),
        persistent_keepalive: None,
        endpoint: None,
    };
    assert_eq!(
        world.nodes[0].device.add_peer(config, now),
        Ok(PeerId(PEERS - 1))
    );
}
