//! What uplinks serve by themselves.
//!
//! In, out, never: as [`super`].

use ipnet::IpNet;

use super::{Reader, narrow};
use crate::config::draft::Served;
use crate::config::limits::{API_PORT, METRICS_PORT};
use crate::config::section::{At, Section};
use crate::config::{Door, value};

impl Reader<'_> {
    pub(super) fn served(&mut self, uplink: &Section<'_>) -> Served {
        Served {
            api: self.door(uplink, "api", API_PORT),
            metrics: self.door(uplink, "metrics", METRICS_PORT),
            responder: (uplink.table("responder", self.report))
                .map(|section| At::new(self.allowed(&section), section.span)),
        }
    }

    fn door(&mut self, uplink: &Section<'_>, name: &str, port: u16) -> Option<At<Door>> {
        let section = uplink.table(name, self.report)?;
        let door = Door {
            port: (section.integer("port", self.report)).map_or(port, |at| narrow(at.value)),
            allow: self.allowed(&section),
        };
        Some(At::new(door, section.span))
    }

    fn allowed(&mut self, section: &Section<'_>) -> Vec<IpNet> {
        let allow = section.list("allow", self.report, value::prefix);
        if allow.is_empty() && section.node("allow").is_some() {
            let title = section.title();
            self.report
                .error(section.span, format!("`allow` of {title} lets nobody in"))
                .help("expected prefixes, as in `[192.0.2.0/24]`; `0.0.0.0/0` is everybody");
        }
        allow.into_iter().map(|at| at.value).collect()
    }
}
