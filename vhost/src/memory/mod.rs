//! The guest's memory: which addresses exist, and how to touch them.
//!
//! In: region descriptions with file descriptors (from the session thread), guest addresses
//! with lengths (from descriptors). Out: checked raw ranges.
//! Never: a reference over guest memory, an unchecked address, a mapping that outlives its
//! last ring.
//!
//! A [`GuestMemory`] is immutable. The session thread builds a new one for every change and
//! hands it to each ring under that ring's lock; the old mapping goes when the last ring let go.
//! Its regions are a collection of `vm-memory`'s; beside it stands what translation needs of
//! them, in one short table.

mod log;
mod map;
pub(crate) mod raw;
mod sigbus;

use std::ptr::NonNull;
use std::sync::Arc;

use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestRegionCollectionError,
};

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

/// One region, mapped. Its description was checked: no sum of its addresses wraps.
#[derive(Clone, Debug)]
struct Region {
    description: RegionDescription,
    mapping: Arc<Mapping>,
    /// How often it was added: QEMU before 8 adds and removes each region once per queue pair.
    references: u32,
}

impl GuestMemoryRegion for Region {
    /// What is written is logged by [`DirtyLog`], in the frontend's memory.
    type B = ();

    fn len(&self) -> u64 {
        self.description.size
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.description.guest)
    }

    fn bitmap(&self) {}
}

impl GuestMemoryRegionBytes for Region {}

/// What translation needs of a region.
#[derive(Clone, Copy, Debug)]
struct Place {
    guest: u64,
    size: u64,
    host: NonNull<u8>,
}

/// A set of regions that don't overlap, sorted by guest address.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuestMemory {
    regions: GuestRegionCollection<Region>,
    places: Vec<Place>,
}

// SAFETY: places point into the regions' mappings, which are Send and Sync and live as long as
// this; nothing here dereferences them.
unsafe impl Send for GuestMemory {}
// SAFETY: as above.
unsafe impl Sync for GuestMemory {}

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
    /// The collection has another opinion of the regions than we have.
    #[error(transparent)]
    Collection(#[from] GuestRegionCollectionError),
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
        let same = |region: &&Region| region.description == description;
        if let Some(same) = self.regions.iter().find(same)
            && same.mapping.is_of(file)
        {
            let references = same.references.saturating_add(1);
            return self.with_references(same, references);
        }
        if self.regions.num_regions() >= crate::limits::MEMORY_REGIONS_MAX {
            return Err(MemoryError::TooMany);
        }
        let overlaps = |other: &Region| {
            // Sums of accepted regions don't wrap.
            let other = other.description;
            description.guest < other.guest + other.size && other.guest < guest_end
                || description.frontend < other.frontend + other.size
                    && other.frontend < frontend_end
        };
        if self.regions.iter().any(overlaps) {
            return Err(MemoryError::Overlaps);
        }
        let region = Region {
            description,
            mapping: Arc::new(Mapping::new(file, description.offset, description.size)?),
            references: 1,
        };
        Ok(Self::of(self.regions.insert_region(Arc::new(region))?))
    }

    /// This memory without the region that `description` names (its offset is not compared:
    /// frontends leave it out).
    pub(crate) fn without_region(
        &self,
        description: RegionDescription,
    ) -> Result<Self, MemoryError> {
        let named = |region: &&Region| {
            let own = region.description;
            (own.guest, own.size, own.frontend)
                == (description.guest, description.size, description.frontend)
        };
        let region = self.regions.iter().find(named);
        let region = region.ok_or(MemoryError::Unknown)?;
        self.with_references(region, region.references - 1)
    }

    /// This memory with one of its regions referred to so often; without it, if not at all.
    fn with_references(&self, region: &Region, references: u32) -> Result<Self, MemoryError> {
        let (mut regions, _) = self
            .regions
            .remove_region(region.start_addr(), region.len())?;
        if references > 0 {
            let region = Region {
                references,
                ..region.clone()
            };
            regions = regions.insert_region(Arc::new(region))?;
        }
        Ok(Self::of(regions))
    }

    fn of(regions: GuestRegionCollection<Region>) -> Self {
        let place = |region: &Region| Place {
            guest: region.description.guest,
            size: region.description.size,
            host: region.mapping.start(),
        };
        let places = regions.iter().map(place).collect();
        Self { regions, places }
    }

    /// True if `other` has the same regions, mapped at the same place.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.places.len() == other.places.len()
            && self
                .regions
                .iter()
                .zip(other.regions.iter())
                .all(|(one, two)| Arc::ptr_eq(&one.mapping, &two.mapping))
    }

    /// True when there is no region.
    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
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
            .places
            .get(*hint)
            .and_then(|place| place.resolve(guest, length))
        {
            return Some(found);
        }
        let at = self.places.partition_point(|place| place.guest <= guest);
        let at = at.checked_sub(1)?;
        *hint = at;
        self.places[at].resolve(guest, length)
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
            let host = unsafe { region.mapping.start().add(step) };
            Some((host, own.guest + offset))
        })
    }
}

impl Place {
    #[inline]
    fn resolve(&self, guest: u64, length: u32) -> Option<(NonNull<u8>, u32)> {
        let offset = guest.wrapping_sub(self.guest);
        if offset >= self.size {
            return None;
        }
        let room = self.size - offset;
        let length = u32::try_from(room).map_or(length, |room| room.min(length));
        let step = usize::try_from(offset).ok()?;
        // SAFETY: `offset` is less than the region's size, so the sum stays inside the mapping.
        Some((unsafe { self.host.add(step) }, length))
    }
}
