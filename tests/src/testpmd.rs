//! dpdk-testpmd, a packet generator and sink that we did not write.
//!
//! In: a vhost-user socket and what to do there. Out: what it counted itself.
//! Never: a physical device (`--no-pci`) or another DPDK process's files (a prefix of its own).

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::process::{Process, eventually, program};
use crate::scenario::Scenario;

/// What testpmd is attached to and what it does.
#[derive(Clone, Debug)]
pub struct TestpmdSpec {
    /// Its name in logs.
    pub name: String,
    /// EAL's device: `net_virtio_user0,path=…` (a guest) or `net_vhost0,iface=…` (a host).
    pub devices: Vec<String>,
    /// `txonly`, `rxonly`, `macswap`, `io`, …
    pub mode: String,
    /// Queue pairs per device.
    pub queues: u16,
    /// More of testpmd's own options.
    pub options: Vec<String>,
}

impl TestpmdSpec {
    /// A guest on a vhost-user socket where the host listens.
    pub fn guest(name: &str, socket: PathBuf, mac: &str, queues: u16, mode: &str) -> Self {
        Self {
            name: name.to_owned(),
            devices: vec![format!(
                "net_virtio_user0,path={},queues={queues},queue_size=256,mac={mac}",
                socket.display()
            )],
            mode: mode.to_owned(),
            queues,
            options: Vec::new(),
        }
    }

    /// Sends UDP packets with these addresses (`txonly`).
    #[must_use]
    pub fn sending(
        mut self,
        gateway_mac: &str,
        source: &str,
        destination: &str,
        frame_len: u16,
    ) -> Self {
        self.options.extend([
            format!("--eth-peer=0,{gateway_mac}"),
            format!("--tx-ip={source},{destination}"),
            "--tx-udp=4000,9".to_owned(),
            format!("--txpkts={frame_len}"),
        ]);
        self
    }
}

/// A running testpmd.
#[derive(Debug)]
pub struct Testpmd {
    process: Process,
}

/// What testpmd counted over all its ports, from its last word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Packets received.
    pub received: u64,
    /// Packets sent: those that the ring took.
    pub sent: u64,
}

impl Testpmd {
    /// Starts it; returns when it forwards.
    pub fn start(scenario: &Scenario, spec: &TestpmdSpec) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut command = program(None, "dpdk-testpmd");
        command.args([
            "--lcores",
            "0@(0,1),1@(0,1)",
            "--no-pci",
            "--in-memory",
            "--no-telemetry",
        ]);
        command.args(["-m", "192", "--single-file-segments"]);
        // The vectorised paths of packed rings want AVX-512.
        command.arg("--force-max-simd-bitwidth=512");
        command.arg(format!("--file-prefix=cv{}-{serial}", std::process::id()));
        for device in &spec.devices {
            command.args(["--vdev", device]);
        }
        command.arg("--");
        command.arg(format!("--forward-mode={}", spec.mode));
        command.args([
            format!("--rxq={}", spec.queues),
            format!("--txq={}", spec.queues),
        ]);
        command.args([
            "--auto-start",
            "--stats-period=1",
            "--total-num-mbufs=16384",
            "--no-lsc-interrupt",
        ]);
        command.args(&spec.options);
        let mut process = Process::start(&spec.name, scenario.scratch(), command)?;
        eventually("testpmd's start", Duration::from_secs(20), || {
            process.must_run()?;
            Ok(process.log().contains("Port statistics").then_some(()))
        })?;
        Ok(Self { process })
    }

    /// Ends it and gives what it counted.
    pub fn finish(mut self) -> Result<Counted> {
        self.process.signal(Signal::INT)?;
        self.process.wait(Duration::from_secs(10))?;
        totals(&self.process.log()).context("testpmd gave no statistics at its end")
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// The sums of "RX-packets" and "TX-packets" in the accumulated statistics, else over the ports' last ones.
fn totals(log: &str) -> Option<Counted> {
    let (_, last) = log.rsplit_once("Accumulated forward statistics for all ports")?;
    let number = |label: &str| -> Option<u64> {
        let (_, rest) = last.split_once(label)?;
        rest.split_whitespace().next()?.parse().ok()
    };
    Some(Counted {
        received: number("RX-packets:")?,
        sent: number("TX-packets:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Counted, totals};

    #[test]
    fn the_last_word_is_read() {
        let log = "\
  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 12             RX-dropped: 0             RX-total: 12
  TX-packets: 34             TX-dropped: 5             TX-total: 39
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++
";
        assert_eq!(
            totals(log),
            Some(Counted {
                received: 12,
                sent: 34
            })
        );
        assert_eq!(totals("nothing"), None);
    }
}
