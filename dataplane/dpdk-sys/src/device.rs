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
    ffi::{CStr, CString, c_char},
    os::fd::{OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    devargs::Devargs,
    eal::{Eal, Errno, Pci},
    ffi, kernel, log,
    mempool::Mempool,
    queue::{RxQueue, TxQueue},
};

mod error;
mod report;

pub use error::DeviceError;
use error::plug_advice;
pub use report::{Capabilities, Link, Multicast, Offloads, Stats};

/// Ethernet header and FCS: what DPDK adds to an MTU for a frame.
const FRAME_OVERHEAD: u32 = 18;
const ETHERNET: u32 = 14;
/// Two VLAN tags, which a NIC may leave in a received frame.
const VLAN_TAGS: u32 = 8;

/// Descriptors per queue when nothing is said and the driver has no preference.
const DESCRIPTORS: u16 = 1024;

/// How a device is started.
pub struct DeviceConfig<'a> {
    /// One pool per RX queue; its length is the number of RX queues wanted. A pool may serve several.
    pub rx_pools: &'a [Arc<Mempool>],
    /// TX queues wanted. Of either kind one gets no more than the device offers.
    pub tx_queues: u16,
    /// Descriptors per RX queue; none: 1024 or what the driver prefers.
    pub rx_descriptors: Option<u16>,
    /// Descriptors per TX queue.
    pub tx_descriptors: Option<u16>,
    /// MTU: the longest IP packet.
    pub mtu: u16,
    /// Offloads to use where the device has them.
    pub offloads: Offloads,
}

/// How a device was started.
#[derive(Debug)]
pub struct Started {
    /// Receive queues, in order; perhaps fewer than asked for.
    pub rx: Vec<RxQueue>,
    /// Transmit queues, in order; perhaps fewer than asked for.
    pub tx: Vec<TxQueue>,
    /// Offloads that are on.
    pub offloads: Offloads,
    /// How multicast reaches us.
    pub multicast: Multicast,
}

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
    multicast: Option<OwnedFd>,
    closed: bool,
}

impl Device {
    /// Plugs the device that `devargs` describes, for up to `queues` queue pairs.
    ///
    /// A PCI device wants an EAL that was started with [`Pci::Idle`](crate::Pci::Idle). `net_af_packet` is
    /// given `qpairs` and a ring for the interface's MTU where the text doesn't have them.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] with what DPDK said and what may mend it. Nothing stays plugged.
    pub fn plug(eal: Eal, devargs: &str, queues: u16) -> Result<Self, DeviceError> {
        let bad = || DeviceError::Devargs(devargs.to_owned());
        let parsed = Devargs::parse(devargs).ok_or_else(bad)?;
        let name = parsed.device_name();
        let c_name = CString::new(name.as_str()).map_err(|_| bad())?;
        if parsed.is_pci() && eal.pci() == Pci::Off {
            return Err(DeviceError::PciOff(name));
        }
        if port_by_name(&c_name).is_some() {
            return Err(DeviceError::InUse(name));
        }

        if let Some(pairs) = parsed.queue_pairs()
            && pairs > queues
        {
            return Err(DeviceError::QueuePairs {
                devargs: devargs.to_owned(),
                pairs,
                queues,
            });
        }

        let kernel_mtu = match parsed.interface() {
            Some(interface) if parsed.is_af_packet() => Some(kernel::mtu(interface).map_err(
                |error| DeviceError::Interface {
                    devargs: devargs.to_owned(),
                    interface: interface.to_owned(),
                    error,
                },
            )?),
            // Another driver may make the interface itself.
            Some(_) | None => None,
        };
        let completed = parsed.completed(queues, kernel_mtu);
        let before = packet_sockets(&parsed);
        let c_devargs = CString::new(completed.as_str()).map_err(|_| bad())?;
        // SAFETY: EAL runs; a C string that lives for the call.
        let (result, log) =
            log::capture(|| unsafe { ffi::culvert_device_plug(c_devargs.as_ptr()) });
        if result < 0 {
            return Err(DeviceError::Plug {
                error: Errno::from_return(result),
                log,
                mend: plug_advice(&parsed),
                devargs: completed,
            });
        }
        let opened = packet_sockets(&parsed)
            .into_iter()
            .filter(|socket| !before.contains(socket));
        let sockets: Vec<OwnedFd> = opened.filter_map(kernel::duplicate).collect();
        // A driver that fails to make its port need not fail the plugging.
        let id = port_by_name(&c_name).ok_or_else(|| DeviceError::NoPort {
            log,
            mend: plug_advice(&parsed),
            devargs: completed.clone(),
        })?;
        Self::open(id, name, completed, sockets)
    }

    fn open(
        id: u16,
        name: String,
        devargs: String,
        sockets: Vec<OwnedFd>,
    ) -> Result<Self, DeviceError> {
        // SAFETY: all fields are integers and arrays of them.
        let mut info: ffi::culvert_device_info = unsafe { std::mem::zeroed() };
        // SAFETY: the port exists; the struct lives for the call.
        let result = unsafe { ffi::culvert_port_info(id, &raw mut info) };
        if result != 0 {
            return Err(DeviceError::Read {
                device: name,
                what: "its properties",
                error: Errno::from_return(result),
            });
        }
        let capabilities = Capabilities {
            driver: text(&info.driver),
            max_rx_queues: info.max_rx_queues,
            max_tx_queues: info.max_tx_queues,
            max_mtu: info.max_mtu,
            offloads: Offloads {
                tx_ipv4: info.tx_offloads & ffi::CULVERT_TX_OFFLOAD_IPV4_CKSUM != 0,
                tx_udp: info.tx_offloads & ffi::CULVERT_TX_OFFLOAD_UDP_CKSUM != 0,
                rx_ipv4: info.rx_offloads & ffi::CULVERT_RX_OFFLOAD_IPV4_CKSUM != 0,
                rx_udp: info.rx_offloads & ffi::CULVERT_RX_OFFLOAD_UDP_CKSUM != 0,
            },
            rss: info.rss_types != 0,
            kernel_interface: (info.if_index != 0).then_some(info.if_index),
            numa_node: u32::try_from(info.socket).ok(),
        };
        let mut device = Self {
            id,
            name,
            devargs,
            mac: info.mac,
            capabilities,
            descriptors: [info.rx_descriptors_default, info.tx_descriptors_default],
            max_frame: info.max_frame,
            min_rx_buffer: info.min_rx_buffer,
            kernel_mtu: None,
            sockets,
            started: None,
            multicast: None,
            closed: false,
        };
        // Read again, now by the interface that the driver says it uses (net_tap has made its own).
        device.kernel_mtu = device
            .interface()
            .and_then(|interface| kernel::mtu(&interface).ok());
        Ok(device)
    }

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

    /// The kernel interface it stands on, if any.
    fn interface(&self) -> Option<String> {
        kernel::name(self.capabilities.kernel_interface?)
    }

    /// Bytes of the longest Ethernet frame (without FCS) it may be given with this MTU. On a kernel device
    /// it is the interface's own MTU that counts, as it was when the device was plugged.
    #[must_use]
    pub fn frame_limit(&self, mtu: u16) -> u32 {
        self.limit(mtu, self.kernel_mtu)
    }

    fn limit(&self, mtu: u16, kernel_mtu: Option<u32>) -> u32 {
        let limit = u32::from(mtu) + ETHERNET;
        match (kernel_mtu, Devargs::parse(&self.devargs)) {
            (Some(kernel_mtu), Some(parsed)) => limit.min(parsed.frame_limit(kernel_mtu)),
            _ => limit,
        }
    }

    /// Bytes after the headroom that an RX pool's mbufs need for this MTU.
    #[must_use]
    pub fn rx_room(&self, mtu: u16) -> u32 {
        let frame = u32::from(mtu) + FRAME_OVERHEAD + VLAN_TAGS;
        match Devargs::parse(&self.devargs) {
            Some(parsed) if parsed.is_af_packet() => parsed.af_packet_room(),
            _ => frame.max(self.min_rx_buffer),
        }
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

    /// Configures the device and starts it.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]; the device can then only be closed.
    pub fn start(&mut self, config: &DeviceConfig<'_>) -> Result<Started, DeviceError> {
        // 1. Refuse what can't work, in words.
        if self.started.is_some() {
            return Err(DeviceError::StartedBefore(self.name.clone()));
        }
        self.check_mtu(config.mtu)?;
        let rx_queues = config
            .rx_pools
            .len()
            .min(usize::from(self.capabilities.max_rx_queues));
        let tx_queues = config.tx_queues.min(self.capabilities.max_tx_queues);
        let pools = &config.rx_pools[..rx_queues];
        if pools.is_empty() || tx_queues == 0 {
            return Err(DeviceError::NoQueues(self.name.clone()));
        }
        let needed = self.rx_room(config.mtu);
        if let Some(small) = pools.iter().find(|pool| u32::from(pool.room()) < needed) {
            return Err(DeviceError::Room {
                device: self.name.clone(),
                needed,
                pool: small.name().to_owned(),
                room: small.room(),
            });
        }

        // 2. Configure, set the queues up, start.
        let offloads = config.offloads.and(self.capabilities.offloads);
        let raw_pools: Vec<_> = pools.iter().map(|pool| pool.raw()).collect();
        let [rx_descriptors, tx_descriptors] = self.descriptors();
        let request = ffi::culvert_port_config {
            rx_queues: u16::try_from(rx_queues).expect("no more than the device's u16"),
            tx_queues,
            rx_descriptors: config.rx_descriptors.unwrap_or(rx_descriptors),
            tx_descriptors: config.tx_descriptors.unwrap_or(tx_descriptors),
            mtu: self.configured_mtu(config.mtu),
            rss: u8::from(rx_queues > 1),
            rx_offloads: bits(offloads.rx_ipv4, ffi::CULVERT_RX_OFFLOAD_IPV4_CKSUM)
                | bits(offloads.rx_udp, ffi::CULVERT_RX_OFFLOAD_UDP_CKSUM),
            tx_offloads: bits(offloads.tx_ipv4, ffi::CULVERT_TX_OFFLOAD_IPV4_CKSUM)
                | bits(offloads.tx_udp, ffi::CULVERT_TX_OFFLOAD_UDP_CKSUM),
            rx_pools: raw_pools.as_ptr(),
        };
        // From here on the driver may hold the pools, even when it fails half-way.
        let port = Arc::new(Port {
            id: self.id,
            mtu: config.mtu,
            frame_limit: AtomicU32::new(self.frame_limit(config.mtu)),
            pools: pools.to_vec(),
        });
        self.started = Some(Arc::clone(&port));
        // SAFETY: the port exists and is stopped; the pools live as long as `port`, the request for the call.
        let (result, log) =
            log::capture(|| unsafe { ffi::culvert_port_start(self.id, &raw const request) });
        if result.error != 0 {
            return Err(DeviceError::Start {
                device: self.name.clone(),
                step: step_name(result.step),
                error: Errno::from_return(result.error),
                log,
            });
        }

        // 3. Hand out the queues.
        let multicast = self.receive_multicast();
        // Without one for each, nobody knows whose they are.
        let mut sockets = std::mem::take(&mut self.sockets);
        if sockets.len() != rx_queues {
            sockets.clear();
        }
        let mut sockets = sockets.into_iter();
        Ok(Started {
            rx: (0..request.rx_queues)
                .map(|queue| RxQueue::new(Arc::clone(&port), queue, sockets.next()))
                .collect(),
            tx: (0..tx_queues)
                .map(|queue| TxQueue::new(Arc::clone(&port), queue, result.tx_descriptors))
                .collect(),
            offloads,
            multicast,
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
        let mtu = interface
            .as_deref()
            .and_then(|interface| kernel::mtu(interface).ok());
        if let (Some(port), Some(mtu)) = (&self.started, mtu) {
            let limit = self.limit(port.mtu, Some(mtu));
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
                // SAFETY: no queue handle is left, so no thread is in a burst.
                unsafe { ffi::culvert_port_stop(self.id) };
                port.pools
            }
            None => Vec::new(),
        };
        self.closed = true;
        self.multicast = None;
        // SAFETY: the port exists and is stopped or was never started.
        let (result, log) = log::capture(|| unsafe { ffi::culvert_device_unplug(self.id) });
        if result < 0 {
            // The driver may still know the pools: they outlive it.
            std::mem::forget(pools);
            return Err(DeviceError::Unplug {
                device: self.name.clone(),
                error: Errno::from_return(result),
                log,
            });
        }
        Ok(())
    }

    fn checked(&self, what: &'static str, result: i32) -> Result<(), DeviceError> {
        if result == 0 {
            return Ok(());
        }
        Err(DeviceError::Read {
            device: self.name.clone(),
            what,
            error: Errno::from_return(result),
        })
    }

    fn check_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        let wanted = u32::from(mtu) + ETHERNET;
        let possible = self.frame_limit(mtu);
        if self.kernel_mtu.is_some() {
            if wanted <= possible {
                return Ok(());
            }
            let parsed = Devargs::parse(&self.devargs);
            let interface = parsed
                .as_ref()
                .and_then(Devargs::interface)
                .unwrap_or("INTERFACE");
            return Err(DeviceError::Mtu {
                device: self.name.clone(),
                mtu,
                limit: possible.saturating_sub(ETHERNET),
                mend: format!(
                    "\nTo raise it, before culvert starts: ip link set {interface} mtu {mtu}"
                ),
            });
        }
        let by_frame = self.max_frame.saturating_sub(FRAME_OVERHEAD);
        // A driver that names a real MTU limit counts its own overhead.
        let limit = if self.capabilities.max_mtu == u16::MAX {
            by_frame
        } else {
            u32::from(self.capabilities.max_mtu)
        };
        if u32::from(mtu) <= limit {
            return Ok(());
        }
        Err(DeviceError::Mtu {
            device: self.name.clone(),
            mtu,
            limit,
            mend: String::new(),
        })
    }

    /// The MTU that goes into the configuration. `net_af_packet` claims a frame of 1518 bytes whatever its
    /// ring is made for and takes no notice of the MTU: it gets what passes its own check.
    fn configured_mtu(&self, mtu: u16) -> u16 {
        if self.kernel_mtu.is_none() {
            return mtu;
        }
        let claimed =
            u16::try_from(self.max_frame.saturating_sub(FRAME_OVERHEAD)).unwrap_or(u16::MAX);
        mtu.min(claimed)
    }

    /// Sees to it that multicast arrives: the device's own switch, else a membership on the kernel interface
    /// (which ends with its socket, so that nothing stays changed), else promiscuous mode.
    fn receive_multicast(&mut self) -> Multicast {
        // SAFETY: the port is started.
        if unsafe { ffi::culvert_port_allmulticast(self.id, 1) } == 0 {
            return Multicast::All;
        }
        if let Some(index) = self.capabilities.kernel_interface {
            if let Ok(socket) = kernel::all_multicast(index) {
                self.multicast = Some(socket);
                return Multicast::Kernel;
            }
            // Promiscuous mode on a kernel device would outlive us.
            return Multicast::Unfiltered;
        }
        // SAFETY: the port is started.
        if unsafe { ffi::culvert_port_promiscuous(self.id, 1) } == 0 {
            return Multicast::Promiscuous;
        }
        Multicast::Unfiltered
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What can't be closed now is held by somebody else's queues.
        let _ = self.close();
    }
}

fn packet_sockets(devargs: &Devargs<'_>) -> Vec<RawFd> {
    let interface = devargs.interface().filter(|_| devargs.is_af_packet());
    let index = interface.and_then(|interface| kernel::index(interface).ok());
    index.map_or_else(Vec::new, kernel::packet_sockets)
}

fn port_by_name(name: &CStr) -> Option<u16> {
    let mut port = 0;
    // SAFETY: a C string and an integer that live for the call.
    let result = unsafe { ffi::culvert_port_by_name(name.as_ptr(), &raw mut port) };
    (result == 0).then_some(port)
}

fn step_name(step: u32) -> &'static str {
    match step {
        ffi::CULVERT_STEP_CONFIGURE => "its configuration",
        ffi::CULVERT_STEP_DESCRIPTORS => "its descriptor counts",
        ffi::CULVERT_STEP_RX_QUEUE => "an RX queue",
        ffi::CULVERT_STEP_TX_QUEUE => "a TX queue",
        _ => "the start itself",
    }
}

fn bits(on: bool, mask: u64) -> u64 {
    if on { mask } else { 0 }
}

fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes
        .iter()
        .take_while(|&&byte| byte != 0)
        .map(|&byte| byte.cast_unsigned())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
