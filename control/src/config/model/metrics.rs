//! What is told to those who measure.
//!
//! In: nothing; [`super::super::build`] makes these. Out: where metrics are served, and which. Never: a metric.

use std::net::SocketAddr;

/// Metrics, beside those on the control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where they are served over TCP.
    pub listen: Option<SocketAddr>,
    /// Whether peers have samples by the names that WireGuard's exporters use, too.
    pub wireguard_exporter: bool,
    /// With more peers than these, none has.
    pub wireguard_exporter_peers: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: None,
            wireguard_exporter: false,
            wireguard_exporter_peers: super::super::limits::EXPORTER_PEERS_DEFAULT,
        }
    }
}
