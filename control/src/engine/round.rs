//! One round of the control core.
//!
//! In: what ports, interfaces, workers and time have brought. Out: commands to workers, messages, fresh paths.
//! Never: more handshakes than a round's share.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use culvert_dataplane::shared::{
    control_link::Command,
    ids::{PeerIndex, PortIndex},
    limits::{HANDSHAKES_PER_ROUND, INITIATIONS_PER_ROUND},
    peer::signal,
};
use culvert_wireguard::{Now, limits::UNDER_LOAD_BACKLOG};

use super::{Engine, EngineError, interfaces::InterfaceEvent, peers::PeerState, tunnels::Wish};
use crate::{
    config::Name,
    events::EVENTS,
    keys::PublicKey,
    netlink::{LinkWatch, RouteWatch},
    process::log,
};

/// How often links, workers and files are looked after.
const CHORES: Duration = Duration::from_secs(1);
/// A peer that is sent to has its next hop asked for that often, which keeps it fresh.
const REFRESH: Duration = Duration::from_secs(5);

impl Engine {
    /// One round; whether there is more to do at once.
    pub(super) fn round(&mut self, now: Now) -> Result<bool, EngineError> {
        self.rounds += 1;
        while let Ok((name, event)) = self.news.try_recv() {
            if let Some(slot) = self.ports.place(&name)
                && let Some(port) = self.ports.get_mut(slot)
                && port.heard(event, now.monotonic)
            {
                // A worker that is too far behind loses it; the VMM repeats its request.
                let command = Command::Announce(PortIndex::from_slot(slot));
                self.workers.send(0, command);
            }
        }
        self.take_links(now);
        self.take_wg_news();
        let more = self.take_handshakes(now) | self.vacate_peers();
        self.take_signals(now);
        self.pass_deadlines(now);
        let more = self.seek_peers(now) | more;
        let more = self.make_calls(now) | more;
        self.drain_tunnels(now);
        self.hear_neighbors(now);
        self.hear_routes();
        self.note_uplinks(now.monotonic);
        let more = self.choose_ways(now) | more;
        self.take_learned(now);
        let more = self.rebuild_some_paths(now.monotonic) | more;
        let more = self.tell_untold() | more;
        self.hear_errors(now.monotonic);
        self.netstack.publish();
        if now.monotonic >= self.chores_due {
            self.chores_due = now.monotonic + CHORES;
            self.chores(now)?;
        }
        if now.monotonic >= self.losses.due {
            self.watch_losses(now.monotonic);
        }
        Ok(more)
    }

    /// What has become of interfaces. An MTU that the host gave to the interface of a
    /// plain network is its tunnel's from then on.
    fn take_links(&mut self, now: Now) {
        let mut follow = Vec::new();
        let (mut any, mut reroutes) = (false, false);
        let mut switched = Vec::new();
        while let Some(news) = self.links.as_mut().and_then(LinkWatch::next_news) {
            any = true;
            reroutes |= self.failover.heard(&news);
            for (slot, port) in self.ports.iter_mut() {
                let was_up = port.link_up;
                let events = port.interface.as_mut().map(|at| at.hears(&news, was_up));
                for event in events.into_iter().flatten() {
                    if event == InterfaceEvent::Deleted && self.lone {
                        // It was to end so.
                        continue;
                    }
                    port.heard_interface(event);
                    match event {
                        InterfaceEvent::Mtu(_) => follow.push(slot),
                        // Where its news don't come from, it may be up.
                        InterfaceEvent::Up | InterfaceEvent::Moved => {
                            switched.push((slot, true));
                        }
                        InterfaceEvent::Back => {
                            switched.push((slot, port.link_up));
                        }
                        InterfaceEvent::Down => {
                            switched.push((slot, false));
                        }
                        InterfaceEvent::Deleted => {}
                    }
                }
            }
        }
        if any {
            self.follow_devices(now);
        }
        if reroutes {
            self.reconsider_kernels();
        }
        for (slot, up) in switched {
            let port = self.ports.get(slot).and_then(|port| port.config.native());
            if let Some(network) = port.map(|it| it.network.clone()) {
                self.switch(&network, up, now);
            }
        }
        if !follow.is_empty() {
            for slot in follow {
                self.ports.change(slot);
            }
            self.publish();
        }
    }

    /// The tunnel of a plain network rests while its interface is down, as the kernel's do.
    fn switch(&mut self, network: &Name, up: bool, now: Now) {
        let network = self.networks.table.named(network);
        let network = network.map(|network| &network.config);
        let network = network.filter(|network| network.is_plain());
        let tunnel = network.and_then(|network| network.tunnel.as_ref());
        let slot = tunnel.and_then(|name| self.tunnel_slot(name));
        if let Some(tunnel) = slot.and_then(|slot| self.tunnels.get_mut(slot)) {
            if up {
                tunnel.device.bring_up(now);
            } else {
                tunnel.device.bring_down();
            }
        }
    }

    fn take_handshakes(&mut self, now: Now) -> bool {
        let mut backlog: usize = self
            .workers
            .0
            .iter()
            .map(|worker| worker.link.handshakes.slots())
            .sum();
        if backlog == 0 {
            return false;
        }
        // What waits in front of the workers counts, too.
        let crowded = self.uplinks.iter().fold(false, |any, (_, uplink)| {
            any | uplink.counters.crowded.swap(false, Ordering::Relaxed)
        });
        let crowd = if crowded { UNDER_LOAD_BACKLOG } else { 0 };
        self.turn.serve(
            &mut self.workers.0,
            HANDSHAKES_PER_ROUND,
            |worker| worker.link.handshakes.pop().ok(),
            |punt| {
                backlog = backlog.saturating_sub(1);
                if let Some(tunnel) = self.tunnels.get_mut(punt.tunnel.slot()) {
                    let message = punt.message.as_slice();
                    let waiting = backlog.max(crowd);
                    tunnel.handshake(message, punt.origin, waiting, &mut self.peers, now);
                }
            },
        );
        backlog > 0
    }

    /// What workers noticed about peers.
    fn take_signals(&mut self, now: Now) {
        let Self {
            attention,
            peers,
            tunnels,
            ..
        } = self;
        let mut probed = Vec::new();
        let any = attention.sweep(|index| {
            let Some(peer) = peers.get_mut(index.slot()) else {
                return;
            };
            let bits = peer.cell.take_signals();
            let is_sent_to = bits & (signal::DATA_SENT | signal::KEEPALIVE_SENT) != 0;
            if is_sent_to && now.monotonic.since(peer.refreshed) >= REFRESH {
                peer.outdate_path();
            }
            if let Some(tunnel) = tunnels.get_mut(peer.tunnel) {
                if peer.note_path(&tunnel.config, bits, now.monotonic) {
                    probed.push(index.slot());
                }
                tunnel.signals(peer, bits, now);
            }
        });
        for slot in probed {
            self.probe_path(slot, now.monotonic);
        }
        // While signals come, they are looked for: who rang for each would ring for every burst.
        self.is_calm = !any && self.attention.is_watched();
        self.attention.watch(!any);
    }

    fn pass_deadlines(&mut self, now: Now) {
        while self
            .greetings
            .front()
            .is_some_and(|(due, _)| *due <= now.monotonic)
            && let Some((_, cell)) = self.greetings.pop_front()
        {
            // Another may have its place by now.
            let peer = self.peers.get(cell.index.slot());
            let peer = peer.filter(|peer| Arc::ptr_eq(&peer.cell, &cell));
            if let Some(tunnel) = peer.and_then(|peer| self.tunnels.get_mut(peer.tunnel)) {
                tunnel.device.initiate(cell.id, now);
            }
        }
        self.note_due();
        for slot in self.due.passed(now.monotonic) {
            if let Some(tunnel) = self.tunnels.get_mut(slot) {
                tunnel.device.handle_timeout(now);
            }
        }
        self.probe_paths(now.monotonic);
    }

    /// Has a peer called, though it may have a session.
    pub(super) fn renew(&mut self, tunnel: &Name, key: &PublicKey, now: Now) {
        let slot = self.tunnel_slot(tunnel);
        if let Some(tunnel) = slot.and_then(|slot| self.tunnels.get_mut(slot))
            && let Some(peer) = tunnel.device.find(key)
        {
            tunnel.device.renew(peer, now);
        }
    }

    /// Calls peers that wait for it, after those that called us were answered; whether more may be called at once.
    fn make_calls(&mut self, now: Now) -> bool {
        let mut left = INITIATIONS_PER_ROUND;
        self.note_due();
        // No tunnel's peers are always the first.
        let callers = self.due.callers_behind(self.last_caller);
        self.last_caller = callers.first().copied().unwrap_or_default();
        for slot in callers {
            if let Some(tunnel) = self.tunnels.get_mut(slot) {
                left -= tunnel.device.handle_calls(&mut self.budget, left, now);
            }
        }
        left == 0
    }

    /// Notes what tunnels wait for that were driven.
    pub(super) fn note_due(&mut self) {
        for slot in self.tunnels.touched() {
            let device = self.tunnels.get(slot).map(|tunnel| &tunnel.device);
            let timer = device.and_then(|device| device.poll_timeout());
            let calls = device.and_then(|device| device.poll_calls(&self.budget));
            self.due.note(slot, timer, calls.is_some());
        }
    }

    /// Carries out what the protocol wants of tunnels that were driven.
    pub(super) fn drain_tunnels(&mut self, now: Now) {
        let mut wishes = std::mem::take(&mut self.wishes);
        self.note_due();
        for slot in self.tunnels.take_touched() {
            let Some(tunnel) = self.tunnels.untouched(slot) else {
                continue;
            };
            tunnel.drain(&mut self.peers, &mut wishes);
            for wish in wishes.drain(..) {
                match wish {
                    Wish::Transmit(message) => self.transmit(slot, message, now.monotonic),
                    Wish::Keepalive(peer) => self.keep_alive(peer),
                    Wish::Flush(peer) => {
                        self.tell_all(|| Command::FlushStaged(PeerIndex::from_slot(peer)));
                    }
                    Wish::DropStaged(peer) => {
                        self.tell_all(|| Command::DropStaged(PeerIndex::from_slot(peer)));
                    }
                    // Before the messages behind it: they go along the new path.
                    Wish::Path(peer) => self.rebuild_path(peer, now.monotonic),
                    Wish::Unanswered(peer, calls) => {
                        self.unanswered(peer, calls, now.monotonic);
                    }
                }
            }
        }
        self.wishes = wishes;
    }

    /// Has something sent to a peer that waits for it: frames, or an empty packet.
    pub(super) fn keep_alive(&mut self, slot: usize) {
        let index = PeerIndex::from_slot(slot);
        self.workers.send(0, Command::Keepalive(index));
        if self.peers.get(slot).is_some_and(PeerState::is_awaited) {
            for worker in 1..self.workers.count() {
                self.workers.send(worker, Command::FlushStaged(index));
            }
        }
    }

    /// What has time.
    fn chores(&mut self, now: Now) -> Result<(), EngineError> {
        if let Some(worker) = self.workers.dead() {
            return Err(EngineError::WorkerDied(worker));
        }
        if self.netstack.is_dead() {
            return Err(EngineError::StackDied);
        }
        if self.exceptions.is_dead() {
            return Err(EngineError::ExceptionDied);
        }
        self.give_devices_back();
        for (_, uplink) in self.uplinks.iter_mut() {
            if uplink.watch_link()
                && let Some(scope) = uplink.scope()
            {
                self.netstack.link_came_up(scope);
            }
        }
        if self.uplinks.iter().any(|(_, uplink)| uplink.is_refused) {
            self.follow_devices(now);
        }
        if self.uplinks.iter().any(|(_, uplink)| uplink.is_shut) {
            self.retry_uplinks();
        }
        self.mend_exceptions();
        self.watch_ways(now.monotonic);
        let netstack = &mut self.netstack;
        self.hops
            .prune(now.monotonic, |scope, hop| netstack.let_go(scope, hop));
        self.vacate_uplinks();
        // Whoever waits for a next hop that could not be asked for has it asked for again.
        self.retry_unrouted(now.monotonic);
        self.advertise(now.monotonic);
        if !self.down.is_empty() {
            self.retry_ports();
        }
        self.free_snapshots();
        self.forget_rings(now.monotonic);
        if self.parking.is_over(now.monotonic) {
            self.wipe_parked();
        }
        if self.routes.as_mut().is_some_and(RouteWatch::changed) {
            self.forget_sources();
            self.reconsider_kernels();
        }
        self.meters.read(&self.workers, now.monotonic);
        log::tell_left_out();
        EVENTS.tell_left_out();
        Ok(())
    }

    /// Lets the kernel choose again from which of its addresses peers are written to:
    /// another route may be the better one now.
    fn forget_sources(&mut self) {
        for (_, peer) in self.peers.iter_mut() {
            let uplink = self.uplinks.get(peer.uplink);
            if uplink.is_some_and(|uplink| uplink.scope().is_none()) && peer.local.take().is_some()
            {
                peer.outdate_path();
            }
        }
    }
}
