//! Jobs: what to seal or open, where from and where to.
//!
//! **In**: keys, counters, private buffers, segments of memory that may be a guest's.
//! **Out**: jobs whose lengths are proven to fit, so that the kernels check nothing again.
//! **Never**: a job that can be copied (one counter seals one text once), a reference to guest
//! memory.

#![allow(
    unsafe_code,
    reason = "a named room: pointers that jobs carry to the kernels"
)]

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::NonNull;

use crate::{KeyBytes, MAX_LEN, PayloadSum, TAG_LEN, TAILROOM};

/// Why a job can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobError {
    /// The text is longer than [`MAX_LEN`].
    TooLong,
    /// The buffer doesn't hold the text, the tag and, to seal, the tailroom.
    NoRoom,
    /// The sources together are longer than the text.
    SourceTooLong,
    /// There is no room for a tag in what should be opened.
    TooShort,
    /// The packet isn't verified, so nothing of it is decrypted.
    NotVerified,
    /// The range to decrypt lies outside the text, or isn't as long as its destinations.
    BadRange,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the text is longer than any packet",
            Self::NoRoom => "the buffer has no room for text, tag and tailroom",
            Self::SourceTooLong => "the sources are longer than the text",
            Self::TooShort => "the sealed bytes are shorter than a tag",
            Self::NotVerified => "the packet is not verified",
            Self::BadRange => "the range doesn't match the text or its destinations",
        })
    }
}

impl core::error::Error for JobError {}

/// A piece of plaintext to read: private bytes or guest memory.
#[derive(Clone, Copy)]
pub struct Segment<'a> {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
    life: PhantomData<&'a [u8]>,
}

impl Segment<'_> {
    /// A segment of memory that others may write at the same time.
    ///
    /// A seal reads each byte of it exactly once, with loads that the compiler can't repeat.
    ///
    /// # Safety
    /// For the segment's life the range is mapped and readable, and it overlaps no destination of
    /// a job that is sealed in the same call.
    #[inline]
    #[must_use]
    pub const unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Self {
        Self {
            start,
            len,
            life: PhantomData,
        }
    }

    /// Its bytes.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> From<&'a [u8]> for Segment<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self {
            start: NonNull::from(bytes).cast(),
            len: bytes.len(),
            life: PhantomData,
        }
    }
}

/// A piece of memory to decrypt into: a private buffer or guest memory.
pub struct SegmentMut<'a> {
    pub(crate) start: NonNull<u8>,
    pub(crate) len: usize,
    life: PhantomData<&'a mut [u8]>,
}

impl SegmentMut<'_> {
    /// A segment of memory that others may read or write at the same time.
    ///
    /// # Safety
    /// For the segment's life the range is mapped and writable, and it overlaps neither a source
    /// nor another destination of the same call.
    #[inline]
    #[must_use]
    pub const unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Self {
        Self {
            start,
            len,
            life: PhantomData,
        }
    }
}

impl<'a> From<&'a mut [u8]> for SegmentMut<'a> {
    #[inline]
    fn from(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        Self {
            start: NonNull::from(bytes).cast(),
            len,
            life: PhantomData,
        }
    }
}

/// One packet to seal.
///
/// The buffer holds text, tag and [`TAILROOM`]; what the tailroom holds afterwards is undefined.
pub struct SealJob<'a> {
    pub(crate) key: &'a KeyBytes,
    /// The first word of the nonce as a little-endian number; zero in WireGuard.
    pub(crate) salt: u32,
    pub(crate) counter: u64,
    /// What follows the head, or nothing when all of the text is in the destination already.
    pub(crate) source: &'a [Segment<'a>],
    pub(crate) destination: NonNull<u8>,
    pub(crate) len: u32,
    /// Bytes at the start of the destination that are plaintext already.
    pub(crate) head: u32,
    /// Bytes of source behind the head; what is left of `len` is zeros. `len - head` in place.
    pub(crate) body: u32,
    pub(crate) in_place: bool,
    /// One counter seals once: a job that was sealed is passed over.
    pub(crate) done: bool,
    pub(crate) sum: PayloadSum,
    pub(crate) sealed_sum: Option<PayloadSum>,
    life: PhantomData<&'a mut [u8]>,
}

impl<'a> SealJob<'a> {
    /// The same with other first four bytes of the nonce than WireGuard's zeros.
    #[inline]
    #[must_use]
    pub fn with_salt(mut self, salt: [u8; 4]) -> Self {
        self.salt = u32::from_le_bytes(salt);
        self
    }

    /// Seals `buffer[..len]` in place and puts the tag behind it.
    ///
    /// # Errors
    /// [`JobError::NoRoom`] unless `buffer.len() >= len + TAG_LEN + TAILROOM`, [`JobError::TooLong`].
    #[inline(always)]
    pub fn in_place(
        key: &'a KeyBytes,
        counter: u64,
        buffer: &'a mut [u8],
        len: usize,
    ) -> Result<Self, JobError> {
        let (destination, len) = room(buffer, len)?;
        Ok(Self {
            key,
            salt: 0,
            counter,
            source: &[],
            destination,
            len,
            head: 0,
            body: len,
            in_place: true,
            done: false,
            sum: PayloadSum::default(),
            sealed_sum: None,
            life: PhantomData,
        })
    }

    /// Seals the segments, one behind the other, into `destination`; zeros fill up to `len`.
    ///
    /// # Errors
    /// As [`SealJob::gather`].
    #[inline(always)]
    pub fn copy(
        key: &'a KeyBytes,
        counter: u64,
        source: &'a [Segment<'a>],
        destination: &'a mut [u8],
        len: usize,
    ) -> Result<Self, JobError> {
        Self::gather(key, counter, 0, source, destination, len)
    }

    /// Seals a head of `head` bytes that stands (or will stand: see [`seal_with`]) at the start of
    /// `destination`, then the segments, then zeros up to `len`.
    ///
    /// [`seal_with`]: crate::Engine::seal_with
    ///
    /// # Errors
    /// [`JobError::NoRoom`] unless `destination.len() >= len + TAG_LEN + TAILROOM`,
    /// [`JobError::SourceTooLong`] unless head and segments fit into `len`, [`JobError::TooLong`].
    #[inline(always)]
    pub fn gather(
        key: &'a KeyBytes,
        counter: u64,
        head: usize,
        source: &'a [Segment<'a>],
        destination: &'a mut [u8],
        len: usize,
    ) -> Result<Self, JobError> {
        let body = source
            .iter()
            .fold(0usize, |sum, segment| sum.saturating_add(segment.len));
        if head.saturating_add(body) > len {
            return Err(JobError::SourceTooLong);
        }
        let mut job = Self::in_place(key, counter, destination, len)?;
        job.source = source;
        job.in_place = false;
        // Neither is above `len`, which `in_place` found to fit.
        job.head = u32::try_from(head).map_err(|_| JobError::TooLong)?;
        job.body = u32::try_from(body).map_err(|_| JobError::TooLong)?;
        Ok(job)
    }

    /// Says that the first `head` bytes of an in-place job are its head: the payload's sum leaves
    /// them out, and [`seal_with`](crate::Engine::seal_with) may still change them.
    ///
    /// # Errors
    /// [`JobError::SourceTooLong`] when the head is longer than the text or than what the segments
    /// leave of it.
    #[inline(always)]
    pub fn with_head(mut self, head: usize) -> Result<Self, JobError> {
        let longest = if self.in_place {
            self.len
        } else {
            self.len - self.body
        };
        match u32::try_from(head) {
            Ok(head) if head <= longest => {
                self.head = head;
                if self.in_place {
                    self.body = self.len - head;
                }
                Ok(self)
            }
            Ok(_) | Err(_) => Err(JobError::SourceTooLong),
        }
    }

    /// The sum of the payload behind the head, once [`seal_with`](crate::Engine::seal_with) sealed
    /// it.
    #[inline]
    #[must_use]
    pub fn payload_sum(&self) -> PayloadSum {
        self.sum
    }

    /// The sum of ciphertext and tag, once they are there: if [`Engine::sum_sealed`] asked for it and the kernel had
    /// it almost for nothing, which short texts and some others are not.
    ///
    /// [`Engine::sum_sealed`]: crate::Engine::sum_sealed
    #[inline]
    #[must_use]
    pub fn sealed_sum(&self) -> Option<PayloadSum> {
        self.sealed_sum
    }

    /// Bytes of ciphertext and tag.
    #[inline]
    #[must_use]
    pub fn sealed_len(&self) -> usize {
        self.len as usize + TAG_LEN
    }
}

#[inline(always)]
fn room(buffer: &mut [u8], len: usize) -> Result<(NonNull<u8>, u32), JobError> {
    if len > MAX_LEN {
        return Err(JobError::TooLong);
    }
    if buffer.len() < len + TAG_LEN + TAILROOM {
        return Err(JobError::NoRoom);
    }
    let len = u32::try_from(len).map_err(|_| JobError::TooLong)?;
    Ok((NonNull::from(buffer).cast(), len))
}

/// One packet to verify and decrypt in place. Nothing beyond the ciphertext is ever written, so
/// packets may lie back to back (as `UDP_GRO` delivers them).
pub struct OpenJob<'a> {
    pub(crate) key: &'a KeyBytes,
    /// The first word of the nonce as a little-endian number; zero in WireGuard.
    pub(crate) salt: u32,
    pub(crate) counter: u64,
    pub(crate) text: NonNull<u8>,
    /// Without the tag, which follows the text.
    pub(crate) len: u32,
    pub(crate) state: State,
    life: PhantomData<&'a mut [u8]>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Verified,
    Failed,
}

impl<'a> OpenJob<'a> {
    /// The same with other first four bytes of the nonce than WireGuard's zeros.
    #[inline]
    #[must_use]
    pub fn with_salt(mut self, salt: [u8; 4]) -> Self {
        self.salt = u32::from_le_bytes(salt);
        self
    }

    /// Opens `buffer`, which is ciphertext and tag and nothing else, in place.
    ///
    /// # Errors
    /// [`JobError::TooShort`] without room for a tag, [`JobError::TooLong`].
    #[inline(always)]
    pub fn in_place(
        key: &'a KeyBytes,
        counter: u64,
        buffer: &'a mut [u8],
    ) -> Result<Self, JobError> {
        let len = text_len(buffer.len())?;
        let text = NonNull::from(buffer).cast();
        Ok(Self {
            key,
            salt: 0,
            counter,
            text,
            len,
            state: State::Waiting,
            life: PhantomData,
        })
    }

    /// Whether the packet verified and its buffer now begins with the plaintext. `false` before
    /// [`open`](crate::Engine::open).
    #[inline]
    #[must_use]
    pub fn ok(&self) -> bool {
        self.state == State::Verified
    }

    /// Bytes of plaintext.
    #[inline]
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length of text, not of a collection"
    )]
    pub fn len(&self) -> usize {
        self.len as usize
    }
}

#[inline]
fn text_len(sealed: usize) -> Result<u32, JobError> {
    let len = sealed.checked_sub(TAG_LEN).ok_or(JobError::TooShort)?;
    if len > MAX_LEN {
        return Err(JobError::TooLong);
    }
    u32::try_from(len).map_err(|_| JobError::TooLong)
}

/// One packet to open in stages: verify it, decrypt its head, decide, decrypt the rest to where it
/// goes.
pub struct Sealed<'a> {
    pub(crate) key: &'a KeyBytes,
    /// The first word of the nonce as a little-endian number; zero in WireGuard.
    pub(crate) salt: u32,
    pub(crate) counter: u64,
    pub(crate) text: NonNull<u8>,
    pub(crate) len: u32,
    pub(crate) state: State,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Sealed<'a> {
    /// The same with other first four bytes of the nonce than WireGuard's zeros.
    #[inline]
    #[must_use]
    pub fn with_salt(mut self, salt: [u8; 4]) -> Self {
        self.salt = u32::from_le_bytes(salt);
        self
    }

    /// `bytes` is ciphertext and tag and nothing else, in private memory; it is only read.
    ///
    /// # Errors
    /// [`JobError::TooShort`] without room for a tag, [`JobError::TooLong`].
    #[inline]
    pub fn new(key: &'a KeyBytes, counter: u64, bytes: &'a [u8]) -> Result<Self, JobError> {
        let len = text_len(bytes.len())?;
        let text = NonNull::from(bytes).cast();
        Ok(Self {
            key,
            salt: 0,
            counter,
            text,
            len,
            state: State::Waiting,
            life: PhantomData,
        })
    }

    /// Whether [`verify`](crate::Engine::verify) found the tag to be right.
    #[inline]
    #[must_use]
    pub fn ok(&self) -> bool {
        self.state == State::Verified
    }

    /// Bytes of plaintext.
    #[inline]
    #[must_use]
    #[expect(
        clippy::len_without_is_empty,
        reason = "a length of text, not of a collection"
    )]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// A job that decrypts the text's bytes `range` to `destinations`, one behind the other, each
    /// filled to its exact end. A range that begins and ends at multiples of 64 costs the least.
    ///
    /// # Errors
    /// [`JobError::NotVerified`], or [`JobError::BadRange`] unless the range lies in the text and
    /// is as long as the destinations together.
    #[inline]
    pub fn decrypt<'d>(
        &'d self,
        range: Range<usize>,
        destinations: &'d [SegmentMut<'d>],
    ) -> Result<DecryptJob<'d>, JobError> {
        if !self.ok() {
            return Err(JobError::NotVerified);
        }
        let room = destinations
            .iter()
            .fold(0usize, |sum, segment| sum.saturating_add(segment.len));
        if range.end > self.len() || range.end.checked_sub(range.start) != Some(room) {
            return Err(JobError::BadRange);
        }
        let (Ok(start), Ok(end)) = (u32::try_from(range.start), u32::try_from(range.end)) else {
            return Err(JobError::BadRange);
        };
        Ok(DecryptJob {
            key: self.key,
            salt: self.salt,
            counter: self.counter,
            text: self.text,
            range: start..end,
            destinations,
        })
    }
}

/// A range of a verified packet's text to decrypt.
pub struct DecryptJob<'a> {
    pub(crate) key: &'a KeyBytes,
    /// The first word of the nonce as a little-endian number; zero in WireGuard.
    pub(crate) salt: u32,
    pub(crate) counter: u64,
    /// The start of the packet's text, not of the range.
    pub(crate) text: NonNull<u8>,
    pub(crate) range: Range<u32>,
    pub(crate) destinations: &'a [SegmentMut<'a>],
}
