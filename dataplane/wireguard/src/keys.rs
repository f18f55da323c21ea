//! Keys: private, public, preshared; base64 and hex as `wg` and its socket write them.
//!
//! In: 32 bytes, base64, hex, randomness. Out: the same; public keys of private ones. Never: a file (who may read
//! one is the caller's check), a secret in debug output, a comparison of secrets that takes varying time.

use core::fmt;
use core::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand_core::CryptoRng;
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

/// Bytes of every key.
pub const KEY_LEN: usize = 32;
/// A preshared key that is none.
const NONE: [u8; KEY_LEN] = [0; KEY_LEN];
/// Characters of a key in base64, with padding.
pub const BASE64_LEN: usize = 44;
/// Characters of a key in hex.
pub const HEX_LEN: usize = 64;

/// Why text isn't a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 44 characters of standard base64 with padding.
    #[error("a key is {BASE64_LEN} characters of base64")]
    NotBase64,
    /// Not 64 hexadecimal digits.
    #[error("a key is {HEX_LEN} hexadecimal digits")]
    NotHex,
}

/// A peer's identity: an X25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

/// Bytes that have one place, which is wiped when dropped: who owns them may move, also in a vector that grows.
type Secret = Box<Zeroizing<[u8; KEY_LEN]>>;

/// Our identity: an X25519 private key, clamped, wiped when dropped.
#[derive(Clone)]
pub struct PrivateKey(Secret);

/// A symmetric key mixed into the handshake; all zeros means none. Wiped when dropped.
#[derive(Clone, Default)]
pub struct PresharedKey(
    /// Most peers have none, and there are many.
    Option<Secret>,
);

impl PrivateKey {
    /// A new key.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        rng.fill_bytes(bytes.as_mut_slice());
        Self::copy(&bytes)
    }

    /// The key with these bytes, clamped. `None` for 32 zeros, which mean "no key" in `wg`'s protocols.
    #[must_use]
    pub fn new(bytes: [u8; KEY_LEN]) -> Option<Self> {
        (!bool::from(bytes.ct_eq(&[0; KEY_LEN]))).then(|| Self::from_bytes(bytes))
    }

    /// The key with these bytes, clamped (RFC 7748, section 5).
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self::copy(&Zeroizing::new(bytes))
    }

    fn copy(bytes: &[u8; KEY_LEN]) -> Self {
        let mut key = Secret::default();
        key.copy_from_slice(bytes);
        key[0] &= 248;
        key[31] = key[31] & 127 | 64;
        Self(key)
    }

    /// The public key of this private key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(**self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// The shared secret with a public key; `None` if the result is all zeros, which a point of low order yields.
    pub(crate) fn agree(&self, public: &PublicKey) -> Option<Zeroizing<[u8; KEY_LEN]>> {
        let secret = x25519_dalek::StaticSecret::from(**self.0);
        let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(public.0));
        shared
            .was_contributory()
            .then(|| Zeroizing::new(shared.to_bytes()))
    }
}

impl PresharedKey {
    /// A new key.
    #[must_use]
    pub fn generate(rng: &mut dyn CryptoRng) -> Self {
        let mut bytes = Secret::default();
        rng.fill_bytes(bytes.as_mut_slice());
        Self::copy(&bytes)
    }

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self::copy(&Zeroizing::new(bytes))
    }

    fn copy(bytes: &[u8; KEY_LEN]) -> Self {
        let is_none = bool::from(bytes.ct_eq(&NONE));
        Self((!is_none).then(|| {
            let mut key = Secret::default();
            key.copy_from_slice(bytes);
            key
        }))
    }

    /// Whether this stands for "none".
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    fn bytes(&self) -> &[u8; KEY_LEN] {
        self.0.as_deref().map_or(&NONE, |key| key)
    }
}

impl PrivateKey {
    fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PublicKey {
    const fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key with these bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    fn copy(bytes: &[u8; KEY_LEN]) -> Self {
        Self(*bytes)
    }

    /// Standard base64.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// Lower-case hex.
    #[must_use]
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64())
    }
}

macro_rules! common {
    ($key:ident, $secret:literal) => {
        impl $key {
            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
                self.bytes()
            }

            /// Reads standard base64 with padding, exactly 44 characters.
            ///
            /// # Errors
            ///
            /// Anything else, including non-zero bits after the last byte.
            pub fn from_base64(text: &str) -> Result<Self, KeyError> {
                let mut bytes = Zeroizing::new([0; KEY_LEN + 1]);
                match STANDARD.decode_slice(text, bytes.as_mut_slice()) {
                    Ok(KEY_LEN) if text.len() == BASE64_LEN => Ok(Self::copy(first(&bytes))),
                    _ => Err(KeyError::NotBase64),
                }
            }

            /// Reads 64 hexadecimal digits of either case.
            ///
            /// # Errors
            ///
            /// Anything else.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                let bytes = decode_hex(text).ok_or(KeyError::NotHex)?;
                Ok(Self::copy(&bytes))
            }
        }

        impl FromStr for $key {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                Self::from_base64(text)
            }
        }

        impl ConstantTimeEq for $key {
            fn ct_eq(&self, other: &Self) -> Choice {
                self.as_bytes().ct_eq(other.as_bytes())
            }
        }
    };
}

macro_rules! secret {
    ($key:ident) => {
        impl $key {
            /// Standard base64; the text is wiped when dropped.
            #[must_use]
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(STANDARD.encode(self.as_bytes()))
            }

            /// Lower-case hex; the text is wiped when dropped.
            #[must_use]
            pub fn to_hex(&self) -> Zeroizing<String> {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let mut text = Zeroizing::new(String::with_capacity(HEX_LEN));
                for &byte in self.as_bytes() {
                    text.push(char::from(DIGITS[usize::from(byte >> 4)]));
                    text.push(char::from(DIGITS[usize::from(byte & 15)]));
                }
                text
            }
        }

        impl PartialEq for $key {
            fn eq(&self, other: &Self) -> bool {
                self.ct_eq(other).into()
            }
        }

        impl Eq for $key {}

        impl fmt::Debug for $key {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($key), "(…)"))
            }
        }
    };
}

common!(PublicKey, false);
common!(PrivateKey, true);
common!(PresharedKey, true);
secret!(PrivateKey);
secret!(PresharedKey);

fn first(bytes: &[u8; KEY_LEN + 1]) -> &[u8; KEY_LEN] {
    bytes
        .first_chunk()
        .expect("the longer array holds the shorter")
}

fn decode_hex(text: &str) -> Option<Zeroizing<[u8; KEY_LEN]>> {
    if text.len() != HEX_LEN {
        return None;
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = nibble(digits[0])? << 4 | nibble(digits[1])?;
    }
    Some(bytes)
}

const fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_and_hex_come_back() {
        let key = PublicKey::from_bytes(core::array::from_fn(|i| 7 * u8::try_from(i).unwrap()));
        assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
        assert_eq!(PublicKey::from_hex(&key.to_hex()), Ok(key));
        assert_eq!(PublicKey::from_hex(&key.to_hex().to_uppercase()), Ok(key));
        let secret = PrivateKey::from_bytes([0x5a; 32]);
        assert_eq!(
            PrivateKey::from_base64(&secret.to_base64()),
            Ok(secret.clone())
        );
        assert_eq!(PrivateKey::from_hex(&secret.to_hex()), Ok(secret));
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        let good = PublicKey::from_bytes([7; 32]).to_base64();
        for bad in [
            "",
            "AAAA",
            &good[..43],
            &format!("{good}="),
            &good.replace('=', "A"),
            &format!(" {}", &good[1..]),
        ] {
            assert_eq!(
                PublicKey::from_base64(bad),
                Err(KeyError::NotBase64),
                "{bad:?}"
            );
        }
        // The last character carries four bits of the key and two that must be zero.
        let stray = format!("{}F=", &"A".repeat(42));
        assert_eq!(PublicKey::from_base64(&stray), Err(KeyError::NotBase64));
        for bad in [
            "",
            &"g".repeat(64),
            &"0".repeat(63),
            &"0".repeat(65),
            &"ä".repeat(32),
        ] {
            assert_eq!(PublicKey::from_hex(bad), Err(KeyError::NotHex), "{bad:?}");
        }
    }

    #[test]
    fn private_keys_are_clamped_and_zero_is_none() {
        let key = PrivateKey::new([0xff; 32]).unwrap();
        assert_eq!((key.as_bytes()[0], key.as_bytes()[31]), (0xf8, 0x7f));
        assert!(PrivateKey::new([0; 32]).is_none());
    }

    #[test]
    fn points_of_low_order_agree_on_nothing() {
        let key = PrivateKey::from_bytes([3; 32]);
        assert!(key.agree(&PublicKey::from_bytes([0; 32])).is_none());
        let mut one = [0; 32];
        one[0] = 1;
        assert!(key.agree(&PublicKey::from_bytes(one)).is_none());
        assert!(key.agree(&key.public_key()).is_some());
    }

    #[test]
    fn debug_output_hides_secrets() {
        assert_eq!(
            format!("{:?}", PrivateKey::from_bytes([1; 32])),
            "PrivateKey(…)"
        );
        assert_eq!(
            format!("{:?}", PresharedKey::from_bytes([1; 32])),
            "PresharedKey(…)"
        );
    }
}
