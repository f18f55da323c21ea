//! Where packed rings stood, kept beyond the end of this process.
//!
//! In: what a packed ring is about to give back. Out: its position after a crash at any moment.
//! Never: a position that the ring's own descriptors contradict.
//!
//! A split ring tells where it stands in `used.idx`; a packed ring tells nobody, and no VMM
//! restores it after a crash of the backend. So each packed ring has a slot in a mapped file
//! (`kill -9` loses nothing of a mapping), which is a position and a journal:
//!
//! 1. Chains to be given back are written into the journal only.
//! 2. `count` commits the journal.
//! 3. The used descriptors are written to the ring, the first one's flags last: until then the
//!    guest sees none of them.
//! 4. The position is stored, then `count` is cleared.
//!
//! A process that dies before 2 has changed nothing. One that dies later left all that is
//! needed to finish: if the first descriptor is still available, step 3 is repeated; if not,
//! the guest has seen it all.
//!
//! A store into a hole of the file on a full file system raises SIGBUS: so the file is allocated
//! when the port opens, or the port doesn't open. Split rings have no business here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use culvert_directory::Directory;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// Chains that one journal holds; more are given back in several rounds.
pub(super) const JOURNAL: usize = 240;
/// Bytes per ring.
const SLOT: usize = 4096;
/// Marks a slot whose position counts.
const VALID: u32 = 0x6376_7275;

/// One used descriptor to be.
#[derive(Debug)]
#[repr(C)]
struct Entry {
    /// The descriptor's second half: bytes written, id and flags.
    word: AtomicU64,
    /// Its index.
    index: AtomicU64,
}

/// What is kept of one ring.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Slot {
    valid: AtomicU32,
    size: AtomicU32,
    guest: AtomicU64,
    /// The position's word: index, wrap bit above.
    position: AtomicU32,
    /// The position's word after the journal.
    after: AtomicU32,
    count: AtomicU32,
    /// The descriptor that was given back last: index and wrap bit; `NONE` before the first.
    last: AtomicU32,
    last_id: AtomicU32,
    last_written: AtomicU32,
    entries: [Entry; JOURNAL],
}

const _: () = assert!(size_of::<Slot>() <= SLOT);
/// No descriptor was given back yet.
const NONE: u32 = u32::MAX;

/// A used descriptor, out of the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) index: u16,
    pub(super) flags: u16,
    pub(super) id: u16,
    pub(super) written: u32,
}

impl Given {
    /// The descriptor's second half.
    #[inline]
    pub(super) fn word(&self) -> u64 {
        u64::from(self.written) | u64::from(self.id) << 32 | u64::from(self.flags) << 48
    }
}

/// The last descriptor given back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) word: u16,
    pub(super) id: u16,
    pub(super) written: u32,
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "halves of words that were put together here"
)]
impl Slot {
    /// The kept position's word, if it is of the ring with this size and guest address.
    pub(super) fn position(&self, size: u16, guest: u64) -> Option<u16> {
        let is_same = self.valid.load(Ordering::Acquire) == VALID
            && self.size.load(Ordering::Relaxed) == u32::from(size)
            && self.guest.load(Ordering::Relaxed) == guest;
        is_same.then(|| self.position.load(Ordering::Relaxed) as u16)
    }

    /// The last descriptor given back.
    pub(super) fn last(&self) -> Option<Last> {
        let word = self.last.load(Ordering::Relaxed);
        (word != NONE).then(|| Last {
            word: word as u16,
            id: self.last_id.load(Ordering::Relaxed) as u16,
            written: self.last_written.load(Ordering::Relaxed),
        })
    }

    /// Starts keeping a ring that stands at `word`.
    pub(super) fn begin(&self, size: u16, guest: u64, word: u16) {
        self.valid.store(0, Ordering::SeqCst);
        self.size.store(size.into(), Ordering::Relaxed);
        self.guest.store(guest, Ordering::Relaxed);
        self.position.store(word.into(), Ordering::Relaxed);
        self.count.store(0, Ordering::Relaxed);
        self.last.store(NONE, Ordering::Relaxed);
        self.valid.store(VALID, Ordering::SeqCst);
    }

    /// Forgets the ring: its position was told to the frontend, which keeps it from now on.
    pub(super) fn forget(&self) {
        self.valid.store(0, Ordering::SeqCst);
    }

    /// Notes entry `at` of the journal. It counts after `commit`.
    #[inline]
    pub(super) fn note(&self, at: usize, given: Given) {
        let entry = &self.entries[at];
        entry.word.store(given.word(), Ordering::Relaxed);
        entry.index.store(given.index.into(), Ordering::Relaxed);
    }

    /// Entry `at` of the journal.
    #[inline]
    pub(super) fn noted(&self, at: usize) -> Given {
        let entry = &self.entries[at];
        let word = entry.word.load(Ordering::Relaxed);
        Given {
            index: entry.index.load(Ordering::Relaxed) as u16,
            flags: (word >> 48) as u16,
            id: (word >> 32) as u16,
            written: word as u32,
        }
    }

    /// Commits `count` entries, after which the ring stands at `after`.
    #[inline]
    pub(super) fn commit(&self, count: usize, after: u16) {
        self.after.store(after.into(), Ordering::Relaxed);
        self.count.store(count as u32, Ordering::Release);
    }

    /// The committed entries, and where the ring stands after them.
    pub(super) fn committed(&self) -> Option<(usize, u16)> {
        let count = self.count.load(Ordering::Acquire) as usize;
        let after = self.after.load(Ordering::Relaxed) as u16;
        (count > 0 && count <= JOURNAL).then_some((count, after))
    }

    /// The journal is on the ring; `last` is its last entry.
    #[inline]
    pub(super) fn done(&self, last: Last, after: u16) {
        self.last.store(last.word.into(), Ordering::Relaxed);
        self.last_id.store(last.id.into(), Ordering::Relaxed);
        self.last_written.store(last.written, Ordering::Relaxed);
        self.position.store(after.into(), Ordering::Relaxed);
        self.count.store(0, Ordering::Release);
    }
}

/// The slots of a port's rings.
#[derive(Debug)]
pub(crate) struct Keeper {
    start: NonNull<u8>,
    rings: usize,
}

// SAFETY: the mapping is owned, and everything in it is atomic.
unsafe impl Send for Keeper {}
// SAFETY: as above.
unsafe impl Sync for Keeper {}

impl Keeper {
    /// Bytes that the file has for each ring.
    pub(crate) const BYTES_PER_RING: usize = SLOT;

    /// Maps the file at `path`, or anonymous memory, which survives sessions but not the
    /// process.
    pub(crate) fn new(path: Option<&Path>, rings: usize) -> io::Result<Self> {
        let length = rings * SLOT;
        let file = path.map(|path| allocated(path, length)).transpose()?;
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: fresh mappings at addresses of the kernel's choice.
        let start = unsafe {
            match &file {
                Some(file) => rustix::mm::mmap(ptr::null_mut(), length, protection, flags, file, 0),
                None => rustix::mm::mmap_anonymous(ptr::null_mut(), length, protection, flags),
            }
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, rings })
    }

    /// The slot of a ring.
    ///
    /// # Panics
    /// If there is no such ring.
    #[inline]
    pub(super) fn slot(&self, ring: usize) -> &Slot {
        assert!(ring < self.rings, "a ring of the port");
        // SAFETY: the slot lies in the mapping, is aligned to a page, holds atomics only (for
        // which every bit pattern is a value), and lives as long as `self`.
        unsafe { self.start.add(ring * SLOT).cast::<Slot>().as_ref() }
    }

    /// Forgets a ring's position.
    pub(crate) fn forget(&self, ring: usize) {
        self.slot(ring).forget();
    }
}

/// Opens the file at `path`, or makes it, and has all of its `length` bytes allocated.
fn allocated(path: &Path, length: usize) -> io::Result<File> {
    let (directory, name) = Directory::of(path)?;
    let file = directory.file(name)?;
    match fallocate(&file, FallocateFlags::empty(), 0, length as u64) {
        Err(Errno::OPNOTSUPP) => {
            // What is written is allocated, too: what the file holds, and zeros behind that.
            let mut bytes = vec![0; length];
            let held = file.metadata()?.len().min(length as u64);
            file.read_exact_at(&mut bytes[..usize::try_from(held).unwrap_or(0)], 0)?;
            file.write_all_at(&bytes, 0)?;
        }
        other => other?,
    }
    Ok(file)
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours; references into it borrow `self`.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.rings * SLOT) };
    }
}
