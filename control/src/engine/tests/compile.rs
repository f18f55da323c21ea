//! Snapshots that are made of the last one are what compiling everything makes of the state of things.

use std::{cell::Cell, fmt::Write as _, net::IpAddr};

use culvert_dataplane::{
    shared::snapshot::{Attachment, Guest, Network, Port, Tunnel},
    uplink::Uplink,
};
use culvert_wire::fib::{Fib, Prefix};
use ipnet::IpNet;
use proptest::{
    prelude::{ProptestConfig, any},
    test_runner::TestRunner,
};

use super::*;
use crate::netlink::Netlink;

/// The present snapshot is what compiling everything makes.
pub(super) fn assert_compiled(site: &mut Site) {
    let engine = &mut site.engine;
    let now = engine.snapshots.load_full();
    let anew = engine.compile_all();
    let ports = |snapshot: &Snapshot| -> Vec<_> {
        let ports = snapshot.ports.iter();
        ports
            .map(|(place, port)| (place, port_words(port)))
            .collect()
    };
    assert_eq!(ports(&now), ports(&anew));
    let attachments = |snapshot: &Snapshot| -> Vec<_> {
        let attachments = snapshot.attachments.iter();
        attachments
            .map(|(place, it)| (place, attachment_words(it)))
            .collect()
    };
    assert_eq!(attachments(&now), attachments(&anew));
    let uplinks = |snapshot: &Snapshot| -> Vec<_> {
        let uplinks = snapshot.uplinks.iter();
        uplinks
            .map(|(place, it)| (place, uplink_words(it)))
            .collect()
    };
    assert_eq!(uplinks(&now), uplinks(&anew));
    assert_eq!(now.workers, anew.workers);
    let probes = probes(engine);
    let networks = |snapshot: &Snapshot| -> Vec<_> {
        let networks = snapshot.networks.iter();
        networks
            .map(|(place, it)| (place, network_words(it), answers(&it.routes, &probes)))
            .collect()
    };
    assert_eq!(networks(&now), networks(&anew));
    let tunnels = |snapshot: &Snapshot| -> Vec<_> {
        let tunnels = snapshot.tunnels.iter();
        tunnels
            .map(|(place, it)| (place, tunnel_words(it)))
            .collect()
    };
    assert_eq!(tunnels(&now), tunnels(&anew));
    assert_peers(engine, &now, &probes);
}

fn uplink_words(uplink: &Uplink) -> String {
    let (hop, counters) = (Arc::as_ptr(&uplink.hop), Arc::as_ptr(&uplink.counters));
    let (index, tunnels) = (uplink.index, &uplink.tunnels);
    format!(
        "{index:?} {} {:?} {tunnels:?} {hop:p} {counters:p}",
        uplink.name, uplink.addresses
    )
}

fn port_words(port: &Port) -> String {
    let guest = match &port.guest {
        Guest::Vhost(guest) => format!("{:p}", Arc::as_ptr(guest)),
        Guest::Tun(guest) => format!("{:p}", Arc::as_ptr(guest)),
    };
    let drops = Arc::as_ptr(&port.drops);
    let (index, at) = (port.index, port.attachment);
    format!(
        "{index:?} {} {at:?} {:?} {guest} {} {drops:p}",
        port.name, port.vlans, port.queues
    )
}

fn attachment_words(it: &Attachment) -> String {
    let (own, errors) = (Arc::as_ptr(&it.link_locals), Arc::as_ptr(&it.errors));
    let places = (it.index, it.port, it.vlan, it.network);
    format!(
        "{places:?} {} {:?} {own:p} {errors:p} {:?} {} {:p}",
        it.mac,
        it.addresses,
        it.guard,
        it.is_served,
        Arc::as_ptr(&it.questions)
    )
}

fn network_words(network: &Network) -> String {
    let bare = Network {
        routes: Fib::default(),
        ..network.clone()
    };
    format!("{bare:?}")
}

fn tunnel_words(tunnel: &Tunnel) -> String {
    let sessions = Arc::as_ptr(&tunnel.sessions);
    let (name, network) = (&tunnel.name, tunnel.network);
    format!(
        "{name} {} {network:?} {:?} {sessions:p}",
        tunnel.mtu, tunnel.mac1
    )
}

/// The ends of all prefixes that there are, and what lies beside them.
fn probes(engine: &Engine) -> Vec<IpAddr> {
    let peers = engine
        .peers
        .iter()
        .flat_map(|(_, peer)| &peer.config.allowed_ips);
    let networks = || {
        engine
            .networks
            .table
            .iter()
            .map(|(_, network)| &network.config)
    };
    let routes = networks().flat_map(|network| network.routes.iter().map(|route| &route.to));
    let gateways = networks().flat_map(|network| &network.gateways);
    let ports = engine
        .ports
        .iter()
        .flat_map(|(_, port)| &port.config.attachments)
        .flat_map(|it| &it.addresses);
    let mut nets: Vec<IpNet> = peers.chain(routes).chain(gateways).copied().collect();
    nets.extend(ports.map(|&address| IpNet::from(address)));
    nets.push("1.2.3.4/32".parse().unwrap());
    nets.iter().flat_map(ends).collect()
}

fn ends(net: &IpNet) -> [IpAddr; 4] {
    match net {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let all = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            all.map(|bits| std::net::Ipv4Addr::from_bits(bits).into())
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            let all = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            all.map(|bits| std::net::Ipv6Addr::from_bits(bits).into())
        }
    }
}

fn answers<V: Copy + Eq>(fib: &Fib<V>, probes: &[IpAddr]) -> Vec<(IpAddr, Option<V>)> {
    let answer = |&address: &IpAddr| (address, fib.lookup(address));
    probes.iter().map(answer).collect()
}

/// Peers are in their places, and may send from their prefixes alone.
fn assert_peers(engine: &Engine, now: &Snapshot, probes: &[IpAddr]) {
    let cells: Vec<_> = now
        .peers
        .iter()
        .map(|(place, cell)| (place, Arc::as_ptr(cell)))
        .collect();
    let peers = engine.peers.iter();
    let peers: Vec<_> = peers
        .map(|(place, peer)| (place, Arc::as_ptr(&peer.cell)))
        .collect();
    assert_eq!(cells, peers);
    for (slot, tunnel) in engine.tunnels.iter() {
        let anew = Fib::build(tunnel.peers.values().flat_map(|&place| {
            let peer = engine.peers.get(place).unwrap();
            let index = peer.cell.index;
            let nets = peer.config.allowed_ips.iter();
            nets.map(move |net| (Prefix::new(net.addr(), net.prefix_len()).unwrap(), index))
        }));
        let allowed = &now.tunnels.get(slot).unwrap().allowed;
        assert_eq!(answers(allowed, probes), answers(&anew, probes));
    }
}

#[test]
fn tables_that_change_one_by_one_are_as_if_built_anew() {
    let [port] = free_ports();
    let mut config = crowd(port, 200);
    let network = parse(
        "uplinks: {lo: {driver: udp}}\ntunnels: {a: {uplink: lo, listen_port: 9, private_key_file: a.key, peers: {}}}\nnetworks: {blue: {gateway: [10.0.1.1/24], tunnel: a}}\nports: {vm1: {network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.0.1.5]}}\n",
    );
    config.networks = network.networks;
    config.ports = network.ports;
    let keys: Vec<_> = config.tunnels[0]
        .peers
        .iter()
        .map(|peer| peer.public_key)
        .collect();
    let mut site = Site::start(config.clone());
    assert_compiled(&mut site);
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    // More of it, one that another has, the gateway's own prefix, all.
    for (peer, prefix) in [
        (5, "10.9.0.0/24"),
        (6, "10.9.0.0/24"),
        (7, "10.9.0.128/25"),
        (8, "10.0.1.0/24"),
        (9, "0.0.0.0/0"),
        (10, "10.0.1.5/32"),
    ] {
        site.set(
            "a",
            &[Change::Peer(keys[peer]), Change::AllowedIp(net(prefix))],
        );
        assert_compiled(&mut site);
    }
    site.set(
        "a",
        &[
            Change::Peer(keys[9]),
            Change::ReplaceAllowedIps,
            Change::Peer(keys[7]),
            Change::Remove,
        ],
    );
    assert_compiled(&mut site);
    site.set(
        "a",
        &[
            Change::Peer(keys[6]),
            Change::DropAllowedIp(net("10.9.0.0/24")),
        ],
    );
    assert_compiled(&mut site);
    // A file with one peer less takes all of it back.
    config.tunnels[0].peers.remove(20);
    site.apply(config).unwrap();
    assert_compiled(&mut site);
}

/// Choices out of one number.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn one<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[usize::try_from(self.throw(of.len() as u64)).unwrap()]
    }
}

const PEERS: [&str; 5] = ["kim", "lea", "max", "ned", "oda"];
const NETS: [&str; 7] = [
    "10.9.0.0/16",
    "10.9.1.0/24",
    "10.9.1.128/25",
    "10.0.0.0/16",
    "10.0.1.0/28",
    "\"fd09::/32\"",
    "\"fd01::8/125\"",
];

/// Peers of a tunnel, each prefix with one of them at most.
fn peers(dice: &mut Dice) -> String {
    let mut text = String::new();
    let mut nets = NETS.to_vec();
    for peer in PEERS {
        if dice.throw(3) == 0 {
            continue;
        }
        let mut own = Vec::new();
        while dice.throw(2) == 0 && !nets.is_empty() {
            let at = usize::try_from(dice.throw(nets.len() as u64)).unwrap();
            own.push(nets.remove(at));
        }
        let key = key(peer).public_key().to_base64();
        let nets = own.join(", ");
        write!(
            text,
            "{peer}: {{public_key: \"{key}\", allowed_ips: [{nets}]}}, "
        )
        .unwrap();
    }
    text
}

/// What the files of one run of the dice have in common: UDP ports, and an interface if one may be made.
struct Ground {
    udp: [u16; 3],
    interface: Option<String>,
}

impl Ground {
    fn new() -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self {
            udp: free_ports(),
            interface: is_root.then(|| format!("cvd{}", std::process::id() % 1_000_000)),
        }
    }
}

/// A file with some of all; `None` if it is none that could be applied.
fn file(dice: &mut Dice, ground: &Ground) -> Option<Config> {
    let mut text = "version: 1\nnode: test\nuplinks:\n".to_owned();
    let mut uplinks = Vec::new();
    for name in ["lo", "u", "w"] {
        let nets = dice.one(&["127.0.0.1/8", "127.0.0.2/8", "127.0.0.1/8, 127.0.0.2/8", ""]);
        if name == "lo" || dice.throw(2) == 0 {
            let mtu = dice.one(&["1400", "1500"]);
            writeln!(
                text,
                "  {name}: {{driver: udp, mtu: {mtu}, addresses: [{nets}]}}"
            )
            .unwrap();
            uplinks.push(name);
        }
    }
    writeln!(text, "tunnels:").unwrap();
    let mut tunnels = Vec::new();
    for (name, port) in ["a", "b", "c"].iter().zip(ground.udp) {
        if dice.throw(4) > 0 {
            let (peers, mtu) = (peers(dice), dice.one(&["1280", "1320"]));
            let uplink = dice.one(&uplinks);
            writeln!(text, "  {name}: {{uplink: {uplink}, uapi: off, mtu: {mtu}, listen_port: {port}, private_key_file: {name}.key, peers: {{{peers}}}}}").unwrap();
            tunnels.push(*name);
        }
    }
    writeln!(text, "networks:").unwrap();
    let mut networks = Vec::new();
    let plain = ground.interface.as_ref().filter(|_| dice.throw(2) == 0);
    let plain = plain.and_then(|interface| Some((interface, tunnels.pop()?)));
    if let Some((_, tunnel)) = plain {
        let mtu = dice.one(&["1280", "1300", "1400"]);
        writeln!(text, "  plain: {{tunnel: {tunnel}, mtu: {mtu}}}").unwrap();
    }
    for name in ["one", "two", "six"] {
        if dice.throw(4) == 0 {
            continue;
        }
        let tunnel = (dice.throw(3) > 0).then(|| tunnels.pop()).flatten();
        let mut routes = Vec::new();
        if tunnel.is_some() && dice.throw(2) == 0 {
            routes.push(format!("{{to: 10.7.0.0/16, peer: {}}}", dice.one(&PEERS)));
        }
        if dice.throw(2) == 0 {
            routes.push(format!(
                "{{to: 10.8.0.0/16, via: 10.0.1.{}}}",
                5 + dice.throw(6)
            ));
        }
        if dice.throw(2) == 0 {
            routes.push("{to: 10.0.1.0/29, unreachable: true}".to_owned());
        }
        let tunnel = tunnel.map_or(String::new(), |tunnel| format!(", tunnel: {tunnel}"));
        let gateway = dice.one(&["10.0.1.1/24", "10.0.1.2/24"]);
        let routes = routes.join(", ");
        writeln!(
            text,
            "  {name}: {{gateway: [{gateway}, \"fd01::1/64\"]{tunnel}, routes: [{routes}]}}"
        )
        .unwrap();
        networks.push(name);
    }
    writeln!(text, "ports:").unwrap();
    if let Some((interface, _)) = plain {
        let own = dice.one(&["", "10.5.0.1", "10.5.0.2"]);
        writeln!(
            text,
            "  host: {{driver: tun, interface: {interface}, network: plain, addresses: [{own}]}}"
        )
        .unwrap();
    }
    let mut sockets = vec!["v", "w", "x", "y"];
    for number in 0..4 {
        if dice.throw(4) == 0 || networks.is_empty() {
            continue;
        }
        let network = dice.one(&networks);
        let socket = sockets.remove(usize::try_from(dice.throw(sockets.len() as u64)).unwrap());
        let mac = 2 * number + dice.throw(2);
        let mut own = vec![format!("10.0.1.{}", 5 + number + dice.throw(2) * 10)];
        if dice.throw(2) == 0 {
            own.push(format!("\"fd01::{}\"", 8 + number));
        }
        let own = own.join(", ");
        let mut vlans = Vec::new();
        for (other, vlan) in networks.iter().filter(|it| *it != network).zip([10, 20]) {
            if dice.throw(3) == 0 {
                let vlan = vlan + dice.throw(2);
                let own = 50 + 4 * number + dice.throw(2) * 100;
                vlans.push(format!(
                    "{vlan}: {{network: {other}, addresses: [10.0.1.{own}]}}"
                ));
            }
        }
        // A trunk may have nothing without a tag.
        let native = match !vlans.is_empty() && dice.throw(3) == 0 {
            true => String::new(),
            false => format!("network: {network}, addresses: [{own}], "),
        };
        let vlans = vlans.join(", ");
        writeln!(text, "  vm{number}: {{{native}vlans: {{{vlans}}}, socket: {socket}.sock, mac: \"52:54:00:00:00:0{mac}\"}}").unwrap();
    }
    let read = config::parse(&text, Path::new("test.yaml"), &Keys);
    // Not all that the dice say goes together.
    read.ok().map(|it| it.0)
}

/// What `wg` may ask for.
fn edits(dice: &mut Dice) -> Vec<Change> {
    let &peer = dice.one(&PEERS);
    let peer = Change::Peer(key(peer).public_key());
    let net = dice.one(&NETS).trim_matches('"').parse().unwrap();
    match dice.throw(6) {
        0 => vec![peer, Change::Remove],
        1 => vec![peer, Change::ReplaceAllowedIps, Change::AllowedIp(net)],
        2 => vec![peer, Change::DropAllowedIp(net)],
        3 => {
            let &own = dice.one(&PEERS);
            vec![Change::PrivateKey(Some(key(own)))]
        }
        4 => vec![Change::ReplacePeers, peer, Change::AllowedIp(net)],
        _ => vec![peer, Change::AllowedIp(net)],
    }
}

/// Applies a file while a port's rings can't be made and a UDP port may be taken, which nobody looks at ahead; whether
/// it was refused.
fn apply_in_need(site: &mut Site, file: Config, dice: &mut Dice, ground: &Ground) -> bool {
    let rings = format!("vm{}.rings", dice.throw(4));
    let rings = site.run_dir.path().join(rings);
    let _ = fs::remove_file(&rings);
    fs::create_dir(&rings).unwrap();
    let taken = std::net::UdpSocket::bind(("127.0.0.1", *dice.one(&ground.udp)));
    let is_refused = site.apply(file).is_err();
    drop(taken);
    fs::remove_dir(&rings).unwrap();
    is_refused
}

/// A port can't be opened for a while.
fn lose_a_port(site: &mut Site, slot: usize) {
    if let Some(port) = site.engine.ports.remove(slot) {
        let (config, error) = (port.config.clone(), String::new());
        site.engine.publish();
        assert_compiled(site);
        site.engine.await_adoption();
        drop(port);
        site.engine.down.push(DownPort { config, error });
    }
    site.engine.retry_ports();
}

#[test]
fn what_is_compiled_after_changes_is_what_compiling_everything_makes() {
    let config = ProptestConfig {
        cases: 12,
        max_shrink_iters: 0,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let (plain, refused) = (Cell::new(0), Cell::new(0));
    let count = |cell: &Cell<u32>, one: bool| cell.set(cell.get() + u32::from(one));
    let run = TestRunner::new(config).run(&any::<u64>(), |seed| {
        let mut dice = Dice(seed);
        let ground = Ground::new();
        let mut site = Site::start(parse(UPLINK));
        for _ in 0..40 {
            match dice.throw(5) {
                0 | 1 => {
                    if let Some(file) = file(&mut dice, &ground) {
                        count(&plain, file.networks.iter().any(|it| it.is_plain()));
                        if dice.throw(2) == 0 {
                            let is_refused = apply_in_need(&mut site, file, &mut dice, &ground);
                            count(&refused, is_refused);
                        } else {
                            site.apply(file).unwrap();
                        }
                    }
                }
                2 => lose_a_port(&mut site, usize::try_from(dice.throw(5)).unwrap()),
                _ => {
                    let tunnel = *dice.one(&["a", "b", "c"]);
                    site.set(tunnel, &edits(&mut dice));
                }
            }
            assert_compiled(&mut site);
        }
        Ok(())
    });
    run.unwrap();
    assert!(refused.get() > 0, "no plan was refused");
    assert!(plain.get() > 0 || Ground::new().interface.is_none());
}

/// As if the host had given the interface of a plain network another MTU.
#[test]
fn an_interfaces_mtu_is_its_tunnels() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let [port] = free_ports();
    let interface = format!("cvc{}", std::process::id() % 1_000_000);
    let mut site = Site::start(parse(&format!(
        "{UPLINK}tunnels: {{a: {{uplink: lo, uapi: off, listen_port: {port}, private_key_file: a.key, peers: {{}}}}}}
networks: {{plain: {{tunnel: a}}}}
ports: {{host: {{driver: tun, interface: {interface}, network: plain}}}}
"
    )));
    assert_compiled(&mut site);
    let index = crate::netlink::index_of(&interface).unwrap();
    for mtu in [1_300, 1_400] {
        Netlink::open().unwrap().set_mtu(index, mtu).unwrap();
        let follows = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(2));
            site.engine.round(clock::now()).unwrap();
            let snapshot = site.engine.snapshots.load();
            u32::from(snapshot.tunnels.get(0).unwrap().mtu) == mtu
        });
        assert!(follows, "{mtu}");
        assert_compiled(&mut site);
    }
}

#[test]
fn a_port_whose_interface_was_deleted_is_not_open() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let [port] = free_ports();
    let interface = format!("cvg{}", std::process::id() % 1_000_000);
    let mut site = Site::start(parse(&format!(
        "{UPLINK}tunnels: {{a: {{uplink: lo, uapi: off, listen_port: {port}, private_key_file: a.key, peers: {{}}}}}}
networks: {{plain: {{tunnel: a}}}}
ports: {{host: {{driver: tun, interface: {interface}, network: plain}}}}
"
    )));
    let told = |site: &mut Site| report(&mut site.engine).ports[0].hindrance.clone();
    assert_eq!(
        (site.engine.shut_ports(), told(&mut site)),
        (Vec::new(), None)
    );
    let deleted = std::process::Command::new("ip")
        .args(["link", "delete", &interface])
        .status();
    assert!(deleted.unwrap().success());
    let is_shut = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(2));
        site.engine.round(clock::now()).unwrap();
        site.engine.shut_ports() == [name("host")]
    });
    assert!(is_shut);
    let why = told(&mut site).unwrap();
    assert!(
        why.starts_with("not open: its interface was deleted"),
        "{why}"
    );
}

/// Its closing was published with the MTU that the plan had set by then.
#[test]
fn a_refused_mtu_is_gone_when_a_port_that_closed_for_the_plan_is_back() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let [port] = free_ports();
    let interface = format!("cvu{}", std::process::id() % 1_000_000);
    let config = |mtu: u16, guest: &str| {
        parse(&format!(
            "{UPLINK}tunnels: {{a: {{uplink: lo, uapi: off, listen_port: {port}, private_key_file: a.key, peers: {{}}}}}}
networks: {{plain: {{tunnel: a, mtu: {mtu}}}, n: {{gateway: 10.7.0.1/24}}}}
ports:
  host: {{driver: tun, interface: {interface}, network: plain}}
  {guest}: {{socket: v.sock, network: n, mac: \"52:54:00:00:00:01\", addresses: [10.7.0.5]}}
"
        ))
    };
    let mut site = Site::start(config(1_400, "vm1"));
    // Nobody looks at it ahead.
    fs::create_dir(site.run_dir.path().join("vm2.rings")).unwrap();
    let shown = |site: &Site| site.engine.snapshots.load().tunnels.get(0).unwrap().mtu;
    let before = shown(&site);
    site.apply(config(1_300, "vm2")).unwrap_err();
    assert_eq!(shown(&site), before);
    assert!(site.is_open("v"));
    assert_compiled(&mut site);
}
