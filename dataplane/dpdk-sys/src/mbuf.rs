//! One packet's buffer.
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

use std::{mem::ManuallyDrop, ptr::NonNull, slice};

use crate::ffi;

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
pub struct Mbuf(pub(crate) NonNull<ffi::culvert_mbuf>);

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

    /// Makes the packet the `len` bytes from its first on and `ahead` bytes before them, and returns it; as it
    /// was if room or headroom are too short.
    #[inline]
    pub fn set_packet(&mut self, len: usize, ahead: usize) -> Option<&mut [u8]> {
        let (headroom, buffer_len) = (self.headroom(), self.buffer_len());
        let start = usize::from(headroom).checked_sub(ahead)?;
        if len > usize::from(buffer_len.saturating_sub(headroom)) {
            return None;
        }
        let (start, total) = (u16::try_from(start).ok()?, u16::try_from(len + ahead).ok()?);
        self.store(ffi::CULVERT_MBUF_DATA_OFF, start);
        self.store(ffi::CULVERT_MBUF_DATA_LEN, total);
        self.store(ffi::CULVERT_MBUF_PKT_LEN, u32::from(total));
        Some(self.bytes_mut())
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
