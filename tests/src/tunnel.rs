//! A userspace WireGuard that is started as `PROGRAM IFNAME` and driven by `ip` and `wg` alone.
//!
//! In: a namespace, which program. Out: a TUN interface in that namespace, and what `wg` says about it.
//! Never: anything that one program understands and another does not; a name shared with another run (the control
//! sockets lie in one folder, whatever the namespace).
//!
//! Scenarios take [`Program::under_test`] for "us": `CULVERT_TEST_TUN=wireguard-go` puts Debian's wireguard-go in
//! Culvert's place, which tells a scenario's fault from Culvert's.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::culvert::{Keys, culvert_binary};
use crate::needs::{Part, boringtun, gotatun};
use crate::network::{Namespace, Veth};
use crate::process::{Limit, Process, bounded, eventually, run, tail};
use crate::scenario::Scenario;
use crate::topology::{GUEST_MTU, Outer};

const START: Limit = Duration::from_secs(20);
const ANSWER: Limit = Duration::from_secs(20);

/// Which program makes the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `culvert tun`.
    Culvert,
    /// Debian's wireguard-go.
    WireguardGo,
    /// Cloudflare's boringtun.
    Boringtun,
    /// Mullvad's gotatun.
    Gotatun,
}

impl Program {
    /// Culvert, or what `CULVERT_TEST_TUN` puts in its place.
    pub fn under_test() -> Self {
        match std::env::var("CULVERT_TEST_TUN").as_deref() {
            Ok("wireguard-go") => Self::WireguardGo,
            Ok("boringtun") => Self::Boringtun,
            Ok("gotatun") => Self::Gotatun,
            Ok(_) | Err(_) => Self::Culvert,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Culvert => "culvert",
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
        }
    }

    /// What the machine must have for it.
    pub fn parts(self) -> Vec<Part> {
        let mut parts = vec![Part::Root, Part::Tun, Part::WireguardGo];
        match self {
            Self::Boringtun => parts.push(Part::Boringtun),
            Self::Gotatun => parts.push(Part::Gotatun),
            Self::Culvert | Self::WireguardGo => {}
        }
        parts
    }

    fn command(self, namespace: &Namespace, interface: &str) -> Result<Command> {
        let mut command;
        match self {
            Self::Culvert => {
                command = namespace.program(culvert_binary()?);
                command.args(["tun", "--foreground", interface]);
            }
            Self::WireguardGo => {
                command = namespace.program("wireguard-go");
                command.args(["-f", interface]).env("LOG_LEVEL", "error");
            }
            Self::Boringtun => {
                command = namespace.program(boringtun().context("boringtun-cli is missing")?);
                // It gives up root otherwise, and with it the mark and the control socket's folder.
                command.args(["-f", interface, "--disable-drop-privileges"]);
            }
            Self::Gotatun => {
                command = namespace.program(gotatun().context("gotatun is missing")?);
                command.args(["-f", interface, "--disable-drop-privileges"]);
            }
        }
        Ok(command)
    }
}

/// A running `PROGRAM IFNAME`.
#[derive(Debug)]
pub struct Tunnel {
    process: Process,
    program: Program,
    interface: String,
}

impl Tunnel {
    /// Starts one in `namespace` and waits for its interface and its control socket. It has no key yet and is down.
    pub fn start(scenario: &Scenario, namespace: &Namespace, program: Program) -> Result<Self> {
        Self::start_with(scenario, namespace, program, |_, _| Ok(()))
    }

    /// The same, with a hand in the command: `prepare` is told the interface's name.
    pub fn start_with(
        scenario: &Scenario,
        namespace: &Namespace,
        program: Program,
        prepare: impl FnOnce(&str, &mut Command) -> Result<()>,
    ) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let interface = format!("cv{:x}t{serial}", std::process::id());
        let mut command = program.command(namespace, &interface)?;
        prepare(&interface, &mut command)?;
        let name = format!("{}-{serial}", program.name());
        let mut tunnel = Self {
            process: Process::start(&name, scenario.scratch(), command)?,
            program,
            interface,
        };
        let what = format!("the control socket of {name}");
        eventually(&what, START, || {
            tunnel.process.must_run()?;
            let socket = fs::metadata(tunnel.socket());
            let listens = socket.is_ok_and(|socket| socket.file_type().is_socket());
            Ok((listens && tunnel.show(&["dump"]).is_ok()).then_some(()))
        })?;
        // Only what a scenario sends crosses: no router solicitations, no multicast reports from a link-local address.
        namespace.run(
            &[
                "sysctl",
                "-qw",
                &format!("net.ipv6.conf.{}.router_solicitations=0", tunnel.interface),
            ],
            ANSWER,
        )?;
        namespace.ip(&format!("link set {} addrgenmode none", tunnel.interface))?;
        Ok(tunnel)
    }

    /// Its interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Which program this is.
    pub fn program(&self) -> Program {
        self.program
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// `ip address add` and `ip link set up`, with an MTU.
    pub fn up(&self, namespace: &Namespace, addresses: &[String], mtu: u16) -> Result<()> {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            namespace.ip(&format!(
                "address add {address} dev {} {nodad}",
                self.interface
            ))?;
        }
        namespace.ip(&format!("link set {} mtu {mtu} up", self.interface))?;
        Ok(())
    }

    /// `wg set <interface> <words>`, the words separated by blanks.
    pub fn set(&self, words: &str) -> Result<()> {
        run(self.wg("set").args(words.split_whitespace()), ANSWER)?;
        Ok(())
    }

    /// The same, for what may be refused: what `wg` said on its standard error, if it was.
    pub fn try_set(&self, words: &str) -> Result<Option<String>> {
        let (status, _, err) = bounded(self.wg("set").args(words.split_whitespace()), ANSWER)?;
        Ok((!status.success()).then_some(err))
    }

    /// `wg setconf <interface>`, `syncconf` or `addconf` with a configuration of this text.
    pub fn conf(&self, scenario: &Scenario, verb: &str, text: &str) -> Result<()> {
        let file = scenario.path(&format!("{}.conf", self.interface));
        fs::write(&file, text)?;
        run(self.wg(verb).arg(file), ANSWER)?;
        Ok(())
    }

    /// `wg show <interface> <words>`.
    pub fn show(&self, words: &[&str]) -> Result<String> {
        run(
            self.wg("show").args(words).env("WG_HIDE_KEYS", "never"),
            ANSWER,
        )
    }

    /// What `wg show <interface> <field>` says behind a peer's key.
    pub fn field(&self, field: &str, peer: &str) -> Result<String> {
        let text = self.show(&[field])?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(peer)?.strip_prefix('\t'));
        line.map(str::to_owned)
            .with_context(|| format!("no peer {peer} in `wg show {field}`:\n{text}"))
    }

    /// Bytes received from and sent to a peer.
    pub fn transfer(&self, peer: &str) -> Result<(u64, u64)> {
        let text = self.field("transfer", peer)?;
        let (received, sent) = text.split_once('\t').context("two numbers")?;
        Ok((received.parse()?, sent.parse()?))
    }

    /// When the last handshake with a peer was, in seconds of Unix time; 0 for never.
    pub fn latest_handshake(&self, peer: &str) -> Result<u64> {
        Ok(self.field("latest-handshakes", peer)?.parse()?)
    }

    /// Where a peer is thought to be.
    pub fn endpoint(&self, peer: &str) -> Result<String> {
        self.field("endpoints", peer)
    }

    /// The public keys of its peers.
    pub fn peers(&self) -> Result<Vec<String>> {
        let text = self.show(&["peers"])?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Kibibytes of memory that it holds.
    pub fn resident_kib(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no VmRSS")?.parse()?)
    }

    /// Waits until the program has ended by itself, with its socket gone.
    pub fn must_end(&mut self, limit: Limit) -> Result<()> {
        let status = self.process.wait(limit)?;
        ensure!(
            status.success(),
            "{} ended with {status}:\n{}",
            self.program.name(),
            tail(&self.process.log(), 20)
        );
        if self.socket().exists() {
            bail!("{} is still there", self.socket().display());
        }
        Ok(())
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/var/run/wireguard/{}.sock", self.interface))
    }

    fn wg(&self, verb: &str) -> Command {
        let mut command = Command::new("wg");
        command.args([verb, &self.interface]);
        command
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It removes its socket on SIGTERM; the rest is for when it does not.
        let _ = self.process.signal(Signal::TERM);
        let _ = self.process.wait(Duration::from_secs(2));
        let _ = fs::remove_file(self.socket());
    }
}

/// One end of a tunnel: where it lives, its keys, its program.
#[derive(Debug)]
pub struct End {
    /// The program; it ends before its namespace goes.
    pub tunnel: Tunnel,
    /// Its keys.
    pub keys: Keys,
    /// Its UDP port.
    pub port: u16,
    /// Where it lives.
    pub namespace: Namespace,
}

impl End {
    /// Starts a program in a new namespace, with a key and a port. It is still down.
    pub fn make(scenario: &Scenario, label: &str, program: Program, port: u16) -> Result<Self> {
        let namespace = Namespace::make(label)?;
        Self::within(scenario, namespace, label, program, port)
    }

    /// The same in a namespace that is there.
    pub fn within(
        scenario: &Scenario,
        namespace: Namespace,
        label: &str,
        program: Program,
        port: u16,
    ) -> Result<Self> {
        let tunnel = Tunnel::start(scenario, &namespace, program)?;
        let keys = Keys::generate(scenario, label)?;
        tunnel.set(&format!(
            "private-key {} listen-port {port}",
            keys.private_file.display()
        ))?;
        Ok(Self {
            tunnel,
            keys,
            port,
            namespace,
        })
    }

    /// Its public key.
    pub fn public(&self) -> &str {
        &self.keys.public
    }

    /// Pings an address through this end; every ping must be answered.
    pub fn ping(&self, address: &str) -> Result<()> {
        ping(&self.namespace, address, 1, "")
    }

    /// Pings until an answer comes.
    pub fn wait_ping(&self, address: &str, limit: Limit) -> Result<()> {
        let words = ["ping", "-q", "-c", "1", "-W", "1", address];
        let what = format!("an answer from {address}");
        eventually(&what, limit, || {
            Ok(self.namespace.run(&words, ANSWER).ok().map(drop))
        })
    }

    /// Pings that must not be answered.
    pub fn no_ping(&self, address: &str) -> Result<()> {
        let mut command = self.namespace.program("ping");
        command.args(["-q", "-c", "2", "-i", "0.2", "-W", "1", address]);
        let (status, out, _) = bounded(&mut command, ANSWER)?;
        ensure!(!status.success(), "{address} answers, and must not:\n{out}");
        Ok(())
    }
}

/// Sends pings, a few milliseconds apart, with further options of `ping`: the first `count` must be answered. Some more
/// follow them, whose answers `ping` may not wait for: it leaves after twice the time that others took.
pub fn ping(namespace: &Namespace, address: &str, count: u32, options: &str) -> Result<()> {
    const MORE: u32 = 10;
    let sent = (count + MORE).to_string();
    let mut words = vec!["ping", "-n", "-c", &sent, "-i", "0.005", "-W", "2"];
    words.extend(options.split_whitespace());
    words.push(address);
    let limit = ANSWER + Duration::from_millis(60) * (count + MORE);
    let out = namespace.run(&words, limit)?;
    let lost: Vec<u32> = (1..=count)
        .filter(|number| !out.contains(&format!(" icmp_seq={number} ")))
        .collect();
    ensure!(lost.is_empty(), "pings {lost:?} were lost:\n{out}");
    Ok(())
}

/// Two ends on one cable, each the other's only peer.
///
/// ```text
///   a: tun 10.0.0.1/24 ── 192.0.2.1 ─────── wan0 (veth) ─────── 192.0.2.2 ── tun 10.0.0.2/24 :b
///          fd00::1/64     2001:db8::1                         2001:db8::2        fd00::2/64
/// ```
#[derive(Debug)]
pub struct Pair {
    /// The left one.
    pub a: End,
    /// The right one.
    pub b: End,
    /// The key that they share.
    pub preshared: PathBuf,
    /// The cable.
    pub veth: Veth,
}

/// The addresses of a side, `1` or `2`, inside the tunnel.
pub fn inside(side: u8) -> [String; 2] {
    [format!("10.0.0.{side}"), format!("fd00::{side}")]
}

/// The addresses of a side outside.
pub fn outside(side: u8) -> [String; 2] {
    [format!("192.0.2.{side}"), format!("2001:db8::{side}")]
}

impl Pair {
    /// Lays the cable and starts both; they know each other, and nobody's endpoint.
    pub fn lay(scenario: &Scenario, programs: [Program; 2]) -> Result<Self> {
        Self::lay_as(scenario, "", programs)
    }

    /// The same beside other pairs: the label tells their namespaces apart.
    pub fn lay_as(scenario: &Scenario, label: &str, programs: [Program; 2]) -> Result<Self> {
        let a = End::make(scenario, &format!("{label}a"), programs[0], 51821)?;
        let b = End::make(scenario, &format!("{label}b"), programs[1], 51822)?;
        let veth = Veth::join(&a.namespace, &b.namespace)?;
        for (end, side) in [(&a, 1), (&b, 2)] {
            let [four, six] = outside(side);
            veth.address(&end.namespace, &format!("{four}/24"))?;
            veth.address(&end.namespace, &format!("{six}/64"))?;
        }
        let preshared = a.keys.preshared(scenario)?;
        let pair = Self {
            a,
            b,
            preshared,
            veth,
        };
        for (end, other, side) in [(&pair.a, &pair.b, 1), (&pair.b, &pair.a, 2)] {
            let rest = pair.introduction(3 - side);
            end.tunnel.set(&format!("peer {} {rest}", other.public()))?;
            let [four, six] = inside(side);
            let addresses = [format!("{four}/24"), format!("{six}/64")];
            end.tunnel.up(&end.namespace, &addresses, GUEST_MTU)?;
        }
        Ok(pair)
    }

    /// Tells both where the other is.
    pub fn meet(&self, outer: Outer) -> Result<()> {
        self.tell_a(outer)?;
        self.tell_b(outer)
    }

    /// Does without the preshared key from now on.
    pub fn forget_preshared(&mut self) -> Result<()> {
        // An empty file is no key to `wg`.
        self.preshared = "/dev/null".into();
        for (end, other, side) in [(&self.a, &self.b, 2), (&self.b, &self.a, 1)] {
            let peer = format!("peer {}", other.public());
            // boringtun changes no peer that it has.
            end.tunnel.set(&format!("{peer} remove"))?;
            end.tunnel
                .set(&format!("{peer} {}", self.introduction(side)))?;
        }
        Ok(())
    }

    /// Tells `b` where `a` is.
    pub fn tell_b(&self, outer: Outer) -> Result<()> {
        self.tell(&self.b, &self.a, 1, outer)
    }

    /// Tells `a` where `b` is.
    pub fn tell_a(&self, outer: Outer) -> Result<()> {
        self.tell(&self.a, &self.b, 2, outer)
    }

    fn tell(&self, end: &End, other: &End, side: u8, outer: Outer) -> Result<()> {
        let peer = format!("peer {}", other.public());
        let endpoint = format!("endpoint {}", socket(outer, side, other.port));
        if end.tunnel.program() == Program::Boringtun {
            // It changes no peer that it has.
            end.tunnel.set(&format!("{peer} remove"))?;
            let rest = self.introduction(side);
            return end.tunnel.set(&format!("{peer} {rest} {endpoint}"));
        }
        end.tunnel.set(&format!("{peer} {endpoint}"))
    }

    /// What an end is told about the side's key and addresses.
    fn introduction(&self, side: u8) -> String {
        let [four, six] = inside(side);
        format!(
            "preshared-key {} allowed-ips {four}/32,{six}/128",
            self.preshared.display()
        )
    }
}

/// Address and port of a side, as `wg` writes them.
pub fn socket(outer: Outer, side: u8, port: u16) -> String {
    let [four, six] = outside(side);
    match outer {
        Outer::V4 => format!("{four}:{port}"),
        Outer::V6 => format!("[{six}]:{port}"),
    }
}

/// A file with a private key, made from base64 text; mode 0600.
pub fn key_file(scenario: &Scenario, name: &str, base64: &str) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let file = scenario.path(name);
    fs::write(&file, format!("{base64}\n"))?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    Ok(file)
}

/// What a key file holds.
pub fn key_text(file: &Path) -> Result<String> {
    Ok(fs::read_to_string(file)?.trim().to_owned())
}
