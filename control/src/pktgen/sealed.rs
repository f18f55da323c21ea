//! What lies behind `p2t`: a tunnel with a session, on a NIC that takes everything and tells nobody.
//!
//! In: a device that has been started, the time. Out: a device that seals, what it has sent. Never: a session that ends in
//! the middle of a trial.
//!
//! Nobody answers on a null NIC. So the tunnel begins on the loopback interface, where a [`Peer`] in memory shakes hands by
//! a socket, and is then moved to the NIC by an apply, which keeps sessions. Before a session is too old for another trial,
//! it goes the same way again.

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use culvert_dataplane::shared::clock;

use super::device::{Device, DeviceError};
use super::peer::{Peer, is_handshake};
use super::stop::Stop;
use crate::keys::{PrivateKey, generate_private};
use crate::state::Part;

/// A trial may take so long, with what is around it: sessions end after 180 s (`REJECT_AFTER_TIME`).
pub const TRIAL_MAX: Duration = Duration::from_secs(150);
/// No session is used for longer.
const SESSION_MAX: Duration = Duration::from_secs(165);
/// How long an answer may take; the protocol asks again after five seconds.
const ANSWER: Duration = Duration::from_secs(20);
const TURN: Duration = Duration::from_millis(20);
/// So often is looked at most what has left, with so much time in between.
const LOOKS: usize = 50;
const BETWEEN: Duration = Duration::from_millis(20);
/// The tunnel's private key, beside the configuration that names it.
pub const KEY_FILE: &str = "wan.key";
/// The uplink's name on the null NIC; `null` is none in YAML.
pub const SINK: &str = "sink";

/// Both ends' keys, and where they meet.
pub struct Sealed {
    own: PrivateKey,
    far: PrivateKey,
    listen_port: u16,
    mtu: u32,
    /// When the session began.
    since: Option<Instant>,
    /// Whether the device's file has its tunnel on the NIC: where it would start, too.
    is_on_nic: bool,
}

/// What has left by the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    packets: u64,
    /// Of those its own handshakes, to which nobody answers there.
    handshakes: u64,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").finish_non_exhaustive()
    }
}

impl Sealed {
    /// New keys, and a port that nobody has.
    ///
    /// # Errors
    /// The system has no randomness or no port.
    pub fn new(mtu: u32) -> io::Result<Self> {
        let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self {
            own: generate_private().map_err(io::Error::other)?,
            far: generate_private().map_err(io::Error::other)?,
            listen_port: probe.local_addr()?.port(),
            mtu,
            since: None,
            is_on_nic: false,
        })
    }

    /// The file that the configuration names, and what is in it.
    #[must_use]
    pub fn key_file(&self) -> (&'static str, String) {
        (KEY_FILE, self.own.to_base64().to_string())
    }

    /// Uplinks and the tunnel, as they stand in a configuration: on the loopback interface, or on the null NIC.
    #[must_use]
    pub fn config(&self, on_nic: bool) -> String {
        let outer = self.mtu + 80;
        let mut text =
            format!("uplinks:\n  lo: {{ driver: udp, addresses: [127.0.0.1/8], mtu: {outer} }}\n");
        if on_nic {
            // A String takes everything.
            let _ = writeln!(
                text,
                "  {SINK}:\n    driver: dpdk\n    device: \"net_null0,no-rx=1\"\n    addresses: [192.0.2.1/24]\n    mtu: {outer}\n    \
                 neighbors: [{{ address: 192.0.2.2, mac: \"52:54:00:00:00:fe\" }}]",
            );
        }
        let (uplink, endpoint) = match on_nic {
            true => (SINK, ", endpoint: \"192.0.2.2:51820\""),
            false => ("lo", ""),
        };
        let _ = writeln!(
            text,
            "tunnels:\n  wan:\n    uplink: {uplink}\n    listen_port: {}\n    private_key_file: {KEY_FILE}\n    mtu: {}\n    uapi: false\n    \
             peers:\n      far: {{ public_key: \"{}\", allowed_ips: [0.0.0.0/0, \"::/0\"]{endpoint} }}",
            self.listen_port,
            self.mtu,
            self.far.public_key().to_base64(),
        );
        text
    }

    /// Sees to a session that is good for a trial; whether it is a new one. `config` makes the device's whole configuration
    /// of uplinks and tunnel.
    ///
    /// # Errors
    /// The device does not answer.
    pub fn ready(
        &mut self,
        device: &mut Device,
        trial: Duration,
        config: impl Fn(&str) -> String,
        stop: &Stop,
    ) -> Result<bool, DeviceError> {
        let lasts = |since: Instant| since.elapsed() + trial < SESSION_MAX;
        if self.since.is_some_and(lasts) {
            return Ok(false);
        }
        self.since = None;
        if self.is_on_nic {
            device.apply(&config(&self.config(false)))?;
            self.is_on_nic = false;
        }
        self.shake_hands(stop)?;
        let begun = Instant::now();
        device.wait_until("session", stop, |client| {
            let state = client.state(Some(Part::Peers));
            state.is_ok_and(|state| state.peers.iter().all(|peer| peer.keypair == "current"))
        })?;
        self.is_on_nic = true;
        device.apply(&config(&self.config(true)))?;
        device.wait_until("peer on its NIC", stop, |client| {
            let state = client.state(Some(Part::Peers));
            let is_there = |uplink: Option<&str>| uplink == Some(SINK);
            state.is_ok_and(|it| it.peers.iter().all(|peer| is_there(peer.uplink.as_deref())))
        })?;
        self.since = Some(begun);
        Ok(true)
    }

    /// The session has gone with the device.
    pub fn lost(&mut self) {
        self.since = None;
    }

    fn shake_hands(&self, stop: &Stop) -> Result<(), DeviceError> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect((Ipv4Addr::LOCALHOST, self.listen_port))?;
        socket.set_read_timeout(Some(TURN))?;
        let endpoint: SocketAddr = (Ipv4Addr::LOCALHOST, self.listen_port).into();
        let far = (self.own.public_key(), endpoint);
        let mtu = u16::try_from(self.mtu).unwrap_or(u16::MAX);
        let mut peer =
            Peer::new(self.far.clone(), far, mtu, clock::now()).map_err(io::Error::other)?;
        peer.call(clock::now());
        let until = Instant::now() + ANSWER;
        let mut datagram = [0; 2048];
        loop {
            while let Some(said) = peer.poll_datagram() {
                // Nobody may listen yet; it is said again.
                let _ = socket.send(&said);
            }
            // With what was just said the device has heard that it was understood.
            if peer.seals_until(clock::now().monotonic).is_some() {
                return Ok(());
            }
            if stop.is_asked() {
                return Err(DeviceError::Interrupted);
            }
            if Instant::now() > until {
                return Err(DeviceError::NotReady("answer to a handshake".into()));
            }
            match socket.recv(&mut datagram) {
                Ok(len) if is_handshake(&datagram[..len]) => {
                    peer.hear(&datagram[..len], endpoint, clock::now());
                }
                Ok(_) | Err(_) => {}
            }
            peer.turn(clock::now());
        }
    }
}

impl Left {
    /// What has left so far, as the device tells; `None`: it does not. It is looked until it is the same twice: packets and
    /// handshakes are told apart, and one may be on its way.
    #[must_use]
    pub fn look(device: &Device) -> Option<Self> {
        let mut last = Self::once(device)?;
        for _ in 0..LOOKS {
            thread::sleep(BETWEEN);
            let now = Self::once(device)?;
            if now == last {
                return Some(now);
            }
            last = now;
        }
        None
    }

    fn once(device: &Device) -> Option<Self> {
        let peers = device.state(Part::Peers)?.peers;
        let uplinks = device.state(Part::Uplinks)?.uplinks;
        let null = uplinks.iter().find(|uplink| uplink.name == SINK)?;
        Some(Self {
            packets: null.tx.packets,
            handshakes: peers.iter().map(|peer| u64::from(peer.unanswered)).sum(),
        })
    }

    /// Data messages since an earlier look; `None`: the device has begun anew in between.
    #[must_use]
    pub fn since(self, earlier: Self) -> Option<u64> {
        let packets = self.packets.checked_sub(earlier.packets)?;
        let handshakes = self.handshakes.checked_sub(earlier.handshakes)?;
        packets.checked_sub(handshakes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_is_data_alone_and_unknown_where_nobody_tells() {
        let left = |packets, handshakes| Left {
            packets,
            handshakes,
        };
        assert_eq!(left(2_012, 3).since(left(10, 1)), Some(2_000));
        assert_eq!(left(10, 1).since(left(10, 1)), Some(0));
        // It has restarted, or somebody has answered.
        assert_eq!(left(5, 0).since(left(10, 0)), None);
        assert_eq!(left(20, 0).since(left(10, 1)), None);
    }

    #[test]
    fn both_configurations_differ_in_the_way_out_alone() {
        let sealed = Sealed::new(1420).unwrap();
        let (lo, nic) = (sealed.config(false), sealed.config(true));
        assert!(lo.contains("uplink: lo") && !lo.contains("endpoint") && !lo.contains("net_null0"));
        assert!(
            nic.contains("uplink: sink") && nic.contains("mtu: 1500") && nic.contains("net_null0")
        );
        let common = |text: &str| {
            text.split("listen_port")
                .nth(1)
                .map(|it| it[..30].to_owned())
        };
        assert_eq!(common(&lo), common(&nic));
    }
}
