//! Network namespaces and the cables between them.
//!
//! In: labels and addresses. Out: namespaces named `cv-<our pid>-<label>`, gone when dropped.
//! Never: touches the machine's own interfaces or another run's namespaces, unless that run has ended ([`sweep`]).

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{self, Limit, run};

/// No set-up command takes longer on a machine that works.
const SET_UP: Limit = Duration::from_secs(20);

/// A network namespace with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one. The label must be unique within this process.
    pub fn make(label: &str) -> Result<Self> {
        let name = format!("cv-{}-{label}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]), SET_UP)?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A program to be run inside.
    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        process::program(Some(&self.name), program)
    }

    /// Runs `words` inside to their end and gives the output.
    pub fn run(&self, words: &[&str], limit: Limit) -> Result<String> {
        let (program, arguments) = words.split_first().context("an empty command")?;
        run(self.program(program).args(arguments), limit)
    }

    /// `ip -n <namespace> <words>`.
    pub fn ip(&self, words: &str) -> Result<String> {
        run(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(words.split_whitespace()),
            SET_UP,
        )
    }

    /// Carries out commands of nft's own language.
    pub fn nft(&self, commands: &str) -> Result<()> {
        // Its parser wants a line's end behind a block.
        let lines = commands.replace("; }", ";\n}").replace("} }", "}\n}");
        self.run(&["nft", &lines], SET_UP)?;
        Ok(())
    }

    /// `sysctl -w <setting>`, `name=value`.
    pub fn sysctl(&self, setting: &str) -> Result<()> {
        self.run(&["sysctl", "-qw", setting], SET_UP)?;
        Ok(())
    }

    /// Bytes that an interface of this namespace received so far.
    pub fn received_bytes(&self, interface: &str) -> Result<u64> {
        let table = self.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let mut rows = table.lines().filter_map(|row| row.trim().split_once(':'));
        let row = rows.find(|(name, _)| *name == interface);
        let (_, counters) = row.with_context(|| format!("no {interface} in {table}"))?;
        let first = counters.split_whitespace().next().unwrap_or_default();
        Ok(first.parse()?)
    }

    /// Calls `inside` on a thread of its own that lives in the namespace: sockets made there belong to it.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let handle = File::open(Path::new("/run/netns").join(&self.name))?;
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    move_into_link_name_space(handle.as_fd(), Some(LinkNameSpaceType::Network))?;
                    inside()
                })
                .join()
                .unwrap_or_else(|_| Err(anyhow!("panicked inside the namespace")))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that stays is swept by the next run.
        let _ = run(
            Command::new("ip").args(["netns", "del", &self.name]),
            SET_UP,
        );
    }
}

/// Removes the namespaces of runs that have ended without doing so.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir("/run/netns") else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let owner = name
            .strip_prefix("cv-")
            .and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new(&format!("/proc/{owner}")).exists() {
            // Another sweep may have been faster.
            let _ = run(Command::new("ip").args(["netns", "del", &name]), SET_UP);
        }
    }
}

/// A cable between two namespaces; it goes with them.
#[derive(Debug)]
pub struct Veth;

impl Veth {
    /// The interface's name on both sides.
    pub const NAME: &'static str = "wan0";

    /// Joins two namespaces. The kernel has no address on it and sends nothing by itself, cuts what it sends to
    /// the MTU and completes its checksums: an AF_PACKET reader behind the cable sees what a NIC would show it.
    pub fn join(a: &Namespace, b: &Namespace) -> Result<Self> {
        a.ip(&format!(
            "link add {name} type veth peer name {name} netns {other}",
            name = Self::NAME,
            other = b.name()
        ))?;
        for side in [a, b] {
            side.run(
                &["sysctl", "-qw", "net.ipv6.conf.wan0.disable_ipv6=1"],
                SET_UP,
            )?;
            side.run(
                &[
                    "ethtool",
                    "-K",
                    Self::NAME,
                    "tx",
                    "off",
                    "rx",
                    "off",
                    "gso",
                    "off",
                    "tso",
                    "off",
                    "gro",
                    "off",
                ],
                SET_UP,
            )?;
            side.ip(&format!("link set {} up", Self::NAME))?;
        }
        Ok(Self)
    }

    /// Gives the kernel of one side an address, for a peer or an uplink that uses the kernel's sockets.
    pub fn address(&self, side: &Namespace, address: &str) -> Result<()> {
        if address.contains(':') {
            for setting in [
                "disable_ipv6=0",
                "accept_dad=0",
                "accept_ra=0",
                "router_solicitations=0",
            ] {
                side.run(
                    &["sysctl", "-qw", &format!("net.ipv6.conf.wan0.{setting}")],
                    SET_UP,
                )?;
            }
            side.ip(&format!("address add {address} dev {} nodad", Self::NAME))?;
        } else {
            side.ip(&format!("address add {address} dev {}", Self::NAME))?;
        }
        Ok(())
    }
}
