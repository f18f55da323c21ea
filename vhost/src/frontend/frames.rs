//! Frames to and from a backend.
//!
//! In: frames, and what the backend put into the rings. Out: the same, kicks where they are asked for.
//! Never: a wait.

use std::os::fd::{AsFd, BorrowedFd};

use culvert_wire::VnetHeader;

use crate::config::RingOptions;

use super::{Frontend, Piece, Queue, SharedMemory, TABLE};

impl Frontend {
    /// Offers all free buffers of a guest RX ring; returns their number.
    pub fn fill(&mut self, pair: u16) -> usize {
        let queue = &mut self.queues[2 * usize::from(pair)];
        let mut filled = 0;
        while let Some(id) = queue.driver.next_id(1) {
            let guest = queue.buffers + u64::from(id) * queue.stride;
            let piece = Piece {
                guest,
                len: self.config.buffer_len,
                is_writable: true,
            };
            if queue.driver.add(&self.memory, &[piece], None).is_none() {
                break;
            }
            filled += 1;
        }
        if queue.driver.needs_kick(&self.memory) {
            signal(queue.kick.as_fd());
        }
        filled
    }

    /// Takes one frame that came, and offers its buffers again.
    ///
    /// # Panics
    /// If the backend breaks the rules of the ring.
    pub fn receive_frame(&mut self, pair: u16) -> Option<(VnetHeader, Vec<u8>)> {
        let index = 2 * usize::from(pair);
        let is_mergeable = self.features & RingOptions::MRG_RXBUF.bits() != 0;
        let queue = &mut self.queues[index];
        let (id, written) = queue.driver.collect(&self.memory)?;
        let mut bytes = read_buffer(&self.memory, queue, id, written);
        if bytes.len() < VnetHeader::LEN {
            // An empty buffer came back: the backend could not use it.
            self.fill(pair);
            return None;
        }
        let header: [u8; VnetHeader::LEN] =
            bytes[..VnetHeader::LEN].try_into().expect("twelve bytes");
        let header = VnetHeader::read(&header);
        let more = if is_mergeable {
            header.num_buffers - 1
        } else {
            0
        };
        for _ in 0..more {
            let (id, written) = queue
                .driver
                .collect(&self.memory)
                .expect("all buffers of a frame come back at once");
            bytes.extend(read_buffer(&self.memory, queue, id, written));
        }
        bytes.drain(..VnetHeader::LEN);
        self.fill(pair);
        Some((header, bytes))
    }

    /// Sends one frame; false if the guest TX ring is full.
    ///
    /// # Panics
    /// If the frame is longer than any.
    pub fn send_frame(&mut self, pair: u16, vnet: &VnetHeader, frame: &[u8]) -> bool {
        let mut bytes = vnet.write().to_vec();
        bytes.extend(frame);
        self.send_bytes(pair, &bytes)
    }

    /// Sends bytes as they are: header and frame together.
    ///
    /// # Panics
    /// If there are more than any frame has.
    pub fn send_bytes(&mut self, pair: u16, bytes: &[u8]) -> bool {
        assert!(
            bytes.len() <= self.config.frame_room as usize,
            "a frame that fits its buffer"
        );
        self.reap(pair);
        let queue = &mut self.queues[2 * usize::from(pair) + 1];
        let pieces = bytes.len().div_ceil(self.config.piece_len as usize).max(1);
        let entries = if self.config.indirect { 1 } else { pieces };
        let Some(id) = u16::try_from(entries)
            .ok()
            .and_then(|n| queue.driver.next_id(n))
        else {
            return false;
        };
        let guest = queue.buffers + u64::from(id) * queue.stride;
        self.memory.write(guest, bytes);
        let step = self.config.piece_len;
        let total = u32::try_from(bytes.len()).expect("a short frame");
        let pieces: Vec<Piece> = (0..u32::try_from(pieces).expect("few pieces"))
            .map(|index| Piece {
                guest: guest + u64::from(index * step),
                len: step.min(total - index * step),
                is_writable: false,
            })
            .collect();
        let table = self
            .config
            .indirect
            .then_some(queue.table + u64::from(id) * TABLE);
        let added = queue.driver.add(&self.memory, &pieces, table);
        if queue.driver.needs_kick(&self.memory) {
            signal(queue.kick.as_fd());
        }
        added.is_some()
    }

    /// Takes back the buffers of frames that were sent; returns their number.
    pub fn reap(&mut self, pair: u16) -> usize {
        let queue = &mut self.queues[2 * usize::from(pair) + 1];
        std::iter::from_fn(|| queue.driver.collect(&self.memory)).count()
    }

    /// The descriptor by which a ring is kicked.
    pub fn kick_fd(&self, index: usize) -> BorrowedFd<'_> {
        self.queues[index].kick.as_fd()
    }

    /// The descriptor by which a ring calls.
    pub fn call_fd(&self, index: usize) -> BorrowedFd<'_> {
        self.queues[index].call.as_fd()
    }

    /// Kicks a ring, asked for or not.
    pub fn kick(&self, index: usize) {
        signal(self.queues[index].kick.as_fd());
    }

    /// Takes the calls that a ring got; returns their number.
    pub fn take_calls(&self, index: usize) -> u64 {
        let mut count = [0u8; 8];
        match rustix::io::read(&self.queues[index].call, &mut count) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }
}

fn read_buffer(memory: &SharedMemory, queue: &Queue, id: u16, written: u32) -> Vec<u8> {
    assert!(
        u64::from(written) <= queue.stride,
        "no more written than the buffer holds"
    );
    let mut bytes = vec![0; written as usize];
    memory.read(queue.buffers + u64::from(id) * queue.stride, &mut bytes);
    bytes
}

pub(super) fn signal(fd: BorrowedFd<'_>) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}
