//! A guest's seat: the driver's side of a virtio-net device over vhost-user.
//!
//! In: a socket, the layout and the offloads that the guest is to have. Out: frames in the device's rings, and out of them.
//! Never: a kick that the device did not ask for, an interrupt, a panic whatever the device does.

use std::io;
use std::path::{Path, PathBuf};

use culvert_pktgen::limits::SUPER_BYTES_MAX;
use culvert_pktgen::{Receive, Transmit};
use culvert_vhost::frontend::{Broken, Frontend, FrontendConfig};
use culvert_vhost::{Offloads, RingOptions};
use culvert_wire::VnetHeader;

use super::seat::BURST;

/// The device is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Lost(#[from] Broken);

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

/// A guest.
#[derive(Debug)]
pub struct Guest {
    frontend: Frontend,
    socket: PathBuf,
    config: FrontendConfig,
    /// Which template's frame the outgoing buffer holds.
    held: Option<(u16, u16)>,
}

/// A cache line.
const LINE: u32 = 64;
/// What the rings themselves take, with room to spare.
const RINGS_BYTES: usize = 2 << 20;
/// Of a buffer of the guest RX ring: a frame of an ordinary MTU; longer ones take several.
const BUFFER_BYTES: u32 = 2048;

impl Guest {
    /// Connects to a device that listens, for frames of `longest` bytes at most.
    ///
    /// # Errors
    /// Nobody listens, or the device refuses.
    pub fn connect(socket: &Path, options: &GuestOptions, longest: usize) -> io::Result<Self> {
        let config = config(options, longest);
        let mut frontend = Frontend::connect(socket, config.clone())?;
        touch(&mut frontend);
        let features = frontend.features();
        let wanted = RingOptions::PACKED.bits();
        if options.is_packed && features & wanted == 0 {
            let why = "the device has no packed rings: leave `--ring packed` out";
            return Err(io::Error::other(why));
        }
        Ok(Self {
            frontend,
            socket: socket.to_owned(),
            config,
            held: None,
        })
    }

    /// Connects anew, with fresh rings: the device has restarted.
    ///
    /// # Errors
    /// Nobody listens, or the device refuses.
    pub fn reconnect(&mut self) -> io::Result<()> {
        self.frontend = Frontend::connect(&self.socket, self.config.clone())?;
        touch(&mut self.frontend);
        self.held = None;
        Ok(())
    }

    /// The offloads that were negotiated.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        Offloads::from_bits_truncate(self.frontend.features())
    }

    /// Sends what is due; whether the ring was full with more of it left.
    pub(super) fn send(&mut self, transmit: &mut Transmit, now_ns: u64) -> Result<bool, Lost> {
        let held = &mut self.held;
        let (_, is_full) = self.frontend.send_burst(0, BURST, |room| {
            let due = transmit.next(now_ns)?;
            let template = Some(due.template());
            let len = transmit.write(&due, room, *held == template);
            *held = template;
            Some((transmit.vnet(&due), len))
        })?;
        Ok(is_full && transmit.due_ns().is_some_and(|due| due <= now_ns))
    }

    /// Takes what came.
    pub(super) fn receive(&mut self, receive: &mut Receive, now_ns: u64) -> Result<usize, Lost> {
        let frames = self.frontend.receive_burst(0, BURST, |vnet, frame| {
            receive.frame(frame, segment(vnet), now_ns);
        })?;
        Ok(frames)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.frontend.is_connected()
    }
}

/// The size of a super-frame's segments; 0: it is none.
const fn segment(vnet: &VnetHeader) -> u16 {
    if vnet.gso_type == VnetHeader::GSO_NONE {
        0
    } else {
        vnet.gso_size
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
