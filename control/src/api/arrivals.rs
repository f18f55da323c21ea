//! Arrivals: connections that came by an uplink's own stack, on their way to the API's thread.
//!
//! In: one end of a stream, from the host stacks' thread. Out: the same at the API's thread. Never: more of them than the
//! stacks have connections: a stream that nobody takes keeps its connection's place.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::config::Name;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The API, with TLS.
    Api,
    /// Metrics, without.
    Metrics,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) wanted: Wanted,
    /// By which uplink it came.
    pub(crate) uplink: Name,
    /// Where from.
    pub(crate) remote: SocketAddr,
    /// Its bytes.
    pub(crate) stream: UnixStream,
}

/// The way there.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    sender: UnboundedSender<Arrival>,
    receiver: Arc<Mutex<Option<UnboundedReceiver<Arrival>>>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            sender,
            receiver: Arc::new(Mutex::new(Some(receiver))),
        }
    }
}

impl Arrivals {
    /// Hands a connection over; `false` if nobody takes any more.
    pub(crate) fn send(&self, arrival: Arrival) -> bool {
        self.sender.send(arrival).is_ok()
    }

    /// Where they arrive: for the one who serves them.
    pub(crate) fn take(&self) -> Option<UnboundedReceiver<Arrival>> {
        let receiver = self.receiver.lock();
        receiver.unwrap_or_else(PoisonError::into_inner).take()
    }
}
