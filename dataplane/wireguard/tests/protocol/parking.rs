//! Peers that are taken out of force, and come back or don't.

use std::sync::Arc;

use culvert_wireguard::{Handshake, HandshakeDrop, Keypair, PrivateKey, SendRefusal};

use culvert_wireguard::message::Kind;

use crate::world::{World, secs};

/// Node 0 has parked node 1, with which it had a session of that age.
fn parked(age: std::time::Duration) -> (World, Arc<Keypair>) {
    let mut world = World::new(3, 1);
    world.connect(0, 1);
    world.run(age);
    let keypair = world.current(0, 1).unwrap();
    let peer = world.peer(0, 1);
    world.device(0, |device, _| device.park_peer(peer));
    assert_eq!(world.nodes[0].device.parked(), 1);
    (world, keypair)
}

#[test]
fn a_parked_peer_is_neither_heard_nor_sent_to() {
    let (mut world, keypair) = parked(secs(1));
    let mark = world.now;
    assert!(world.keypairs(0).is_empty());
    assert_eq!(
        keypair.reserve(1, world.now),
        Err(SendRefusal::Invalidated),
        "workers that lag behind are stopped"
    );
    assert!(!keypair.receivable(world.now));
    world.send(1, 0, b"hello?");
    world.run(secs(30));
    assert_eq!(world.nodes[0].data_drops, ["unknown index"]);
    let refused = Handshake::Dropped(HandshakeDrop::UnknownPeer);
    assert_eq!(world.nodes[0].verdicts.last(), Some(&refused));
    assert_eq!(world.sent_by(0, mark).count(), 0);
    assert_eq!(
        world.nodes[0]
            .device
            .poll_timeout()
            .map(|at| at < world.now),
        None
    );
}

#[test]
fn a_revived_peer_goes_on_with_its_session() {
    let (mut world, keypair) = parked(secs(1));
    let (peer, sent) = (keypair.peer(), keypair.sent());
    let late = {
        world.send(1, 0, b"parked");
        world.settle();
        world.wire.last().unwrap().clone()
    };
    // Who comes meanwhile gets neither its number nor its index.
    let other = PrivateKey::from_bytes([9; 32]).public_key();
    let config = culvert_wireguard::PeerConfig {
        public_key: other,
        preshared_key: Default::default(),
        persistent_keepalive: None,
        endpoint: None,
    };
    assert_ne!(world.add(0, config), peer);
    world.run(secs(12));
    let mark = world.now;
    assert_eq!(world.revive(0, 1), Some(peer));
    assert!(Arc::ptr_eq(&world.current(0, 1).unwrap(), &keypair));
    world.send(0, 1, b"again");
    world.send(1, 0, b"so it is");
    world.settle();
    assert_eq!(world.payloads(1), [b"again"]);
    assert_eq!(world.payloads(0), [b"so it is"]);
    assert_eq!(keypair.sent(), sent + 1);
    // What was sent to it while it was parked is new to it, once.
    world.inject(0, late.source, &late.bytes);
    world.inject(0, late.source, &late.bytes);
    assert_eq!(world.payloads(0).len(), 2);
    assert_eq!(world.nodes[0].data_drops, ["unknown index", "replayed"]);
    world.run(secs(60));
    for node in 0..2 {
        assert_eq!(world.count(node, mark, Kind::Initiation), 0);
        assert_eq!(world.count(node, mark, Kind::Response), 0);
    }
}

#[test]
fn a_keypair_that_grew_too_old_meanwhile_is_not_revived() {
    let (mut world, keypair) = parked(secs(100));
    world.run(secs(80));
    world.revive(0, 1).unwrap();
    assert!(world.keypairs(0).is_empty() && world.current(0, 1).is_none());
    assert!(!keypair.receivable(world.now));
    world.send(0, 1, b"anew");
    world.settle();
    assert_eq!(world.payloads(1), [b"anew"]);
}

#[test]
fn a_wiped_peer_leaves_nothing_behind() {
    let (mut world, keypair) = parked(secs(1));
    world.nodes[0].events.clear();
    let key = world.nodes[1].public_key;
    world.device(0, |device, _| device.wipe_parked(&key));
    world.nodes[0].events.clear();
    assert_eq!(world.nodes[0].device.parked(), 0);
    assert_eq!(world.revive(0, 1), None);
    assert_eq!(keypair.reserve(1, world.now), Err(SendRefusal::Invalidated));
    world.introduce(0, 1);
    assert!(world.current(0, 1).is_none());
    world.send(0, 1, b"anew");
    world.settle();
    assert_eq!(world.payloads(1), [b"anew"]);
}

#[test]
fn another_identity_meanwhile_ends_the_sessions_of_parked_peers() {
    let (mut world, keypair) = parked(secs(1));
    let own = world.nodes[0].device.private_key().cloned();
    let other = PrivateKey::from_bytes([7; 32]);
    world.device(0, |device, _| device.set_private_key(Some(other)));
    world.device(0, |device, _| device.set_private_key(own));
    world.revive(0, 1).unwrap();
    assert_eq!(keypair.reserve(1, world.now), Err(SendRefusal::Invalidated));
    assert!(
        keypair.receivable(world.now),
        "what is on its way still opens"
    );
    world.run(secs(6));
    world.send(0, 1, b"anew");
    world.settle();
    assert_eq!(world.payloads(1), [b"anew"]);
}

#[test]
fn a_device_that_went_down_meanwhile_has_no_keys_of_parked_peers() {
    let (mut world, keypair) = parked(secs(1));
    world.device(0, |device, _| device.bring_down());
    world.device(0, |device, now| device.bring_up(now));
    world.revive(0, 1).unwrap();
    assert!(world.keypairs(0).is_empty());
    assert!(!keypair.receivable(world.now));
}

#[test]
fn who_is_there_anew_is_not_revived() {
    let (mut world, _) = parked(secs(1));
    let peer = world.introduce(0, 1);
    assert_eq!(world.revive(0, 1), None);
    // Of two that are parked under one key the later one counts.
    world.device(0, |device, _| device.park_peer(peer));
    assert_eq!(world.nodes[0].device.parked(), 1);
    assert_eq!(world.revive(0, 1), Some(peer));
}
