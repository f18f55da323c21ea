//! Egress: frames that leave through a tunnel, whoever sent them.
//!
//! In: departures, each with its peer and its cutting plan. Out: sealed datagrams on an uplink ([`seal`]), or frames that
//! wait for a key ([`staged`]). Never: a decision on where a frame goes.

pub(crate) mod seal;
pub(crate) mod staged;
