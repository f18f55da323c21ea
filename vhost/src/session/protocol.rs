//! What the frontend says, as the state of rings and memory.
//!
//! In: what messages change ([`requests`]), faults that workers found. Out: rings started, stopped
//! and moved, events.
//! Never: a ring that runs on memory, addresses or features that were replaced.
//!
//! Every change of something that a running ring depends on is: stop the ring (which waits for
//! the burst under way), change, start it again where it stood, if it still can run. A ring runs
//! while all of these hold: VERSION_1 is acknowledged, memory and addresses are known, it was
//! kicked off (SET_VRING_KICK) and is enabled, and the guest didn't break it.

mod requests;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Error as CrateError, Result as CrateResult};

use crate::config::PROTOCOL_FEATURES;
use crate::event::{LinkDown, Obstacle, PortEvent};
use crate::memory::{DirtyLog, GuestMemory};
use crate::port::Shared;
use crate::ring::{Negotiated, Ring, RingAddresses, RingFault, RingPlan, call, kick};

use super::Events;

/// Protocol features that a port offers. Not CONFIG: QEMU's network device has no use for it, and
/// warns at each start of a backend that offers it.
pub(super) fn offered_protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::RARP
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::MTU
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::STATUS
}

/// One ring as the frontend has described it so far.
#[derive(Default)]
struct Setup {
    size: u16,
    addresses: Option<RingAddresses>,
    base: u32,
    is_enabled: bool,
    is_kicked_off: bool,
    is_running: bool,
    fault: Option<RingFault>,
    call: Option<Arc<OwnedFd>>,
    error: Option<Arc<OwnedFd>>,
}

/// The protocol's state over one connection.
pub(super) struct Protocol {
    shared: Arc<Shared>,
    events: Events,
    features: Negotiated,
    is_owned: bool,
    memory: Arc<GuestMemory>,
    log: Option<Arc<DirtyLog>>,
    rings: Vec<Setup>,
    /// Packed rings whose position is in a reply that was not sent yet.
    told_bases: Vec<usize>,
    /// Queue pairs that ran when the owner was last told.
    told_pairs: u16,
    /// The obstacle that the owner was told of.
    told_obstacle: Option<Obstacle>,
    /// A ring began to run, and the owner was not told yet.
    has_started: bool,
    /// Why the last call failed, in words.
    reason: Option<String>,
}

impl Protocol {
    pub(super) fn new(shared: Arc<Shared>, events: Events) -> Self {
        let rings = 2 * usize::from(shared.config.queue_pairs);
        Self {
            shared,
            events,
            features: Negotiated::default(),
            is_owned: false,
            memory: Arc::default(),
            log: None,
            rings: std::iter::repeat_with(Setup::default).take(rings).collect(),
            told_bases: Vec::new(),
            told_pairs: 0,
            told_obstacle: None,
            has_started: false,
            reason: None,
        }
    }

    /// Sends an event.
    pub(super) fn tell(&self, event: PortEvent) {
        (self.events)(event);
    }

    /// Why the last message was refused.
    pub(super) fn take_reason(&mut self) -> Option<String> {
        self.reason.take()
    }

    /// Tells of a message that was refused and answered, before the VMM can know.
    pub(super) fn tell_refused(&self, reason: String) {
        let counters = &self.shared.counters;
        counters.refused_messages.fetch_add(1, Ordering::Relaxed);
        self.tell(PortEvent::Refused { reason });
    }

    /// Tells the owner what changed in the set of running rings.
    pub(super) fn tell_link(&mut self) {
        let fault = self.rings.iter().find_map(|setup| setup.fault);
        self.tell_link_as(fault.map_or(LinkDown::Stopped, LinkDown::Fault));
    }

    fn tell_link_as(&mut self, reason: LinkDown) {
        let running = self
            .rings
            .chunks_exact(2)
            .filter(|pair| pair.iter().all(|setup| setup.is_running))
            .count();
        let queue_pairs = u16::try_from(running).unwrap_or(u16::MAX);
        let obstacle = self.obstacle().filter(|_| queue_pairs == 0);
        {
            let mut status = self.shared.status();
            status.queue_pairs = queue_pairs;
            status.features = self.features.0;
            status.obstacle = obstacle;
        }
        if obstacle.is_none() {
            self.told_obstacle = None;
        }
        let has_started = std::mem::take(&mut self.has_started);
        let event = match (self.told_pairs, queue_pairs) {
            (before, now) if before == now => {
                if has_started {
                    self.tell(PortEvent::RingsStarted);
                }
                return;
            }
            (0, _) => PortEvent::LinkUp {
                features: self.features.0,
                offloads: self.features.offloads(),
                queue_pairs,
            },
            (_, 0) => PortEvent::LinkDown { reason },
            (_, _) => PortEvent::QueuesChanged { queue_pairs },
        };
        self.told_pairs = queue_pairs;
        self.tell(event);
    }

    /// Why rings that the VMM has set up don't run.
    fn obstacle(&self) -> Option<Obstacle> {
        if let Some(fault) = self.rings.iter().find_map(|setup| setup.fault) {
            return Some(Obstacle::Broken(fault));
        }
        let is_set_up =
            |setup: &Setup| setup.is_kicked_off && setup.addresses.is_some() && setup.size > 0;
        if !self.rings.iter().any(is_set_up) {
            None
        } else if self.memory.is_empty() {
            Some(Obstacle::MemoryNotShared)
        } else if !self.features.version_1() {
            Some(Obstacle::LegacyDriver)
        } else {
            None
        }
    }

    /// The obstacle, if the owner was not told of it. Broken rings it hears of at once.
    pub(super) fn untold_obstacle(&self) -> Option<Obstacle> {
        let obstacle = self.shared.status().obstacle?;
        let is_told =
            self.told_obstacle == Some(obstacle) || matches!(obstacle, Obstacle::Broken(_));
        (!is_told).then_some(obstacle)
    }

    /// Tells the owner of an obstacle.
    pub(super) fn tell_obstacle(&mut self, obstacle: Obstacle) {
        self.told_obstacle = Some(obstacle);
        self.tell(PortEvent::Hindered { obstacle });
    }

    /// The replies were sent: from here on the frontend knows where its packed rings stand.
    pub(super) fn forget_told(&mut self) {
        for ring in self.told_bases.drain(..) {
            self.shared.keeper.forget(ring);
        }
    }

    /// Stops what workers found broken.
    pub(super) fn reap_faults(&mut self) {
        for index in 0..self.rings.len() {
            let Some(fault) = self.shared.ring(index).and_then(Ring::fault) else {
                continue;
            };
            if self.rings[index].is_running {
                self.stop(index);
                self.break_down(index, fault);
            }
        }
        self.tell_link();
    }

    /// Ends the session: afterwards no worker knows any of its memory.
    pub(super) fn end(&mut self) {
        self.stop_all();
        for index in 0..self.rings.len() {
            if let Some(ring) = self.shared.ring(index) {
                let _ = ring.kick.set(None);
            }
        }
        self.tell_link_as(LinkDown::Disconnected);
    }

    fn break_down(&mut self, index: usize, fault: RingFault) {
        self.rings[index].fault = Some(fault);
        if let Some(error) = &self.rings[index].error {
            call::signal(error.as_fd());
        }
        tracing::trace!(
            port = self.shared.config.name,
            ring = index,
            fault = fault.name(),
            "ring stopped"
        );
        // At most 256 rings.
        let ring = u16::try_from(index).unwrap_or(u16::MAX);
        self.tell(PortEvent::RingStopped { ring, fault });
    }

    fn stop(&mut self, index: usize) {
        let Some(ring) = self.shared.ring(index) else {
            return;
        };
        let setup = &mut self.rings[index];
        setup.is_running = false;
        if let Some(base) = ring.stop() {
            setup.base = base;
        }
    }

    fn stop_all(&mut self) {
        for index in 0..self.rings.len() {
            self.stop(index);
        }
    }

    /// Starts the ring if all that it needs is there.
    fn start(&mut self, index: usize) {
        let is_enabled = self.rings[index].is_enabled || self.features.0 & PROTOCOL_FEATURES == 0;
        let setup = &mut self.rings[index];
        let Some(addresses) = setup.addresses else {
            return;
        };
        if setup.is_running
            || !is_enabled
            || !setup.is_kicked_off
            || setup.fault.is_some()
            || setup.size == 0
            || !self.features.version_1()
            || self.memory.is_empty()
        {
            return;
        }
        let Some(ring) = self.shared.ring(index) else {
            return;
        };
        let plan = RingPlan {
            memory: Arc::clone(&self.memory),
            features: self.features,
            size: setup.size,
            addresses,
            base: setup.base,
            log: self.log.clone().filter(|_| self.features.log_all()),
            call: setup.call.clone(),
            keeper: Arc::clone(&self.shared.keeper),
            index,
        };
        match ring.start(plan) {
            Ok(()) => {
                setup.is_running = true;
                self.has_started = true;
                // Whatever the guest made available before is there to be found; a call tells
                // it that whatever the last backend gave back is there, too.
                if let Some(call) = &setup.call {
                    call::signal(call.as_fd());
                }
            }
            Err(fault) => {
                ring.set_fault(fault);
                self.break_down(index, fault);
            }
        }
    }

    fn start_all(&mut self) {
        for index in 0..self.rings.len() {
            self.start(index);
        }
    }

    /// Changes one ring: stop, change, start.
    fn change(
        &mut self,
        index: u32,
        change: impl FnOnce(&mut Self, usize) -> CrateResult<()>,
    ) -> CrateResult<()> {
        let index = self.index(index)?;
        self.stop(index);
        self.rings[index].fault = None;
        change(self, index)?;
        self.start(index);
        Ok(())
    }

    /// Replaces the memory under all rings.
    fn replace_memory(&mut self, memory: GuestMemory) {
        if memory.is_same(&self.memory) {
            // Only counts changed: no ring need stop.
            self.memory = Arc::new(memory);
            return;
        }
        self.stop_all();
        for setup in &mut self.rings {
            if matches!(
                setup.fault,
                Some(RingFault::MemoryTruncated | RingFault::RingAddress)
            ) {
                setup.fault = None;
            }
        }
        // The old memory goes here, on this thread, now that no ring holds it.
        self.memory = Arc::new(memory);
        self.start_all();
    }

    fn index(&mut self, index: u32) -> CrateResult<usize> {
        match usize::try_from(index) {
            Ok(index) if index < self.rings.len() => Ok(index),
            Ok(_) | Err(_) => {
                let pairs = self.shared.config.queue_pairs;
                Err(self.refuse(format!(
                    "ring {index}, but the port has {pairs} queue pairs"
                )))
            }
        }
    }

    /// Notes why, in words, and gives the crate an error.
    fn refuse(&mut self, reason: impl Into<String>) -> CrateError {
        self.reason = Some(reason.into());
        CrateError::InvalidParam
    }

    fn event_descriptor(&mut self, file: Option<File>) -> CrateResult<Option<Arc<OwnedFd>>> {
        file.map(|file| kick::verified(file.into()))
            .transpose()
            .map_err(|error| self.refuse(format!("the ring's descriptor: {error}")))
    }
}
