//! Captures that are sent again: pcap and pcapng.
//!
//! In: a reader, what may be kept of it. Out: Ethernet frames with their times, as many as fit. Never: a file opened, an
//! allocation that a length in the file decides on alone, a panic on whatever bytes.
//!
//! What is read is kept in memory: a disk is no source at 10 Mpps. What is more than may be kept is counted and left out,
//! from the end, and so is what no frame of Ethernet is.

mod pcap;
mod pcapng;
mod send;
mod write;

use std::io::{self, Read};
use std::ops::Range;

use crate::limits::{CAPTURE_BYTES_MAX, CAPTURE_PACKETS_MAX};

pub use self::{
    send::{Replay, Times},
    write::Writer,
};

/// Why a capture can't be replayed.
#[derive(Debug)]
pub enum ReplayError {
    /// Reading failed.
    Read(io::Error),
    /// It does not begin as a capture does.
    NoCapture,
    /// It is one, and its structure is not right.
    Malformed {
        /// Where, in bytes from its beginning.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// It has no frame of Ethernet that is whole.
    NoFrames {
        /// What it has instead, in words.
        instead: String,
    },
}

impl std::fmt::Display for ReplayError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(error) => write!(f, "the capture can't be read: {error}"),
            Self::NoCapture => {
                f.write_str("this is neither pcap nor pcapng: save it as one of them, uncompressed")
            }
            Self::Malformed { at, why } => write!(f, "the capture is damaged at byte {at}: {why}"),
            Self::NoFrames { instead } => {
                write!(f, "the capture has no whole frame of Ethernet: {instead}")
            }
        }
    }
}

impl std::error::Error for ReplayError {}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// How much of a capture is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Frames at most.
    pub frames: usize,
    /// Bytes of frames at most.
    pub bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            frames: CAPTURE_PACKETS_MAX,
            bytes: CAPTURE_BYTES_MAX,
        }
    }
}

/// Frames of a capture, in its order.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    bytes: Vec<u8>,
    frames: Vec<(Range<usize>, u64)>,
    /// What was left out.
    pub left_out: LeftOut,
}

/// What a replay does not send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Frames beyond the room there is.
    pub beyond: u64,
    /// Frames that the capture has a part of alone.
    pub cut: u64,
    /// Packets of another link layer than Ethernet.
    pub other_links: u64,
    /// Whether the file ends in the middle of something, as one does whose writer was killed.
    pub torn: bool,
}

/// One packet as a file has it.
#[derive(Clone, Copy, Debug)]
struct Packet<'b> {
    bytes: &'b [u8],
    original_len: u32,
    link: u16,
    time_ns: u64,
}

/// Ethernet, in both formats.
const LINK_ETHERNET: u16 = 1;

impl Capture {
    /// Reads a capture of either format.
    ///
    /// # Errors
    /// That it can't be read, is none, is damaged, or has nothing to send.
    pub fn read(reader: &mut dyn Read, room: Room) -> Result<Self, ReplayError> {
        let mut capture = Self::default();
        let mut source = Source {
            reader,
            at: 0,
            buffer: Vec::new(),
        };
        let magic = source
            .take(4)
            .map_err(|_| ReplayError::NoCapture)?
            .first_chunk()
            .copied();
        let magic = magic.ok_or(ReplayError::NoCapture)?;
        let ended = match magic {
            pcapng::SECTION => pcapng::read(&mut source, &mut |packet| capture.push(&packet, room)),
            _ => pcap::read(magic, &mut source, &mut |packet| {
                capture.push(&packet, room)
            }),
        };
        match ended {
            Err(ReplayError::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                capture.left_out.torn = true;
            }
            ended => ended?,
        }
        capture.finish()
    }

    fn push(&mut self, packet: &Packet<'_>, room: Room) {
        let left_out = &mut self.left_out;
        if packet.link != LINK_ETHERNET {
            left_out.other_links += 1;
        } else if packet.bytes.len() < packet.original_len as usize || packet.bytes.is_empty() {
            left_out.cut += 1;
        } else if self.frames.len() >= room.frames
            || self.bytes.len() + packet.bytes.len() > room.bytes
        {
            left_out.beyond += 1;
        } else {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(packet.bytes);
            self.frames.push((start..self.bytes.len(), packet.time_ns));
        }
    }

    fn finish(mut self) -> Result<Self, ReplayError> {
        if self.frames.is_empty() {
            let LeftOut {
                beyond,
                cut,
                other_links,
                torn,
            } = self.left_out;
            let instead = format!(
                "{cut} cut short, {other_links} of other link layers, {beyond} beyond the room{}",
                if torn {
                    ", and it ends in the middle of one"
                } else {
                    ""
                }
            );
            return Err(ReplayError::NoFrames { instead });
        }
        // From the first one's time; one that is earlier than those before it leaves with them.
        let first = self.frames[0].1;
        let mut latest = 0;
        for (_, time_ns) in &mut self.frames {
            latest = latest.max(time_ns.saturating_sub(first));
            *time_ns = latest;
        }
        Ok(self)
    }

    /// How many frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none; a capture that was read has one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// A frame, and when it was captured, in nanoseconds after the first.
    #[must_use]
    pub fn frame(&self, place: usize) -> Option<(&[u8], u64)> {
        let (range, time_ns) = self.frames.get(place)?;
        Some((&self.bytes[range.clone()], *time_ns))
    }

    /// The mean length, without check sequences: for rates.
    #[must_use]
    pub fn mean_bare_bytes(&self) -> f64 {
        self.bytes.len() as f64 / self.frames.len().max(1) as f64
    }
}

/// A reader that knows where it is, and a buffer that grows as bytes come and not before.
struct Source<'r> {
    reader: &'r mut dyn Read,
    at: u64,
    buffer: Vec<u8>,
}

impl Source<'_> {
    /// So many bytes.
    fn take(&mut self, len: u32) -> Result<&[u8], ReplayError> {
        self.buffer.clear();
        let read = self
            .reader
            .take(u64::from(len))
            .read_to_end(&mut self.buffer)?;
        self.at += read as u64;
        if read < len as usize {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(&self.buffer)
    }

    /// So many bytes, or that the file ends here.
    fn take_or_end(&mut self, len: u32) -> Result<Option<&[u8]>, ReplayError> {
        let before = self.at;
        let taken = self.take(len).map(|_| ());
        match taken {
            Err(ReplayError::Read(error))
                if error.kind() == io::ErrorKind::UnexpectedEof && self.at == before =>
            {
                Ok(None)
            }
            taken => taken.map(|()| Some(&self.buffer[..])),
        }
    }

    /// Steps over bytes.
    fn skip(&mut self, len: u32) -> Result<(), ReplayError> {
        let skipped = io::copy(&mut self.reader.take(u64::from(len)), &mut io::sink())?;
        self.at += skipped;
        match skipped < u64::from(len) {
            true => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            false => Ok(()),
        }
    }

    const fn malformed(&self, why: &'static str) -> ReplayError {
        ReplayError::Malformed { at: self.at, why }
    }
}

/// Whose order of bytes a file is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: &[u8], at: usize) -> u16 {
        let bytes = bytes
            .get(at..)
            .and_then(|it| it.first_chunk())
            .copied()
            .unwrap_or_default();
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: &[u8], at: usize) -> u32 {
        let bytes = bytes
            .get(at..)
            .and_then(|it| it.first_chunk())
            .copied()
            .unwrap_or_default();
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

#[cfg(test)]
mod tests;
