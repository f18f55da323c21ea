//! What `show` prints, put together on the thread of who asks.
//!
//! In: what is desired, in its order; what the control core tells of it, a page at a time. Out: what a [`Source`] is
//! asked for. Never: the core's time for more than a page, or for a peer's text; a secret.
//!
//! Rooms: [`look`] what the core is asked, [`peers`], [`routes`], [`neighbors`], [`cores`], [`way`], [`lists`] what is
//! made of it, [`called`] who is meant by a name; [`survey`] what metrics are made of.

pub mod called;
mod cores;
pub mod lists;
pub mod look;
mod neighbors;
mod peers;
mod routes;
mod survey;
pub mod way;

use std::{collections::BTreeMap, sync::atomic::Ordering};

use culvert_dataplane::shared::{clock, drops::DropReason};

pub(crate) use self::{peers::standing, survey::Survey};

use self::{
    lists::{Page, Window},
    look::{Head, Look},
};
use crate::{
    api::{Reply, Request, Requester, SendError, ask},
    config::Name,
    history::pending::{Sight, Thing},
    state::{Core, Drop, Neighbor, Peer, Port, Route, Status, Tunnel, Uplink},
};

/// What the API's resources read. Any of it may wait for the core, page after page.
pub trait Source: Send + Sync {
    /// What the process is, and what it runs.
    ///
    /// # Errors
    ///
    /// When the engine has ended, as with all of these.
    fn status(&self) -> Result<Status, SendError>;
    /// Ports, in the configuration's order.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn ports(&self) -> Result<Vec<Port>, SendError>;
    /// Uplinks.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn uplinks(&self) -> Result<Vec<Uplink>, SendError>;
    /// Tunnels, without a look at their peers.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn tunnels(&self) -> Result<Vec<Tunnel>, SendError>;
    /// A page of the peers.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn peers(&self, which: &lists::Peers, window: &Window) -> Result<Page<Peer>, SendError>;
    /// Routes.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn routes(&self) -> Result<Vec<Route>, SendError>;
    /// Neighbors.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn neighbors(&self) -> Result<Vec<Neighbor>, SendError>;
    /// The control core, then the workers.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn cores(&self) -> Result<Vec<Core>, SendError>;
    /// Every drop counter that is not zero.
    #[expect(clippy::missing_errors_doc, reason = "see above")]
    fn drops(&self) -> Result<Vec<Drop>, SendError>;
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

    fn ports(&self) -> Result<Vec<Port>, SendError> {
        Reader::open(self)?.ports()
    }

    fn uplinks(&self) -> Result<Vec<Uplink>, SendError> {
        Ok(Reader::open(self)?.head.uplinks)
    }

    fn tunnels(&self) -> Result<Vec<Tunnel>, SendError> {
        Reader::open(self)?.tunnels()
    }

    fn peers(&self, which: &lists::Peers, window: &Window) -> Result<Page<Peer>, SendError> {
        lists::peers(self, which, window)
    }

    fn routes(&self) -> Result<Vec<Route>, SendError> {
        Ok(Reader::open(self)?.routes())
    }

    fn neighbors(&self) -> Result<Vec<Neighbor>, SendError> {
        Reader::open(self)?.neighbors()
    }

    fn cores(&self) -> Result<Vec<Core>, SendError> {
        Ok(Reader::open(self)?.cores())
    }

    fn drops(&self) -> Result<Vec<Drop>, SendError> {
        let reader = Reader::open(self)?;
        Ok(all_drops(
            &reader.ports()?,
            &reader.peers()?,
            &reader.head.uplinks,
        ))
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

    fn ports(&self) -> Result<Vec<Port>, SendError> {
        let ports = self.head.desired.ports();
        let names: Vec<_> = ports.map(|port| &port.name).collect();
        let ports = self.pages(
            names,
            look::PORTS,
            |name: &&Name| Name::clone(name),
            Look::Ports,
        )?;
        Ok(ports.into_iter().map(|(_, port)| port).collect())
    }

    fn tunnels(&self) -> Result<Vec<Tunnel>, SendError> {
        let desired = &self.head.desired;
        let tunnels = &desired.file().tunnels;
        let names: Vec<_> = tunnels.iter().map(|tunnel| &tunnel.name).collect();
        let tunnels = self.pages(
            names,
            look::TUNNELS,
            |name: &&Name| Name::clone(name),
            Look::Tunnels,
        )?;
        let drifted = |(name, tunnel): (&Name, Tunnel)| Tunnel {
            drift: match self.head.is_lone {
                true => Vec::new(),
                false => desired.tunnel_drift(name),
            },
            ..tunnel
        };
        Ok(tunnels.into_iter().map(drifted).collect())
    }

    /// Asks for what is known of these, so many at a time; what is gone by now is left out.
    fn pages<I, K, T>(
        &self,
        items: Vec<I>,
        at_once: usize,
        key: impl Fn(&I) -> K,
        look: impl Fn(Vec<K>, Reply<Vec<Option<T>>>) -> Look,
    ) -> Result<Vec<(I, T)>, SendError> {
        let mut all = Vec::with_capacity(items.len());
        let mut items = items.into_iter().peekable();
        while items.peek().is_some() {
            let page: Vec<_> = items.by_ref().take(at_once).collect();
            let keys = page.iter().map(&key).collect();
            let told = ask(self.requester, |reply| Request::Look(look(keys, reply)))?;
            let known = page.into_iter().zip(told);
            all.extend(known.filter_map(|(item, told)| Some((item, told?))));
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
            let look = |reply| Request::Look(Look::Ports(vec![name.clone()], reply));
            let seen = ask(requester, look)?.into_iter().next().flatten();
            let up = seen.is_some_and(|port| port.link_up);
            Ok(Sight { up, heard: None })
        }
        Thing::Peer(tunnel, _, key) => {
            let look = |reply| Request::Look(Look::Peers(tunnel.clone(), vec![*key], reply));
            let seen = ask(requester, look)?.into_iter().next().flatten();
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

/// Every counter that is not zero, with its scope.
fn all_drops(ports: &[Port], peers: &[Peer], uplinks: &[Uplink]) -> Vec<Drop> {
    let ports = ports.iter().map(|p| (format!("port {}", p.name), &p.drops));
    let peers = peers
        .iter()
        .map(|p| (format!("peer {}/{}", p.tunnel, p.name), &p.drops));
    let uplinks = uplinks
        .iter()
        .map(|u| (format!("uplink {}", u.name), &u.drops));
    ports
        .chain(peers)
        .chain(uplinks)
        .flat_map(|(scope, drops)| {
            drops.iter().map(move |(reason, &packets)| Drop {
                scope: scope.clone(),
                reason: reason.clone(),
                packets,
            })
        })
        .collect()
}
