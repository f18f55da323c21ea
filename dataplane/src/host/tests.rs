//! Stacks on a virtual clock: alone, and two wired back to back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_wire::{
    Checksum, EtherType, Ipv4View,
    arp::ArpPacket,
    ether, icmp, ipv4, ipv6,
    nd::{self, NdMessage},
    parse::{L3, parse_frame},
};
use proptest::prelude::*;

use super::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const START: Instant = Instant(1_000_000_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn config(mac: MacAddr, host: u8) -> HostConfig {
    HostConfig {
        mac,
        addresses: vec![
            (ip(&format!("192.0.2.{host}")), 24),
            (ip(&format!("2001:db8::{host}")), 64),
        ],
        routes: vec![
            (ip("0.0.0.0"), 0, ip("192.0.2.2")),
            (ip("::"), 0, ip("2001:db8::2")),
        ],
        mtu: 1500,
    }
}

/// A stack whose announcements are over.
fn quiet(mac: MacAddr, host: u8) -> HostStack {
    let mut stack = HostStack::new(config(mac, host), START);
    stack.handle_timeout(START + Duration::from_secs(2));
    assert_eq!(frames(&mut stack).len(), 6);
    assert_eq!(stack.poll_timeout(), None);
    stack
}

fn frames(stack: &mut HostStack) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| stack.poll_frame()).collect()
}

fn events(stack: &mut HostStack) -> Vec<IpAddr> {
    std::iter::from_fn(|| stack.poll_event())
        .map(|HostEvent::Neighbor { address }| address)
        .collect()
}

fn state(stack: &HostStack, address: &str) -> Option<NeighborState> {
    info(stack, address).map(|neighbor| neighbor.state)
}

fn info(stack: &HostStack, address: &str) -> Option<NeighborInfo> {
    let address = ip(address);
    stack.neighbors().find(|n| n.address == address)
}

/// From which address, from which MAC address and to which one `stack` sends to `destination`.
fn way(
    stack: &mut HostStack,
    destination: IpAddr,
    now: Instant,
) -> Option<(IpAddr, MacAddr, MacAddr)> {
    match stack.resolve(destination, now) {
        Resolution::Resolved {
            source,
            next_hop,
            mac,
        } => {
            assert_eq!(stack.next_hop(destination), Some(next_hop));
            assert_eq!(stack.neighbor(next_hop), Some(mac));
            Some((source, stack.mac(), mac))
        }
        Resolution::Pending { .. } | Resolution::NoRoute => None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `way` answers")]
fn via(source: &str, from: MacAddr, to: MacAddr) -> Option<(IpAddr, MacAddr, MacAddr)> {
    Some((ip(source), from, to))
}

/// Runs every timer up to `until`; returns what the stack sent, with times.
fn run(stack: &mut HostStack, until: Instant) -> Vec<(Instant, Vec<u8>)> {
    let mut sent = Vec::new();
    for _ in 0..10_000 {
        match stack.poll_timeout() {
            Some(at) if at <= until => {
                stack.handle_timeout(at);
                sent.extend(frames(stack).into_iter().map(|frame| (at, frame)));
            }
            _ => return sent,
        }
    }
    panic!("timers never rest");
}

/// Two stacks on a wire without delay that loses what `lose` says.
struct Wire {
    a: HostStack,
    b: HostStack,
    now: Instant,
    carried: usize,
}

impl Wire {
    fn new() -> Self {
        Self {
            a: HostStack::new(config(A, 1), START),
            b: HostStack::new(config(B, 2), START),
            now: START,
            carried: 0,
        }
    }

    fn settle(&mut self, mut lose: impl FnMut(&[u8]) -> bool) {
        loop {
            let (from_a, from_b) = (frames(&mut self.a), frames(&mut self.b));
            if from_a.is_empty() && from_b.is_empty() {
                return;
            }
            for (frames, to) in [(from_a, &mut self.b), (from_b, &mut self.a)] {
                for frame in frames.iter().filter(|frame| !lose(frame)) {
                    self.carried += 1;
                    to.handle_frame(frame, self.now);
                }
            }
            assert!(self.carried < 10_000, "the wire never rests");
        }
    }

    fn advance(&mut self, to: Instant, mut lose: impl FnMut(&[u8]) -> bool) {
        loop {
            self.settle(&mut lose);
            let due = [self.a.poll_timeout(), self.b.poll_timeout()];
            match due.into_iter().flatten().min() {
                Some(at) if at <= to => {
                    self.now = self.now.max(at);
                    self.a.handle_timeout(self.now);
                    self.b.handle_timeout(self.now);
                }
                _ => break,
            }
        }
        self.now = to;
    }
}

fn arp_request(mac: MacAddr, sender: &str, target: &str) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (ip(sender), ip(target)) else {
        unreachable!("both are IPv4");
    };
    message::arp(&ArpPacket::request(mac, sender, target))
}

fn echo_request(from: MacAddr, to: MacAddr, source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut frame;
    let body = b"\0\x01\0\x02payload!";
    let total = 4 + body.len();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame = ether::header(to, from, EtherType::IPV4).to_vec();
            frame.extend(ipv4::header(&ipv4::Ipv4Fields {
                source,
                destination,
                tos: 0,
                id: 1,
                dont_fragment: false,
                ttl: 3,
                protocol: 1,
                total_len: u16::try_from(20 + total).unwrap(),
            }));
            let mut message = vec![8, 0, 0, 0];
            message.extend(body);
            let sum = Checksum::of(&message).complement();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend(message);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame = ether::header(to, from, EtherType::IPV6).to_vec();
            let len = u16::try_from(total).unwrap();
            frame.extend(ipv6::header(&ipv6::Ipv6Fields {
                source,
                destination,
                traffic_class: 0,
                hop_limit: 3,
                next_header: 58,
                payload_len: len,
            }));
            let mut message = vec![128, 0, 0, 0];
            message.extend(body);
            let mut sum = Checksum::pseudo_v6(source, destination, 58, u32::from(len));
            sum.add(&message);
            message[2..4].copy_from_slice(&sum.complement().to_be_bytes());
            frame.extend(message);
        }
        _ => unreachable!("of one family"),
    }
    frame
}

#[test]
fn addresses_are_announced_twice() {
    let mut stack = HostStack::new(config(A, 1), START);
    let first = frames(&mut stack);
    assert_eq!(first.len(), 3);
    let arp = ArpPacket::parse(&first[0][14..]).unwrap();
    assert_eq!(
        (arp.sender, arp.target, arp.sender_mac),
        (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 1), A)
    );
    for (frame, address) in first[1..].iter().zip(["2001:db8::1", "fe80::ff:fe00:a"]) {
        let headers = parse_frame(frame, 86).unwrap();
        let NdMessage::Advertisement {
            target,
            target_mac,
            solicited: false,
            replace: true,
            ..
        } = NdMessage::parse(&headers, frame).unwrap()
        else {
            panic!("no announcement");
        };
        assert_eq!((IpAddr::V6(target), target_mac), (ip(address), Some(A)));
    }
    let again = run(&mut stack, START + Duration::from_hours(1));
    assert_eq!(again.len(), 3);
    assert!(
        again
            .iter()
            .all(|(at, _)| *at == START + Duration::from_secs(2))
    );
    assert_eq!(
        again
            .into_iter()
            .map(|(_, frame)| frame)
            .collect::<Vec<_>>(),
        first
    );
}

#[test]
fn two_that_start_at_once_resolve_within_one_exchange() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        assert!(matches!(
            wire.a.resolve(ip(of_b), START),
            Resolution::Pending { .. }
        ));
        assert!(matches!(
            wire.b.resolve(ip(of_a), START),
            Resolution::Pending { .. }
        ));
        wire.settle(|_| false);
        assert_eq!(way(&mut wire.a, ip(of_b), START), via(of_a, A, B));
        assert_eq!(way(&mut wire.b, ip(of_a), START), via(of_b, B, A));
        // Six announcements, two questions, two answers: and no event twice.
        assert_eq!(wire.carried, 10);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        assert_eq!(events(&mut wire.b), [ip(of_a)]);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        assert_eq!(info(&wire.a, of_b).unwrap().confirmed, Some(START));
    }
}

#[test]
fn who_asks_is_known_without_asking() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(state(&wire.b, of_a), Some(NeighborState::Stale));
        // Nobody resolved it: no event, no timer but the announcements'.
        assert!(events(&mut wire.b).is_empty());
        assert_eq!(way(&mut wire.b, ip(of_a), START), via(of_b, B, A));
        // In use now: probed after five seconds, by unicast, and usable meanwhile.
        wire.advance(START + Duration::from_secs(6), |_| false);
        assert_eq!(state(&wire.b, of_a), Some(NeighborState::Reachable));
        assert!(events(&mut wire.b).is_empty());
    }
}

#[test]
fn a_neighbor_in_use_is_kept_fresh_for_ever() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        let start = wire.carried;
        for second in 1..3_600 {
            wire.advance(START + Duration::from_secs(second), |frame| {
                frame[0] & 1 != 0
            });
            assert!(info(&wire.a, of_b).unwrap().mac.is_some());
        }
        assert!(events(&mut wire.a).is_empty());
        // A question and an answer each 35 s.
        assert_eq!(wire.carried - start, 2 * (3_599 / 35));
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
    }
}

#[test]
fn two_lost_questions_are_made_good() {
    for of_b in ["192.0.2.2", "2001:db8::2"] {
        let mut wire = Wire::new();
        wire.settle(|_| true);
        wire.a.resolve(ip(of_b), START);
        let mut lost = 0;
        wire.advance(START + Duration::from_millis(2_500), |_| {
            // The question, its repetition; then announcements are on their way as well.
            lost += 1;
            lost <= 2
        });
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
    }
}

#[test]
fn silence_fails_after_three_questions_and_is_asked_again_once_a_second() {
    for of_b in ["192.0.2.9", "2001:db8::9"] {
        let mut stack = quiet(A, 1);
        let t = START + Duration::from_secs(10);
        assert!(matches!(
            stack.resolve(ip(of_b), t),
            Resolution::Pending { .. }
        ));
        assert_eq!(frames(&mut stack).len(), 1);
        let sent = run(&mut stack, t + Duration::from_secs(5));
        let times: Vec<_> = sent.iter().map(|(at, _)| at.since(t).as_secs()).collect();
        assert_eq!(times, [1, 2]);
        assert_eq!(state(&stack, of_b), Some(NeighborState::Failed));
        assert!(events(&mut stack).is_empty());
        // Asked for a thousand times in two seconds: asked twice.
        let t = t + Duration::from_secs(20);
        let mut asked = 0;
        for n in 0..1_000 {
            let now = t + Duration::from_millis(2 * n);
            assert!(matches!(
                stack.resolve(ip(of_b), now),
                Resolution::Pending { .. }
            ));
            asked += frames(&mut stack).len() + run(&mut stack, now).len();
        }
        assert_eq!(asked, 2);
        // Forgotten in the end.
        run(&mut stack, t + Duration::from_mins(10));
        assert_eq!(state(&stack, of_b), None);
        assert_eq!(stack.poll_timeout(), None);
    }
}

#[test]
fn a_neighbor_that_goes_silent_is_usable_until_three_probes_failed() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        let mut probes = 0;
        let lose = |frame: &[u8]| {
            probes += usize::from(frame[..6] == B.0);
            true
        };
        wire.advance(START + Duration::from_millis(37_900), lose);
        assert_eq!(probes, 3);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Probing));
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
        assert!(events(&mut wire.a).is_empty());
        wire.advance(START + Duration::from_secs(38), |_| true);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        // And back with the next question.
        assert!(matches!(
            wire.a.resolve(ip(of_b), wire.now),
            Resolution::Pending { .. }
        ));
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        assert_eq!(way(&mut wire.a, ip(of_b), wire.now), via(of_a, A, B));
    }
}

#[test]
fn an_announced_change_of_a_neighbor_in_use_is_taken() {
    for (of_a, of_b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let mut wire = Wire::new();
        wire.a.resolve(ip(of_b), START);
        wire.settle(|_| false);
        events(&mut wire.a);
        wire.b.reconfigure(config(C, 2), START);
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(of_b)]);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Stale));
        assert_eq!(way(&mut wire.a, ip(of_b), START), via(of_a, A, C));
        wire.advance(START + Duration::from_secs(6), |_| false);
        assert_eq!(state(&wire.a, of_b), Some(NeighborState::Reachable));
        // Of one that nobody asked about, nothing is taken.
        assert_eq!(
            wire.b
                .neighbors()
                .filter(|n| n.state == NeighborState::Reachable)
                .count(),
            0
        );
    }
}

#[test]
fn announcements_of_strangers_are_ignored() {
    let mut a = quiet(A, 1);
    a.handle_frame(&arp_request(B, "192.0.2.2", "192.0.2.2"), START);
    a.handle_frame(&arp_request(B, "192.0.2.2", "192.0.2.3"), START);
    a.handle_frame(&message::announcement(B, ip("2001:db8::2")), START);
    assert_eq!(a.neighbors().count(), 0);
    assert_eq!(a.dropped(HostDrop::Unsolicited), 2);
    assert_eq!(a.dropped(HostDrop::NotForUs), 1);
    // An asker beyond the link is answered, and not remembered.
    a.handle_frame(&arp_request(B, "198.51.100.1", "192.0.2.1"), START);
    assert_eq!(frames(&mut a).len(), 1);
    assert_eq!(a.neighbors().count(), 0);
    let named: Vec<_> = a.drops().collect();
    assert_eq!(named, [("not-for-us", 1), ("unsolicited", 2)]);
}

#[test]
fn an_answer_that_does_not_replace_only_casts_doubt() {
    let mut wire = Wire::new();
    let of_b = "2001:db8::2";
    wire.a.resolve(ip(of_b), START);
    wire.settle(|_| false);
    events(&mut wire.a);
    // The override flag (0x20 of the flags) cleared, the checksum mended for it.
    let mut frame = message::announcement(C, ip(of_b));
    frame[58] = 0;
    frame[56..58].fill(0);
    let (source, all): (Ipv6Addr, Ipv6Addr) = (of_b.parse().unwrap(), nd::ALL_NODES);
    let mut sum = Checksum::pseudo_v6(source, all, 58, 32);
    sum.add(&frame[54..]);
    frame[56..58].copy_from_slice(&sum.complement().to_be_bytes());
    wire.a.handle_frame(&frame, START);
    assert_eq!(state(&wire.a, of_b), Some(NeighborState::Stale));
    assert_eq!(info(&wire.a, of_b).unwrap().mac, Some(B));
    assert!(events(&mut wire.a).is_empty());
}

#[test]
fn duplicate_detection_is_answered_and_conflicts_are_defended() {
    let mut a = quiet(A, 1);
    // RFC 5227: a probe has no sender address.
    a.handle_frame(&arp_request(C, "0.0.0.0", "192.0.2.1"), START);
    let reply = frames(&mut a);
    assert_eq!(ArpPacket::parse(&reply[0][14..]).unwrap().target_mac, C);
    // RFC 4862: nor has a solicitation; the answer goes to all nodes.
    let target = "fe80::ff:fe00:a".parse().unwrap();
    let ask = message::nd(|out| {
        let frame = nd::write_solicitation(C, Ipv6Addr::UNSPECIFIED, target, out);
        assert_ne!(frame, 0);
        frame
    });
    // Duplicate detection carries no option: cut it off and mend lengths and checksum.
    let mut ask = ask[..78].to_vec();
    ask[19] = 24;
    ask[56..58].fill(0);
    let group = nd::solicited_node(target);
    let mut sum = Checksum::pseudo_v6(Ipv6Addr::UNSPECIFIED, group, 58, 24);
    sum.add(&ask[54..]);
    ask[56..58].copy_from_slice(&sum.complement().to_be_bytes());
    a.handle_frame(&ask, START);
    assert_eq!(
        frames(&mut a),
        [message::announcement(A, IpAddr::V6(target))]
    );
    assert_eq!(a.neighbors().count(), 0);
    // Another that claims our address hears of us, not more than each 10 s.
    for second in 0..20 {
        let now = START + Duration::from_secs(second);
        a.handle_frame(&arp_request(C, "192.0.2.1", "192.0.2.1"), now);
        a.handle_frame(&message::announcement(C, ip("2001:db8::1")), now);
    }
    assert_eq!(frames(&mut a).len(), 2);
    assert_eq!(a.dropped(HostDrop::AddressConflict), 40);
}

#[test]
fn a_destination_behind_a_router_takes_the_routers_address() {
    let mut wire = Wire::new();
    for (destination, router, source) in [
        ("8.8.8.8", "192.0.2.2", "192.0.2.1"),
        ("2001:4860::8", "2001:db8::2", "2001:db8::1"),
    ] {
        assert_eq!(wire.a.next_hop(ip(destination)), Some(ip(router)));
        assert!(matches!(
            wire.a.resolve(ip(destination), START),
            Resolution::Pending { .. }
        ));
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(router)]);
        assert_eq!(way(&mut wire.a, ip(destination), START), via(source, A, B));
    }
    let mut lonely = HostStack::new(
        HostConfig {
            routes: vec![],
            ..config(A, 1)
        },
        START,
    );
    for destination in [
        "8.8.8.8",
        "2001:4860::8",
        "192.0.2.1",
        "192.0.2.255",
        "ff02::1",
    ] {
        assert_eq!(lonely.resolve(ip(destination), START), Resolution::NoRoute);
    }
    // A router of a family that we have no address of.
    let mut v6_only = config(A, 1);
    v6_only.addresses.remove(0);
    let mut v6_only = HostStack::new(v6_only, START);
    assert_eq!(v6_only.resolve(ip("8.8.8.8"), START), Resolution::NoRoute);
}

#[test]
fn reconfiguring_keeps_who_is_still_on_the_link() {
    let mut wire = Wire::new();
    for of_b in ["192.0.2.2", "2001:db8::2"] {
        wire.a.resolve(ip(of_b), START);
    }
    wire.settle(|_| false);
    assert_eq!(events(&mut wire.a).len(), 2);
    let mut changed = config(A, 1);
    changed.addresses[1] = (ip("2001:db8:7::1"), 64);
    changed.routes.pop();
    wire.a.reconfigure(changed.clone(), START);
    assert_eq!(events(&mut wire.a), [ip("2001:db8::2")]);
    assert_eq!(
        way(&mut wire.a, ip("192.0.2.2"), START),
        via("192.0.2.1", A, B)
    );
    assert_eq!(frames(&mut wire.a).len(), 3);
    // Nothing new to say, nothing said; a new hardware address changes every path.
    wire.a.reconfigure(changed.clone(), START);
    assert!(frames(&mut wire.a).is_empty());
    changed.mac = C;
    wire.a.reconfigure(changed, START);
    assert_eq!(events(&mut wire.a), [ip("192.0.2.2")]);
    assert_eq!(
        way(&mut wire.a, ip("192.0.2.2"), START),
        via("192.0.2.1", C, B)
    );
}

#[test]
fn echo_requests_to_us_are_answered() {
    let mut a = quiet(A, 1);
    for (source, destination) in [
        ("192.0.2.2", "192.0.2.1"),
        ("198.51.100.1", "192.0.2.1"),
        ("2001:db8::2", "2001:db8::1"),
        ("fe80::2", "fe80::ff:fe00:a"),
    ] {
        let request = echo_request(B, A, ip(source), ip(destination));
        let mut padded = request.clone();
        padded.resize(request.len() + 20, 0xee);
        a.handle_frame(&padded, START);
        let reply = a.poll_frame().unwrap();
        assert_eq!(reply.len(), request.len());
        assert_eq!((&reply[..6], &reply[6..12]), (&B.0[..], &A.0[..]));
        assert_eq!(reply[reply.len() - 12..], request[request.len() - 12..]);
        let headers = parse_frame(&reply, u32::try_from(reply.len()).unwrap()).unwrap();
        assert_eq!(headers.addresses(), Some((ip(destination), ip(source))));
        // Ours to check: a reply turned back is a request that must not be answered.
        assert_eq!(icmp::echo_reply_in_place(&mut reply[14..].to_vec()), None);
        match headers.l3 {
            L3::V4(header) => {
                assert!(header.checksum_ok && header.ttl == 64);
                assert!(Checksum::of(&reply[34..]).is_valid());
                assert_eq!(Ipv4View::new(&reply[14..]).unwrap().protocol(), 1);
            }
            L3::V6(header) => assert_eq!(header.hop_limit, 64),
            L3::Arp | L3::Other => panic!("not IP"),
        }
    }
    assert_eq!(a.drops().count(), 0);

    // Not to us, by group, broken, too long.
    let good = echo_request(B, A, ip("192.0.2.2"), ip("192.0.2.1"));
    a.handle_frame(&echo_request(B, A, ip("192.0.2.2"), ip("192.0.2.9")), START);
    a.handle_frame(&echo_request(B, C, ip("192.0.2.2"), ip("192.0.2.1")), START);
    a.handle_frame(
        &echo_request(B, MacAddr::BROADCAST, ip("192.0.2.2"), ip("192.0.2.1")),
        START,
    );
    assert_eq!(a.dropped(HostDrop::NotForUs), 3);
    let mut broken = good.clone();
    *broken.last_mut().unwrap() ^= 1;
    a.handle_frame(&broken, START);
    a.handle_frame(&echo_request(B, A, ip("224.0.0.1"), ip("192.0.2.1")), START);
    assert_eq!(a.dropped(HostDrop::EchoRefused), 2);
    a.reconfigure(
        HostConfig {
            mtu: 30,
            ..config(A, 1)
        },
        START,
    );
    a.handle_frame(&good, START);
    assert_eq!(a.dropped(HostDrop::EchoTooLong), 1);
    a.handle_frame(&echo_request(A, A, ip("192.0.2.2"), ip("192.0.2.1")), START);
    assert_eq!(a.dropped(HostDrop::Looped), 1);
    assert!(frames(&mut a).is_empty());
}

/// A ping waits for nothing here: no neighbor is asked for its answer, and no time has to pass.
#[test]
fn an_echo_request_is_answered_at_once_whatever_is_known_of_its_sender() {
    for (own, other) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        let (mut a, mut b) = (quiet(A, 1), quiet(B, 2));
        let request = echo_request(B, A, ip(other), ip(own));
        let mut seen = Vec::new();
        for seconds in 0..60 {
            let now = START + Duration::from_secs(seconds);
            a.handle_timeout(now);
            if [1, 10].contains(&seconds) {
                a.resolve(ip(other), now);
            }
            for question in frames(&mut a) {
                b.handle_frame(&question, now);
                // It is silent at first, then it answers, then nothing again.
                if seconds == 10 {
                    let answers = frames(&mut b);
                    answers.iter().for_each(|it| a.handle_frame(it, now));
                }
            }
            frames(&mut b);
            let before = (a.poll_timeout(), state(&a, other));
            a.handle_frame(&request, now);
            assert_eq!(frames(&mut a).len(), 1, "in {:?}", before.1);
            assert_eq!((a.poll_timeout(), state(&a, other)), before);
            if seen.last() != before.1.as_ref() {
                seen.extend(before.1);
            }
        }
        let all = [
            NeighborState::Incomplete,
            NeighborState::Failed,
            NeighborState::Reachable,
            NeighborState::Stale,
            NeighborState::Probing,
            NeighborState::Failed,
        ];
        assert_eq!(seen[seen.len() - all.len()..], all);
    }
}

#[test]
fn answers_are_limited_and_leave_room_for_questions() {
    let mut a = quiet(A, 1);
    let ask = arp_request(B, "192.0.2.2", "192.0.2.1");
    for _ in 0..5_000 {
        a.handle_frame(&ask, START + Duration::from_secs(5));
    }
    assert_eq!(a.dropped(HostDrop::RateLimited), 4_000);
    assert_eq!(a.dropped(HostDrop::OutputFull), 1_000 - 192);
    a.resolve(ip("192.0.2.9"), START + Duration::from_secs(5));
    assert_eq!(frames(&mut a).len(), 193);
    a.handle_frame(&ask, START + Duration::from_secs(6));
    assert_eq!(frames(&mut a).len(), 1);
}

#[test]
fn a_flood_evicts_nobody_in_use() {
    let mut wide = config(A, 1);
    wide.addresses[0] = (ip("10.0.0.1"), 8);
    wide.routes[0].2 = ip("10.0.0.2");
    let mut a = HostStack::new(wide, START);
    frames(&mut a);
    let t = |ms| START + Duration::from_millis(ms);
    // One in use, known; one router heard of.
    a.handle_frame(&arp_request(B, "10.0.0.3", "10.0.0.1"), START);
    assert_eq!(way(&mut a, ip("10.0.0.3"), START), via("10.0.0.1", A, B));
    a.handle_frame(&arp_request(C, "10.0.0.2", "10.0.0.1"), START);
    // Strangers ask for us.
    for n in 0..5_000_u64 {
        let host = Ipv4Addr::from_bits(0x0a01_0000 + u32::try_from(n).unwrap());
        a.handle_frame(&arp_request(C, &host.to_string(), "10.0.0.1"), t(2 * n));
        frames(&mut a);
    }
    assert_eq!(a.neighbors().count(), limits::HOST_NEIGHBORS);
    assert_eq!(info(&a, "10.0.0.3").unwrap().mac, Some(B));
    assert_eq!(info(&a, "10.0.0.2").unwrap().mac, Some(C));
    // We are made to ask for strangers that don't exist: beyond the table it is refused.
    for n in 0..5_000_u32 {
        let host = Ipv4Addr::from_bits(0x0a02_0000 + n);
        assert!(matches!(
            a.resolve(host.into(), t(10_000)),
            Resolution::Pending { .. }
        ));
    }
    assert_eq!(a.neighbors().count(), limits::HOST_NEIGHBORS);
    assert_eq!(a.dropped(HostDrop::NeighborsFull), 5_000 - 1_022);
    assert_eq!(
        way(&mut a, ip("10.0.0.3"), t(10_000)),
        via("10.0.0.1", A, B)
    );
    assert_eq!(way(&mut a, ip("8.8.8.8"), t(10_000)), via("10.0.0.1", A, C));
    // A router that is new to the table finds room all the same.
    let mut wide = config(A, 1);
    wide.addresses[0] = (ip("10.0.0.1"), 8);
    wide.routes[0].2 = ip("10.0.0.4");
    a.reconfigure(wide, t(10_000));
    frames(&mut a);
    assert!(matches!(
        a.resolve(ip("8.8.8.8"), t(10_000)),
        Resolution::Pending { .. }
    ));
    assert_eq!(frames(&mut a).len(), 1);
    assert!(info(&a, "10.0.0.4").is_some());
    assert!(events(&mut a).is_empty());
    // When they have failed, there is room again; all timers run, whatever the queue
    // holds at once.
    let sent = run(&mut a, t(14_000));
    assert!(sent.len() > 2 * 1_000, "{}", sent.len());
    assert!(matches!(
        a.resolve(ip("10.3.0.1"), t(14_000)),
        Resolution::Pending { .. }
    ));
    assert!(info(&a, "10.3.0.1").is_some());
    // The one in use was lost to its silence alone.
    assert_eq!(events(&mut a), [ip("10.0.0.3")]);
}

/// Frames that look right, with some bytes bent.
fn bent_frames() -> impl Strategy<Value = Vec<u8>> {
    let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap();
    let answer = nd_answer();
    let seeds = vec![
        arp_request(B, "192.0.2.2", "192.0.2.1"),
        arp_request(B, "192.0.2.2", "192.0.2.2"),
        message::nd(|out| nd::write_solicitation(B, v6("2001:db8::2"), v6("2001:db8::1"), out)),
        message::announcement(B, ip("2001:db8::2")),
        answer,
        echo_request(B, A, ip("192.0.2.2"), ip("192.0.2.1")),
        echo_request(B, A, ip("2001:db8::2"), ip("2001:db8::1")),
        Vec::new(),
    ];
    (
        proptest::sample::select(seeds),
        proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        any::<proptest::sample::Index>(),
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..100),
    )
        .prop_map(|(mut frame, bends, cut, whole, tail)| {
            for (at, value) in bends {
                if !frame.is_empty() {
                    let at = at.index(frame.len());
                    frame[at] = value;
                }
            }
            if !whole {
                frame.truncate(cut.index(frame.len() + 1));
            }
            frame.extend(tail);
            frame
        })
}

fn nd_answer() -> Vec<u8> {
    let (of_a, of_b): (Ipv6Addr, Ipv6Addr) = (
        "2001:db8::1".parse().unwrap(),
        "2001:db8::2".parse().unwrap(),
    );
    message::nd(|out| nd::write_advertisement(of_a, A, of_b, B, false, out))
}

proptest! {
    #[test]
    fn hostile_frames_move_nothing_beyond_its_bounds(
        input in proptest::collection::vec((bent_frames(), 0_u64..3_000), 0..40),
    ) {
        let mut a = HostStack::new(config(A, 1), START);
        let mut now = START;
        for (frame, pause) in input {
            a.handle_frame(&frame, now);
            a.resolve(ip("192.0.2.2"), now);
            a.resolve(ip("2001:db8::2"), now);
            now = now + Duration::from_millis(pause);
            a.handle_timeout(now);
            prop_assert!(a.poll_timeout().is_none_or(|at| at > now));
            for frame in frames(&mut a) {
                // All that we send is well-formed, from us, and not to ourselves.
                let headers = parse_frame(&frame, u32::try_from(frame.len()).unwrap()).unwrap();
                prop_assert_eq!(headers.ether.source, A);
                prop_assert!(headers.ether.destination != A);
            }
            for neighbor in a.neighbors() {
                prop_assert!(neighbor.mac.is_none_or(|mac| mac.is_unicast() && mac != A));
                prop_assert!(a.routes.is_neighbor(neighbor.address));
            }
        }
    }

    #[test]
    fn any_bytes_do_no_harm(frame in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut a = quiet(A, 1);
        a.handle_frame(&frame, START);
        prop_assert!(a.neighbors().count() <= 1);
        prop_assert!(frames(&mut a).len() <= 1);
    }
}
