//! A guest's place: the driver's side of a virtio-net device over vhost-user.
//!
//! In: what is due. Out: frames in a guest's rings, and out of them. Never: a kick that the device did not ask for, an
//! interrupt, a panic whatever the device does.

use std::io;
use std::path::Path;

use culvert_pktgen::{Receive, Transmit};
use culvert_vhost::Offloads;
use culvert_wire::VnetHeader;

use super::rings::{GuestOptions, Rings};
use super::seat::Lost;
use super::stop::Stop;

/// A guest.
#[derive(Debug)]
pub struct Guest {
    rings: Rings,
    /// Which template's frame the outgoing buffer holds.
    held: Option<(u16, u16)>,
}

impl Guest {
    /// Connects to a device that listens, for frames of `longest` bytes at most.
    ///
    /// # Errors
    /// As [`Rings::connect`].
    pub fn connect(
        socket: &Path,
        options: &GuestOptions,
        longest: usize,
        stop: &Stop,
    ) -> io::Result<Self> {
        Ok(Self {
            rings: Rings::connect(socket, options, longest, stop)?,
            held: None,
        })
    }

    /// Connects anew, with fresh rings: the device has restarted.
    ///
    /// # Errors
    /// Nobody listens, or the device refuses.
    pub fn reconnect(&mut self) -> io::Result<()> {
        self.held = None;
        self.rings.reconnect()
    }

    /// The offloads that were negotiated.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.rings.offloads()
    }

    /// Sends what is due; how many frames, and whether the ring was full.
    pub(super) fn send(
        &mut self,
        transmit: &mut Transmit,
        now_ns: u64,
    ) -> Result<(usize, bool), Lost> {
        let held = &mut self.held;
        self.rings.send(|room| {
            let due = transmit.next(now_ns)?;
            let template = Some(due.template());
            let len = transmit.write(&due, room, *held == template);
            *held = template;
            Some((transmit.vnet(&due), len))
        })
    }

    /// Takes what came.
    pub(super) fn receive(&mut self, receive: &mut Receive, now_ns: u64) -> Result<usize, Lost> {
        self.rings.receive(|vnet, frame| {
            receive.frame(frame, segment(vnet), now_ns);
        })
    }

    /// Frames that a ring holds, and bytes of what a buffer of the guest RX ring has room for.
    pub(super) fn room(&self) -> (usize, u32) {
        self.rings.room()
    }

    pub(super) fn is_connected(&self) -> bool {
        self.rings.is_connected()
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
