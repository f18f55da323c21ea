//! The virtio-net backend over vhost-user, and its frontend.
//!
//! In: a [`PortConfig`]; a VMM or a DPDK application on the socket; workers that poll.
//! Out: frames from a guest with their offload metadata, frames to a guest, events.
//! Never: trust in anything that a guest or its VMM sent; a copy that the caller didn't ask for;
//! a thread besides one per port for the session.
//!
//! A frame from a guest meets the modules in this order: [`Port`] and the session thread set
//! things up (`session`: socket, message shim, protocol), `memory` holds what the guest shares,
//! `ring` walks its rings: [`GuestTx`] and [`TxBurst`] on the way in, [`GuestRx`] and
//! [`RxBurst`] on the way out. [`frontend`] is the driver's side, for tests and generators.
//!
//! What goes wrong has a name: [`PortDrop`] for a frame, [`RingFault`] for a ring that stops,
//! [`LinkDown`] for a session.

#![deny(unsafe_code)]

pub mod config;
pub mod counters;
mod event;
#[allow(
    unsafe_code,
    reason = "a named room: the driver's side of shared memory"
)]
pub mod frontend;
pub mod limits;
#[allow(unsafe_code, reason = "a named room: mappings, signals, raw copies")]
mod memory;
mod pace;
mod port;
#[allow(
    unsafe_code,
    reason = "a named room: ring entries in guest memory, signals by asynchronous requests"
)]
mod ring;
mod session;

pub use config::{Offloads, PortConfig, RingOptions, SocketAccess, SocketMode};
pub use counters::{PortCounters, PortDrop, RingCounters};
pub use event::{LinkDown, Obstacle, PortError, PortEvent, PortStatus};
pub use port::Port;
pub use ring::RingFault;
pub use ring::frame::{Ranges, TxFrame};
pub use ring::rx::{GuestRx, RxBurst};
pub use ring::tx::{GuestTx, TxBurst};
