//! The dirty log of a migration: one bit per page that we wrote.
//!
//! In: guest addresses and lengths of what was written. Out: bits in the frontend's shared map.
//! Never: a bit beyond the map; a write to guest memory that isn't logged after it was made.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use super::map::{Mapping, MappingError};

/// Bytes per bit (the protocol's VHOST_LOG_PAGE).
const PAGE: u64 = 4096;

/// A mapped log.
#[derive(Debug)]
pub(crate) struct DirtyLog {
    mapping: Mapping,
    length: u64,
}

impl DirtyLog {
    /// Maps `size` bytes from `offset` of `file`.
    pub(crate) fn new(file: &std::fs::File, offset: u64, size: u64) -> Result<Self, MappingError> {
        Ok(Self {
            mapping: Mapping::new(file, offset, size)?,
            length: size,
        })
    }

    /// Marks the pages of `length` bytes at `guest`. Pages beyond the log are left out: the
    /// frontend sized it for the memory that it has.
    #[inline]
    pub(crate) fn mark(&self, guest: u64, length: u64) {
        let Some(last) = length
            .checked_sub(1)
            .and_then(|less| guest.checked_add(less))
        else {
            return;
        };
        let start: NonNull<u8> = self.mapping.start();
        for page in guest / PAGE..=last / PAGE {
            let byte = page / 8;
            if byte >= self.length {
                return;
            }
            let Ok(step) = usize::try_from(byte) else {
                return;
            };
            let bit = 1u8 << (page % 8);
            // SAFETY: `byte` is less than the map's length, and the map is only ever accessed
            // atomically, by us and by the frontend.
            let cell = unsafe { AtomicU8::from_ptr(start.add(step).as_ptr()) };
            // Always the locked operation: a plain look first could see a bit that the frontend
            // is about to take, while our write is still on its way to memory.
            cell.fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// True once the log's file was found truncated.
    pub(crate) fn is_truncated(&self) -> bool {
        self.mapping.is_truncated()
    }
}
