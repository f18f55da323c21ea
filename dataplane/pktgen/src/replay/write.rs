//! Writing frames as a capture: pcap with nanoseconds, which every tool reads.
//!
//! In: frames with times, a writer. Out: the file's bytes. Never: a file opened.

use std::io::{self, Write};

use super::LINK_ETHERNET;
use crate::limits::CAPTURE_PACKET_MAX;

/// A capture that is being written.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// That it can't be written.
    pub fn new(mut out: W) -> io::Result<Self> {
        let (magic, version) = (0xa1b2_3c4d_u32, 4 << 16 | 2);
        let header = [
            magic,
            version,
            0,
            0,
            CAPTURE_PACKET_MAX,
            u32::from(LINK_ETHERNET),
        ];
        out.write_all(&header.map(u32::to_le_bytes).concat())?;
        Ok(Self { out })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// That it can't be written.
    pub fn frame(&mut self, frame: &[u8], time_ns: u64) -> io::Result<()> {
        let len = u32::try_from(frame.len()).map_err(io::Error::other)?;
        let seconds = u32::try_from(time_ns / 1_000_000_000).map_err(io::Error::other)?;
        let fraction = u32::try_from(time_ns % 1_000_000_000).map_err(io::Error::other)?;
        self.out
            .write_all(&[seconds, fraction, len, len].map(u32::to_le_bytes).concat())?;
        self.out.write_all(frame)
    }

    /// Ends it.
    ///
    /// # Errors
    /// That the last bytes can't be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::{Capture, Room};

    #[test]
    fn what_is_written_is_read() {
        let mut writer = Writer::new(Vec::new()).unwrap();
        writer.frame(&[1; 60], 1_999_999_999).unwrap();
        writer.frame(&[2; 61], 2_000_000_007).unwrap();
        let file = writer.finish().unwrap();
        let capture = Capture::read(&mut &file[..], Room::default()).unwrap();
        assert_eq!(capture.frame(0), Some((&[1; 60][..], 0)));
        assert_eq!(capture.frame(1), Some((&[2; 61][..], 8)));
    }
}
