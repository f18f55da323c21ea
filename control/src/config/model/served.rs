//! What an uplink serves by itself.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what the host stack of an uplink listens on. Never: a
//! certificate: those are the API's.

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

/// The responder's ports, TCP's and UDP's: echo (RFC 862), discard (RFC 863), chargen (RFC 864).
pub const RESPONDER_PORTS: [u16; 3] = [7, 9, 19];
