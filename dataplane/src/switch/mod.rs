//! Switch: what is decided by MAC address, within one network.
//!
//! In: frames and their headers, ports, networks. Out: whether a guest may say this ([`guard`]); frames at other ports of
//! the network ([`switched`], [`flood`]); who hears where a guest is now ([`announce`]). Never: a decision on more than
//! the private head copy.

pub(crate) mod announce;
pub(crate) mod flood;
pub(crate) mod guard;
pub(crate) mod switched;
