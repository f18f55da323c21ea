//! Admission: who may begin a connection.
//!
//! In: SYNs' ends. Out: whether one is let in. Never: a look at a segment beyond its ends; at how many there are.

use std::net::{IpAddr, Ipv6Addr};

use culvert_wire::fib::Prefix;

use crate::HostDrop;

/// A port that is listened on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The port.
    pub port: u16,
    /// Whose it is.
    pub service: Service,
    /// Whom it is for.
    pub allow: Vec<Prefix>,
}

/// Who listens: ports of one service share its places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service(pub u8);

/// Whom an address stands for: over IPv6 a host has a /64 to choose from (RFC 8981).
pub(super) fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

/// To which service `address` may begin a connection by a port.
///
/// # Errors
/// Why not. Who asks for a port that is not for him, or nobody's, may be told so.
pub(super) fn admit(listener: Option<&Listener>, address: IpAddr) -> Result<Service, HostDrop> {
    let listener = listener.ok_or(HostDrop::TcpPortClosed)?;
    let is_for = listener.allow.iter().any(|prefix| prefix.contains(address));
    is_for
        .then_some(listener.service)
        .ok_or(HostDrop::TcpNotAllowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_ipv6_a_64_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), source("2001:db8:1:2::9"));
        assert_ne!(source("2001:db8:1:3::9"), source("2001:db8:1:2::9"));
        assert_ne!(source("192.0.2.7"), source("192.0.2.8"));
    }
}
