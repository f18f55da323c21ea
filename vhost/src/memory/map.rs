//! Mapping a file of the frontend's, between two inaccessible guards.
//!
//! In: a file descriptor, an offset and a size, all hostile. Out: a [`Mapping`].
//! Never: a mapping beyond the file's end, a descriptor kept open.
//!
//! ```text
//!   reserved, no access   file pages, read and write        reserved, no access
//!  |---------------------|--- slack ---| region | slack ---|-------------------|
//!                        ^ page start  ^ start()           ^ page end
//! ```
//! Pages are the file's own (hugetlbfs: 2 MiB or more), so an offset inside a huge page works.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::{io, ptr};

use super::sigbus;

const PAGE: usize = 4096;
/// Inaccessible bytes on either side of a mapping.
const GUARD: usize = 64 * 1024;
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// A mapped file. It unmaps itself when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    reserved: NonNull<u8>,
    reserved_length: usize,
    /// Device and inode of the file.
    identity: (u64, u64),
    watch: sigbus::Watch,
}

// SAFETY: the mapping is owned, may be unmapped from any thread, and is only read and written
// through raw pointers by code that expects other writers.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Why a file could not be mapped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MappingError {
    /// Offset and size wrap around or exceed the address space.
    #[error("a memory file's offset and size wrap around")]
    Wraps,
    /// A device, pipe or socket.
    #[error("a memory descriptor is not a regular file")]
    NotAFile,
    /// The file ends before the region does.
    #[error("a memory file has {found} bytes where {expected} are needed")]
    TooShort {
        /// Bytes needed.
        expected: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// Too many mappings at once in this process.
    #[error("no place left to watch another mapping")]
    TooManyMappings,
    /// The kernel refused.
    #[error("mapping {size} bytes of guest memory: {error}")]
    System {
        /// Bytes.
        size: u64,
        /// The kernel's answer.
        error: io::Error,
    },
}

impl Mapping {
    /// Maps `size` bytes from `offset` of `file`.
    pub(crate) fn new(file: &File, offset: u64, size: u64) -> Result<Self, MappingError> {
        let system = |error| MappingError::System { size, error };
        let metadata = file.metadata().map_err(system)?;
        if !metadata.file_type().is_file() {
            return Err(MappingError::NotAFile);
        }
        let end = offset.checked_add(size).ok_or(MappingError::Wraps)?;
        if metadata.size() < end {
            return Err(MappingError::TooShort {
                expected: end,
                found: metadata.size(),
            });
        }
        let page = page_size(file).map_err(system)?;
        seal_shrinking(file);

        // 1. Whole pages around the region.
        let narrow = |value: u64| usize::try_from(value).map_err(|_| MappingError::Wraps);
        let (offset, end) = (narrow(offset)?, narrow(end)?);
        let page_start = offset & !(page - 1);
        let page_end = end
            .checked_next_multiple_of(page)
            .ok_or(MappingError::Wraps)?;
        let length = page_end - page_start;
        // 2. Address space for them, their alignment and the guards.
        let reserved_length = length
            .checked_add(2 * GUARD)
            .and_then(|sum| sum.checked_add(page))
            .ok_or(MappingError::Wraps)?;
        // SAFETY: a fresh anonymous mapping without access, at an address of the kernel's choice.
        let reserved = unsafe {
            libc::mmap(
                ptr::null_mut(),
                reserved_length,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        let reserved = checked(reserved).map_err(system)?;
        let base = reserved.addr().get() + GUARD;
        let skip = GUARD + (base.next_multiple_of(page) - base);
        let file_offset = libc::off_t::try_from(page_start).map_err(|_| MappingError::Wraps)?;
        // 3. The file, in the middle of the reservation.
        // SAFETY: `skip + length` fits in the reservation, which is ours alone, so MAP_FIXED
        // replaces nothing else.
        let mapped = unsafe {
            libc::mmap(
                reserved.add(skip).as_ptr().cast(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                file_offset,
            )
        };
        let mapped = checked(mapped).map_err(|error| {
            // SAFETY: the reservation is ours and nothing points into it.
            unsafe { libc::munmap(reserved.as_ptr().cast(), reserved_length) };
            system(error)
        })?;
        // SAFETY: the range was just mapped; advice changes no content. Guests' memory has no
        // place in a core dump.
        unsafe { libc::madvise(mapped.as_ptr().cast(), length, libc::MADV_DONTDUMP) };
        // 4. The watch against truncation.
        let Some(watch) = sigbus::Watch::new(mapped.addr().get(), length, page) else {
            // SAFETY: as above.
            unsafe { libc::munmap(reserved.as_ptr().cast(), reserved_length) };
            return Err(MappingError::TooManyMappings);
        };
        // SAFETY: `offset - page_start` is less than a page and the region ends by `length`.
        let start = unsafe { mapped.add(offset - page_start) };
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self {
            start,
            reserved,
            reserved_length,
            identity,
            watch,
        })
    }

    /// The first byte of the region.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// True if `file` is the one that is mapped.
    pub(crate) fn is_of(&self, file: &File) -> bool {
        file.metadata()
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }

    /// True once an access found that the file had been truncated.
    pub(crate) fn is_truncated(&self) -> bool {
        self.watch.is_hit()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // The watch ends first: once the addresses are free, they may become someone else's.
        self.watch.end();
        // SAFETY: the reservation is ours; whoever used it held the `Arc` around this.
        unsafe { libc::munmap(self.reserved.as_ptr().cast(), self.reserved_length) };
    }
}

fn checked(address: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(io::Error::last_os_error)
}

fn page_size(file: &File) -> io::Result<usize> {
    let status = rustix::fs::fstatfs(file)?;
    #[allow(
        clippy::cast_sign_loss,
        clippy::unnecessary_cast,
        reason = "the magic number's type differs by architecture; its bits are what counts"
    )]
    let is_huge = (status.f_type as u64) & 0xffff_ffff == HUGETLBFS_MAGIC;
    let size = if is_huge {
        usize::try_from(status.f_bsize).unwrap_or(PAGE)
    } else {
        PAGE
    };
    if size.is_power_of_two() {
        Ok(size.max(PAGE))
    } else {
        Ok(PAGE)
    }
}

/// Asks the kernel to refuse truncation. Not every file can be sealed; the watch is for those.
fn seal_shrinking(file: &File) {
    use rustix::fs::SealFlags;
    let _ = rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK);
}
