//! Why a device is not there, and what brings it.
//!
//! *In*: what was tried, what DPDK answered and logged. *Out*: an error that an operator can act on. *Never*: an
//! action of its own.

use std::io;

use crate::{
    devargs::Devargs,
    eal::{Errno, indented},
};

/// Why a device is not there.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The devargs text can't be one.
    #[error(
        "not a DPDK device: {0:?} (expected a PCI address as 0000:3b:00.0, or a virtual device as net_af_packet0,iface=eth1)"
    )]
    Devargs(String),
    /// The process has no PCI bus.
    #[error(
        "DPDK was started without PCI devices: to use {0}, restart with it in the configuration"
    )]
    PciOff(String),
    /// The device would spread packets over queues that nobody polls.
    #[error(
        "{devargs}: {pairs} queue pairs, and {queues} workers: \
         packets in the others would be lost. Leave qpairs out"
    )]
    QueuePairs {
        /// The device.
        devargs: String,
        /// Queue pairs it was told to have.
        pairs: u16,
        /// Queues that are polled.
        queues: u16,
    },
    /// The kernel interface isn't there.
    #[error(
        "{devargs}: interface {interface:?} could not be read: {error}.\nTo see what there is: ip link show"
    )]
    Interface {
        /// The device.
        devargs: String,
        /// The kernel interface.
        interface: String,
        /// What the kernel answered.
        error: io::Error,
    },
    /// A device of this name is plugged already.
    #[error("DPDK device {0} is in use already by another uplink of this process")]
    InUse(String),
    /// A bond without members, or another device with some.
    #[error(
        "DPDK device {0}: a bond (net_bonding0,mode=1) has members, and no other device has any"
    )]
    Members(String),
    /// A bond refuses its members.
    #[error("DPDK device {device} can't have its members: {error}{}\nMembers carry the same speed and have the same features", indented(.log))]
    Gather {
        /// The bond.
        device: String,
        /// What DPDK answered.
        error: Errno,
        /// What DPDK logged.
        log: Vec<String>,
    },
    /// DPDK could not plug it.
    #[error("DPDK could not plug device {devargs}: {error}{}\n{mend}", indented(.log))]
    Plug {
        /// What was tried.
        devargs: String,
        /// What DPDK answered.
        error: Errno,
        /// What DPDK logged.
        log: Vec<String>,
        /// What may mend it.
        mend: String,
    },
    /// It was plugged, but there is no port.
    #[error("DPDK plugged device {devargs}, but it has no network port{}\n{mend}", indented(.log))]
    NoPort {
        /// What was tried.
        devargs: String,
        /// What DPDK logged.
        log: Vec<String>,
        /// What may mend it.
        mend: String,
    },
    /// Reading its properties failed.
    #[error("DPDK device {device}: {what} could not be read: {error}")]
    Read {
        /// The device.
        device: String,
        /// What was asked for.
        what: &'static str,
        /// What DPDK answered.
        error: Errno,
    },
    /// The MTU is more than the device carries.
    #[error("DPDK device {device} carries an MTU of up to {limit}, not {mtu}.{mend}")]
    Mtu {
        /// The device.
        device: String,
        /// MTU wanted.
        mtu: u16,
        /// MTU possible.
        limit: u32,
        /// What may mend it.
        mend: String,
    },
    /// The pool's buffers are too small.
    #[error("DPDK device {device} needs buffers of {needed} bytes, and pool {pool} has {room}")]
    Room {
        /// The device.
        device: String,
        /// Bytes needed after the headroom.
        needed: u32,
        /// The pool.
        pool: String,
        /// Bytes it has after the headroom.
        room: u16,
    },
    /// No queue of a kind was asked for.
    #[error("DPDK device {0} needs at least one RX and one TX queue")]
    NoQueues(String),
    /// It was started before.
    #[error("DPDK device {0} was started before: close it and plug it again")]
    StartedBefore(String),
    /// Starting failed.
    #[error("DPDK device {device} could not be started, at {step}: {error}{}", indented(.log))]
    Start {
        /// The device.
        device: String,
        /// The step that failed.
        step: &'static str,
        /// What DPDK answered.
        error: Errno,
        /// What DPDK logged.
        log: Vec<String>,
    },
    /// Somebody still holds its queues.
    #[error("DPDK device {0} still has queues in use")]
    QueuesInUse(String),
    /// Unplugging failed.
    #[error("DPDK device {device} could not be unplugged: {error}{}", indented(.log))]
    Unplug {
        /// The device.
        device: String,
        /// What DPDK answered.
        error: Errno,
        /// What DPDK logged.
        log: Vec<String>,
    },
}

/// What to look at when a device could not be plugged.
pub(super) fn plug_advice(devargs: &Devargs<'_>) -> String {
    let name = devargs.device_name();
    if devargs.is_pci() {
        return format!(
            "A PCI device must be bound to vfio-pci (or have a bifurcated driver such as mlx5):\n\
             modprobe vfio-pci && dpdk-devbind.py --bind=vfio-pci {name}\n\
             To see its state: dpdk-devbind.py --status-dev net; without an IOMMU also: \
             echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
        );
    }
    if devargs.is_af_packet() {
        return "net_af_packet needs iface=NAME of an interface that exists here, and CAP_NET_RAW (root)".to_owned();
    }
    format!(
        "Is {name} a driver of this DPDK, followed by a number (net_null0)? Its drivers: ls /usr/lib/*/dpdk/pmds-*"
    )
}
