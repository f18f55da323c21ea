//! Batched ChaCha20-Poly1305 (RFC 8439) for packets.
//!
//! **In**: bursts of jobs, each with its own key and counter. A job seals or opens one packet, in
//! place or from segments elsewhere, which may be guest memory.
//! **Out**: ciphertext and tag in the caller's buffer; per packet, whether it opened; on request the
//! Internet checksum sum of the payload that a seal passed over.
//! **Never**: an allocation per burst, a plaintext byte of a packet that does not verify, a byte
//! beyond a job's declared tailroom, a branch or an index that depends on key, keystream or text.
//!
//! The nonce is WireGuard's: four zero bytes, then the counter in little-endian order. The
//! associated data is empty, as in WireGuard's data messages.
//!
//! ```
//! use culvert_aead::{Engine, Jobs, OpenJob, SealJob, TAG_LEN, TAILROOM};
//!
//! let (key, mut engine) = ([7; 32], Engine::new());
//! let mut packet = vec![0; 5 + TAG_LEN + TAILROOM];
//! packet[..5].copy_from_slice(b"hello");
//!
//! let mut burst = Jobs::<_, 64>::new();
//! assert!(burst.push(SealJob::in_place(&key, 0, &mut packet, 5)?).is_ok());
//! engine.seal(&mut burst);
//!
//! let mut burst = Jobs::<_, 64>::new();
//! assert!(burst.push(OpenJob::in_place(&key, 0, &mut packet[..5 + TAG_LEN])?).is_ok());
//! engine.open(&mut burst);
//! assert!(burst[0].ok());
//! drop(burst);
//! assert_eq!(&packet[..5], b"hello");
//! # Ok::<(), culvert_aead::JobError>(())
//! ```
//!
//! # A worker's arrays
//!
//! [`Jobs`] and [`Segments`] live on the stack of the function that works on one burst. Making one
//! costs nothing (no element is initialised), so there is no array of jobs to carry from burst to
//! burst and no lifetime to launder. What is worth keeping, the scratch memory for keystream and
//! Poly1305 keys, belongs to the [`Engine`], which a worker makes once.
//!
//! # What is wiped
//!
//! At the end of every call: one-time keys, keystream and Poly1305 states in the engine's scratch, and
//! all vector registers, which hold the last blocks' keystream and states (by the vector kernels; the
//! portable one leaves registers to the crates).
//! Not wiped: general registers, and what the compiler spilled of either kind to the stack; the next
//! calls of a worker write over both. Keys are the caller's.
//!
//! # Rooms
//!
//! `job` and `arena` are the interface, `engine` chooses the kernel. `portable` is the kernel of every
//! machine. `batch` leads a burst through a vector kernel (`avx512`, `avx2`): it orders packets,
//! `lanes` flattens them into blocks, `scalar` authenticates where words are quicker than vectors.
//! Another vector kernel (NEON) is one more implementation of `batch::Vector`. `raw` reads memory that
//! others may write. Each kernel's head says why it is constant time.

#![deny(unsafe_code)]

mod arena;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod batch;
mod engine;
mod job;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod portable;
mod raw;
#[cfg(target_arch = "x86_64")]
mod scalar;
mod sum;

pub use arena::{Jobs, Segments};
pub use engine::{Engine, Kernel};
pub use job::{DecryptJob, JobError, OpenJob, SealJob, Sealed, Segment, SegmentMut};
pub use sum::PayloadSum;

/// A ChaCha20-Poly1305 key. The caller owns and wipes it.
pub type KeyBytes = [u8; 32];

/// Bytes of the Poly1305 tag that follows the ciphertext.
pub const TAG_LEN: usize = 16;

/// Bytes behind the tag that a seal may overwrite with anything: the kernels store whole registers.
pub const TAILROOM: usize = 64;

/// The longest text of one job. RFC 8439 would allow 256 GiB; no packet is longer than this.
pub const MAX_LEN: usize = 1 << 17;
