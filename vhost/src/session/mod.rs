//! The session: one VMM on one socket, after the other.
//!
//! In: connections, messages with descriptors. Out: rings started and stopped, events.
//! Never: a worker waiting for this thread; a message trusted.
use crate::config::PortConfig;
use crate::event::{PortError, PortEvent};
use crate::port::Shared;

/// Where sessions come from.
#[derive(Debug)]
pub(crate) enum Endpoint {
    /// x
    None,
}
impl Endpoint {
    pub(crate) fn open(_config: &PortConfig) -> Result<Self, PortError> {
        Ok(Self::None)
    }
}
pub(crate) fn run(_shared: &Shared, _endpoint: Endpoint, _events: &dyn Fn(PortEvent)) {}
