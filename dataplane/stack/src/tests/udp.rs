//! Endpoints: between two stacks, and which one a datagram is for.

use std::net::SocketAddr;

use super::*;
use crate::{
    guests::frame::udp4,
    udp::{EndpointError, EndpointId, Family, Readiness, Received, Side, State},
};

const NOW: Instant = Instant(1_100_000_000_000);

/// Two stacks whose frames arrive at once.
struct Pair {
    a: HostStack,
    b: HostStack,
}

impl Pair {
    fn new() -> Self {
        Self {
            a: quiet(A, 1),
            b: quiet(B, 2),
        }
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            self.a.handle_timeout(NOW);
            self.b.handle_timeout(NOW);
            for frame in frames(&mut self.a) {
                self.b.handle_frame(&frame, NOW);
            }
            for frame in frames(&mut self.b) {
                self.a.handle_frame(&frame, NOW);
            }
        }
    }

    /// Sends from an endpoint of a's.
    fn send(&mut self, id: EndpointId, to: &str, bytes: &[u8]) {
        self.a.send_to(id, Some(at(to)), bytes, NOW).unwrap();
        self.settle();
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn bytes(received: Result<Received, EndpointError>) -> Vec<u8> {
    received.unwrap().bytes
}

#[test]
fn an_endpoint_is_bound_by_what_it_sends_and_is_answered() {
    for (family, to, own) in [
        (Family::V4, "192.0.2.2:53", "192.0.2.1"),
        (Family::V6, "[2001:db8::2]:53", "2001:db8::1"),
        (Family::Dual, "[::ffff:192.0.2.2]:53", "192.0.2.1"),
    ] {
        let mut pair = Pair::new();
        let server = pair.b.open_endpoint(Family::Dual).unwrap();
        assert_eq!(pair.b.bind(server, None, 53), Ok(53));
        let client = pair.a.open_endpoint(family).unwrap();
        assert_eq!(pair.a.endpoint_state(client), State::Initial);
        // Its next hop is asked for meanwhile.
        pair.send(client, to, b"a question");
        assert_eq!(pair.a.endpoint_state(client), State::Bound);
        let question = pair.b.receive(server).unwrap();
        assert_eq!(
            (question.bytes.as_slice(), question.came),
            (&b"a question"[..], NOW)
        );
        assert_eq!(question.from.ip().to_canonical(), ip(own));
        assert!((61_000..).contains(&question.from.port()));
        pair.b
            .send_to(server, Some(question.from), b"an answer", NOW)
            .unwrap();
        pair.settle();
        let answer = pair.a.receive(client).unwrap();
        assert_eq!(
            (answer.bytes.as_slice(), answer.from),
            (&b"an answer"[..], at(to))
        );
        assert_eq!(pair.a.receive(client), Err(EndpointError::WouldBlock));
        pair.a.close_endpoint(client);
        assert_eq!(pair.a.endpoint_state(client), State::Closed);
        assert_eq!(pair.a.receive(client), Err(EndpointError::Closed));
    }
}

#[test]
fn who_asks_is_answered_where_he_is_and_takes_no_neighbor_s_room() {
    let mut stack = quiet(B, 2);
    let server = stack.open_endpoint(Family::V4).unwrap();
    stack.bind(server, None, 7).unwrap();
    for host in 3..=200 {
        let ends = (Ipv4Addr::new(192, 0, 2, host), Ipv4Addr::new(192, 0, 2, 2));
        stack.handle_frame(&udp4((C, B), ends, (5_000, 7), b"ask"), NOW);
        let came = stack.receive(server).unwrap();
        let to = (came.from, came.mac);
        stack.answer(server, to, b"hear", NOW).unwrap();
        let [answer] = &frames(&mut stack)[..] else {
            panic!("an answer and no question");
        };
        assert_eq!((&answer[..6], answer[33]), (&C.0[..], host));
    }
    assert_eq!(stack.neighbors().count(), 0);
}

#[test]
fn who_says_most_about_a_datagram_gets_it() {
    let mut pair = Pair::new();
    let client = pair.a.open_endpoint(Family::V4).unwrap();
    let from = pair.a.bind(client, Some(ip("192.0.2.1")), 5_000).unwrap();
    let from = SocketAddr::new(ip("192.0.2.1"), from);
    let endpoint = |pair: &mut Pair, local: Option<&str>, connected| {
        let id = pair.b.open_endpoint(Family::V4).unwrap();
        pair.b.bind(id, local.map(ip), 53).unwrap();
        if connected {
            pair.b.connect_endpoint(id, Some(from)).unwrap();
        }
        id
    };
    // A port is one's, or one's at each address: what says more is tried alone, and made from it.
    let any = endpoint(&mut pair, None, false);
    pair.send(client, "192.0.2.2:53", b"1");
    assert_eq!(bytes(pair.b.receive(any)), b"1");
    pair.b
        .connect_endpoint(any, Some(at("192.0.2.77:9")))
        .unwrap();
    pair.send(client, "192.0.2.2:53", b"2");
    assert_eq!(pair.b.receive(any), Err(EndpointError::WouldBlock));
    pair.b.connect_endpoint(any, Some(from)).unwrap();
    pair.send(client, "192.0.2.2:53", b"3");
    assert_eq!(bytes(pair.b.receive(any)), b"3");
    pair.b.connect_endpoint(any, None).unwrap();
    assert_eq!(pair.b.endpoint_state(any), State::Bound);
    let second = pair.b.open_endpoint(Family::V4).unwrap();
    let taken = pair.b.bind(second, Some(ip("192.0.2.2")), 53);
    assert_eq!(taken, Err(EndpointError::InUse));
    pair.b.close_endpoint(any);
    let here = endpoint(&mut pair, Some("192.0.2.2"), true);
    pair.send(client, "192.0.2.2:53", b"4");
    assert_eq!(bytes(pair.b.receive(here)), b"4");
    let wrong = pair.b.bind(second, Some(ip("192.0.2.99")), 54);
    assert_eq!(wrong, Err(EndpointError::NoAddress));
    pair.b.leave_ports(vec![51_820]);
    assert_eq!(pair.b.bind(second, None, 51_820), Err(EndpointError::InUse));
    assert_eq!(pair.b.bind(second, None, 54), Ok(54));
    assert_eq!(pair.b.bind(second, None, 55), Err(EndpointError::Bound));
}

#[test]
fn a_full_buffer_loses_by_name_and_keeps_what_it_has() {
    let mut pair = Pair::new();
    let server = pair.b.open_endpoint(Family::V4).unwrap();
    pair.b.bind(server, None, 53).unwrap();
    let client = pair.a.open_endpoint(Family::V4).unwrap();
    for n in 0..100_u8 {
        pair.send(client, "192.0.2.2:53", &[n; 1_000]);
    }
    let kept = std::iter::from_fn(|| pair.b.receive(server).ok()).count();
    assert_eq!(kept, limits::ENDPOINT_BUFFER.div_ceil(1_064));
    let lost = pair.b.dropped(HostDrop::UdpBufferFull);
    assert_eq!(lost, 100 - kept as u64);
    // Of nothing, as many as take as much.
    for _ in 0..2_000 {
        pair.send(client, "192.0.2.2:53", b"");
    }
    let kept = std::iter::from_fn(|| pair.b.receive(server).ok()).count();
    assert_eq!(kept, limits::ENDPOINT_BUFFER / 64);
}

#[test]
fn long_datagrams_go_in_fragments_and_too_long_ones_not_at_all() {
    for (to, longest) in [("192.0.2.2:53", 65_507), ("[2001:db8::2]:53", 65_527)] {
        let mut pair = Pair::new();
        let server = pair.b.open_endpoint(Family::Dual).unwrap();
        pair.b.bind(server, None, 53).unwrap();
        let client = pair.a.open_endpoint(Family::Dual).unwrap();
        let long: Vec<u8> = (0..longest).map(|n: usize| n.to_le_bytes()[0]).collect();
        pair.send(client, to, &long);
        assert!(bytes(pair.b.receive(server)) == long, "{to}");
        let more = vec![0; longest + 1];
        let refused = pair.a.send_to(client, Some(at(to)), &more, NOW);
        assert_eq!(refused, Err(EndpointError::TooLong));
    }
}

#[test]
fn what_was_shut_down_stays_so_and_errors_are_told_once() {
    let mut pair = Pair::new();
    let client = pair.a.open_endpoint(Family::V4).unwrap();
    let nowhere = pair.a.send_to(client, None, b"x", NOW);
    assert_eq!(nowhere, Err(EndpointError::NoDestination));
    pair.a
        .connect_endpoint(client, Some(at("192.0.2.2:53")))
        .unwrap();
    assert_eq!(pair.a.endpoint_state(client), State::Connected);
    pair.a
        .send_to(client, None, b"to a port of nobody's", NOW)
        .unwrap();
    pair.settle();
    assert!(pair.a.readiness(client).failed);
    let failed = pair.a.receive(client);
    assert_eq!(failed, Err(EndpointError::Failed(Problem::PortUnreachable)));
    assert!(!pair.a.readiness(client).failed);

    pair.a.shut_endpoint(client, Side::Write).unwrap();
    assert_eq!(
        pair.a.send_to(client, None, b"x", NOW),
        Err(EndpointError::Shut)
    );
    assert_eq!(pair.a.receive(client), Err(EndpointError::WouldBlock));
    pair.a.shut_endpoint(client, Side::Read).unwrap();
    assert_eq!(pair.a.receive(client), Err(EndpointError::Shut));
    let expected = Readiness {
        readable: true,
        writable: false,
        failed: false,
    };
    assert_eq!(pair.a.readiness(client), expected);
    let v6_only = pair.a.open_endpoint(Family::V6).unwrap();
    let other = pair.a.send_to(v6_only, Some(at("192.0.2.2:53")), b"x", NOW);
    assert_eq!(other, Err(EndpointError::NoAddress));
}

#[test]
fn a_group_s_datagrams_are_for_all_who_joined_and_go_one_hop() {
    let mut pair = Pair::new();
    let group = ip("239.1.2.3");
    let members: Vec<_> = (0..2)
        .map(|n| {
            let id = pair.b.open_endpoint(Family::V4).unwrap();
            let local = [Some(ip("192.0.2.2")), None][usize::from(n == 1)];
            pair.b
                .bind(id, local.filter(|_| n == 0), 5_353 + n)
                .unwrap();
            pair.b.join_group(id, group).unwrap();
            id
        })
        .collect();
    let client = pair.a.open_endpoint(Family::V4).unwrap();
    pair.a
        .send_to(client, Some(at("239.1.2.3:5353")), b"all", NOW)
        .unwrap();
    let sent = frames(&mut pair.a);
    let [frame] = &sent[..] else {
        panic!("{} frames", sent.len());
    };
    assert_eq!(frame[..6], [1, 0, 0x5e, 1, 2, 3]);
    assert_eq!(frame[22], 1, "one hop");
    pair.b.handle_frame(frame, NOW);
    assert_eq!(bytes(pair.b.receive(members[0])), b"all");
    assert_eq!(pair.b.receive(members[1]), Err(EndpointError::WouldBlock));
    pair.b.leave_group(members[0], group).unwrap();
    pair.b.handle_frame(frame, NOW);
    assert_eq!(pair.b.receive(members[0]), Err(EndpointError::WouldBlock));
    let none = pair.b.join_group(members[0], ip("192.0.2.9"));
    assert_eq!(none, Err(EndpointError::NoAddress));
}

#[test]
fn datagrams_wait_for_the_way_and_the_oldest_makes_room() {
    let mut stack = quiet(A, 1);
    let client = stack.open_endpoint(Family::V4).unwrap();
    for n in 0..u8::try_from(limits::UNROUTED).unwrap() + 3 {
        stack
            .send_to(client, Some(at("192.0.2.2:53")), &[n], NOW)
            .unwrap();
    }
    assert_eq!(stack.dropped(HostDrop::UdpUnrouted), 3);
    let mut b = quiet(B, 2);
    for question in frames(&mut stack) {
        b.handle_frame(&question, NOW);
    }
    for answer in frames(&mut b) {
        stack.handle_frame(&answer, NOW);
    }
    stack.handle_timeout(NOW);
    let sent = frames(&mut stack);
    let payloads: Vec<_> = sent
        .iter()
        .filter(|it| it[23] == 17)
        .map(|it| it[42])
        .collect();
    let expected: Vec<_> = (3..).take(limits::UNROUTED).collect();
    assert_eq!(payloads, expected);

    let lonely = stack.open_endpoint(Family::V4).unwrap();
    stack
        .send_to(lonely, Some(at("192.0.2.99:53")), b"x", NOW)
        .unwrap();
    let sent = run(
        &mut stack,
        NOW + limits::UNROUTED_LIFE + Duration::from_secs(1),
    );
    assert!(
        sent.iter().all(|(_, frame)| frame[12..14] == [8, 6]),
        "questions alone"
    );
    assert_eq!(stack.dropped(HostDrop::UdpUnrouted), 4);
}
