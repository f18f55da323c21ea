//! Ports, uplinks, forwarding and the worker loop.
//!
//! In: frames from guests over vhost-user, datagrams from uplinks, snapshots and
//! commands from the control core. Out: the same, on the other side. Never: a file, a
//! configuration format, a protocol decision of WireGuard's.
//!
//! The packet's way, room by room: a [`worker`] takes a burst from a [`guest`]'s ring or interface; `outbound` decides
//! where each frame goes, asking `switch` (may the guest say this, who has that MAC address) and `gateway` (what the
//! router answers), and hands what leaves through a tunnel to `egress`, which seals into rooms of an [`uplink`]. What an
//! uplink receives goes through `inbound` to the guests. Beside the way stands [`shared`]: what workers and the control core
//! both hold.

#![deny(unsafe_code)]

mod egress;
mod gateway;
pub mod guest;
mod inbound;
mod loss;
mod outbound;
mod pages;
pub mod shared;
mod switch;
pub mod uplink;
pub mod worker;
