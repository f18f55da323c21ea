//! UDP: endpoints of the host's own.
//!
//! In: datagrams to us that are no tunnel's, what owners send. Out: datagrams with where they came from and when; frames.
//! Never: a datagram for two, but for a group's; a buffer that grows with what comes.
//!
//! An endpoint is open, then bound to a port (by its owner, or by the first datagram that it sends), then, if its owner
//! wants that, connected to one other; it may be connected again, and ends when it is closed. A datagram is the endpoint's
//! that says most about it: both ends, or all but our address, or all but the other's end, or the port alone.

mod endpoint;
mod host;
mod ports;

pub use self::endpoint::{EndpointError, EndpointId, Family, Readiness, Received, Side, State};
pub(crate) use self::{endpoint::Endpoints, host::Waiting};

/// The protocol's number.
pub(crate) const PROTOCOL: u8 = 17;
