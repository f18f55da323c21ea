//! The far end of a tunnel of the device's: both ends' keys, where they are, and how it stands in a configuration.
//!
//! In: the MTU inside, the version of IP outside. Out: a configuration of uplink and tunnel, the [`Peer`] at the other end.
//! Never: a key in a configuration, which results have whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_dataplane::shared::clock;
use culvert_pktgen::size::Tunnel;
use culvert_wireguard::ConfigError;

use super::peer::Peer;
use crate::keys::{PrivateKey, generate_private};

/// The tunnel's private key, beside the configuration that names it.
pub const KEY_FILE: &str = "wan.key";
/// The device's NIC's socket, from where the device runs.
pub const SOCKET: &str = "nic.sock";
/// What the uplink is called, and the seat at its other end.
pub const WIRE: &str = "wire";
const PORT: u16 = 51_820;

/// A far end.
pub struct FarEnd {
    device: PrivateKey,
    own: PrivateKey,
    tunnel: Tunnel,
}

impl std::fmt::Debug for FarEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FarEnd").finish_non_exhaustive()
    }
}

impl FarEnd {
    /// With new keys.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(tunnel: Tunnel) -> Result<Self, getrandom::Error> {
        Ok(Self {
            device: generate_private()?,
            own: generate_private()?,
            tunnel,
        })
    }

    /// The file that the configuration names, and what is in it.
    #[must_use]
    pub fn key_file(&self) -> (&'static str, String) {
        (KEY_FILE, self.device.to_base64().to_string())
    }

    /// Uplink and tunnel. Nobody is called by the device: it is called.
    #[must_use]
    pub fn config(&self) -> String {
        let [device, _] = self.places();
        let (address, len) = (device.ip(), if device.is_ipv4() { 24 } else { 64 });
        format!(
            "uplinks:\n  {WIRE}:\n    driver: dpdk\n    device: \"net_vhost0,iface={SOCKET},queues=1\"\n    \
             addresses: [\"{address}/{len}\"]\n    mtu: {}\n\
             tunnels:\n  wan:\n    uplink: {WIRE}\n    listen_port: {PORT}\n    private_key_file: {KEY_FILE}\n    mtu: {}\n    uapi: false\n    \
             peers:\n      far: {{ public_key: \"{}\", allowed_ips: [0.0.0.0/0, \"::/0\"] }}\n",
            self.outer_mtu(),
            self.tunnel.mtu,
            self.own.public_key().to_base64(),
        )
    }

    /// Of the wire: with room for the headers of either version.
    #[must_use]
    pub const fn outer_mtu(&self) -> u32 {
        self.tunnel.mtu + 80
    }

    /// Where the device is, and where the far end.
    #[must_use]
    pub fn places(&self) -> [SocketAddr; 2] {
        [1, 2].map(|host| {
            let ip: IpAddr = match self.tunnel.ipv6 {
                false => Ipv4Addr::new(192, 0, 2, host).into(),
                true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
            };
            SocketAddr::new(ip, PORT)
        })
    }

    /// A peer that has said nothing yet.
    ///
    /// # Errors
    /// Both keys are the same.
    pub fn peer(&self) -> Result<Peer, ConfigError> {
        let [device, _] = self.places();
        let far = (self.device.public_key(), device);
        let mtu = u16::try_from(self.tunnel.mtu).unwrap_or(u16::MAX);
        Peer::new(self.own.clone(), far, mtu, clock::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_no_private_key() {
        for ipv6 in [false, true] {
            let far = FarEnd::new(Tunnel { ipv6, mtu: 1420 }).unwrap();
            let text = far.config();
            let (_, secret) = far.key_file();
            assert!(!text.contains(&secret) && !text.contains(&*far.own.to_base64()));
            assert!(text.contains("mtu: 1500\n"), "{text}");
        }
    }
}
