//! Ports, uplinks, forwarding and the worker loop.
//!
//! In: frames from guests over vhost-user, datagrams from uplinks, snapshots and
//! commands from the control core. Out: the same, on the other side. Never: a file, a
//! configuration format, a protocol decision of WireGuard's.
//!
//! The packet's way, module by module: a [`worker`] takes a burst from a guest's ring;
//! `outbound` classifies it (`guard`, `answer`), routes it by the [`snapshot`] and
//! hands it to `seal`, which fills rooms of an [`uplink`]. What an uplink receives goes
//! through `inbound` to `deliver`. Beside the way stand [`peer`] (what changes by
//! itself), [`sessions`] (receiver indices), `staged` (frames without a key), [`tun`]
//! (an interface of the host in a guest's place) and [`control_link`] (to and from the
//! control core).

#![deny(unsafe_code)]

mod announce;
mod answer;
pub mod clock;
pub mod control_link;
mod deliver;
pub mod drops;
mod frames;
mod guard;
pub mod host;
pub mod ids;
mod inbound;
pub mod limits;
mod outbound;
pub mod path;
pub mod peer;
mod rate;
mod seal;
pub mod sessions;
pub mod snapshot;
mod staged;
pub mod tun;
mod turn;
pub mod uplink;
pub mod wake;
pub mod worker;
