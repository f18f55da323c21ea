//! The start: from what is wanted of a device to queues.
//!
//! *In*: pools, how many queues, the MTU, offloads. *Out*: the device's queues, or why it can't be started so. *Never*:
//! a start with less than a frame's room; a queue beyond what the device offers.

use std::sync::{Arc, atomic::AtomicU32};

use super::{Device, DeviceError, ETHERNET, FRAME_OVERHEAD, Multicast, Offloads, Port};
use crate::{
    devargs::Devargs,
    eal::{Errno, growing},
    ffi, kernel, log,
    mempool::Mempool,
    queue::{RxQueue, TxQueue},
};

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

impl Device {
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
        let start = || unsafe { ffi::culvert_port_start(self.id, &raw const request) };
        let (result, log) = log::capture(|| growing(start));
        if result.error != 0 {
            return Err(DeviceError::Start {
                device: self.name.clone(),
                step: step_name(result.step),
                error: Errno::from_return(result.error),
                log,
            });
        }

        // 3. Hand out the queues.
        self.received = (0..rx_queues).map(|_| Arc::default()).collect();
        let multicast = self.receive_multicast();
        // Without one for each, nobody knows whose they are.
        let mut sockets = std::mem::take(&mut self.sockets);
        if sockets.len() != rx_queues {
            sockets.clear();
        }
        let mut sockets = sockets.into_iter();
        let is_bond = !self.members.is_empty();
        Ok(Started {
            rx: (0..request.rx_queues)
                .zip(&self.received)
                .map(|(queue, received)| {
                    let (port, received) = (Arc::clone(&port), Arc::clone(received));
                    RxQueue::new(port, queue, sockets.next(), received)
                })
                .collect(),
            tx: (0..tx_queues)
                .map(|queue| TxQueue::new(Arc::clone(&port), queue, result.tx_descriptors, is_bond))
                .collect(),
            offloads,
            multicast,
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
        // A bond looks at addresses itself. What it asks of kernel devices it takes back when it stops.
        // SAFETY: the port is started.
        if unsafe { ffi::culvert_port_promiscuous(self.id, 1) } == 0 {
            return Multicast::Promiscuous;
        }
        Multicast::Unfiltered
    }
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
