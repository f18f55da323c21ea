//! Admission: who may begin a connection, and who makes room for another that is not open yet.
//!
//! In: SYNs' ends; those that are not open yet. Out: whether one is let in; which of the others goes. Never: a look at a
//! segment beyond its ends; one source that takes all room: the oldest of whom has most goes first, and of those who
//! have one each nobody before its time.

use std::{collections::HashMap, net::IpAddr};

use culvert_wire::fib::Prefix;
use culvert_wireguard::Instant;

use super::table::ConnectionId;
use crate::{HostDrop, limits};

/// A port that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// Whom it is for.
    pub allow: Vec<Prefix>,
}

/// Whether `source` may begin a connection to a port.
///
/// # Errors
/// Why not. Who asks for a port that is not for him, or nobody's, may be told so.
pub(super) fn admit(listener: Option<&Listener>, source: IpAddr) -> Result<(), HostDrop> {
    let listener = listener.ok_or(HostDrop::TcpPortClosed)?;
    let is_for = listener.allow.iter().any(|prefix| prefix.contains(source));
    is_for.then_some(()).ok_or(HostDrop::TcpNotAllowed)
}

/// Which of those that are not open yet, the oldest first, makes room for another; `None`: none has to yet.
pub(super) fn yields(
    openings: impl Iterator<Item = (ConnectionId, IpAddr, Instant)>,
    now: Instant,
) -> Option<ConnectionId> {
    let (mut oldest, mut most) = (None, (1, None));
    let mut sources: HashMap<IpAddr, (usize, ConnectionId)> = HashMap::new();
    for (id, source, began) in openings {
        oldest = oldest.or(Some((id, began)));
        let (count, first) = sources.entry(source).or_insert((0, id));
        *count += 1;
        if *count > most.0 {
            most = (*count, Some(*first));
        }
    }
    let (_, crowded) = most;
    let aged = oldest.filter(|(_, began)| began.is_older_than(limits::OPENING_GRACE, now));
    crowded.or(aged.map(|(id, _)| id))
}
