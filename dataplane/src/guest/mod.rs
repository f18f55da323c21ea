//! Guest: where frames come from and go to, whoever is behind a port.
//!
//! In: bursts of guest TX rings and of interfaces, as [`frames`]. Out: frames in guest RX rings and interfaces
//! ([`deliver`]). Never: a decision on where a frame goes.

pub(crate) mod deliver;
pub(crate) mod frames;
pub mod tun;
