//! A cable whose ends are taps, and which may carry frames in another order than they came.
//!
//! In: two namespaces, an interface's name. Out: an interface of that name in each; how many frames were carried. Never: a
//! frame lost by the cable itself, or one that waits for long.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::handed::{TunFlags, make_tun};
use crate::network::Namespace;

/// How long a frame may wait for others to change places with.
const PATIENCE: Duration = Duration::from_millis(3);
/// How many may.
const FRAMES: usize = 64;
const LOOK: Duration = Duration::from_millis(100);

/// The cable.
#[derive(Debug)]
pub struct Bridge {
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    ends: AtomicBool,
    shuffles: AtomicBool,
    displaced: AtomicU64,
}

impl Bridge {
    /// Lays it between `a` and `b`; both interfaces are up and have no address.
    pub fn join(a: &Namespace, b: &Namespace, interface: &str) -> Result<Self> {
        let flags = TunFlags {
            tap: true,
            vnet: false,
        };
        let mut taps = Vec::new();
        for side in [a, b] {
            taps.push(make_tun(side, interface, flags)?);
            side.ip(&format!("link set {interface} addrgenmode none"))?;
            side.ip(&format!("link set {interface} txqueuelen 4000 up"))?;
        }
        let state = Arc::new(State::default());
        let mut threads = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            let tap = |place: usize| -> Result<File> {
                let tap: OwnedFd = taps[place].try_clone()?;
                Ok(tap.into())
            };
            let (from, to, state) = (tap(from)?, tap(to)?, Arc::clone(&state));
            threads.push(thread::spawn(move || carry(from, to, &state)));
        }
        Ok(Self { state, threads })
    }

    /// Carries frames in another order from now on, or in theirs.
    pub fn shuffle(&self, on: bool) {
        self.state.shuffles.store(on, Ordering::Relaxed);
    }

    /// How many frames left at another place than they came.
    pub fn displaced(&self) -> u64 {
        self.state.displaced.load(Ordering::Relaxed)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.state.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn carry(mut from: File, mut to: File, state: &State) {
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut frame = vec![0; 65_536];
    while !state.ends.load(Ordering::Relaxed) {
        // 1. One frame, and what follows it closely.
        let shuffles = state.shuffles.load(Ordering::Relaxed);
        let mut frames = Vec::new();
        while frames.len() < FRAMES {
            let wait = if frames.is_empty() { LOOK } else { PATIENCE };
            if !is_ready(&from, wait) {
                break;
            }
            let Ok(len) = from.read(&mut frame) else {
                break;
            };
            frames.push(frame[..len].to_vec());
            if !shuffles {
                break;
            }
        }

        // 2. Any order is as likely as another.
        for last in (1..frames.len()).rev() {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let other = usize::try_from(random >> 33).unwrap_or(0) % (last + 1);
            if other != last {
                frames.swap(last, other);
                state.displaced.fetch_add(1, Ordering::Relaxed);
            }
        }
        for frame in frames {
            // An interface that goes down takes nothing.
            let _ = to.write(&frame);
        }
    }
}

fn is_ready(file: &File, wait: Duration) -> bool {
    let mut polled = [PollFd::new(file, PollFlags::IN)];
    let wait = Timespec::try_from(wait).ok();
    poll(&mut polled, wait.as_ref()).is_ok_and(|count| count > 0)
}
