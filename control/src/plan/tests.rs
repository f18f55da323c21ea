#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use zeroize::Zeroizing;

use super::*;
use crate::config::{Config, Endpoint, KeyFileError, KeyFiles, parse};

/// Every file holds the same key.
struct Keys;

impl KeyFiles for Keys {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let key = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        Ok(Zeroizing::new(key.into()))
    }
}

fn config(text: &str) -> Arc<Config> {
    let networks = if text.contains("networks:") {
        ""
    } else {
        "networks: {}\n"
    };
    let text = format!("version: 1\nnode: test\n{text}{networks}");
    let read = parse(&text, Path::new("test.yaml"), &Keys);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    Arc::new(config)
}

const NETWORK: &str = "networks: {blue: {gateway: [10.0.1.1/24]}}\n";

/// Two tunnels, of which the first has these peers.
fn tunnels(ports: [u16; 2], peers: &str) -> Arc<Config> {
    config(&format!(
        "uplinks: {{wan0: {{driver: udp, mtu: 1500}}}}
tunnels:
  a: {{uplink: wan0, listen_port: {}, private_key_file: a.key, peers: {{{peers}}}}}
  b: {{uplink: wan0, listen_port: {}, private_key_file: b.key, peers: {{}}}}
",
        ports[0], ports[1]
    ))
}

fn peer(number: u8, rest: &str) -> String {
    let key = crate::keys::PublicKey::from_bytes([number; 32]).to_base64();
    format!("p{number}: {{public_key: \"{key}\", allowed_ips: [10.9.{number}.0/24]{rest}}}")
}

fn lines(old: &Arc<Config>, new: &Config) -> Vec<String> {
    let plan = Layers::new(Arc::clone(old)).plan(new);
    plan.iter().map(Change::line).collect()
}

fn impacts(old: &Arc<Config>, new: &Config) -> Vec<Impact> {
    let plan = Layers::new(Arc::clone(old)).plan(new);
    plan.iter().map(Change::impact).collect()
}

#[test]
fn the_same_is_no_change() {
    let one = tunnels([1, 2], &peer(1, ""));
    assert_eq!(lines(&one, &tunnels([1, 2], &peer(1, ""))), [""; 0]);
}

#[test]
fn what_is_fixed_needs_a_restart_and_says_which_key() {
    let old = config("cores: {workers: 1}\nmemory: {megabytes: 64}\n");
    let new = config("cores: {workers: 2}\nmemory: {megabytes: 128, mtu_max: 9000}\n");
    assert_eq!(
        lines(&old, &new),
        [
            "cores changed (workers: 1 → 2)",
            "memory changed (megabytes: 64 → 128; mtu_max: none → 9000)"
        ]
    );
    assert_eq!(impacts(&old, &new), [Impact::NeedsRestart; 2]);
    let fixed = |layers: &Layers, new: &Config| -> Vec<_> {
        let plan = layers.plan(new);
        plan.iter().flat_map(Change::fixed).collect()
    };
    let mut layers = Layers::new(Arc::clone(&old));
    let cores = "cores.workers: 1 → 2";
    assert_eq!(fixed(&layers, &new), [cores, "memory.mtu_max: none → 9000"]);
    // DPDK has taken what it was given, as long as anything needs it.
    layers.note_taken(Some(old.memory));
    let needs = |device: &str| {
        let uplink = format!("uplinks: {{w: {{{device}, addresses: [192.0.2.1/24]}}}}\n");
        config(&format!(
            "memory: {{megabytes: 128, hugepages: off}}\n{uplink}"
        ))
    };
    let memory = ["memory.hugepages: auto → off", "memory.megabytes: 64 → 128"];
    assert_eq!(
        fixed(&layers, &needs("driver: dpdk, device: net_null0")),
        memory
    );
    assert_eq!(fixed(&layers, &needs("driver: udp")), [""; 0]);
}

#[test]
fn doors_of_the_api_change_at_once() {
    let before = config("");
    let after = config("api: {socket: {group: culvert, mode: '0600'}, body_megabytes: 1}\n");
    let words = "api changed (socket.group: none → culvert; socket.mode: 0660 → 0600; body_megabytes: 64 → 1)";
    assert_eq!(lines(&before, &after), [words]);
    assert_eq!(impacts(&before, &after), [Impact::None]);
}

#[test]
fn an_uplink_is_opened_anew_for_what_it_was_opened_with() {
    let udp = "driver: udp, addresses: [192.0.2.1/24, 192.0.2.2/24]";
    let dpdk = "driver: dpdk, device: net_null0, addresses: [192.0.2.1/24]";
    let told = |old: &str, new: &str| {
        let [old, new] = [old, new].map(|it| config(&format!("uplinks: {{w: {{{it}}}}}\n")));
        let plan = Layers::new(old).plan(&new);
        (plan[0].impact(), plan[0].action())
    };
    let changed = (Impact::None, "changed");
    let reopened = (Impact::RestartsUplink, "reopened");
    for (old, new, expected) in [
        (udp, &*format!("{udp}, mtu: 1400"), changed),
        // They are bound to no address of theirs.
        (
            udp,
            "driver: udp, addresses: [192.0.2.1/24, 192.0.2.3/24]",
            changed,
        ),
        (udp, "driver: udp, addresses: [192.0.2.1/24]", reopened),
        (udp, &format!("{udp}, device: lo"), reopened),
        (udp, dpdk, reopened),
        (dpdk, &dpdk.replace("2.1", "2.7"), changed),
        (
            dpdk,
            &format!("{dpdk}, routes: [{{to: default, via: 192.0.2.9}}]"),
            changed,
        ),
        (
            dpdk,
            &format!("{dpdk}, exception: x0, routes_from: main"),
            changed,
        ),
        (
            dpdk,
            &dpdk.replace("2.1/24", "2.1/24, \"fd00::1/64\""),
            reopened,
        ),
        (dpdk, &dpdk.replace("null0", "null1"), reopened),
        (dpdk, &format!("{dpdk}, mtu: 9000"), reopened),
        (dpdk, &format!("{dpdk}, rx_descriptors: 512"), reopened),
    ] {
        assert_eq!(told(old, new), expected, "{old} → {new}");
    }
    let routed = |more: &str| {
        let routes = format!("routes: [{{to: 10.0.0.0/8, via: 192.0.2.9{more}}}]");
        config(&format!("uplinks: {{w: {{{dpdk}, {routes}}}}}\n"))
    };
    let words = lines(&routed(""), &routed(", metric: 50, from: 192.0.2.1"));
    let route = "10.0.0.0/8 via 192.0.2.9";
    let expected =
        format!("uplink w changed (routes: [{route}] → [{route} metric 50 from 192.0.2.1])");
    assert_eq!(words, [expected]);
    let shared = |more: &str| config(&format!("uplinks: {{w: {{{dpdk}{more}}}}}\n"));
    let words = lines(&shared(""), &shared(", exception: x0, routes_from: 100"));
    let expected = "uplink w changed (exception: none → x0; routes_from: none → 100)";
    assert_eq!(words, [expected]);
}

#[test]
fn the_largest_mtu_of_a_file_is_not_fixed() {
    let old = config(NETWORK);
    let new = config("networks: {blue: {gateway: [10.0.1.1/24], mtu: 9000}}\n");
    assert_eq!(
        lines(&old, &new),
        ["network blue changed (mtu: 1500 → 9000)"]
    );
    assert_eq!(impacts(&old, &new), [Impact::None]);
}

#[test]
fn tunnels_are_known_by_their_names() {
    let old = tunnels([1, 2], "");
    assert_eq!(
        lines(&old, &tunnels([2, 1], "")),
        [
            "tunnel a changed (listen_port: 1 → 2)",
            "tunnel b changed (listen_port: 2 → 1)"
        ]
    );
    let renamed = config(
        "uplinks: {wan0: {driver: udp, mtu: 1500}}
tunnels: {c: {uplink: wan0, listen_port: 1, private_key_file: a.key, peers: {}}, b: {uplink: wan0, listen_port: 2, private_key_file: b.key, peers: {}}}
",
    );
    assert_eq!(
        lines(&old, &renamed),
        ["tunnel c added", "tunnel a removed"]
    );
}

#[test]
fn peers_are_known_by_tunnel_and_key() {
    let old = tunnels([1, 2], &format!("{}, {}", peer(1, ""), peer(2, "")));
    let endpoint = ", endpoint: \"192.0.2.1:5\"";
    let new = tunnels([1, 2], &format!("{}, {}", peer(2, endpoint), peer(3, "")));
    let plan = Layers::new(Arc::clone(&old)).plan(&new);
    let words: Vec<_> = plan.iter().map(Change::line).collect();
    assert_eq!(
        words,
        [
            "peer a/p1 removed",
            "peer a/p2 changed (endpoint: none → 192.0.2.1:5)",
            "peer a/p3 added"
        ]
    );
    let moves: Vec<_> = plan
        .iter()
        .map(|change| matches!(change, Change::Peer(c) if c.moves))
        .collect();
    assert_eq!(moves, [false, true, false]);
    assert_eq!(plan[0].impact(), Impact::DropsSession);
}

#[test]
fn a_secret_is_not_told() {
    let old = tunnels([1, 2], &peer(1, ""));
    let new = tunnels([1, 2], &peer(1, ", preshared_key_file: psk"));
    assert_eq!(
        lines(&old, &new),
        ["peer a/p1 changed (preshared_key: none → (secret); preshared_key_file: none → psk)"]
    );
}

/// One port of the network blue, of a driver.
fn port(network: &str, driver: &str, rest: &str) -> Arc<Config> {
    config(&format!(
        "networks: {{blue: {{{network}}}}}\nports: {{vm1: {{driver: {driver}, network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.0.1.5]{rest}}}}}\n"
    ))
}

#[test]
fn a_port_is_reopened_only_for_what_its_guest_negotiates() {
    let blue = "gateway: [10.0.1.1/24]";
    let old = port(blue, "vhost-user", "");
    let impact = |new: &Config| {
        let plan = Layers::new(Arc::clone(&old)).plan(new);
        let port = plan
            .iter()
            .find(|change| matches!(change, Change::Port { .. }));
        port.map(Change::impact)
    };
    assert_eq!(impact(&old), None);
    assert_eq!(
        impact(&port(blue, "vhost-user", ", guard: mac")),
        Some(Impact::None)
    );
    assert_eq!(
        impact(&port(blue, "vhost-user", ", queues: 2")),
        Some(Impact::ReopensPort)
    );
    let grouped = ", socket_group: nobody-has-it";
    assert_eq!(
        impact(&port(blue, "vhost-user", grouped)),
        Some(Impact::ReopensPort)
    );
    let smaller = "gateway: [10.0.1.1/24], mtu: 1400";
    assert_eq!(
        impact(&port(smaller, "vhost-user", "")),
        Some(Impact::ReopensPort)
    );
    assert_eq!(impact(&config(NETWORK)), Some(Impact::ClosesPort));
    // The prefix of its network is nothing to a guest.
    assert_eq!(
        impact(&port("gateway: [10.0.1.1/16]", "vhost-user", "")),
        None
    );
}

#[test]
fn an_interface_follows_its_networks_prefix() {
    let old = port("gateway: [10.0.1.1/24]", "tap", "");
    let new = port("gateway: [10.0.1.1/16]", "tap", "");
    assert_eq!(
        lines(&old, &new),
        [
            "network blue changed (gateway: [10.0.1.1/24] → [10.0.1.1/16])",
            "port vm1 changed (prefixes: [10.0.1.5/24] → [10.0.1.5/16])"
        ]
    );
    assert_eq!(impacts(&old, &new), [Impact::None; 2]);
}

#[test]
fn files_share_the_peers_that_did_not_change() {
    let old = tunnels([1, 2], &format!("{}, {}", peer(1, ""), peer(2, "")));
    let keepalive = ", persistent_keepalive: 25s";
    let mut new = tunnels([1, 2], &format!("{}, {}", peer(2, keepalive), peer(1, "")));
    let layers = Layers::new(Arc::clone(&old));
    layers.share(Arc::get_mut(&mut new).unwrap());
    let (was, is) = (&old.tunnels[0].peers, &new.tunnels[0].peers);
    assert!(Arc::ptr_eq(&was[0], &is[1]) && !Arc::ptr_eq(&was[1], &is[0]));
    assert_eq!(layers.plan(&new).len(), 1);
}

/// A change by `wg` of the peer that the file calls p1.
fn by_wg(layers: &Layers, edit: impl Fn(&mut Peer)) -> Change {
    let tunnel = Name::new("a").unwrap();
    let old = Arc::clone(layers.peers(&tunnel).next().unwrap());
    let mut new = Peer::clone(&old);
    edit(&mut new);
    let edit = Edit::Change {
        old,
        new: Arc::new(new),
    };
    Change::Peer(PeerChange {
        tunnel,
        edit,
        moves: false,
    })
}

#[test]
fn a_file_takes_back_what_wg_set() {
    let file = tunnels([1, 2], &peer(1, ""));
    let a = Name::new("a").unwrap();
    let mut layers = Layers::new(Arc::clone(&file));
    let change = by_wg(&layers, |peer| {
        peer.endpoint = Some(Endpoint::Address("192.0.2.7:7".parse().unwrap()));
    });
    layers.overlay(&change);
    let key = file.tunnels[0].peers[0].public_key;
    assert_eq!(layers.peer_drift(&a, &key), ["endpoint"]);
    let plan = layers.plan(&file);
    assert_eq!(plan.len(), 1);
    assert_eq!(
        plan[0].line(),
        "peer a/p1 changed (endpoint: 192.0.2.7:7 → none)"
    );
    assert!(matches!(&plan[0], Change::Peer(change) if change.moves));
    // What is set back by hand is no drift.
    let back = by_wg(&layers, |peer| peer.endpoint = None);
    layers.overlay(&back);
    assert_eq!(layers.peer_drift(&a, &key), [""; 0]);
    assert_eq!(layers.plan(&file), []);
}

#[test]
fn peers_that_wg_removed_and_added_are_drift() {
    let file = tunnels([1, 2], &format!("{}, {}", peer(1, ""), peer(2, "")));
    let a = Name::new("a").unwrap();
    let mut layers = Layers::new(Arc::clone(&file));
    let edit = |edit| {
        let tunnel = a.clone();
        let moves = false;
        Change::Peer(PeerChange {
            tunnel,
            edit,
            moves,
        })
    };
    let gone = Arc::clone(&file.tunnels[0].peers[0]);
    layers.overlay(&edit(Edit::Remove(Arc::clone(&gone))));
    assert_eq!(
        layers.former_name(&a, &gone.public_key).unwrap().as_str(),
        "p1"
    );
    let added = Arc::new(Peer {
        name: Name::new("new").unwrap(),
        public_key: crate::keys::PublicKey::from_bytes([9; 32]),
        ..Peer::clone(&gone)
    });
    layers.overlay(&edit(Edit::Add(Arc::clone(&added))));
    let names = |layers: &Layers| -> Vec<String> {
        layers.peers(&a).map(|peer| peer.name.to_string()).collect()
    };
    assert_eq!(names(&layers), ["p2", "new"]);
    assert_eq!(layers.tunnel_drift(&a), ["peer p1 removed"]);
    assert_eq!(
        layers.peer_drift(&a, &added.public_key),
        ["not in the file"]
    );
    let lines: Vec<_> = layers.plan(&file).iter().map(Change::line).collect();
    assert_eq!(lines, ["peer a/new removed", "peer a/p1 added"]);
}

#[test]
fn what_wg_set_is_part_of_what_is_desired() {
    let file = tunnels([1, 2], &(peer(1, "") + ", " + &peer(2, "")));
    let mut layers = Layers::new(Arc::clone(&file));
    assert_eq!(layers.merged(), *file);
    let mut wanted = Config::clone(&file);
    let tunnel = &mut wanted.tunnels[0];
    tunnel.fwmark = 9;
    let gone = tunnel.peers.remove(0);
    let old = Arc::clone(&tunnel.peers[0]);
    Arc::make_mut(&mut tunnel.peers[0]).persistent_keepalive = Some(7);
    let new = Arc::clone(&tunnel.peers[0]);
    let peers = [Edit::Remove(gone), Edit::Change { old, new }];
    let (tunnel, moves) = (tunnel.name.clone(), false);
    let peers = peers.map(|edit| {
        let tunnel = tunnel.clone();
        Change::Peer(PeerChange {
            tunnel,
            edit,
            moves,
        })
    });
    let head = wanted.tunnels[0].head();
    let head = Change::Tunnel(Edit::Change {
        old: head.clone(),
        new: head,
    });
    peers
        .iter()
        .chain([&head])
        .for_each(|change| layers.overlay(change));
    assert_eq!(layers.merged(), wanted);
    assert_eq!(layers.plan(&layers.merged()), []);
}
