//! The primitives that the handshake is made of: BLAKE2s, HMAC, HKDF, ChaCha20-Poly1305, XChaCha20-Poly1305.
//!
//! In: keys and bytes. Out: bytes; `None` where a tag doesn't match. Never: data packets, protocol state.

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, XChaCha20Poly1305};
use zeroize::{Zeroize as _, Zeroizing};

use crate::message::{MAC_LEN, TAG_LEN};

/// 32 bytes that must not outlive their use.
pub(crate) type Secret = Zeroizing<[u8; 32]>;

const BLOCK_LEN: usize = 64;

/// BLAKE2s of the parts, one after the other.
pub(crate) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2s256::new();
    for part in parts {
        blake2::Digest::update(&mut state, part);
    }
    state.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output. `key` is at most 32 bytes long.
pub(crate) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut state =
        Blake2sMac::<U16>::new_from_slice(key).expect("all keys here have 16 or 32 bytes");
    for part in parts {
        state.update(part);
    }
    state.finalize_fixed().into()
}

/// HMAC over BLAKE2s (RFC 2104), as Noise uses it.
pub(crate) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut pad = Zeroizing::new([0x36; BLOCK_LEN]);
    for (pad, key) in pad.iter_mut().zip(key) {
        *pad ^= key;
    }
    let mut inner = Blake2s256::new();
    blake2::Digest::update(&mut inner, pad.as_slice());
    for part in parts {
        blake2::Digest::update(&mut inner, part);
    }
    let inner = Zeroizing::new(<[u8; 32]>::from(inner.finalize()));
    for byte in pad.iter_mut() {
        *byte ^= 0x36 ^ 0x5c;
    }
    Zeroizing::new(hash(&[pad.as_slice(), inner.as_slice()]))
}

/// HKDF (RFC 5869) with `N` outputs of 32 bytes, as Noise uses it.
pub(crate) fn kdf<const N: usize>(chaining_key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let secret = hmac(chaining_key, &[input]);
    let mut before: Option<Secret> = None;
    let mut label = 0;
    core::array::from_fn(|_| {
        label += 1;
        let output = match &before {
            None => hmac(&secret, &[&[label]]),
            Some(before) => hmac(&secret, &[before.as_slice(), &[label]]),
        };
        before = Some(output.clone());
        output
    })
}

/// Seals `plaintext` into `out`, which is longer by the tag; the nonce is `counter`.
pub(crate) fn seal(key: &[u8; 32], counter: u64, aad: &[u8], plaintext: &[u8], out: &mut [u8]) {
    let (body, tag) = out.split_at_mut(plaintext.len());
    body.copy_from_slice(plaintext);
    let made = ChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(&nonce(counter).into(), aad, InOutBuf::from(body))
        .expect("handshake fields are far below the cipher's limit");
    tag.copy_from_slice(&made);
}

/// Opens `sealed` into `out`, which is shorter by the tag.
#[must_use]
pub(crate) fn open(
    key: &[u8; 32],
    counter: u64,
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Option<()> {
    let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
    out.copy_from_slice(body);
    let opened = ChaCha20Poly1305::new(key.into()).decrypt_inout_detached(
        &nonce(counter).into(),
        aad,
        InOutBuf::from(&mut *out),
        tag.into(),
    );
    if opened.is_err() {
        out.zeroize();
    }
    opened.ok()
}

/// Seals with a random nonce of 24 bytes.
pub(crate) fn xseal(
    key: &[u8; 32],
    nonce: &[u8; 24],
    aad: &[u8],
    plaintext: &[u8],
    out: &mut [u8],
) {
    let (body, tag) = out.split_at_mut(plaintext.len());
    body.copy_from_slice(plaintext);
    let made = XChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(body))
        .expect("cookies are far below the cipher's limit");
    tag.copy_from_slice(&made);
}

/// Opens what [`xseal`] sealed.
#[must_use]
pub(crate) fn xopen(
    key: &[u8; 32],
    nonce: &[u8; 24],
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Option<()> {
    let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
    out.copy_from_slice(body);
    let opened = XChaCha20Poly1305::new(key.into()).decrypt_inout_detached(
        nonce.into(),
        aad,
        InOutBuf::from(&mut *out),
        tag.into(),
    );
    if opened.is_err() {
        out.zeroize();
    }
    opened.ok()
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
