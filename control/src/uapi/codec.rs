//! The protocol's text: requests in, answers out.
//!
//! In: bytes as they arrive, in any pieces. Out: [`Request`]s; the text of answers. Never: I/O, a panic, memory
//! beyond the limits below, a key that stays behind in a buffer.
//!
//! A request is `get=1` or `set=1`, lines of `key=value`, and an empty line. A `set` says what is to be done in the
//! order of its lines; what stands before a line that is wrong is done, the rest is not, and the answer tells
//! that line's error. An answer ends with `errno=N` and an empty line, where N is 0 or an error of errno(3) as a
//! *negative* number, as wireguard-go writes and `wg` reads it.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::config;
use crate::keys::{PresharedKey, PrivateKey, PublicKey};

/// The longest line. The longest that says something is a key's: 79 bytes.
pub const LINE_MAX: usize = 4 << 10;
/// The longest request: 100,000 peers with all their settings take half of it.
pub const REQUEST_MAX: usize = 64 << 20;

/// An error of errno(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub u16);

impl Errno {
    /// The request can't be read: a line or the whole is too long.
    pub const IO: Self = Self(5);
    /// Not now: what an earlier change removed is leaving still.
    pub const AGAIN: Self = Self(11);
    /// There is no room for so many peers.
    pub const NOMEM: Self = Self(12);
    /// It is carried out, but for what a worker that takes no commands was to do: the log says what.
    pub const BUSY: Self = Self(16);
    /// There is no such tunnel any more.
    pub const NODEV: Self = Self(19);
    /// A key or value that the protocol doesn't have.
    pub const INVAL: Self = Self(22);
    /// Not a line of the protocol.
    pub const PROTO: Self = Self(71);
    /// The port is taken.
    pub const ADDRINUSE: Self = Self(98);
    /// There is no answer in time.
    pub const TIMEDOUT: Self = Self(110);
}

/// One line of a `set`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `private_key`; `None` (all zeros) takes the identity away.
    PrivateKey(Option<PrivateKey>),
    /// `listen_port`; 0 lets the kernel choose.
    ListenPort(u16),
    /// `fwmark`; 0 is none.
    Fwmark(u32),
    /// `replace_peers`: remove all that there are.
    ReplacePeers,
    /// `public_key`: what follows is about this peer, which is made if need be.
    Peer(PublicKey),
    /// `remove`.
    Remove,
    /// `update_only`: the peer is not made.
    UpdateOnly,
    /// `preshared_key`; `None` (all zeros) takes it away.
    PresharedKey(Option<PresharedKey>),
    /// `endpoint`.
    Endpoint(SocketAddr),
    /// `persistent_keepalive_interval` in seconds; 0 is off.
    PersistentKeepalive(u16),
    /// `replace_allowed_ips`: remove all that there are.
    ReplaceAllowedIps,
    /// `allowed_ip`: the prefix is this peer's, whoever had it. Host bits are cleared.
    AllowedIp(IpNet),
    /// `allowed_ip` with a minus sign: the prefix is not this peer's any more.
    DropAllowedIp(IpNet),
}

/// A request that is complete.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// `get=1`.
    Get,
    /// `set=1`.
    Set {
        /// The lines up to the first that is wrong.
        changes: Vec<Change>,
        /// What is wrong with that one.
        refused: Option<Errno>,
    },
    /// This is no request; answer so, and ask for the next.
    Refused(Errno),
    /// Where the next request begins can't be known: answer so, and close.
    Broken(Errno),
}

/// Asks the system for an interface's number, for link-local endpoints with a zone.
pub type Zones = fn(&str) -> Option<u32>;

/// Reads one client's requests.
#[derive(Debug)]
pub struct Reader {
    line: Zeroizing<Vec<u8>>,
    /// Bytes of this request so far.
    len: usize,
    state: State,
    zones: Zones,
}

#[derive(Debug)]
enum State {
    Idle,
    Get {
        refused: Option<Errno>,
    },
    Set {
        changes: Vec<Change>,
        refused: Option<Errno>,
        /// A `public_key` was among them.
        in_peer: bool,
    },
}

impl Reader {
    /// A reader before the first byte.
    pub fn new(zones: Zones) -> Self {
        Self {
            // Never grows, so that no copy of a key stays behind where it was.
            line: Zeroizing::new(Vec::with_capacity(LINE_MAX)),
            len: 0,
            state: State::Idle,
            zones,
        }
    }

    /// Whether a request has begun and is not complete.
    pub fn in_request(&self) -> bool {
        self.len > 0
    }

    /// Reads from `bytes` up to the end of a request: how many were read, and the request if one is complete.
    /// Without one, all bytes were read.
    pub fn read(&mut self, bytes: &[u8]) -> (usize, Option<Request>) {
        for (position, &byte) in bytes.iter().enumerate() {
            self.len += 1;
            let request = if byte == b'\n' {
                let line = std::mem::replace(&mut self.line, Zeroizing::new(Vec::new()));
                let request = self.line(&line);
                self.line = line;
                // Not `clear`: that would leave the bytes.
                zeroize::Zeroize::zeroize(&mut *self.line);
                request
            } else if self.line.len() == LINE_MAX || self.len > REQUEST_MAX {
                Some(self.broken(Errno::IO))
            } else {
                self.line.push(byte);
                None
            };
            if request.is_some() {
                return (position + 1, request);
            }
        }
        (bytes.len(), None)
    }

    /// The client will send no more: a `set` that it has begun is complete then.
    pub fn end(&mut self) -> Option<Request> {
        let line = std::mem::take(&mut *self.line);
        let line = Zeroizing::new(line);
        if !line.is_empty()
            && let Some(request) = self.line(&line)
        {
            return Some(request);
        }
        match self.state {
            State::Set { .. } => Some(self.complete()),
            State::Idle | State::Get { .. } => None,
        }
    }

    fn line(&mut self, line: &[u8]) -> Option<Request> {
        match &mut self.state {
            State::Idle => match line {
                b"get=1" => self.state = State::Get { refused: None },
                b"set=1" => {
                    self.state = State::Set {
                        changes: Vec::new(),
                        refused: None,
                        in_peer: false,
                    }
                }
                _ => return Some(self.broken(Errno::PROTO)),
            },
            State::Get { .. } | State::Set { .. } if line.is_empty() => {
                return Some(self.complete());
            }
            State::Get { refused } => *refused = Some(Errno::INVAL),
            State::Set {
                changes,
                refused,
                in_peer,
            } => {
                // The rest is read to its end, so that the next request is found.
                if refused.is_none() {
                    match change(line, *in_peer, self.zones) {
                        Ok(Some(change)) => {
                            *in_peer |= matches!(change, Change::Peer(_));
                            changes.push(change);
                        }
                        Ok(None) => {}
                        Err(error) => *refused = Some(error),
                    }
                }
            }
        }
        None
    }

    fn complete(&mut self) -> Request {
        self.len = 0;
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Set {
                changes, refused, ..
            } => Request::Set { changes, refused },
            State::Get {
                refused: Some(error),
            } => Request::Refused(error),
            State::Get { refused: None } | State::Idle => Request::Get,
        }
    }

    fn broken(&mut self, error: Errno) -> Request {
        self.len = 0;
        self.state = State::Idle;
        Request::Broken(error)
    }
}

/// Reads a line of a `set`; `None` asks for nothing.
fn change(line: &[u8], in_peer: bool, zones: Zones) -> Result<Option<Change>, Errno> {
    let line = str::from_utf8(line).map_err(|_| Errno::INVAL)?;
    let (key, value) = line.split_once('=').ok_or(Errno::PROTO)?;
    let change = match (key, in_peer) {
        ("public_key", _) => {
            PublicKey::from_hex(value).map_or(Err(Errno::INVAL), |key| Ok(Change::Peer(key)))
        }
        ("private_key", false) => private_key(value),
        ("listen_port", false) => number(value).map(Change::ListenPort),
        ("fwmark", false) => number(value).map(Change::Fwmark),
        ("replace_peers", false) => truth(value, Change::ReplacePeers),
        ("remove", true) => truth(value, Change::Remove),
        ("update_only", true) => truth(value, Change::UpdateOnly),
        ("preshared_key", true) => preshared_key(value),
        ("endpoint", true) => endpoint(value, zones)
            .map(Change::Endpoint)
            .ok_or(Errno::INVAL),
        ("persistent_keepalive_interval", true) => number(value).map(Change::PersistentKeepalive),
        ("replace_allowed_ips", true) => truth(value, Change::ReplaceAllowedIps),
        ("allowed_ip", true) => match value.strip_prefix('-') {
            Some(value) => prefix(value).map(Change::DropAllowedIp),
            None => prefix(value).map(Change::AllowedIp),
        },
        ("protocol_version", true) if value == "1" => return Ok(None),
        _ => Err(Errno::INVAL),
    };
    change.map(Some)
}

fn truth(value: &str, change: Change) -> Result<Change, Errno> {
    (value == "true").then_some(change).ok_or(Errno::INVAL)
}

/// Decimal digits alone: `FromStr` would take a plus sign, too.
fn number<N: std::str::FromStr>(value: &str) -> Result<N, Errno> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| value.parse().ok()).flatten();
    number.ok_or(Errno::INVAL)
}

fn private_key(value: &str) -> Result<Change, Errno> {
    if value.len() == ZERO.len() && value == ZERO {
        return Ok(Change::PrivateKey(None));
    }
    match PrivateKey::from_hex(value) {
        Ok(key) => Ok(Change::PrivateKey(Some(key))),
        Err(_) => Err(Errno::INVAL),
    }
}

const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn preshared_key(value: &str) -> Result<Change, Errno> {
    match PresharedKey::from_hex(value) {
        Ok(key) if key.is_none() => Ok(Change::PresharedKey(None)),
        Ok(key) => Ok(Change::PresharedKey(Some(key))),
        Err(_) => Err(Errno::INVAL),
    }
}

/// `192.0.2.1:51820`, `[2001:db8::1]:51820`, `[fe80::1%eth0]:51820`; no name that would have to be resolved.
fn endpoint(value: &str, zones: Zones) -> Option<SocketAddr> {
    let (host, port) = value.rsplit_once(':')?;
    let port = number(port).ok()?;
    let Some(host) = host.strip_prefix('[') else {
        let address = host.parse::<std::net::Ipv4Addr>().ok()?;
        return Some((address, port).into());
    };
    let host = host.strip_suffix(']')?;
    let (address, zone) = match host.split_once('%') {
        Some((address, zone)) => (address, Some(zone)),
        None => (host, None),
    };
    let address = address.parse().ok()?;
    let scope = match zone {
        Some(zone) => number(zone).ok().or_else(|| zones(zone))?,
        None => 0,
    };
    Some(SocketAddrV6::new(address, port, 0, scope).into())
}

fn prefix(value: &str) -> Result<IpNet, Errno> {
    let parse = || {
        let (address, len) = value.split_once('/')?;
        let net = IpNet::new(address.parse::<IpAddr>().ok()?, number(len).ok()?).ok()?;
        Some(net.trunc())
    };
    parse().ok_or(Errno::INVAL)
}

/// A tunnel as `get` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its identity.
    pub private_key: Option<PrivateKey>,
    /// Its UDP port; 0 if it has none.
    pub listen_port: u16,
    /// The mark on its packets; 0 if there is none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: Vec<Peer>,
}

/// A peer as `get` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What is configured of it, shared with whoever else has it.
    pub config: Arc<config::Peer>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was complete, since 1970.
    pub last_handshake: Option<Duration>,
    /// Bytes sent to it.
    pub tx_bytes: u64,
    /// Bytes received from it.
    pub rx_bytes: u64,
}

/// What is printed here may hold keys: it is wiped when dropped.
pub type Text = Zeroizing<String>;

impl Device {
    /// The answer to a `get`.
    pub fn print(&self) -> Text {
        // As long as it gets, so that no copy is left where it grew out of its place.
        let nets = self.peers.iter().map(|peer| peer.config.allowed_ips.len());
        let nets: usize = nets.sum();
        let mut text = Zeroizing::new(String::with_capacity(
            256 + self.peers.len() * 512 + nets * 64,
        ));
        let out = &mut *text;
        if let Some(key) = &self.private_key {
            line(out, "private_key", &*key.to_hex());
        }
        if self.listen_port != 0 {
            line(out, "listen_port", self.listen_port);
        }
        if self.fwmark != 0 {
            line(out, "fwmark", self.fwmark);
        }
        for peer in &self.peers {
            peer.print(out);
        }
        text.push_str(&errno(None));
        text
    }
}

impl Peer {
    fn print(&self, out: &mut String) {
        let config = &self.config;
        line(out, "public_key", config.public_key.to_hex());
        match &config.preshared_key {
            Some(key) => line(out, "preshared_key", &*key.to_hex()),
            None => line(out, "preshared_key", ZERO),
        }
        line(out, "protocol_version", 1);
        if let Some(endpoint) = self.endpoint {
            line(out, "endpoint", endpoint);
        }
        let last = self.last_handshake.unwrap_or_default();
        line(out, "last_handshake_time_sec", last.as_secs());
        line(out, "last_handshake_time_nsec", last.subsec_nanos());
        line(out, "tx_bytes", self.tx_bytes);
        line(out, "rx_bytes", self.rx_bytes);
        let keepalive = config.persistent_keepalive.unwrap_or(0);
        line(out, "persistent_keepalive_interval", keepalive);
        for net in &config.allowed_ips {
            line(out, "allowed_ip", net);
        }
    }
}

/// The end of every answer.
pub fn errno(error: Option<Errno>) -> String {
    match error {
        None => "errno=0\n\n".into(),
        Some(Errno(number)) => format!("errno=-{number}\n\n"),
    }
}

/// The text of a `set`: what [`Reader`] reads back as these changes.
pub fn print_set(changes: &[Change]) -> Text {
    let mut text = Zeroizing::new(String::with_capacity(16 + changes.len() * 96));
    let out = &mut *text;
    out.push_str("set=1\n");
    for change in changes {
        match change {
            Change::PrivateKey(Some(key)) => line(out, "private_key", &*key.to_hex()),
            Change::PrivateKey(None) => line(out, "private_key", ZERO),
            Change::ListenPort(port) => line(out, "listen_port", port),
            Change::Fwmark(mark) => line(out, "fwmark", mark),
            Change::ReplacePeers => line(out, "replace_peers", true),
            Change::Peer(key) => line(out, "public_key", key.to_hex()),
            Change::Remove => line(out, "remove", true),
            Change::UpdateOnly => line(out, "update_only", true),
            Change::PresharedKey(Some(key)) => line(out, "preshared_key", &*key.to_hex()),
            Change::PresharedKey(None) => line(out, "preshared_key", ZERO),
            Change::Endpoint(endpoint) => line(out, "endpoint", endpoint),
            Change::PersistentKeepalive(seconds) => {
                line(out, "persistent_keepalive_interval", seconds);
            }
            Change::ReplaceAllowedIps => line(out, "replace_allowed_ips", true),
            Change::AllowedIp(net) => line(out, "allowed_ip", net),
            Change::DropAllowedIp(net) => line(out, "allowed_ip", format_args!("-{net}")),
        }
    }
    out.push('\n');
    text
}

fn line(out: &mut String, key: &str, value: impl std::fmt::Display) {
    // Writing to a String can't fail.
    let _ = writeln!(out, "{key}={value}");
}

#[cfg(test)]
mod tests;
