//! iperf3 between two namespaces.
//!
//! In: two namespaces, an address, how much. Out: how much came through.
//! Never: a judgement of speed.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::network::Namespace;
use crate::process::{Limit, Process, bounded};
use crate::scenario::Scenario;

/// What a run of a few seconds may take on a busy machine.
const RUN: Limit = Duration::from_secs(60);

/// A running `iperf3 -s`; it serves one client at a time.
#[derive(Debug)]
pub struct Iperf {
    _server: Process,
    port: u16,
}

/// What a client's report says.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Payload bytes that the receiver has.
    pub received: u64,
    /// Payload bits per second at the receiver.
    pub bits_per_second: f64,
    /// Datagrams that did not come, for UDP.
    pub lost: u64,
}

impl Iperf {
    /// Starts a server on a port of its own.
    pub fn serve(scenario: &Scenario, namespace: &Namespace, port: u16) -> Result<Self> {
        let mut command = namespace.program("iperf3");
        command.args(["-s", "-p", &port.to_string()]);
        let name = format!("iperf3-{}-{port}", namespace.name());
        let server = Process::start(&name, scenario.scratch(), command)?;
        Ok(Self {
            _server: server,
            port,
        })
    }

    /// Sends to `address` with further options of `iperf3 -c`, for some seconds.
    pub fn send(&self, from: &Namespace, address: &str, options: &str) -> Result<Flow> {
        self.send_for(from, address, options, Duration::ZERO)
    }

    /// The same for longer: what the options say that it takes.
    pub fn send_for(
        &self,
        from: &Namespace,
        address: &str,
        options: &str,
        longer: Duration,
    ) -> Result<Flow> {
        // The server needs a moment to listen.
        let mut complaint = String::new();
        for _ in 0..50 {
            let mut command = from.program("iperf3");
            command
                .args(["-J", "--connect-timeout", "5000", "-p"])
                .arg(self.port.to_string())
                .args(["-c", address])
                .args(options.split_whitespace());
            let (status, out, err) = bounded(&mut command, RUN + longer)?;
            let report: Value = serde_json::from_str(&out).unwrap_or_default();
            let error = report["error"].as_str().unwrap_or_default().to_owned();
            if status.success() && error.is_empty() {
                return Flow::read(&report);
            }
            let refused = error.contains("refused") || error.contains("busy");
            complaint = format!("{status}: {error}{err}");
            if !refused {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("iperf3 -c {address} {options}: {complaint}")
    }
}

impl Flow {
    /// Reads a client's report, as `iperf3 -J` prints it.
    pub fn parse(report: &str) -> Result<Self> {
        let report: Value = serde_json::from_str(report)
            .with_context(|| format!("not a report of iperf3: {report}"))?;
        let error = report["error"].as_str().unwrap_or_default();
        ensure!(error.is_empty(), "iperf3: {error}");
        Self::read(&report)
    }

    fn read(report: &Value) -> Result<Self> {
        let end = &report["end"];
        // TCP tells what was received; UDP's sum is the sender's, with what the receiver missed.
        let sum = end.get("sum_received").unwrap_or(&end["sum"]);
        let lost = sum["lost_packets"].as_u64();
        let missing = || format!("no sum in iperf3's report: {report}");
        Ok(Self {
            received: sum["bytes"].as_u64().with_context(missing)?,
            bits_per_second: sum["bits_per_second"].as_f64().with_context(missing)?,
            lost: lost.unwrap_or(0),
        })
    }
}
