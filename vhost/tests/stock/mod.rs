//! A virtio-net device made of the rust-vmm crates as they come: `vhost-user-backend` for the
//! session and the threads, `vm-memory` for guest memory, `virtio-queue` for the rings.
//!
//! It shares no code with our backend. It reflects: each frame of a guest TX ring goes into the
//! guest RX ring of the same pair. A frame that finds too few buffers waits for more.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::VecDeque;
use std::io::{Read, Result, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use culvert_vhost::{Offloads, RingOptions};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::{DescriptorChain, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const HEADER: usize = 12;
/// Where `num_buffers` lies in the header.
const COUNT: usize = 10;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

/// What the rings of one pair left for later.
#[derive(Default)]
struct Pair {
    /// A frame with its header that was taken from the guest TX ring, and its chain's id.
    frame: Option<(u16, Vec<u8>)>,
    /// Chains taken from the guest RX ring: too few for that frame.
    buffers: VecDeque<Chain>,
}

#[derive(Default)]
struct State {
    memory: Option<Memory>,
    is_mergeable: bool,
    pairs: Vec<Pair>,
}

struct Device {
    pairs: usize,
    state: Mutex<State>,
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        2 * self.pairs
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        let rings = RingOptions::MRG_RXBUF | RingOptions::INDIRECT_DESC | RingOptions::EVENT_IDX;
        VERSION_1 | PROTOCOL_FEATURES | rings.bits() | Offloads::all().bits()
    }

    fn acked_features(&self, features: u64) {
        self.state.lock().unwrap().is_mergeable = features & RingOptions::MRG_RXBUF.bits() != 0;
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    // The rings know.
    fn set_event_idx(&self, _enabled: bool) {}

    fn update_memory(&self, memory: Memory) -> Result<()> {
        self.state.lock().unwrap().memory = Some(memory);
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        Some(new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).unwrap())
    }

    fn stop_vring(&self, index: u32) -> Result<()> {
        // The tests stop rings when no frame waits, or forget the rings' content.
        self.state.lock().unwrap().pairs[index as usize / 2] = Pair::default();
        Ok(())
    }

    fn handle_event(
        &self,
        ring: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> Result<()> {
        let pair = usize::from(ring) / 2;
        let (rx, tx) = (&vrings[2 * pair], &vrings[2 * pair + 1]);
        // The daemon also looks when the first ring of a pair starts, before the second has
        // addresses.
        let is_running = |vring: &VringRwLock| {
            let state = vring.get_ref();
            state.is_enabled() && state.get_queue().ready()
        };
        if !is_running(rx) || !is_running(tx) {
            return Ok(());
        }
        let state = &mut *self.state.lock().unwrap();
        let Some(memory) = state.memory.as_ref().map(GuestAddressSpace::memory) else {
            return Ok(());
        };
        let (is_mergeable, pair) = (state.is_mergeable, &mut state.pairs[pair]);
        loop {
            tx.disable_notification().unwrap();
            rx.disable_notification().unwrap();
            while let Some((id, frame)) = pair.frame.take().or_else(|| take(tx, &memory)) {
                if !place(rx, &memory, is_mergeable, &mut pair.buffers, &frame) {
                    pair.frame = Some((id, frame));
                    break;
                }
                tx.add_used(id, 0).unwrap();
                for vring in [rx, tx] {
                    if vring.needs_notification().unwrap() {
                        vring.signal_used_queue()?;
                    }
                }
            }
            let tx_has_more = tx.enable_notification().unwrap();
            let rx_has_more = rx.enable_notification().unwrap();
            // Whoever holds a frame goes on with more buffers, else with more frames.
            let goes_on = if pair.frame.is_some() {
                rx_has_more
            } else {
                tx_has_more
            };
            if !goes_on {
                return Ok(());
            }
        }
    }
}

fn pop(vring: &VringRwLock, memory: &GuestMemoryLoadGuard<GuestMemoryMmap>) -> Option<Chain> {
    let mut state = vring.get_mut();
    // A ring that was stopped meanwhile is an error here.
    state.get_queue_mut().iter(memory.clone()).ok()?.next()
}

/// The next frame of the guest, with its header.
fn take(
    tx: &VringRwLock,
    memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
) -> Option<(u16, Vec<u8>)> {
    let chain = pop(tx, memory)?;
    let id = chain.head_index();
    let mut reader = chain.reader(&**memory).unwrap();
    let mut bytes = vec![0; reader.available_bytes()];
    reader.read_exact(&mut bytes).unwrap();
    Some((id, bytes))
}

/// Gives the guest a frame with its header; false if there are too few buffers.
fn place(
    rx: &VringRwLock,
    memory: &GuestMemoryLoadGuard<GuestMemoryMmap>,
    is_mergeable: bool,
    buffers: &mut VecDeque<Chain>,
    frame: &[u8],
) -> bool {
    let room = |chain: &Chain| chain.clone().writer(&**memory).unwrap().available_bytes();
    let mut sum: usize = buffers.iter().map(room).sum();
    while sum < frame.len() {
        let Some(chain) = pop(rx, memory) else {
            return false;
        };
        sum += room(&chain);
        buffers.push_back(chain);
        assert!(is_mergeable || sum >= frame.len(), "buffers are large");
    }
    let count = u16::try_from(buffers.len()).unwrap();
    let mut frame = frame.to_vec();
    frame[COUNT..HEADER].copy_from_slice(&count.to_le_bytes());
    let mut left = &frame[..];
    // `virtio-queue` can't publish several buffers at once, which mergeable buffers require:
    // a driver could see the first without the rest. The tests' drivers wait for the frame's
    // chain in the guest TX ring, which comes back behind them.
    for chain in buffers.drain(..) {
        let id = chain.head_index();
        let mut writer = chain.writer(&**memory).unwrap();
        let now = writer.available_bytes().min(left.len());
        writer.write_all(&left[..now]).unwrap();
        left = &left[now..];
        rx.add_used(id, u32::try_from(now).unwrap()).unwrap();
    }
    true
}

/// The device on a socket, for one connection.
pub(crate) struct Stock {
    path: PathBuf,
    device: Arc<Device>,
    session: Option<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Stock {
    pub(crate) fn new(pairs: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stock.sock");
        let mut listener = Listener::new(&path, true).unwrap();
        let state = State {
            pairs: (0..pairs).map(|_| Pair::default()).collect(),
            ..State::default()
        };
        let device = Arc::new(Device {
            pairs,
            state: Mutex::new(state),
        });
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new("stock".into(), Arc::clone(&device), memory).unwrap();
        let session = std::thread::spawn(move || {
            daemon.start(&mut listener).unwrap();
            // A frontend that goes away is an error to the daemon.
            let _ = daemon.wait();
            for handler in daemon.get_epoll_handlers() {
                handler.send_exit_event();
            }
        });
        Self {
            path,
            device,
            session: Some(session),
            _folder: folder,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the device is done with what it has begun: it holds its state from before it
    /// takes a chain until it has decided on the call for the last one.
    pub(crate) fn settle(&self) {
        drop(self.device.state.lock().unwrap());
    }

    /// Waits for the end of the session, which the frontend's going brings about.
    pub(crate) fn join(&mut self) {
        self.session.take().unwrap().join().unwrap();
    }
}
