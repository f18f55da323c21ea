//! The interface by example, on every kernel that this processor has.

#![allow(
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of,
    clippy::unwrap_used,
    reason = "a test may panic, and makes text of numbers"
)]

use culvert_aead::{
    Engine, JobError, Jobs, Kernel, OpenJob, SealJob, Sealed, Segment, SegmentMut, Segments,
    TAG_LEN, TAILROOM,
};

fn engines() -> impl Iterator<Item = Engine> {
    Kernel::ALL.into_iter().filter_map(Engine::with_kernel)
}

fn sealed_by_ring(key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let key = ring::aead::UnboundKey::new(&ring::aead::CHACHA20_POLY1305, key).unwrap();
    let key = ring::aead::LessSafeKey::new(key);
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut text = text.to_vec();
    let nonce = ring::aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, ring::aead::Aad::empty(), &mut text)
        .unwrap();
    text
}

fn text(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn a_sealed_burst_is_what_ring_seals_and_opens_again() {
    for mut engine in engines() {
        let keys = [[1; 32], [2; 32], [3; 32]];
        let lens = [0, 1, 15, 16, 63, 64, 65, 100, 500, 1420];
        let mut buffers: Vec<_> = lens
            .iter()
            .map(|&len| [text(len), vec![0xee; TAG_LEN + TAILROOM + 8]].concat())
            .collect();
        let mut jobs = Jobs::<_, 64>::new();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            let room = buffer.len() - 8;
            let job = SealJob::in_place(&keys[i % 3], i as u64, &mut buffer[..room], lens[i]);
            assert!(jobs.push(job.unwrap()).is_ok());
        }
        engine.seal(&mut jobs);
        // One counter seals once: this must change nothing.
        engine.seal(&mut jobs);
        for (i, (buffer, &len)) in buffers.iter_mut().zip(&lens).enumerate() {
            let expected = sealed_by_ring(&keys[i % 3], i as u64, &text(len));
            assert_eq!(buffer[..len + TAG_LEN], expected, "{} bytes", len);
            assert!(
                buffer[len + TAG_LEN + TAILROOM..]
                    .iter()
                    .all(|&byte| byte == 0xee)
            );
            buffer.truncate(len + TAG_LEN);
        }

        // Every other packet is broken, and stays as it came.
        for buffer in buffers.iter_mut().step_by(2) {
            *buffer.last_mut().unwrap() ^= 0x80;
        }
        let came = buffers.clone();
        let mut jobs = Jobs::<_, 64>::new();
        for (i, buffer) in buffers.iter_mut().enumerate() {
            let job = OpenJob::in_place(&keys[i % 3], i as u64, buffer).unwrap();
            assert!(!job.ok());
            assert!(jobs.push(job).is_ok());
        }
        engine.open(&mut jobs);
        let verdicts: Vec<_> = jobs.iter().map(OpenJob::ok).collect();
        for (i, ok) in verdicts.into_iter().enumerate() {
            assert_eq!(ok, i % 2 == 1);
            if ok {
                assert_eq!(buffers[i][..lens[i]], text(lens[i]));
                assert_eq!(buffers[i][lens[i]..], came[i][lens[i]..]);
            } else {
                assert_eq!(buffers[i], came[i]);
            }
        }
    }
}

#[test]
fn a_head_is_completed_with_the_sum_of_the_payload_behind_it() {
    for mut engine in engines() {
        let key = [9; 32];
        let (first, second) = (text(333), text(700));
        let mut buffer = vec![0; 1088 + TAG_LEN + TAILROOM];
        let room = Segments::<16>::new();
        let mut jobs = Jobs::<_, 4>::new();
        let source = room
            .keep([Segment::from(&first[..]), Segment::from(&second[..])])
            .unwrap();
        let job = SealJob::gather(&key, 5, 54, source, &mut buffer, 1088).unwrap();
        assert!(jobs.push(job).is_ok());
        engine.seal_with(&mut jobs, |index, sum, head| {
            assert_eq!((index, head.len()), (0, 54));
            head.fill(0xaa);
            head[50..52].copy_from_slice(&sum.value().to_be_bytes());
        });

        let payload = [&first[..], &second[..]].concat();
        let mut sum: u32 = 0;
        for word in payload.chunks(2) {
            sum += u32::from(word[0]) << 8 | word.get(1).map_or(0, |&low| u32::from(low));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(u32::from(jobs[0].payload_sum().value()), sum);
        let mut plain = vec![0xaa; 54];
        plain[50..52].copy_from_slice(&(sum as u16).to_be_bytes());
        plain.extend(payload);
        plain.resize(1088, 0);
        assert_eq!(buffer[..1088 + TAG_LEN], sealed_by_ring(&key, 5, &plain));
    }
}

#[test]
fn stages_decrypt_to_exact_ends() {
    for mut engine in engines() {
        let key = [4; 32];
        let bytes = sealed_by_ring(&key, 77, &text(1000));
        let mut broken = bytes.clone();
        broken[3] ^= 1;
        let mut burst = [
            Sealed::new(&key, 77, &bytes).unwrap(),
            Sealed::new(&key, 77, &broken).unwrap(),
        ];
        assert_eq!(
            burst[0].decrypt(0..0, &[]).err(),
            Some(JobError::NotVerified)
        );
        engine.verify(&mut burst);
        assert!(burst[0].ok() && !burst[1].ok());
        assert_eq!(
            burst[1].decrypt(0..0, &[]).err(),
            Some(JobError::NotVerified)
        );
        assert_eq!(
            burst[0].decrypt(0..1001, &[]).err(),
            Some(JobError::BadRange)
        );

        let (mut head, mut a, mut b) = ([0; 72], vec![0xcc; 108], vec![0xcc; 920]);
        engine.decrypt(&mut [burst[0].decrypt(0..72, &[(&mut head[..]).into()]).unwrap()]);
        assert_eq!(head[..], text(1000)[..72]);
        let to: [SegmentMut<'_>; 2] = [(&mut a[4..104]).into(), (&mut b[10..838]).into()];
        engine.decrypt(&mut [burst[0].decrypt(72..1000, &to).unwrap()]);
        assert_eq!(a[4..104], text(1000)[72..172]);
        assert_eq!(b[10..838], text(1000)[172..]);
        for untouched in [&a[..4], &a[104..], &b[..10], &b[838..]] {
            assert!(untouched.iter().all(|&byte| byte == 0xcc));
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    let key = [0; 32];
    let mut buffer = [0; 100 + TAG_LEN + TAILROOM];
    let bytes = [0; 60];
    assert_eq!(
        SealJob::in_place(&key, 0, &mut buffer, 101).err(),
        Some(JobError::NoRoom)
    );
    assert_eq!(
        SealJob::in_place(&key, 0, &mut buffer, 1 << 20).err(),
        Some(JobError::TooLong)
    );
    let source = [Segment::from(&bytes[..]), Segment::from(&bytes[..])];
    let job = SealJob::copy(&key, 0, &source, &mut buffer, 100);
    assert_eq!(job.err(), Some(JobError::SourceTooLong));
    let job = SealJob::gather(&key, 0, 41, &source[..1], &mut buffer, 100);
    assert_eq!(job.err(), Some(JobError::SourceTooLong));
    assert_eq!(
        OpenJob::in_place(&key, 0, &mut buffer[..15]).err(),
        Some(JobError::TooShort)
    );
    assert_eq!(
        Sealed::new(&key, 0, &buffer[..15]).err(),
        Some(JobError::TooShort)
    );
}
