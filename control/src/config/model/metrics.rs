//! What is told to those who measure.
//!
//! In: nothing; [`super::super::build`] makes these. Out: where metrics are served, and which. Never: a metric.

use std::net::SocketAddr;

/// Metrics, beside those on the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where they are served over TCP.
    pub listen: Option<SocketAddr>,
    /// Whether peers have samples by the names that WireGuard's exporters use, too.
    pub wireguard_exporter: bool,
    /// With more peers than these, none has.
    pub wireguard_exporter_peers: u32,
    /// Labels of ports and peers that their series have, by their keys.
    pub labels: Vec<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: None,
            wireguard_exporter: false,
            wireguard_exporter_peers: super::super::limits::EXPORTER_PEERS_DEFAULT,
            labels: Vec::new(),
        }
    }
}

/// What a label of that key is called in metrics: `label_` keeps it apart from what they call things themselves, and what
/// Prometheus has in no name is `_`.
#[must_use]
pub fn metrics_label(key: &str) -> String {
    let plain = |letter: char| match letter.is_ascii_alphanumeric() {
        true => letter,
        false => '_',
    };
    "label_".chars().chain(key.chars().map(plain)).collect()
}
