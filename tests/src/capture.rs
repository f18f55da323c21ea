//! What crossed a cable.
//!
//! In: an interface in a namespace. Out: a capture file, and tshark's verdict on it.
//! Never: our own idea of what a WireGuard packet is: the dissector decides.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::network::{Namespace, Veth};
use crate::process::{Limit, Process, eventually, run};
use crate::scenario::Scenario;

/// tshark reads about 100,000 packets a second.
const READ: Limit = Duration::from_secs(180);

/// ARP, and IPv6's neighbor discovery with the reports of the groups that it listens to (MLDv2), by which switches that snoop
/// find who is asked; not router discovery.
const NEIGHBOR: &str = "(arp || icmpv6.type == 135 || icmpv6.type == 136 || icmpv6.type == 143)";

/// A running capture of everything on the veth.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// What a capture holds.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// WireGuard messages of any kind.
    pub wireguard: u64,
    /// ARP, neighbor solicitations and advertisements.
    pub neighbor: u64,
    /// Anything else.
    pub other: u64,
    /// What the anything else was, the first few.
    pub samples: String,
    /// Packets that tcpdump could not keep up with.
    pub missed: u64,
}

impl Capture {
    /// Starts capturing; returns when every later packet is seen.
    pub fn start(scenario: &Scenario, namespace: &Namespace, name: &str) -> Result<Self> {
        let file = scenario.path(&format!("{name}.pcap"));
        let mut command = namespace.program("tcpdump");
        // A ring large enough for the bursts that pass while tcpdump waits for a core.
        command
            .args([
                "-i",
                Veth::NAME,
                "-n",
                "-U",
                "-Z",
                "root",
                "-B",
                "65536",
                "-w",
            ])
            .arg(&file);
        let mut tcpdump = Process::start(&format!("{name}-tcpdump"), scenario.scratch(), command)?;
        eventually("tcpdump's first word", Duration::from_secs(10), || {
            tcpdump.must_run()?;
            Ok(tcpdump.log().contains("listening on").then_some(()))
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends the capture and counts. WireGuard is what runs on the given UDP ports and dissects as WireGuard.
    pub fn finish(mut self, ports: &[u16]) -> Result<Crossing> {
        // The kernel hands over a part-filled block of its ring after a second.
        std::thread::sleep(Duration::from_millis(1500));
        self.tcpdump.signal(Signal::INT)?;
        self.tcpdump.wait(Duration::from_secs(20))?;
        let log = self.tcpdump.log();
        let missed = log
            .lines()
            .find_map(|line| line.strip_suffix(" packets dropped by kernel"))
            .and_then(|count| count.parse().ok())
            .context("tcpdump did not say how much it missed")?;
        let wireguard = wireguard_filter(ports);
        let other = format!("!({wireguard} || {NEIGHBOR})");
        let count =
            |filter: &str| -> Result<u64> { Ok(self.read(ports, filter)?.lines().count() as u64) };
        let others = self.read(ports, &other)?;
        let crossing = Crossing {
            wireguard: count(&wireguard)?,
            neighbor: count(NEIGHBOR)?,
            other: others.lines().count() as u64,
            samples: others.lines().take(10).collect::<Vec<_>>().join("\n"),
            missed,
        };
        Ok(crossing)
    }

    /// The capture's file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn read(&self, ports: &[u16], filter: &str) -> Result<String> {
        let mut command = Command::new("tshark");
        command.args(["-n", "-r"]).arg(&self.file);
        for port in ports {
            command.args(["-d", &format!("udp.port=={port},wg")]);
        }
        command.args(["-Y", filter, "-T", "fields"]);
        for field in [
            "frame.number",
            "_ws.col.Source",
            "_ws.col.Destination",
            "_ws.col.Protocol",
            "_ws.col.Info",
        ] {
            command.args(["-e", field]);
        }
        run(&mut command, READ)
    }
}

impl Crossing {
    /// Fails unless there was WireGuard, and nothing besides it and neighbor resolution.
    pub fn must_be_sealed(&self) -> Result<()> {
        ensure!(self.wireguard > 0, "no WireGuard packet crossed: {self:?}");
        ensure!(
            self.other == 0,
            "{} packets crossed that are neither WireGuard nor ARP/ND, the first of them:\n{}",
            self.other,
            self.samples
        );
        Ok(())
    }
}

/// On the tunnel's ports, dissected as one of WireGuard's messages, and not malformed.
fn wireguard_filter(ports: &[u16]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|port| format!("udp.port == {port}"))
        .collect();
    format!("(({}) && wg.type && !_ws.malformed)", ports.join(" || "))
}
