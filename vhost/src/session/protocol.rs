//! What the frontend says, as the state of rings and memory.
//!
//! In: calls of the `vhost` crate, one per message, already well-formed. Out: rings started,
//! stopped and moved, events.
//! Never: a ring that runs on memory, addresses or features that were replaced.
//!
//! Every change of something that a running ring depends on is: stop the ring (which waits for
//! the burst under way), change, start it again where it stood, if it still can run. A ring runs
//! while all of these hold: VERSION_1 is acknowledged, memory and addresses are known, it was
//! kicked off (SET_VRING_KICK) and is enabled, and the guest didn't break it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    Error as CrateError, GpuBackend, Result as CrateResult, VhostUserBackendReqHandlerMut,
};

use crate::config::{LOG_ALL, PROTOCOL_FEATURES};
use crate::event::{LinkDown, Obstacle, PortEvent};
use crate::limits;
use crate::memory::{DirtyLog, GuestMemory, RegionDescription};
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

impl VhostUserBackendReqHandlerMut for Protocol {
    fn set_owner(&mut self) -> CrateResult<()> {
        if self.is_owned {
            return Err(self.refuse("the session has an owner"));
        }
        self.is_owned = true;
        Ok(())
    }

    fn reset_owner(&mut self) -> CrateResult<()> {
        self.is_owned = false;
        self.reset_device()
    }

    fn reset_device(&mut self) -> CrateResult<()> {
        self.stop_all();
        for setup in &mut self.rings {
            setup.is_enabled = false;
            setup.is_kicked_off = false;
            setup.fault = None;
        }
        self.features = Negotiated::default();
        Ok(())
    }

    fn get_features(&mut self) -> CrateResult<u64> {
        Ok(self.shared.config.features())
    }

    fn set_features(&mut self, features: u64) -> CrateResult<()> {
        let unoffered = features & !self.shared.config.features();
        if unoffered != 0 {
            return Err(self.refuse(format!("features {unoffered:#x} were not offered")));
        }
        let before = self.features;
        self.features = Negotiated(features);
        if (before.0 ^ features) & !LOG_ALL == 0 {
            // Migration starts or ends: rings go on, logging changes.
            let log = self.log.clone().filter(|_| self.features.log_all());
            for index in 0..self.rings.len() {
                if let Some(ring) = self.shared.ring(index) {
                    ring.set_logging(self.features, log.clone());
                }
            }
            return Ok(());
        }
        self.stop_all();
        self.start_all();
        Ok(())
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _postcopy_listening: Option<bool>,
    ) -> CrateResult<Option<Vec<vhost::VhostUserMemoryRegionBase>>> {
        let mut memory = GuestMemory::default();
        for (region, file) in regions.iter().zip(&files) {
            memory = memory
                .with_region(describe(region), file)
                .map_err(|error| self.refuse(error.to_string()))?;
        }
        self.replace_memory(memory);
        Ok(None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> CrateResult<()> {
        let size = u16::try_from(num).ok().filter(|&size| size > 0);
        let Some(size) = size.filter(|&size| size <= limits::RING_SIZE_MAX) else {
            return Err(self.refuse(format!("a ring of {num} entries")));
        };
        self.change(index, |own, index| {
            own.rings[index].size = size;
            Ok(())
        })
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> CrateResult<()> {
        let is_logged = flags.contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG);
        self.change(index, |own, index| {
            own.rings[index].addresses = Some(RingAddresses {
                descriptor,
                driver: available,
                device: used,
                log: is_logged.then_some(log),
            });
            Ok(())
        })
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> CrateResult<()> {
        self.change(index, |own, index| {
            own.rings[index].base = base;
            Ok(())
        })
    }

    fn get_vring_base(&mut self, index: u32) -> CrateResult<VhostUserVringState> {
        let at = self.index(index)?;
        self.stop(at);
        let setup = &mut self.rings[at];
        setup.is_kicked_off = false;
        setup.fault = None;
        let base = setup.base;
        if let Some(ring) = self.shared.ring(at) {
            let _ = ring.kick.set(None);
        }
        if self.features.packed() {
            self.told_bases.push(at);
        }
        Ok(VhostUserVringState::new(index, base))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> CrateResult<()> {
        let descriptor = self.event_descriptor(fd)?;
        let at = self.index(u32::from(index))?;
        if let Some(ring) = self.shared.ring(at)
            && let Err(error) = ring.kick.set(descriptor)
        {
            return Err(self.refuse(format!("watching the kick descriptor: {error}")));
        }
        self.change(u32::from(index), |own, index| {
            own.rings[index].is_kicked_off = true;
            Ok(())
        })
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> CrateResult<()> {
        let at = self.index(u32::from(index))?;
        let descriptor = self.event_descriptor(fd)?;
        self.rings[at].call.clone_from(&descriptor);
        if let Some(ring) = self.shared.ring(at) {
            ring.set_call(descriptor);
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, fd: Option<File>) -> CrateResult<()> {
        let at = self.index(u32::from(index))?;
        self.rings[at].error = self.event_descriptor(fd)?;
        Ok(())
    }

    fn get_protocol_features(&mut self) -> CrateResult<VhostUserProtocolFeatures> {
        Ok(offered_protocol_features())
    }

    fn set_protocol_features(&mut self, _features: u64) -> CrateResult<()> {
        Ok(())
    }

    fn get_queue_num(&mut self) -> CrateResult<u64> {
        // Cloud Hypervisor compares it with rings, QEMU with pairs. The larger number serves
        // both; a frontend that uses rings beyond the port's pairs is told so.
        Ok(2 * u64::from(self.shared.config.queue_pairs))
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> CrateResult<()> {
        let at = self.index(index)?;
        self.rings[at].is_enabled = enable;
        if enable {
            self.start(at);
        } else {
            self.stop(at);
        }
        Ok(())
    }

    fn get_config(
        &mut self,
        _offset: u32,
        _size: u32,
        _flags: VhostUserConfigFlags,
    ) -> CrateResult<Vec<u8>> {
        Err(self.refuse("the configuration space was not offered"))
    }

    fn set_config(
        &mut self,
        _offset: u32,
        _buf: &[u8],
        _flags: VhostUserConfigFlags,
    ) -> CrateResult<()> {
        Err(self.refuse("the configuration space was not offered"))
    }

    fn set_gpu_socket(&mut self, _gpu_backend: GpuBackend) -> CrateResult<()> {
        Err(self.refuse("a network device has no GPU socket"))
    }

    fn get_shared_object(&mut self, _uuid: VhostUserSharedMsg) -> CrateResult<File> {
        Err(self.refuse("shared objects were not offered"))
    }

    fn get_inflight_fd(
        &mut self,
        _inflight: &VhostUserInflight,
    ) -> CrateResult<(VhostUserInflight, File)> {
        Err(self.refuse("an inflight descriptor was not offered"))
    }

    fn set_inflight_fd(&mut self, _inflight: &VhostUserInflight, _file: File) -> CrateResult<()> {
        Err(self.refuse("an inflight descriptor was not offered"))
    }

    fn get_max_mem_slots(&mut self) -> CrateResult<u64> {
        Ok(limits::MEMORY_REGIONS_MAX as u64)
    }

    fn add_mem_region(
        &mut self,
        region: &VhostUserSingleMemoryRegion,
        file: File,
        _postcopy_listening: Option<bool>,
    ) -> CrateResult<Option<vhost::VhostUserMemoryRegionBase>> {
        let memory = self
            .memory
            .with_region(describe(region), &file)
            .map_err(|error| self.refuse(error.to_string()))?;
        self.replace_memory(memory);
        Ok(None)
    }

    fn remove_mem_region(&mut self, region: &VhostUserSingleMemoryRegion) -> CrateResult<()> {
        let memory = self
            .memory
            .without_region(describe(region))
            .map_err(|error| self.refuse(error.to_string()))?;
        self.replace_memory(memory);
        Ok(())
    }

    fn set_device_state_fd(
        &mut self,
        _direction: VhostTransferStateDirection,
        _phase: VhostTransferStatePhase,
        _fd: File,
    ) -> CrateResult<Option<File>> {
        Err(self.refuse("device state was not offered"))
    }

    fn check_device_state(&mut self) -> CrateResult<()> {
        Err(self.refuse("device state was not offered"))
    }

    fn get_shmem_config(&mut self) -> CrateResult<VhostUserShMemConfig> {
        Err(self.refuse("shared memory regions were not offered"))
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> CrateResult<()> {
        let log = DirtyLog::new(&file, log.mmap_offset, log.mmap_size)
            .map_err(|error| self.refuse(error.to_string()))?;
        let log = Arc::new(log);
        self.log = Some(Arc::clone(&log));
        if self.features.log_all() {
            for index in 0..self.rings.len() {
                if let Some(ring) = self.shared.ring(index) {
                    ring.set_logging(self.features, Some(Arc::clone(&log)));
                }
            }
        }
        Ok(())
    }
}

fn describe(region: &VhostUserMemoryRegion) -> RegionDescription {
    RegionDescription {
        guest: region.guest_phys_addr,
        size: region.memory_size,
        frontend: region.user_addr,
        offset: region.mmap_offset,
    }
}
