//! WireGuard's keys in their text form: base64 of 32 bytes, as `wg` reads and writes them.
//!
//! In: text and randomness. Out: keys as types. Never: a secret in `Debug`, in a log or in an
//! error. Secrets are wiped when dropped.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The bytes of every WireGuard key.
pub const KEY_LEN: usize = 32;

/// The length of a key's base64 text.
pub const KEY_TEXT_LEN: usize = 44;

/// Why a text is not a key. Holds nothing of the text: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 44 characters.
    #[error("a key is 44 characters of base64 (32 bytes), this has {0}")]
    Length(usize),
    /// 44 characters, but not base64 of 32 bytes.
    #[error("not the base64 of 32 bytes")]
    Base64,
}

/// A tunnel's identity.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; KEY_LEN]>);

/// A key that two peers share beside their identities.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; KEY_LEN]>);

/// The public half of an identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PrivateKey {
    /// A new key from the kernel's randomness, clamped (RFC 7748 section 5).
    ///
    /// # Errors
    ///
    /// When the kernel has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut key = Self(random()?);
        key.0[0] &= 248;
        key.0[31] = (key.0[31] & 127) | 64;
        Ok(key)
    }

    /// A key from its base64 text.
    ///
    /// # Errors
    ///
    /// When the text is not the base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }

    /// The base64 text, for the one command that prints it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(&self.0)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        let secret = x25519_dalek::StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }
}

impl PresharedKey {
    /// A new key from the kernel's randomness.
    ///
    /// # Errors
    ///
    /// When the kernel has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        random().map(Self)
    }

    /// A key from its base64 text.
    ///
    /// # Errors
    ///
    /// When the text is not the base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }

    /// The base64 text, for the one command that prints it.
    pub fn to_base64(&self) -> Zeroizing<String> {
        encode(&self.0)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PublicKey {
    /// A key from its base64 text.
    ///
    /// # Errors
    ///
    /// When the text is not the base64 of 32 bytes.
    pub fn from_base64(text: &str) -> Result<Self, KeyError> {
        decode(text).map(|bytes| Self(*bytes))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for PrivateKey {}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&*other.0).into()
    }
}

impl Eq for PresharedKey {}

fn random() -> Result<Zeroizing<[u8; KEY_LEN]>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(&mut *bytes)?;
    Ok(bytes)
}

fn encode(bytes: &[u8; KEY_LEN]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(bytes))
}

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    if text.len() != KEY_TEXT_LEN {
        return Err(KeyError::Length(text.chars().count()));
    }
    // One byte more than a key: 44 characters may decode to 33 bytes, and `decode_slice` needs the
    // room to say so. A fixed buffer, so that no copy of a secret stays behind in freed memory.
    let mut buffer = [0u8; KEY_LEN + 1];
    let decoded = STANDARD.decode_slice(text, &mut buffer);
    let key = match decoded {
        Ok(KEY_LEN) => {
            let mut key = Zeroizing::new([0; KEY_LEN]);
            key.copy_from_slice(&buffer[..KEY_LEN]);
            Ok(key)
        }
        Ok(_) | Err(_) => Err(KeyError::Base64),
    };
    buffer.zeroize();
    key
}
