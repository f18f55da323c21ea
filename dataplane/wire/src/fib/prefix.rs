//! Prefixes.
//!
//! In: an address and how many of its bits count. Out: whether an address lies in it. Never: a bit behind those.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address with the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    pub(super) address: IpAddr,
    pub(super) len: u8,
}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; `None` if the family has fewer.
    pub const fn new(address: IpAddr, len: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if len <= 32 => {
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask_v4(len)))
            }
            IpAddr::V6(a) if len <= 128 => {
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask_v6(len)))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, len })
    }

    /// The prefix that holds one address.
    pub const fn host(address: IpAddr) -> Self {
        let len = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, len }
    }

    /// The first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length in bits, not of a container"
    )]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// True if `address` lies in the prefix.
    pub const fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(p), IpAddr::V4(a)) => a.to_bits() & mask_v4(self.len) == p.to_bits(),
            (IpAddr::V6(p), IpAddr::V6(a)) => a.to_bits() & mask_v6(self.len) == p.to_bits(),
            _ => false,
        }
    }
}

pub(super) const fn mask_v4(len: u8) -> u32 {
    if len == 0 { 0 } else { u32::MAX << (32 - len) }
}

pub(super) const fn mask_v6(len: u8) -> u128 {
    if len == 0 {
        0
    } else {
        u128::MAX << (128 - len)
    }
}
