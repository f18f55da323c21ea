//! The driver's side: a VMM and its guest's driver in one, for tests, generators and fuzzing.
//!
//! In: a connected socket or a path, a choice of features. Out: frames to and from a backend,
//! and every message of the protocol by hand.
//! Never: used by the data path.
//!
//! Threads: none of its own; the caller drives it.

mod burst;
mod driver;
mod frames;
mod memory;
mod talk;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::EventfdFlags;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::config::{Offloads, PROTOCOL_FEATURES, RingOptions};
use crate::limits;
use crate::session::message::MessageReader;

pub use driver::{Areas, Broken, Driver, Piece};
pub use memory::SharedMemory;
pub use vhost::vhost_user::message::FrontendReq;

const VERSION_1: u64 = 1 << 32;
const MQ: u64 = 1 << 22;

/// Protocol features that are spoken here. Not STATUS: who has acknowledged that waits for DRIVER_OK in it, as DPDK does.
const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::RARP)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::MTU)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// What a frontend asks for.
#[derive(Clone, Debug)]
pub struct FrontendConfig {
    /// Queue pairs.
    pub queue_pairs: u16,
    /// Entries per ring.
    pub ring_size: u16,
    /// Offloads to acknowledge, as far as they are offered.
    pub offloads: Offloads,
    /// Ring options to acknowledge, as far as they are offered.
    pub rings: RingOptions,
    /// Use indirect tables for what the frontend sends.
    pub indirect: bool,
    /// Bytes of one buffer of the guest RX ring.
    pub buffer_len: u32,
    /// Longest piece of a frame that is sent.
    pub piece_len: u32,
    /// Bytes of one buffer for a frame that is sent, with its header.
    pub frame_room: u32,
    /// Bytes of guest memory.
    pub memory: usize,
    /// First guest address.
    pub guest: u64,
    /// How long an answer may take; `None`: as long as it likes.
    pub answer_within: Option<Duration>,
    /// Whether nobody wants to wait for answers any more.
    pub give_up: Arc<AtomicBool>,
}

impl Default for FrontendConfig {
    fn default() -> Self {
        Self {
            queue_pairs: 1,
            ring_size: 256,
            offloads: Offloads::all(),
            rings: RingOptions::all() - RingOptions::PACKED,
            indirect: false,
            buffer_len: 2048,
            piece_len: 65_536,
            frame_room: FRAME_ROOM,
            memory: 256 << 20,
            guest: 0x4000_0000,
            answer_within: None,
            give_up: Arc::default(),
        }
    }
}

/// One ring with its buffers.
#[derive(Debug)]
pub struct Queue {
    /// The ring.
    pub driver: Driver,
    kick: OwnedFd,
    call: OwnedFd,
    /// Guest memory, `stride` bytes per chain id, and an indirect table behind each.
    buffers: u64,
    stride: u64,
    table: u64,
}

/// A frontend with its connection and its memory.
#[derive(Debug)]
pub struct Frontend {
    stream: UnixStream,
    reader: MessageReader,
    /// The frame that was sent last in a burst, and one that came.
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    /// The guest's memory.
    pub memory: SharedMemory,
    /// Rings by vhost-user index: 2q is guest RX, 2q + 1 guest TX.
    pub queues: Vec<Queue>,
    config: FrontendConfig,
    features: u64,
    offered: u64,
}

/// Room for an indirect table per chain: of as many descriptors as a chain may have.
const TABLE: u64 = 16 * limits::CHAIN_MAX as u64;
/// Room for the longest frame with its header.
const FRAME_ROOM: u32 = 68 * 1024;

impl Frontend {
    /// Connects to a listening backend, negotiates, shares memory and starts all rings.
    ///
    /// # Errors
    /// The socket or the backend refuses.
    pub fn connect(path: &Path, config: FrontendConfig) -> io::Result<Self> {
        let mut frontend = Self::attach(UnixStream::connect(path)?, config)?;
        frontend.negotiate()?;
        frontend.share_memory()?;
        frontend.start()?;
        Ok(frontend)
    }

    /// A frontend on a connected socket that has said nothing yet.
    ///
    /// # Errors
    /// The kernel refuses memory or descriptors.
    pub fn attach(stream: UnixStream, config: FrontendConfig) -> io::Result<Self> {
        let mut memory = SharedMemory::new(config.guest, config.memory)?;
        let queues = (0..2 * config.queue_pairs)
            .map(|index| {
                let is_rx = index % 2 == 0;
                let entries = u64::from(config.ring_size);
                let driver = Driver::new(
                    &mut memory,
                    config.ring_size,
                    config.rings.contains(RingOptions::PACKED),
                    config.rings.contains(RingOptions::EVENT_IDX),
                )
                .in_order(config.rings.contains(RingOptions::IN_ORDER));
                let stride = if is_rx {
                    u64::from(config.buffer_len)
                } else {
                    u64::from(config.frame_room)
                };
                let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
                Ok(Queue {
                    driver,
                    kick: rustix::event::eventfd(0, flags)?,
                    call: rustix::event::eventfd(0, flags)?,
                    buffers: memory.take(entries * stride, 4096),
                    stride,
                    table: memory.take(if config.indirect { entries * TABLE } else { 0 }, 16),
                })
            })
            .collect::<io::Result<_>>()?;
        let reader = MessageReader::default();
        let [outgoing, incoming] = [config.frame_room, FRAME_ROOM].map(|len| vec![0; len as usize]);
        Ok(Self {
            stream,
            reader,
            outgoing,
            incoming,
            memory,
            queues,
            config,
            features: 0,
            offered: 0,
        })
    }

    /// Features that were acknowledged.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Features that the backend offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Takes another connection, as a VMM does when its backend is back; the rings stay.
    ///
    /// # Errors
    /// The socket or the backend refuses.
    pub fn reconnect(&mut self, path: &Path) -> io::Result<()> {
        self.stream = UnixStream::connect(path)?;
        self.reader = MessageReader::default();
        self.negotiate()?;
        self.share_memory()
    }

    /// Takes another connection and says nothing on it; memory and rings stay.
    pub fn reattach(&mut self, stream: UnixStream) {
        self.stream = stream;
        self.reader = MessageReader::default();
    }

    /// Asks for features and acknowledges what both sides want.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn negotiate(&mut self) -> io::Result<()> {
        self.offered = self.ask_u64(FrontendReq::GET_FEATURES)?;
        let protocol = self.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES)?;
        self.tell_u64(
            FrontendReq::SET_PROTOCOL_FEATURES,
            protocol & PROTOCOL.bits(),
        )?;
        self.tell(FrontendReq::SET_OWNER, &[], &[])?;
        let wanted = self.config.offloads.bits() | self.config.rings.bits() | VERSION_1 | MQ;
        self.set_features(wanted & self.offered | PROTOCOL_FEATURES)
    }

    /// Acknowledges features.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn set_features(&mut self, features: u64) -> io::Result<()> {
        self.features = features;
        self.tell_u64(FrontendReq::SET_FEATURES, features)
    }

    /// Passes the memory on.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn share_memory(&mut self) -> io::Result<()> {
        let mut body = Vec::new();
        body.extend(1u32.to_ne_bytes());
        body.extend(0u32.to_ne_bytes());
        for word in [
            self.memory.guest(),
            self.memory.size(),
            self.memory.user(),
            0,
        ] {
            body.extend(word.to_ne_bytes());
        }
        let fd = self.memory.fd().try_clone_to_owned()?;
        self.tell(FrontendReq::SET_MEM_TABLE, &body, &[fd.as_fd()])
    }

    /// Starts all rings from the beginning and fills the guest RX rings.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn start(&mut self) -> io::Result<()> {
        for index in 0..self.queues.len() {
            let base = self.queues[index].driver.first_base();
            self.start_ring(index, base, None)?;
        }
        for pair in 0..self.config.queue_pairs {
            self.fill(pair);
        }
        Ok(())
    }

    /// Starts one ring at `base`; `log` is the guest address under which its used ring is logged.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn start_ring(&mut self, index: usize, base: u32, log: Option<u64>) -> io::Result<()> {
        let queue = &self.queues[index];
        let size = u32::from(queue.driver.size());
        let call = queue.call.try_clone()?;
        let kick = queue.kick.try_clone()?;
        let number = u32::try_from(index).map_err(io::Error::other)?;
        self.tell_state(FrontendReq::SET_VRING_NUM, number, size)?;
        self.tell_state(FrontendReq::SET_VRING_BASE, number, base)?;
        self.set_ring_address(index, log)?;
        self.tell_fd(FrontendReq::SET_VRING_CALL, number, call.as_fd())?;
        self.tell_fd(FrontendReq::SET_VRING_KICK, number, kick.as_fd())?;
        self.tell_state(FrontendReq::SET_VRING_ENABLE, number, 1)
    }

    /// Tells a ring's addresses.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn set_ring_address(&mut self, index: usize, log: Option<u64>) -> io::Result<()> {
        let areas = self.queues[index].driver.areas();
        let number = u32::try_from(index).map_err(io::Error::other)?;
        let mut body = Vec::new();
        body.extend(number.to_ne_bytes());
        body.extend(u32::from(log.is_some()).to_ne_bytes());
        for guest in [areas.descriptors, areas.device, areas.driver] {
            body.extend(self.memory.user_of(guest).to_ne_bytes());
        }
        body.extend(log.unwrap_or(0).to_ne_bytes());
        self.tell(FrontendReq::SET_VRING_ADDR, &body, &[])
    }

    /// Stops a ring; returns where it stood.
    ///
    /// # Errors
    /// The backend refuses.
    pub fn stop_ring(&mut self, index: usize) -> io::Result<u32> {
        let number = u32::try_from(index).map_err(io::Error::other)?;
        let mut body = number.to_ne_bytes().to_vec();
        body.extend(0u32.to_ne_bytes());
        self.send(FrontendReq::GET_VRING_BASE as u32, 1, &body, &[])?;
        let reply = self.receive()?;
        let base = reply.get(4..8).and_then(|bytes| bytes.try_into().ok());
        base.map(u32::from_ne_bytes)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
