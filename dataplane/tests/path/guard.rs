//! What a strict port may send: nothing that a receiver would take for another's.

use culvert_dataplane::shared::{drops::DropReason, limits};
use culvert_wire::MacAddr;

use crate::{
    local::{PLAIN, arp, neighbor, who_has},
    packets::ip,
    support::{GATEWAY, GUEST, Options, Site, frame},
};

fn site() -> Site {
    Site::new(Options::default())
}

/// Guest 0 sends, and the workers do what is to do.
fn offer(site: &mut Site, bytes: &[u8]) {
    site.offer(0, &PLAIN, bytes);
    site.settle();
}

#[test]
fn a_port_without_addresses_owns_none() {
    let mut site = site();
    site.change_attachment(0, |port| port.addresses.clear());
    for bytes in [
        frame(GUEST[0], GATEWAY, &ip("10.0.0.2", "10.1.0.2").echo(b"x")),
        frame(GUEST[0], GUEST[1], &ip("10.0.0.3", "10.0.0.3").echo(b"x")),
        frame(GUEST[0], GATEWAY, &ip("fd00::2", "fd00:1::2").echo(b"x")),
    ] {
        offer(&mut site, &bytes);
    }
    for bytes in [
        who_has("10.0.0.2", "10.0.0.1"),
        arp(GUEST[1], 2, (GUEST[0], "10.0.0.1"), (GUEST[1], "10.0.0.3")),
        neighbor(136, "fd00::2", "fd00::2", Some(GUEST[0])),
        neighbor(135, "fd00::2", "fd00::1", Some(GUEST[0])),
    ] {
        offer(&mut site, &bytes);
    }
    site.port_drops(
        0,
        &[
            (DropReason::GuardAddress, 3),
            (DropReason::GuardNeighbor, 4),
        ],
    );
    assert!(site.sealed().is_empty());
    assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
}

/// The same bytes with `inserted` ahead of the EtherType.
fn tagged(bytes: &[u8], inserted: &[u8]) -> Vec<u8> {
    [&bytes[..12], inserted, &bytes[12..]].concat()
}

/// The same bytes behind a length and, with a SNAP header, their EtherType.
fn snapped(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len() - 14 + 8).unwrap().to_be_bytes();
    let llc = [&len[..], &[0xaa, 0xaa, 3, 0, 0, 0]].concat();
    tagged(bytes, &llc)
}

/// An IPv6 frame with `chain` between its IP header and what follows, whose protocol stands at the chain's first byte.
fn chained(bytes: &[u8], first: u8, chain: &[u8]) -> Vec<u8> {
    let mut frame = [&bytes[..54], chain, &bytes[54..]].concat();
    let len = u16::try_from(frame.len() - 54).unwrap();
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    frame[20] = first;
    frame
}

/// Destination options of `len` bytes, in front of `protocol`.
fn options(protocol: u8, len: usize) -> Vec<u8> {
    let mut options = vec![protocol, u8::try_from(len / 8 - 1).unwrap()];
    options.resize(len, 0);
    options
}

#[test]
fn what_cannot_be_read_in_full_is_not_sent() {
    let own = [
        frame(GUEST[0], GUEST[1], &ip("10.0.0.2", "10.0.0.3").echo(b"x")),
        who_has("10.0.0.2", "10.0.0.2"),
        neighbor(136, "fd00::2", "fd00::2", Some(GUEST[0])),
    ];
    let advertisement = &own[2];
    let mut cases = Vec::new();
    for bytes in &own {
        for tag in [[0x81, 0], [0x88, 0xa8], [0x91, 0]] {
            cases.push((tagged(bytes, &[tag[0], tag[1], 0, 0]), DropReason::GuardTag));
        }
        cases.push((snapped(bytes), DropReason::GuardLlc));
    }
    let many = |count: usize| [options(60, 8).repeat(count - 1), options(58, 8)].concat();
    for chain in [many(8), many(9), options(58, 256), options(58, 208)] {
        cases.push((chained(advertisement, 60, &chain), DropReason::GuardHeaders));
    }
    for chain in [
        // Whole as it is, and a first fragment of several; behind options, too.
        vec![58, 0, 0, 0, 0, 0, 0, 1],
        vec![58, 0, 0, 1, 0, 0, 0, 1],
        [&[60, 0, 0, 1, 0, 0, 0, 1], &options(58, 8)[..]].concat(),
        [&[44, 0, 0, 0, 0, 0, 0, 1], &[58, 0, 0, 9, 0, 0, 0, 1][..]].concat(),
    ] {
        cases.push((
            chained(advertisement, 44, &chain),
            DropReason::GuardFragment,
        ));
    }
    let empty = ip("fd00::2", "fd00::3").with(44, &[6, 0, 0, 1, 0, 0, 0, 1, 0, 5, 0, 6]);
    cases.push((frame(GUEST[0], GUEST[1], &empty), DropReason::GuardFragment));
    let mut short = ip("10.0.0.2", "10.0.0.3").with(17, &[0; 7]);
    short[6] = 0x20;
    cases.push((frame(GUEST[0], GUEST[1], &short), DropReason::GuardFragment));
    for (bytes, reason) in cases {
        let mut site = site();
        offer(&mut site, &bytes);
        site.port_drops(0, &[(reason, 1)]);
        assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
    }
    // What can be read passes: chains, fragments.
    let mut site = site();
    let udp = ip("fd00::2", "fd00::3").udp((5, 6), &[1; 24], false);
    let whole = frame(GUEST[0], GUEST[1], &udp);
    for (bytes, first, chain) in [
        (
            &whole,
            60,
            [options(60, 8).repeat(3), options(17, 16)].concat(),
        ),
        (&whole, 44, vec![17, 0, 0, 1, 0, 0, 0, 1]),
        (&whole, 44, vec![17, 0, 0, 8, 0, 0, 0, 1]),
        (advertisement, 60, many(7)),
    ] {
        let bytes = chained(bytes, first, &chain);
        offer(&mut site, &bytes);
        assert_eq!(site.frame(1).1, bytes);
    }
    site.no_drops();
}

#[test]
fn no_other_link_layer_address_hides_in_the_options() {
    let mut site = site();
    for mac in [GUEST[1], GATEWAY, MacAddr::BROADCAST] {
        for kind in [1, 2] {
            let good = neighbor(136, "fd00::2", "fd00::2", Some(GUEST[0]));
            let mut l4 = good[54..].to_vec();
            l4[2..4].fill(0);
            l4.extend([kind, 1]);
            l4.extend(mac.0);
            let bytes = frame(
                GUEST[0],
                MacAddr([0x33, 0x33, 0, 0, 0, 1]),
                &ip("fd00::2", "ff02::1").hops(255).icmp6(l4),
            );
            offer(&mut site, &bytes);
        }
    }
    // A router's word is no guest's.
    for kind in [134, 137] {
        let mut l4 = vec![0; 40];
        l4[0] = kind;
        let packet = ip("fe80::ff:fe00:100", "ff02::1").hops(255).icmp6(l4);
        offer(
            &mut site,
            &frame(GUEST[0], MacAddr([0x33, 0x33, 0, 0, 0, 1]), &packet),
        );
    }
    assert!(site.frames(1).is_empty());
    site.port_drops(
        0,
        &[(DropReason::GuardNeighbor, 6), (DropReason::GuardRouter, 2)],
    );
}

/// Guest `n` says something to the other from `source`; whether it was heard.
fn says(site: &mut Site, n: usize, source: &str) -> bool {
    let other = 1 - n;
    let packet = ip(source, "fe80::99").echo(b"x");
    site.offer(n, &PLAIN, &frame(GUEST[n], GUEST[other], &packet));
    site.settle();
    !site.frames(other).is_empty()
}

/// Waits until a port's next claim is due.
fn until_due() {
    std::thread::sleep(2 * limits::LINK_LOCAL_CLAIM_PERIOD);
}

#[test]
fn a_link_local_address_is_one_ports() {
    let mut site = site();
    // Made of the MAC address: nobody else's, even before it was used.
    assert!(!says(&mut site, 1, "fe80::ff:fe00:100"));
    assert!(says(&mut site, 0, "fe80::ff:fe00:100"));
    assert!(!says(&mut site, 0, "fe80::ff:fe00:101"));
    // The gateway's.
    for address in ["fe80::1", "fe80::", "fe80::ff:fe00:1"] {
        assert!(!says(&mut site, 0, address), "{address}");
    }
    // No address of RFC 4291.
    assert!(!says(&mut site, 0, "fe80:0:0:1::5"));
    // Whoever is first.
    assert!(says(&mut site, 0, "fe80::a:b:c:d"));
    until_due();
    assert!(!says(&mut site, 1, "fe80::a:b:c:d"));
    until_due();
    assert!(says(&mut site, 1, "fe80::e:f:0:1"));
    until_due();
    assert!(!says(&mut site, 0, "fe80::e:f:0:1"));
    assert!(says(&mut site, 0, "fe80::a:b:c:d"));
    // Another's, claimed with a neighbor's message.
    until_due();
    let claims = site.ports[0].drops.count(DropReason::GuardNeighbor);
    for bytes in [
        neighbor(136, "fe80::e:f:0:1", "fe80::e:f:0:1", Some(GUEST[0])),
        neighbor(136, "fd00::2", "fe80::e:f:0:1", Some(GUEST[0])),
        neighbor(136, "fd00::2", "fe80::1", Some(GUEST[0])),
        neighbor(135, "fe80::e:f:0:1", "fd00::3", Some(GUEST[0])),
    ] {
        offer(&mut site, &bytes);
        until_due();
    }
    assert!(site.frames(1).is_empty());
    assert_eq!(
        site.ports[0].drops.count(DropReason::GuardNeighbor),
        claims + 4
    );
}

#[test]
fn duplicate_detection_claims_what_nobody_has() {
    let mut site = site();
    let probe = neighbor(135, "::", "fe80::a:b:c:d", None);
    offer(&mut site, &probe);
    assert_eq!(site.frame(1).1, probe);
    assert!(site.frames(0).is_empty());
    assert!(!says(&mut site, 1, "fe80::a:b:c:d"));
    assert!(says(&mut site, 0, "fe80::a:b:c:d"));
    // The probe for another's is heard, so that its owner can answer.
    until_due();
    assert!(says(&mut site, 1, "fe80::e:f:0:1"));
    let probe = neighbor(135, "::", "fe80::e:f:0:1", None);
    offer(&mut site, &probe);
    assert_eq!(site.frame(1).1, probe);
    assert!(!says(&mut site, 0, "fe80::e:f:0:1"));
    // A report of groups, from nobody yet; but nothing else comes from nobody.
    let report = [&[143, 0, 0, 0, 0, 0, 0, 0][..]].concat();
    let report = ip("::", "ff02::16").hops(1).icmp6(report);
    let report = chained(
        &frame(GUEST[0], MacAddr([0x33, 0x33, 0, 0, 0, 0x16]), &report),
        0,
        &[58, 0, 5, 2, 0, 0, 1, 0],
    );
    offer(&mut site, &report);
    assert_eq!(site.frame(1).1, report);
    assert!(!says(&mut site, 0, "::"));
}

#[test]
fn duplicate_detection_of_several_addresses_at_once_claims_them_all() {
    let mut site = site();
    let address = |n: usize| format!("fe80::a:b:c:{n:x}");
    let probes: Vec<_> = (1..=2 * limits::LINK_LOCALS)
        .map(|n| neighbor(135, "::", &address(n), None))
        .collect();
    // One burst, and so one moment.
    for probe in &probes[..30] {
        site.offer(0, &PLAIN, probe);
    }
    assert!(site.workers[0].step());
    let heard: Vec<_> = site.frames(1).into_iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(heard, probes[..limits::LINK_LOCALS]);
    // What was not looked at was not heard, either: silence would be taken for a yes.
    site.port_drops(
        0,
        &[(DropReason::GuardNeighbor, 30 - limits::LINK_LOCALS as u64)],
    );
    for n in 1..=limits::LINK_LOCALS {
        until_due();
        assert!(!says(&mut site, 1, &address(n)), "{n}");
    }
}

#[test]
fn a_port_without_ipv6_addresses_has_no_ipv6() {
    let mut site = site();
    site.change_attachment(0, |port| port.addresses.retain(std::net::IpAddr::is_ipv4));
    assert!(!says(&mut site, 0, "fe80::ff:fe00:100"));
    assert!(!says(&mut site, 0, "fe80::a:b:c:d"));
    assert!(!says(&mut site, 0, "::"));
    offer(&mut site, &neighbor(135, "::", "fe80::ff:fe00:100", None));
    assert!(site.frames(1).is_empty());
}
