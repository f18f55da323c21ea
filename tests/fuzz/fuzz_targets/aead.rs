//! Bursts of packets whose number, lengths, cuts, heads, keys and damage the fuzzer chooses, on every
//! kernel, against the `chacha20poly1305` crate.

#![no_main]

use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use culvert_aead::{
    Engine, Jobs, Kernel, OpenJob, SealJob, Sealed, Segment, SegmentMut, TAG_LEN, TAILROOM,
};
use libfuzzer_sys::fuzz_target;

struct Packet {
    key: [u8; 32],
    counter: u64,
    head: usize,
    cut: usize,
    plain: Vec<u8>,
    damage: Option<(usize, u8)>,
}

/// Ten bytes describe a packet; its text is made from them.
fn packets(mut bytes: &[u8]) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let [
        a,
        b,
        head,
        cut,
        key,
        counter,
        fill,
        at,
        flip,
        kind,
        rest @ ..,
    ] = bytes
    {
        bytes = rest;
        let len =
            usize::from(u16::from_le_bytes([*a, *b])) % if kind % 8 == 0 { 9001 } else { 600 };
        let plain: Vec<u8> = (0..len)
            .map(|i| fill.wrapping_mul(i as u8).wrapping_add(*at))
            .collect();
        let head = usize::from(*head).min(len);
        packets.push(Packet {
            key: [*key; 32],
            counter: u64::from(*counter) << (kind & 56),
            head,
            cut: (usize::from(*cut) * 3).min(len - head),
            plain,
            damage: (*flip != 0).then(|| (usize::from(*at) * 37 % (len + TAG_LEN), *flip)),
        });
        if packets.len() == 64 {
            break;
        }
    }
    packets
}

/// The one's complement sum of big-endian words, word by word (RFC 1071).
fn words(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fuzz_target!(|bytes: &[u8]| {
    let packets = packets(bytes);
    let expected: Vec<Vec<u8>> = packets
        .iter()
        .map(|packet| {
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&packet.counter.to_le_bytes());
            let mut text = packet.plain.clone();
            let tag = ChaCha20Poly1305::new(&packet.key.into())
                .encrypt_inout_detached(&nonce.into(), &[], text.as_mut_slice().into())
                .expect("a short text");
            text.extend_from_slice(&tag);
            text
        })
        .collect();
    for mut engine in Kernel::ALL.into_iter().filter_map(Engine::with_kernel) {
        // 1. Seal from two segments behind a head.
        let mut buffers: Vec<Vec<u8>> = packets
            .iter()
            .map(|p| {
                [
                    &p.plain[..p.head],
                    &vec![0; p.plain.len() - p.head + TAG_LEN + TAILROOM],
                ]
                .concat()
            })
            .collect();
        let sources: Vec<[Segment<'_>; 2]> = packets
            .iter()
            .map(|p| {
                let (a, b) = p.plain[p.head..].split_at(p.cut);
                [a.into(), b.into()]
            })
            .collect();
        let mut jobs = Jobs::<_, 64>::new();
        for ((packet, buffer), source) in packets.iter().zip(&mut buffers).zip(&sources) {
            let (key, len) = (&packet.key, packet.plain.len());
            let job = SealJob::gather(key, packet.counter, packet.head, source, buffer, len);
            assert!(jobs.push(job.expect("it fits")).is_ok());
        }
        engine.sum_sealed(true);
        if bytes.len() % 2 == 0 {
            engine.seal(&mut jobs);
        } else {
            engine.seal_with(&mut jobs, |index, sum, _| {
                let packet = &packets[index];
                assert_eq!(sum.value(), words(&packet.plain[packet.head..]));
            });
        }
        for (job, expected) in jobs.iter().zip(&expected) {
            if let Some(sum) = job.sealed_sum() {
                assert_eq!(sum.value(), words(expected));
            }
        }
        for (buffer, expected) in buffers.iter().zip(&expected) {
            assert!(buffer.starts_with(expected));
        }
        // 2. Damage, open in place and in stages.
        let mut sealed = expected.clone();
        for (packet, sealed) in packets.iter().zip(&mut sealed) {
            if let Some((at, flip)) = packet.damage {
                sealed[at] ^= flip;
            }
        }
        let mut staged: Vec<_> = packets
            .iter()
            .zip(&sealed)
            .map(|(p, sealed)| Sealed::new(&p.key, p.counter, sealed).expect("a tag"))
            .collect();
        engine.verify(&mut staged);
        for (packet, staged) in packets.iter().zip(&staged) {
            assert_eq!(staged.ok(), packet.damage.is_none());
            if staged.ok() {
                let mut text = vec![0; packet.plain.len()];
                let (a, b) = text.split_at_mut(packet.head);
                let to: [SegmentMut<'_>; 2] = [a.into(), b.into()];
                engine.decrypt(&mut [staged.decrypt(0..packet.plain.len(), &to).expect("a range")]);
                assert_eq!(text, packet.plain);
            }
        }
        let mut opened = sealed.clone();
        let mut jobs = Jobs::<_, 64>::new();
        for (packet, buffer) in packets.iter().zip(&mut opened) {
            let job = OpenJob::in_place(&packet.key, packet.counter, buffer);
            assert!(jobs.push(job.expect("a tag")).is_ok());
        }
        engine.open(&mut jobs);
        let verdicts: Vec<_> = jobs.iter().map(OpenJob::ok).collect();
        for (((packet, opened), sealed), ok) in
            packets.iter().zip(&opened).zip(&sealed).zip(verdicts)
        {
            assert_eq!(ok, packet.damage.is_none());
            let text = if ok {
                &packet.plain[..]
            } else {
                &sealed[..packet.plain.len()]
            };
            assert_eq!(&opened[..packet.plain.len()], text);
        }
    }
});
