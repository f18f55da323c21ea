//! Stacks on a virtual clock: alone, and two wired back to back.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use culvert_wire::{
    Checksum, EtherType, Ipv4View,
    arp::ArpPacket,
    ether, icmp, ipv4, ipv6,
    nd::{self, NdMessage},
    parse::{L3, parse_frame},
};
use proptest::prelude::*;

use super::*;

mod errors;
mod fragments;
mod groups;
mod input;
mod learn;
mod liveness;
mod names;
mod neighbors;
mod own;
mod tcp;
mod udp;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const C: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xc]);
const START: Instant = Instant(1_000_000_000_000);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn default_route(to: &str, via: &str) -> HostRoute {
    HostRoute {
        to: ip(to),
        len: 0,
        via: ip(via),
        metric: 0,
        source: None,
    }
}

fn config(mac: MacAddr, host: u8) -> HostConfig {
    HostConfig {
        mac,
        addresses: vec![
            (ip(&format!("192.0.2.{host}")), 24),
            (ip(&format!("2001:db8::{host}")), 64),
        ],
        routes: vec![
            default_route("0.0.0.0", "192.0.2.2"),
            default_route("::", "2001:db8::2"),
        ],
        neighbors: vec![],
        mtu: 1500,
    }
}

/// A stack that is known to have its addresses.
fn begun(config: HostConfig) -> HostStack {
    HostStack::begin(config, RandomState::new(), |_| true, START)
}

/// A stack whose announcements are over.
fn quiet(mac: MacAddr, host: u8) -> HostStack {
    let mut stack = begun(config(mac, host));
    stack.handle_timeout(START + Duration::from_secs(2));
    assert_eq!(frames(&mut stack).len(), 6);
    assert_eq!(stack.poll_timeout(), None);
    stack
}

/// What the stack sends, without its reports of groups.
fn frames(stack: &mut HostStack) -> Vec<Vec<u8>> {
    let mut frames = all_frames(stack);
    frames.retain(|frame| !frame.starts_with(&[0x33, 0x33, 0, 0, 0, 0x16]));
    frames
}

fn all_frames(stack: &mut HostStack) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| stack.poll_frame()).collect()
}

fn events(stack: &mut HostStack) -> Vec<IpAddr> {
    std::iter::from_fn(|| stack.poll_event())
        .filter_map(|event| match event {
            HostEvent::Neighbor { address } => Some(address),
            HostEvent::Own { .. } => None,
        })
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
            assert_eq!(stack.routes.next_hop(destination), Some(next_hop));
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
            a: begun(config(A, 1)),
            b: begun(config(B, 2)),
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

fn arp_reply(mac: MacAddr, sender: &str, to: MacAddr, target: &str) -> Vec<u8> {
    let (IpAddr::V4(sender), IpAddr::V4(target)) = (ip(sender), ip(target)) else {
        unreachable!("both are IPv4");
    };
    message::arp(&ArpPacket::request(to, target, sender).reply(mac))
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
    let mut stack = begun(config(A, 1));
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
fn a_destination_behind_a_router_takes_the_routers_address() {
    let mut wire = Wire::new();
    for (destination, router, source) in [
        ("8.8.8.8", "192.0.2.2", "192.0.2.1"),
        ("2001:4860::8", "2001:db8::2", "2001:db8::1"),
    ] {
        assert_eq!(wire.a.routes.next_hop(ip(destination)), Some(ip(router)));
        assert!(matches!(
            wire.a.resolve(ip(destination), START),
            Resolution::Pending { .. }
        ));
        wire.settle(|_| false);
        assert_eq!(events(&mut wire.a), [ip(router)]);
        assert_eq!(way(&mut wire.a, ip(destination), START), via(source, A, B));
    }
    let mut lonely = begun(HostConfig {
        routes: vec![],
        ..config(A, 1)
    });
    for destination in ["8.8.8.8", "2001:4860::8", "192.0.2.255", "ff02::1"] {
        assert_eq!(lonely.resolve(ip(destination), START), Resolution::NoRoute);
    }
    // A router of a family that we have no address of.
    let mut v6_only = config(A, 1);
    v6_only.addresses.remove(0);
    let mut v6_only = begun(v6_only);
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
    assert_eq!(
        frames(&mut wire.a),
        [message::probe(A, ip("2001:db8:7::1"))]
    );
    // Nothing new to say, nothing said; a new hardware address changes every path.
    wire.a.reconfigure(changed.clone(), START);
    assert!(frames(&mut wire.a).is_empty());
    changed.mac = C;
    wire.a.reconfigure(changed, START);
    assert_eq!(
        frames(&mut wire.a),
        [
            message::announcement(C, ip("192.0.2.1")),
            message::probe(C, ip("2001:db8:7::1")),
            message::probe(C, link_local(C).into()),
        ]
    );
    assert_eq!(events(&mut wire.a), [ip("192.0.2.2")]);
    assert_eq!(
        way(&mut wire.a, ip("192.0.2.2"), START),
        via("192.0.2.1", C, B)
    );
}
