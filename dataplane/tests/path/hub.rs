//! From one peer to another: what a hub relays, and what it says when it can't.
//!
//! ```text
//!  peer 0 (10.1.0.0/16, fd00:1::/64) ── tunnel, MTU of the hub's ── peer 1 (10.8.0.0/16, fd08::/64)
//! ```

use std::{net::UdpSocket, os::fd::AsRawFd, time::Instant};

use culvert_dataplane::shared::drops::DropReason;

use crate::{
    packets::{Ip, Seen, ip, noise, read},
    support::{Far, Options, PATIENCE, Site, assert_drops},
};

fn pairs() -> [(Ip, &'static str); 2] {
    [
        (ip("10.1.0.2", "10.8.0.9"), "10.0.0.1"),
        (ip("fd00:1::2", "fd08::9"), "fd00::1"),
    ]
}

/// What the far end behind peer 0 is told: so many packets.
fn told(site: &mut Site, count: usize) -> Vec<Seen> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while seen.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} come", seen.len());
        seen.extend(site.far.receive().map(|(_, packet)| read(&packet)));
    }
    assert_eq!(site.far.receive(), None);
    seen
}

/// What is told about `packet`: type, code, and bytes 4 to 8.
fn assert_about(seen: &Seen, gateway: &str, packet: &[u8], message: ([u8; 2], [u8; 4])) {
    let sent = read(packet);
    assert_eq!(seen.source.to_string(), gateway);
    assert_eq!(seen.destination, sent.source);
    assert_eq!(seen.hop_limit, 64);
    assert_eq!(
        (&seen.l4[..2], &seen.l4[4..8]),
        (&message.0[..], &message.1[..])
    );
    let quoted = &seen.l4[8..];
    assert!(quoted.len() >= 48);
    assert_eq!(quoted, &packet[..quoted.len()]);
}

#[test]
fn a_packet_too_large_for_the_hub_is_answered_through_the_tunnel_that_it_came_by() {
    let mut site = Site::new(Options {
        mtu: 1300,
        ..Options::default()
    });
    let (second, _key) = site.second();
    for (n, (inner, gateway)) in (1..).zip(pairs()) {
        let large = inner.udp((5, 6), &noise(1350, 1), false);
        site.far.send_packets(std::slice::from_ref(&large));
        site.settle();
        let [seen] = &told(&mut site, 1)[..] else {
            panic!("one answer")
        };
        let [high, low] = 1300u16.to_be_bytes();
        let kind = match inner.source.is_ipv4() {
            true => [3, 4],
            false => [2, 0],
        };
        assert_about(seen, gateway, &large, (kind, [0, 0, high, low]));
        assert_drops(site.peers[1].drops.iter(), &[(DropReason::TooBig, n)]);
        // What fits passes.
        site.far.send_packets(&[inner.udp((5, 6), b"fits", false)]);
        site.settle();
        assert_eq!(read(&receive(&second)[0].1).payload(), b"fits");
    }
    site.peer_drops(&[]);
}

/// The next messages at a far end of its own.
fn receive(far: &Far) -> Vec<(u64, Vec<u8>)> {
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(len) = far.socket.recv(&mut buffer) {
            return vec![far.open(&buffer[..len])];
        }
        assert!(Instant::now() < deadline, "a datagram comes");
    }
}

#[test]
fn a_peers_packet_that_can_not_go_on_is_answered() {
    let mut site = Site::new(Options::default());
    for (inner, gateway) in pairs() {
        let v4 = inner.source.is_ipv4();
        let to = |destination: &str| Ip {
            destination: destination.parse().unwrap(),
            ..inner
        };
        let [guest, nobody] = match v4 {
            true => ["10.0.0.2", "192.0.2.1"],
            false => ["fd00:0::2", "2001:db8::1"],
        };
        let [expired, unreachable] = match v4 {
            true => [[11, 0], [3, 1]],
            false => [[3, 0], [1, 3]],
        };
        for (packet, kind) in [
            (to(guest).hops(1).echo(&noise(40, 1)), expired),
            (inner.hops(1).echo(&noise(40, 1)), expired),
            (to(nobody).echo(&noise(40, 1)), unreachable),
            // Peer 1 has no endpoint.
            (inner.echo(&noise(40, 1)), unreachable),
        ] {
            site.far.send_packets(std::slice::from_ref(&packet));
            site.settle();
            let seen = told(&mut site, 1);
            assert_about(&seen[0], gateway, &packet, (kind, [0; 4]));
        }
    }
    site.peer_drops(&[(DropReason::TtlExceeded, 4), (DropReason::NoRoute, 2)]);
    assert_drops(site.peers[1].drops.iter(), &[(DropReason::NoEndpoint, 2)]);
    assert!(site.frames(0).is_empty());
}

#[test]
fn there_is_no_error_about_an_error_nor_about_a_source_that_is_not_the_peers() {
    let mut site = Site::new(Options::default());
    for (inner, _) in pairs() {
        let quoted = noise(60, 3);
        let mut error = vec![
            if inner.source.is_ipv4() { 3 } else { 1 },
            0,
            0,
            0,
            0,
            0,
            0,
            0,
        ];
        error.extend(&quoted);
        let protocol = if inner.source.is_ipv4() { 1 } else { 58 };
        site.far.send_packets(&[inner.with(protocol, &error)]);
        site.far
            .send_packets(&[inner.hops(1).with(protocol, &error)]);
    }
    site.far
        .send_packets(&[ip("192.0.2.7", "10.0.0.2").hops(1).echo(b"x")]);
    site.settle();
    assert_eq!(told(&mut site, 0), []);
    site.peer_drops(&[
        (DropReason::TtlExceeded, 2),
        (DropReason::SourceNotAllowed, 1),
    ]);
    assert_drops(site.peers[1].drops.iter(), &[(DropReason::NoEndpoint, 2)]);
}

#[test]
fn errors_for_peers_are_limited() {
    let mut site = Site::new(Options::default());
    let begun = Instant::now();
    let packet = ip("10.1.0.2", "10.0.0.2").hops(1).echo(b"x");
    let (rounds, each) = (50, 60);
    let mut errors = 0;
    for _ in 0..rounds {
        site.far.send_packets(&vec![packet.clone(); each]);
        site.settle();
        errors += site.sealed().len() as u64;
    }
    let sent = (rounds * each) as u64;
    let limited = site.peers[0].drops.count(DropReason::IcmpLimited);
    assert_eq!(errors + limited, sent);
    let earned = u64::try_from(begun.elapsed().as_millis()).unwrap() + 1;
    assert!((1_000..=1_000 + earned).contains(&errors));
    assert_eq!(site.peers[0].drops.count(DropReason::TtlExceeded), sent);
}

/// Asks the kernel to give what was sent as one message as one.
#[allow(unsafe_code, reason = "rustix has no such option")]
fn join(socket: &UdpSocket) {
    const UDP_GRO: libc::c_int = 104;
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, which is read during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_GRO,
            (&raw const on).cast(),
            4,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn a_relayed_burst_leaves_together() {
    let mut site = Site::new(Options::default());
    let (mut second, _key) = site.second();
    join(&second.socket);
    let count = 40;
    let inner = ip("10.1.0.2", "10.8.0.9");
    let packets: Vec<_> = (0..count)
        .map(|n: u8| inner.udp((5, 6), &[n; 800], false))
        .collect();
    site.far.send_packets(&packets);
    site.settle();
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + PATIENCE;
    let mut received = 0;
    let mut messages = 0;
    while received < usize::from(count) {
        assert!(Instant::now() < deadline, "all of them come");
        let Ok(len) = second.socket.recv(&mut buffer) else {
            continue;
        };
        messages += 1;
        let sealed = 16 + (20 + 8 + 800usize).next_multiple_of(16) + 16;
        for datagram in buffer[..len].chunks(sealed) {
            let (counter, plaintext) = second.open(datagram);
            assert_eq!(counter, received as u64);
            let seen = read(&plaintext);
            assert_eq!(seen.payload(), [u8::try_from(received).unwrap(); 800]);
            assert_eq!(seen.hop_limit, 63);
            received += 1;
        }
    }
    second.received += received as u64;
    // One burst may have been cut in two by when it was looked at.
    assert!(messages <= 4, "{messages} messages");
    site.no_drops();
}
