//! Sessions between two endpoints: who may send when, renewal, roaming, replay.

use crate::world::{World, ms, secs};
use culvert_wireguard::message::Kind;
use culvert_wireguard::{Handshake, HandshakeDrop, Role};

#[test]
fn a_packet_waits_for_the_handshake_and_arrives() {
    let mut world = World::new(2, 1);
    let start = world.now;
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
    assert!(world.wire.iter().all(|sent| sent.at == start));
    assert_eq!(world.current(0, 1).unwrap().role(), Role::Initiator);
    assert_eq!(world.current(1, 0).unwrap().role(), Role::Responder);
}
