//! The data path end to end, in one process and without root: guests are vhost-user
//! frontends, uplinks are sockets on the loopback, the far end is another worker or the
//! tests themselves with a cipher of their own.
//!
//! In: frames and datagrams, honest and hostile. Out: assertions on bytes and on named
//! counters. Never: a wait for time to pass; workers are stepped by hand, but for the
//! tests about threads.

#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "in a test a panic is the finding"
)]

mod evasion;
mod guard;
mod hostile;
mod hub;
mod inbound;
mod local;
mod narrow;
mod outbound;
mod packets;
mod probe;
mod rooms;
mod scope;
mod service;
mod staged;
mod support;
mod threads;
mod trunk;
mod tun;
mod uplinks;
