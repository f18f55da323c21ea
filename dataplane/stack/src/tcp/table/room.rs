//! Room: places for connections.
//!
//! In: whose connection is to have one. Out: room for it, or under which name there is none. Never: a place of an open
//! connection, given away; one service's or source's places, taken by another's.
//!
//! Places are dealt in equal parts: to each service, and to those that begin here. So who is let in by one service
//! keeps nobody from another. Half of a service's are one source's at most.

use std::net::IpAddr;

use culvert_wireguard::Instant;

use super::{Entry, Owner, Tcp};
use crate::{
    HostDrop, limits,
    tcp::{
        admission::{Listener, Service, source, yields},
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

impl<C: Connection> Tcp<C> {
    /// Sees to it that there is a place for one more of a service (`None`: of those that begin here), and of `remote`.
    pub(super) fn make_room(
        &mut self,
        service: Option<Service>,
        remote: IpAddr,
    ) -> Result<(), HostDrop> {
        let places = self.places;
        let is_alike = |it: &Entry<C>| it.service == service;
        if service.is_some() {
            let its = source(remote);
            let is_his = |it: &Entry<C>| is_alike(it) && source(it.ends.remote.ip()) == its;
            self.make_room_among(places.div_ceil(2), HostDrop::TcpSourceFull, is_his)?;
        }
        self.make_room_among(places, HostDrop::TcpServiceFull, is_alike)?;
        self.make_room_among(limits::CONNECTIONS, HostDrop::TcpConnectionsFull, |_| true)
    }

    /// The oldest that is over makes room; what is open does not.
    fn make_room_among(
        &mut self,
        most: usize,
        full: HostDrop,
        is_among: impl Fn(&Entry<C>) -> bool,
    ) -> Result<(), HostDrop> {
        let is_over =
            |it: &Entry<C>| it.owner == Owner::Gone && it.connection.phase() == Phase::Waiting;
        let all = (self.entries.iter()).filter(|(_, it)| !it.is_opening() && is_among(it));
        if all.clone().count() < most {
            return Ok(());
        }
        let over = all.filter(|(_, it)| is_over(it)).map(|(&id, _)| id).next();
        self.remove(over.ok_or(full)?);
        Ok(())
    }

    pub(super) fn make_room_for_opening(&mut self, now: Instant) -> Result<(), HostDrop> {
        let openings = || {
            let all = self.entries.iter();
            let openings = all.filter(|(_, entry)| entry.is_opening());
            openings.map(|(&id, entry)| (id, entry.ends.remote.ip(), entry.began))
        };
        if openings().count() < limits::OPENINGS {
            return Ok(());
        }
        let id = yields(openings(), now).ok_or(HostDrop::TcpOpeningsFull)?;
        self.yielded += 1;
        self.remove(id);
        Ok(())
    }

    /// How many that were not open yet made room since this was asked.
    pub(crate) fn take_yielded(&mut self) -> u64 {
        std::mem::take(&mut self.yielded)
    }
}
