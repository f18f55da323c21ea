//! Room: places for connections.
//!
//! In: whose connection is to have one. Out: what has to go for it, or under which name there is none. Never: a place of
//! an open connection, given away; one service's or source's places, taken by another's.
//!
//! Places are dealt in equal parts: to each service, and to those that begin here. So who is let in by one service
//! keeps nobody from another. Of a service's a source may take another as long as more are free than it has: half of them
//! alone, and whoever comes later finds some. A host that has two sources, one over IPv4 and one over IPv6, has three
//! quarters at most, and with every /64 more it halves what is left.

use std::net::IpAddr;

use culvert_wireguard::Instant;

use super::{ConnectionId, Owner, Tcp};
use crate::{
    HostDrop, limits,
    tcp::{
        admission::{Listener, Service, source},
        connection::{Connection, Phase},
    },
};

/// How many connections each service may have, and as many those that begin here.
pub(super) fn places(listeners: &[Listener]) -> usize {
    let mut services: Vec<_> = listeners.iter().map(|it| it.service).collect();
    services.sort_unstable();
    services.dedup();
    limits::CONNECTIONS / (services.len() + 1)
}

/// Places that are taken.
#[derive(Default)]
struct Taken {
    /// By connections that last.
    lasting: usize,
    /// By those that are over.
    over: usize,
    oldest_over: Option<ConnectionId>,
}

impl Taken {
    fn count(&mut self, id: ConnectionId, is_over: bool) {
        match is_over {
            true => {
                self.over += 1;
                self.oldest_over = self.oldest_over.or(Some(id));
            }
            false => self.lasting += 1,
        }
    }

    /// What goes, where there are so many places, all of them taken.
    fn goes(&self, places: usize) -> Option<ConnectionId> {
        let is_full = self.lasting + self.over >= places;
        self.oldest_over.filter(|_| is_full)
    }
}

impl<C: Connection> Tcp<C> {
    /// Whether there is a place for one more of a service (`None`: of those that begin here), and of `remote`; answers
    /// what is over and has to go for it. What is not open yet has none.
    pub(super) fn place_for(
        &self,
        service: Option<Service>,
        remote: IpAddr,
    ) -> Result<Option<ConnectionId>, HostDrop> {
        let its = source(remote);
        let (mut all, mut of_service, mut of_source) = <(Taken, Taken, Taken)>::default();
        let held = (self.held.iter()).filter_map(|id| Some((*id, self.entries.get(id)?)));
        for (id, entry) in held {
            let is_over = entry.owner == Owner::Gone && entry.connection.phase() == Phase::Waiting;
            all.count(id, is_over);
            if entry.service == service {
                of_service.count(id, is_over);
                if source(entry.ends.remote.ip()) == its {
                    of_source.count(id, is_over);
                }
            }
        }
        let free = self.places.saturating_sub(of_service.lasting);
        match () {
            () if free == 0 => Err(HostDrop::TcpServiceFull),
            () if service.is_some() && of_source.lasting >= free => Err(HostDrop::TcpSourceFull),
            () if all.lasting >= limits::CONNECTIONS => Err(HostDrop::TcpConnectionsFull),
            () => Ok(of_service
                .goes(self.places)
                .or(all.goes(limits::CONNECTIONS))),
        }
    }

    /// The same, and what has to go is gone.
    pub(super) fn make_room(
        &mut self,
        service: Option<Service>,
        remote: IpAddr,
    ) -> Result<(), HostDrop> {
        let over = self.place_for(service, remote)?;
        over.into_iter().for_each(|id| self.remove(id));
        Ok(())
    }

    pub(super) fn make_room_for_opening(&mut self, now: Instant) -> Result<(), HostDrop> {
        if self.openings.len() < limits::OPENINGS {
            return Ok(());
        }
        let id = self.openings.yields(now);
        self.remove(id.ok_or(HostDrop::TcpOpeningsFull)?);
        self.yielded += 1;
        Ok(())
    }

    /// How many that were not open yet made room since this was asked.
    pub(crate) fn take_yielded(&mut self) -> u64 {
        std::mem::take(&mut self.yielded)
    }
}
