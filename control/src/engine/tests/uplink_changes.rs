//! Uplinks that come, change and go while tunnels stand.
//!
//! ```text
//!   far ── 127.0.0.1 … 127.0.0.4 ── engine: uplinks u, v, w with tunnels a, b
//! ```

use std::{net::IpAddr, sync::atomic::AtomicU64};

use super::{compile::assert_compiled, *};

/// Uplinks of the kernel's with their addresses and the like, or devices; tunnels with their uplinks, several in a list,
/// and ports.
pub(super) fn file(uplinks: &[(&str, &str)], tunnels: &[(&str, &str, u16)]) -> Config {
    let mut text = "memory: {hugepages: off, megabytes: 128}\nuplinks:\n".to_owned();
    for (name, rest) in uplinks {
        let driver = if rest.contains("net_") { "dpdk" } else { "udp" };
        text += &format!("  {name}: {{driver: {driver}{rest}}}\n");
    }
    let peers = ["far", "kim"].map(|peer| {
        let (key, net) = (key(peer).public_key().to_base64(), peer.len() + peer.as_bytes()[0] as usize);
        format!("{peer}: {{public_key: \"{key}\", endpoint: \"127.0.0.1:9\", allowed_ips: [10.{net}.0.0/16]}}")
    });
    text += if tunnels.is_empty() { "" } else { "tunnels:\n" };
    for (name, uplink, port) in tunnels {
        let several = if uplink.starts_with('[') { "s" } else { "" };
        text += &format!(
            "  {name}: {{uplink{several}: {uplink}, uapi: off, listen_port: {port}, private_key_file: {name}.key, peers: {{{}}}}}\n",
            peers.join(", ")
        );
    }
    parse(&text)
}

pub(super) const AT_1: &str = ", addresses: [127.0.0.1/8]";
pub(super) const AT_2: &str = ", addresses: [127.0.0.2/8]";

impl Site {
    /// The same at an address of this machine's.
    pub(super) fn answers_at(&mut self, tunnel: &str, host: u8, port: u16) -> bool {
        (0..4).any(|_| {
            let to = SocketAddr::from(([127, 0, 0, host], port));
            let mut far = Far::call_at(&key("far"), key(tunnel).public_key(), to);
            (0..40).any(|_| {
                self.engine.round(clock::now()).unwrap();
                far.hears(Duration::from_millis(2))
            })
        })
    }

    /// The uplinks that paths lead out by, by their names.
    pub(super) fn ways(&mut self) -> Vec<String> {
        self.engine.rebuild_paths(clock::now().monotonic);
        let snapshot = self.engine.snapshots.load_full();
        let peers = self.engine.peers.iter();
        let paths = peers.filter_map(|(_, peer)| peer.cell.path().clone());
        let uplinks = paths.map(|path| snapshot.uplink(path.uplink()).map(|it| it.name.clone()));
        let mut names: Vec<_> = uplinks.map(Option::unwrap).collect();
        names.dedup();
        names
    }
}

/// Mentions the endpoint that its peers have.
pub(super) fn led(mut config: Config, endpoint: &str) -> Config {
    let endpoint = Endpoint::Address(endpoint.parse().unwrap());
    for peer in &mut config.tunnels[0].peers {
        Arc::make_mut(peer).endpoint = Some(endpoint.clone());
    }
    config
}

#[test]
fn uplinks_come_and_go_with_their_tunnels() {
    let [a, b] = free_ports();
    let mut site = Site::start(file(&[("u", AT_1)], &[("a", "u", a)]));
    assert!(site.answers("a", a));
    for _ in 0..3 {
        let both = file(&[("u", AT_1), ("v", AT_2)], &[("a", "u", a), ("b", "v", b)]);
        let lines = site.lines(both);
        assert_eq!(lines[..2], ["uplink v added", "tunnel b added"]);
        assert_compiled(&mut site);
        assert!(site.answers_at("b", 2, b) && site.answers("a", a));
        let lines = site.lines(file(&[("u", AT_1)], &[("a", "u", a)]));
        assert_eq!(lines, ["uplink v removed", "tunnel b removed"]);
        assert_compiled(&mut site);
        assert!(!site.answers_at("b", 2, b) && site.answers("a", a));
    }
    let names = report(&mut site.engine).uplinks;
    assert_eq!(names.len(), 1);
    // From nothing, too.
    site.apply(file(&[], &[])).unwrap();
    site.apply(file(&[("w", AT_1)], &[("a", "w", a)])).unwrap();
    assert!(site.answers("a", a));
}

#[test]
fn a_tunnel_moves_to_another_uplink_with_its_peers() {
    let [a] = free_ports();
    let uplinks = [("u", AT_1), ("v", AT_2)];
    let mut site = Site::start(file(&uplinks, &[("a", "u", a)]));
    assert!(site.answers("a", a));
    let cells: Vec<_> = site
        .engine
        .peers
        .iter()
        .map(|(_, p)| Arc::clone(&p.cell))
        .collect();
    assert_eq!(site.ways(), ["u"]);
    let lines = site.lines(file(&uplinks, &[("a", "v", a)]));
    assert_eq!(lines, ["tunnel a changed (uplink: u → v)"]);
    assert_eq!(site.ways(), ["v"]);
    assert_compiled(&mut site);
    assert!(site.answers_at("a", 2, a) && !site.answers_at("a", 1, a));
    // The uplink is renamed: its sockets go along.
    let lines = site.lines(file(&[("u", AT_1), ("w", AT_2)], &[("a", "w", a)]));
    assert_eq!(
        lines,
        [
            "uplink w added",
            "uplink v removed",
            "tunnel a changed (uplink: v → w)"
        ]
    );
    assert_eq!(site.ways(), ["w"]);
    assert_compiled(&mut site);
    assert!(site.answers_at("a", 2, a));
    // Back, in one plan with the removal, and by another port.
    site.apply(file(&[("u", AT_1)], &[("a", "u", a)])).unwrap();
    assert_eq!(site.ways(), ["u"]);
    assert!(site.answers("a", a));
    let now: Vec<_> = site
        .engine
        .peers
        .iter()
        .map(|(_, p)| Arc::clone(&p.cell))
        .collect();
    assert!(
        cells
            .iter()
            .zip(&now)
            .all(|(one, two)| Arc::ptr_eq(one, two))
    );
}

#[test]
fn two_tunnels_swap_their_uplinks() {
    let [a] = free_ports();
    let uplinks = [("u", AT_1), ("v", AT_2)];
    let mut site = Site::start(file(&uplinks, &[("a", "u", a), ("b", "v", a)]));
    assert!(site.answers("a", a) && site.answers_at("b", 2, a));
    site.apply(file(&uplinks, &[("a", "v", a), ("b", "u", a)]))
        .unwrap();
    assert!(site.answers_at("a", 2, a) && site.answers_at("b", 1, a));
    assert_compiled(&mut site);
}

#[test]
fn an_uplink_changes_its_addresses() {
    let [a] = free_ports();
    let mut site = Site::start(file(&[("u", AT_1)], &[("a", "u", a)]));
    site.engine
        .uplinks
        .get(0)
        .unwrap()
        .counters
        .rx_packets
        .store(7, Ordering::Relaxed);
    for (rest, here, not_here) in [
        (AT_2, 2, 1),
        // From one address to all of them and back: sockets of both can't be open at once.
        ("", 3, 9),
        (AT_1, 1, 2),
        (", addresses: [127.0.0.1/8, 127.0.0.2/8]", 3, 9),
        (", device: lo", 3, 9),
        (", device: lo, addresses: [127.0.0.1/8, \"::1/128\"]", 1, 2),
        (AT_1, 1, 2),
    ] {
        let lines = site.lines(file(&[("u", rest)], &[("a", "u", a)]));
        assert!(lines[0].starts_with("uplink u reopened ("), "{lines:?}");
        assert!(site.answers_at("a", here, a), "{rest}");
        assert!(
            not_here == 9 || !site.answers_at("a", not_here, a),
            "{rest}"
        );
        assert_compiled(&mut site);
    }
    // What it counted goes on under its name.
    let uplink = report(&mut site.engine).uplinks.remove(0);
    assert!(uplink.rx.packets > 7);
    // Nothing that anything hangs on.
    let before = site.engine.tunnels.get(0).unwrap().markers.len();
    let lines = site.lines(file(
        &[("u", &format!("{AT_1}, mtu: 1400"))],
        &[("a", "u", a)],
    ));
    assert_eq!(lines[0], "uplink u changed (mtu: 1500 → 1400)");
    assert_eq!(site.engine.tunnels.get(0).unwrap().markers.len(), before);
    assert!(site.answers("a", a));
}

#[test]
fn what_an_uplink_has_lost_stays_with_it() {
    let [a, b] = free_ports();
    let uplinks = [("u", AT_1), ("v", AT_2)];
    let both = [("a", "u", a), ("b", "u", b)];
    let mut site = Site::start(file(&uplinks, &both));
    let mut before = report(&mut site.engine).uplinks;
    let there = [("u", ", addresses: [127.0.0.3/8]"), ("v", AT_2)];
    for (uplinks, tunnels) in [
        (uplinks, vec![("a", "v", a), ("b", "u", b)]),
        (uplinks, vec![("a", "v", a)]),
        (uplinks, vec![("a", "u", a)]),
        // Exchanged, with the tunnel and while it goes.
        (there, vec![("a", "u", a)]),
        (uplinks, vec![]),
        (uplinks, both.to_vec()),
    ] {
        let slots: Vec<_> = site.engine.tunnels.iter().map(|it| it.0).collect();
        for slot in slots {
            let tunnel = site.engine.tunnels.get_mut(slot).unwrap();
            *tunnel.drops.entry("mac1-invalid").or_default() += 100;
        }
        let grown = report(&mut site.engine).uplinks;
        site.apply(file(&uplinks, &tunnels)).unwrap();
        let now = report(&mut site.engine).uplinks;
        for old in before.iter().chain(&grown) {
            let new = now.iter().find(|it| it.name == old.name).unwrap();
            for (reason, count) in &old.drops {
                assert!(
                    new.drops.get(reason) >= Some(count),
                    "{reason}: {old:?} {new:?}"
                );
            }
        }
        before = now;
    }
    let lost = |name: &str| {
        let uplink = before.iter().find(|it| it.name == name);
        uplink.unwrap().drops.get("mac1-invalid").copied()
    };
    assert_eq!((lost("u"), lost("v")), (Some(500), Some(200)));
}

#[test]
fn an_uplink_that_cant_be_had_changes_nothing() {
    let [a, b] = free_ports();
    let one = file(&[("u", AT_1)], &[("a", "u", a)]);
    let mut site = Site::start(one.clone());
    let nowhere = ", addresses: [203.0.113.9/24]";
    let beside = file(
        &[("u", AT_1), ("v", nowhere)],
        &[("a", "u", a), ("b", "v", b)],
    );
    let instead = file(&[("u", nowhere)], &[("a", "u", a)]);
    // Its own sockets are closed by then.
    let partly = file(
        &[("u", ", addresses: [127.0.0.1/8, \"2001:db8:77::9/64\"]")],
        &[("a", "u", a)],
    );
    let moved = file(&[("u", AT_1), ("v", nowhere)], &[("a", "v", a)]);
    for refused in [beside, instead, partly, moved] {
        let error = site.apply(refused).unwrap_err().to_string();
        assert!(
            error.contains("is the address up on this machine"),
            "{error}"
        );
        assert!(!error.contains("has no port"), "{error}");
        assert!(site.answers("a", a));
        assert_compiled(&mut site);
        assert_eq!(site.engine.uplinks.len(), 1);
    }
    let lines = site.lines(one);
    assert_eq!(lines, [""; 0]);
    // No place was lost.
    let taken = std::net::UdpSocket::bind(("127.0.0.2", b)).unwrap();
    let two = || file(&[("u", AT_1), ("v", AT_2)], &[("a", "u", a), ("b", "v", b)]);
    site.apply(two()).unwrap_err();
    drop(taken);
    site.apply(two()).unwrap();
    assert!(site.answers_at("b", 2, b) && site.answers("a", a));
}

/// What a worker learned on the way by an uplink that is gone by now.
#[test]
fn news_from_an_uplink_that_was_left_lead_nobody_there() {
    let [a] = free_ports();
    let uplinks = [("u", AT_1), ("v", AT_2)];
    let mut site = Site::start(file(&uplinks, &[("a", "u", a)]));
    let before = clock::now();
    let old = Arc::clone(site.engine.snapshots.load().uplink(UplinkIndex(0)).unwrap());
    let cell = Arc::clone(&site.engine.peers.iter().next().unwrap().1.cell);
    site.apply(file(&uplinks[1..], &[("a", "v", a)])).unwrap();
    let source = "127.0.0.1:10".parse().unwrap();
    cell.note_source(
        source,
        Some(IpAddr::from([127, 0, 0, 1])),
        &old,
        before.monotonic,
        &site.engine.attention,
    );
    site.engine.round(clock::now()).unwrap();
    let path = cell.path().clone().unwrap();
    assert_eq!((path.endpoint, path.source), (source, None));
    assert_eq!(site.ways(), ["v"]);
}

/// So many that came to a socket.
#[test]
fn what_comes_by_the_other_uplink_meanwhile_arrives() {
    let [a, b] = free_ports();
    let mut site = Site::start(file(&[("u", AT_1)], &[("a", "u", a)]));
    let counters = Arc::clone(&site.engine.uplinks.get(0).unwrap().counters);
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            // Data of no session: each is counted where it arrives.
            let message = [
                4, 0, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                0, 0, 0, 0,
            ];
            while !stop.load(Ordering::Relaxed) {
                socket.send_to(&message, ("127.0.0.1", a)).unwrap();
                sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(300));
            }
        });
        for round in 0..30 {
            let other = [AT_2, ", addresses: [127.0.0.3/8]"][round % 2];
            let two = file(
                &[("u", AT_1), ("v", other)],
                &[("a", "u", a), ("b", "v", b)],
            );
            site.apply(two).unwrap();
            if round % 3 == 0 {
                site.apply(file(&[("u", AT_1)], &[("a", "u", a)])).unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let sent = sent.load(Ordering::Relaxed);
    let arrived = || counters.rx_packets.load(Ordering::Relaxed);
    let all = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        arrived() == sent
    });
    assert!(all && sent > 30, "{} of {sent}", arrived());
}

/// Devices with nobody at the other end.
#[cfg(feature = "dpdk")]
mod devices {
    use culvert_dataplane::shared::ids::Scope;

    use super::*;

    const NULL: &str = ", device: net_null0, addresses: [192.0.2.1/24]";
    const RING: &str = ", device: net_ring0, addresses: [198.51.100.1/24]";

    impl Site {
        /// What is in the hands of the named uplink: frames sent in vain count, too.
        fn sent_by(&mut self, uplink: &str) -> u64 {
            let all = report(&mut self.engine).uplinks;
            let uplink = all.into_iter().find(|it| it.name == uplink).unwrap();
            uplink.tx.packets
        }

        /// A neighbor of the uplink's that answers, by which all its peers are reached.
        fn neighbor(&mut self, uplink: &str, address: [u8; 4]) {
            let slot = self.engine.uplinks.place(&name(uplink)).unwrap();
            let scope = Scope::Uplink(UplinkIndex::from_slot(slot));
            let now = clock::now();
            let mut wire = Wire::new(&mut self.engine);
            self.engine.rebuild_paths(now.monotonic);
            // The thread that was asked before is no more.
            assert!(self.engine.netstack.ask(scope, address.into()));
            let ours = self.engine.netstack.get(scope).unwrap().config.mac;
            let mut reply = [ours.0, [2, 0, 0, 0, 0, 9]].concat();
            reply.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 9]);
            reply.extend(address);
            reply.extend(ours.0);
            reply.extend([address[0], address[1], address[2], 1]);
            reply.extend([0; 18]);
            wire.bring(&mut self.engine, scope, &reply, now);
            wire.leave(&mut self.engine);
        }
    }

    #[test]
    fn the_first_device_comes_late_and_goes() {
        let [a, b] = free_ports();
        let udp = || file(&[("u", AT_1)], &[("a", "u", a)]);
        let mut site = Site::start(udp());
        assert!(site.answers("a", a));
        for _ in 0..3 {
            let both = file(&[("u", AT_1), ("w", NULL)], &[("a", "u", a), ("b", "w", b)]);
            assert_eq!(site.lines(both)[..2], ["uplink w added", "tunnel b added"]);
            assert_compiled(&mut site);
            assert!(site.answers("a", a));
            assert_eq!(report(&mut site.engine).uplinks.len(), 2);
            // A second one.
            let three = [("u", AT_1), ("w", NULL), ("x", RING)];
            site.apply(file(&three, &[("a", "u", a), ("b", "x", b)]))
                .unwrap();
            assert_eq!(site.ways(), ["u", "x"]);
            assert_compiled(&mut site);
            assert_eq!(
                site.lines(udp())[..2],
                ["uplink w removed", "uplink x removed"]
            );
            assert_compiled(&mut site);
            assert!(site.answers("a", a));
            assert_eq!(site.engine.netstack.count(), 0);
        }
    }

    #[test]
    fn a_tunnel_moves_to_a_device_and_back() {
        let [a] = free_ports();
        let udp = || file(&[("u", AT_1)], &[("a", "u", a)]);
        let mut site = Site::start(udp());
        let first = site.engine.peers.iter().map(|(_, p)| Arc::clone(&p.cell));
        let first: Vec<_> = first.collect();
        // By the same name.
        let device = led(file(&[("u", NULL)], &[("a", "u", a)]), "192.0.2.9:9");
        let lines = site.lines(device);
        assert!(
            lines[0].starts_with("uplink u reopened (driver: udp → dpdk net_null0"),
            "{lines:?}"
        );
        site.neighbor("u", [192, 0, 2, 9]);
        let path = first[0].path().clone().unwrap();
        assert!(path.is_resolved() && !path.hop.is_kernels());
        let before = site.sent_by("u");
        let called = (0..2_000).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            site.engine.round(clock::now()).unwrap();
            site.sent_by("u") > before
        });
        assert!(called);
        assert_compiled(&mut site);
        site.apply(udp()).unwrap();
        assert!(site.answers("a", a));
        let last = site.engine.peers.iter().map(|(_, p)| Arc::clone(&p.cell));
        assert!(
            first
                .iter()
                .zip(last)
                .all(|(one, two)| Arc::ptr_eq(one, &two))
        );
    }

    #[test]
    fn a_device_is_changed_where_it_stands_or_opened_anew() {
        let [a] = free_ports();
        let mut site = Site::start(file(&[("w", NULL)], &[("a", "w", a)]));
        let scope = Scope::Uplink(UplinkIndex(0));
        let other = ", device: net_null0, addresses: [192.0.2.7/24], routes: [{to: default, via: 192.0.2.9}]";
        let lines = site.lines(file(&[("w", other)], &[("a", "w", a)]));
        assert!(
            lines[0].starts_with("uplink w changed (addresses: "),
            "{lines:?}"
        );
        let host = site.engine.netstack.get(scope).unwrap();
        let way = host.routes.way([8, 8, 8, 8].into()).unwrap();
        assert_eq!(way.next_hop, IpAddr::from([192, 0, 2, 9]));
        assert_eq!(
            site.engine
                .snapshots
                .load()
                .uplink(UplinkIndex(0))
                .unwrap()
                .addresses[0],
            IpAddr::from([192, 0, 2, 7])
        );
        assert_compiled(&mut site);
        // The device has to be closed for it, and is opened as it was if that is in vain.
        let taken = ", device: \"net_null0,size=banana\", addresses: [192.0.2.1/24]";
        let error = site
            .apply(file(&[("w", taken)], &[("a", "w", a)]))
            .unwrap_err();
        assert!(error.to_string().contains("uplink w: "), "{error}");
        assert!(!error.to_string().contains("is down"), "{error}");
        assert_compiled(&mut site);
        let up = |site: &mut Site| report(&mut site.engine).uplinks[0].link_up;
        assert!(up(&mut site));
        for mtu in [9000, 1500] {
            let anew = format!("{NULL}, mtu: {mtu}");
            let lines = site.lines(file(&[("w", &anew)], &[("a", "w", a)]));
            assert!(
                lines[0].starts_with("uplink w reopened (") && lines[0].contains("mtu: "),
                "{lines:?}"
            );
            assert_compiled(&mut site);
        }
        // It goes to another name.
        let lines = site.lines(file(&[("v", NULL)], &[("a", "v", a)]));
        assert_eq!(lines[..2], ["uplink v added", "uplink w removed"]);
        assert_eq!(site.ways(), ["v"]);
        assert_compiled(&mut site);
    }

    #[test]
    fn what_dpdk_was_started_with_stays() {
        let [a] = free_ports();
        let udp = file(&[("u", AT_1)], &[("a", "u", a)]);
        let mut site = Site::start(udp.clone());
        // That it was started for nothing is no reason to start it again.
        let nowhere = ", device: \"net_af_packet0,iface=nowhere0\", addresses: [192.0.2.1/24]";
        let failed = file(&[("u", AT_1), ("w", nowhere)], &[("a", "u", a)]);
        let error = site.apply(failed).unwrap_err().to_string();
        assert!(error.contains("nowhere0"), "{error}");
        assert!(site.answers("a", a));
        let with = |megabytes: u32, uplinks: &[(&str, &str)]| {
            let mut config = file(uplinks, &[("a", "u", a)]);
            config.memory.megabytes = megabytes;
            config
        };
        let both = [("u", AT_1), ("w", NULL)];
        assert_eq!(
            site.apply(with(256, &both)).unwrap_err(),
            ApplyError::NeedsRestart(vec!["memory.megabytes: 128 → 256".into()])
        );
        site.apply(with(128, &both)).unwrap();
        site.apply(with(256, &both[..1])).unwrap();
        assert!(site.answers("a", a));
        // It has what it has.
        site.apply(with(256, &both)).unwrap_err();
        site.apply(with(128, &both)).unwrap();
    }
}
