//! The control core and the workers.
//!
//! In: their counters. Out: cores as they are shown. Never: a look at a peer.

use std::sync::atomic::Ordering;

use super::{
    Reader,
    look::{CoreLoad, WorkerSight},
};
use crate::state::Core;

impl Reader<'_> {
    pub(super) fn cores(&self) -> Vec<Core> {
        let workers = self.head.workers.iter().enumerate();
        let workers = workers.map(|(index, worker)| self.worker(index, worker));
        std::iter::once(self.control()).chain(workers).collect()
    }

    fn control(&self) -> Core {
        let CoreLoad {
            busy,
            sleeps,
            longest,
            heaviest,
            long,
            ..
        } = self.head.core;
        let bounds = ["1ms", "10ms", "100ms", "1s"].map(str::to_owned);
        let cpu = self.head.desired.file().cores.control;
        Core {
            name: "control".into(),
            cpu: cpu.map(|cpu| cpu.0),
            busy,
            sleeps,
            longest_us: u64::try_from(longest.as_micros()).ok(),
            longest_cpu_us: u64::try_from(heaviest.as_micros()).ok(),
            longer_than: bounds.into_iter().zip(long).collect(),
            ..Core::default()
        }
    }

    fn worker(&self, index: usize, worker: &WorkerSight) -> Core {
        let stats = &worker.stats;
        let guests = self.open_ports().flat_map(|port| {
            let owners = port.queue_workers.iter().enumerate();
            owners
                .filter(move |(_, owner)| usize::from(owner.0) == index)
                .map(|(queue, _)| format!("{}:{queue}", port.name))
        });
        let uplinks = self.head.uplinks.iter();
        let uplinks = uplinks.map(|uplink| format!("{}:{index}", uplink.name));
        Core {
            name: format!("worker {index}"),
            cpu: worker.cpu.map(|cpu| cpu.0),
            busy: worker.busy,
            bursts: stats.busy_turns.sum(),
            packets: stats.guest_frames.load(Ordering::Relaxed)
                + stats.datagrams.load(Ordering::Relaxed),
            sleeps: stats.sleeps.load(Ordering::Relaxed),
            queues: guests.chain(uplinks).collect(),
            longest_us: u64::try_from(worker.longest.as_micros()).ok(),
            ..Core::default()
        }
    }
}
