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

/// The nonce of every handshake field: each key seals one field.
pub(crate) const FIRST_NONCE: [u8; 12] = [0; 12];

/// Seals `plaintext` into `out`, which is longer by the tag.
pub(crate) fn seal(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plaintext: &[u8], out: &mut [u8]) {
    let (body, tag) = out.split_at_mut(plaintext.len());
    body.copy_from_slice(plaintext);
    let made = ChaCha20Poly1305::new(key.into())
        .encrypt_inout_detached(nonce.into(), aad, InOutBuf::from(body))
        .expect("handshake fields are far below the cipher's limit");
    tag.copy_from_slice(&made);
}

/// Opens `sealed` into `out`, which is shorter by the tag.
#[must_use]
pub(crate) fn open(
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    sealed: &[u8],
    out: &mut [u8],
) -> Option<()> {
    let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
    out.copy_from_slice(body);
    let opened = ChaCha20Poly1305::new(key.into()).decrypt_inout_detached(
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

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::keys::{PrivateKey, PublicKey};

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .chars()
            .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
            .collect();
        digits
            .chunks_exact(2)
            .map(|pair| pair[0] << 4 | pair[1])
            .collect()
    }

    #[test]
    fn hmac_agrees_with_the_textbook() {
        // python3: hmac.new(bytes(range(32)), b"ab", "blake2s").hexdigest()
        let key = core::array::from_fn(|i| u8::try_from(i).unwrap());
        let expected = bytes("05dd3dc7c243cba7da084236c2cfe5ab5ee12501646259dfdfaf74cb1e7787cf");
        assert_eq!(hmac(&key, &[b"a", b"b"]).as_slice(), expected);
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Suite<T> {
        number_of_tests: usize,
        test_groups: Vec<Group<T>>,
    }

    #[derive(Deserialize)]
    struct Group<T> {
        tests: Vec<T>,
    }

    impl<T> Suite<T> {
        fn tests(self) -> Vec<T> {
            let tests: Vec<T> = self
                .test_groups
                .into_iter()
                .flat_map(|group| group.tests)
                .collect();
            assert_eq!(tests.len(), self.number_of_tests);
            tests
        }
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Aead {
        tc_id: u32,
        key: String,
        iv: String,
        aad: String,
        msg: String,
        ct: String,
        tag: String,
        result: String,
    }

    /// Runs a suite; returns how many vectors ran, and how many have a nonce that the type rules out.
    fn run<const NONCE: usize>(
        suite: &str,
        seal: impl Fn(&[u8; 32], &[u8; NONCE], &[u8], &[u8], &mut [u8]),
        open: impl Fn(&[u8; 32], &[u8; NONCE], &[u8], &[u8], &mut [u8]) -> Option<()>,
    ) -> (usize, usize) {
        let (mut ran, mut skipped) = (0, 0);
        for test in serde_json::from_str::<Suite<Aead>>(suite).unwrap().tests() {
            let Ok(nonce) = <[u8; NONCE]>::try_from(bytes(&test.iv)) else {
                assert_eq!(test.result, "invalid", "vector {}", test.tc_id);
                skipped += 1;
                continue;
            };
            let key = bytes(&test.key).try_into().unwrap();
            let (aad, message) = (bytes(&test.aad), bytes(&test.msg));
            let sealed = [bytes(&test.ct), bytes(&test.tag)].concat();
            let mut out = vec![0xaa; sealed.len() - TAG_LEN];
            let opened = open(&key, &nonce, &aad, &sealed, &mut out);
            if test.result == "valid" {
                assert!(opened.is_some() && out == message, "vector {}", test.tc_id);
                let mut made = vec![0; sealed.len()];
                seal(&key, &nonce, &aad, &message, &mut made);
                assert_eq!(made, sealed, "vector {}", test.tc_id);
            } else {
                assert!(
                    opened.is_none() && out.iter().all(|byte| *byte == 0),
                    "vector {}",
                    test.tc_id
                );
            }
            ran += 1;
        }
        (ran, skipped)
    }

    #[test]
    fn wycheproof_chacha20_poly1305() {
        let suite = include_str!("../tests/data/wycheproof_chacha20_poly1305.json");
        assert_eq!(run(suite, seal, open), (316, 9));
    }

    #[test]
    fn wycheproof_xchacha20_poly1305() {
        let suite = include_str!("../tests/data/wycheproof_xchacha20_poly1305.json");
        assert_eq!(run(suite, xseal, xopen), (306, 9));
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Agreement {
        tc_id: u32,
        public: String,
        private: String,
        shared: String,
        result: String,
        flags: Vec<String>,
    }

    /// None is skipped. A shared secret of zeros must be refused, everything else must agree.
    #[test]
    fn wycheproof_x25519() {
        let suite = include_str!("../tests/data/wycheproof_x25519.json");
        let (mut ran, mut refused) = (0, 0);
        for test in serde_json::from_str::<Suite<Agreement>>(suite)
            .unwrap()
            .tests()
        {
            let private = PrivateKey::from_bytes(bytes(&test.private).try_into().unwrap());
            let public = PublicKey::from_bytes(bytes(&test.public).try_into().unwrap());
            let shared = bytes(&test.shared);
            let agreed = private.agree(&public);
            if shared == [0; 32] {
                assert!(
                    test.flags.iter().any(|flag| flag == "ZeroSharedSecret"),
                    "vector {}",
                    test.tc_id
                );
                assert!(agreed.is_none(), "vector {}", test.tc_id);
                refused += 1;
            } else {
                assert!(
                    matches!(test.result.as_str(), "valid" | "acceptable"),
                    "vector {}",
                    test.tc_id
                );
                assert_eq!(agreed.unwrap().as_slice(), shared, "vector {}", test.tc_id);
            }
            ran += 1;
        }
        assert_eq!((ran, refused), (518, 31));
    }
}
