//! A strict port's guest that hides what it says: whatever of it is heard, the most willing receiver takes it for the
//! guest's own.
//!
//! The receiver is written anew here, without the data path's parser and without its limits: it takes off tags and LLC,
//! follows chains of any length, and puts fragments together.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use culvert_wire::MacAddr;

use crate::{
    local::{PLAIN, arp},
    packets::{Random, ip},
    support::{GATEWAY, GUEST, Options, Site, frame},
};

/// What guest 0 may say it is.
const OWN: [&str; 4] = ["10.0.0.2", "fd00::2", "fe80::ff:fe00:100", "fe80::a:b:c:d"];
/// What it may not: of the other guest, the gateway, a peer, nobody.
const OTHERS: [&str; 9] = [
    "10.0.0.1",
    "10.0.0.3",
    "10.0.0.77",
    "fd00::1",
    "fd00::3",
    "fd00::200",
    "fe80::1",
    "fe80::ff:fe00:101",
    "fe80::e:f:0:1",
];

/// Something that a receiver would believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Claim {
    /// The sender has this address.
    Address(IpAddr),
    /// The sender, or an address of its, is at this place.
    Mac([u8; 6]),
    /// The sender is a router.
    Router,
}

/// A fragment: its offset, whether more follow, the protocol of the whole, its bytes.
type Piece = (usize, bool, u8, Vec<u8>);

/// The receiver: fragments by source, destination and identification.
#[derive(Default)]
struct Receiver {
    pieces: HashMap<Vec<u8>, Vec<Piece>>,
}

impl Receiver {
    fn hears(&mut self, frame: &[u8]) -> Vec<Claim> {
        let mut claims = vec![Claim::Mac(frame[6..12].try_into().unwrap())];
        let mut at = 12;
        while let Some(kind) = word(frame, at) {
            at += 2;
            match kind {
                0x8100 | 0x88a8 | 0x9100 | 0x9200 | 0x9300 => at += 2,
                0x88e7 => at += 16,
                0x893f => at += 6,
                0..0x600 if frame.get(at..at + 2) == Some(&[0xaa, 0xaa]) => at += 6,
                0x0800 => {
                    let source = frame.get(at + 12..at + 16);
                    claims.extend(source.map(|s| Claim::Address(v4(s))));
                    break;
                }
                0x0806 => {
                    if let (Some(mac), Some(sender)) =
                        (frame.get(at + 8..at + 14), frame.get(at + 14..at + 18))
                    {
                        claims.push(Claim::Mac(mac.try_into().unwrap()));
                        claims.push(Claim::Address(v4(sender)));
                    }
                    break;
                }
                0x86dd => {
                    self.v6(&frame[at..], &mut claims);
                    break;
                }
                _ => break,
            }
        }
        claims
    }

    fn v6(&mut self, packet: &[u8], claims: &mut Vec<Claim>) {
        if packet.len() < 40 {
            return;
        }
        let end = (40 + usize::from(word(packet, 4).unwrap())).min(packet.len());
        claims.push(Claim::Address(v6(&packet[8..24])));
        self.chain(&packet[..40], packet[6], &packet[40..end], claims);
    }

    /// What stands behind an IPv6 header: headers of any number, then a message.
    fn chain(&mut self, header: &[u8], mut next: u8, mut rest: &[u8], claims: &mut Vec<Claim>) {
        loop {
            if next == 58 {
                return discovery(rest, claims);
            }
            let len = match (next, rest) {
                (0 | 43 | 60, [_, units, ..]) => 8 + usize::from(*units) * 8,
                (51, [_, units, ..]) => 8 + usize::from(*units) * 4,
                (44, [_, _, ..]) if rest.len() >= 8 => {
                    return self.fragment(header, rest, claims);
                }
                _ => return,
            };
            let Some(behind) = rest.get(len..) else {
                return;
            };
            (next, rest) = (rest[0], behind);
        }
    }

    fn fragment(&mut self, header: &[u8], rest: &[u8], claims: &mut Vec<Claim>) {
        let bits = word(rest, 2).unwrap();
        let offset = usize::from(bits & 0xfff8);
        let piece = (offset, bits & 1 == 1, rest[0], rest[8..].to_vec());
        let key = [&header[8..40], &rest[4..8]].concat();
        let pieces = self.pieces.entry(key.clone()).or_default();
        pieces.push(piece);
        pieces.sort();
        let mut whole = Vec::new();
        let mut next = None;
        for (offset, more, first, bytes) in pieces.clone() {
            if offset == 0 {
                next.get_or_insert(first);
            }
            if offset <= whole.len() {
                whole.truncate(offset);
                whole.extend(bytes);
                if !more && let Some(next) = next {
                    self.pieces.remove(&key);
                    return self.chain(header, next, &whole, claims);
                }
            }
        }
    }
}

/// What an ICMPv6 message claims.
fn discovery(message: &[u8], claims: &mut Vec<Claim>) {
    let options = match message.first() {
        Some(133) => 8,
        Some(134 | 137) => return claims.push(Claim::Router),
        Some(135) => 24,
        Some(136) => {
            let target = message.get(8..24);
            claims.extend(target.map(|target| Claim::Address(v6(target))));
            24
        }
        _ => return,
    };
    let mut options = message.get(options..).unwrap_or_default();
    while let [kind, units, ..] = options
        && *units > 0
    {
        let len = usize::from(*units) * 8;
        if let (1 | 2, Some(mac)) = (kind, options.get(2..8)) {
            claims.push(Claim::Mac(mac.try_into().unwrap()));
        }
        options = options.get(len..).unwrap_or_default();
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn v4(bytes: &[u8]) -> IpAddr {
    Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()).into()
}

fn v6(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into()
}

/// An address of the family, more often than not its own.
fn address(random: &mut Random, six: bool) -> &'static str {
    loop {
        let address = match random.below(2) {
            0 => random.pick(&OWN),
            _ => random.pick(&OTHERS),
        };
        if address.contains(':') == six {
            return address;
        }
    }
}

fn mac(random: &mut Random) -> MacAddr {
    random.pick(&[
        GUEST[0],
        GUEST[0],
        GUEST[0],
        GUEST[1],
        GATEWAY,
        MacAddr::BROADCAST,
    ])
}

/// A neighbor discovery message with up to three options.
fn message(random: &mut Random) -> Vec<u8> {
    let kind = random.pick(&[133, 134, 135, 136, 136, 136, 137]);
    let mut message = vec![kind, 0, 0, 0, random.pick(&[0, 0x20, 0xe0]), 0, 0, 0];
    if kind != 133 {
        let target: Ipv6Addr = address(random, true).parse().unwrap();
        message.extend(target.octets());
    }
    for _ in 0..random.below(4) {
        let units = random.pick(&[1, 1, 1, 1, 2, 0]);
        message.extend([random.pick(&[1, 2, 2, 14]), units]);
        message.extend(mac(random).0);
        message.extend(vec![0; if units == 2 { 8 } else { 0 }]);
    }
    message
}

/// A chain of headers in front of `protocol`: its first one's number and its bytes.
fn chain(random: &mut Random, protocol: u8) -> (u8, Vec<u8>) {
    let mut next = protocol;
    let mut bytes = Vec::new();
    let count = random.pick(&[0, 0, 0, 0, 0, 1, 1, 2, 7, 8, 9, 12]);
    for _ in 0..count {
        let kind = random.pick(&[0, 43, 60, 60, 60, 51, 44]);
        let units = random.pick(&[0, 0, 0, 1, 2, 20, 24, 31]);
        let mut header = vec![next, units];
        let len = match kind {
            44 => 8,
            51 => 8 + usize::from(units) * 4,
            _ => 8 + usize::from(units) * 8,
        };
        header.resize(len, 0);
        if kind == 44 {
            header[1] = 0;
            header[3] = random.pick(&[0, 0, 1, 8, 9]);
        }
        bytes.splice(0..0, header);
        next = kind;
    }
    (next, bytes)
}

/// The frames of something that the guest says, one or several.
fn said(random: &mut Random) -> Vec<Vec<u8>> {
    let to = random.pick(&[
        GUEST[1],
        GUEST[1],
        MacAddr::BROADCAST,
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
    ]);
    match random.below(5) {
        0 => {
            let source = address(random, false);
            let sender = random.pick(&[source, "0.0.0.0"]);
            let operation = random.pick(&[1, 2]);
            vec![arp(
                to,
                operation,
                (mac(random), sender),
                (GUEST[1], "10.0.0.3"),
            )]
        }
        1 => {
            let packet = ip(address(random, false), "10.0.0.3").udp((5, 6), b"x", false);
            vec![frame(GUEST[0], to, &packet)]
        }
        _ => {
            let source = match random.below(3) {
                0 => "::",
                _ => address(random, true),
            };
            let inner = ip(source, random.pick(&["fd00::3", "ff02::1"])).hops(255);
            let message = message(random);
            let whole = inner.icmp6(message)[40..].to_vec();
            let (next, mut bytes) = chain(random, 58);
            bytes.extend(whole);
            if random.below(4) > 0 {
                return vec![frame(GUEST[0], to, &inner.with(next, &bytes))];
            }
            let cut = (random.below(bytes.len()) / 8 * 8).min(1 << 12);
            let pieces = [(0, 1, &bytes[..cut]), (cut, 0, &bytes[cut..])];
            let id = random.byte();
            let mut frames: Vec<_> = pieces
                .into_iter()
                .map(|(offset, more, piece)| {
                    let [high, low] = u16::try_from(offset | more).unwrap().to_be_bytes();
                    let header = [next, 0, high, low, 0, 0, 0, id];
                    let packet = inner.with(44, &[&header, piece].concat());
                    frame(GUEST[0], to, &packet)
                })
                .collect();
            if random.below(2) == 0 {
                frames.reverse();
            }
            frames
        }
    }
}

/// Puts a tag or LLC between the addresses and the EtherType, or changes a byte.
fn disguise(random: &mut Random, bytes: &mut Vec<u8>) {
    match random.below(12) {
        0 | 1 => {
            for _ in 0..=random.below(2) {
                let [high, low] = random.pick(&[[0x81, 0], [0x88, 0xa8], [0x91, 0]]);
                bytes.splice(
                    12..12,
                    [high, low, random.pick(&[0, 0xe0]), random.pick(&[0, 5])],
                );
            }
        }
        2 => {
            let [high, low] = u16::try_from(bytes.len() - 6)
                .unwrap_or(0x5dc)
                .min(0x5dc)
                .to_be_bytes();
            bytes.splice(12..12, [high, low, 0xaa, 0xaa, 3, 0, 0, 0]);
        }
        3 => {
            let at = random.below(bytes.len().min(120));
            bytes[at] = random.byte();
        }
        4 => bytes.truncate(14 + random.below(bytes.len() - 14)),
        _ => {}
    }
}

#[test]
fn nothing_that_is_heard_of_a_strict_guest_is_anothers() {
    let mut site = Site::new(Options::default());
    // The other guest has come to own a link-local address, and guest 0 another.
    for (n, source) in [(1, "fe80::e:f:0:1"), (0, "fe80::a:b:c:d")] {
        let packet = ip(source, "fe80::99").echo(b"x");
        site.offer(n, &PLAIN, &frame(GUEST[n], GUEST[1 - n], &packet));
        site.settle();
        assert_eq!(site.frames(1 - n).len(), 1);
    }
    let nobody = ["0.0.0.0", "::"].map(|text| text.parse::<IpAddr>().unwrap());
    let others = OTHERS.map(|text| text.parse::<IpAddr>().unwrap());
    let is_own = |claim: &Claim| match claim {
        Claim::Address(IpAddr::V6(address)) if address.is_unicast_link_local() => {
            !others.contains(&IpAddr::V6(*address))
        }
        Claim::Address(address) => {
            nobody.contains(address) || OWN.iter().any(|own| own.parse() == Ok(*address))
        }
        Claim::Mac(mac) => *mac == GUEST[0].0,
        Claim::Router => false,
    };
    let mut random = Random(16);
    let mut receiver = Receiver::default();
    let mut unguarded = Receiver::default();
    let (mut heard, mut false_claims) = (HashMap::new(), 0);
    for _ in 0..1_500 {
        for _ in 0..16 {
            for mut bytes in said(&mut random) {
                disguise(&mut random, &mut bytes);
                let claims = unguarded.hears(&bytes);
                false_claims += usize::from(!claims.iter().all(is_own));
                site.offer(0, &PLAIN, &bytes);
            }
        }
        site.settle();
        for (_, bytes) in site.frames(1) {
            let claims = receiver.hears(&bytes);
            assert!(claims.iter().all(is_own), "{claims:?} in {bytes:02x?}");
            for claim in claims {
                *heard.entry(claim).or_insert(0) += 1;
            }
        }
        site.frames(0);
    }
    // The guest lied much, and was heard where it told the truth.
    assert!(false_claims > 10_000, "{false_claims}");
    for own in OWN {
        let count = heard.get(&Claim::Address(own.parse().unwrap()));
        assert!(count.is_some_and(|&count| count > 50), "{own}: {count:?}");
    }
}
