//! Neighbors whose life is watched.

use std::sync::Arc;

use culvert_wire::udp;

use super::*;
use crate::{
    bfd::{self, Watch},
    guests::frame::{udp4, udp6},
};

const INTERVAL: Duration = Duration::from_millis(300);

fn wanted(peer: &str) -> (bfd::Config, Arc<Watch>) {
    let config = bfd::Config {
        peer: ip(peer),
        interval: INTERVAL,
        multiplier: 3,
    };
    (config, Arc::default())
}

/// Two that watch each other, and what both see.
fn watched(of_a: &str, of_b: &str) -> (Wire, [Arc<Watch>; 2]) {
    let mut wire = Wire::new();
    let (see_b, see_a) = (wanted(of_b), wanted(of_a));
    wire.a.watch(Some(see_b.clone()), 0x1234_5678_9abc, START);
    wire.b.watch(Some(see_a.clone()), 0xfed_cba9_8765, START);
    (wire, [see_b.1, see_a.1])
}

fn states(watches: &[Arc<Watch>; 2]) -> [bfd::State; 2] {
    watches.each_ref().map(|watch| watch.state())
}

#[test]
fn two_neighbors_see_each_other_live_and_die_over_both_families() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let (mut wire, watches) = watched(of_a, of_b);
        wire.advance(START + Duration::from_secs(5), |_| false);
        assert_eq!(states(&watches), [bfd::State::Up; 2]);
        assert!(
            watches
                .iter()
                .all(|watch| watch.take_news() && watch.passes())
        );
        assert!(!watches[0].take_news());
        let (peer, mac, _) = wire.a.watched().unwrap();
        assert_eq!((peer, mac), (ip(of_b), Some(B)), "who may begin it");
        // Nothing of it was refused.
        assert_eq!(wire.a.dropped(HostDrop::LivenessUnknown), 0);
        assert_eq!(wire.a.dropped(HostDrop::LivenessRefused), 0);
        let now = wire.now;
        wire.advance(now + Duration::from_millis(1_300), |_| true);
        assert_eq!(states(&watches), [bfd::State::Down; 2]);
        assert!(
            watches
                .iter()
                .all(|watch| watch.take_news() && !watch.passes())
        );
        let now = wire.now;
        wire.advance(now + Duration::from_secs(5), |_| false);
        assert_eq!(states(&watches), [bfd::State::Up; 2]);
        // One that is to be as it was goes on; without one, nothing is sent.
        let again = (wanted(of_b).0, Arc::clone(&watches[0]));
        wire.a.watch(Some(again), 7, wire.now);
        assert_eq!(states(&watches), [bfd::State::Up; 2]);
        wire.a.watch(None, 7, wire.now);
        let now = wire.now;
        wire.advance(now + Duration::from_secs(3), |_| false);
        assert_eq!(watches[1].state(), bfd::State::Down);
        assert!(wire.a.dropped(HostDrop::NotServed) > 0);
    }
}

#[test]
fn what_was_routed_or_comes_from_another_is_not_believed() {
    let mut stack = quiet(A, 1);
    let (config, watch) = wanted("192.0.2.2");
    stack.watch(Some((config, Arc::clone(&watch))), 7, START);
    stack.handle_timeout(START);
    stack.handle_frame(&arp_reply(B, "192.0.2.2", A, "192.0.2.1"), START);
    let packet = bfd::Packet {
        state: bfd::State::Down,
        diagnostic: 0,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 0,
        desired_tx: INTERVAL,
        min_rx: INTERVAL,
    };
    let (IpAddr::V4(ours), IpAddr::V4(peer), IpAddr::V4(other)) =
        (ip("192.0.2.1"), ip("192.0.2.2"), ip("192.0.2.3"))
    else {
        unreachable!("they are IPv4");
    };
    let frame = |source, ttl: u8, payload: &[u8]| {
        let mut frame = udp4((B, A), (source, ours), (50_000, bfd::PORT), payload);
        frame[22] = ttl;
        frame[24..26].fill(0);
        let sum = Checksum::of(&frame[14..34]).complement();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    let bytes = packet.bytes();
    for (frame, reason) in [
        (frame(peer, 254, &bytes), HostDrop::LivenessUnknown),
        (frame(other, 255, &bytes), HostDrop::LivenessUnknown),
        (frame(peer, 255, &bytes[..23]), HostDrop::LivenessRefused),
        (frame(peer, 255, &[]), HostDrop::LivenessRefused),
    ] {
        let before = stack.dropped(reason);
        stack.handle_frame(&frame, START);
        assert_eq!(stack.dropped(reason), before + 1);
        assert_eq!(watch.state(), bfd::State::Down);
    }
    // A wrong checksum.
    let mut wrong = frame(peer, 255, &bytes);
    wrong[14 + 20 + udp::HEADER_LEN] ^= 1;
    stack.handle_frame(&wrong, START);
    assert_eq!(watch.state(), bfd::State::Down);
    // One that its sender, on this machine, has left to the device.
    let mut left = frame(peer, 255, &bytes);
    let len = u32::try_from(udp::HEADER_LEN + bytes.len()).unwrap();
    let seed = Checksum::pseudo_v4(peer, ours, udp::PROTOCOL, len).value();
    left[40..42].copy_from_slice(&seed.to_be_bytes());
    stack.handle_frame(&left, START);
    assert_eq!(watch.state(), bfd::State::Init);
    // Nobody is told that nobody listens there.
    assert!(
        frames(&mut stack)
            .iter()
            .all(|frame| frame[12..14] == [8, 6])
    );
    // Over IPv6 it is another neighbor's.
    let (IpAddr::V6(ours), IpAddr::V6(peer)) = (ip("2001:db8::1"), ip("2001:db8::2")) else {
        unreachable!("they are IPv6");
    };
    let before = stack.dropped(HostDrop::LivenessUnknown);
    stack.handle_frame(
        &udp6((B, A), (peer, ours), (50_000, bfd::PORT), &bytes),
        START,
    );
    assert_eq!(stack.dropped(HostDrop::LivenessUnknown), before + 1);
}

#[test]
fn who_forges_a_neighbor_s_beginnings_keeps_no_session_down() {
    let (mut wire, watches) = watched("192.0.2.1", "192.0.2.2");
    let (IpAddr::V4(ours), IpAddr::V4(peer)) = (ip("192.0.2.1"), ip("192.0.2.2")) else {
        unreachable!("they are IPv4");
    };
    let forged = bfd::Packet {
        state: bfd::State::Down,
        diagnostic: 0,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 9,
        your_discriminator: 0,
        desired_tx: INTERVAL,
        min_rx: INTERVAL,
    };
    let forged = udp4((C, A), (peer, ours), (50_000, bfd::PORT), &forged.bytes());
    for hundredth in 1..500 {
        wire.a.handle_frame(&forged, wire.now);
        wire.advance(START + Duration::from_millis(10 * hundredth), |_| false);
    }
    assert_eq!(states(&watches), [bfd::State::Up; 2]);
    assert!(wire.a.dropped(HostDrop::LivenessUnknown) > 400);
}
