//! A guest's rings, and the connection by which a device has them.
//!
//! In: a socket, the layout and the offloads that the guest is to have. Out: bursts into the device's rings, and out of
//! them; whether it is still there. Never: two connections at once: the old one is gone, with the guest's memory, before
//! another is opened.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_pktgen::limits::SUPER_BYTES_MAX;
use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Offloads, RingOptions};
use culvert_wire::VnetHeader;

use super::seat::{BURST, Lost};
use super::stop::Stop;

/// What the guest is.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Whether its rings are packed.
    pub is_packed: bool,
    /// Entries of each ring.
    pub ring_size: u16,
    /// What it negotiates, as far as the device offers it.
    pub offloads: Offloads,
}

/// The rings.
#[derive(Debug)]
pub struct Rings {
    /// `None` after a connection that could not be made anew.
    frontend: Option<Frontend>,
    socket: PathBuf,
    config: FrontendConfig,
}

/// No device takes so long for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A cache line.
const LINE: u32 = 64;
/// What the rings themselves take, with room to spare.
const RINGS_BYTES: usize = 2 << 20;
/// Of a buffer of the guest RX ring: a frame of an ordinary MTU; longer ones take several.
const BUFFER_BYTES: u32 = 2048;

impl Rings {
    /// Connects to a device that listens, for frames of `longest` bytes at most.
    ///
    /// # Errors
    /// Nobody listens, the device refuses or says nothing, or an end was asked for.
    pub fn connect(
        socket: &Path,
        options: &GuestOptions,
        longest: usize,
        stop: &Stop,
    ) -> io::Result<Self> {
        let mut rings = Self {
            frontend: None,
            socket: socket.to_owned(),
            config: FrontendConfig {
                answer_within: Some(ANSWER),
                give_up: stop.word(),
                ..config(options, longest)
            },
        };
        rings.reconnect()?;
        Ok(rings)
    }

    /// Connects anew, with fresh rings: the device has restarted.
    ///
    /// # Errors
    /// Nobody listens, or the device refuses: then there is no connection.
    pub fn reconnect(&mut self) -> io::Result<()> {
        self.frontend = None;
        let mut frontend = Frontend::connect(&self.socket, self.config.clone())?;
        touch(&mut frontend);
        let wanted = self.config.rings & RingOptions::PACKED;
        if frontend.features() & wanted.bits() != wanted.bits() {
            let why = "the device has no packed rings: leave `--ring packed` out";
            return Err(io::Error::other(why));
        }
        self.frontend = Some(frontend);
        Ok(())
    }

    /// The offloads that were negotiated.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        let features = self.frontend.as_ref().map_or(0, Frontend::features);
        Offloads::from_bits_truncate(features)
    }

    /// Entries of a ring, and bytes of what a buffer of the guest RX ring has room for.
    #[must_use]
    pub fn room(&self) -> (usize, u32) {
        (self.config.ring_size.into(), BUFFER_BYTES)
    }

    /// Whether the device still holds the connection. A system call.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.frontend.as_ref().is_some_and(Frontend::is_connected)
    }

    /// Sends a burst of what `make` writes; how many frames, and whether the ring was full.
    #[inline]
    pub(super) fn send(
        &mut self,
        make: impl FnMut(&mut [u8]) -> Option<(VnetHeader, usize)>,
    ) -> Result<(usize, bool), Lost> {
        let frontend = self.frontend.as_mut().ok_or(Lost::Gone)?;
        Ok(frontend.send_burst(0, BURST, make)?)
    }

    /// Sends a burst of frames that are whole; how many, and whether the ring was full.
    #[inline]
    pub(super) fn send_ready<'f>(
        &mut self,
        next: impl FnMut() -> Option<&'f [u8]>,
    ) -> Result<(usize, bool), Lost> {
        let frontend = self.frontend.as_mut().ok_or(Lost::Gone)?;
        Ok(frontend.send_ready(0, BURST, next)?)
    }

    /// Takes a burst of what came; how many frames.
    #[inline]
    pub(super) fn receive(&mut self, take: impl FnMut(&VnetHeader, &[u8])) -> Result<usize, Lost> {
        let frontend = self.frontend.as_mut().ok_or(Lost::Gone)?;
        Ok(frontend.receive_burst(0, BURST, take)?)
    }
}

/// Buffers are an odd number of lines apart: powers of two would meet in the same places of every cache.
fn config(options: &GuestOptions, longest: usize) -> FrontendConfig {
    // As long as a frame may be, 64 KiB.
    let longest = u32::try_from(longest)
        .unwrap_or(u32::MAX)
        .min(SUPER_BYTES_MAX);
    let room = |len: u32| ((len + 12).div_ceil(LINE) | 1) * LINE;
    let frame_room = room(longest);
    let buffer_len = room(BUFFER_BYTES);
    let packed = if options.is_packed {
        RingOptions::PACKED
    } else {
        RingOptions::empty()
    };
    FrontendConfig {
        ring_size: options.ring_size,
        offloads: options.offloads.legal(),
        rings: RingOptions::MRG_RXBUF | RingOptions::EVENT_IDX | packed,
        buffer_len,
        frame_room,
        memory: memory_bytes(options.ring_size, frame_room + buffer_len),
        ..FrontendConfig::default()
    }
}

fn memory_bytes(ring_size: u16, buffers: u32) -> usize {
    let bytes = usize::from(ring_size) * buffers as usize + RINGS_BYTES;
    bytes.next_multiple_of(2 << 20)
}

/// Takes the guest's pages before a trial does.
fn touch(frontend: &mut Frontend) {
    let (from, size) = (frontend.memory.guest(), frontend.memory.size());
    for page in (from..from + size).step_by(4096) {
        let mut byte = [0];
        frontend.memory.read(page, &mut byte);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use super::*;

    #[test]
    fn the_old_connection_is_gone_before_another_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a.sock");
        let options = GuestOptions {
            is_packed: false,
            ring_size: 32,
            offloads: Offloads::empty(),
        };
        let config = config(&options, 60);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let frontend = Frontend::attach(ours, config.clone()).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let mut rings = Rings {
            frontend: Some(frontend),
            socket,
            config,
        };
        let device = thread::spawn(move || {
            let _anew = listener.accept().unwrap();
            theirs.set_nonblocking(true).unwrap();
            theirs.read(&mut [0])
        });
        // This device says nothing and goes: there is no connection, and no panic.
        assert!(rings.reconnect().is_err());
        assert_eq!(
            device.join().unwrap().unwrap(),
            0,
            "the old one was open still"
        );
        assert!(!rings.is_connected());
        assert_eq!(rings.send(|_| None), Err(Lost::Gone));
        assert_eq!(rings.receive(|_, _| ()), Err(Lost::Gone));
    }
}
