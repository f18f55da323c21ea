//! Any frames to a host stack: it holds no more than its bound, and of fragments comes what a plain model of one byte after
//! the other says: the packet, once, or nothing.
#![no_main]

use std::{
    collections::HashMap,
    hash::RandomState,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use culvert_stack::{HostConfig, HostRoute, HostStack, limits};
use culvert_wire::{Checksum, EtherType, MacAddr, ether};
use culvert_wireguard::Instant;
use libfuzzer_sys::fuzz_target;

const US: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEM: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Few of each, so that fragments meet, and never more than the stack holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    v6: bool,
    source: u8,
    id: u8,
}

struct Fragment<'i> {
    key: Key,
    start: usize,
    more: bool,
    bytes: &'i [u8],
}

impl Fragment<'_> {
    fn end(&self) -> usize {
        self.start + self.bytes.len()
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame;
        let len = self.bytes.len() as u16;
        let bits = self.start as u16;
        if self.key.v6 {
            frame = ether::header(US, THEM, EtherType::IPV6).to_vec();
            frame.extend([0x60, 0, 0, 0]);
            frame.extend((len + 8).to_be_bytes());
            frame.extend([44, 64]);
            frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, self.key.source.into()).octets());
            frame.extend(OWN_V6.octets());
            frame.extend([17, 0]);
            frame.extend((bits | u16::from(self.more)).to_be_bytes());
            frame.extend([0, 0, 0, self.key.id]);
        } else {
            frame = ether::header(US, THEM, EtherType::IPV4).to_vec();
            frame.extend([0x45, 0]);
            frame.extend((20 + len).to_be_bytes());
            frame.extend([0, self.key.id]);
            frame.extend(((bits / 8) | (u16::from(self.more) << 13)).to_be_bytes());
            frame.extend([64, 17, 0, 0]);
            frame.extend([198, 51, 100, self.key.source]);
            frame.extend(OWN_V4.octets());
            repair(&mut frame);
        }
        frame.extend(self.bytes);
        frame
    }
}

fn repair(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..14] == [8, 0] {
        let end = (14 + usize::from(frame[14] & 15) * 4).clamp(34, frame.len());
        frame[24..26].fill(0);
        let sum = Checksum::of(&frame[14..end]).complement();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A packet, byte after byte.
#[derive(Default)]
struct Model {
    bytes: Vec<Option<u8>>,
    pieces: Vec<(usize, usize, bool)>,
    total: Option<usize>,
    refused: bool,
    since: Instant,
}

impl Model {
    /// What comes of it with one more fragment.
    fn add(&mut self, it: &Fragment<'_>) -> Option<Vec<u8>> {
        if self.refused {
            return None;
        }
        let piece = (it.start, it.end(), it.more);
        if self.bytes.len() < it.end() {
            self.bytes.resize(it.end(), None);
        }
        let there = &self.bytes[it.start..it.end()];
        let is_same = there.iter().copied().eq(it.bytes.iter().copied().map(Some));
        if is_same && self.pieces.contains(&piece) {
            return None;
        }
        let most = self.pieces.iter().map(|piece| piece.1).max().unwrap_or(0);
        self.refused = there.iter().any(Option::is_some)
            || self.total.is_some_and(|total| it.end() > total || !it.more)
            || (!it.more && most > it.end())
            || self.pieces.len() == limits::FRAGMENTS_PER_DATAGRAM;
        self.pieces.push(piece);
        for (at, byte) in self.bytes[it.start..it.end()].iter_mut().zip(it.bytes) {
            *at = Some(*byte);
        }
        if !it.more {
            self.total = Some(it.end());
        }
        let whole: Option<Vec<u8>> = self.bytes.iter().copied().collect();
        whole.filter(|whole| !self.refused && self.total == Some(whole.len()))
    }
}

fuzz_target!(|input: &[u8]| {
    let config = HostConfig {
        mac: US,
        addresses: vec![(IpAddr::V4(OWN_V4), 24), (IpAddr::V6(OWN_V6), 64)],
        routes: vec![HostRoute {
            to: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            len: 0,
            via: Ipv4Addr::new(192, 0, 2, 2).into(),
            metric: 0,
            source: None,
        }],
        neighbors: Vec::new(),
        mtu: 1_500,
    };
    let mut now = Instant::from_nanos(1 << 40);
    let mut stack = HostStack::new(config, RandomState::new(), now);
    let mut models: HashMap<Key, Model> = HashMap::new();
    let mut rest = input;
    while let Some((head, behind)) = rest.split_first_chunk::<6>() {
        let [what, who, start, len @ ..] = *head;
        let len = (usize::from(u16::from_le_bytes([len[0], len[1]])) & 0x7ff, len[2]);
        rest = behind;
        while stack.poll_frame().is_some() || stack.poll_heard().is_some() {}
        if what & 3 == 3 {
            // Time passes.
            now = now + Duration::from_secs(u64::from(who & 31));
            while stack.poll_timeout().is_some_and(|due| due <= now) {
                stack.handle_timeout(now);
                while stack.poll_frame().is_some() {}
            }
            models.retain(|key, model| {
                now.since(model.since) < Duration::from_secs(if key.v6 { 60 } else { 30 })
            });
            continue;
        }
        let (bytes, behind) = rest.split_at(len.0.min(rest.len()));
        rest = behind;
        if what & 3 == 2 {
            // Anything, with a sum that is right; its fragments are of other keys than ours, by their IDs.
            let mut frame = ether::header(US, THEM, EtherType::IPV4).to_vec();
            frame.extend(bytes);
            if what & 4 != 0 {
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            }
            if frame.len() > 44 {
                frame[18] |= 0x80;
            }
            repair(&mut frame);
            stack.handle_frame(&frame, now);
            assert!(stack.reassembly_memory() <= limits::REASSEMBLY_HIGH);
            while stack.poll_datagram().is_some() {}
            continue;
        }
        let key = Key {
            v6: what & 1 != 0,
            source: 2 + (who & 3),
            id: who >> 2 & 3,
        };
        let start = (usize::from(start) | usize::from(len.1 & 31) << 8) * 8;
        let mut bytes = bytes.to_vec();
        if start == 0 && bytes.len() >= 8 {
            // A UDP header that suits any length.
            bytes[4..8].copy_from_slice(&[0, 8, 0, 0]);
        }
        let fragment = Fragment {
            key,
            start,
            more: what & 4 != 0,
            bytes: &bytes,
        };
        let is_fragment = key.v6 || start > 0 || fragment.more;
        let longest = if key.v6 { 65_535 } else { 65_515 };
        let is_good = !bytes.is_empty()
            && (!fragment.more || bytes.len() % 8 == 0)
            && fragment.end() <= longest
            && (start > 0 || bytes.len() >= 8);
        stack.handle_frame(&fragment.frame(), now);
        assert!(stack.reassembly_memory() <= limits::REASSEMBLY_HIGH);
        let came = stack.poll_datagram();
        assert!(stack.poll_datagram().is_none());
        let head = if key.v6 { 54 } else { 34 };
        let came = came.map(|datagram| datagram.frame[head..].to_vec());
        let expected = match (is_fragment && is_good, start == 0 && !fragment.more) {
            (false, _) => None,
            (true, true) => Some(bytes.clone()),
            (true, false) => {
                let model = models.entry(key).or_insert_with(|| Model {
                    since: now,
                    ..Model::default()
                });
                let whole = model.add(&fragment);
                if whole.is_some() {
                    models.remove(&key);
                }
                whole
            }
        };
        assert_eq!(came, expected);
    }
});
