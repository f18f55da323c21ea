//! Ctrl-C: whatever runs ends with what was measured.
//!
//! In: SIGINT, SIGTERM, SIGHUP. Out: a word that loops look at. Never: a signal handler; an end of the process, which has a
//! device and files to take away.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

/// Whether an end was asked for.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Takes the signals that ask for an end, from now on. Before the process's first thread, which would not block them.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn on_signals() -> io::Result<Self> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            set.add(signal);
        }
        set.thread_block()?;
        let stop = Self::default();
        let told = stop.clone();
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                while set.wait().is_ok() {
                    told.0.store(true, Ordering::Relaxed);
                }
            })?;
        Ok(stop)
    }

    /// Whether it was.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The word itself, for whoever waits elsewhere.
    #[must_use]
    pub fn word(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }

    /// Asks for it.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
