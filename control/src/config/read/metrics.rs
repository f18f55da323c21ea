//! `metrics`.
//!
//! In, out, never: as [`super`].

use super::Reader;
use crate::config::draft::Metrics;
use crate::config::limits::EXPORTER_PORT;
use crate::config::section::Section;
use crate::config::value;

impl Reader<'_> {
    pub(super) fn metrics(&mut self, file: &Section<'_>) -> Metrics {
        let Some(section) = file.table("metrics", self.report) else {
            return Metrics::default();
        };
        let listen = section.get("listen", self.report, value::listen);
        if let Some(at) = listen
            .as_ref()
            .filter(|at| at.value.port() == EXPORTER_PORT)
        {
            self.report
                .error(at.span, format!("`listen` of `metrics` has port {EXPORTER_PORT}"))
                .help("that is WireGuard's exporter's, whose metrics have other names: expected another, as in `127.0.0.1:9587`");
        }
        let exporter = section.get("wireguard_exporter", self.report, value::boolean);
        let peers = section.integer("wireguard_exporter_peers", self.report);
        let labels = self.metrics_labels(&section);
        Metrics {
            listen: listen.map(|at| at.value),
            wireguard_exporter: exporter.map(|at| at.value),
            wireguard_exporter_peers: peers.map(|at| at.value),
            labels,
        }
    }
}
