//! What an uplink serves by itself.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what the host stack of an uplink listens on. Never: a
//! certificate: those are the API's.

use culvert_stack::bfd;
use culvert_wire::dhcp;
use ipnet::IpNet;

/// What an uplink whose link layer is ours serves at its own addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The API, with `api.tls`.
    pub api: Option<Door>,
    /// Metrics, and nothing else, without encryption.
    pub metrics: Option<Door>,
    /// Whom echo, discard and chargen answer.
    pub responder: Vec<IpNet>,
}

/// A TCP port, and whom it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The port.
    pub port: u16,
    /// Prefixes of those who may connect.
    pub allow: Vec<IpNet>,
}

/// What of an uplink whose link layer is ours takes UDP ports at its addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnUdp {
    /// Its DHCP client.
    pub(crate) dhcp4: bool,
    /// Its responder.
    pub(crate) responder: bool,
    /// Its session with a neighbor.
    pub(crate) bfd: bool,
}

impl OwnUdp {
    /// The key of the uplink that takes a port, which no tunnel can have there.
    pub(crate) fn key_of(self, port: u16) -> Option<&'static str> {
        let all = [
            (self.dhcp4, "dhcp4", &[dhcp::CLIENT_V4][..]),
            (self.responder, "responder", &RESPONDER_PORTS),
            (self.bfd, "bfd", &[bfd::PORT]),
        ];
        let mut there = all
            .into_iter()
            .filter(|(is_there, _, ports)| *is_there && ports.contains(&port));
        there.next().map(|(_, key, _)| key)
    }
}

/// The responder's ports, TCP's and UDP's: echo (RFC 862), discard (RFC 863), chargen (RFC 864).
pub const RESPONDER_PORTS: [u16; 3] = [7, 9, 19];
