//! Ethernet: addresses, types, the header, the VLAN tag.
//!
//! In: a frame's first 14 bytes, or 18 with a tag. Out: a view, or those bytes written.
//! Never: what is behind a tag (a tagged frame has an EtherType of its own and is not IP to us).

use std::fmt;
use std::str::FromStr;

use crate::bytes::array;

/// Bytes of an Ethernet header.
pub const HEADER_LEN: usize = 14;
/// Bytes of a VLAN tag.
pub const TAG_LEN: usize = 4;
/// Where a tag is put in: behind the addresses.
pub const TAG_OFFSET: usize = 12;

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

/// The number of a VLAN: 1 to 4094 (IEEE 802.1Q, table 9-2: 0 is no VLAN, 4095 is reserved).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanId(u16);

impl VlanId {
    /// The least.
    pub const MIN: u16 = 1;
    /// The greatest.
    pub const MAX: u16 = 4094;

    /// The VLAN of that number, if there is one.
    #[inline]
    pub const fn new(number: u16) -> Option<Self> {
        match number {
            Self::MIN..=Self::MAX => Some(Self(number)),
            _ => None,
        }
    }

    /// Its number.
    #[inline]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its tag: of the least priority, as a station sends that knows of none.
    #[inline]
    pub const fn tag(self) -> [u8; TAG_LEN] {
        let [a, b] = EtherType::VLAN.0.to_be_bytes();
        let [c, d] = self.0.to_be_bytes();
        [a, b, c, d]
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame says of VLANs, and what a receiver could take for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagging {
    /// It has no tag.
    Untagged,
    /// One tag, of this VLAN.
    Vlan(VlanId),
    /// One tag of VLAN 0: a priority, and no VLAN.
    Priority,
    /// One tag of VLAN 4095.
    Reserved,
    /// A second tag, or one of another kind.
    Stacked,
    /// With a tag or without: a length in the EtherType's place. LLC follows, and behind SNAP another EtherType, which
    /// may be a tag's.
    Llc,
    /// It ends within its tag.
    Short,
}

impl Tagging {
    /// Of the frame that begins with `head`, which has an Ethernet header at least.
    #[inline]
    pub fn of(head: &[u8]) -> Self {
        let word = |offset| Some(u16::from_be_bytes(*array(head, offset)?));
        let Some(first) = word(TAG_OFFSET).map(EtherType) else {
            return Self::Short;
        };
        if first != EtherType::VLAN {
            return match first {
                it if it.is_tag() => Self::Stacked,
                it if it.is_length() => Self::Llc,
                _ => Self::Untagged,
            };
        }
        let behind = word(TAG_OFFSET + TAG_LEN).map(EtherType);
        let (Some(control), Some(second)) = (word(TAG_OFFSET + 2), behind) else {
            return Self::Short;
        };
        match control & 0x0fff {
            _ if second.is_tag() => Self::Stacked,
            _ if second.is_length() => Self::Llc,
            0 => Self::Priority,
            number => VlanId::new(number).map_or(Self::Reserved, Self::Vlan),
        }
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

    /// A frame's start with these words behind the addresses.
    fn words(words: &[u16]) -> Vec<u8> {
        let mut frame = vec![2; TAG_OFFSET];
        frame.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        frame
    }

    #[test]
    fn what_frames_say_of_vlans() {
        let ten = VlanId::new(10).unwrap();
        let cases: [(&[u16], Tagging); 17] = [
            (&[0x0800], Tagging::Untagged),
            (&[0x0600], Tagging::Untagged),
            (&[0x05ff], Tagging::Llc),
            (&[0x8100, 10, 0x0800], Tagging::Vlan(ten)),
            // Priority and drop eligibility say nothing of the VLAN.
            (&[0x8100, 0xf00a, 0x86dd], Tagging::Vlan(ten)),
            (&[0x8100, 4094, 0x0806], Tagging::Vlan(VlanId(4094))),
            (&[0x8100, 4095, 0x0806], Tagging::Reserved),
            (&[0x8100, 0, 0x0800], Tagging::Priority),
            (&[0x8100, 0xe000, 0x0800], Tagging::Priority),
            (&[0x8100, 10, 0x8100], Tagging::Stacked),
            (&[0x8100, 0, 0x8100], Tagging::Stacked),
            (&[0x8100, 10, 0x88a8], Tagging::Stacked),
            (&[0x88a8, 10, 0x0800], Tagging::Stacked),
            (&[0x8100, 10, 0x0100], Tagging::Llc),
            (&[0x8100, 10], Tagging::Short),
            (&[0x8100], Tagging::Short),
            (&[], Tagging::Short),
        ];
        for (frame, tagging) in cases {
            assert_eq!(Tagging::of(&words(frame)), tagging, "{frame:04x?}");
        }
    }

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        for number in [1, 10, 4094] {
            let vlan = VlanId::new(number).unwrap();
            assert_eq!(
                (vlan.number(), vlan.to_string()),
                (number, format!("{number}"))
            );
            let mut frame = header(MacAddr([4; 6]), MacAddr([2; 6]), EtherType::IPV4).to_vec();
            frame.splice(TAG_OFFSET..TAG_OFFSET, vlan.tag());
            assert_eq!(Tagging::of(&frame), Tagging::Vlan(vlan));
        }
        assert_eq!([0, 4095, u16::MAX].map(VlanId::new), [None; 3]);
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
