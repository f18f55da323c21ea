//! The virtio-net header: offload metadata ahead of a frame (virtio 1.2, section 5.1.6).
//!
//! In: the 12 bytes a guest wrote, or fields we chose. Out: typed fields, or 12 bytes.
//! Never: trust in any of it; `segment` checks every field against its own parse.

/// Offload metadata of one frame, in the layout of VIRTIO_F_VERSION_1.
///
/// All fields are in host order here and little-endian on the ring. Offsets count from
/// the frame's first byte (the Ethernet header).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// [`NEEDS_CSUM`](Self::NEEDS_CSUM), [`DATA_VALID`](Self::DATA_VALID).
    pub flags: u8,
    /// One of the `GSO_*` kinds, with [`GSO_ECN`](Self::GSO_ECN) as a modifier.
    pub gso_type: u8,
    /// Length of all headers; a hint from a guest, exact from us.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where, after `csum_start`, the checksum field lies.
    pub csum_offset: u16,
    /// Buffers that the frame occupies in the guest RX ring (written by the port).
    pub num_buffers: u16,
}

impl VnetHeader {
    /// Bytes on the ring.
    pub const LEN: usize = 12;

    /// `flags`: the checksum is partial and must be completed.
    pub const NEEDS_CSUM: u8 = 1;
    /// `flags`: the checksum has been verified.
    pub const DATA_VALID: u8 = 2;

    /// `gso_type`: an ordinary frame.
    pub const GSO_NONE: u8 = 0;
    /// `gso_type`: TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// `gso_type`: UDP fragmentation (UFO).
    pub const GSO_UDP: u8 = 3;
    /// `gso_type`: TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// `gso_type`: UDP segmentation (USO), over IPv4 or IPv6.
    pub const GSO_UDP_L4: u8 = 5;
    /// `gso_type` modifier: the TCP segment carries CWR.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the ring's bytes.
    #[inline]
    pub const fn read(bytes: &[u8; Self::LEN]) -> Self {
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: u16::from_le_bytes([bytes[2], bytes[3]]),
            gso_size: u16::from_le_bytes([bytes[4], bytes[5]]),
            csum_start: u16::from_le_bytes([bytes[6], bytes[7]]),
            csum_offset: u16::from_le_bytes([bytes[8], bytes[9]]),
            num_buffers: u16::from_le_bytes([bytes[10], bytes[11]]),
        }
    }

    /// The ring's bytes.
    #[inline]
    pub const fn write(&self) -> [u8; Self::LEN] {
        let hdr_len = self.hdr_len.to_le_bytes();
        let gso_size = self.gso_size.to_le_bytes();
        let csum_start = self.csum_start.to_le_bytes();
        let csum_offset = self.csum_offset.to_le_bytes();
        let num_buffers = self.num_buffers.to_le_bytes();
        [
            self.flags,
            self.gso_type,
            hdr_len[0],
            hdr_len[1],
            gso_size[0],
            gso_size[1],
            csum_start[0],
            csum_start[1],
            csum_offset[0],
            csum_offset[1],
            num_buffers[0],
            num_buffers[1],
        ]
    }

    /// The same for a frame that has `by` bytes more ahead of its headers.
    #[inline]
    #[must_use]
    pub fn moved_on(&self, by: u16) -> Self {
        self.moved(|offset| offset.saturating_add(by))
    }

    /// The same for a frame that has `by` bytes less ahead of its headers.
    #[inline]
    #[must_use]
    pub fn moved_back(&self, by: u16) -> Self {
        self.moved(|offset| offset.saturating_sub(by))
    }

    #[inline]
    fn moved(&self, shift: impl Fn(u16) -> u16) -> Self {
        let mut moved = *self;
        if self.needs_csum() {
            moved.csum_start = shift(self.csum_start);
        }
        // Of an ordinary frame it says nothing, and may be zero.
        if self.hdr_len > 0 {
            moved.hdr_len = shift(self.hdr_len);
        }
        moved
    }

    /// The kind of segmentation without its ECN modifier.
    #[inline]
    pub const fn gso_kind(&self) -> u8 {
        self.gso_type & !Self::GSO_ECN
    }

    /// True if the frame is an ordinary one (not to be segmented).
    #[inline]
    pub const fn is_plain(&self) -> bool {
        self.gso_kind() == Self::GSO_NONE
    }

    /// True if the checksum is partial.
    #[inline]
    pub const fn needs_csum(&self) -> bool {
        self.flags & Self::NEEDS_CSUM != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_round_trip_in_little_endian() {
        let bytes = [1, 0x84, 54, 0, 0x78, 0x05, 34, 0, 16, 0, 2, 1];
        let header = VnetHeader::read(&bytes);
        assert_eq!(header.gso_size, 1400);
        assert_eq!(header.num_buffers, 0x102);
        assert_eq!(header.gso_kind(), VnetHeader::GSO_TCPV6);
        assert!(header.needs_csum());
        assert_eq!(header.write(), bytes);
    }

    #[test]
    fn what_counts_from_the_frames_start_moves_with_its_headers() {
        let frame = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: VnetHeader::GSO_TCPV4,
            hdr_len: 54,
            gso_size: 1400,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 1,
        };
        let tagged = frame.moved_on(4);
        let expected = VnetHeader {
            hdr_len: 58,
            csum_start: 38,
            ..frame
        };
        assert_eq!(tagged, expected);
        assert_eq!(tagged.moved_back(4), frame);
        // What says nothing stays as it is.
        for still in [
            VnetHeader::default(),
            VnetHeader {
                flags: VnetHeader::DATA_VALID,
                ..VnetHeader::default()
            },
        ] {
            assert_eq!((still.moved_on(4), still.moved_back(4)), (still, still));
        }
        let short = VnetHeader {
            hdr_len: 3,
            csum_start: 2,
            ..frame
        }
        .moved_back(4);
        assert_eq!((short.hdr_len, short.csum_start), (0, 0));
        let far = VnetHeader {
            hdr_len: u16::MAX,
            csum_start: u16::MAX,
            ..frame
        }
        .moved_on(4);
        assert_eq!((far.hdr_len, far.csum_start), (u16::MAX, u16::MAX));
    }
}
