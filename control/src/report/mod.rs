//! What `show` prints, put together on the thread of who asks.
//!
//! In: what is desired, in its order; what the control core tells of it, a page at a time. Out: what a [`Source`] is
//! asked for. Never: the core's time for more than a page, or for a peer's text; a secret.
//!
//! Rooms: [`look`] what the core is asked, [`ports`], [`peers`], [`routes`], [`neighbors`], [`cores`], [`drops`], [`way`]
//! what is made of it, [`lists`] pages, [`called`] who is meant by a name; [`survey`] what metrics are made of.

pub mod called;
mod cores;
mod drops;
pub mod lists;
pub mod look;
mod neighbors;
mod peers;
mod ports;
mod routes;
mod survey;
pub mod way;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use culvert_dataplane::shared::{clock, drops::DropReason};

pub(crate) use self::{peers::standing, survey::Survey};

use self::{
    lists::{Put, Told, Which, Window, among},
    look::{Asked, Head, Look},
};
use crate::{
    api::{Audience, Reply, Request, Requester, SendError, ask},
    history::pending::{Sight, Thing},
    state::{Core, Drop, Neighbor, Peer, Port, Route, Status, Tunnel, Uplink},
};

/// What the API's resources read: lists tell the items of a page one after the other. Any of it may wait for the core,
/// page after page.
pub trait Source: Send + Sync {
    /// What the process is, and what it runs.
    ///
    /// # Errors
    ///
    /// When the engine has ended, as with all of these.
    fn status(&self) -> Result<Status, SendError>;
    /// Ports.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn ports(&self, which: &Which, window: &Window, put: Put<'_, Port>) -> Told;
    /// Uplinks.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn uplinks(&self, which: &Which, window: &Window, put: Put<'_, Uplink>) -> Told;
    /// Tunnels, without a look at their peers.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn tunnels(&self, which: &Which, window: &Window, put: Put<'_, Tunnel>) -> Told;
    /// Peers.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn peers(&self, which: &Which, window: &Window, put: Put<'_, Peer>) -> Told;
    /// Routes.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn routes(&self, which: &Which, window: &Window, put: Put<'_, Route>) -> Told;
    /// Neighbors.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn neighbors(&self, which: &Which, window: &Window, put: Put<'_, Neighbor>) -> Told;
    /// The control core, and the workers.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn cores(&self, which: &Which, window: &Window, put: Put<'_, Core>) -> Told;
    /// Every drop counter that is not zero.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn drops(&self, which: &Which, window: &Window, put: Put<'_, Drop>) -> Told;
    /// The same for a client, if there is anything to stop once it has left.
    fn for_audience(&self, _: &Audience) -> Option<Arc<dyn Source>> {
        None
    }
}

/// The engine tells it.
impl Source for Requester {
    fn status(&self) -> Result<Status, SendError> {
        let mut status = Reader::open(self)?.status();
        if let Some(history) = self.history() {
            history.tell(&mut status);
        }
        let notices = status.notice.take().into_iter().chain(self.desk().notice());
        status.notice = notices.reduce(|all, it| format!("{all}; {it}"));
        Ok(status)
    }

    fn ports(&self, which: &Which, window: &Window, put: Put<'_, Port>) -> Told {
        Reader::open(self)?.list_ports(which, window, put)
    }

    fn uplinks(&self, which: &Which, window: &Window, put: Put<'_, Uplink>) -> Told {
        let all = Reader::open(self)?.head.uplinks;
        let key = |it: &Uplink| it.name.clone();
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn tunnels(&self, which: &Which, window: &Window, put: Put<'_, Tunnel>) -> Told {
        Reader::open(self)?.list_tunnels(which, window, put)
    }

    fn peers(&self, which: &Which, window: &Window, put: Put<'_, Peer>) -> Told {
        Reader::open(self)?.list_peers(which, window, put)
    }

    fn routes(&self, which: &Which, window: &Window, put: Put<'_, Route>) -> Told {
        Ok(Reader::open(self)?.list_routes(which, window, put))
    }

    fn neighbors(&self, which: &Which, window: &Window, put: Put<'_, Neighbor>) -> Told {
        Reader::open(self)?.list_neighbors(which, window, put)
    }

    fn cores(&self, which: &Which, window: &Window, put: Put<'_, Core>) -> Told {
        let all = Reader::open(self)?.cores();
        let key = |it: &Core| it.name.clone();
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn drops(&self, which: &Which, window: &Window, put: Put<'_, Drop>) -> Told {
        Reader::open(self)?.list_drops(which, window, put)
    }

    fn for_audience(&self, audience: &Audience) -> Option<Arc<dyn Source>> {
        Some(Arc::new(Self::for_audience(self, audience)))
    }
}

/// Who asks, and what was told first.
struct Reader<'r> {
    requester: &'r Requester,
    head: Head,
}

impl<'r> Reader<'r> {
    fn open(requester: &'r Requester) -> Result<Self, SendError> {
        let head = *ask(requester, |reply| Request::Look(Look::Head(reply)))?;
        Ok(Self { requester, head })
    }

    fn status(&self) -> Status {
        let file = self.head.desired.file();
        Status {
            node: file.node.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            config: file.source.display().to_string(),
            generation: self.head.generation,
            uptime_s: self.head.uptime.as_secs(),
            log: crate::process::log::missing(),
            ..Status::default()
        }
    }

    /// Asks for what is known of these, a page at most.
    fn ask<K, T>(
        &self,
        asked: Asked<K, T>,
        look: impl FnOnce(Asked<K, T>, Reply<Asked<K, T>>) -> Look,
    ) -> Result<Asked<K, T>, SendError> {
        if asked.is_empty() {
            return Ok(asked);
        }
        ask(self.requester, |reply| Request::Look(look(asked, reply)))
    }

    /// Asks for what is known of these, so many at a time; what is gone by now is left out.
    fn pages<I, K, T>(
        &self,
        items: Vec<I>,
        at_once: usize,
        key: impl Fn(&I) -> K,
        look: impl Fn(Asked<K, T>, Reply<Asked<K, T>>) -> Look,
    ) -> Result<Vec<(I, T)>, SendError> {
        let mut all = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let page: Vec<_> = items.by_ref().take(at_once).collect();
            let asked = page.iter().map(|item| (key(item), None)).collect();
            let told = self.ask(asked, &look)?;
            let known = page.into_iter().zip(told);
            all.extend(known.filter_map(|(item, (_, told))| Some((item, told?))));
        }
        Ok(all)
    }
}

/// How these are: up are ports with a link, and peers with a session that answer. Of an engine that has ended, none.
pub(crate) fn look_at(requester: &Requester, things: &[Thing]) -> Vec<Sight> {
    things
        .iter()
        .map(|it| sight(requester, it).unwrap_or_default())
        .collect()
}

fn sight(requester: &Requester, thing: &Thing) -> Result<Sight, SendError> {
    match thing {
        Thing::Port(name) => {
            let look = |reply| Request::Look(Look::Ports(vec![(name.clone(), None)], reply));
            let seen = ask(requester, look)?.into_iter().next();
            let seen = seen.and_then(|(_, seen)| seen);
            let up = seen.is_some_and(|port| port.link_up);
            Ok(Sight { up, heard: None })
        }
        Thing::Peer(tunnel, _, key) => {
            let look =
                |reply| Request::Look(Look::Peers(tunnel.clone(), vec![(*key, None)], reply));
            let seen = ask(requester, look)?.into_iter().next();
            let seen = seen.and_then(|(_, seen)| seen);
            Ok(seen.map_or_else(Sight::default, |sight| Sight {
                up: peers::answers(&sight, clock::now()),
                heard: Some(sight.cell.traffic.rx_packets.load(Ordering::Relaxed)),
            }))
        }
    }
}

/// Losses that are not zero.
pub(crate) fn named(drops: impl Iterator<Item = (DropReason, u64)>) -> BTreeMap<String, u64> {
    drops
        .map(|(reason, n)| (reason.name().to_owned(), n))
        .collect()
}
