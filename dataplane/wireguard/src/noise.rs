//! The handshake's key schedule: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s.
//!
//! In: keys, ephemeral keys, timestamps, indices, views of messages. Out: messages without their MACs, session keys.
//! Never: randomness of its own, time, peers, a decision on replay.
//!
//! ```text
//! <- s
//! …
//! -> e, es, s, ss, {timestamp}
//! <- e, ee, se, psk, {}
//! ```

use std::sync::LazyLock;

use zeroize::Zeroizing;

use crate::crypto::{self, Secret};
use crate::keypair::{Role, SessionKeys};
use crate::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::message::{self, INITIATION_LEN, Initiation, RESPONSE_LEN, Response};
use crate::time::Tai64n;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Chaining key and transcript hash (Noise's symmetric state).
#[derive(Clone)]
struct Transcript {
    chaining_key: Secret,
    hash: Secret,
}

impl Transcript {
    /// The state once the prologue and the responder's static key are mixed in.
    fn new(responder: &PublicKey) -> Self {
        static INITIAL: LazyLock<([u8; 32], [u8; 32])> = LazyLock::new(|| {
            let chaining_key = crypto::hash(&[CONSTRUCTION]);
            (chaining_key, crypto::hash(&[&chaining_key, PROLOGUE]))
        });
        let (chaining_key, hash) = *INITIAL;
        let mut transcript = Self {
            chaining_key: Zeroizing::new(chaining_key),
            hash: Zeroizing::new(hash),
        };
        transcript.mix_hash(responder.as_bytes());
        transcript
    }

    fn mix_hash(&mut self, bytes: &[u8]) {
        *self.hash = crypto::hash(&[self.hash.as_slice(), bytes]);
    }

    fn mix_ephemeral(&mut self, ephemeral: &PublicKey) {
        self.mix_hash(ephemeral.as_bytes());
        let [chaining_key] = crypto::kdf(&self.chaining_key, ephemeral.as_bytes());
        self.chaining_key = chaining_key;
    }

    /// Mixes in a shared secret; returns the key that seals the next field.
    fn mix_shared(&mut self, shared: &[u8; 32]) -> Secret {
        let [chaining_key, key] = crypto::kdf(&self.chaining_key, shared);
        self.chaining_key = chaining_key;
        key
    }

    fn mix_preshared(&mut self, preshared: &PresharedKey) -> Secret {
        let [chaining_key, mixed, key] = crypto::kdf(&self.chaining_key, preshared.as_bytes());
        self.chaining_key = chaining_key;
        self.mix_hash(mixed.as_slice());
        key
    }

    fn seal(&mut self, key: &Secret, plaintext: &[u8], out: &mut [u8]) {
        crypto::seal(
            key,
            &crypto::FIRST_NONCE,
            self.hash.as_slice(),
            plaintext,
            out,
        );
        self.mix_hash(out);
    }

    fn open(&mut self, key: &Secret, sealed: &[u8], out: &mut [u8]) -> Option<()> {
        crypto::open(key, &crypto::FIRST_NONCE, self.hash.as_slice(), sealed, out)?;
        self.mix_hash(sealed);
        Some(())
    }

    fn session_keys(self, role: Role, local_index: u32, remote_index: u32) -> SessionKeys {
        let [of_initiator, of_responder] = crypto::kdf(&self.chaining_key, &[]);
        let (sending, receiving) = match role {
            Role::Initiator => (of_initiator, of_responder),
            Role::Responder => (of_responder, of_initiator),
        };
        SessionKeys {
            sending,
            receiving,
            role,
            local_index,
            remote_index,
        }
    }
}

/// An initiation that we sent and that waits for its response.
pub(crate) struct Initiated {
    local_index: u32,
    ephemeral: PrivateKey,
    transcript: Transcript,
}

/// What an initiator knows before it begins.
pub(crate) struct Initiator<'a> {
    pub(crate) public_key: &'a PublicKey,
    pub(crate) remote: &'a PublicKey,
    /// The shared secret of both static keys.
    pub(crate) static_static: &'a Secret,
}

impl Initiated {
    /// Makes an initiation, all but its MACs. `None` if the remote key is of low order.
    pub(crate) fn begin(
        initiator: &Initiator<'_>,
        ephemeral: PrivateKey,
        local_index: u32,
        timestamp: Tai64n,
    ) -> Option<(Self, [u8; INITIATION_LEN])> {
        let mut message = message::new_initiation();
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        let mut transcript = Transcript::new(initiator.remote);
        let public = ephemeral.public_key();
        message[8..40].copy_from_slice(public.as_bytes());
        transcript.mix_ephemeral(&public);
        let key = transcript.mix_shared(&*ephemeral.agree(initiator.remote)?);
        transcript.seal(&key, initiator.public_key.as_bytes(), &mut message[40..88]);
        let key = transcript.mix_shared(initiator.static_static);
        transcript.seal(&key, timestamp.as_bytes(), &mut message[88..116]);
        Some((
            Self {
                local_index,
                ephemeral,
                transcript,
            },
            message,
        ))
    }

    /// The index that a response must name.
    pub(crate) const fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Reads a response. `None` leaves the handshake open for another one.
    pub(crate) fn finish(
        &self,
        private_key: &PrivateKey,
        preshared_key: &PresharedKey,
        response: &Response<'_>,
    ) -> Option<SessionKeys> {
        let mut transcript = self.transcript.clone();
        let ephemeral = PublicKey::from_bytes(*response.ephemeral());
        transcript.mix_ephemeral(&ephemeral);
        transcript.mix_shared(&*self.ephemeral.agree(&ephemeral)?);
        transcript.mix_shared(&*private_key.agree(&ephemeral)?);
        let key = transcript.mix_preshared(preshared_key);
        transcript.open(&key, response.sealed_nothing(), &mut [])?;
        Some(transcript.session_keys(Role::Initiator, self.local_index, response.sender()))
    }
}

/// An initiation whose sender claims to be `remote`.
pub(crate) struct Claimed {
    pub(crate) remote: PublicKey,
    remote_index: u32,
    remote_ephemeral: PublicKey,
    transcript: Transcript,
}

impl Claimed {
    /// Opens an initiation as far as the sender's identity.
    pub(crate) fn read(
        private_key: &PrivateKey,
        public_key: &PublicKey,
        initiation: &Initiation<'_>,
    ) -> Option<Self> {
        let mut transcript = Transcript::new(public_key);
        let remote_ephemeral = PublicKey::from_bytes(*initiation.ephemeral());
        transcript.mix_ephemeral(&remote_ephemeral);
        let key = transcript.mix_shared(&*private_key.agree(&remote_ephemeral)?);
        let mut remote = [0; 32];
        transcript.open(&key, initiation.sealed_static(), &mut remote)?;
        Some(Self {
            remote: PublicKey::from_bytes(remote),
            remote_index: initiation.sender(),
            remote_ephemeral,
            transcript,
        })
    }

    /// Proves the sender's identity and yields its timestamp, which the caller checks against replay.
    pub(crate) fn prove(
        mut self,
        static_static: &Secret,
        initiation: &Initiation<'_>,
    ) -> Option<(Proven, Tai64n)> {
        let key = self.transcript.mix_shared(static_static);
        let mut timestamp = [0; Tai64n::LEN];
        self.transcript
            .open(&key, initiation.sealed_timestamp(), &mut timestamp)?;
        Some((Proven(self), Tai64n::from_bytes(timestamp)))
    }
}

/// An initiation whose sender is who it claims to be.
pub(crate) struct Proven(Claimed);

impl Proven {
    /// Makes the response, all but its MACs, and the session's keys.
    pub(crate) fn respond(
        self,
        ephemeral: &PrivateKey,
        preshared_key: &PresharedKey,
        local_index: u32,
    ) -> Option<(SessionKeys, [u8; RESPONSE_LEN])> {
        let Claimed {
            remote,
            remote_index,
            remote_ephemeral,
            mut transcript,
        } = self.0;
        let mut message = message::new_response();
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        message[8..12].copy_from_slice(&remote_index.to_le_bytes());
        let public = ephemeral.public_key();
        message[12..44].copy_from_slice(public.as_bytes());
        transcript.mix_ephemeral(&public);
        transcript.mix_shared(&*ephemeral.agree(&remote_ephemeral)?);
        transcript.mix_shared(&*ephemeral.agree(&remote)?);
        let key = transcript.mix_preshared(preshared_key);
        transcript.seal(&key, &[], &mut message[44..60]);
        Some((
            transcript.session_keys(Role::Responder, local_index, remote_index),
            message,
        ))
    }
}
