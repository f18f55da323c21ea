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
use crate::shared::{
    drops::DropReason,
    hop::{Hop, Link, Neighbor},
    path::Path,
};
use crate::uplink::Outer;

const UDP_HEADER: usize = 8;
const TTL: u8 = 64;

/// Room that the longest headers take.
pub(super) const HEADERS_MAX: usize = ether::HEADER_LEN + ipv6::HEADER_LEN + UDP_HEADER;

/// How the UDP checksum is done.
///
/// Over IPv4 it might be left out (RFC 768), and WireGuard needs none. It is there all the same: a Linux receiver does
/// not join datagrams without a checksum (`UDP_GRO`), and pays more for that than the sum costs us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UdpChecksum {
    /// Here.
    Software,
    /// By the NIC: the field holds the pseudo-header's sum.
    Offload,
}

const V4_HEADERS: usize = ether::HEADER_LEN + ipv4::HEADER_LEN + UDP_HEADER;
const V6_HEADERS: usize = HEADERS_MAX;

/// A path's headers with every field that its datagrams share, and the sums of
/// these fields: what remains per datagram is a copy and four 16-bit additions.
#[derive(Debug)]
enum Headers {
    V4 {
        bytes: [u8; V4_HEADERS],
        ip_sum: Checksum,
        udp_sum: Checksum,
    },
    V6 {
        bytes: [u8; V6_HEADERS],
        udp_sum: Checksum,
    },
}

/// A path's headers, worked out once for all datagrams that take it.
#[derive(Debug)]
pub(super) struct Template {
    path: Arc<Path>,
    /// The path's.
    hop: Arc<Hop>,
    /// Where the hop's neighbor was.
    neighbor: Neighbor,
    headers: Headers,
    /// Bytes of the longest frame that need not be cut.
    uncut: usize,
    /// What the UDP checksum covers beyond the pseudo-header and the length.
    ports_sum: Checksum,
}

impl Template {
    /// The headers of `path`.
    ///
    /// # Errors
    /// The reason to drop what takes a path without a next hop or a source.
    pub(super) fn new(path: &Arc<Path>) -> Result<Self, DropReason> {
        let hop = &path.hop;
        let source = match hop.link() {
            Link::Ethernet(source) => source,
            Link::Nowhere => return Err(DropReason::NextHopUnresolved),
            Link::Kernel => return Err(DropReason::UplinkRefused),
        };
        let neighbor = hop.neighbor();
        let destination = neighbor.mac().ok_or(DropReason::NextHopUnresolved)?;
        let ethernet = |ether_type| ether::header(destination, source, ether_type);
        let mut udp = [0; UDP_HEADER];
        udp[..2].copy_from_slice(&path.port.to_be_bytes());
        udp[2..4].copy_from_slice(&path.endpoint.port().to_be_bytes());
        let headers = match (path.source, path.endpoint.ip()) {
            (Some(IpAddr::V4(from)), IpAddr::V4(to)) => {
                v4(ethernet(EtherType::IPV4), from, to, udp)
            }
            (Some(IpAddr::V6(from)), IpAddr::V6(to)) => {
                v6(ethernet(EtherType::IPV6), from, to, udp)
            }
            _ => return Err(DropReason::UplinkRefused),
        };
        Ok(Self {
            path: Arc::clone(path),
            hop: Arc::clone(hop),
            neighbor,
            headers,
            uncut: ether::HEADER_LEN + usize::from(path.uncut()),
            ports_sum: Checksum::of(&udp),
        })
    }

    /// Whether this is the template of `path`, and of where its next hop is now. The
    /// template holds its path, so that no other can have its address.
    pub(super) fn is_of(&self, path: &Arc<Path>) -> bool {
        Arc::ptr_eq(&self.path, path) && self.neighbor == self.hop.neighbor()
    }

    /// Bytes of the headers.
    pub(super) fn len(&self) -> usize {
        match self.headers {
            Headers::V4 { .. } => V4_HEADERS,
            Headers::V6 { .. } => V6_HEADERS,
        }
    }

    /// Bytes of the longest frame that need not be cut.
    pub(super) fn uncut(&self) -> usize {
        self.uncut
    }

    /// Whether the headers are IPv6.
    pub(super) fn is_v6(&self) -> bool {
        matches!(self.headers, Headers::V6 { .. })
    }

    /// Writes the headers into the first `len()` bytes of `frame`, whose rest is
    /// the datagram. `id` is the IPv4 identification; with `sum_of_datagram` nothing of
    /// the datagram is read.
    #[inline]
    pub(super) fn write(
        &self,
        frame: &mut [u8],
        Outer { tos, whole, .. }: Outer,
        id: u16,
        checksum: UdpChecksum,
        sum_of_datagram: Option<Checksum>,
    ) {
        let udp_len = u16::try_from(frame.len() - self.len() + UDP_HEADER)
            .expect("a frame is bounded by its buffer of less than 64 KiB");
        let [len_high, len_low] = udp_len.to_be_bytes();
        let in_front = "the caller made room for the headers";
        match &self.headers {
            Headers::V4 {
                bytes,
                ip_sum,
                udp_sum,
            } => {
                let (headers, datagram) = frame.split_first_chunk_mut().expect(in_front);
                let total_len = udp_len + 20;
                let mut sum = *ip_sum;
                sum.add_u16(u16::from(tos));
                sum.add_u16(total_len);
                sum.add_u16(id);
                *headers = *bytes;
                if whole {
                    // Don't fragment.
                    headers[20] |= 0x40;
                    sum.add_u16(0x4000);
                }
                headers[15] = tos;
                headers[16..18].copy_from_slice(&total_len.to_be_bytes());
                headers[18..20].copy_from_slice(&id.to_be_bytes());
                headers[24..26].copy_from_slice(&sum.complement().to_be_bytes());
                headers[38] = len_high;
                headers[39] = len_low;
                let field = self.udp_field(*udp_sum, udp_len, datagram, checksum, sum_of_datagram);
                headers[40..42].copy_from_slice(&field);
            }
            Headers::V6 { bytes, udp_sum } => {
                let (headers, datagram) = frame.split_first_chunk_mut().expect(in_front);
                *headers = *bytes;
                headers[14] |= tos >> 4;
                headers[15] = tos << 4;
                headers[18] = len_high;
                headers[19] = len_low;
                headers[58] = len_high;
                headers[59] = len_low;
                let field = self.udp_field(*udp_sum, udp_len, datagram, checksum, sum_of_datagram);
                headers[60..62].copy_from_slice(&field);
            }
        }
    }

    /// The UDP checksum field. `sum` is the pseudo-header's without the length.
    #[inline]
    fn udp_field(
        &self,
        mut sum: Checksum,
        udp_len: u16,
        datagram: &[u8],
        checksum: UdpChecksum,
        known: Option<Checksum>,
    ) -> [u8; 2] {
        sum.add_u16(udp_len);
        match checksum {
            UdpChecksum::Offload => sum.value().to_be_bytes(),
            UdpChecksum::Software => {
                sum.append(self.ports_sum);
                sum.add_u16(udp_len);
                sum.append(known.unwrap_or_else(|| Checksum::of(datagram)));
                sum.complement_udp().to_be_bytes()
            }
        }
    }
}

/// IPv4 headers with TOS, length, identification and both checksums left at 0.
fn v4(
    ethernet: [u8; ether::HEADER_LEN],
    source: Ipv4Addr,
    destination: Ipv4Addr,
    udp: [u8; UDP_HEADER],
) -> Headers {
    let mut ip = ipv4::header(&ipv4::Ipv4Fields {
        source,
        destination,
        tos: 0,
        id: 0,
        dont_fragment: false,
        ttl: TTL,
        protocol: PROTOCOL_UDP,
        total_len: 0,
    });
    ip[10..12].fill(0);
    let mut bytes = [0; V4_HEADERS];
    bytes[..14].copy_from_slice(&ethernet);
    bytes[14..34].copy_from_slice(&ip);
    bytes[34..].copy_from_slice(&udp);
    Headers::V4 {
        bytes,
        ip_sum: Checksum::of(&ip),
        udp_sum: Checksum::pseudo_v4(source, destination, PROTOCOL_UDP, 0),
    }
}

/// IPv6 headers with traffic class, lengths and checksum left at 0.
fn v6(
    ethernet: [u8; ether::HEADER_LEN],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    udp: [u8; UDP_HEADER],
) -> Headers {
    let ip = ipv6::header(&ipv6::Ipv6Fields {
        source,
        destination,
        traffic_class: 0,
        hop_limit: TTL,
        next_header: PROTOCOL_UDP,
        payload_len: 0,
    });
    let mut bytes = [0; V6_HEADERS];
    bytes[..14].copy_from_slice(&ethernet);
    bytes[14..54].copy_from_slice(&ip);
    bytes[54..].copy_from_slice(&udp);
    Headers::V6 {
        bytes,
        udp_sum: Checksum::pseudo_v6(source, destination, PROTOCOL_UDP, 0),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use culvert_wire::{Ipv4View, Ipv6View, MacAddr};

    use super::*;
    use crate::shared::ids::UplinkIndex;

    fn path(endpoint: &str, source: &str) -> Arc<Path> {
        Arc::new(Path::new(
            endpoint.parse().unwrap(),
            Some(source.parse().unwrap()),
            51_820,
            Arc::new(Hop::ethernet(
                UplinkIndex(0),
                MacAddr([2, 0, 0, 0, 0, 1]),
                Some(MacAddr([2, 0, 0, 0, 0, 2])),
            )),
        ))
    }

    #[test]
    fn an_ipv4_frame_is_as_the_rfcs_say() {
        let path = path("192.0.2.11:51821", "192.0.2.10");
        let template = Template::new(&path).unwrap();
        assert_eq!((template.len(), template.is_v6()), (42, false));
        let mut frame = vec![0xaa; 42 + 33];
        template.write(
            &mut frame,
            Outer::from(0x8a),
            0x1234,
            UdpChecksum::Software,
            None,
        );
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

        template.write(&mut frame, Outer::from(0), 0, UdpChecksum::Offload, None);
        assert_eq!(frame[40..42], seed.to_be_bytes());
    }

    #[test]
    fn a_sum_that_is_known_is_not_made_again() {
        for (endpoint, source) in [
            ("192.0.2.11:51821", "192.0.2.10"),
            ("[2001:db8::11]:51821", "2001:db8::10"),
        ] {
            let template = Template::new(&path(endpoint, source)).unwrap();
            let mut frame: Vec<u8> = (0..=255).cycle().take(template.len() + 1001).collect();
            template.write(
                &mut frame,
                Outer::from(0x8a),
                7,
                UdpChecksum::Software,
                None,
            );
            let mut again = frame.clone();
            let sum = Some(Checksum::of(&frame[template.len()..]));
            template.write(&mut again, Outer::from(0x8a), 7, UdpChecksum::Software, sum);
            assert_eq!(again, frame);
            // Nothing looks at the datagram.
            again[template.len()] ^= 1;
            template.write(&mut again, Outer::from(0x8a), 7, UdpChecksum::Software, sum);
            assert_eq!(again[..template.len()], frame[..template.len()]);
        }
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
            template.write(&mut frame, Outer::from(0), 0, UdpChecksum::Software, None);
            assert_ne!(frame[60..62], [0, 0]);
            let mut sum = Checksum::pseudo_v6(
                "2001:db8::10".parse().unwrap(),
                "2001:db8::11".parse().unwrap(),
                17,
                10,
            );
            sum.add(&frame[54..]);
            assert!(sum.is_valid());
            seen |= frame[60..62] == [0xff, 0xff];
        }
        assert!(seen);
    }

    #[test]
    fn an_ipv6_header_carries_its_traffic_class() {
        let path = path("[2001:db8::11]:51821", "2001:db8::10");
        let template = Template::new(&path).unwrap();
        let mut frame = vec![0xaa; HEADERS_MAX + 300];
        template.write(
            &mut frame,
            Outer::from(0x8a),
            7,
            UdpChecksum::Software,
            None,
        );
        let ip = Ipv6View::new(&frame[14..]).unwrap();
        assert_eq!(
            (ip.version(), ip.traffic_class(), ip.flow_label()),
            (6, 0x8a, 0)
        );
        assert_eq!(
            (ip.payload_len(), ip.next_header(), ip.hop_limit()),
            (308, 17, 64)
        );
        assert_eq!(frame[54..60], [0xca, 0x6c, 0xca, 0x6d, 1, 52]);
    }

    #[test]
    fn a_probe_alone_may_not_be_cut() {
        let template = Template::new(&path("192.0.2.11:51821", "192.0.2.10")).unwrap();
        for whole in [false, true] {
            let outer = Outer {
                whole,
                ..Outer::from(0x8a)
            };
            let mut frame = vec![0xaa; 42 + 33];
            template.write(&mut frame, outer, 7, UdpChecksum::Software, None);
            let ip = Ipv4View::new(&frame[14..]).unwrap();
            assert_eq!(ip.fragment_bits(), if whole { 0x4000 } else { 0 });
            assert!(Checksum::of(&frame[14..34]).is_valid());
        }
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
            with(|path| path.hop = Arc::new(Hop::nowhere(UplinkIndex(0)))),
            DropReason::NextHopUnresolved
        );
        assert_eq!(
            with(|path| path.hop = Arc::new(Hop::kernel(UplinkIndex(0)))),
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

    #[test]
    fn a_neighbor_that_moves_takes_its_paths_with_it() {
        let paths = [
            path("192.0.2.11:51821", "192.0.2.10"),
            path("198.51.100.1:7", "192.0.2.10"),
        ];
        let hop = &paths[0].hop;
        let mut shared = Path::clone(&paths[1]);
        shared.hop = Arc::clone(hop);
        let paths = [Arc::clone(&paths[0]), Arc::new(shared)];
        let before = paths.each_ref().map(|path| Template::new(path).unwrap());
        assert!(before.iter().zip(&paths).all(|(t, path)| t.is_of(path)));

        let elsewhere = MacAddr([2, 0, 0, 0, 0, 9]);
        hop.set(Some(elsewhere));
        for (path, before) in paths.iter().zip(&before) {
            assert!(!before.is_of(path) && path.is_resolved());
            let template = Template::new(path).unwrap();
            let mut frame = vec![0; template.len()];
            template.write(&mut frame, Outer::from(0), 0, UdpChecksum::Software, None);
            assert_eq!(frame[..6], elsewhere.0);
        }
        hop.set(None);
        for path in &paths {
            assert!(!path.is_resolved());
            let lost = Template::new(path).unwrap_err();
            assert_eq!(lost, DropReason::NextHopUnresolved);
        }
    }
}
