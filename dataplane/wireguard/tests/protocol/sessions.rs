//! Sessions: who may send when, confirmation, roaming, replay, identities.

use std::net::SocketAddr;

use culvert_wireguard::cookie::Mac1;
use culvert_wireguard::limits::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES};
use culvert_wireguard::message::Kind;
use culvert_wireguard::{
    Config, ConfigError, Event, Handshake, HandshakeDrop, Instant, PeerConfig, PeerUpdate,
    PresharedKey, PrivateKey, PublicKey, Role, SendRefusal,
};

use crate::world::{Sent, World, address, ms, rng, secs};

fn start(world: &World) -> Instant {
    world.wire[0].at
}

fn bytes_of(world: &World, from: usize, kind: Kind) -> Vec<u8> {
    last(world, from, kind).bytes
}

fn last(world: &World, from: usize, kind: Kind) -> Sent {
    world
        .wire
        .iter()
        .rev()
        .find(|sent| sent.from == from && sent.kind() == kind)
        .expect("one was sent")
        .clone()
}

#[test]
fn a_packet_waits_for_the_handshake_and_arrives() {
    let mut world = World::new(2, 1);
    world.send(0, 1, b"ping");
    assert_eq!(world.staged(0, 1), 1);
    world.settle();
    assert_eq!(world.payloads(1), [b"ping"]);
    assert_eq!(world.staged(0, 1), 0);
    let wire: Vec<_> = world
        .wire
        .iter()
        .map(|sent| (sent.from, sent.kind()))
        .collect();
    assert_eq!(
        wire,
        [(0, Kind::Initiation), (1, Kind::Response), (0, Kind::Data)]
    );
    assert_eq!(world.current(0, 1).unwrap().role(), Role::Initiator);
    assert_eq!(world.current(1, 0).unwrap().role(), Role::Responder);
}

#[test]
fn with_nothing_staged_the_initiator_confirms_with_a_keepalive() {
    let mut world = World::new(2, 1);
    let peer = world.peer(0, 1);
    world.device(0, |device, now| device.initiate(peer, now));
    world.settle();
    assert!(world.wire.last().unwrap().is_keepalive());
    assert!(
        world.current(1, 0).is_some(),
        "an empty packet confirms, too"
    );
    assert!(world.nodes[1].inbox.is_empty());
}

#[test]
fn a_responder_is_silent_until_it_is_confirmed() {
    let mut world = World::new(2, 1);
    world.send(0, 1, b"one");
    // The initiation arrives, then the link breaks: the response is lost.
    world.faults.loss = 100;
    world.settle();
    assert_eq!(world.count(1, world.now, Kind::Response), 1);
    assert!(world.current(1, 0).is_none());
    assert_eq!(world.keypairs(1).len(), 1, "but it listens");
    world.send(1, 0, b"two");
    assert_eq!(world.staged(1, 0), 1);
    assert_eq!(world.count(1, world.now, Kind::Data), 0);
    assert_eq!(
        world.keypairs(1)[0].reserve(1, world.now),
        Err(SendRefusal::Unconfirmed)
    );
    world.faults.loss = 0;
    world.run(secs(6));
    assert_eq!(world.payloads(0), [b"two"]);
    assert_eq!(world.payloads(1), [b"one"]);
}

#[test]
fn a_lost_confirmation_is_made_up_for_by_the_sweep() {
    let mut world = World::new(2, 1);
    world.faults.ring_loss = 100;
    world.faults.sweep = ms(50);
    world.send(0, 1, b"ping");
    world.run(ms(200));
    assert_eq!(world.payloads(1), [b"ping"]);
    assert!(world.current(1, 0).is_some());
}

#[test]
fn both_sides_may_call_at_once() {
    let mut world = World::new(2, 1);
    world.faults.delay = ms(20);
    world.send(0, 1, b"from 0");
    world.send(1, 0, b"from 1");
    world.run(ms(200));
    assert_eq!(
        (world.payloads(0), world.payloads(1)),
        (vec![b"from 1".to_vec()], vec![b"from 0".to_vec()])
    );
    assert_eq!(
        [0, 1].map(|node| world.count(node, start(&world), Kind::Initiation)),
        [1, 1],
        "neither has to retry"
    );
    assert!(world.keypairs(0).len() <= 3 && world.keypairs(1).len() <= 3);
}

#[test]
fn having_called_at_once_they_dont_do_so_again() {
    for seed in 0..4 {
        let mut world = World::new(2, seed);
        for _ in 0..1_000 {
            world.send(0, 1, b"x");
            world.send(1, 0, b"y");
            world.run(ms(500));
        }
        let sent = [0, 1].map(|node| world.count(node, start(&world), Kind::Initiation));
        assert_eq!(
            sent.iter().sum::<usize>(),
            2 + 4,
            "{sent:?}: two at once, then one per 120 s"
        );
        assert_eq!(
            (world.payloads(0).len(), world.payloads(1).len()),
            (1_000, 1_000)
        );
    }
}

#[test]
fn three_endpoints_keep_their_sessions_apart() {
    let mut world = World::new(3, 1);
    for (a, b) in [(0, 1), (1, 2), (2, 0)] {
        world.send(a, b, format!("{a} to {b}").as_bytes());
        world.send(b, a, format!("{b} to {a}").as_bytes());
    }
    world.run(secs(12));
    for a in 0..3 {
        let mut received = world.payloads(a);
        received.sort_unstable();
        let expected: Vec<_> = (0..3)
            .filter(|b| *b != a)
            .map(|b| format!("{b} to {a}").into_bytes())
            .collect();
        assert_eq!(received, expected);
        for (peer, payload) in &world.nodes[a].inbox {
            let from = usize::from(payload[0] - b'0');
            assert_eq!(*peer, world.peer(a, from));
        }
    }
}

#[test]
fn replayed_messages_change_nothing() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let recorded = world.wire.clone();
    let keypairs = |world: &World| {
        [0, 1].map(|n| {
            world
                .keypairs(n)
                .iter()
                .map(|k| k.local_index())
                .collect::<Vec<_>>()
        })
    };
    let before = keypairs(&world);
    world.run(secs(1));
    let sent = world.wire.len();
    for message in &recorded {
        let to = 1 - message.from;
        world.nodes[to].verdicts.clear();
        world.nodes[to].data_drops.clear();
        world.inject(to, "203.0.113.9:9".parse().unwrap(), &message.bytes);
        match message.kind() {
            Kind::Initiation => {
                assert_eq!(
                    world.nodes[to].verdicts,
                    [Handshake::Dropped(HandshakeDrop::ReplayedTimestamp)]
                );
            }
            Kind::Response => {
                assert_eq!(
                    world.nodes[to].verdicts,
                    [Handshake::Dropped(HandshakeDrop::UnexpectedResponse)]
                );
            }
            Kind::Data => assert_eq!(world.nodes[to].data_drops, ["replayed"]),
            Kind::CookieReply => unreachable!(),
        }
    }
    assert_eq!(world.wire.len(), sent, "nothing is answered");
    assert_eq!(keypairs(&world), before);
    assert_eq!(world.endpoint(0, 1), Some(address(1)), "the endpoint stays");
    assert_eq!(world.endpoint(1, 0), Some(address(0)));
    assert_eq!(world.payloads(1).len(), 0);
}

#[test]
fn forged_messages_are_named_and_unanswered() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.run(secs(1));
    let peer = world.peer(0, 1);
    let initiation = bytes_of(&world, 0, Kind::Initiation);
    let response = bytes_of(&world, 1, Kind::Response);
    let sent = world.wire.len();
    let mut check = |to: usize, bytes: &[u8], drop| {
        world.nodes[to].verdicts.clear();
        world.inject(to, address(7), bytes);
        assert_eq!(world.nodes[to].verdicts, [Handshake::Dropped(drop)]);
    };
    for at in [4, 10, 50, 100, 120] {
        let mut forged = initiation.clone();
        forged[at] ^= 1;
        check(1, &forged, HandshakeDrop::InvalidMac1);
    }
    check(0, &initiation, HandshakeDrop::InvalidMac1);
    check(1, &response, HandshakeDrop::InvalidMac1);
    for bytes in [
        &[][..],
        &[1],
        &[1, 0, 0, 0],
        &initiation[..147],
        &[0; 148],
        &[5; 92],
    ] {
        check(1, bytes, HandshakeDrop::Malformed);
    }
    let mut cookie = [0; 64];
    cookie[0] = 3;
    check(1, &cookie, HandshakeDrop::UnknownIndex);
    cookie[4..8].copy_from_slice(&world.keypairs(0)[0].local_index().to_le_bytes());
    world.inject(0, address(1), &cookie);
    assert_eq!(
        world.nodes[0].verdicts.last(),
        Some(&Handshake::Dropped(HandshakeDrop::Undecryptable))
    );
    assert_eq!(world.wire.len(), sent);
    assert!(world.nodes[0].device.peer(peer).unwrap().current.is_some());
}

#[test]
fn strangers_are_refused_after_one_key_exchange() {
    let mut world = World::strangers(2, 1, Config::default());
    world.introduce(0, 1);
    world.send(0, 1, b"let me in");
    world.settle();
    assert_eq!(
        world.nodes[1].verdicts,
        [Handshake::Dropped(HandshakeDrop::UnknownPeer)]
    );
    assert_eq!(world.count(1, start(&world), Kind::Response), 0);
}

#[test]
fn initiations_of_one_peer_are_twenty_milliseconds_apart() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    let peer = world.peer(0, 1);
    let mut made = Vec::new();
    for _ in 0..3 {
        world.device(0, |device, now| device.initiate(peer, now));
        made.push(bytes_of(&world, 0, Kind::Initiation));
        world.run(secs(5) + ms(1));
    }
    world.inject(1, address(0), &made[0]);
    world.run(ms(19));
    world.inject(1, address(0), &made[1]);
    world.run(ms(1));
    world.inject(1, address(0), &made[2]);
    world.inject(1, address(0), &made[1]);
    assert_eq!(
        world.nodes[1].verdicts,
        [
            Handshake::InitiationAccepted(world.peer(1, 0)),
            Handshake::Dropped(HandshakeDrop::InitiationFlood),
            Handshake::InitiationAccepted(world.peer(1, 0)),
            Handshake::Dropped(HandshakeDrop::ReplayedTimestamp),
        ]
    );
}

#[test]
fn a_clock_that_was_set_back_keeps_nobody_out() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.unix_offset = -1_000_000;
    world.run(secs(200));
    world.send(0, 1, b"again");
    world.settle();
    assert_eq!(world.payloads(1), [b"again"]);
    assert!(
        world.nodes[1]
            .verdicts
            .iter()
            .all(|verdict| matches!(verdict, Handshake::InitiationAccepted(_)))
    );
}

#[test]
fn the_endpoint_follows_every_authentic_message() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let roam = |n: u8| SocketAddr::from(([198, 51, 100, n], 4000 + u16::from(n)));

    world.move_node(0, roam(1));
    world.send(0, 1, b"data");
    world.settle();
    assert_eq!(world.endpoint(1, 0), Some(roam(1)));

    world.move_node(0, roam(2));
    world.run(secs(10));
    world.send(1, 0, b"lost, but asks for a keepalive");
    world.move_node(0, roam(1));
    world.send(1, 0, b"answer me");
    world.settle();
    world.move_node(0, roam(2));
    world.run(secs(10));
    assert!(last(&world, 0, Kind::Data).is_keepalive());
    assert_eq!(world.endpoint(1, 0), Some(roam(2)), "a keepalive moves it");

    world.move_node(0, roam(3));
    world.run(secs(200));
    world.send(0, 1, b"new session");
    world.settle();
    assert_eq!(
        world.endpoint(1, 0),
        Some(roam(3)),
        "an initiation moves it"
    );

    world.run(secs(200));
    world.send(1, 0, b"other way");
    let initiation = bytes_of(&world, 1, Kind::Initiation);
    world.lose_in_flight();
    world.move_node(0, roam(4));
    world.inject(0, address(1), &initiation);
    world.settle();
    assert_eq!(world.endpoint(1, 0), Some(roam(4)), "a response moves it");
}

#[test]
fn a_tunnel_of_two_families_roams_between_them() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let v6: SocketAddr = "[2001:db8::7]:51820".parse().unwrap();
    world.move_node(0, v6);
    world.send(0, 1, b"six");
    world.settle();
    assert_eq!(world.endpoint(1, 0), Some(v6));
    world.send(1, 0, b"back");
    world.settle();
    assert_eq!(world.payloads(0), [b"back"]);
}

#[test]
fn an_unverified_packet_moves_nothing() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.send(0, 1, b"x");
    let mut data = bytes_of(&world, 0, Kind::Data);
    *data.last_mut().unwrap() ^= 1;
    world.inject(1, address(9), &data);
    assert_eq!(world.nodes[1].data_drops, ["forged"]);
    assert_eq!(world.endpoint(1, 0), Some(address(0)));
    world.settle();
    assert_eq!(
        world.payloads(1),
        [b"x"],
        "and takes no place in the window"
    );
}

#[test]
fn a_preshared_key_counts_from_the_next_handshake() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let psk = PresharedKey::from_bytes([7; 32]);
    let peer = world.peer(0, 1);
    let update = PeerUpdate {
        preshared_key: Some(psk.clone()),
        ..PeerUpdate::default()
    };
    world.device(0, |device, now| {
        device.update_peer(peer, update.clone(), now)
    });
    world.send(0, 1, b"old session");
    world.settle();
    assert_eq!(world.payloads(1), [b"old session"]);

    world.run(secs(200));
    world.send(0, 1, b"new session");
    world.run(secs(6));
    assert_eq!(world.payloads(1).len(), 1, "only one side has the key");
    assert!(
        world.nodes[0]
            .verdicts
            .contains(&Handshake::Dropped(HandshakeDrop::Undecryptable))
    );

    let peer = world.peer(1, 0);
    world.device(1, |device, now| device.update_peer(peer, update, now));
    world.run(secs(6));
    assert_eq!(world.payloads(1).last(), Some(&b"new session".to_vec()));
}

#[test]
fn a_new_identity_ends_sending_and_calls_at_once() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let private_key = PrivateKey::generate(&mut rng(99));
    let public_key = private_key.public_key();
    world.device(0, |device, _| device.set_private_key(Some(private_key)));
    world.send(1, 0, b"on the old keys");
    world.settle();
    assert_eq!(
        world.payloads(0),
        [b"on the old keys"],
        "what is on its way still opens"
    );
    world.send(0, 1, b"unknown caller");
    world.settle();
    assert_eq!(
        world.nodes[0].refusals.last(),
        Some(&SendRefusal::Invalidated)
    );
    assert_eq!(
        world.nodes[1].verdicts.last(),
        Some(&Handshake::Dropped(HandshakeDrop::UnknownPeer))
    );

    world.nodes[0].public_key = public_key;
    world.introduce(1, 0);
    world.run(secs(6));
    assert_eq!(world.payloads(1), [b"unknown caller"]);
}

#[test]
fn a_device_without_identity_is_silent() {
    let mut world = World::new(2, 1);
    world.device(1, |device, _| device.set_private_key(None));
    assert!(world.nodes[1].device.public_key().is_none());
    world.send(0, 1, b"x");
    world.send(1, 0, b"y");
    world.run(secs(30));
    assert_eq!(world.sent_by(1, start(&world)).count(), 0);
    assert_eq!(
        world.nodes[1].verdicts[0],
        Handshake::Dropped(HandshakeDrop::NoIdentity)
    );
}

#[test]
fn ones_own_key_is_no_peer() {
    let mut world = World::new(2, 1);
    let own = PeerConfig {
        public_key: world.nodes[0].public_key,
        preshared_key: PresharedKey::default(),
        persistent_keepalive: None,
        endpoint: None,
    };
    let now = world.now();
    assert_eq!(
        world.nodes[0].device.add_peer(own.clone(), now),
        Err(ConfigError::OwnKey)
    );
    let twin = PeerConfig {
        public_key: world.nodes[1].public_key,
        ..own
    };
    let peer = world.peer(0, 1);
    assert_eq!(
        world.nodes[0].device.add_peer(twin, now),
        Err(ConfigError::Exists(peer))
    );

    // A device that takes on a peer's identity loses that peer.
    let private_key = world.nodes[1].device.private_key().unwrap().clone();
    world.device(0, |device, _| device.set_private_key(Some(private_key)));
    assert_eq!(world.nodes[0].device.peers().count(), 0);
    assert!(
        matches!(world.nodes[0].events.last(), Some((_, Event::PeerRemoved { peer: gone })) if *gone == peer)
    );
}

#[test]
fn points_of_low_order_never_produce_a_packet() {
    let points: [[u8; 32]; 7] = [
        [0; 32],
        std::array::from_fn(|i| u8::from(i == 0)),
        hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        hex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        hex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        hex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ];
    let mut world = World::strangers(1, 1, Config::default());
    for point in points {
        let config = PeerConfig {
            public_key: PublicKey::from_bytes(point),
            preshared_key: PresharedKey::default(),
            persistent_keepalive: Some(secs(1)),
            endpoint: Some(address(5)),
        };
        let peer = world.add(0, config);
        world.send_to(0, peer, b"nowhere");
    }
    world.run(secs(200));
    assert_eq!(world.wire.len(), 0);
    assert_eq!(world.nodes[0].device.peers().count(), 7);
}

fn hex(text: &str) -> [u8; 32] {
    *PublicKey::from_hex(text).unwrap().as_bytes()
}

#[test]
fn worn_keypairs_are_renewed_and_then_refused() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.run(secs(10));
    let first = world.current(0, 1).unwrap();
    first.skip_counters(REKEY_AFTER_MESSAGES);
    let mark = world.now;
    world.send(0, 1, b"a");
    assert_eq!(world.count(0, mark, Kind::Initiation), 1);
    world.settle();
    let second = world.current(0, 1).unwrap();
    assert_ne!(second.local_index(), first.local_index());
    assert_eq!(second.sent(), 1, "the keepalive that confirms it");

    world.run(secs(10));
    second.skip_counters(REJECT_AFTER_MESSAGES);
    world.send(0, 1, b"b");
    assert_eq!(
        world.nodes[0].refusals.last(),
        Some(&SendRefusal::Exhausted)
    );
    world.settle();
    assert_eq!(world.payloads(1), [b"a", b"b"]);
}

#[test]
fn a_responder_renews_a_worn_keypair_too() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.run(secs(10));
    world
        .current(1, 0)
        .unwrap()
        .skip_counters(REKEY_AFTER_MESSAGES);
    let mark = world.now;
    world.send(1, 0, b"a");
    assert_eq!(world.count(1, mark, Kind::Initiation), 1);
}

#[test]
fn only_the_newest_initiation_is_open() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    world.send(0, 1, b"x");
    let first = bytes_of(&world, 0, Kind::Initiation);
    world.run(secs(6));
    let second = bytes_of(&world, 0, Kind::Initiation);
    assert_ne!(first, second);
    world.inject(1, address(0), &first);
    let response = bytes_of(&world, 1, Kind::Response);
    world.inject(0, address(1), &response);
    assert_eq!(
        world.nodes[0].verdicts,
        [Handshake::Dropped(HandshakeDrop::UnknownIndex)]
    );
    world.run(ms(20));
    world.inject(1, address(0), &second);
    let response = bytes_of(&world, 1, Kind::Response);
    world.inject(0, address(1), &response);
    assert_eq!(
        world.nodes[0].verdicts.last(),
        Some(&Handshake::ResponseAccepted(world.peer(0, 1)))
    );
}

#[test]
fn a_forged_response_leaves_the_handshake_open() {
    let mut world = World::new(2, 1);
    world.faults.loss = 100;
    world.send(0, 1, b"x");
    let initiation = bytes_of(&world, 0, Kind::Initiation);
    world.inject(1, address(0), &initiation);
    let response = bytes_of(&world, 1, Kind::Response);
    // A mac1 is made with the public key: anyone can.
    let mut forged = response.clone();
    forged[50] ^= 1;
    assert!(Mac1::new(&world.nodes[0].public_key).fill(&mut forged));
    world.inject(0, address(6), &forged);
    assert_eq!(
        world.nodes[0].verdicts,
        [Handshake::Dropped(HandshakeDrop::Undecryptable)]
    );
    assert_eq!(world.endpoint(0, 1), Some(address(1)));
    world.inject(0, address(1), &response);
    assert_eq!(
        world.nodes[0].verdicts.last(),
        Some(&Handshake::ResponseAccepted(world.peer(0, 1)))
    );
}

#[test]
fn a_full_index_table_is_a_named_drop_not_a_failure() {
    let config = Config {
        index_slots: 1,
        ..Config::default()
    };
    let mut world = World::with_config(3, 1, config);
    world.send(0, 1, b"takes the only slot of both");
    world.settle();
    world.run(secs(6));
    world.send(2, 1, b"no slot is left");
    world.settle();
    assert_eq!(
        world.nodes[1].verdicts.last(),
        Some(&Handshake::Dropped(HandshakeDrop::NoFreeIndex))
    );
    let peer = world.peer(1, 0);
    world.device(1, |device, _| device.remove_peer(peer));
    world.run(secs(6));
    assert_eq!(
        world.payloads(1).last(),
        Some(&b"no slot is left".to_vec()),
        "a retry finds the slot free"
    );
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let gone = world.peer(0, 1);
    let index = world.keypairs(0)[0].local_index();
    let keypair = world.current(0, 1).unwrap();
    world.device(0, |device, _| device.remove_peer(gone));
    assert!(world.keypairs(0).is_empty());
    assert_eq!(
        keypair.reserve(1, world.now),
        Err(SendRefusal::Invalidated),
        "workers that lag behind are stopped"
    );
    assert!(!keypair.receivable(world.now));
    assert_eq!(world.nodes[0].device.poll_timeout(), None);
    // Calls for it do nothing.
    world.device(0, |device, now| {
        device.initiate(gone, now);
        device.handle_confirmed(gone, index, now);
        device.handle_endpoint(gone, address(3));
        device.remove_peer(gone);
    });
    assert!(world.nodes[0].device.peer(gone).is_none());
    world.send(1, 0, b"hello?");
    world.settle();
    assert_eq!(world.nodes[0].data_drops, ["unknown index"]);
    // It comes back.
    world.introduce(0, 1);
    world.run(secs(30));
    assert_eq!(
        world.payloads(0).len(),
        0,
        "the other side has a session and sees no reason to call"
    );
    world.send(0, 1, b"hello!");
    world.settle();
    assert_eq!(world.payloads(1), [b"hello!"]);
}

#[test]
fn a_peer_may_be_called_though_there_is_a_session() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.run(secs(10));
    let (peer, before, mark) = (world.peer(0, 1), world.current(0, 1).unwrap(), world.now);
    world.device(0, |device, now| device.renew(peer, now));
    world.settle();
    assert_eq!(world.count(0, mark, Kind::Initiation), 1);
    assert_eq!(world.count(1, mark, Kind::Response), 1);
    assert!(!std::sync::Arc::ptr_eq(
        &world.current(0, 1).unwrap(),
        &before
    ));
    // Who does not answer is known not to.
    world.faults.loss = 100;
    world.run(secs(10));
    world.device(0, |device, now| device.renew(peer, now));
    world.settle();
    let status = world.nodes[0].device.peer(peer).map(|it| it.unanswered);
    assert_eq!(status, Some(1));
}

#[test]
fn down_is_silent_and_up_starts_anew() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    world.run(ms(1));
    let mark = world.now;
    world.device(0, |device, _| device.bring_down());
    assert!(world.keypairs(0).is_empty());
    world.send(0, 1, b"waits");
    world.send(1, 0, b"lost");
    world.run(secs(20));
    assert_eq!(world.sent_by(0, mark).count(), 0);
    assert_eq!(
        world.nodes[0].verdicts.last(),
        Some(&Handshake::Dropped(HandshakeDrop::Down))
    );
    assert_eq!(world.nodes[0].device.poll_timeout(), None);
    world.device(0, |device, now| device.bring_up(now));
    world.settle();
    assert_eq!(world.payloads(1), [b"waits"]);
}

#[test]
fn without_an_endpoint_nothing_is_sent_until_the_peer_calls() {
    let mut world = World::strangers(2, 1, Config::default());
    world.introduce(0, 1);
    let nowhere = PeerConfig {
        public_key: world.nodes[0].public_key,
        preshared_key: PresharedKey::default(),
        persistent_keepalive: Some(secs(1)),
        endpoint: None,
    };
    world.add(1, nowhere);
    let mark = world.now;
    world.send(1, 0, b"where are you?");
    world.run(secs(20));
    assert_eq!(world.sent_by(1, mark).count(), 0);
    world.send(0, 1, b"here");
    world.settle();
    assert_eq!(world.payloads(0), [b"where are you?"]);
    assert_eq!(world.endpoint(1, 0), Some(address(0)));
}

#[test]
fn the_last_handshake_is_a_time_and_counts_when_it_is_confirmed() {
    let mut world = World::new(2, 1);
    let status = |world: &World, node: usize| {
        let peer = world.peer(node, 1 - node);
        world.nodes[node].device.peer(peer).unwrap().last_handshake
    };
    world.faults.loss = 100;
    world.send(0, 1, b"x");
    let initiation = bytes_of(&world, 0, Kind::Initiation);
    world.inject(1, address(0), &initiation);
    assert_eq!((status(&world, 0), status(&world, 1)), (None, None));
    let response = bytes_of(&world, 1, Kind::Response);
    world.run(ms(500));
    let at = world.now().unix;
    world.inject(0, address(1), &response);
    assert_eq!((status(&world, 0), status(&world, 1)), (Some(at), None));
    let data = bytes_of(&world, 0, Kind::Data);
    world.run(ms(500));
    world.inject(1, address(0), &data);
    assert_eq!(status(&world, 1), Some(at + ms(500)));
    world.run(secs(60));
    assert_eq!(status(&world, 0), Some(at), "it doesn't age");
}

#[test]
fn empty_and_oversized_datagrams_do_no_harm() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let index = world.keypairs(1)[0].local_index();
    for kind in 0..=5 {
        for len in [0, 1, 3, 4, 15, 16, 31, 32, 33, 1_500, 65_507, 65_535] {
            let mut datagram = vec![0; len];
            let head = [[kind, 0, 0, 0], index.to_le_bytes()].concat();
            for (byte, value) in datagram.iter_mut().zip(head) {
                *byte = value;
            }
            world.inject(1, address(0), &datagram);
        }
    }
    assert!(
        world.nodes[1]
            .data_drops
            .iter()
            .all(|reason| *reason == "forged")
    );
    world.send(0, 1, b"still there");
    world.settle();
    assert_eq!(world.payloads(1), [b"still there"]);
}

#[test]
fn debug_output_of_events_holds_no_keys() {
    let mut world = World::new(2, 1);
    world.connect(0, 1);
    let keypair = world.current(0, 1).unwrap();
    let text = format!("{:?}", world.nodes[0].events);
    let key = format!("{:?}", keypair.sending_key());
    assert!(!text.contains(key.trim_matches(['[', ']'])));
}
