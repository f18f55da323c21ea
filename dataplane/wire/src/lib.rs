//! Packet views, checksums, segmentation and coalescing.
//!
//! In: bytes that a guest or the network wrote, always as slices of private
//! memory (the one exception is [`Checksum::add_raw`](checksum::Checksum::add_raw)).
//! Out: parsed headers, finished headers, sums, plans for cutting and groups for joining.
//! Never: a socket, a clock, a thread, an allocation per packet, a panic on hostile bytes.
//!
//! A packet meets the modules in this order: [`vnet`] and [`parse`] when it arrives,
//! [`arp`], [`nd`] and [`icmp`] when it is answered instead of forwarded, [`fib`] when it
//! is routed, [`segment`] when it leaves over a tunnel, [`coalesce`] when it came out of
//! one. [`checksum`] serves them all.

#![deny(unsafe_code)]

pub mod arp;
mod bytes;
pub mod checksum;
pub mod coalesce;
pub mod dhcp;
pub mod ether;
pub mod fib;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod mld;
pub mod nd;
pub mod parse;
pub mod ports;
pub mod scope;
pub mod segment;
pub mod tcp;
pub mod udp;
pub mod vnet;

pub use checksum::Checksum;
pub use ether::{EtherType, EthernetView, MacAddr};
pub use ipv4::Ipv4View;
pub use ipv6::Ipv6View;
pub use parse::{Headers, ParseError, parse_frame, parse_ip};
pub use tcp::TcpView;
pub use udp::UdpView;
pub use vnet::VnetHeader;
