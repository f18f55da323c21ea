//! The guest's memory: which addresses exist, and how to touch them.
//!
//! In: region descriptions with file descriptors (from the session thread), guest addresses
//! with lengths (from descriptors). Out: checked raw ranges.
//! Never: a reference over guest memory, an unchecked address, a mapping that outlives its
//! last ring.
//!
//! A [`GuestMemory`] is immutable. The session thread builds a new one for every change and
//! hands it to each ring under that ring's lock; the old mapping goes when the last ring let go.

mod log;
mod map;
pub(crate) mod raw;
mod sigbus;

use std::ptr::NonNull;
use std::sync::Arc;

pub(crate) use log::DirtyLog;
pub(crate) use map::{Mapping, MappingError};

/// One region as the frontend describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RegionDescription {
    /// First guest-physical address.
    pub(crate) guest: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// First address in the frontend's own space, by which rings are named.
    pub(crate) frontend: u64,
    /// Offset in the file.
    pub(crate) offset: u64,
}

#[derive(Clone, Debug)]
struct Region {
    description: RegionDescription,
    host: NonNull<u8>,
    mapping: Arc<Mapping>,
    /// How often it was added: QEMU before 8 adds and removes each region once per queue pair.
    references: u32,
}

// SAFETY: `host` points into `mapping`, which is Send and Sync and lives as long as this;
// nothing here dereferences it.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// A set of regions that don't overlap, sorted by guest address.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestMemory {
    regions: Vec<Region>,
}

/// Why a region was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// Addresses wrap around, or the region is empty.
    #[error("a memory region is empty or its addresses wrap around")]
    Wraps,
    /// Two regions share guest addresses or frontend addresses.
    #[error("memory regions overlap")]
    Overlaps,
    /// There are too many.
    #[error("more than {} memory regions", crate::limits::MEMORY_REGIONS_MAX)]
    TooMany,
    /// There is no such region to remove.
    #[error("no such memory region")]
    Unknown,
    /// The file could not be mapped.
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

impl GuestMemory {
    /// This memory with one region more, mapped from `file`.
    pub(crate) fn with_region(
        &self,
        description: RegionDescription,
        file: &std::fs::File,
    ) -> Result<Self, MemoryError> {
        let end = |start: u64| {
            start
                .checked_add(description.size)
                .ok_or(MemoryError::Wraps)
        };
        let guest_end = end(description.guest)?;
        let frontend_end = end(description.frontend)?;
        if description.size == 0 {
            return Err(MemoryError::Wraps);
        }
        let mut regions = self.regions.clone();
        if let Some(same) = regions
            .iter_mut()
            .find(|region| region.description == description)
            && same.mapping.is_of(file)
        {
            same.references = same.references.saturating_add(1);
            return Ok(Self { regions });
        }
        if self.regions.len() >= crate::limits::MEMORY_REGIONS_MAX {
            return Err(MemoryError::TooMany);
        }
        for other in self.regions.iter().map(|region| region.description) {
            // Sums of accepted regions don't wrap.
            if description.guest < other.guest + other.size && other.guest < guest_end
                || description.frontend < other.frontend + other.size
                    && other.frontend < frontend_end
            {
                return Err(MemoryError::Overlaps);
            }
        }
        let mapping = Arc::new(Mapping::new(file, description.offset, description.size)?);
        let at = regions.partition_point(|region| region.description.guest < description.guest);
        regions.insert(
            at,
            Region {
                description,
                host: mapping.start(),
                mapping,
                references: 1,
            },
        );
        Ok(Self { regions })
    }

    /// This memory without the region that `description` names (its offset is not compared:
    /// frontends leave it out).
    pub(crate) fn without_region(
        &self,
        description: RegionDescription,
    ) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        let at = regions.iter().position(|region| {
            let own = region.description;
            (own.guest, own.size, own.frontend)
                == (description.guest, description.size, description.frontend)
        });
        let at = at.ok_or(MemoryError::Unknown)?;
        regions[at].references -= 1;
        if regions[at].references == 0 {
            regions.remove(at);
        }
        Ok(Self { regions })
    }

    /// True if `other` has the same regions, mapped at the same place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.regions.len() == other.regions.len()
            && self
                .regions
                .iter()
                .zip(&other.regions)
                .all(|(one, two)| Arc::ptr_eq(&one.mapping, &two.mapping))
    }

    /// True when there is no region.
    pub(crate) fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// True when a file was truncated under one of the regions, and zero pages stand in.
    pub(crate) fn is_truncated(&self) -> bool {
        self.regions
            .iter()
            .any(|region| region.mapping.is_truncated())
    }

    /// The host address of guest address `guest`, and how many of the `length` bytes from there
    /// lie in the same region. `None` if the address lies in no region.
    ///
    /// `hint` is the index of the region that answered last.
    #[inline]
    pub(crate) fn translate(
        &self,
        guest: u64,
        length: u32,
        hint: &mut usize,
    ) -> Option<(NonNull<u8>, u32)> {
        if let Some(found) = self
            .regions
            .get(*hint)
            .and_then(|r| r.resolve(guest, length))
        {
            return Some(found);
        }
        let at = self
            .regions
            .partition_point(|region| region.description.guest <= guest);
        let at = at.checked_sub(1)?;
        *hint = at;
        self.regions[at].resolve(guest, length)
    }

    /// The host address of `length` bytes at `frontend`, an address in the frontend's space,
    /// and the guest address; `None` unless one region holds all of them.
    pub(crate) fn resolve_frontend(
        &self,
        frontend: u64,
        length: u64,
    ) -> Option<(NonNull<u8>, u64)> {
        self.regions.iter().find_map(|region| {
            let own = region.description;
            let offset = frontend.checked_sub(own.frontend)?;
            if offset >= own.size || own.size - offset < length {
                return None;
            }
            let step = usize::try_from(offset).ok()?;
            // SAFETY: `offset` is less than the region's size, so the sum stays inside the
            // mapping.
            Some((unsafe { region.host.add(step) }, own.guest + offset))
        })
    }
}

impl Region {
    #[inline]
    fn resolve(&self, guest: u64, length: u32) -> Option<(NonNull<u8>, u32)> {
        let offset = guest.wrapping_sub(self.description.guest);
        if offset >= self.description.size {
            return None;
        }
        let room = self.description.size - offset;
        let length = u32::try_from(room).map_or(length, |room| room.min(length));
        let step = usize::try_from(offset).ok()?;
        // SAFETY: `offset` is less than the region's size, so the sum stays inside the mapping.
        Some((unsafe { self.host.add(step) }, length))
    }
}
