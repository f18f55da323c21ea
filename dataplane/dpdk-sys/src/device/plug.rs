//! Plugging: from devargs to a device that can be started.
//!
//! *In*: devargs. *Out*: a [`Device`], or what DPDK said and what may mend it. *Never*: a device that stays plugged
//! after a failure.

use std::{
    ffi::{CStr, CString, c_char},
    os::fd::{OwnedFd, RawFd},
};

use super::{Capabilities, Device, DeviceError, Offloads, error::plug_advice, queues};
use crate::{
    devargs::Devargs,
    eal::{Eal, Errno, Pci, growing},
    ffi, kernel, log,
};

impl Device {
    /// Plugs the device that `devargs` describes, for up to `queues` queue pairs.
    ///
    /// A PCI device wants an EAL that was started with [`Pci::Idle`](crate::Pci::Idle). `net_af_packet` is
    /// given `qpairs` and a ring for the interface's MTU where the text doesn't have them. A bond (`net_bonding0,mode=1`)
    /// is given its members, which are plugged before it and close after it.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] with what DPDK said and what may mend it. Nothing stays plugged.
    pub fn plug(
        eal: Eal,
        devargs: &str,
        members: &[String],
        queues: u16,
    ) -> Result<Self, DeviceError> {
        let bad = || DeviceError::Devargs(devargs.to_owned());
        let parsed = Devargs::parse(devargs).ok_or_else(bad)?;
        if parsed.is_bond() == members.is_empty() {
            return Err(DeviceError::Members(parsed.device_name()));
        }
        let members = members
            .iter()
            .map(|it| Self::plug_one(eal, it, &[], queues));
        // Those before one that can't be had are closed when they are dropped.
        let members: Vec<Self> = members.collect::<Result<_, _>>()?;
        let mut device = Self::plug_one(eal, devargs, &members, queues)?;
        device
            .capabilities
            .narrow(members.iter().map(|it| &it.capabilities));
        device.members = members;
        Ok(device)
    }

    fn plug_one(
        eal: Eal,
        devargs: &str,
        members: &[Self],
        queues: u16,
    ) -> Result<Self, DeviceError> {
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
        let completed = parsed.completed(queues, kernel_mtu) + &named(members);
        let before = packet_sockets(&parsed);
        let c_devargs = CString::new(completed.as_str()).map_err(|_| bad())?;
        // SAFETY: EAL runs; a C string that lives for the call.
        let (result, log) =
            log::capture(|| growing(|| unsafe { ffi::culvert_device_plug(c_devargs.as_ptr()) }));
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
        if !members.is_empty() {
            gather(id, &name)?;
        }
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
        let driver = text(&info.driver);
        let capabilities = Capabilities {
            leaves_sums: info.if_index != 0 || driver.contains("virtio"),
            max_rx_queues: queues(info.max_rx_queues, &driver),
            max_tx_queues: queues(info.max_tx_queues, &driver),
            driver,
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
            received: Vec::new(),
            multicast: None,
            members: Vec::new(),
            closed: false,
        };
        // Read again, now by the interface that the driver says it uses (net_tap has made its own).
        device.kernel_mtu = device
            .interface()
            .and_then(|interface| kernel::mtu(&interface).ok());
        Ok(device)
    }
}

/// A bond's members, as its devargs name them.
fn named(members: &[Device]) -> String {
    // SAFETY: a string of the shim's that is never freed.
    let key = unsafe { CStr::from_ptr(ffi::culvert_bond_member_key()) }.to_string_lossy();
    let members = members.iter().map(|it| format!(",{key}={}", it.name));
    members.collect()
}

/// Has a bond take its members. It unplugs it where that fails.
fn gather(bond: u16, name: &str) -> Result<(), DeviceError> {
    // SAFETY: the port exists, and was never started.
    let (result, log) = log::capture(|| growing(|| unsafe { ffi::culvert_bond_gather(bond) }));
    if result >= 0 {
        return Ok(());
    }
    // SAFETY: as above; nobody else knows the port.
    unsafe { ffi::culvert_bond_unplug(bond) };
    Err(DeviceError::Gather {
        device: name.to_owned(),
        error: Errno::from_return(result),
        log,
    })
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

fn text(bytes: &[c_char]) -> String {
    let bytes: Vec<u8> = bytes
        .iter()
        .take_while(|&&byte| byte != 0)
        .map(|&byte| byte.cast_unsigned())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
