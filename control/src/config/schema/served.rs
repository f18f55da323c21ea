//! What uplinks serve by themselves.
//!
//! In, out, never: as [`super`].

use super::{
    Form::{self, Integer, List, Prefix},
    Presence::{Default, Required},
    Table, key,
};
use crate::config::limits::{API_PORT, METRICS_PORT};

const PORT: Form = Integer {
    min: 1,
    max: u16::MAX as u32,
};
const ALLOW: &str = "Prefixes of those who may connect; others are refused as if nobody listened.";

/// `api` of an uplink.
pub(super) static UPLINK_API: Table = Table {
    title: "api",
    doc: "Certificates and roles are those of `api.tls`. A change of the uplink, or of `api.tls`, that is asked for by it is taken with `--confirm` alone.",
    keys: &[
        key("allow", List(&Prefix), Required, ALLOW),
        key("port", PORT, Default("9443"), "The TCP port."),
    ],
};

/// `metrics` of an uplink.
pub(super) static UPLINK_METRICS: Table = Table {
    title: "metrics",
    doc: "Nothing but `/metrics`, without encryption.",
    keys: &[
        key("allow", List(&Prefix), Required, ALLOW),
        key("port", PORT, Default("9587"), "The TCP port."),
    ],
};

/// `responder` of an uplink.
pub(super) static UPLINK_RESPONDER: Table = Table {
    title: "responder",
    doc: "The far end of tests of a way: echo (port 7), discard (9) and chargen (19), over TCP and UDP.",
    keys: &[key("allow", List(&Prefix), Required, ALLOW)],
};

const _: () = assert!(
    API_PORT == 9_443 && METRICS_PORT == 9_587,
    "as the reference has them"
);
