//! A guest's port, as the data path and the control core see it.
//!
//! In: a configuration. Out: rings for workers, events and counters for the control core.
//! Never: work on the caller's thread after `open`.
//!
//! Threads: `open` starts one session thread, which owns the socket and the protocol and ends
//! with the port. Workers and the control core share the port by `Arc` or reference.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::EventfdFlags;

use crate::config::{PortConfig, RingOptions};
use crate::counters::PortCounters;
use crate::event::{PortError, PortEvent, PortStatus};
use crate::limits;
use crate::ring::rx::GuestRx;
use crate::ring::tx::GuestTx;
use crate::ring::{Keeper, Ring, kick};
use crate::session::{self, Endpoint};

/// An open port.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    session: Option<JoinHandle<()>>,
}

/// What the session thread shares with everyone else.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: PortConfig,
    pub(crate) tx: Box<[GuestTx]>,
    pub(crate) rx: Box<[GuestRx]>,
    pub(crate) counters: PortCounters,
    /// How the port stands, as the session thread sees it.
    pub(crate) status: Mutex<PortStatus>,
    /// Where packed rings stood.
    pub(crate) keeper: Arc<Keeper>,
    /// Readable when the session thread has to look: the port closes, or a ring failed.
    pub(crate) alarm: Arc<OwnedFd>,
    pub(crate) is_closing: std::sync::atomic::AtomicBool,
}

impl Shared {
    pub(crate) fn status(&self) -> MutexGuard<'_, PortStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ring with a vhost-user index: even ones are guest RX, odd ones guest TX.
    pub(crate) fn ring(&self, index: usize) -> Option<&Ring> {
        let pair = index / 2;
        if index.is_multiple_of(2) {
            self.rx.get(pair).map(|rx| &rx.ring)
        } else {
            self.tx.get(pair).map(|tx| &tx.ring)
        }
    }
}

impl Port {
    /// Opens a port: makes the socket (server mode) and starts the session thread.
    ///
    /// `events` is called on the session thread and must not block for long.
    ///
    /// # Errors
    /// The configuration is out of range, the socket is someone else's, or the kernel refuses.
    pub fn open(
        config: PortConfig,
        events: impl Fn(PortEvent) + Send + Sync + 'static,
    ) -> Result<Self, PortError> {
        if config.queue_pairs == 0 || config.queue_pairs > limits::QUEUE_PAIRS_MAX {
            return Err(PortError::QueuePairs {
                found: config.queue_pairs,
            });
        }
        if let Some(found) = config.mtu.filter(|&mtu| mtu < 68) {
            return Err(PortError::Mtu { found });
        }
        let system = |action| move |error| PortError::System { action, error };
        let alarm = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| system("creating an eventfd")(error.into()))?;
        let alarm = Arc::new(alarm);
        let ring = || Ring::new(Arc::clone(&alarm)).map_err(system("creating an epoll instance"));
        let pairs = 0..config.queue_pairs;
        let tx = pairs
            .clone()
            .map(|_| Ok(GuestTx::new(ring()?)))
            .collect::<Result<_, _>>()?;
        let rx = pairs
            .map(|_| Ok(GuestRx::new(ring()?)))
            .collect::<Result<_, _>>()?;
        let rings = 2 * usize::from(config.queue_pairs);
        // Without packed rings there is nothing to keep.
        let state_file = config.state_file.as_deref();
        let state_file = state_file.filter(|_| config.rings.contains(RingOptions::PACKED));
        let keeper = Keeper::new(state_file, rings).map_err(|error| PortError::StateFile {
            path: state_file.map(Path::to_owned).unwrap_or_default(),
            length: rings * Keeper::BYTES_PER_RING,
            error,
        })?;
        let endpoint = Endpoint::open(&config)?;
        let events: session::Events = Arc::new(events);
        let shared = Arc::new(Shared {
            config,
            tx,
            rx,
            counters: PortCounters::default(),
            status: Mutex::default(),
            keeper: Arc::new(keeper),
            alarm,
            is_closing: false.into(),
        });
        let session = std::thread::Builder::new()
            // The kernel keeps 15 bytes of it.
            .name(format!("vhost-{}", shared.config.name))
            .spawn({
                let shared = Arc::clone(&shared);
                move || session::run(&shared, &endpoint, &events)
            })
            .map_err(system("starting the session thread"))?;
        Ok(Self {
            shared,
            session: Some(session),
        })
    }

    /// The configuration that the port was opened with.
    pub fn config(&self) -> &PortConfig {
        &self.shared.config
    }

    /// Queue pairs.
    pub fn queue_pairs(&self) -> u16 {
        self.shared.config.queue_pairs
    }

    /// The guest TX ring of queue pair `queue`.
    ///
    /// # Panics
    /// If there is no such pair.
    #[inline]
    pub fn guest_tx(&self, queue: u16) -> &GuestTx {
        &self.shared.tx[usize::from(queue)]
    }

    /// The guest RX ring of queue pair `queue`.
    ///
    /// # Panics
    /// If there is no such pair.
    #[inline]
    pub fn guest_rx(&self, queue: u16) -> &GuestRx {
        &self.shared.rx[usize::from(queue)]
    }

    /// Counters of the port's session.
    pub fn counters(&self) -> &PortCounters {
        &self.shared.counters
    }

    /// How the port stands.
    pub fn status(&self) -> PortStatus {
        *self.shared.status()
    }

    /// Closes the port: stops the rings, ends the session thread, removes the socket.
    pub fn close(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared
                .is_closing
                .store(true, std::sync::atomic::Ordering::Release);
            kick::signal(self.shared.alarm.as_fd());
            if session.join().is_err() {
                tracing::error!(
                    port = self.shared.config.name,
                    "the session thread panicked"
                );
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.end();
    }
}
