//! Debian's wireguard-go as the far end of a tunnel.
//!
//! In: a namespace, keys, addresses. Out: a TUN interface in that namespace that speaks WireGuard.
//! Never: shares an interface's name with another run: its control socket lives outside the namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;

use crate::culvert::Keys;
use crate::network::Namespace;
use crate::process::{Process, eventually};
use crate::scenario::Scenario;

/// A running wireguard-go with one peer.
#[derive(Debug)]
pub struct WireguardGo {
    process: Process,
    interface: String,
    namespace: String,
}

impl WireguardGo {
    /// Starts one in `namespace`, listening on `port`, with addresses inside the tunnel (`10.1.2.1/24`).
    pub fn start(
        scenario: &Scenario,
        namespace: &Namespace,
        keys: &Keys,
        port: u16,
        addresses: &[&str],
        mtu: u16,
    ) -> Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let interface = format!("cvwg{:x}{serial}", std::process::id());
        let mut command = namespace.program("wireguard-go");
        command.args(["-f", &interface]).env("LOG_LEVEL", "verbose");
        let mut peer = Self {
            process: Process::start("wireguard-go", scenario.scratch(), command)?,
            interface,
            namespace: namespace.name().to_owned(),
        };
        eventually(
            "wireguard-go's control socket",
            Duration::from_secs(10),
            || {
                peer.process.must_run()?;
                Ok(peer.socket().exists().then_some(()))
            },
        )?;
        let key = keys.private_file.display().to_string();
        peer.wg(
            namespace,
            &["private-key", &key, "listen-port", &port.to_string()],
        )?;
        for address in addresses {
            namespace.ip(&format!(
                "address add {address} dev {} {}",
                peer.interface,
                if address.contains(':') { "nodad" } else { "" }
            ))?;
        }
        namespace.ip(&format!("link set {} mtu {mtu} up", peer.interface))?;
        Ok(peer)
    }

    /// `wg set <interface> …`.
    pub fn wg(&self, namespace: &Namespace, words: &[&str]) -> Result<()> {
        let mut command = vec!["wg", "set", &self.interface];
        command.extend(words);
        namespace.run(&command, Duration::from_secs(10))?;
        Ok(())
    }

    /// Adds the peer that Culvert is, and routes for what is behind it.
    pub fn peer(
        &self,
        namespace: &Namespace,
        keys: &Keys,
        endpoint: Option<&str>,
        allowed: &[&str],
        preshared: Option<&Path>,
    ) -> Result<()> {
        let allowed_list = allowed.join(",");
        let mut words = vec!["peer", keys.public.as_str(), "allowed-ips", &allowed_list];
        if let Some(endpoint) = endpoint {
            words.extend(["endpoint", endpoint]);
        }
        let preshared = preshared.map(|file| file.display().to_string());
        if let Some(file) = &preshared {
            words.extend(["preshared-key", file]);
        }
        self.wg(namespace, &words)?;
        for prefix in allowed {
            namespace.ip(&format!("route replace {prefix} dev {}", self.interface))?;
        }
        Ok(())
    }

    /// Bytes received and sent, as `wg show transfer` counts them for its only peer.
    pub fn transfer(&self, namespace: &Namespace) -> Result<(u64, u64)> {
        let text = namespace.run(
            &["wg", "show", &self.interface, "transfer"],
            Duration::from_secs(10),
        )?;
        let mut numbers = text.split_whitespace().skip(1).map(str::parse::<u64>);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        Ok((next(), next()))
    }

    /// Its interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The namespace that it lives in.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn socket(&self) -> PathBuf {
        PathBuf::from(format!("/var/run/wireguard/{}.sock", self.interface))
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        // It removes its socket on SIGTERM; the rest is for when it does not.
        let _ = self.process.signal(Signal::TERM);
        let _ = self.process.wait(Duration::from_secs(2));
        let _ = fs::remove_file(self.socket());
    }
}
