//! The portable kernel: the `chacha20` and `poly1305` crates, packet by packet.
//!
//! **In**: jobs. **Out**: sealed and opened packets.
//! **Never**: a second read of a source's byte; a step that may fail once a text lies in its place.
//!
//! Constant time: ChaCha20 is additions, rotations and exclusive-ors on whole words, Poly1305 here
//! is integer multiplication and masks, both as the crates write them; tags are compared by
//! `subtle`. What branches and indexes there are depend on lengths. It holds wherever the
//! processor's multiplication takes the same time for all operands.

#![allow(unsafe_code, reason = "a named room: it follows the pointers of jobs")]

use core::slice;

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use poly1305::Poly1305;
use poly1305::universal_hash::{KeyInit, UniversalHash};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::job::{DecryptJob, OpenJob, SealJob, Sealed, State};
use crate::{KeyBytes, PayloadSum, TAG_LEN, raw};

/// Gathers, sums, finishes the head and seals, one packet after the other.
pub(crate) fn seal<F>(jobs: &mut [SealJob<'_>], finish: &mut Option<F>)
where
    F: FnMut(usize, PayloadSum, &mut [u8]),
{
    for (index, job) in jobs.iter_mut().enumerate() {
        if job.done {
            continue;
        }
        job.done = true;
        let (len, head) = (job.len as usize, job.head as usize);
        // SAFETY: the job was made from a `&mut [u8]` of at least this size, which it still borrows.
        let buffer = unsafe { slice::from_raw_parts_mut(job.destination.as_ptr(), len + TAG_LEN) };
        let (text, tag) = buffer.split_at_mut(len);
        if !job.in_place {
            let mut at = head;
            for segment in job.source {
                // SAFETY: the segments together fit behind the head (`SealJob::gather`), are
                // readable and disjoint from the destination (`Segment::from_raw`).
                unsafe {
                    let to = text[at..at + segment.len].as_mut_ptr();
                    raw::read(segment.start.as_ptr(), to, segment.len);
                }
                at += segment.len;
            }
            text[at..].fill(0);
        }
        if let Some(finish) = finish {
            job.sum = PayloadSum::of(&text[head..]);
            finish(index, job.sum, &mut text[..head]);
        }
        let nonce = nonce(job.salt, job.counter);
        apply(job.key, nonce, text);
        tag.copy_from_slice(&authenticate(job.key, nonce, text));
    }
}

/// Verifies and decrypts in place.
pub(crate) fn open(jobs: &mut [OpenJob<'_>]) {
    for job in jobs.iter_mut().filter(|job| job.state == State::Waiting) {
        let len = job.len as usize;
        // SAFETY: the job was made from a `&mut [u8]` of exactly this size, which it still borrows.
        let buffer = unsafe { slice::from_raw_parts_mut(job.text.as_ptr(), len + TAG_LEN) };
        let (text, tag) = buffer.split_at_mut(len);
        let nonce = nonce(job.salt, job.counter);
        job.state = if is_authentic(job.key, nonce, text, tag) {
            apply(job.key, nonce, text);
            State::Verified
        } else {
            State::Failed
        };
    }
}

/// Verifies without decrypting.
pub(crate) fn verify(jobs: &mut [Sealed<'_>]) {
    for job in jobs.iter_mut().filter(|job| job.state == State::Waiting) {
        let len = job.len as usize;
        // SAFETY: the job was made from a `&[u8]` of exactly this size, which it still borrows.
        let sealed = unsafe { slice::from_raw_parts(job.text.as_ptr(), len + TAG_LEN) };
        let (text, tag) = sealed.split_at(len);
        let nonce = nonce(job.salt, job.counter);
        job.state = if is_authentic(job.key, nonce, text, tag) {
            State::Verified
        } else {
            State::Failed
        };
    }
}

/// Decrypts ranges through a block of private memory, so that every destination ends exactly.
pub(crate) fn decrypt(jobs: &mut [DecryptJob<'_>]) {
    let mut block = [0; 64];
    for job in jobs {
        let mut cipher = ChaCha20::new(job.key.into(), &nonce(job.salt, job.counter).into());
        let mut at = job.range.start as usize;
        cipher.seek(64 + u64::from(job.range.start));
        for destination in job.destinations {
            let mut written = 0;
            while written < destination.len {
                let piece = block.len().min(destination.len - written);
                // SAFETY: the range lies in the text and is as long as the destinations together
                // (`Sealed::decrypt`); destinations are writable (`SegmentMut`).
                unsafe {
                    let from = slice::from_raw_parts(job.text.as_ptr().add(at), piece);
                    block[..piece].copy_from_slice(from);
                    cipher.apply_keystream(&mut block[..piece]);
                    raw::write(
                        block.as_ptr(),
                        destination.start.as_ptr().add(written),
                        piece,
                    );
                }
                written += piece;
                at += piece;
            }
        }
    }
    block.zeroize();
}

fn nonce(salt: u32, counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..4].copy_from_slice(&salt.to_le_bytes());
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// Encrypts or decrypts a text, from the keystream's second block on.
fn apply(key: &KeyBytes, nonce: [u8; 12], text: &mut [u8]) {
    let mut cipher = ChaCha20::new(key.into(), &nonce.into());
    cipher.seek(64u64);
    cipher.apply_keystream(text);
}

fn is_authentic(key: &KeyBytes, nonce: [u8; 12], text: &[u8], tag: &[u8]) -> bool {
    let mut computed = authenticate(key, nonce, text);
    let same = computed.ct_eq(tag).into();
    computed.zeroize();
    same
}

/// The tag over empty associated data and `text` (RFC 8439, section 2.8).
fn authenticate(key: &KeyBytes, nonce: [u8; 12], text: &[u8]) -> [u8; TAG_LEN] {
    let mut poly_key = [0; 32];
    ChaCha20::new(key.into(), &nonce.into()).apply_keystream(&mut poly_key);
    let mut poly = Poly1305::new((&poly_key).into());
    poly_key.zeroize();
    poly.update_padded(text);
    let mut lengths = [0; 16];
    lengths[8..].copy_from_slice(&(text.len() as u64).to_le_bytes());
    poly.update(&[lengths.into()]);
    poly.finalize().into()
}

#[cfg(test)]
mod tests {
    use core::mem::MaybeUninit;

    use super::*;

    #[test]
    fn the_authenticators_state_is_wiped_when_it_is_dropped() {
        let mut place = MaybeUninit::new(Poly1305::new(&[0xa5; 32].into()));
        let start = place.as_ptr().cast::<u8>();
        // SAFETY: the value is dropped once; its place is read as bytes, each once.
        let bytes: Vec<u8> = unsafe {
            place.assume_init_drop();
            (0..size_of::<Poly1305>())
                .map(|at| start.add(at).read_volatile())
                .collect()
        };
        assert!(bytes.iter().all(|&byte| byte == 0), "{bytes:x?}");
    }
}
