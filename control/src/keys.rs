//! WireGuard's keys from the kernel's randomness; the types are the protocol crate's.
//!
//! In: randomness. Out: keys. Never: a secret in `Debug`, in a log or in an error; secrets are
//! wiped when dropped.

pub use culvert_wireguard::{PresharedKey, PrivateKey, PublicKey};

use zeroize::Zeroizing;

/// The bytes of every key.
pub const KEY_LEN: usize = culvert_wireguard::keys::KEY_LEN;

/// The characters of every key's base64.
pub const KEY_TEXT_LEN: usize = culvert_wireguard::keys::BASE64_LEN;

/// A new identity.
///
/// # Errors
///
/// When the kernel has no randomness to give.
pub fn generate_private() -> Result<PrivateKey, getrandom::Error> {
    random().map(|bytes| PrivateKey::from_bytes(*bytes))
}

/// A new key for two peers to share.
///
/// # Errors
///
/// When the kernel has no randomness to give.
pub fn generate_preshared() -> Result<PresharedKey, getrandom::Error> {
    random().map(|bytes| PresharedKey::from_bytes(*bytes))
}

fn random() -> Result<Zeroizing<[u8; KEY_LEN]>, getrandom::Error> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(&mut *bytes)?;
    Ok(bytes)
}
