//! What a device is, can do and has done.
//!
//! *In*: the driver's answers. *Out*: plain values. *Never*: a call.

use std::fmt;

/// Checksums that a device computes or verifies by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Writes the outer IPv4 header's checksum.
    pub tx_ipv4: bool,
    /// Writes the outer UDP checksum.
    pub tx_udp: bool,
    /// Verifies the IPv4 header's checksum.
    pub rx_ipv4: bool,
    /// Verifies the UDP checksum.
    pub rx_udp: bool,
}

/// What a device is and can do.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The driver's name.
    pub driver: String,
    /// RX queues it has at most.
    pub max_rx_queues: u16,
    /// TX queues it has at most.
    pub max_tx_queues: u16,
    /// The largest MTU it can be configured with.
    pub max_mtu: u16,
    /// Checksums it can take over.
    pub offloads: Offloads,
    /// Whether it spreads flows over RX queues by a hash.
    pub rss: bool,
    /// Index of the kernel interface it stands on, if any.
    pub kernel_interface: Option<u32>,
    /// Senders on this machine may leave sums of TCP and UDP to whoever receives: it stands on a kernel's interface, or
    /// is virtio's, whose host may (virtio 1.2, section 5.1.6.4). The field has the pseudo-header's sum then.
    pub leaves_sums: bool,
    /// NUMA node, if known.
    pub numa_node: Option<u32>,
}

impl Capabilities {
    /// A bond can do what all of its members can.
    pub(super) fn narrow<'c>(&mut self, members: impl Iterator<Item = &'c Self>) {
        for member in members {
            self.leaves_sums |= member.leaves_sums;
            self.max_rx_queues = self.max_rx_queues.min(member.max_rx_queues);
            self.max_tx_queues = self.max_tx_queues.min(member.max_tx_queues);
        }
    }
}

/// How a started device receives multicast, which IPv6's neighbor discovery needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    /// All multicast is on.
    All,
    /// The kernel's interface receives all of it as long as the device is open.
    Kernel,
    /// Only promiscuous mode was to be had.
    Promiscuous,
    /// The driver has no switch: it receives what it receives.
    Unfiltered,
}

/// Link state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Speed in Mbit/s, if known.
    pub speed_mbps: Option<u32>,
    /// Whether both directions work at a time.
    pub full_duplex: bool,
}

/// A device's counters since it was plugged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets the device dropped because we were too slow (`imissed`).
    pub rx_missed: u64,
    /// Packets received in error (`ierrors`).
    pub rx_errors: u64,
    /// Packets that could not be sent (`oerrors`).
    pub tx_errors: u64,
    /// Times the RX pool was empty (`rx_nombuf`).
    pub rx_no_buffer: u64,
}

impl Offloads {
    /// Everything that the device has.
    pub const ALL: Self = Self {
        tx_ipv4: true,
        tx_udp: true,
        rx_ipv4: true,
        rx_udp: true,
    };

    /// What both have.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            tx_ipv4: self.tx_ipv4 && other.tx_ipv4,
            tx_udp: self.tx_udp && other.tx_udp,
            rx_ipv4: self.rx_ipv4 && other.rx_ipv4,
            rx_udp: self.rx_udp && other.rx_udp,
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.up, self.speed_mbps) {
            (true, Some(speed)) => write!(f, "up, {speed} Mbit/s"),
            (true, None) => f.write_str("up"),
            (false, _) => f.write_str("down"),
        }
    }
}
