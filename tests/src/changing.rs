//! Two hosts with flows between them, one of which is changed all the time.
//!
//! ```text
//!   flow ── t0 (tun) ── near ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 ── far ── t0 (tun) ── flow
//!   10.1.1.10                                                               10.1.2.10
//! ```
//!
//! In: kinds of change. Out: what became of the flows meanwhile, and what the hosts and their kernels say of losses.
//! Never: a change that takes from the flows what they need.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::counters::Counters;
use crate::culvert::{Culvert, Keys};
use crate::flows::{Numbered, Outcome, Pace};
use crate::network::{Namespace, Veth};
use crate::process::eventually;
use crate::scenario::Scenario;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Peers come and go, and the flow's own has further prefixes.
    Peers,
    /// Routes of the network.
    Routes,
    /// An interface comes and goes.
    Ports,
    /// Both ends have another preshared key.
    Keys,
    /// The MTU of the network, and of its interfaces.
    Mtu,
    /// The uplink's sockets are bound to its interface, or not: it is opened anew.
    Uplinks,
    /// Single objects, beside the file.
    Objects,
}

impl Kind {
    /// Each.
    pub const ALL: [Self; 7] = [
        Self::Peers,
        Self::Routes,
        Self::Ports,
        Self::Keys,
        Self::Mtu,
        Self::Uplinks,
        Self::Objects,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Routes => "routes",
            Self::Ports => "ports",
            Self::Keys => "keys",
            Self::Mtu => "mtu",
            Self::Uplinks => "uplinks",
            Self::Objects => "objects",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Both hosts.
#[derive(Debug)]
pub struct Changing {
    near: Culvert,
    far: Culvert,
    namespaces: [Namespace; 2],
    keys: [Keys; 2],
    extra: [String; 8],
    preshared: [String; 2],
    /// What is changed at present, by kind.
    turns: BTreeMap<Kind, usize>,
}

/// What became of the flows of a while.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Changes made.
    pub changes: u64,
    /// Of both ways.
    pub flows: Outcome,
    /// Losses that have a name, of either host and its kernel.
    pub named: BTreeMap<String, u64>,
}

impl Seen {
    /// Losses that have a name.
    pub fn explained(&self) -> u64 {
        self.named.values().sum::<u64>() + self.flows.unread
    }
}

const SPOKEN: [&str; 2] = ["10.1.1.10", "10.1.2.10"];
const PATIENCE: Duration = Duration::from_secs(60);

impl Changing {
    /// Starts both, and waits until they have a session.
    pub fn lay(scenario: &Scenario) -> Result<Self> {
        let namespaces = [Namespace::make("near")?, Namespace::make("far")?];
        let [near_space, far_space] = &namespaces;
        let cable = Veth::join(near_space, far_space)?;
        cable.address(near_space, "192.0.2.1/24")?;
        cable.address(far_space, "192.0.2.2/24")?;
        let keys = [
            Keys::generate(scenario, "near")?,
            Keys::generate(scenario, "far")?,
        ];
        let mut extra: [String; 8] = Default::default();
        for (number, key) in extra.iter_mut().enumerate() {
            *key = Keys::generate(scenario, &format!("extra{number}"))?.public;
        }
        let psk = |keys: &Keys| keys.preshared(scenario).map(|it| it.display().to_string());
        let preshared = [psk(&keys[0])?, psk(&keys[1])?];
        let turns = BTreeMap::new();
        let yaml = |host| yaml(host, &keys, &extra, &preshared, &turns);
        let near = Culvert::start(scenario, "near", Some(near_space), &yaml(0))?;
        let far = Culvert::start(scenario, "far", Some(far_space), &yaml(1))?;
        for (space, behind) in namespaces.iter().zip(["10.1.2.0/24", "10.1.1.0/24"]) {
            space.ip(&format!("route replace {behind} dev t0"))?;
        }
        eventually("a session", PATIENCE, || {
            Ok(near.handshake_age("far")?.and(far.handshake_age("near")?))
        })?;
        Ok(Self {
            near,
            far,
            namespaces,
            keys,
            extra,
            preshared,
            turns,
        })
    }

    /// The one that is changed.
    pub fn near(&self) -> &Culvert {
        &self.near
    }

    /// The other one.
    pub fn far(&self) -> &Culvert {
        &self.far
    }

    /// Where both are, the one that is changed first.
    pub fn namespaces(&self) -> &[Namespace; 2] {
        &self.namespaces
    }

    /// The file of the one that is changed.
    pub fn yaml(&self) -> String {
        self.yaml_of(0)
    }

    fn yaml_of(&self, host: usize) -> String {
        yaml(host, &self.keys, &self.extra, &self.preshared, &self.turns)
    }

    /// Changes something.
    pub fn change(&mut self, kind: Kind) -> Result<()> {
        let turn = self.turns.entry(kind).or_default();
        *turn += 1;
        let turn = *turn;
        if kind != Kind::Objects {
            self.near.apply(&self.yaml_of(0))?;
            if kind == Kind::Keys {
                self.far.apply(&self.yaml_of(1))?;
            }
            return Ok(());
        }
        let key = format!("public_key={}", self.extra[7]);
        let words: &[&str] = match turn % 4 {
            1 => &[
                "peer",
                "add",
                "wg0/single",
                &key,
                "allowed_ips=10.90.0.0/16",
            ],
            2 => &["peer", "del", "wg0/single"],
            3 => &[
                "port",
                "add",
                "t9",
                "driver=tun",
                "network=n",
                "addresses=10.1.1.99",
            ],
            _ => &["port", "del", "t9"],
        };
        self.near.call(words).map(drop)
    }

    /// Lets flows run both ways, and `meanwhile` as often as there is time for, so far apart.
    pub fn watch(
        &mut self,
        time: Duration,
        pace: Pace,
        apart: Duration,
        mut meanwhile: impl FnMut(&mut Self) -> Result<bool>,
    ) -> Result<Seen> {
        let before = self.named()?;
        let flows = self.flows(pace)?;
        let begin = Instant::now();
        let mut changes = 0;
        let mut changed = Ok(true);
        while begin.elapsed() < time {
            let next = Instant::now() + apart;
            changed = meanwhile(self);
            match changed {
                Ok(done) => changes += u64::from(done),
                Err(_) => break,
            }
            let rest = next
                .min(begin + time)
                .saturating_duration_since(Instant::now());
            std::thread::sleep(rest);
        }
        let [out, back] = flows.map(Numbered::finish);
        let flows = out?.with(back?);
        changed?;
        let mut named = self.named()?;
        for (name, count) in &mut named {
            *count -= before.get(name).copied().unwrap_or(0).min(*count);
        }
        named.retain(|_, count| *count > 0);
        Ok(Seen {
            changes,
            flows,
            named,
        })
    }

    /// One flow each way.
    pub fn flows(&self, pace: Pace) -> Result<[Numbered; 2]> {
        let [near, far] = &self.namespaces;
        let at = |host: usize, port: u16| -> Result<SocketAddrV4> {
            Ok(SocketAddrV4::new(SPOKEN[host].parse()?, port))
        };
        Ok([
            Numbered::start((near, at(0, 7001)?), (far, at(1, 7002)?), pace)?,
            Numbered::start((far, at(1, 7003)?), (near, at(0, 7004)?), pace)?,
        ])
    }

    /// The highest rate of each flow, while both run and nothing is changed.
    pub fn highest_rate(&mut self, time: Duration) -> Result<u64> {
        let seen = self.watch(time, Pace::Window(WINDOW), time, |_| Ok(false))?;
        let millis = u64::try_from(seen.flows.took.as_millis())?.max(1);
        Ok(seen.flows.sent * 1000 / 2 / millis)
    }

    /// All losses that have a name by now: of both hosts, and of the kernel's queues on the way.
    fn named(&self) -> Result<BTreeMap<String, u64>> {
        let mut named = BTreeMap::new();
        for (culvert, namespace) in [&self.near, &self.far].into_iter().zip(&self.namespaces) {
            for (name, count) in culvert.drops()? {
                *named.entry(name).or_default() += count;
            }
            let nobody = Counters::of(namespace)?.count("UdpNoPorts")?;
            *named.entry("kernel-no-port".into()).or_default() += nobody;
            for interface in ["t0", Veth::NAME] {
                let name = format!("kernel-{interface}");
                *named.entry(name).or_default() += kernel_drops(namespace, interface)?;
            }
        }
        Ok(named)
    }
}

/// Packets of a flow in flight at the most: less than an interface's queue holds.
pub const WINDOW: u64 = 256;

/// What the kernel had no room for on its way to an interface, or from it.
fn kernel_drops(namespace: &Namespace, interface: &str) -> Result<u64> {
    let table = namespace.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let mut rows = table.lines().filter_map(|row| row.trim().split_once(':'));
    let row = rows.find(|(name, _)| *name == interface);
    let (_, counts) = row.with_context(|| format!("no {interface} in {table}"))?;
    let counts: Vec<u64> = counts
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(counts.len() >= 12, "{table}");
    Ok(counts[3] + counts[11])
}

fn yaml(
    host: usize,
    keys: &[Keys; 2],
    extra: &[String; 8],
    preshared: &[String; 2],
    turns: &BTreeMap<Kind, usize>,
) -> String {
    let turn = |kind| turns.get(&kind).copied().unwrap_or(0);
    let is_odd = |kind| host == 0 && turn(kind) % 2 == 1;
    let (own, other) = (host, 1 - host);
    let device = if is_odd(Kind::Uplinks) {
        ", device: wan0"
    } else {
        ""
    };
    let mut peers = String::new();
    let shown = if is_odd(Kind::Peers) { 7 } else { 3 };
    for (number, key) in extra[..shown].iter().enumerate().filter(|_| host == 0) {
        peers += &format!(
            "      x{number}: {{ public_key: \"{key}\", allowed_ips: [10.8.{number}.0/24] }}\n"
        );
    }
    let more = if is_odd(Kind::Peers) {
        ", 10.7.0.0/16"
    } else {
        ""
    };
    let routes = match is_odd(Kind::Routes) {
        true => {
            "{ to: 10.77.0.0/16, peer: PEER }, { to: 10.1.2.0/25, peer: PEER }, { to: 10.78.0.0/16, unreachable: true }"
        }
        false => "{ to: 10.79.0.0/16, peer: PEER }",
    };
    let name = ["near", "far"][other];
    let mtu = if is_odd(Kind::Mtu) { 1300 } else { 1400 };
    let more_ports = match is_odd(Kind::Ports) {
        true => "  t1: { driver: tun, network: n, addresses: [10.1.1.11] }\n",
        false => "",
    };
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nuplinks: {{ wan0: {{ driver: udp{device} }} }}\n\
         tunnels:\n  wg0:\n    uplink: wan0\n    listen_port: 51820\n    uapi: off\n    private_key_file: {}\n    \
         peers:\n      {name}: {{ public_key: \"{}\", preshared_key_file: {}, endpoint: \"192.0.2.{}:51820\", \
         persistent_keepalive: 5s, allowed_ips: [10.1.{}.0/24{more}] }}\n{peers}\
         networks: {{ n: {{ mtu: {mtu}, tunnel: wg0, gateway: [10.1.{}.1/24], routes: [{}] }} }}\n\
         ports:\n  t0: {{ driver: tun, network: n, addresses: [{}] }}\n{more_ports}",
        keys[own].private_file.display(),
        keys[other].public,
        preshared[turn(Kind::Keys) % 2],
        other + 1,
        other + 1,
        own + 1,
        routes.replace("PEER", name),
        SPOKEN[own],
    )
}
