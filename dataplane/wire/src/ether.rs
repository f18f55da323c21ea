//! Ethernet: addresses, types, the header.
//!
//! In: a frame's first 14 bytes. Out: a view, or those bytes written.
//! Never: VLAN tags (a tagged frame has an EtherType of its own and is not IP to us).

use std::fmt;
use std::str::FromStr;

use crate::bytes::array;

/// Bytes of an Ethernet header.
pub const HEADER_LEN: usize = 14;

/// A 48-bit hardware address.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// 00:00:00:00:00:00, "unknown" in ARP requests.
    pub const ZERO: Self = Self([0; 6]);

    /// True for broadcast and every other group address.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for ff:ff:ff:ff:ff:ff.
    #[inline]
    pub const fn is_broadcast(self) -> bool {
        matches!(self.0, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff])
    }

    /// True for an address that one interface can own: neither a group nor all zeros.
    #[inline]
    pub const fn is_unicast(self) -> bool {
        !self.is_multicast() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }

    /// The address as an integer, for table keys.
    #[inline]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The interface identifier that is made of the address (modified EUI-64; RFC 4291, appendix A).
    pub const fn interface_id(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// The address that an interface identifier was made of, if it looks so.
    pub const fn of_interface_id(id: u64) -> Option<Self> {
        match id.to_be_bytes() {
            [a, b, c, 0xff, 0xfe, d, e, f] => Some(Self([a ^ 2, b, c, d, e, f])),
            _ => None,
        }
    }

    /// The group address of an IPv6 multicast group (RFC 2464, section 7).
    pub const fn from_ipv6_multicast(group: std::net::Ipv6Addr) -> Self {
        let o = group.octets();
        Self([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddrError;

impl fmt::Display for MacAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected six pairs of hexadecimal digits, as in 52:54:00:12:34:56")
    }
}

impl std::error::Error for MacAddrError {}

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or(MacAddrError)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(MacAddrError);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| MacAddrError)?;
        }
        match pairs.next() {
            None => Ok(Self(octets)),
            Some(_) => Err(MacAddrError),
        }
    }
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// Reverse ARP.
    pub const RARP: Self = Self(0x8035);
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);

    /// True for the start of a tag, behind which another EtherType stands: 802.1Q, 802.1ad and its forerunners, the tags
    /// of backbones (802.1ah) and bridge extenders (802.1BR). A receiver takes one with VLAN 0 off without being asked.
    #[inline]
    pub const fn is_tag(self) -> bool {
        matches!(
            self.0,
            0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 | 0x88e7 | 0x893f
        )
    }

    /// True for what is no type but a length (IEEE 802.3, section 3.2.6): LLC follows, and behind SNAP another EtherType.
    #[inline]
    pub const fn is_length(self) -> bool {
        self.0 < 0x600
    }
}

/// The 14 bytes of an Ethernet header.
#[derive(Clone, Copy, Debug)]
pub struct EthernetView<'a>(&'a [u8; HEADER_LEN]);

impl<'a> EthernetView<'a> {
    /// A view of a frame's start; `None` if it has fewer than 14 bytes.
    #[inline]
    pub fn new(frame: &'a [u8]) -> Option<Self> {
        array(frame, 0).map(Self)
    }

    /// Destination address.
    #[inline]
    pub const fn destination(self) -> MacAddr {
        let b = self.0;
        MacAddr([b[0], b[1], b[2], b[3], b[4], b[5]])
    }

    /// Source address.
    #[inline]
    pub const fn source(self) -> MacAddr {
        let b = self.0;
        MacAddr([b[6], b[7], b[8], b[9], b[10], b[11]])
    }

    /// What the frame carries.
    #[inline]
    pub const fn ether_type(self) -> EtherType {
        EtherType(u16::from_be_bytes([self.0[12], self.0[13]]))
    }
}

/// The 14 bytes of a header.
#[inline]
pub const fn header(
    destination: MacAddr,
    source: MacAddr,
    ether_type: EtherType,
) -> [u8; HEADER_LEN] {
    let d = destination.0;
    let s = source.0;
    let t = ether_type.0.to_be_bytes();
    [
        d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5], t[0], t[1],
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_identifiers_are_made_of_addresses_and_back() {
        let mac = MacAddr([0x52, 0x54, 0, 0xab, 0xcd, 1]);
        assert_eq!(mac.interface_id(), 0x5054_00ff_feab_cd01);
        assert_eq!(MacAddr::of_interface_id(mac.interface_id()), Some(mac));
        assert_eq!(MacAddr::of_interface_id(0x5054_00ff_ffab_cd01), None);
        assert_eq!(MacAddr::of_interface_id(1), None);
    }

    #[test]
    fn mac_text_round_trips_and_refuses_near_misses() {
        let mac: MacAddr = "52:54:00:Ab:cd:01".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:ab:cd:01");
        assert_eq!(mac.to_u64(), 0x5254_00ab_cd01);
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:01:02",
            "52-54-00-ab-cd-01",
            "+2:54:00:ab:cd:01",
            "2:54:00:ab:cd:01",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrError), "{bad}");
        }
    }

    #[test]
    fn kinds_of_addresses() {
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::ZERO.is_unicast() && !MacAddr::ZERO.is_multicast());
        let group = "ff02::1:ff12:3456".parse().unwrap();
        assert_eq!(
            MacAddr::from_ipv6_multicast(group).to_string(),
            "33:33:ff:12:34:56"
        );
    }

    #[test]
    fn header_round_trips() {
        let bytes = header(MacAddr::BROADCAST, MacAddr([2; 6]), EtherType::ARP);
        let view = EthernetView::new(&bytes).unwrap();
        assert_eq!(view.destination(), MacAddr::BROADCAST);
        assert_eq!(view.source(), MacAddr([2; 6]));
        assert_eq!(view.ether_type(), EtherType::ARP);
        assert!(EthernetView::new(&bytes[..13]).is_none());
    }
}
