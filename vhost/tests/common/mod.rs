//! A port in a temporary folder, a frontend on it, and a little worker.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Offloads, Port, PortConfig, PortEvent, RingOptions};
use culvert_wire::{MacAddr, VnetHeader};

pub(crate) struct Bench {
    pub port: Option<Port>,
    pub events: Receiver<PortEvent>,
    pub config: PortConfig,
    _folder: tempfile::TempDir,
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

impl Bench {
    pub(crate) fn new(change: impl FnOnce(&mut PortConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("p.sock");
        let mut config = PortConfig::new("p", socket, MacAddr([2, 0, 0, 0, 0, 1]));
        config.state_file = Some(folder.path().join("p.state"));
        // Tests come and go, and speak, faster than any VMM.
        config.connections_per_second = 1_000_000;
        config.messages_per_second = 1_000_000;
        change(&mut config);
        let (port, events) = open(&config);
        Self {
            port: Some(port),
            events,
            config,
            _folder: folder,
        }
    }

    pub(crate) fn port(&self) -> &Port {
        self.port.as_ref().unwrap()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.config.socket.clone()
    }

    pub(crate) fn connect(&self, config: FrontendConfig) -> Frontend {
        let pairs = config.queue_pairs;
        let frontend = Frontend::connect(&self.path(), config).unwrap();
        self.wait(|event| is_up(event, pairs));
        frontend
    }

    /// Ends the port and opens it again, as a new process would.
    pub(crate) fn restart(&mut self) {
        drop(self.port.take());
        let (port, events) = open(&self.config);
        self.port = Some(port);
        self.events = events;
    }

    pub(crate) fn wait(&self, mut is_wanted: impl FnMut(&PortEvent) -> bool) -> PortEvent {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let event = self.events.recv_timeout(left).expect("an event in time");
            if is_wanted(&event) {
                return event;
            }
        }
    }
}

pub(crate) fn is_up(event: &PortEvent, pairs: u16) -> bool {
    matches!(event,
        PortEvent::LinkUp { queue_pairs, .. } | PortEvent::QueuesChanged { queue_pairs }
            if *queue_pairs == pairs)
}

fn open(config: &PortConfig) -> (Port, Receiver<PortEvent>) {
    let (sender, events) = channel();
    let port = Port::open(config.clone(), move |event| {
        let _ = sender.send(event);
    })
    .unwrap();
    (port, events)
}

/// Every combination of layout and ring options that matters.
pub(crate) fn variants() -> Vec<FrontendConfig> {
    let mut all = Vec::new();
    for packed in [false, true] {
        for rings in [
            RingOptions::empty(),
            RingOptions::MRG_RXBUF,
            RingOptions::MRG_RXBUF | RingOptions::EVENT_IDX | RingOptions::INDIRECT_DESC,
            RingOptions::all() - RingOptions::PACKED,
        ] {
            let rings = if packed {
                rings | RingOptions::PACKED
            } else {
                rings
            };
            let mergeable = rings.contains(RingOptions::MRG_RXBUF);
            for (indirect, piece_len) in [(false, 65_536), (false, 2000), (true, 1500), (false, 7)]
            {
                if indirect && !rings.contains(RingOptions::INDIRECT_DESC) {
                    continue;
                }
                all.push(FrontendConfig {
                    rings,
                    indirect,
                    piece_len,
                    ring_size: 256,
                    buffer_len: if mergeable { 2048 } else { 66_000 },
                    ..FrontendConfig::default()
                });
            }
        }
    }
    all
}

pub(crate) fn pattern(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64)
        .map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

pub(crate) fn header(seed: u16) -> VnetHeader {
    VnetHeader {
        flags: 1,
        gso_type: 1,
        hdr_len: seed,
        gso_size: 1448,
        csum_start: 34,
        csum_offset: 16,
        num_buffers: 0,
    }
}

/// Takes all frames that are there.
pub(crate) fn take_frames(port: &Port, queue: u16) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(mut burst) = port.guest_tx(queue).try_lock() {
        let count = burst.fetch(32);
        if count == 0 {
            break;
        }
        for index in 0..count {
            let frame = burst.frame(index);
            let mut bytes = vec![0; frame.len as usize];
            assert_eq!(burst.copy(index, 0, &mut bytes), bytes.len());
            assert_eq!(frame.head(), &bytes[..frame.head().len()]);
            assert_eq!(frame.head().len(), bytes.len().min(256));
            frames.push((frame.vnet, bytes));
        }
        burst.complete(count);
    }
    frames
}

pub(crate) fn all_offloads() -> Offloads {
    Offloads::all()
}
