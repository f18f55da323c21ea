//! Bursts of any size, from one packet on, as workers make them: sealed with heads that are written last, opened where
//! they lie back to back, as `UDP_GRO` leaves datagrams. The portable kernel is the judge.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use culvert_aead::{Engine, Kernel, OpenJob, SealJob, Segment, TAG_LEN, TAILROOM};

/// Bytes between two packets: a data message's header.
const HEADER: usize = 16;
const UNTOUCHED: u8 = 0xa5;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

#[test]
fn packets_and_their_neighbors_stay_whole() {
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut portable = Engine::with_kernel(Kernel::Portable).unwrap();
    for kernel in [Kernel::Avx512, Kernel::Avx2, Kernel::Portable] {
        let Some(mut engine) = Engine::with_kernel(kernel) else {
            continue;
        };
        for round in 0..3_000 {
            one_burst(&mut random, &mut engine, &mut portable, round);
        }
    }
}

fn one_burst(random: &mut Random, engine: &mut Engine, portable: &mut Engine, round: u64) {
    let most = if round.is_multiple_of(4) { 128 } else { 5 };
    let count = 1 + random.below(most);
    let key: [u8; 32] = random.bytes(32).try_into().unwrap();
    let counter = |index: usize| round * 128 + index as u64;
    let texts: Vec<Vec<u8>> = (0..count)
        .map(|_| {
            let len = match random.below(4) {
                0 => 64,
                1 => 80,
                2 => 16 * random.below(90),
                _ => random.below(1_500),
            };
            random.bytes(len)
        })
        .collect();

    // 1. What is right.
    let mut expected: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| [text.as_slice(), &[0; TAG_LEN + TAILROOM]].concat())
        .collect();
    let mut jobs: Vec<_> = expected
        .iter_mut()
        .zip(&texts)
        .enumerate()
        .map(|(index, (room, text))| {
            SealJob::in_place(&key, counter(index), room, text.len()).unwrap()
        })
        .collect();
    portable.seal(&mut jobs);
    drop(jobs);

    // 2. Sealed from elsewhere; heads come last, some of them the whole packet.
    let offset = random.below(64);
    let heads: Vec<usize> = texts
        .iter()
        .map(|text| text.len().min([96, random.below(64)][random.below(2)]))
        .collect();
    let mut rooms: Vec<Vec<u8>> = texts
        .iter()
        .map(|text| vec![0x55; offset + text.len() + TAG_LEN + TAILROOM])
        .collect();
    let sources: Vec<[Segment<'_>; 1]> = texts
        .iter()
        .zip(&heads)
        .map(|(text, &head)| [Segment::from(&text[head..])])
        .collect();
    let mut jobs: Vec<_> = rooms
        .iter_mut()
        .enumerate()
        .map(|(index, room)| {
            let (head, len) = (heads[index], texts[index].len());
            let room = &mut room[offset..];
            SealJob::gather(&key, counter(index), head, &sources[index], room, len).unwrap()
        })
        .collect();
    engine.seal_with(&mut jobs, |index, sum, head| {
        let (text, payload) = texts[index].split_at(heads[index]);
        head.copy_from_slice(text);
        assert_eq!(sum.value(), checksum(payload), "{} bytes", payload.len());
    });
    drop(jobs);
    for ((room, text), right) in rooms.iter().zip(&texts).zip(&expected) {
        let len = text.len() + TAG_LEN;
        assert_eq!(room[offset..offset + len], right[..len], "of {count}");
    }

    // 3. Opened back to back.
    let mut message = Vec::new();
    for (text, sealed) in texts.iter().zip(&expected) {
        message.extend([UNTOUCHED; HEADER]);
        message.extend(&sealed[..text.len() + TAG_LEN]);
    }
    message.extend([UNTOUCHED; HEADER]);
    let mut rest = message.as_mut_slice();
    let mut jobs = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let (packet, behind) = rest[HEADER..].split_at_mut(text.len() + TAG_LEN);
        jobs.push(OpenJob::in_place(&key, counter(index), packet).unwrap());
        rest = behind;
    }
    engine.open(&mut jobs);
    assert!(jobs.iter().all(OpenJob::ok), "all {count} verify");
    drop(jobs);
    let mut rest = message.as_slice();
    for text in &texts {
        assert_eq!(rest[..HEADER], [UNTOUCHED; HEADER], "of {count}");
        assert_eq!(rest[HEADER..][..text.len()], text[..], "of {count}");
        rest = &rest[HEADER + text.len() + TAG_LEN..];
    }
    assert_eq!(rest, [UNTOUCHED; HEADER], "of {count}");
}

/// RFC 1071's sum, slowly.
fn checksum(bytes: &[u8]) -> u16 {
    let sum = bytes.chunks(2).fold(0u32, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let sum = sum + u32::from(word);
        (sum & 0xffff) + (sum >> 16)
    });
    u16::try_from(sum).unwrap()
}
