//! What stays on its link or host, whatever the routes say.

use culvert_dataplane::shared::{
    drops::DropReason,
    ids::{AttachmentIndex, PeerIndex},
    snapshot::{Guard, NextHop, Snapshot},
};
use culvert_wire::fib::Fib;

use crate::{
    local::{PLAIN, neighbor, who_has},
    packets::{ip, read},
    support::{
        GATEWAY, GUEST, Options, Site, frame, network_of, network_routes, packet, peer_prefixes,
        prefix, tunnel_of,
    },
};

/// Addresses that no router carries.
const STAY: [&str; 10] = [
    "0.0.0.0",
    "127.0.0.1",
    "169.254.169.254",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.1.0.2",
    "fe80::2",
    "febf::2",
];

/// A site whose default routes lead to `hop`, and whose peer 0 may send from anywhere.
fn default_route(guard: Guard, hop: NextHop) -> Site {
    let mut site = Site::new(Options {
        guard,
        ..Options::default()
    });
    let everything = ["0.0.0.0", "::"].map(|text| prefix(text, 0));
    site.change(|snapshot: &mut Snapshot| {
        let network = network_of(snapshot);
        let routes = everything.map(|prefix| (prefix, hop)).into_iter();
        network.routes = Fib::build(routes.chain(network_routes(0)));
        let allowed = everything.map(|prefix| (prefix, PeerIndex(0))).into_iter();
        let tunnel = tunnel_of(snapshot);
        tunnel.allowed = Fib::build(allowed.chain(peer_prefixes(0)));
    });
    site.settle();
    site
}

fn offer(site: &mut Site, bytes: &[u8]) {
    site.offer(0, &PLAIN, bytes);
    site.settle();
}

#[test]
fn the_gateway_claims_nothing_beyond_the_networks_prefixes() {
    for hop in [
        NextHop::Peer(PeerIndex(0)),
        NextHop::Guest(AttachmentIndex(1)),
        NextHop::Guest(AttachmentIndex(0)),
    ] {
        let mut site = default_route(Guard::Strict, hop);
        let asked = [
            "169.254.3.4",
            "127.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "8.8.8.8",
            "224.0.0.1",
        ];
        for target in asked {
            offer(&mut site, &who_has("10.0.0.2", target));
        }
        offer(
            &mut site,
            &neighbor(135, "fd00::2", "2001:db8::1", Some(GUEST[0])),
        );
        assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
        site.port_drops(0, &[(DropReason::NeighborUnknown, 7)]);
        // Duplicate detection is heard by the others, and nobody objects.
        for target in ["fe80::ff:fe00:100", "fe80::a:b:c:d"] {
            let probe = neighbor(135, "::", target, None);
            offer(&mut site, &probe);
            assert!(site.frames(0).is_empty());
            assert_eq!(site.frame(1).1, probe);
        }
        offer(&mut site, &neighbor(135, "::", "fd00::2", None));
        assert!(site.frames(0).is_empty());
        // What is proxied on the link still is.
        offer(&mut site, &who_has("10.0.0.2", "10.0.0.200"));
        assert_eq!(site.frame(0).1[22..28], GATEWAY.0);
        offer(
            &mut site,
            &neighbor(135, "fd00::2", "fd00::200", Some(GUEST[0])),
        );
        assert_eq!(site.frame(0).1[6..12], GATEWAY.0);
    }
}

#[test]
fn what_stays_on_its_link_does_not_enter_the_tunnel() {
    for address in STAY {
        let mut site = default_route(Guard::Mac, NextHop::Peer(PeerIndex(0)));
        let (own, other) = match address.contains(':') {
            true => ("fd00::2", "2001:db8::1"),
            false => ("10.0.0.2", "192.0.2.1"),
        };
        for (source, destination) in [(address, other), (own, address)] {
            let bytes = frame(
                GUEST[0],
                GATEWAY,
                &ip(source, destination).udp((5, 6), b"x", false),
            );
            offer(&mut site, &bytes);
        }
        assert!(site.sealed().is_empty(), "{address}");
        site.port_drops(0, &[(DropReason::AddressUnroutable, 2)]);
        // Who asks for what can't be reached is told, unless it asked everyone.
        let told = site.frames(0);
        assert_eq!(told.len(), usize::from(address != "255.255.255.255"));
        for (_, bytes) in told {
            let seen = read(packet(&bytes, GATEWAY, GUEST[0]));
            assert!([1, 3].contains(&seen.l4[0]));
        }
        site.send_plain(0, &ip(own, other).udp((5, 6), b"x", false));
        assert_eq!(site.sealed().len(), 1);
    }
}

#[test]
fn what_stays_on_its_link_does_not_come_out_of_the_tunnel() {
    for address in STAY.into_iter().chain(["224.0.0.1", "ff02::1", "ff0e::1"]) {
        let mut site = default_route(Guard::Strict, NextHop::Peer(PeerIndex(0)));
        let (guest, gateway, other) = match address.contains(':') {
            true => ("fd00::2", "fd00::1", "2001:db8::1"),
            false => ("10.0.0.2", "10.0.0.1", "192.0.2.1"),
        };
        let packets: Vec<_> = [
            (address, guest),
            (address, gateway),
            (address, other),
            (other, address),
        ]
        .map(|(source, destination)| ip(source, destination).echo(b"x"))
        .into();
        site.far.send_packets(&packets);
        site.settle();
        assert!(site.sealed().is_empty(), "{address} bounces");
        assert!(site.frames(0).is_empty(), "{address}");
        site.peer_drops(&[(DropReason::AddressUnroutable, 4)]);
        site.far.send_packets(&[ip(other, guest).echo(b"x")]);
        site.settle();
        assert_eq!(site.frames(0).len(), 1);
    }
}

#[test]
fn a_peer_with_a_wide_prefix_is_neither_a_guest_nor_the_gateway() {
    for (guest, other_guest, gateway, proxied, unused, elsewhere) in [
        (
            "10.0.0.2",
            "10.0.0.3",
            "10.0.0.1",
            "10.0.0.200",
            "10.0.0.77",
            "192.0.2.9",
        ),
        (
            "fd00::2",
            "fd00::3",
            "fd00::1",
            "fd00::200",
            "fd00::77",
            "2001:db8::9",
        ),
    ] {
        let mut site = default_route(Guard::Strict, NextHop::Peer(PeerIndex(0)));
        let everything = ["0.0.0.0", "::"].map(|text| (prefix(text, 0), PeerIndex(0)));
        site.change(|snapshot: &mut Snapshot| {
            let tunnel = tunnel_of(snapshot);
            tunnel.allowed = Fib::build(everything);
        });
        site.settle();
        let mut false_ones = Vec::new();
        for source in [guest, other_guest, gateway] {
            for to in [guest, gateway, elsewhere] {
                false_ones.push(ip(source, to).echo(b"x"));
            }
        }
        site.far.send_packets(&false_ones);
        site.settle();
        assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
        assert!(site.sealed().is_empty(), "nobody is told");
        site.peer_drops(&[(DropReason::SourceLocal, false_ones.len() as u64)]);
        // It has what was given to peers of the network's prefix, and of all else what nobody here has.
        for source in [proxied, unused, elsewhere] {
            site.far.send_packets(&[ip(source, guest).echo(b"x")]);
            site.settle();
            site.frame(0);
        }
    }
}
