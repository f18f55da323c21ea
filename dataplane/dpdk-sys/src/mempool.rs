//! Pools of mbufs.
//!
//! *In*: a name, a count, a size. *Out*: mbufs in bulk. *Never*: growth: a pool that is empty says so.
//!
//! A pool is freed only by [`Mempool::free`]; a dropped one stays until the process ends, because a device or
//! a worker may still hold its mbufs.

use std::{ffi::CString, ptr::NonNull};

use crate::{
    HEADROOM,
    burst::MbufBurst,
    eal::{Eal, Errno, growing},
    ffi,
};

/// Why a pool was not made.
#[derive(Debug, thiserror::Error)]
pub enum MempoolError {
    /// The name can't be used.
    #[error("a pool's name has 1 to {max} bytes and no zero byte: {name:?}")]
    Name {
        /// The name given.
        name: String,
        /// The limit.
        max: usize,
    },
    /// DPDK refused.
    #[error(
        "a pool {name:?} of {count} buffers of {room} bytes ({needed_mb} MiB) could not be made: {error}.\n\
         If memory is short, raise DPDK's memory (EAL -m) or reserve more hugepages"
    )]
    Create {
        /// The pool's name.
        name: String,
        /// Buffers asked for.
        count: u32,
        /// Bytes per buffer after the headroom.
        room: u16,
        /// About how much memory that is.
        needed_mb: u64,
        /// What DPDK answered.
        error: Errno,
    },
}

/// DPDK's SOCKET_ID_ANY.
const ANY_NODE: i32 = -1;

/// A pool of mbufs of one size. Any thread may allocate from it and give back to it.
#[derive(Debug)]
pub struct Mempool {
    raw: NonNull<ffi::culvert_mempool>,
    name: String,
    count: u32,
    room: u16,
}

// SAFETY: DPDK's mempools are made for concurrent use; the fields beside the pointer never change.
unsafe impl Send for Mempool {}
// SAFETY: as above.
unsafe impl Sync for Mempool {}

impl Mempool {
    /// Makes a pool of `count` mbufs (2^n − 1 uses memory best) with `room` bytes after the headroom, and with
    /// up to `cache` mbufs kept for each registered thread.
    ///
    /// A pool that must not run dry needs `cache × 1.5` mbufs per thread above what is in flight.
    ///
    /// # Errors
    ///
    /// [`MempoolError`]: a bad or taken name, or too little memory.
    pub fn new(
        eal: Eal,
        name: &str,
        count: u32,
        cache: u32,
        room: u16,
    ) -> Result<Self, MempoolError> {
        Self::on(ANY_NODE, eal, name, count, cache, room)
    }

    /// The same in memory of a NUMA node, or of another one if that has too little.
    ///
    /// # Errors
    ///
    /// As [`Mempool::new`]'s.
    pub fn near(
        node: Option<u32>,
        eal: Eal,
        name: &str,
        count: u32,
        cache: u32,
        room: u16,
    ) -> Result<Self, MempoolError> {
        let node = node.and_then(|node| i32::try_from(node).ok());
        let there = node.and_then(|node| Self::on(node, eal, name, count, cache, room).ok());
        there.map_or_else(|| Self::new(eal, name, count, cache, room), Ok)
    }

    fn on(
        node: i32,
        _eal: Eal,
        name: &str,
        count: u32,
        cache: u32,
        room: u16,
    ) -> Result<Self, MempoolError> {
        let max = ffi::CULVERT_MEMPOOL_NAME_MAX as usize;
        let c_name = CString::new(name)
            .ok()
            .filter(|text| (1..=max).contains(&text.as_bytes().len()))
            .ok_or_else(|| MempoolError::Name {
                name: name.to_owned(),
                max,
            })?;
        // DPDK refuses a cache that could hold more than the pool has.
        let cache = cache.min(ffi::CULVERT_MEMPOOL_CACHE_MAX).min(count * 2 / 3);
        let mut error = 0;
        let pool = room.checked_add(HEADROOM).and_then(|data_room| {
            // SAFETY: EAL runs; the name is a C string that DPDK copies.
            NonNull::new(growing(|| unsafe {
                ffi::culvert_mempool_create(
                    c_name.as_ptr(),
                    count,
                    cache,
                    data_room,
                    node,
                    &raw mut error,
                )
            }))
        });
        pool.map(|raw| Self {
            raw,
            name: name.to_owned(),
            count,
            room,
        })
        .ok_or_else(|| MempoolError::Create {
            name: name.to_owned(),
            count,
            room,
            needed_mb: (u64::from(count) * (u64::from(room) + 384)) >> 20,
            error: if error == 0 {
                Errno(libc::EINVAL)
            } else {
                Errno::from_return(error)
            },
        })
    }

    /// Adds `count` fresh mbufs to the burst: all of them or none. Fresh means: empty, with the whole
    /// headroom ahead of the data.
    #[must_use]
    pub fn alloc(&self, burst: &mut MbufBurst, count: usize) -> bool {
        // SAFETY: the burst hands `count` writable slots or refuses; the call fills all or none.
        burst.fill(count, |slots| unsafe {
            ffi::culvert_mbuf_alloc_bulk(
                self.raw.as_ptr(),
                slots,
                u32::try_from(count).unwrap_or(u32::MAX),
            ) == 0
        })
    }

    /// Name of the pool.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Mbufs in all.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of an mbuf after its headroom.
    #[must_use]
    pub fn room(&self) -> u16 {
        self.room
    }

    /// Mbufs that are free, threads' caches included. It looks at every cache: not for the hot path.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { ffi::culvert_mempool_available(self.raw.as_ptr()) }
    }

    /// Mbufs that somebody holds. Not for the hot path.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        // SAFETY: the pool lives.
        unsafe { ffi::culvert_mempool_in_use(self.raw.as_ptr()) }
    }

    /// Frees the pool's memory, if every mbuf has come home.
    ///
    /// # Errors
    ///
    /// Gives the pool back while mbufs are out.
    ///
    /// # Safety
    ///
    /// No device is configured with this pool, and no thread is giving an mbuf back to it just now: the count
    /// may say so a moment before the mbuf is put down.
    pub unsafe fn free(self) -> Result<(), Self> {
        if self.in_use() != 0 {
            return Err(self);
        }
        // SAFETY: nobody holds an mbuf, and the caller vouches for devices and threads.
        unsafe { ffi::culvert_mempool_free(self.raw.as_ptr()) };
        Ok(())
    }

    pub(crate) fn raw(&self) -> *mut ffi::culvert_mempool {
        self.raw.as_ptr()
    }
}
