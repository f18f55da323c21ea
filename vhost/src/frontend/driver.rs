//! The driver's side of a ring: split (virtio 1.2, section 2.7) and packed (section 2.8).
//!
//! In: chains of guest ranges. Out: chains that the device gave back.
//! Never: a socket; an allocation per chain of one piece. The layouts are written from the specification, not shared with the
//! backend's, so that each checks the other.

use std::collections::VecDeque;
use std::sync::atomic::{Ordering, fence};

use super::memory::SharedMemory;

/// What a device did that the rules of a ring forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device broke the rules of a ring: {0}")]
pub struct Broken(pub(super) &'static str);

/// One piece of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Guest address.
    pub guest: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub is_writable: bool,
}

/// Where a ring lies, by guest address.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// Descriptor table, or descriptor ring.
    pub descriptors: u64,
    /// Available ring, or the driver's event area.
    pub driver: u64,
    /// Used ring, or the device's event area.
    pub device: u64,
}

/// A ring as its driver sees it.
#[derive(Debug)]
pub struct Driver {
    areas: Areas,
    size: u16,
    is_packed: bool,
    has_event_idx: bool,
    /// Chain ids that are free; descriptors of a split ring.
    free: Vec<u16>,
    /// Entries that a chain occupies, by its id; 0 if it isn't out.
    entries: Vec<u16>,
    /// Descriptors of a split chain beyond its head, by head.
    tails: Vec<Vec<u16>>,
    room: u16,
    /// Split: free-running index. Packed: position.
    available: u16,
    available_wrap: bool,
    used: u16,
    used_wrap: bool,
    /// Chains added since the last look whether to kick.
    added: u16,
    /// IN_ORDER was negotiated: one used descriptor of a packed ring may stand for several
    /// chains.
    is_in_order: bool,
    /// The chains that are out, in the order in which they were added.
    order: VecDeque<u16>,
    /// In order: the last chain that the used descriptor at hand stands for.
    batch: Option<u16>,
    /// Packed: the flags that make what was laid out available, and where they go.
    unpublished: Option<(u64, u16)>,
}

impl Driver {
    /// A fresh ring of `size` entries in `memory`.
    pub fn new(memory: &mut SharedMemory, size: u16, is_packed: bool, has_event_idx: bool) -> Self {
        let entries = u64::from(size);
        let areas = Areas {
            descriptors: memory.take(16 * entries, 4096),
            driver: memory.take(6 + 2 * entries, 4096),
            device: memory.take(6 + 8 * entries, 4096),
        };
        let mut driver = Self {
            areas,
            size,
            is_packed,
            has_event_idx,
            free: Vec::new(),
            entries: Vec::new(),
            tails: Vec::new(),
            room: 0,
            available: 0,
            available_wrap: true,
            used: 0,
            used_wrap: true,
            added: 0,
            is_in_order: false,
            order: VecDeque::new(),
            batch: None,
            unpublished: None,
        };
        driver.reset(memory);
        driver
    }

    /// The same ring with IN_ORDER negotiated.
    #[must_use]
    pub fn in_order(mut self, is_in_order: bool) -> Self {
        self.is_in_order = is_in_order;
        self
    }

    /// Starts over, as a rebooted guest does.
    pub fn reset(&mut self, memory: &SharedMemory) {
        memory.write(
            self.areas.descriptors,
            &vec![0; 16 * usize::from(self.size)],
        );
        memory.write(self.areas.driver, &vec![0; 6 + 2 * usize::from(self.size)]);
        memory.write(self.areas.device, &vec![0; 6 + 8 * usize::from(self.size)]);
        self.free = (0..self.size).rev().collect();
        self.entries = vec![0; usize::from(self.size)];
        self.tails = vec![Vec::new(); usize::from(self.size)];
        self.room = self.size;
        (self.available, self.used, self.added) = (0, 0, 0);
        (self.batch, self.unpublished) = (None, None);
        self.order = VecDeque::with_capacity(usize::from(self.size));
        (self.available_wrap, self.used_wrap) = (true, true);
    }

    /// Where the ring lies.
    pub fn areas(&self) -> Areas {
        self.areas
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The position that SET_VRING_BASE tells a backend for a ring that starts fresh.
    pub fn first_base(&self) -> u32 {
        if self.is_packed { 0x8000_8000 } else { 0 }
    }

    /// The id that the next chain will have, if there is room for `entries` entries.
    pub fn next_id(&self, entries: u16) -> Option<u16> {
        if self.room < entries {
            None
        } else {
            self.free.last().copied()
        }
    }

    /// Makes a chain available, as [`Driver::lay`] and [`Driver::publish`] do.
    ///
    /// # Panics
    /// If `pieces` is empty.
    pub fn add(
        &mut self,
        memory: &SharedMemory,
        pieces: &[Piece],
        table: Option<u64>,
    ) -> Option<u16> {
        let id = self.lay(memory, pieces, table)?;
        self.publish(memory);
        Some(id)
    }

    /// Lays a chain out that the device sees when [`Driver::publish`] is called. `table`, if given, is guest memory for an
    /// indirect table. Returns its id; `None` without room.
    ///
    /// # Panics
    /// If `pieces` is empty.
    pub fn lay(
        &mut self,
        memory: &SharedMemory,
        pieces: &[Piece],
        table: Option<u64>,
    ) -> Option<u16> {
        assert!(!pieces.is_empty(), "a chain has pieces");
        let entries = if table.is_some() {
            1
        } else {
            u16::try_from(pieces.len()).ok()?
        };
        if self.room < entries {
            return None;
        }
        let id = self.free.pop()?;
        if self.is_packed {
            self.add_packed(memory, id, pieces, table, entries);
        } else {
            self.add_split(memory, id, pieces, table);
        }
        self.entries[usize::from(id)] = entries;
        self.order.push_back(id);
        self.room -= entries;
        self.added += if self.is_packed { entries } else { 1 };
        Some(id)
    }

    fn add_split(&mut self, memory: &SharedMemory, id: u16, pieces: &[Piece], table: Option<u64>) {
        if let Some(table) = table {
            for (piece, index) in pieces.iter().zip(0u16..) {
                let is_last = usize::from(index) + 1 == pieces.len();
                let at = table + 16 * u64::from(index);
                write_split(
                    memory,
                    at,
                    piece,
                    if is_last { None } else { Some(index + 1) },
                );
            }
            let length = 16 * pieces.len();
            self.write_indirect(
                memory,
                self.areas.descriptors + 16 * u64::from(id),
                table,
                length,
                0,
            );
        } else {
            let tail: Vec<u16> = pieces[1..]
                .iter()
                .map(|_| self.free.pop().expect("room was checked"))
                .collect();
            let indices = std::iter::once(id).chain(tail.iter().copied());
            let next = tail.iter().copied().map(Some).chain([None]);
            for ((piece, index), next) in pieces.iter().zip(indices).zip(next) {
                let at = self.areas.descriptors + 16 * u64::from(index);
                write_split(memory, at, piece, next);
            }
            self.tails[usize::from(id)] = tail;
        }
        let slot = u64::from(self.available % self.size);
        memory.write(self.areas.driver + 4 + 2 * slot, &id.to_le_bytes());
        self.available = self.available.wrapping_add(1);
    }

    /// Makes available what was laid out: one store for all of it.
    pub fn publish(&mut self, memory: &SharedMemory) {
        if !self.is_packed {
            memory.store(self.areas.driver + 2, self.available);
        } else if let Some((at, flags)) = self.unpublished.take() {
            memory.store(at, flags);
        }
    }

    fn write_indirect(&self, memory: &SharedMemory, at: u64, table: u64, length: usize, last: u16) {
        let mut bytes = [0u8; 16];
        bytes[..8].copy_from_slice(&table.to_le_bytes());
        bytes[8..12].copy_from_slice(&u32::try_from(length).expect("a short table").to_le_bytes());
        bytes[12..14].copy_from_slice(&4u16.to_le_bytes());
        bytes[14..].copy_from_slice(&last.to_le_bytes());
        memory.write(at, &bytes);
    }

    fn add_packed(
        &mut self,
        memory: &SharedMemory,
        id: u16,
        pieces: &[Piece],
        table: Option<u64>,
        entries: u16,
    ) {
        let whole;
        let pieces = if let Some(table) = table {
            for (piece, index) in pieces.iter().zip(0u64..) {
                let flags = if piece.is_writable { 2 } else { 0 };
                memory.write(
                    table + 16 * index,
                    &packed(piece.guest, piece.len, 0, flags),
                );
            }
            let len = u32::try_from(16 * pieces.len()).expect("a short table");
            whole = [Piece {
                guest: table,
                len,
                is_writable: false,
            }];
            &whole[..]
        } else {
            pieces
        };
        let (mut position, mut wrap) = (self.available, self.available_wrap);
        let mut head = None;
        for (index, piece) in pieces.iter().enumerate() {
            let mut flags = if wrap { 1 << 7 } else { 1 << 15 };
            flags |= if piece.is_writable { 2 } else { 0 };
            flags |= if index + 1 < pieces.len() { 1 } else { 0 };
            flags |= if table.is_some() { 4 } else { 0 };
            let at = self.areas.descriptors + 16 * u64::from(position);
            memory.write(at, &packed(piece.guest, piece.len, id, flags)[..14]);
            if index == 0 {
                head = Some((at, flags));
            } else {
                memory.store(at + 14, flags);
            }
            position += 1;
            if position == self.size {
                (position, wrap) = (0, !wrap);
            }
        }
        // The head's flags last: they make the chain available, and those of the first chain all behind it.
        let (at, flags) = head.expect("a chain has pieces");
        match self.unpublished {
            Some(_) => memory.store(at + 14, flags),
            None => self.unpublished = Some((at + 14, flags)),
        }
        debug_assert_eq!(usize::from(entries), pieces.len());
        (self.available, self.available_wrap) = (position, wrap);
    }

    /// The next chain that the device gave back: its id and the bytes written.
    ///
    /// # Panics
    /// If the device gives back what it didn't have: the check that every test runs.
    pub fn collect(&mut self, memory: &SharedMemory) -> Option<(u16, u32)> {
        match self.try_collect(memory) {
            Ok(collected) => collected,
            Err(broken) => panic!("{broken}"),
        }
    }

    /// The same of a device that may be anybody's.
    ///
    /// # Errors
    /// It gives back what it didn't have: the ring is of no use any more.
    pub fn try_collect(&mut self, memory: &SharedMemory) -> Result<Option<(u16, u32)>, Broken> {
        let used = if self.is_packed {
            self.used_packed(memory)?
        } else {
            self.used_split(memory)?
        };
        let Some((id, written)) = used else {
            return Ok(None);
        };
        let entries = match self.entries.get_mut(usize::from(id)) {
            Some(entries) if *entries > 0 => std::mem::take(entries),
            Some(_) | None => return Err(Broken("a chain came back that was not out")),
        };
        // Mostly it is the oldest.
        if self.order.front() == Some(&id) {
            self.order.pop_front();
        } else {
            self.order.retain(|&other| other != id);
        }
        if self.is_packed {
            self.used += entries;
            if self.used >= self.size {
                (self.used, self.used_wrap) = (self.used - self.size, !self.used_wrap);
            }
        } else {
            self.used = self.used.wrapping_add(1);
        }
        let tail = std::mem::take(&mut self.tails[usize::from(id)]);
        self.free.extend(tail);
        self.free.push(id);
        self.room += entries;
        Ok(Some((id, written)))
    }

    fn used_split(&self, memory: &SharedMemory) -> Result<Option<(u16, u32)>, Broken> {
        if memory.load(self.areas.device + 2) == self.used {
            return Ok(None);
        }
        let mut bytes = [0u8; 8];
        let slot = u64::from(self.used % self.size);
        memory.read(self.areas.device + 4 + 8 * slot, &mut bytes);
        let word = u64::from_le_bytes(bytes);
        // The id in the low half, what was written in the high one.
        let (id, written) = (word & 0xffff_ffff, word >> 32);
        let id = u16::try_from(id).map_err(|_| Broken("a chain with an id that no chain has"))?;
        let written = u32::try_from(written).unwrap_or(u32::MAX);
        Ok(Some((id, written)))
    }

    fn used_packed(&mut self, memory: &SharedMemory) -> Result<Option<(u16, u32)>, Broken> {
        if let Some(last) = self.batch {
            return self.next_of_batch(last);
        }
        let at = self.areas.descriptors + 16 * u64::from(self.used);
        let flags = memory.load(at + 14);
        let is_used = (flags >> 15 & 1 != 0) == self.used_wrap;
        let is_available = (flags >> 7 & 1 != 0) == self.used_wrap;
        if !(is_used && is_available) {
            return Ok(None);
        }
        let mut bytes = [0u8; 6];
        memory.read(at + 8, &mut bytes);
        let [a, b, c, d, low, high] = bytes;
        let written = u32::from_le_bytes([a, b, c, d]);
        let id = u16::from_le_bytes([low, high]);
        if self.is_in_order && self.order.front() != Some(&id) {
            if written != 0 {
                return Err(Broken("a batch of buffers that were to be written"));
            }
            if !self.order.contains(&id) {
                return Err(Broken("a chain came back that was not out"));
            }
            return self.next_of_batch(id);
        }
        Ok(Some((id, written)))
    }

    /// The oldest chain that is out, where a used descriptor stands for all up to `last`, which is.
    fn next_of_batch(&mut self, last: u16) -> Result<Option<(u16, u32)>, Broken> {
        let next = self.order.front().copied();
        let next = next.ok_or(Broken("a chain came back, and none was out"))?;
        self.batch = (next != last).then_some(last);
        Ok(Some((next, 0)))
    }

    /// True if the device wants a kick for what was added since the last call.
    pub fn needs_kick(&mut self, memory: &SharedMemory) -> bool {
        fence(Ordering::SeqCst);
        let added = std::mem::take(&mut self.added);
        let new = self.available;
        let old = new.wrapping_sub(added);
        if added == 0 {
            return false;
        }
        let passed = |wanted: u16| new.wrapping_sub(wanted).wrapping_sub(1) < added;
        if self.is_packed {
            let word = memory.load(self.areas.device);
            match memory.load(self.areas.device + 2) {
                0 => true,
                2 if self.has_event_idx => {
                    let mut wanted = word & 0x7fff;
                    if (word >> 15 != 0) != self.available_wrap {
                        wanted = wanted.wrapping_sub(self.size);
                    }
                    let _ = old;
                    passed(wanted)
                }
                _ => false,
            }
        } else if self.has_event_idx {
            passed(memory.load(self.areas.device + 4 + 8 * u64::from(self.size)))
        } else {
            memory.load(self.areas.device) & 1 == 0
        }
    }

    /// Asks the device to call for the next chain that it gives back (or not to).
    pub fn set_calls(&mut self, memory: &SharedMemory, wanted: bool) {
        if self.is_packed {
            memory.store(self.areas.driver + 2, u16::from(!wanted));
        } else if self.has_event_idx {
            let event = if wanted {
                self.used
            } else {
                self.used.wrapping_sub(1)
            };
            memory.store(self.areas.driver + 4 + 2 * u64::from(self.size), event);
        } else {
            memory.store(self.areas.driver, u16::from(!wanted));
        }
        fence(Ordering::SeqCst);
    }

    /// Chains that the device has.
    pub fn outstanding(&self) -> usize {
        self.entries.iter().filter(|&&entries| entries > 0).count()
    }
}

fn write_split(memory: &SharedMemory, at: u64, piece: &Piece, next: Option<u16>) {
    let mut bytes = [0u8; 16];
    let flags = u16::from(next.is_some()) | if piece.is_writable { 2 } else { 0 };
    bytes[..8].copy_from_slice(&piece.guest.to_le_bytes());
    bytes[8..12].copy_from_slice(&piece.len.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..].copy_from_slice(&next.unwrap_or(0).to_le_bytes());
    memory.write(at, &bytes);
}

fn packed(guest: u64, len: u32, id: u16, flags: u16) -> [u8; 16] {
    let mut bytes = [0u8; 16];
    bytes[..8].copy_from_slice(&guest.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[12..14].copy_from_slice(&id.to_le_bytes());
    bytes[14..].copy_from_slice(&flags.to_le_bytes());
    bytes
}
