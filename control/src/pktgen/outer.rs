//! What is around a peer's datagrams where the generator sits on an Ethernet wire: it is the host at the other end.
//!
//! In: datagrams with room ahead of them; frames that came. Out: the same as frames; datagrams that were in frames; answers
//! to who asks for its hardware address. Never: a route, a fragment, a checksum that is left out.

use std::net::{IpAddr, SocketAddr};

use culvert_wire::{
    Checksum, EtherType, MacAddr,
    arp::{self, ArpPacket},
    ether, ipv4, ipv6,
    nd::{self, NdMessage},
    parse::{Fragment, Headers, L3, L4, parse_frame},
    udp,
};

/// Between 0 and this, where nothing else is known (RFC 1700's default).
const TTL: u8 = 64;

/// The two ends of a path on a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The generator's.
    pub near: (MacAddr, SocketAddr),
    /// Of the device under test.
    pub far: (MacAddr, SocketAddr),
}

impl Outer {
    /// Bytes ahead of a datagram.
    #[must_use]
    pub const fn headers_len(&self) -> usize {
        let ip = match self.near.1.is_ipv4() {
            true => ipv4::HEADER_LEN,
            false => ipv6::HEADER_LEN,
        };
        ether::HEADER_LEN + ip + udp::HEADER_LEN
    }

    /// Writes the headers into the first [`Outer::headers_len`] bytes of a frame whose rest is the datagram.
    ///
    /// # Panics
    /// If the frame is shorter than the headers or longer than 64 KiB, or if the ends' addresses are of two versions.
    pub fn write(&self, frame: &mut [u8]) {
        let (mac, far) = self.far;
        let (own_mac, near) = self.near;
        let (headers, datagram) = frame.split_at_mut(self.headers_len());
        let (ether, rest) = headers.split_at_mut(ether::HEADER_LEN);
        let (ip, udp) = rest.split_at_mut(rest.len() - udp::HEADER_LEN);
        let udp_len = u16::try_from(udp::HEADER_LEN + datagram.len()).expect("less than 64 KiB");
        let (ether_type, mut sum) = match (near.ip(), far.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let fields = ipv4::Ipv4Fields {
                    source,
                    destination,
                    tos: 0,
                    id: 0,
                    dont_fragment: true,
                    ttl: TTL,
                    protocol: udp::PROTOCOL,
                    total_len: udp_len + 20,
                };
                ip.copy_from_slice(&ipv4::header(&fields));
                let sum = Checksum::pseudo_v4(source, destination, udp::PROTOCOL, udp_len.into());
                (EtherType::IPV4, sum)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let fields = ipv6::Ipv6Fields {
                    source,
                    destination,
                    traffic_class: 0,
                    hop_limit: TTL,
                    next_header: udp::PROTOCOL,
                    payload_len: udp_len,
                };
                ip.copy_from_slice(&ipv6::header(&fields));
                let sum = Checksum::pseudo_v6(source, destination, udp::PROTOCOL, udp_len.into());
                (EtherType::IPV6, sum)
            }
            _ => panic!("both ends have addresses of one version"),
        };
        ether.copy_from_slice(&ether::header(mac, own_mac, ether_type));
        udp[..2].copy_from_slice(&near.port().to_be_bytes());
        udp[2..4].copy_from_slice(&far.port().to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        udp[6..].fill(0);
        sum.add(udp);
        sum.add(datagram);
        udp[6..].copy_from_slice(&sum.complement_udp().to_be_bytes());
    }
}

/// What a frame on the wire is to a host there.
#[derive(Debug, PartialEq, Eq)]
pub enum Came<'f> {
    /// A whole UDP datagram.
    Datagram {
        /// Who sent it.
        source: SocketAddr,
        /// To whom.
        destination: SocketAddr,
        /// Its payload.
        payload: &'f mut [u8],
    },
    /// Somebody asks for an address: whose, and the answer that says that it is at the hardware address that was given.
    Asked(IpAddr, Vec<u8>),
    /// Anything else.
    Other,
}

/// Looks at a frame; who asks for an address is told that it is at `mac`.
pub fn look(frame: &mut [u8], mac: MacAddr) -> Came<'_> {
    let Some(headers) = u32::try_from(frame.len())
        .ok()
        .and_then(|len| parse_frame(frame, len).ok())
    else {
        return Came::Other;
    };
    match (headers.l3, headers.l4) {
        (L3::Arp, _) => asked_by_arp(&frame[headers.l3_offset..], mac),
        (L3::V6(_), L4::Icmp6(_)) => asked_by_nd(&headers, frame, mac),
        (L3::V4(ip), L4::Udp(_)) if ip.fragment == Fragment::Whole => {
            datagram(&headers, frame, (ip.source.into(), ip.destination.into()))
        }
        (L3::V6(ip), L4::Udp(_)) => {
            datagram(&headers, frame, (ip.source.into(), ip.destination.into()))
        }
        _ => Came::Other,
    }
}

fn datagram<'f>(
    headers: &Headers,
    frame: &'f mut [u8],
    (source, destination): (IpAddr, IpAddr),
) -> Came<'f> {
    let L4::Udp(udp) = headers.l4 else {
        return Came::Other;
    };
    let end = headers.l3_offset + headers.ip_len;
    match frame.get_mut(headers.payload_offset..end) {
        Some(payload) => Came::Datagram {
            source: SocketAddr::new(source, udp.source_port),
            destination: SocketAddr::new(destination, udp.destination_port),
            payload,
        },
        None => Came::Other,
    }
}

fn asked_by_arp(packet: &[u8], mac: MacAddr) -> Came<'static> {
    let Ok(packet) = ArpPacket::parse(packet) else {
        return Came::Other;
    };
    // Who asks for its own address announces it, and nobody answers that.
    if packet.operation != arp::Operation::Request || packet.sender == packet.target {
        return Came::Other;
    }
    let mut answer = vec![0; arp::FRAME_LEN];
    packet.reply(mac).write_frame(&mut answer);
    Came::Asked(packet.target.into(), answer)
}

fn asked_by_nd(headers: &Headers, frame: &[u8], mac: MacAddr) -> Came<'static> {
    let Ok(NdMessage::Solicitation {
        source,
        target,
        source_mac,
    }) = NdMessage::parse(headers, frame)
    else {
        return Came::Other;
    };
    // Who has no address looks whether anybody has that one.
    if source.is_unspecified() {
        return Came::Other;
    }
    let asker = source_mac.unwrap_or(headers.ether.source);
    let mut answer = vec![0; nd::FRAME_LEN];
    let len = nd::write_advertisement(source, asker, target, mac, false, &mut answer);
    answer.truncate(len);
    Came::Asked(target.into(), answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const FAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn outer(near: &str, far: &str) -> Outer {
        Outer {
            near: (NEAR, near.parse().unwrap()),
            far: (FAR, far.parse().unwrap()),
        }
    }

    #[test]
    fn a_datagram_is_what_it_was_behind_its_headers() {
        for (near, far) in [
            ("192.0.2.1:7", "192.0.2.2:51820"),
            ("[2001:db8::1]:7", "[2001:db8::2]:51820"),
        ] {
            let outer = outer(near, far);
            for len in [0, 1, 32, 1452] {
                let mut frame = vec![0x5a; outer.headers_len() + len];
                outer.write(&mut frame);
                let headers = parse_frame(&frame, u32::try_from(frame.len()).unwrap()).unwrap();
                assert_eq!(headers.ether.source, NEAR);
                assert_eq!(headers.ether.destination, FAR);
                let mut sum = match headers.l3 {
                    L3::V4(ip) => {
                        assert!(ip.checksum_ok && ip.dont_fragment);
                        Checksum::pseudo_v4(ip.source, ip.destination, 17, udp_len(len))
                    }
                    L3::V6(ip) => Checksum::pseudo_v6(ip.source, ip.destination, 17, udp_len(len)),
                    L3::Arp | L3::Other => panic!("no packet"),
                };
                sum.add(&frame[headers.l4_offset..]);
                assert!(sum.is_valid(), "{near} {len}");
                // A short frame is filled up on its way.
                frame.resize(frame.len().max(60), 0);
                let Came::Datagram {
                    source,
                    destination,
                    payload,
                } = look(&mut frame, NEAR)
                else {
                    panic!("a datagram");
                };
                assert_eq!((source, destination), (outer.near.1, outer.far.1));
                assert_eq!(payload, vec![0x5a; len]);
            }
        }
    }

    fn udp_len(len: usize) -> u32 {
        u32::try_from(len + 8).unwrap()
    }

    #[test]
    fn who_asks_for_an_address_is_answered() {
        let ask = ArpPacket::request(FAR, [192, 0, 2, 2].into(), [192, 0, 2, 1].into());
        let mut frame = [0; 60];
        ask.write_frame(&mut frame);
        let Came::Asked(target, answer) = look(&mut frame, NEAR) else {
            panic!("a question");
        };
        assert_eq!(target, IpAddr::from([192, 0, 2, 1]));
        let reply = ArpPacket::parse(&answer[14..]).unwrap();
        assert_eq!((reply.sender_mac, reply.target_mac), (NEAR, FAR));

        let [near, far] = ["2001:db8::1", "2001:db8::2"].map(|it| it.parse().unwrap());
        let mut frame = [0; 128];
        let len = nd::write_solicitation(FAR, far, near, &mut frame);
        let Came::Asked(target, answer) = look(&mut frame[..len], NEAR) else {
            panic!("a question");
        };
        assert_eq!(target, IpAddr::from(near));
        let headers = parse_frame(&answer, u32::try_from(answer.len()).unwrap()).unwrap();
        let expected = NdMessage::Advertisement {
            source: near,
            target: near,
            target_mac: Some(NEAR),
            router: false,
            solicited: true,
            replace: true,
        };
        assert_eq!(NdMessage::parse(&headers, &answer), Ok(expected));
    }

    #[test]
    fn announcements_detections_and_what_is_cut_short_are_nothing() {
        let mut frame = [0; 60];
        ArpPacket::announcement(FAR, [192, 0, 2, 2].into()).write_frame(&mut frame);
        assert_eq!(look(&mut frame, NEAR), Came::Other);
        let mut frame = [0; 128];
        let len = nd::write_detection(FAR, "2001:db8::1".parse().unwrap(), &mut frame);
        assert_eq!(look(&mut frame[..len], NEAR), Came::Other);
        let outer = outer("192.0.2.1:7", "192.0.2.2:51820");
        let mut whole = vec![1; outer.headers_len() + 40];
        outer.write(&mut whole);
        for len in 0..whole.len() {
            assert_eq!(look(&mut whole[..len], NEAR), Came::Other, "{len}");
        }
    }
}
