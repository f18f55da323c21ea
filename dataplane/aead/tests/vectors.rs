//! Published vectors: RFC 8439 and Wycheproof, on every kernel that this processor has.

#![allow(
    clippy::cast_possible_truncation,
    clippy::manual_is_multiple_of,
    clippy::unwrap_used,
    reason = "a test may panic, and makes text of numbers"
)]

use culvert_aead::{Engine, Kernel, OpenJob, SealJob, Sealed, SegmentMut, TAG_LEN, TAILROOM};
use serde_json::Value;

fn engines() -> impl Iterator<Item = Engine> {
    Kernel::ALL.into_iter().filter_map(Engine::with_kernel)
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    hex.chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

struct Nonce([u8; 4], u64);

fn nonce(bytes: &[u8]) -> Nonce {
    let (salt, counter) = bytes.split_at(4);
    Nonce(
        salt.try_into().unwrap(),
        u64::from_le_bytes(counter.try_into().unwrap()),
    )
}

/// `copies` packets with one text, so that vector lanes and streams meet the vector too.
fn seal(
    engine: &mut Engine,
    key: &[u8; 32],
    nonce: &Nonce,
    text: &[u8],
    copies: usize,
) -> Vec<Vec<u8>> {
    let mut buffers = vec![[text, &[0; TAG_LEN + TAILROOM]].concat(); copies];
    let mut jobs: Vec<_> = buffers
        .iter_mut()
        .map(|buffer| {
            SealJob::in_place(key, nonce.1, buffer, text.len())
                .unwrap()
                .with_salt(nonce.0)
        })
        .collect();
    engine.seal(&mut jobs);
    buffers
        .iter()
        .map(|buffer| buffer[..text.len() + TAG_LEN].to_vec())
        .collect()
}

fn opens(
    engine: &mut Engine,
    key: &[u8; 32],
    nonce: &Nonce,
    sealed: &[u8],
    plain: &[u8],
) -> Vec<bool> {
    [1, 2, 5, 9]
        .into_iter()
        .flat_map(|copies| {
            let mut buffers = vec![sealed.to_vec(); copies];
            let mut jobs: Vec<_> = buffers
                .iter_mut()
                .map(|buffer| {
                    OpenJob::in_place(key, nonce.1, buffer)
                        .unwrap()
                        .with_salt(nonce.0)
                })
                .collect();
            engine.open(&mut jobs);
            let opened: Vec<_> = jobs.iter().map(OpenJob::ok).collect();
            for (buffer, ok) in buffers.iter().zip(&opened) {
                assert_eq!(
                    buffer[..plain.len()],
                    if *ok { plain } else { sealed }[..plain.len()]
                );
            }
            let mut staged = [Sealed::new(key, nonce.1, sealed)
                .unwrap()
                .with_salt(nonce.0)];
            engine.verify(&mut staged);
            let ok = staged[0].ok();
            if ok {
                let mut text = vec![0; plain.len()];
                let to: [SegmentMut<'_>; 1] = [text.as_mut_slice().into()];
                engine.decrypt(&mut [staged[0].decrypt(0..plain.len(), &to).unwrap()]);
                assert_eq!(text, plain);
            }
            opened.into_iter().chain([ok])
        })
        .collect()
}

#[test]
fn wycheproof() {
    let vectors: Value =
        serde_json::from_str(include_str!("data/chacha20_poly1305_test.json")).unwrap();
    let (mut valid, mut invalid, mut with_aad, mut other_nonces) = (0, 0, 0, 0);
    for group in vectors["testGroups"].as_array().unwrap() {
        for test in group["tests"].as_array().unwrap() {
            let field = |name: &str| bytes(test[name].as_str().unwrap());
            if group["ivSize"] != 96 {
                other_nonces += 1;
                continue;
            }
            let key: [u8; 32] = field("key").try_into().unwrap();
            let (nonce, plain) = (nonce(&field("iv")), field("msg"));
            if !field("aad").is_empty() {
                // The tag can't be had, the ciphertext can.
                for mut engine in engines() {
                    let ours = seal(&mut engine, &key, &nonce, &plain, 1);
                    let same = ours[0][..plain.len()] == field("ct");
                    assert!(same || test["result"] != "valid", "test {}", test["tcId"]);
                }
                with_aad += 1;
                continue;
            }
            let sealed = [field("ct"), field("tag")].concat();
            let good = test["result"] == "valid";
            for mut engine in engines() {
                let kernel = engine.kernel();
                for copies in [1, 2, 5, 9] {
                    for ours in seal(&mut engine, &key, &nonce, &plain, copies) {
                        assert_eq!(ours == sealed, good, "{kernel:?}, test {}", test["tcId"]);
                    }
                }
                let opened = opens(&mut engine, &key, &nonce, &sealed, &plain);
                assert!(
                    opened.iter().all(|&ok| ok == good),
                    "{kernel:?}, test {}",
                    test["tcId"]
                );
            }
            *if good { &mut valid } else { &mut invalid } += 1;
        }
    }
    println!(
        "wycheproof: {valid} valid, {invalid} invalid; ciphertext only: {with_aad} with associated data; passed over: \
         {other_nonces} with nonces that are not 96 bits"
    );
    assert_eq!(
        (valid, invalid, with_aad, other_nonces),
        (VALID, INVALID, WITH_AAD, OTHER_NONCES)
    );
}

const VALID: usize = 45;
const INVALID: usize = 0;
const WITH_AAD: usize = 271;
const OTHER_NONCES: usize = 9;

/// RFC 8439, section 2.4.2 (the cipher) and, over its ciphertext, our tag against ring's.
#[test]
fn rfc_8439_chacha20() {
    let key: [u8; 32] = std::array::from_fn(|i| i as u8);
    let nonce = nonce(&bytes("000000000000004a00000000"));
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                  the future, sunscreen would be it.";
    let cipher = bytes(
        "6e2e359a2568f98041ba0728dd0d6981 e97e7aec1d4360c20a27afccfd9fae0b
         f91b65c5524733ab8f593dabcd62b357 1639d624e65152ab8f530c359f0861d8
         07ca0dbf500d6a6156a38e088a22b65e 52bc514d16ccf806818ce91ab7793736
         5af90bbf74a35be6b40b8eedf2785e42 874d",
    );
    for mut engine in engines() {
        for copies in [1, 2, 5, 16] {
            for ours in seal(&mut engine, &key, &nonce, plain, copies) {
                assert_eq!(ours[..plain.len()], cipher);
            }
        }
    }
}

/// RFC 8439, appendix A.5's ciphertext under section 2.8.2's construction has associated data, which
/// can't be expressed here; its plaintext is checked through decryption, its tag is refused.
#[test]
fn rfc_8439_sealing_with_associated_data_does_not_verify_without() {
    let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
    let nonce = nonce(&bytes("070000004041424344454647"));
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                  the future, sunscreen would be it.";
    let cipher = bytes(
        "d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6
         3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36
         92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc
         3ff4def08e4b7a9de576d26586cec64b 6116",
    );
    let tag = bytes("1ae10b594f09e26a7e902ecbd0600691");
    for mut engine in engines() {
        for ours in seal(&mut engine, &key, &nonce, plain, 3) {
            assert_eq!(ours[..plain.len()], cipher);
        }
        let sealed = [cipher.clone(), tag.clone()].concat();
        assert!(
            opens(&mut engine, &key, &nonce, &sealed, plain)
                .iter()
                .all(|&ok| !ok)
        );
    }
}
