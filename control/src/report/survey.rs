//! What metrics are made of.
//!
//! In: what the control core tells, a page at a time. Out: all of it at once, of peers where their counters are. Never: a
//! peer's text.

use std::sync::Arc;

use culvert_dataplane::shared::clock;
use culvert_wireguard::Now;

use super::{
    Reader,
    look::{Head, Look, PeerSight},
};
use crate::{
    api::{Request, Requester, SendError, ask},
    config::{Name, Peer},
    state::{Port, Tunnel},
};

/// A peer as it is desired, and as the core has it.
pub(crate) type Seen = (Arc<Peer>, PeerSight);

/// Everything that is measured.
pub(crate) struct Survey {
    pub(crate) head: Head,
    pub(crate) clock: Now,
    pub(crate) ports: Vec<Port>,
    pub(crate) tunnels: Vec<Tunnel>,
    /// Tunnel by tunnel.
    pub(crate) peers: Vec<(Name, Vec<Seen>)>,
    /// How many settings and peers of each tunnel `wg` has changed against the file.
    pub(crate) drift: Vec<(String, usize)>,
    /// Whether a configuration waits for its confirmation.
    pub(crate) is_pending: bool,
}

impl Survey {
    /// Asks the core for it, page after page.
    ///
    /// # Errors
    ///
    /// When the engine has ended.
    pub(crate) fn take(requester: &Requester) -> Result<Self, SendError> {
        let head = *ask(requester, |reply| Request::Look(Look::Head(reply)))?;
        let reader = Reader { requester, head };
        let (ports, tunnels) = (reader.ports()?, reader.tunnels()?);
        let (mut peers, mut drift) = (Vec::new(), Vec::new());
        for Tunnel {
            name, drift: of, ..
        } in &tunnels
        {
            let Some(name) = Name::new(name) else {
                continue;
            };
            let seen = reader.sights(&name)?;
            let drifted = seen.iter();
            let drifted = drifted.filter(|(peer, _)| !reader.drift(&name, peer).is_empty());
            drift.push((name.to_string(), of.len() + drifted.count()));
            let seen = seen.into_iter();
            let seen = seen.map(|(peer, sight)| (Arc::clone(peer), sight));
            peers.push((name, seen.collect()));
        }
        Ok(Self {
            head: reader.head,
            clock: clock::now(),
            ports,
            tunnels,
            peers,
            drift,
            is_pending: requester
                .history()
                .is_some_and(|it| it.told_pending().is_some()),
        })
    }

    /// All peers, with their tunnels.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (&Name, &Peer, &PeerSight)> {
        self.peers.iter().flat_map(|(tunnel, peers)| {
            let peers = peers.iter();
            peers.map(move |(config, sight)| (tunnel, &**config, sight))
        })
    }
}
