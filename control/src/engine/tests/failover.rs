//! Tunnels with several uplinks, of which one fails.
//!
//! ```text
//!   far ── 127.0.0.1, 127.0.0.2 ── engine: uplinks u, v with tunnel a on both
//! ```

use super::{
    compile::assert_compiled,
    uplink_changes::{AT_1, AT_2, file},
    *,
};
use crate::engine::health::Health;

const BOTH: [(&str, &str); 2] = [("u", AT_1), ("v", AT_2)];

impl Site {
    /// The link of an uplink fails, or is there again.
    fn link(&mut self, uplink: &str, up: bool) {
        let slot = self.engine.uplinks.place(&name(uplink)).unwrap();
        self.engine.uplinks.get_mut(slot).unwrap().link_up = Some(up);
        self.engine.note_uplinks(clock::now().monotonic);
        self.settle();
    }

    /// Nothing is held down any more.
    fn release(&mut self) {
        for (_, uplink) in self.engine.uplinks.iter_mut() {
            uplink.health = Health::default();
        }
        for (_, peer) in self.engine.peers.iter_mut() {
            peer.moves = Health::default();
        }
        self.engine.watch_ways(clock::now().monotonic);
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..4 {
            self.engine.round(clock::now()).unwrap();
        }
    }

    /// By which uplinks how many peers of tunnel `a` are reached, as its list and theirs tell it.
    fn carried(&mut self) -> Vec<(String, usize)> {
        let told = report(&mut self.engine);
        let peers = told.peers.into_iter().filter(|it| it.tunnel == "a");
        let by: Vec<_> = peers.map(|it| it.uplink.unwrap()).collect();
        let carried: Vec<_> = told.tunnels[0].uplinks.clone().into_iter().collect();
        for (uplink, peers) in &carried {
            assert_eq!(by.iter().filter(|it| *it == uplink).count(), *peers);
        }
        carried
    }
}

fn bind(host: u8, port: u16) -> std::io::Result<std::net::UdpSocket> {
    std::net::UdpSocket::bind(SocketAddr::from(([127, 0, 0, host], port)))
}

fn carried(u: usize, v: usize) -> Vec<(String, usize)> {
    vec![("u".into(), u), ("v".into(), v)]
}

#[test]
fn peers_go_by_the_next_uplink_and_come_back_after_a_while() {
    let [a] = free_ports();
    let mut site = Site::start(file(&BOTH, &[("a", "[u, v]", a)]));
    site.settle();
    assert_compiled(&mut site);
    assert_eq!(
        (site.ways(), site.carried()),
        (vec!["u".into()], carried(2, 0))
    );
    assert!(
        site.engine
            .snapshots
            .load_full()
            .uplink(UplinkIndex(1))
            .is_some()
    );
    site.link("u", false);
    assert_eq!(
        (site.ways(), site.carried()),
        (vec!["v".into()], carried(0, 2))
    );
    // Nobody leaves what is the last that works, and what is back is held down.
    site.link("v", false);
    assert_eq!(site.ways(), ["v"]);
    site.link("v", true);
    site.link("u", true);
    assert_eq!(site.carried(), carried(0, 2));
    site.release();
    assert_eq!(
        (site.ways(), site.carried()),
        (vec!["u".into()], carried(2, 0))
    );
    // Unless there is nothing else.
    site.link("u", false);
    site.link("u", true);
    assert_eq!(site.ways(), ["v"]);
    site.link("v", false);
    assert_eq!(site.ways(), ["u"]);
}

#[test]
fn a_peer_is_told_and_what_comes_late_leads_nowhere() {
    let [a] = free_ports();
    let mut site = Site::start(file(&BOTH, &[("a", "[u, v]", a)]));
    let to = SocketAddr::from(([127, 0, 0, 1], a));
    let mut far = Far::call_at(&key("far"), key("a").public_key(), to);
    await_round(&mut site, |_| far.hears(Duration::from_millis(2)));
    let session = far.session();
    far.keep_alive(&session, a);
    let slot = site
        .engine
        .peer_place(&name("a"), &key("far").public_key())
        .unwrap();
    await_round(&mut site, |site| {
        let peer = site.engine.peers.get(slot).unwrap();
        peer.cell.keypair().is_some()
            && peer
                .cell
                .path()
                .as_ref()
                .is_some_and(|path| path.endpoint == far.place())
    });
    let by = |site: &Site| {
        site.engine
            .peers
            .get(slot)
            .unwrap()
            .cell
            .path()
            .as_ref()
            .unwrap()
            .uplink()
    };
    let [u, v] =
        ["u", "v"].map(|it| UplinkIndex::from_slot(site.engine.uplinks.place(&name(it)).unwrap()));
    assert_eq!(by(&site), u);
    while far.receives(&session, Duration::from_millis(50)).is_some() {}
    site.link("u", false);
    assert_eq!(by(&site), v);
    let told = far.receives(&session, Duration::from_secs(5));
    assert_eq!(
        told.map(|(kind, _)| kind),
        Some(culvert_wireguard::message::Kind::Data)
    );
    // What was under way to the address that was left.
    for _ in 0..20 {
        far.keep_alive(&session, a);
        site.settle();
    }
    std::thread::sleep(Duration::from_millis(50));
    site.settle();
    assert_eq!(by(&site), v);
    // Who moves is answered where it was heard, and found there again.
    site.release();
    site.link("u", true);
    site.release();
    assert_eq!(by(&site), u);
    let handshakes = report(&mut site.engine).peers;
    let found = handshakes.iter().find(|it| it.name == "far").unwrap();
    assert_eq!((found.state.as_str(), found.unanswered), ("up", 0));
}

#[test]
fn a_peer_that_moved_stays_where_it_was_heard() {
    let [a] = free_ports();
    let mut site = Site::start(file(&BOTH, &[("a", "[u, v]", a)]));
    let to = SocketAddr::from(([127, 0, 0, 2], a));
    let mut far = Far::call_at(&key("far"), key("a").public_key(), to);
    await_round(&mut site, |_| far.hears(Duration::from_millis(2)));
    site.release();
    assert_eq!(site.carried(), carried(1, 1));
    site.link("v", false);
    assert_eq!(site.carried(), carried(2, 0));
    // Now it is ours to choose.
    site.link("v", true);
    site.release();
    assert_eq!(site.carried(), carried(2, 0));
}

#[test]
fn uplinks_of_a_tunnel_change_places_come_and_go() {
    let [a, b] = free_ports();
    let two = |uplinks: &str, port| file(&BOTH, &[("a", uplinks, port)]);
    let mut site = Site::start(two("u", a));
    let everywhere = |site: &mut Site, port, at: [bool; 2]| {
        site.settle();
        assert_compiled(site);
        assert_eq!([1, 2].map(|host| site.answers_at("a", host, port)), at);
    };
    for (uplinks, line, port, at) in [
        ("[u, v]", "u → [u, v]", a, [true, true]),
        ("[v, u]", "[u, v] → [v, u]", a, [true, true]),
        ("v", "[v, u] → v", a, [false, true]),
        ("[u, v]", "v → [u, v]", a, [true, true]),
        ("u", "[u, v] → u", a, [true, false]),
    ] {
        let lines = site.lines(two(uplinks, port));
        assert_eq!(lines, [format!("tunnel a changed (uplink: {line})")]);
        everywhere(&mut site, port, at);
    }
    // By another port, everywhere.
    site.apply(two("[u, v]", a)).unwrap();
    site.apply(two("[u, v]", b)).unwrap();
    everywhere(&mut site, a, [false, false]);
    everywhere(&mut site, b, [true, true]);
    // An uplink is exchanged under its name, the first one or the other.
    let moved = file(
        &[("u", AT_1), ("v", ", addresses: [127.0.0.3/8]")],
        &[("a", "[u, v]", b)],
    );
    site.apply(moved).unwrap();
    everywhere(&mut site, b, [true, false]);
    assert!(site.answers_at("a", 3, b));
    let moved = file(
        &[("u", ", addresses: [127.0.0.4/8]"), ("v", AT_2)],
        &[("a", "[u, v]", b)],
    );
    site.apply(moved).unwrap();
    everywhere(&mut site, b, [false, true]);
    assert!(site.answers_at("a", 4, b));
    site.apply(file(&BOTH, &[])).unwrap();
    let free = [1, 2, 4].map(|host| bind(host, b));
    assert!(free.iter().all(Result::is_ok));
}

#[test]
fn a_port_that_one_uplink_cannot_have_refuses_all() {
    let [a] = free_ports();
    let mut site = Site::start(file(&BOTH, &[("a", "u", a)]));
    let taken = bind(2, a).unwrap();
    let error = site.apply(file(&BOTH, &[("a", "[u, v]", a)])).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("tunnel a: uplink v: UDP port"), "{error}");
    site.settle();
    assert_compiled(&mut site);
    assert!(site.answers_at("a", 1, a));
    drop(taken);
    site.apply(file(&BOTH, &[("a", "[u, v]", a)])).unwrap();
    assert!(site.answers_at("a", 2, a));
}

#[test]
fn an_uplink_that_is_switched_off_has_no_port_and_nobody_goes_by_it() {
    let [a, b] = free_ports();
    let off = ", addresses: [127.0.0.1/8], enabled: false";
    let tunnels = [("a", "[u, v]", a), ("b", "u", b)];
    let mut site = Site::start(file(&BOTH, &tunnels));
    site.settle();
    let lines = site.lines(file(&[("u", off), ("v", AT_2)], &tunnels));
    assert_eq!(lines, ["uplink u reopened (enabled: true → false)"]);
    site.settle();
    assert_compiled(&mut site);
    assert_eq!(site.carried(), carried(0, 2));
    assert!(!site.answers_at("a", 1, a) && site.answers_at("a", 2, a));
    assert!(!site.answers_at("b", 1, b));
    assert!(bind(1, a).and(bind(1, b)).is_ok());
    let told = report(&mut site.engine).uplinks;
    assert_eq!(
        (told[0].disabled, told[0].link_up, told[1].disabled),
        (true, false, false)
    );
    // What is not there can't be missing.
    assert_eq!(site.engine.deaf(), []);
    // A change of what is off opens nothing.
    let elsewhere = ", addresses: [127.0.0.4/8], enabled: false";
    site.apply(file(&[("u", elsewhere), ("v", AT_2)], &tunnels))
        .unwrap();
    site.apply(file(&BOTH, &tunnels)).unwrap();
    site.settle();
    assert_compiled(&mut site);
    assert!(site.answers_at("a", 1, a) && site.answers_at("b", 1, b));
    // From the start, too.
    drop(site);
    let mut site = Site::start(file(&[("u", off), ("v", AT_2)], &tunnels));
    site.settle();
    assert!(!site.answers_at("b", 1, b) && site.answers_at("a", 2, a));
}
