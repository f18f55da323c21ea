//! A device: plugged while the process runs, configured, started, closed.
//!
//! *In*: devargs, how many queues, pools. *Out*: a [`Device`], its [`RxQueue`]s and [`TxQueue`]s, what it
//! can do, its link and statistics. *Never*: `rte_eth_dev_set_mtu` or `rte_eth_dev_default_mac_addr_set`:
//! on a kernel device they change the machine for good. Nor a frame longer than [`Device::frame_limit`].
//!
//! A device is started once. Another set-up means to close it and to plug it again: several drivers
//! (`net_af_packet`) close their sockets when they are stopped.
//!
//! These calls are the control thread's. They may take milliseconds and may log.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use crate::{departures, devargs::Devargs, eal::Errno, ffi, kernel, log, mempool::Mempool};

mod error;
mod plug;
mod report;
mod start;

pub use error::DeviceError;
pub use report::{Capabilities, Link, Multicast, Offloads, Stats};
pub use start::{DeviceConfig, Started};

/// Ethernet header and FCS: what DPDK adds to an MTU for a frame.
const FRAME_OVERHEAD: u32 = 18;
const ETHERNET: u32 = 14;
/// Two VLAN tags, which a NIC may leave in a received frame.
const VLAN_TAGS: u32 = 8;
/// What a virtio device writes ahead of a frame, and its driver counts with it (virtio 1.2, section 5.1.6).
const VIRTIO_HEADER: u32 = 12;
/// NICs know buffers of whole kilobytes (igb, ixgbe) or of 128 bytes (i40e, ice) and take a pool's room for the next
/// smaller one.
const RX_BUFFER_STEP: u32 = 1024;
const RX_BUFFER_MIN: u32 = 2048;
/// The driver of gigabit NICs up to the 82574: it knows powers of two (`em_rctl_bsize` in em_rxtx.c), and speaks of two
/// queues each way, of which older ones have one, and it never spreads flows (`eth_em_infos_get` in em_ethdev.c).
const EM: &str = "net_e1000_em";

/// Descriptors per queue when nothing is said and the driver has no preference.
const DESCRIPTORS: u16 = 1024;

/// What queues share with their device: as long as one lives, the port stays started.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) id: u16,
    mtu: u16,
    /// Bytes of the longest frame that may be sent now.
    pub(crate) frame_limit: AtomicU32,
    /// The RX queues' pools live as long as the driver may take from them.
    pools: Vec<Arc<Mempool>>,
}

/// A plugged device.
#[derive(Debug)]
pub struct Device {
    id: u16,
    name: String,
    devargs: String,
    mac: [u8; 6],
    capabilities: Capabilities,
    descriptors: [u16; 2],
    max_frame: u32,
    min_rx_buffer: u32,
    kernel_mtu: Option<u32>,
    /// The driver's sockets, one per queue: what one can wait for.
    sockets: Vec<OwnedFd>,
    started: Option<Arc<Port>>,
    /// Packets by RX queue.
    received: Vec<Arc<AtomicU64>>,
    multicast: Option<OwnedFd>,
    /// A bond's, which drives them: they are closed after it.
    members: Vec<Self>,
    closed: bool,
}

impl Device {
    /// The device's name in DPDK.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The devargs it was plugged with, completed.
    #[must_use]
    pub fn devargs(&self) -> &str {
        &self.devargs
    }

    /// Its MAC address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// What it can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Packets that each RX queue has received since the start.
    #[must_use]
    pub fn received(&self) -> Vec<u64> {
        let queues = self.received.iter();
        queues.map(|it| it.load(Ordering::Relaxed)).collect()
    }

    /// Whether the kernel wants it back, and waits until it is closed.
    #[must_use]
    pub fn is_wanted_back(&self) -> bool {
        !self.closed
            && (departures::is_wanted(&self.name) || self.members.iter().any(Self::is_wanted_back))
    }

    /// Whether a closed device could be plugged again: one on a PCI bus has to be there, and bound to a driver.
    #[must_use]
    pub fn is_back(&self) -> bool {
        let parsed = Devargs::parse(&self.devargs);
        parsed.is_none_or(|it| !it.is_pci() || kernel::is_bound(&self.name))
            && self.members.iter().all(Self::is_back)
    }

    /// Whether it stands on an interface of the kernel's, or a member of it does.
    #[must_use]
    pub fn is_on_kernel(&self) -> bool {
        self.capabilities.kernel_interface.is_some() || self.members.iter().any(Self::is_on_kernel)
    }

    /// The kernel interface it stands on, if any.
    fn interface(&self) -> Option<String> {
        kernel::name(self.capabilities.kernel_interface?)
    }

    /// Bytes of the longest Ethernet frame (without FCS) it may be given with this MTU. On a kernel device
    /// it is the interface's own MTU that counts, as it was when the device was plugged; of a bond the narrowest member.
    #[must_use]
    pub fn frame_limit(&self, mtu: u16) -> u32 {
        let members = self.members.iter().map(|it| it.frame_limit(mtu));
        self.limit(mtu, self.kernel_mtu)
            .min(members.min().unwrap_or(u32::MAX))
    }

    /// The same as interfaces' MTUs are now; `None` where there are none.
    fn frame_limit_now(&self, mtu: u16) -> Option<u32> {
        let interface = self.interface();
        let own = interface.and_then(|interface| kernel::mtu(&interface).ok());
        let own = own.map(|now| self.limit(mtu, Some(now)));
        let members = self.members.iter().filter_map(|it| it.frame_limit_now(mtu));
        own.into_iter().chain(members).min()
    }

    fn limit(&self, mtu: u16, kernel_mtu: Option<u32>) -> u32 {
        let limit = u32::from(mtu) + ETHERNET;
        match (kernel_mtu, Devargs::parse(&self.devargs)) {
            (Some(kernel_mtu), Some(parsed)) => limit.min(parsed.frame_limit(kernel_mtu)),
            _ => limit,
        }
    }

    /// Bytes after the headroom that an RX pool's mbufs need for this MTU: so many that a frame never comes in pieces,
    /// however the device rounds them down.
    #[must_use]
    pub fn rx_room(&self, mtu: u16) -> u32 {
        let own = match Devargs::parse(&self.devargs) {
            Some(parsed) if parsed.is_af_packet() => parsed.af_packet_room(),
            _ => room(mtu, &self.capabilities.driver).max(self.min_rx_buffer),
        };
        let members = self.members.iter().map(|it| it.rx_room(mtu));
        members.fold(own, u32::max)
    }

    /// Descriptors per RX and per TX queue that [`Device::start`] asks for when nothing is said.
    #[must_use]
    pub fn descriptors(&self) -> [u16; 2] {
        self.descriptors.map(|preferred| match preferred {
            0 => DESCRIPTORS,
            // Some drivers prefer very short rings, which a burst of 64 fills at once.
            few => few.max(512),
        })
    }

    /// The link's state, without waiting for it. On a kernel device it also looks at the interface's MTU:
    /// should that have been lowered, queues stop sending what it doesn't carry.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Read`].
    pub fn link(&self) -> Result<Link, DeviceError> {
        let mut link = ffi::culvert_link {
            speed_mbps: 0,
            full_duplex: 0,
            up: 0,
        };
        // SAFETY: the port exists; the struct lives for the call.
        self.checked("its link", unsafe {
            ffi::culvert_port_link(self.id, &raw mut link)
        })?;
        // A driver on a kernel interface calls its link up whenever it is started itself.
        let interface = self.interface();
        let running = interface
            .as_deref()
            .and_then(|interface| kernel::is_running(interface).ok());
        if let Some(port) = &self.started
            && let Some(limit) = self.frame_limit_now(port.mtu)
        {
            port.frame_limit.store(limit, Ordering::Relaxed);
        }
        Ok(Link {
            up: link.up != 0 && running.unwrap_or(true),
            speed_mbps: (link.speed_mbps != 0 && link.speed_mbps != u32::MAX)
                .then_some(link.speed_mbps),
            full_duplex: link.full_duplex != 0,
        })
    }

    /// The device's counters.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Read`].
    pub fn stats(&self) -> Result<Stats, DeviceError> {
        // SAFETY: integers only.
        let mut raw: ffi::culvert_stats = unsafe { std::mem::zeroed() };
        // SAFETY: the port exists; the struct lives for the call.
        self.checked("its statistics", unsafe {
            ffi::culvert_port_stats(self.id, &raw mut raw)
        })?;
        Ok(Stats {
            rx_packets: raw.rx_packets,
            tx_packets: raw.tx_packets,
            rx_bytes: raw.rx_bytes,
            tx_bytes: raw.tx_bytes,
            rx_missed: raw.rx_missed,
            rx_errors: raw.rx_errors,
            tx_errors: raw.tx_errors,
            rx_no_buffer: raw.rx_no_buffer,
        })
    }

    /// Stops the device and unplugs it. All its queues must have been dropped; a device that is dropped
    /// without this is closed if it can be, and otherwise stays until the process ends.
    ///
    /// # Errors
    ///
    /// [`DeviceError::QueuesInUse`], after which it can be tried again, or [`DeviceError::Unplug`].
    pub fn close(&mut self) -> Result<(), DeviceError> {
        if self.closed {
            return Ok(());
        }
        let pools = match self.started.take().map(Arc::try_unwrap) {
            Some(Err(port)) => {
                self.started = Some(port);
                return Err(DeviceError::QueuesInUse(self.name.clone()));
            }
            Some(Ok(port)) => {
                if !self.members.is_empty() {
                    // SAFETY: the port is started.
                    unsafe { ffi::culvert_port_promiscuous(self.id, 0) };
                }
                // SAFETY: no queue handle is left, so no thread is in a burst.
                unsafe { ffi::culvert_port_stop(self.id) };
                port.pools
            }
            None => Vec::new(),
        };
        self.closed = true;
        self.multicast = None;
        let unplug = match self.members.is_empty() {
            true => ffi::culvert_device_unplug,
            false => ffi::culvert_bond_unplug,
        };
        // SAFETY: the port exists and is stopped or was never started.
        let (result, log) = log::capture(|| unsafe { unplug(self.id) });
        departures::forget(&self.name);
        if result < 0 {
            // The driver may still know the pools: they outlive it.
            std::mem::forget(pools);
            return Err(DeviceError::Unplug {
                device: self.name.clone(),
                error: Errno::from_return(result),
                log,
            });
        }
        self.members.iter_mut().try_for_each(Self::close)
    }

    /// What a port answered; the number of a closed device's may be another's.
    fn checked(&self, what: &'static str, result: i32) -> Result<(), DeviceError> {
        if result == 0 && !self.closed {
            return Ok(());
        }
        Err(DeviceError::Read {
            device: self.name.clone(),
            what,
            error: Errno::from_return(result),
        })
    }
}

/// Of the queues that a driver speaks of, those that its devices have.
fn queues(spoken_of: u16, driver: &str) -> u16 {
    match driver == EM {
        true => spoken_of.min(1),
        false => spoken_of,
    }
}

fn room(mtu: u16, driver: &str) -> u32 {
    let frame = u32::from(mtu) + FRAME_OVERHEAD + VLAN_TAGS + VIRTIO_HEADER;
    match driver == EM {
        true => frame.next_power_of_two().max(RX_BUFFER_MIN),
        false => frame.next_multiple_of(RX_BUFFER_STEP).max(RX_BUFFER_MIN),
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What can't be closed now is held by somebody else's queues, and a bond's members by the bond.
        if self.close().is_err() {
            std::mem::take(&mut self.members)
                .into_iter()
                .for_each(std::mem::forget);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_given_no_queue_that_it_lacks() {
        assert_eq!([0, 1, 2].map(|it| queues(it, "net_e1000_em")), [0, 1, 1]);
        assert_eq!([0, 1, 8].map(|it| queues(it, "net_e1000_igb")), [0, 1, 8]);
    }

    /// A frame with two tags and a virtio header, as long as the MTU lets it be, fits what is left of the room when
    /// drivers have rounded it down.
    #[test]
    fn a_frame_comes_in_one_piece_whatever_buffers_a_nic_knows() {
        for mtu in [68, 1280, 1500, 2000, 2030, 4000, 9000, 9216, 16_000] {
            let frame = u32::from(mtu) + 18 + 8 + 12;
            for driver in ["net_ixgbe", "net_e1000_igb", "net_i40e", "net_virtio"] {
                let room = room(mtu, driver);
                assert!(room / 1024 * 1024 >= frame, "{driver}, {mtu}: {room}");
                assert!(u16::try_from(room).is_ok(), "{driver}, {mtu}: {room}");
            }
            let room = room(mtu, "net_e1000_em");
            let known = 1 << room.ilog2();
            assert!(known >= frame && room >= 1518, "em, {mtu}: {room}");
        }
    }
}
