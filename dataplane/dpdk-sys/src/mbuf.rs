//! One packet's buffer, and a burst of them.
//!
//! *In*: pointers from a pool or a device. *Out*: bytes, lengths, checksum flags. *Never*: a call into C for
//! what is one load or store: the hot fields are reached at offsets that the shim exports.
//!
//! ```text
//!  buf_addr        data                    data + len              buf_addr + buf_len
//!  │── headroom ───│── len ────────────────│── tailroom ───────────│
//!                  │── room ───────────────────────────────────────│
//! ```
//!
//! An [`Mbuf`] is owned and has one owner (a reference count of 1); it may move between threads with its queue,
//! but is used by one at a time. Only its first segment is reachable: devices are configured without scattering, [`Mbuf::segments`] tells of exceptions.

use std::{
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ops::{Deref, DerefMut},
    ptr::{self, NonNull},
    slice,
};

use crate::ffi;

/// Mbufs in a burst, at most.
pub const BURST: usize = 64;

/// What the NIC found out about a checksum of a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxChecksum {
    /// Nothing: verify it in software.
    Unknown,
    /// It is right.
    Good,
    /// It is wrong.
    Bad,
    /// It is wrong in the packet, but the packet's integrity was verified (a virtual device that did not
    /// bother to write it).
    Absent,
}

/// The outer IP version, for transmit offloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterIp {
    /// IPv4; `checksum` asks the NIC for its header's checksum, whose field must then be zero.
    V4 {
        /// Whether the NIC shall write the header checksum.
        checksum: bool,
    },
    /// IPv6.
    V6,
}

/// An mbuf of a pool, owned. Dropped one at a time it costs more than in an [`MbufBurst`].
#[repr(transparent)]
#[derive(Debug)]
pub struct Mbuf(NonNull<ffi::culvert_mbuf>);

impl Mbuf {
    /// Takes over an mbuf.
    ///
    /// # Safety
    ///
    /// `raw` is an mbuf with a reference count of 1 that nobody else holds.
    #[must_use]
    pub unsafe fn from_raw(raw: NonNull<RawMbuf>) -> Self {
        Self(raw.cast())
    }

    /// Gives the mbuf away without freeing it.
    #[must_use]
    pub fn into_raw(self) -> NonNull<RawMbuf> {
        ManuallyDrop::new(self).0.cast()
    }

    #[inline]
    fn load<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: the shim's offset of a field of type T (the callers below), in an mbuf that we own.
        unsafe { self.0.as_ptr().byte_add(offset as usize).cast::<T>().read() }
    }

    #[inline]
    fn store<T>(&mut self, offset: u32, value: T) {
        // SAFETY: as in `load`.
        unsafe {
            self.0
                .as_ptr()
                .byte_add(offset as usize)
                .cast::<T>()
                .write(value)
        }
    }

    #[inline]
    fn buffer(&self) -> *mut u8 {
        self.load(ffi::CULVERT_MBUF_BUF_ADDR)
    }

    #[inline]
    fn buffer_len(&self) -> u16 {
        self.load(ffi::CULVERT_MBUF_BUF_LEN)
    }

    /// Where the packet's bytes begin. Valid for [`Mbuf::room`] bytes behind it and [`Mbuf::headroom`] ahead.
    #[inline]
    #[must_use]
    pub fn data(&self) -> *mut u8 {
        // SAFETY: data_off stays within the buffer: DPDK's own invariant, and `set_headroom` checks it.
        unsafe { self.buffer().add(usize::from(self.headroom())) }
    }

    /// Bytes ahead of the packet's first.
    #[inline]
    #[must_use]
    pub fn headroom(&self) -> u16 {
        self.load(ffi::CULVERT_MBUF_DATA_OFF)
    }

    /// Bytes from the packet's first to the end of the buffer.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u16 {
        self.buffer_len().saturating_sub(self.headroom())
    }

    /// Bytes of the packet in this segment.
    #[inline]
    #[must_use]
    pub fn len(&self) -> u16 {
        self.load(ffi::CULVERT_MBUF_DATA_LEN)
    }

    /// Whether the packet has no bytes here.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the packet in all its segments.
    #[inline]
    #[must_use]
    pub fn frame_len(&self) -> u32 {
        self.load(ffi::CULVERT_MBUF_PKT_LEN)
    }

    /// Segments of the packet; anything but 1 is an exception.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> u16 {
        self.load(ffi::CULVERT_MBUF_NB_SEGS)
    }

    /// Moves the packet's start to `headroom` bytes into the buffer; the bytes stay where they are and the
    /// length as it is, cut to the room that is left.
    ///
    /// # Panics
    ///
    /// If that lies beyond the buffer.
    #[inline]
    pub fn set_headroom(&mut self, headroom: u16) {
        assert!(
            headroom <= self.buffer_len(),
            "an mbuf's data starts within its buffer"
        );
        self.store(ffi::CULVERT_MBUF_DATA_OFF, headroom);
        let len = self.len().min(self.room());
        self.set_len(len);
    }

    /// Sets the packet's length (one segment).
    ///
    /// # Panics
    ///
    /// If it is longer than the room.
    #[inline]
    pub fn set_len(&mut self, len: u16) {
        assert!(len <= self.room(), "an mbuf's data ends within its buffer");
        self.store(ffi::CULVERT_MBUF_DATA_LEN, len);
        self.store(ffi::CULVERT_MBUF_PKT_LEN, u32::from(len));
    }

    /// Puts `len` more bytes ahead of the packet and returns them; none if the headroom is too short.
    #[inline]
    pub fn prepend(&mut self, len: u16) -> Option<&mut [u8]> {
        let headroom = self.headroom().checked_sub(len)?;
        let total = self.len().checked_add(len)?;
        self.store(ffi::CULVERT_MBUF_DATA_OFF, headroom);
        self.set_len(total);
        Some(&mut self.bytes_mut()[..usize::from(len)])
    }

    /// Cuts `len` bytes off the packet's front; false if it is shorter than that.
    #[inline]
    pub fn trim_front(&mut self, len: u16) -> bool {
        let Some(rest) = self.len().checked_sub(len) else {
            return false;
        };
        self.store(ffi::CULVERT_MBUF_DATA_OFF, self.headroom() + len);
        self.set_len(rest);
        true
    }

    /// The packet's bytes (first segment).
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes from `data` lie in the buffer, which we own; pool memory is never uninitialised
        // (it comes zeroed from the system).
        unsafe { slice::from_raw_parts(self.data(), usize::from(self.len())) }
    }

    /// The packet's bytes (first segment).
    #[inline]
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and we are the only owner.
        unsafe { slice::from_raw_parts_mut(self.data(), usize::from(self.len())) }
    }

    /// The packet's bytes and the tailroom behind them.
    #[inline]
    #[must_use]
    pub fn room_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes_mut`; `room` ends with the buffer.
        unsafe { slice::from_raw_parts_mut(self.data(), usize::from(self.room())) }
    }

    /// The hash by which the NIC chose the RX queue, where it has one.
    #[inline]
    #[must_use]
    pub fn rss_hash(&self) -> u32 {
        self.load(ffi::CULVERT_MBUF_RSS_HASH)
    }

    #[inline]
    fn flags(&self) -> u64 {
        self.load(ffi::CULVERT_MBUF_OL_FLAGS)
    }

    /// What the NIC says about the IPv4 header's checksum.
    #[inline]
    #[must_use]
    pub fn rx_ip_checksum(&self) -> RxChecksum {
        let flags = self.flags() & ffi::CULVERT_RX_IP_CKSUM_MASK;
        verdict(
            flags,
            ffi::CULVERT_RX_IP_CKSUM_GOOD,
            ffi::CULVERT_RX_IP_CKSUM_BAD,
        )
    }

    /// What the NIC says about the UDP or TCP checksum.
    #[inline]
    #[must_use]
    pub fn rx_l4_checksum(&self) -> RxChecksum {
        let flags = self.flags() & ffi::CULVERT_RX_L4_CKSUM_MASK;
        verdict(
            flags,
            ffi::CULVERT_RX_L4_CKSUM_GOOD,
            ffi::CULVERT_RX_L4_CKSUM_BAD,
        )
    }

    /// Begins to fetch the packet's first bytes into the cache.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint; every address is allowed.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.data().cast_const().cast());
        }
    }

    /// Asks the NIC to complete checksums on the way out. With `udp`, the UDP checksum field must hold the
    /// pseudo-header's sum. Replaces what was asked before.
    #[inline]
    pub fn request_checksums(&mut self, l2_len: u8, l3_len: u16, ip: OuterIp, udp: bool) {
        let mut flags = match ip {
            OuterIp::V4 { checksum: true } => ffi::CULVERT_TX_IPV4 | ffi::CULVERT_TX_IP_CKSUM,
            OuterIp::V4 { checksum: false } => ffi::CULVERT_TX_IPV4,
            OuterIp::V6 => ffi::CULVERT_TX_IPV6,
        };
        if udp {
            flags |= ffi::CULVERT_TX_UDP_CKSUM;
        }
        let l2 = u64::from(l2_len) & ((1 << ffi::CULVERT_L2_LEN_BITS) - 1);
        let l3 = u64::from(l3_len) & ((1 << ffi::CULVERT_L3_LEN_BITS) - 1);
        let lengths = l2 << ffi::CULVERT_L2_LEN_SHIFT | l3 << ffi::CULVERT_L3_LEN_SHIFT;
        self.store(ffi::CULVERT_MBUF_TX_OFFLOAD, lengths);
        self.store(ffi::CULVERT_MBUF_OL_FLAGS, flags);
    }

    /// Takes back what a received packet's flags say or a request asked, as for a packet that is sent on
    /// with checksums in place.
    #[inline]
    pub fn clear_offloads(&mut self) {
        self.store(ffi::CULVERT_MBUF_OL_FLAGS, 0_u64);
        self.store(ffi::CULVERT_MBUF_TX_OFFLOAD, 0_u64);
    }
}

#[inline]
fn verdict(flags: u64, good: u64, bad: u64) -> RxChecksum {
    // "None" sets both bits.
    match (flags & good != 0, flags & bad != 0) {
        (false, false) => RxChecksum::Unknown,
        (true, false) => RxChecksum::Good,
        (false, true) => RxChecksum::Bad,
        (true, true) => RxChecksum::Absent,
    }
}

// SAFETY: a pool takes an mbuf back from any thread (a registered one is only faster), and an owned mbuf is
// reached through one owner.
unsafe impl Send for Mbuf {}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: we own it, once.
        unsafe { ffi::culvert_mbuf_free(self.0.as_ptr()) };
    }
}

/// DPDK's `struct rte_mbuf`, opaque.
pub type RawMbuf = std::ffi::c_void;

/// Up to [`BURST`] mbufs, in order. What is in it when it is dropped goes home in one call.
///
/// It is a slice of [`Mbuf`]s (`burst[i]`, `iter`, `len`, `swap`) that can grow and shrink.
pub struct MbufBurst {
    slots: [MaybeUninit<*mut ffi::culvert_mbuf>; BURST],
    len: usize,
    _owned: PhantomData<Mbuf>,
}

// SAFETY: it owns what it holds, and an Mbuf is Send.
unsafe impl Send for MbufBurst {}

impl Default for MbufBurst {
    fn default() -> Self {
        Self::new()
    }
}

impl MbufBurst {
    /// An empty burst.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self {
            slots: [const { MaybeUninit::uninit() }; BURST],
            len: 0,
            _owned: PhantomData,
        }
    }

    /// How many more mbufs fit.
    #[inline]
    #[must_use]
    pub fn vacancy(&self) -> usize {
        BURST - self.len
    }

    /// Adds an mbuf at the end.
    ///
    /// # Errors
    ///
    /// Gives it back when the burst is full.
    #[inline]
    pub fn push(&mut self, mbuf: Mbuf) -> Result<(), Mbuf> {
        if self.len == BURST {
            return Err(mbuf);
        }
        self.slots[self.len].write(ManuallyDrop::new(mbuf).0.as_ptr());
        self.len += 1;
        Ok(())
    }

    /// Takes the last mbuf out.
    #[inline]
    pub fn pop(&mut self) -> Option<Mbuf> {
        self.len = self.len.checked_sub(1)?;
        // SAFETY: slots below the old length are filled, with pointers that are not null.
        Some(Mbuf(unsafe {
            NonNull::new_unchecked(self.slots[self.len].assume_init())
        }))
    }

    /// Frees all mbufs from index `len` on, in one call.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len {
            return;
        }
        let count = self.len - len;
        self.len = len;
        // SAFETY: slots `len..len + count` are filled, and no longer ours after this.
        unsafe {
            ffi::culvert_mbuf_free_bulk(
                self.slots[len..].as_mut_ptr().cast(),
                u32::try_from(count).unwrap_or(0),
            );
        }
    }

    /// Frees all mbufs.
    #[inline]
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Takes the mbufs from index `at` on out, in order.
    #[inline]
    #[must_use]
    pub fn split_off(&mut self, at: usize) -> Self {
        let mut rest = Self::new();
        let at = at.min(self.len);
        let count = self.len - at;
        rest.slots[..count].copy_from_slice(&self.slots[at..self.len]);
        rest.len = count;
        self.len = at;
        rest
    }

    /// Takes mbuf `index` out and closes the gap with the last one.
    ///
    /// # Panics
    ///
    /// If there is no such mbuf.
    #[inline]
    pub fn swap_remove(&mut self, index: usize) -> Mbuf {
        let last = self.len - 1;
        self.swap(index, last);
        self.pop().expect("the burst had a last mbuf")
    }

    /// Keeps the mbufs that `keep` approves, in order, and frees the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&Mbuf) -> bool) {
        let mut kept = 0;
        for index in 0..self.len {
            if keep(&self[index]) {
                self.swap(kept, index);
                kept += 1;
            }
        }
        self.truncate(kept);
    }

    /// Lets `fill` write `count` pointers behind the last one; keeps them if it says so.
    pub(crate) fn fill(
        &mut self,
        count: usize,
        fill: impl FnOnce(*mut *mut ffi::culvert_mbuf) -> bool,
    ) -> bool {
        if count > self.vacancy() {
            return false;
        }
        let filled = fill(self.slots[self.len..].as_mut_ptr().cast());
        if filled {
            self.len += count;
        }
        filled
    }

    /// Lets `fill` write up to the given number of pointers and say how many.
    pub(crate) fn fill_some(
        &mut self,
        fill: impl FnOnce(*mut *mut ffi::culvert_mbuf, u16) -> u16,
    ) -> usize {
        let vacancy = u16::try_from(self.vacancy()).expect("a burst counts in u16");
        let count = fill(self.slots[self.len..].as_mut_ptr().cast(), vacancy).min(vacancy);
        self.len += usize::from(count);
        usize::from(count)
    }

    /// Lets `take` have the first mbufs and say how many it took; the rest moves up.
    pub(crate) fn take_front(
        &mut self,
        take: impl FnOnce(*mut *mut ffi::culvert_mbuf, u16) -> u16,
    ) -> usize {
        let len = u16::try_from(self.len).expect("a burst counts in u16");
        let taken = usize::from(take(self.slots.as_mut_ptr().cast(), len).min(len));
        let rest = self.len - taken;
        if rest != 0 && taken != 0 {
            // SAFETY: both ranges lie within the slots; MaybeUninit pointers are plain to copy.
            unsafe {
                ptr::copy(
                    self.slots.as_ptr().add(taken),
                    self.slots.as_mut_ptr(),
                    rest,
                )
            };
        }
        self.len = rest;
        taken
    }
}

impl Deref for MbufBurst {
    type Target = [Mbuf];

    #[inline]
    fn deref(&self) -> &[Mbuf] {
        // SAFETY: the first `len` slots are filled with pointers that are not null, and an Mbuf is one.
        unsafe { slice::from_raw_parts(self.slots.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for MbufBurst {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Mbuf] {
        // SAFETY: as in `deref`.
        unsafe { slice::from_raw_parts_mut(self.slots.as_mut_ptr().cast(), self.len) }
    }
}

impl Drop for MbufBurst {
    fn drop(&mut self) {
        self.clear();
    }
}
