//! The messages: what each changes.
//!
//! In: calls of the `vhost` crate, one per message, already well-formed. Out: rings started and
//! stopped, memory exchanged, answers.
//! Never: a change that is half done when a message is refused.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig,
    VhostUserSharedMsg, VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{GpuBackend, Result as CrateResult, VhostUserBackendReqHandlerMut};

use crate::config::LOG_ALL;
use crate::limits;
use crate::memory::{DirtyLog, GuestMemory, RegionDescription};
use crate::ring::{Negotiated, RingAddresses};

use super::{Protocol, offered_protocol_features};

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
