//! The outer headers: Ethernet, IP and UDP ahead of a sealed datagram.
//!
//! In: a path, a traffic class, the datagram in its buffer. Out: the headers,
//! checksums complete or seeded for the NIC. Never: a look-up; what a path doesn't
//! know is a reason to drop.
//!
//! ```text
//!  |<- room ahead ->|<- Ethernet 14 ->|<- IP 20 or 40 ->|<- UDP 8 ->|<- datagram ->|
//!                   ^ Template::write returns this slice's start
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use culvert_wire::{Checksum, EtherType, ether, ipv4, ipv6};

use super::classify::PROTOCOL_UDP;
use crate::{
    drops::DropReason,
    path::{Link, Path},
};

const UDP_HEADER: usize = 8;
const TTL: u8 = 64;

/// Room that the longest headers take.
pub(super) const HEADERS_MAX: usize = ether::HEADER_LEN + ipv6::HEADER_LEN + UDP_HEADER;

/// How the UDP checksum is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UdpChecksum {
    /// Here.
    Software,
    /// By the NIC: the field holds the pseudo-header's sum.
    Offload,
}

/// The addresses of a path, by family.
#[derive(Clone, Copy, Debug)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// A path's headers, worked out once for all datagrams that take it.
#[derive(Debug)]
pub(super) struct Template {
    path: Arc<Path>,
    ethernet: [u8; ether::HEADER_LEN],
    addresses: Addresses,
    ports: [u8; 4],
}

impl Template {
    /// The headers of `path`.
    ///
    /// # Errors
    /// The reason to drop what takes a path without a next hop or a source.
    pub(super) fn new(path: &Arc<Path>) -> Result<Self, DropReason> {
        let (source, destination, port) = match path.link {
            Link::Ethernet {
                source,
                destination,
                port,
            } => (source, destination, port),
            Link::Unresolved => return Err(DropReason::NextHopUnresolved),
            Link::Kernel => return Err(DropReason::UplinkRefused),
        };
        let (addresses, ether_type) = match (path.source, path.endpoint.ip()) {
            (Some(IpAddr::V4(from)), IpAddr::V4(to)) => (Addresses::V4(from, to), EtherType::IPV4),
            (Some(IpAddr::V6(from)), IpAddr::V6(to)) => (Addresses::V6(from, to), EtherType::IPV6),
            _ => return Err(DropReason::UplinkRefused),
        };
        let [a, b] = port.to_be_bytes();
        let [c, d] = path.endpoint.port().to_be_bytes();
        Ok(Self {
            path: Arc::clone(path),
            ethernet: ether::header(destination, source, ether_type),
            addresses,
            ports: [a, b, c, d],
        })
    }

    /// Whether this is the template of `path`. The template holds its path, so
    /// that no other can have its address.
    pub(super) fn is_of(&self, path: &Arc<Path>) -> bool {
        Arc::ptr_eq(&self.path, path)
    }

    /// Bytes of the headers.
    pub(super) fn len(&self) -> usize {
        let ip = match self.addresses {
            Addresses::V4(..) => ipv4::HEADER_LEN,
            Addresses::V6(..) => ipv6::HEADER_LEN,
        };
        ether::HEADER_LEN + ip + UDP_HEADER
    }

    /// Whether the headers are IPv6.
    pub(super) fn is_v6(&self) -> bool {
        matches!(self.addresses, Addresses::V6(..))
    }

    /// Writes the headers into the first `len()` bytes of `frame`, whose rest is
    /// the datagram. `id` is the IPv4 identification.
    pub(super) fn write(&self, frame: &mut [u8], tos: u8, id: u16, checksum: UdpChecksum) {
        let (headers, datagram) = frame.split_at_mut(self.len());
        let udp_len = u16::try_from(UDP_HEADER + datagram.len())
            .expect("a frame is bounded by its buffer of less than 64 KiB");
        let (ethernet, rest) = headers.split_at_mut(ether::HEADER_LEN);
        ethernet.copy_from_slice(&self.ethernet);
        let (ip, udp) = rest.split_at_mut(rest.len() - UDP_HEADER);

        let mut sum = match self.addresses {
            Addresses::V4(source, destination) => {
                ip.copy_from_slice(&ipv4::header(&ipv4::Ipv4Fields {
                    source,
                    destination,
                    tos,
                    id,
                    dont_fragment: false,
                    ttl: TTL,
                    protocol: PROTOCOL_UDP,
                    total_len: udp_len + 20,
                }));
                Checksum::pseudo_v4(source, destination, PROTOCOL_UDP, u32::from(udp_len))
            }
            Addresses::V6(source, destination) => {
                ip.copy_from_slice(&ipv6::header(&ipv6::Ipv6Fields {
                    source,
                    destination,
                    traffic_class: tos,
                    hop_limit: TTL,
                    next_header: PROTOCOL_UDP,
                    payload_len: udp_len,
                }));
                Checksum::pseudo_v6(source, destination, PROTOCOL_UDP, u32::from(udp_len))
            }
        };

        udp[..4].copy_from_slice(&self.ports);
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        udp[6..8].fill(0);
        let field = match checksum {
            UdpChecksum::Offload => sum.value(),
            UdpChecksum::Software => {
                sum.add(udp);
                sum.add(datagram);
                sum.complement_udp()
            }
        };
        udp[6..8].copy_from_slice(&field.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use culvert_wire::{Ipv4View, MacAddr};

    use super::*;

    fn path(endpoint: &str, source: &str) -> Arc<Path> {
        Arc::new(Path {
            endpoint: endpoint.parse().unwrap(),
            source: Some(source.parse().unwrap()),
            link: Link::Ethernet {
                source: MacAddr([2, 0, 0, 0, 0, 1]),
                destination: MacAddr([2, 0, 0, 0, 0, 2]),
                port: 51_820,
            },
        })
    }

    #[test]
    fn an_ipv4_frame_is_as_the_rfcs_say() {
        let path = path("192.0.2.11:51821", "192.0.2.10");
        let template = Template::new(&path).unwrap();
        assert_eq!((template.len(), template.is_v6()), (42, false));
        let mut frame = vec![0xaa; 42 + 33];
        template.write(&mut frame, 0x8a, 0x1234, UdpChecksum::Software);
        assert_eq!(frame[..12], [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[12..14], [8, 0]);
        assert!(Checksum::of(&frame[14..34]).is_valid());
        let ip = Ipv4View::new(&frame[14..]).unwrap();
        assert_eq!(
            (ip.tos(), ip.id(), ip.total_len(), ip.ttl()),
            (0x8a, 0x1234, 61, 64)
        );
        assert_eq!(ip.fragment_bits(), 0);
        assert_eq!(frame[34..40], [0xca, 0x6c, 0xca, 0x6d, 0, 41]);
        let mut sum = Checksum::pseudo_v4(ip.source(), ip.destination(), 17, 41);
        let seed = sum.value();
        sum.add(&frame[34..]);
        assert!(sum.is_valid());
        assert!(frame[42..].iter().all(|&byte| byte == 0xaa));

        template.write(&mut frame, 0, 0, UdpChecksum::Offload);
        assert_eq!(frame[40..42], seed.to_be_bytes());
    }

    #[test]
    fn an_ipv6_checksum_is_never_zero() {
        let path = path("[2001:db8::11]:51821", "2001:db8::10");
        let template = Template::new(&path).unwrap();
        assert_eq!((template.len(), template.is_v6()), (HEADERS_MAX, true));
        // Among all values of one word, one makes the sum come out as zero.
        let mut seen = false;
        for word in 0..=u16::MAX {
            let mut frame = vec![0; HEADERS_MAX + 2];
            frame[HEADERS_MAX..].copy_from_slice(&word.to_be_bytes());
            template.write(&mut frame, 0, 0, UdpChecksum::Software);
            assert_ne!(frame[60..62], [0, 0]);
            seen |= frame[60..62] == [0xff, 0xff];
        }
        assert!(seen);
    }

    #[test]
    fn a_path_that_leads_nowhere_is_refused() {
        let good = path("192.0.2.11:51821", "192.0.2.10");
        let with = |change: fn(&mut Path)| {
            let mut path = Path::clone(&good);
            change(&mut path);
            Template::new(&Arc::new(path)).unwrap_err()
        };
        assert_eq!(
            with(|path| path.link = Link::Unresolved),
            DropReason::NextHopUnresolved
        );
        assert_eq!(
            with(|path| path.link = Link::Kernel),
            DropReason::UplinkRefused
        );
        assert_eq!(with(|path| path.source = None), DropReason::UplinkRefused);
        assert_eq!(
            with(|path| path.endpoint = SocketAddr::new([0; 16].into(), 1)),
            DropReason::UplinkRefused
        );
        let template = Template::new(&good).unwrap();
        assert!(template.is_of(&good) && !template.is_of(&Arc::new(Path::clone(&good))));
    }
}
