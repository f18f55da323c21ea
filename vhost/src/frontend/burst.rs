//! Bursts of frames to and from a backend, as a generator needs them.
//!
//! In: whoever makes frames, whoever takes them. Out: one publication and at most one kick per burst. Never: an allocation, a
//! wait, a panic whatever the device does to its rings; a reference into guest memory, in which the device may write.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths of buffers, which have 32 bits at most"
)]

use std::os::fd::AsFd as _;

use culvert_wire::VnetHeader;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::config::RingOptions;

use super::frames::signal;
use super::{Broken, Frontend, Piece, Queue, SharedMemory};

impl Frontend {
    /// Sends up to `most` frames: `make` writes each into a buffer that holds what was written into it last, and gives its
    /// header and length; `None` ends the burst. Returns how many were sent, and whether the ring was full.
    ///
    /// # Errors
    /// The device broke the rules of the guest TX ring.
    ///
    /// # Panics
    /// If a frame is longer than the room for one.
    pub fn send_burst(
        &mut self,
        pair: u16,
        most: usize,
        mut make: impl FnMut(&mut [u8]) -> Option<(VnetHeader, usize)>,
    ) -> Result<(usize, bool), Broken> {
        let outgoing = &mut self.outgoing;
        let queue = &mut self.queues[2 * usize::from(pair) + 1];
        lay_burst(queue, &self.memory, most, |memory, guest, room| {
            let frame = &mut outgoing[..room - VnetHeader::LEN];
            let (vnet, len) = make(frame)?;
            memory.write(guest, &vnet.write());
            memory.write(guest + VnetHeader::LEN as u64, &frame[..len]);
            Some(VnetHeader::LEN + len)
        })
    }

    /// The same of frames that lie somewhere and are whole, with nothing left to the device: each is copied once.
    ///
    /// # Errors
    /// As [`Frontend::send_burst`].
    ///
    /// # Panics
    /// As [`Frontend::send_burst`].
    pub fn send_ready<'f>(
        &mut self,
        pair: u16,
        most: usize,
        mut next: impl FnMut() -> Option<&'f [u8]>,
    ) -> Result<(usize, bool), Broken> {
        let queue = &mut self.queues[2 * usize::from(pair) + 1];
        lay_burst(queue, &self.memory, most, |memory, guest, room| {
            let frame = next()?;
            let len = VnetHeader::LEN + frame.len();
            assert!(len <= room, "a frame that fits its buffer");
            memory.write(guest, &VnetHeader::default().write());
            memory.write(guest + VnetHeader::LEN as u64, frame);
            Some(len)
        })
    }

    /// Takes up to `most` frames that came, and offers their buffers again. Returns how many there were.
    ///
    /// # Errors
    /// The device broke the rules of the guest RX ring.
    pub fn receive_burst(
        &mut self,
        pair: u16,
        most: usize,
        mut take: impl FnMut(&VnetHeader, &[u8]),
    ) -> Result<usize, Broken> {
        let is_mergeable = self.features & RingOptions::MRG_RXBUF.bits() != 0;
        let queue = &mut self.queues[2 * usize::from(pair)];
        let (mut frames, mut refilled) = (0, 0);
        while frames < most {
            let mut filled = 0;
            let Some(first) = take_buffer(queue, &self.memory, &mut self.incoming, &mut filled)?
            else {
                break;
            };
            refilled += 1;
            // An empty buffer came back: the backend could not use it.
            let Some(header) = first.then(|| self.incoming.first_chunk()).flatten() else {
                continue;
            };
            let vnet = VnetHeader::read(header);
            let buffers = if is_mergeable { vnet.num_buffers } else { 1 };
            for _ in 1..buffers {
                take_buffer(queue, &self.memory, &mut self.incoming, &mut filled)?
                    .ok_or(Broken("a frame's buffers did not come at once"))?;
                refilled += 1;
            }
            take(&vnet, &self.incoming[VnetHeader::LEN..filled]);
            frames += 1;
        }
        publish(queue, &self.memory, refilled);
        Ok(frames)
    }

    /// Whether the backend still holds the connection. A system call.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let told = rustix::event::poll(&mut fds, Some(&at_once));
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        told.is_err() || !fds[0].revents().intersects(gone)
    }
}

/// Lays out up to `most` frames, each where `put` has written it: at an address with so much room; it gives the length.
fn lay_burst(
    queue: &mut Queue,
    memory: &SharedMemory,
    most: usize,
    mut put: impl FnMut(&SharedMemory, u64, usize) -> Option<usize>,
) -> Result<(usize, bool), Broken> {
    while queue.driver.try_collect(memory)?.is_some() {}
    let mut sent = 0;
    let mut is_full = false;
    while sent < most {
        let Some(id) = queue.driver.next_id(1) else {
            is_full = true;
            break;
        };
        let guest = queue.buffers + u64::from(id) * queue.stride;
        let Some(len) = put(memory, guest, queue.stride as usize) else {
            break;
        };
        let piece = Piece {
            guest,
            len: len as u32,
            is_writable: false,
        };
        let laid = queue.driver.lay(memory, &[piece], None);
        debug_assert_eq!(laid, Some(id), "there was room");
        sent += 1;
    }
    publish(queue, memory, sent);
    Ok((sent, is_full))
}

/// Copies the next buffer that came behind what is `filled`, and lays it out again. `None`: there is none; false: it holds
/// no header.
fn take_buffer(
    queue: &mut Queue,
    memory: &SharedMemory,
    scratch: &mut [u8],
    filled: &mut usize,
) -> Result<Option<bool>, Broken> {
    let Some((id, written)) = queue.driver.try_collect(memory)? else {
        return Ok(None);
    };
    let guest = queue.buffers + u64::from(id) * queue.stride;
    let written = written as usize;
    if written as u64 > queue.stride {
        return Err(Broken("more was written than a buffer holds"));
    }
    let place = scratch.get_mut(*filled..*filled + written);
    memory.read(
        guest,
        place.ok_or(Broken("a frame is longer than any may be"))?,
    );
    *filled += written;
    let piece = Piece {
        guest,
        len: queue.stride as u32,
        is_writable: true,
    };
    // Just given back, so there is room.
    queue.driver.lay(memory, &[piece], None);
    Ok(Some(*filled >= VnetHeader::LEN))
}

fn publish(queue: &mut Queue, memory: &SharedMemory, laid: usize) {
    if laid > 0 {
        queue.driver.publish(memory);
        if queue.driver.needs_kick(memory) {
            signal(queue.kick.as_fd());
        }
    }
}
