//! A loop in memory: what the generator does without a device.
//!
//! In: what is due. Out: the same frames, copied as into a device's buffers and out of them. Never: a device, a loss.

use culvert_pktgen::receive::Latencies;
use culvert_pktgen::{Receive, Transmit};
use culvert_wire::VnetHeader;

use super::seat::BURST;

/// Frames under way at most: as many as a guest's ring holds as a rule.
const SLOTS: usize = 256;

/// The loop.
#[derive(Debug)]
pub struct Memory {
    buffers: Vec<u8>,
    stride: usize,
    /// Length and segment size of each frame.
    frames: Vec<(usize, u16)>,
    head: usize,
    tail: usize,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    held: Option<(u16, u16)>,
    last_ns: Option<u64>,
    /// From one packet to the next, as they were sent.
    pub gaps: Latencies,
}

impl Memory {
    /// A loop for frames of `longest` bytes at most.
    #[must_use]
    pub fn new(longest: usize) -> Self {
        let stride = (longest.div_ceil(64) | 1) * 64;
        Self {
            buffers: vec![0; stride * SLOTS],
            stride,
            frames: vec![(0, 0); SLOTS],
            head: 0,
            tail: 0,
            outgoing: vec![0; longest],
            incoming: vec![0; longest],
            held: None,
            last_ns: None,
            gaps: Latencies::new(),
        }
    }

    /// Forgets the gaps so far.
    pub(super) fn begin(&mut self) {
        self.last_ns = None;
        self.gaps.clear();
    }

    /// Frames that it holds, each as long as it may be.
    pub(super) const fn room(&self) -> (usize, u32) {
        (SLOTS, u32::MAX)
    }

    /// Sends what is due; how many frames, and whether it was full.
    pub(super) fn send(&mut self, transmit: &mut Transmit, now_ns: u64) -> (usize, bool) {
        for sent in 0..BURST {
            if self.head - self.tail == SLOTS {
                return (sent, true);
            }
            let Some(due) = transmit.next(now_ns) else {
                return (sent, false);
            };
            let template = Some(due.template());
            let len = transmit.write(&due, &mut self.outgoing, self.held == template);
            self.held = template;
            let vnet = transmit.vnet(&due);
            let is_cut = vnet.gso_type != VnetHeader::GSO_NONE;
            let slot = self.head % SLOTS;
            self.frames[slot] = (len, if is_cut { vnet.gso_size } else { 0 });
            let at = slot * self.stride;
            self.buffers[at..at + len].copy_from_slice(&self.outgoing[..len]);
            self.head += 1;
            if let Some(last) = self.last_ns.replace(now_ns) {
                self.gaps.record(now_ns - last);
            }
        }
        (BURST, false)
    }

    pub(super) fn receive(&mut self, receive: &mut Receive, now_ns: u64) -> usize {
        let frames = (self.head - self.tail).min(BURST);
        for _ in 0..frames {
            let slot = self.tail % SLOTS;
            let (len, segment) = self.frames[slot];
            let at = slot * self.stride;
            self.incoming[..len].copy_from_slice(&self.buffers[at..at + len]);
            receive.frame(&self.incoming[..len], segment, now_ns);
            self.tail += 1;
        }
        frames
    }
}
