//! Packets for the tests: built and checked byte by byte, without the crates that the
//! data path uses for the same.

use std::net::IpAddr;

use culvert_wire::VnetHeader;

/// The Internet checksum's sum of `bytes` over `start`, not complemented.
pub(crate) fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// The pseudo-header's sum.
fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> u16 {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend(u32::try_from(len).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    sum(&bytes, 0)
}

/// An IP packet to build.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) class: u8,
    pub(crate) id: u16,
}

pub(crate) fn ip(source: &str, destination: &str) -> Ip {
    Ip {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        hop_limit: 64,
        class: 0,
        id: 7,
    }
}

impl Ip {
    pub(crate) fn hops(self, hop_limit: u8) -> Self {
        Self { hop_limit, ..self }
    }

    pub(crate) fn class(self, class: u8) -> Self {
        Self { class, ..self }
    }

    /// The packet with this layer 4 content.
    pub(crate) fn with(&self, protocol: u8, l4: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        if self.source.is_ipv4() {
            let len = u16::try_from(20 + l4.len()).unwrap();
            packet.extend([0x45, self.class]);
            packet.extend(len.to_be_bytes());
            packet.extend(self.id.to_be_bytes());
            packet.extend([0x40, 0, self.hop_limit, protocol, 0, 0]);
            packet.extend(octets(self.source));
            packet.extend(octets(self.destination));
            let check = !sum(&packet, 0);
            packet[10..12].copy_from_slice(&check.to_be_bytes());
        } else {
            let len = u16::try_from(l4.len()).unwrap();
            packet.extend([0x60 | self.class >> 4, self.class << 4, 0, 0]);
            packet.extend(len.to_be_bytes());
            packet.extend([protocol, self.hop_limit]);
            packet.extend(octets(self.source));
            packet.extend(octets(self.destination));
        }
        packet.extend(l4);
        packet
    }

    pub(crate) fn destination_octets(&self) -> Vec<u8> {
        octets(self.destination)
    }

    /// An ICMPv6 message.
    pub(crate) fn icmp6(&self, l4: Vec<u8>) -> Vec<u8> {
        self.checked(58, l4, 2, false)
    }

    /// With a checksum at `field`.
    pub(crate) fn checked(
        &self,
        protocol: u8,
        mut l4: Vec<u8>,
        field: usize,
        partial: bool,
    ) -> Vec<u8> {
        let seed = pseudo(self.source, self.destination, protocol, l4.len());
        let check = if partial {
            seed
        } else {
            match !sum(&l4, seed.into()) {
                0 if protocol == 17 => 0xffff,
                check => check,
            }
        };
        l4[field..field + 2].copy_from_slice(&check.to_be_bytes());
        self.with(protocol, &l4)
    }

    /// UDP; `partial` leaves the checksum for an offload.
    pub(crate) fn udp(&self, ports: (u16, u16), payload: &[u8], partial: bool) -> Vec<u8> {
        let mut l4 = ports.0.to_be_bytes().to_vec();
        l4.extend(ports.1.to_be_bytes());
        l4.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
        l4.extend([0, 0]);
        l4.extend(payload);
        self.checked(17, l4, 6, partial)
    }

    /// TCP of port 1000 to 2000; `partial` leaves the checksum for an offload.
    pub(crate) fn tcp(&self, sequence: u32, flags: u8, payload: &[u8], partial: bool) -> Vec<u8> {
        let mut l4 = 1000u16.to_be_bytes().to_vec();
        l4.extend(2000u16.to_be_bytes());
        l4.extend(sequence.to_be_bytes());
        l4.extend(99u32.to_be_bytes());
        l4.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        l4.extend(payload);
        self.checked(6, l4, 16, partial)
    }

    /// An echo request.
    pub(crate) fn echo(&self, payload: &[u8]) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        let mut l4 = vec![if v4 { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 2];
        l4.extend(payload);
        if v4 {
            let check = !sum(&l4, 0);
            l4[2..4].copy_from_slice(&check.to_be_bytes());
            self.with(1, &l4)
        } else {
            self.checked(58, l4, 2, false)
        }
    }
}

/// The metadata of a super-frame or a partial checksum for `packet` behind Ethernet.
pub(crate) fn offload(packet: &[u8], gso_type: u8, gso_size: u16) -> VnetHeader {
    let (l4, protocol) = match packet[0] >> 4 {
        4 => (20u16, packet[9]),
        _ => (40, packet[6]),
    };
    VnetHeader {
        flags: VnetHeader::NEEDS_CSUM,
        gso_type,
        hdr_len: 14 + l4 + if protocol == 6 { 20 } else { 8 },
        gso_size,
        csum_start: 14 + l4,
        csum_offset: if protocol == 6 { 16 } else { 6 },
        num_buffers: 0,
    }
}

/// What a whole, valid IP packet says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) hop_limit: u8,
    pub(crate) class: u8,
    pub(crate) id: u16,
    pub(crate) protocol: u8,
    pub(crate) len: usize,
    pub(crate) l4: Vec<u8>,
}

impl Seen {
    pub(crate) fn payload(&self) -> &[u8] {
        match self.protocol {
            6 => &self.l4[20..],
            _ => &self.l4[8..],
        }
    }

    pub(crate) fn sequence(&self) -> u32 {
        u32::from_be_bytes(self.l4[4..8].try_into().unwrap())
    }

    pub(crate) fn flags(&self) -> u8 {
        self.l4[13]
    }
}

/// Reads a packet; asserts that what follows it is zero padding, and every checksum.
pub(crate) fn read(bytes: &[u8]) -> Seen {
    let seen = read_partial(bytes);
    let seed = match (seen.protocol, seen.source.is_ipv4()) {
        (1, true) => 0,
        _ => pseudo(seen.source, seen.destination, seen.protocol, seen.l4.len()),
    };
    if [1, 6, 17, 58].contains(&seen.protocol) {
        assert_eq!(sum(&seen.l4, seed.into()), 0xffff, "layer 4 checksum");
    }
    seen
}

/// As `read`, for a packet whose layer 4 checksum is partial: asserts the seed.
pub(crate) fn read_seeded(bytes: &[u8]) -> Seen {
    let seen = read_partial(bytes);
    let field = if seen.protocol == 6 { 16 } else { 6 };
    let seed = pseudo(seen.source, seen.destination, seen.protocol, seen.l4.len());
    assert_eq!(seen.l4[field..field + 2], seed.to_be_bytes(), "seed");
    seen
}

fn read_partial(bytes: &[u8]) -> Seen {
    let v4 = bytes[0] >> 4 == 4;
    let head = if v4 { 20 } else { 40 };
    let at = |range: std::ops::Range<usize>| u16::from_be_bytes(bytes[range].try_into().unwrap());
    let len = usize::from(if v4 { at(2..4) } else { at(4..6) + 40 });
    assert!(bytes[len..].iter().all(|&b| b == 0), "padding");
    let address = |range: std::ops::Range<usize>| -> IpAddr {
        match v4 {
            true => <[u8; 4]>::try_from(&bytes[range]).unwrap().into(),
            false => <[u8; 16]>::try_from(&bytes[range]).unwrap().into(),
        }
    };
    if v4 {
        assert_eq!(bytes[0], 0x45);
        assert_eq!(sum(&bytes[..20], 0), 0xffff, "IPv4 header checksum");
    }
    Seen {
        source: if v4 { address(12..16) } else { address(8..24) },
        destination: if v4 { address(16..20) } else { address(24..40) },
        hop_limit: if v4 { bytes[8] } else { bytes[7] },
        class: if v4 {
            bytes[1]
        } else {
            bytes[0] << 4 | bytes[1] >> 4
        },
        id: if v4 { at(4..6) } else { 0 },
        protocol: if v4 { bytes[9] } else { bytes[6] },
        len,
        l4: bytes[head..len].to_vec(),
    }
}

/// `len` bytes that repeat only after a long time.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.byte()).collect()
}

/// A small generator (splitmix64): the same numbers in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).unwrap()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
