//! The control core's end.
//!
//! In: interfaces as they come, change and go, what they are the way to. Out: the same to the thread; what the kernel's
//! tables say. Never: a wait, except for its end.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use culvert_dataplane::shared::{
    clock,
    exception_link::{self, KernelEnd},
    ids::UplinkIndex,
    wake::Wake,
};

use super::{Followed, Shared, Tap, Way, server::Server};
use crate::config::Name;

/// The exception path, seen from the control core. There is no thread before there is something for it.
#[derive(Default)]
pub(crate) struct Exceptions {
    thread: Option<(Arc<Shared>, JoinHandle<()>)>,
    /// By their interfaces' names.
    pub(crate) taps: BTreeMap<String, Tap>,
    /// By uplinks' names.
    pub(crate) followed: BTreeMap<Name, Followed>,
}

impl Exceptions {
    /// Starts the thread, unless it runs; answers what each worker is to be given then, whose doorbells these are.
    pub(crate) fn start(&mut self, workers: &[Arc<Wake>]) -> io::Result<Vec<KernelEnd>> {
        if self.thread.is_some() {
            return Ok(Vec::new());
        }
        let wake = Arc::new(Wake::new()?);
        let now = clock::monotonic();
        let link =
            |worker: &Arc<Wake>| exception_link::link(Arc::clone(worker), Arc::clone(&wake), now);
        let (ends, lanes) = workers.iter().map(link).unzip();
        let shared = Arc::new(Shared {
            wake: Arc::clone(&wake),
            ways: ArcSwap::default(),
            ends: AtomicBool::new(false),
        });
        let server = Server::new(Arc::clone(&shared), lanes);
        let thread = thread::Builder::new().name("exception".into());
        let thread = thread.spawn(move || server.run())?;
        self.thread = Some((shared, thread));
        Ok(ends)
    }

    /// From now on these uplinks are shared.
    pub(crate) fn publish(&self, ways: BTreeMap<UplinkIndex, Arc<Way>>) {
        if let Some((shared, _)) = &self.thread {
            shared.ways.store(Arc::new(ways));
            shared.wake.notify();
        }
    }

    /// Whether the thread has ended without being asked to.
    pub(crate) fn is_dead(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|(_, thread)| thread.is_finished())
    }

    /// Ends the thread; the interfaces go.
    pub(crate) fn stop(&mut self) {
        self.followed.clear();
        let Some((shared, thread)) = self.thread.take() else {
            return;
        };
        shared.ends.store(true, Ordering::Release);
        shared.wake.notify();
        if thread.join().is_err() {
            tracing::error!("the exception path's thread panicked");
        }
        shared.ways.store(Arc::default());
        self.taps.clear();
    }
}

impl Drop for Exceptions {
    fn drop(&mut self) {
        self.stop();
    }
}
