//! What uplinks learn, beside what is configured: devices with nobody at the other end.

use std::net::IpAddr;

use culvert_dataplane::shared::ids::Scope;
use culvert_stack::{Learned, LearnedAddress, Lease, Route, Teacher, Terms, Unusable};
use culvert_wire::MacAddr;
use culvert_wireguard::{Instant, Keypair, Role};

use super::{
    awaited::overhear,
    compile::assert_compiled,
    uplink_changes::{file, led},
    *,
};
use crate::config::{Exception, UplinkDriver};

/// What a DHCP server lends: an address of a /24 and its router.
fn lent(address: [u8; 4]) -> Learned {
    let [a, b, c, _] = address;
    Learned {
        addresses: vec![LearnedAddress {
            address: address.into(),
            prefix_len: 24,
            teacher: Teacher::Dhcp,
        }],
        routes: vec![([0; 4].into(), 0, [a, b, c, 1].into())],
        ..Learned::default()
    }
}

impl Site {
    /// The uplink `w` has learned that; whether anything has changed.
    fn teaches(&mut self, told: Learned) -> bool {
        let slot = self.engine.uplinks.place(&name("w")).unwrap();
        self.engine
            .uplinks
            .get_mut(slot)
            .unwrap()
            .taught
            .teach(told);
        let any = self.engine.judge_learned(clock::now());
        self.engine.publish();
        self.engine.rebuild_paths(clock::now().monotonic);
        any
    }

    /// What readers are told of what `w` has learned.
    fn learned(&mut self) -> crate::state::Learned {
        let all = report(&mut self.engine).uplinks;
        let uplink = all.into_iter().find(|it| it.name == "w").unwrap();
        uplink.learned.unwrap()
    }

    /// Routes that `w` has learned and uses, by their prefixes.
    fn routes(&mut self) -> Vec<String> {
        let routes = self.learned().routes;
        routes.into_iter().map(|route| route.to).collect()
    }

    /// Those that the host's kernel would have.
    fn of_kernel(&self) -> Vec<Route> {
        let uplink = self.engine.uplinks.named(&name("w")).unwrap();
        uplink.taught.for_kernel().routes
    }

    /// The stack of `w`, as it is to be.
    fn host(&self) -> &crate::netstack::Host {
        let slot = self.engine.uplinks.place(&name("w")).unwrap();
        let scope = Scope::Uplink(UplinkIndex::from_slot(slot));
        self.engine.netstack.get(scope).unwrap()
    }

    /// Where the first peer is written from.
    fn source(&mut self) -> Option<IpAddr> {
        let (_, peer) = self.engine.peers.iter().next().unwrap();
        peer.cell.path().as_ref()?.source
    }

    /// Why an address that `w` has learned is not used.
    fn refusal(&mut self) -> Option<String> {
        self.learned().refused.pop()
    }
}

#[test]
fn what_is_learned_is_used_unless_it_overlaps_and_moves_paths() {
    let [a, b] = free_ports();
    let bare = ", device: net_null0, dhcp4: true";
    let plain = || led(file(&[("w", bare)], &[("a", "w", a)]), "198.51.100.9:9");
    let mut site = Site::start(plain());
    assert_eq!(site.source(), None, "no address yet");
    assert!(site.teaches(lent([192, 0, 2, 7])));
    assert_eq!(site.source(), Some([192, 0, 2, 7].into()));
    assert_compiled(&mut site);
    let snapshot = site.engine.snapshots.load_full();
    let own = &snapshot.uplink(UplinkIndex(0)).unwrap().addresses;
    assert!(own.contains(&[192, 0, 2, 7].into()));
    assert!(!site.teaches(lent([192, 0, 2, 7])), "nothing new");
    assert!(site.teaches(lent([192, 0, 2, 8])));
    assert_eq!(site.source(), Some([192, 0, 2, 8].into()));

    // Of a peer's, of another uplink's.
    assert!(site.teaches(lent([10, 105, 3, 4])));
    assert_eq!(site.source(), None);
    let refusal = site.refusal().unwrap();
    assert!(
        refusal.contains("10.105.0.0/16, which a peer of tunnel a"),
        "{refusal}"
    );
    assert!(site.teaches(lent([192, 0, 2, 8])));
    assert_eq!(
        (site.source(), site.refusal()),
        (Some([192, 0, 2, 8].into()), None)
    );
    let ring = ", device: net_ring0, addresses: [192.0.2.129/25]";
    let both = file(&[("w", bare), ("x", ring)], &[("a", "w", a), ("b", "x", b)]);
    site.apply(led(both, "198.51.100.9:9")).unwrap();
    let refusal = site.refusal().unwrap();
    assert!(refusal.contains("192.0.2.128/25 of uplink x"), "{refusal}");
    site.engine.rebuild_paths(clock::now().monotonic);
    assert_eq!(site.source(), None);
    site.apply(plain()).unwrap();
    site.engine.rebuild_paths(clock::now().monotonic);
    assert_eq!(
        (site.source(), site.refusal()),
        (Some([192, 0, 2, 8].into()), None)
    );
    // None of it is desired, and without the key none is used.
    assert!(site.engine.desired.file().uplinks[0].addresses.is_empty());
    assert!(site.teaches(Learned::default()));
    assert_eq!(site.source(), None);
}

const BARE: &str = ", device: net_null0, dhcp4: true";

fn net(text: &str, via: &str) -> Route {
    let (to, len) = text.split_once('/').unwrap();
    (
        to.parse().unwrap(),
        len.parse().unwrap(),
        via.parse().unwrap(),
    )
}

/// What a server lends that tells routes, too: its default route, and these.
fn with_routes(routes: &[(&str, &str)]) -> Learned {
    let mut told = lent([192, 0, 2, 7]);
    (told.routes).extend(routes.iter().map(|(to, via)| net(to, via)));
    told
}

#[test]
fn a_route_that_overlaps_is_refused_and_the_others_are_used() {
    let [a] = free_ports();
    let mut site = Site::start(file(&[("w", BARE)], &[("a", "w", a)]));
    let router = "192.0.2.2";
    assert!(site.teaches(with_routes(&[
        ("10.105.7.0/24", router),
        ("10.105.0.0/16", router),
        ("10.104.0.0/15", router),
        ("10.105.9.9/32", "0.0.0.0"),
        ("10.200.0.0/16", router),
        ("0.0.0.0/1", router),
    ])));
    assert_eq!(site.routes(), ["0.0.0.0/0", "10.200.0.0/16", "0.0.0.0/1"]);
    let learned = site.learned();
    let allowed = "10.105.0.0/16, which a peer of tunnel a is allowed";
    let refused = [
        format!("10.105.7.0/24 via 192.0.2.2: {allowed}"),
        format!("10.105.0.0/16 via 192.0.2.2: {allowed}"),
        format!("10.104.0.0/15 via 192.0.2.2: {allowed}"),
        format!("10.105.9.9/32: {allowed}"),
    ];
    assert_eq!(learned.routes_refused, refused);
    assert!(learned.refused.is_empty() && learned.addresses.len() == 1);
    // Neither the core nor the stack goes by them.
    let next_hop = |site: &Site, to: [u8; 4]| {
        let routes = culvert_stack::Routes::new(&site.host().config);
        let way = site.host().routes.way(to.into()).unwrap();
        assert_eq!(routes.way(to.into()), Some(way));
        way.next_hop.to_string()
    };
    assert_eq!(next_hop(&site, [10, 105, 7, 1]), "192.0.2.2", "as anything");
    assert!(site.teaches(with_routes(&[
        ("10.105.7.0/24", router),
        ("10.200.0.0/16", router)
    ])));
    assert_eq!(next_hop(&site, [10, 105, 7, 1]), "192.0.2.1");
    assert_eq!(next_hop(&site, [10, 200, 7, 1]), "192.0.2.2");
    assert!(!site.teaches(with_routes(&[
        ("10.105.7.0/24", router),
        ("10.200.0.0/16", router)
    ])));
    assert_compiled(&mut site);
}

#[test]
fn what_comes_later_has_a_learned_route_refused_and_gives_it_back_when_it_goes() {
    let [a] = free_ports();
    let plain = || file(&[("w", BARE)], &[("a", "w", a)]);
    let mut site = Site::start(plain());
    assert!(site.teaches(with_routes(&[("10.200.0.0/16", "192.0.2.2")])));
    let is_used = |site: &mut Site, wanted: bool| {
        assert_eq!(site.routes().contains(&"10.200.0.0/16".to_owned()), wanted);
        assert_eq!(site.learned().routes_refused.is_empty(), wanted);
        let way = site.host().routes.way([10, 200, 0, 1].into()).unwrap();
        let router = if wanted {
            [192, 0, 2, 2]
        } else {
            [192, 0, 2, 1]
        };
        assert_eq!(way.next_hop, IpAddr::from(router));
    };
    is_used(&mut site, true);
    // A peer's prefix, by the file.
    let mut wider = plain();
    let far = Arc::make_mut(&mut wider.tunnels[0].peers[0]);
    far.allowed_ips.push("10.200.9.0/24".parse().unwrap());
    site.apply(wider.clone()).unwrap();
    is_used(&mut site, false);
    // One that is switched off has none.
    Arc::make_mut(&mut wider.tunnels[0].peers[0]).enabled = false;
    site.apply(wider).unwrap();
    is_used(&mut site, true);
    site.apply(plain()).unwrap();
    is_used(&mut site, true);
    // By `wg set`.
    let far = Change::Peer(key("far").public_key());
    let prefix: ipnet::IpNet = "10.200.9.0/24".parse().unwrap();
    site.set("a", &[far.clone(), Change::AllowedIp(prefix)]);
    is_used(&mut site, false);
    site.set("a", &[far, Change::DropAllowedIp(prefix)]);
    is_used(&mut site, true);
    // A peer's of its own.
    let new = Change::Peer(key("new").public_key());
    site.set("a", &[new.clone(), Change::AllowedIp(prefix)]);
    is_used(&mut site, false);
    site.set("a", &[new, Change::Remove]);
    is_used(&mut site, true);
    // Another uplink's link.
    let ring = ", device: net_ring0, addresses: [10.200.1.1/24]";
    site.apply(file(&[("w", BARE), ("x", ring)], &[("a", "w", a)]))
        .unwrap();
    is_used(&mut site, false);
    let told = site.learned().routes_refused;
    assert!(told[0].ends_with("10.200.1.0/24 of uplink x"), "{told:?}");
    site.apply(plain()).unwrap();
    is_used(&mut site, true);
    // A network's.
    let mut config = plain();
    let more = parse("networks: {n: {gateway: [10.200.5.1/24]}}\n");
    config.networks = more.networks;
    site.apply(config).unwrap();
    is_used(&mut site, false);
    site.apply(plain()).unwrap();
    is_used(&mut site, true);
}

#[test]
fn beside_a_peer_that_is_allowed_everything_the_kernel_has_the_default_route_alone() {
    let [a] = free_ports();
    let mut config = file(&[("w", BARE)], &[("a", "w", a)]);
    let mut site = Site::start(config.clone());
    let slot = site.engine.uplinks.place(&name("w")).unwrap();
    let uplink = site.engine.uplinks.get_mut(slot).unwrap();
    let UplinkDriver::Dpdk(driver) = &mut uplink.config.driver else {
        panic!("it is a device");
    };
    driver.exception = Some(Exception {
        interface: "none0".into(),
        routes_from: None,
    });
    let told = with_routes(&[("10.200.0.0/16", "192.0.2.2"), ("128.0.0.0/1", "192.0.2.2")]);
    let all = told.routes.clone();
    assert!(site.teaches(told));
    // Half of everything holds what a peer is allowed.
    assert_eq!(site.of_kernel(), all);
    let far = Change::Peer(key("far").public_key());
    let all_v4: ipnet::IpNet = "0.0.0.0/0".parse().unwrap();
    let set = [far.clone(), Change::AllowedIp(all_v4)];
    config.uplinks[0].driver = site.engine.uplinks.get(slot).unwrap().config.driver.clone();
    site.set("a", &set);
    assert_eq!(site.routes().len(), 3, "for the tunnels' own packets");
    assert_eq!(site.of_kernel(), all[..1]);
    let learned = site.learned();
    assert_eq!(
        learned.routes_kept_from_kernel,
        [
            "10.200.0.0/16 via 192.0.2.2: 0.0.0.0/0, which a peer of tunnel a is allowed",
            "128.0.0.0/1 via 192.0.2.2: 0.0.0.0/0, which a peer of tunnel a is allowed"
        ]
    );
    assert!(learned.routes_refused.is_empty());
    site.set("a", &[far, Change::DropAllowedIp(all_v4)]);
    assert_eq!(site.of_kernel(), all);
}

/// The same as [`lent`], with its lease.
fn leased(address: [u8; 4]) -> Learned {
    let mut told = lent(address);
    told.lease = Some(Lease {
        terms: Terms {
            address: address.into(),
            prefix_len: 24,
            server: [address[0], address[1], address[2], 1].into(),
            routes: Vec::new(),
            mtu: None,
            dns: Vec::new(),
            domain: None,
        },
        renew_at: Instant(u64::MAX),
        rebind_at: Instant(u64::MAX),
        expires: None,
    });
    told
}

#[test]
fn a_lease_that_is_not_used_is_given_back_not_kept_and_asked_for_when_it_fits() {
    let [a] = free_ports();
    let plain = || file(&[("w", BARE)], &[("a", "w", a)]);
    let mut site = Site::start(plain());
    let is_kept = |site: &Site| site.engine.leases.has(&name("w"));
    assert!(site.teaches(leased([192, 0, 2, 7])));
    assert!(is_kept(&site));
    assert_eq!(site.host().unusable, None);
    assert_eq!(site.learned().server.as_deref(), Some("192.0.2.1"));

    // A peer comes that has it.
    let mut wider = plain();
    let far = Arc::make_mut(&mut wider.tunnels[0].peers[0]);
    far.allowed_ips.push("192.0.2.128/25".parse().unwrap());
    site.apply(wider.clone()).unwrap();
    let given_back = Some(Unusable {
        address: [192, 0, 2, 7].into(),
        prefix_len: 24,
    });
    assert!(!is_kept(&site), "nor for the next run");
    assert_eq!(site.host().unusable, given_back);
    assert_eq!(site.learned().server, None);
    // The stack has given it back. It is refused still, and said to be.
    let refused = ["192.0.2.7/24: 192.0.2.128/25, which a peer of tunnel a is allowed"];
    assert_eq!(site.learned().refused, refused);
    site.teaches(Learned::default());
    assert_eq!(site.learned().refused, refused);
    assert_eq!(site.host().unusable, given_back);
    // A stack in its place has another asked for, too.
    let anew = format!("{BARE}, mtu: 1400");
    let mut reopened = file(&[("w", &anew)], &[("a", "w", a)]);
    reopened.tunnels = wider.tunnels;
    site.apply(reopened).unwrap();
    assert_eq!(
        (site.host().unusable, site.host().held.clone()),
        (given_back, None)
    );
    site.teaches(Learned::default());
    // Nothing is in its way any more.
    site.apply(plain()).unwrap();
    assert_eq!(site.host().unusable, None);
    assert!(site.learned().refused.is_empty());

    // Another that fits ends it as well.
    site.teaches(leased([10, 105, 3, 4]));
    assert!(site.host().unusable.is_some() && !is_kept(&site));
    site.teaches(Learned::default());
    site.teaches(leased([192, 0, 2, 7]));
    assert!(site.host().unusable.is_none() && is_kept(&site));
    // Nothing is lent any more to one that does not ask.
    site.teaches(leased([10, 105, 3, 4]));
    site.apply(file(
        &[("w", ", device: net_null0, addresses: [192.0.2.9/24]")],
        &[("a", "w", a)],
    ))
    .unwrap();
    site.teaches(Learned::default());
    assert_eq!(site.host().unusable, None);
}

/// What a router says: these prefixes, of which the first is spoken from.
fn advertised(prefixes: &[u16]) -> Learned {
    let address = |&n: &u16| LearnedAddress {
        address: [0x2001, 0xdb8, n, 0, 0, 0, 0, 7].into(),
        prefix_len: 64,
        teacher: Teacher::Router,
    };
    Learned {
        addresses: prefixes.iter().map(address).collect(),
        routes: vec![net("::/0", "fe80::1")],
        ..Learned::default()
    }
}

#[test]
fn a_change_of_the_source_is_told_to_some_peers_a_round_and_any_other_order_to_none() {
    const PEERS: u32 = 200;
    let [a] = free_ports();
    let bare = ", device: net_null0, accept_ra: true";
    let mut config = led(file(&[("w", bare)], &[("a", "w", a)]), "[2001:db8:ff::9]:9");
    let mut many = crowd(a, PEERS).tunnels.remove(0).peers;
    let endpoint = config.tunnels[0].peers[0].endpoint.clone();
    for peer in &mut many {
        Arc::make_mut(peer).endpoint = endpoint.clone();
    }
    config.tunnels[0].peers = many.split_off(1);
    let mut site = Site::start(config);
    let engine = &mut site.engine;
    let now = clock::now();
    for (_, peer) in engine.peers.iter() {
        let keys = ([1; 32], [2; 32]);
        let indices = (1, 2);
        let keypair =
            Keypair::from_parts(peer.cell.id, Role::Initiator, indices, keys, now.monotonic);
        peer.cell.publish_keypair(Some(Arc::new(keypair)));
    }
    assert!(site.teaches(advertised(&[1, 2, 3])));
    let source = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, n, 0, 0, 0, 0, 7]));
    assert_eq!(site.source(), source(1));
    let slot = site.engine.uplinks.place(&name("w")).unwrap();
    let scope = Scope::Uplink(UplinkIndex::from_slot(slot));
    let router = "fe80::1".parse().unwrap();
    (site.engine.hops).set(
        (scope, router),
        Some(MacAddr([2, 0, 0, 0, 0, 9])),
        now.monotonic,
    );

    let (mut ends, own) = overhear(&mut site.engine);
    // How many are told in each round, until none is.
    let mut rounds = |site: &mut Site| {
        let told = |_| {
            site.engine.rebuild_some_paths(now.monotonic);
            site.engine.tell_untold();
            let commands = std::iter::from_fn(|| ends[0].commands.pop().ok());
            commands
                .filter(|it| matches!(it, Command::Keepalive(_)))
                .count()
        };
        (0..9).map(told).take_while(|&n| n > 0).collect::<Vec<_>>()
    };
    rounds(&mut site);
    // The first stays.
    assert!(site.teaches(advertised(&[1, 3, 2])));
    assert_eq!(rounds(&mut site), [0; 0]);
    assert!(site.teaches(advertised(&[3, 1, 2])));
    assert_eq!(site.source(), source(3));
    assert_eq!(rounds(&mut site), [64, 64, 64, 8]);
    for (worker, link) in site.engine.workers.0.iter_mut().zip(own) {
        worker.link = link;
    }
}
