//! Switch: what is decided by MAC address, within one network.
//!
//! In: frames' headers, ports, networks. Out: whether a guest may say this ([`guard`]); who hears where a guest is now
//! ([`announce`]). Never: a look beyond the private head copy.

pub(crate) mod announce;
pub(crate) mod guard;
