//! A million bursts' worth of packets against other implementations, every kernel forced.
//!
//! Lengths from 0 to 9000, keys mixed inside a burst, odd offsets, sources in one or several pieces
//! with padding, heads sealed last, corrupted bytes, decryption to scattered destinations. The
//! reference is the `chacha20poly1305` crate; where speed matters more than kinship, ring, which a
//! part of the cases compare with the crate.

#![allow(
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of,
    clippy::unwrap_used,
    reason = "a test may panic, and makes text of numbers"
)]

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use culvert_aead::{
    Engine, Jobs, Kernel, OpenJob, SealJob, Sealed, Segment, SegmentMut, Segments, TAG_LEN,
    TAILROOM,
};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Cases per kernel and kind. Each packet of a burst is a case.
const SEALED: usize = 150_000;
const OPENED: usize = 150_000;
const STAGED: usize = 50_000;

const GUARD: u8 = 0xa5;

/// xorshift64*: all randomness, and the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    /// Mostly short, around block boundaries, some long.
    fn length(&mut self) -> usize {
        match self.below(16) {
            0..8 => self.below(200),
            8..11 => (64 * self.below(12) + self.below(5)).saturating_sub(2),
            11..15 => self.below(1600),
            _ => self.below(9001),
        }
    }

    fn key(&mut self) -> [u8; 32] {
        let mut key = [0; 32];
        for word in key.chunks_exact_mut(8) {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        key
    }
}

/// Keys with what the references make of them once.
struct Keys(Vec<([u8; 32], LessSafeKey, ChaCha20Poly1305)>);

impl Keys {
    fn new(random: &mut Random) -> Self {
        Self(
            (0..24)
                .map(|_| {
                    let key = random.key();
                    let ring = UnboundKey::new(&CHACHA20_POLY1305, &key).unwrap();
                    (
                        key,
                        LessSafeKey::new(ring),
                        ChaCha20Poly1305::new(&key.into()),
                    )
                })
                .collect(),
        )
    }

    /// Ciphertext and tag, as ring or the crate (one case in 16) makes them.
    fn seal(&self, key: usize, counter: u64, plain: &[u8], case: usize) -> Vec<u8> {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let mut text = plain.to_vec();
        if case % 16 == 0 {
            let tag = self.0[key]
                .2
                .encrypt_inout_detached(&nonce.into(), &[], text.as_mut_slice().into())
                .unwrap();
            text.extend_from_slice(&tag);
        } else {
            let nonce = Nonce::assume_unique_for_key(nonce);
            self.0[key]
                .1
                .seal_in_place_append_tag(nonce, Aad::empty(), &mut text)
                .unwrap();
        }
        text
    }
}

/// Text to cut plaintexts out of.
fn pool(random: &mut Random) -> Vec<u8> {
    (0..20_000).map(|_| random.next() as u8).collect()
}

fn counter(random: &mut Random) -> u64 {
    if random.below(4) == 0 {
        random.next()
    } else {
        random.next() % 1000
    }
}

fn sum_of(payload: &[u8]) -> u16 {
    let mut sum = 0u64;
    for word in payload.chunks(2) {
        sum += u64::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u64::from(low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What one packet of a sealing burst is.
struct Packet {
    key: usize,
    counter: u64,
    /// Head, then payload; zeros up to the length.
    plain: Vec<u8>,
    head: usize,
    payload: usize,
    in_place: bool,
    offset: usize,
    buffer: Vec<u8>,
}

fn packet(random: &mut Random, pool: &[u8], keys: &Keys) -> Packet {
    let len = random.length();
    let start = random.below(pool.len() - len);
    let mut plain = pool[start..start + len].to_vec();
    let in_place = random.below(3) == 0;
    let head = if random.below(2) == 0 {
        0
    } else {
        random.below(len.min(130) + 1)
    };
    let padding = if random.below(2) == 0 {
        0
    } else {
        random.below(17).min(len - head)
    };
    let payload = if in_place {
        len - head
    } else {
        len - head - padding
    };
    plain[head + payload..].fill(0);
    let offset = random.below(70);
    let mut buffer = vec![GUARD; offset + len + TAG_LEN + TAILROOM + 70];
    buffer[offset..offset + if in_place { len } else { head }]
        .copy_from_slice(&plain[..if in_place { len } else { head }]);
    let counter = counter(random);
    Packet {
        key: random.below(keys.0.len()),
        counter,
        plain,
        head,
        payload,
        in_place,
        offset,
        buffer,
    }
}

fn sealing(kernel: Kernel) {
    let Some(mut engine) = Engine::with_kernel(kernel) else {
        eprintln!("skipped: this processor has no {}", kernel.name());
        return;
    };
    let mut random = Random(0x5eed_0000 + kernel as u64);
    let keys = Keys::new(&mut random);
    let pool = pool(&mut random);
    let mut cases = 0;
    while cases < SEALED {
        let burst = match random.below(4) {
            0 => 1 + random.below(3),
            1 => 1 + random.below(16),
            _ => 1 + random.below(64),
        };
        let one_key = random.below(3) == 0;
        let heads_last = random.below(3) == 0;
        let mut packets: Vec<_> = (0..burst)
            .map(|_| packet(&mut random, &pool, &keys))
            .collect();
        if one_key {
            packets.iter_mut().for_each(|packet| packet.key = 3);
        }
        // Sources are separate allocations of odd sizes: an overread is a sanitizer's to find, an
        // overlap is nobody's to excuse.
        let sources: Vec<Vec<Vec<u8>>> = packets
            .iter()
            .map(|packet| {
                let mut rest = &packet.plain[packet.head..packet.head + packet.payload];
                let mut pieces = Vec::new();
                while !rest.is_empty() && pieces.len() < 5 {
                    let cut = if random.below(2) == 0 {
                        rest.len()
                    } else {
                        random.below(rest.len() + 1)
                    };
                    pieces.push(rest[..cut].to_vec());
                    rest = &rest[cut..];
                }
                pieces.push(rest.to_vec());
                pieces
            })
            .collect();
        let heads: Vec<_> = packets.iter().map(|p| p.plain[..p.head].to_vec()).collect();
        {
            let room = Segments::<512>::new();
            let mut jobs = Jobs::<_, 64>::new();
            for (packet, source) in packets.iter_mut().zip(&sources) {
                let len = packet.plain.len();
                let end = packet.offset + len + TAG_LEN + TAILROOM;
                let buffer = &mut packet.buffer[packet.offset..end];
                let key = &keys.0[packet.key].0;
                if heads_last {
                    buffer[..packet.head].fill(0xee);
                }
                let job = if packet.in_place {
                    SealJob::in_place(key, packet.counter, buffer, len)
                        .and_then(|job| job.with_head(packet.head))
                } else {
                    let source = room
                        .keep(source.iter().map(|s| Segment::from(&s[..])))
                        .unwrap();
                    SealJob::gather(key, packet.counter, packet.head, source, buffer, len)
                };
                assert!(jobs.push(job.unwrap()).is_ok());
            }
            if heads_last {
                let mut seen = vec![false; burst];
                let mut sums = vec![0; burst];
                engine.seal_with(&mut jobs, |index, sum, head| {
                    assert!(!std::mem::replace(&mut seen[index], true));
                    head.copy_from_slice(&heads[index]);
                    sums[index] = sum.value();
                });
                assert!(seen.iter().all(|&seen| seen));
                for (job, &sum) in jobs.iter().zip(&sums) {
                    assert_eq!(job.payload_sum().value(), sum);
                }
                for (packet, sum) in packets.iter().zip(sums) {
                    let expected = sum_of(&packet.plain[packet.head..]);
                    // Both zeros of one's complement are right.
                    assert!(sum == expected || sum % 0xffff == expected % 0xffff);
                }
            } else {
                engine.seal(&mut jobs);
            }
        }
        for packet in &packets {
            let len = packet.plain.len();
            let expected = keys.seal(packet.key, packet.counter, &packet.plain, cases);
            let end = packet.offset + len + TAG_LEN;
            assert_eq!(
                packet.buffer[packet.offset..end],
                expected,
                "{kernel:?}: {len} bytes, head {}, payload {}, in place {}, heads last {heads_last}",
                packet.head,
                packet.payload,
                packet.in_place
            );
            let untouched = packet.buffer[..packet.offset]
                .iter()
                .chain(&packet.buffer[end + TAILROOM..]);
            assert!(untouched.copied().all(|byte| byte == GUARD), "{len} bytes");
            cases += 1;
        }
    }
}

fn opening(kernel: Kernel) {
    let Some(mut engine) = Engine::with_kernel(kernel) else {
        eprintln!("skipped: this processor has no {}", kernel.name());
        return;
    };
    let mut random = Random(0x09e4_0000 + kernel as u64);
    let keys = Keys::new(&mut random);
    let pool = pool(&mut random);
    let mut cases = 0;
    while cases < OPENED {
        let burst = 1 + match random.below(3) {
            0 => random.below(3),
            _ => random.below(64),
        };
        // Packets lie back to back in one buffer, as a GRO of datagrams.
        let mut came = vec![GUARD; random.below(64)];
        let front = came.len();
        let mut packets = Vec::new();
        for case in 0..burst {
            let (len, key, counter) = (
                random.length(),
                random.below(keys.0.len()),
                counter(&mut random),
            );
            let start = random.below(pool.len() - len);
            let plain = &pool[start..start + len];
            let mut sealed = keys.seal(key, counter, plain, cases + case);
            let broken = random.below(4) == 0;
            if broken {
                let at = random.below(sealed.len());
                sealed[at] ^= 1 << random.below(8);
            }
            came.extend_from_slice(&sealed);
            packets.push((key, counter, plain, broken));
        }
        came.extend_from_slice(&[GUARD; 64]);
        let mut buffer = came.clone();
        let mut jobs = Jobs::<_, 64>::new();
        let mut rest = &mut buffer[front..];
        for &(key, counter, plain, _) in &packets {
            let (sealed, next) = rest.split_at_mut(plain.len() + TAG_LEN);
            rest = next;
            assert!(
                jobs.push(OpenJob::in_place(&keys.0[key].0, counter, sealed).unwrap())
                    .is_ok()
            );
        }
        engine.open(&mut jobs);
        let mut expected = came;
        let mut at = front;
        for (job, &(_, _, plain, broken)) in jobs.iter().zip(&packets) {
            assert_eq!(job.ok(), !broken, "{kernel:?}: {} bytes", plain.len());
            if !broken {
                expected[at..at + plain.len()].copy_from_slice(plain);
            }
            at += plain.len() + TAG_LEN;
            cases += 1;
        }
        assert!(
            buffer == expected,
            "{kernel:?}: {:?}",
            packets.iter().map(|p| p.2.len()).collect::<Vec<_>>()
        );
    }
}

fn staging(kernel: Kernel) {
    let Some(mut engine) = Engine::with_kernel(kernel) else {
        eprintln!("skipped: this processor has no {}", kernel.name());
        return;
    };
    let mut random = Random(0x57a6_0000 + kernel as u64);
    let keys = Keys::new(&mut random);
    let pool = pool(&mut random);
    let mut cases = 0;
    while cases < STAGED {
        let packets: Vec<_> = (0..1 + random.below(40))
            .map(|_| {
                let (len, key, counter) = (
                    random.length(),
                    random.below(keys.0.len()),
                    counter(&mut random),
                );
                let start = random.below(pool.len() - len);
                let plain = pool[start..start + len].to_vec();
                let mut sealed = keys.seal(key, counter, &plain, cases);
                let broken = random.below(4) == 0;
                if broken {
                    let at = random.below(sealed.len());
                    sealed[at] ^= 1 << random.below(8);
                }
                cases += 1;
                (key, counter, plain, sealed, broken)
            })
            .collect();
        let mut burst: Vec<_> = packets
            .iter()
            .map(|(key, counter, _, sealed, _)| {
                Sealed::new(&keys.0[*key].0, *counter, sealed).unwrap()
            })
            .collect();
        engine.verify(&mut burst);
        for (sealed, packet) in burst.iter().zip(&packets) {
            assert_eq!(sealed.ok(), !packet.4);
            assert_eq!(sealed.decrypt(0..0, &[]).is_ok(), !packet.4);
        }
        // A range of each to several destinations inside guarded buffers.
        let mut ranges = Vec::new();
        let mut buffers: Vec<Vec<Vec<u8>>> = Vec::new();
        for packet in &packets {
            let len = packet.2.len();
            let start = random.below(len + 1);
            let end = if random.below(2) == 0 {
                len
            } else {
                start + random.below(len - start + 1)
            };
            let mut pieces = Vec::new();
            let mut left = end - start;
            while left > 0 && pieces.len() < 3 {
                let cut = if random.below(2) == 0 {
                    left
                } else {
                    random.below(left + 1)
                };
                pieces.push(vec![GUARD; cut + 32]);
                left -= cut;
            }
            if left > 0 {
                pieces.push(vec![GUARD; left + 32]);
            }
            ranges.push(start..end);
            buffers.push(pieces);
        }
        {
            let destinations: Vec<Vec<SegmentMut<'_>>> = buffers
                .iter_mut()
                .map(|pieces| {
                    pieces
                        .iter_mut()
                        .map(|piece| {
                            let end = piece.len() - 16;
                            SegmentMut::from(&mut piece[16..end])
                        })
                        .collect()
                })
                .collect();
            let mut jobs: Vec<_> = burst
                .iter()
                .zip(&ranges)
                .zip(&destinations)
                .filter(|((sealed, _), _)| sealed.ok())
                .map(|((sealed, range), to)| sealed.decrypt(range.clone(), to).unwrap())
                .collect();
            engine.decrypt(&mut jobs);
        }
        for ((packet, range), pieces) in packets.iter().zip(&ranges).zip(&buffers) {
            let mut text = Vec::new();
            for piece in pieces {
                let (front, rest) = piece.split_at(16);
                let (inside, back) = rest.split_at(rest.len() - 16);
                assert!(front.iter().chain(back).all(|&byte| byte == GUARD));
                text.extend_from_slice(inside);
            }
            if packet.4 {
                assert!(text.iter().all(|&byte| byte == GUARD));
            } else {
                assert!(
                    text == packet.2[range.clone()],
                    "{kernel:?}: {range:?} of {}",
                    packet.2.len()
                );
            }
        }
    }
}

#[test]
fn avx512_seals() {
    sealing(Kernel::Avx512);
}

#[test]
fn avx512_opens() {
    opening(Kernel::Avx512);
}

#[test]
fn avx512_opens_in_stages() {
    staging(Kernel::Avx512);
}

#[test]
fn avx2_seals() {
    sealing(Kernel::Avx2);
}

#[test]
fn avx2_opens() {
    opening(Kernel::Avx2);
}

#[test]
fn avx2_opens_in_stages() {
    staging(Kernel::Avx2);
}

#[test]
fn portable_seals() {
    sealing(Kernel::Portable);
}

#[test]
fn portable_opens() {
    opening(Kernel::Portable);
}

#[test]
fn portable_opens_in_stages() {
    staging(Kernel::Portable);
}
