//! The workers' threads.
//!
//! In: the configured cores. Out: running workers with the control core's ends of
//! their links. Never: a worker that ends unnoticed.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use culvert_dataplane::{
    shared::{
        control_link::{self, Attention, Command, ControlEnd},
        ids::WorkerIndex,
        snapshot::SnapshotCell,
        stack_link::StackEnd,
        wake::Wake,
    },
    worker::{Polling, Worker, WorkerStats},
};
use rustix::thread::CpuSet;

use super::EngineError;
use crate::config::{Cores, CpuId, Poll};

/// How long a worker may take to make room for a command: it takes them off at its next burst.
const PATIENCE: Duration = Duration::from_secs(1);

/// One worker, seen from the control core.
pub(super) struct WorkerHandle {
    pub(super) cpu: Option<CpuId>,
    pub(super) link: ControlEnd,
    pub(super) stats: Arc<WorkerStats>,
    thread: Option<JoinHandle<()>>,
    /// It made no room for a command in time.
    is_stuck: bool,
}

/// All workers.
pub(super) struct Workers(pub(super) Vec<WorkerHandle>);

impl Workers {
    /// Starts them; answers the host stacks' ends of their links, too.
    pub(super) fn start(
        cores: &Cores,
        snapshots: &Arc<SnapshotCell>,
        attention: &Arc<Attention>,
        stack: &Arc<Wake>,
    ) -> Result<(Self, Vec<StackEnd>), EngineError> {
        let count = cores.workers.len();
        let polling = match cores.poll {
            Poll::Adaptive => Polling::Adaptive,
            Poll::Busy => Polling::Busy,
        };
        let mut workers = Self(Vec::with_capacity(count));
        let mut stack_ends = Vec::with_capacity(count);
        for (index, core) in cores.workers.iter().enumerate() {
            let failed = |error: io::Error| EngineError::start("can't start a worker", &error);
            let link = control_link::link(Arc::clone(attention), Arc::clone(stack), count);
            let (worker_end, link, stack_end) = link.map_err(failed)?;
            stack_ends.push(stack_end);
            let stats = Arc::new(WorkerStats::default());
            let worker = Worker::new(
                WorkerIndex::from_slot(index),
                Arc::clone(snapshots),
                worker_end,
                polling,
                Arc::clone(&stats),
            );
            let cpu = core.cpu;
            let thread = thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    pin(cpu);
                    worker.run();
                })
                .map_err(failed)?;
            workers.0.push(WorkerHandle {
                cpu,
                link,
                stats,
                thread: Some(thread),
                is_stuck: false,
            });
        }
        Ok((workers, stack_ends))
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Gives one worker a command; a worker that is that far behind loses it.
    pub(super) fn send(&mut self, worker: usize, command: Command) -> bool {
        self.0
            .get_mut(worker)
            .is_some_and(|worker| worker.link.send(command))
    }

    /// Gives one worker a command that must not be lost: waits for room; `false` if the worker makes none. A worker
    /// that made none is not waited for again before it does.
    pub(super) fn insist(&mut self, worker: usize, command: Command) -> bool {
        let Some(worker) = self.0.get_mut(worker) else {
            return false;
        };
        let end = Instant::now() + PATIENCE;
        while !worker.link.has_room() {
            worker.is_stuck |= Instant::now() >= end;
            if worker.is_stuck {
                return false;
            }
            worker.link.wake().notify();
            thread::sleep(Duration::from_micros(200));
        }
        worker.is_stuck = false;
        worker.link.send(command)
    }

    /// The doorbells, for those who publish something to all workers.
    pub(super) fn doorbells(&self) -> Vec<Arc<Wake>> {
        self.0.iter().map(|w| Arc::clone(w.link.wake())).collect()
    }

    pub(super) fn wake_all(&self) {
        for worker in &self.0 {
            worker.link.wake().notify();
        }
    }

    /// The newest snapshot that every worker goes by.
    pub(super) fn adopted(&self) -> u64 {
        let generations = self
            .0
            .iter()
            .map(|w| w.stats.generation.load(Ordering::Acquire));
        generations.min().unwrap_or(u64::MAX)
    }

    /// Waits until every worker goes by snapshot `generation`, at most `patience`.
    pub(super) fn await_generation(&self, generation: u64, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.adopted() < generation {
            if Instant::now() >= end {
                return false;
            }
            self.wake_all();
            thread::sleep(Duration::from_micros(200));
        }
        true
    }

    /// Waits until every worker has taken its commands, at most `patience`: it obeys them by the snapshot that it goes by.
    pub(super) fn await_taken(&self, patience: Duration) {
        let end = Instant::now() + patience;
        while !self.0.iter().all(|worker| worker.link.has_taken_all()) && Instant::now() < end {
            self.wake_all();
            thread::sleep(Duration::from_micros(200));
        }
    }

    /// The number of a worker that has ended without being asked to.
    pub(super) fn dead(&self) -> Option<usize> {
        self.0
            .iter()
            .position(|w| w.thread.as_ref().is_none_or(JoinHandle::is_finished))
    }

    /// Ends all workers after their current turn.
    pub(super) fn stop(&mut self) {
        for worker in &mut self.0 {
            // A full queue is being worked off: try again until there is room.
            while worker.thread.as_ref().is_some_and(|t| !t.is_finished())
                && !worker.link.send(Command::Stop)
            {
                thread::sleep(Duration::from_micros(200));
            }
        }
        for worker in &mut self.0 {
            if let Some(thread) = worker.thread.take()
                && thread.join().is_err()
            {
                tracing::error!("a worker panicked");
            }
        }
    }
}

/// Binds the calling thread to a CPU; without one the scheduler chooses.
pub(super) fn pin(cpu: Option<CpuId>) {
    let Some(CpuId(cpu)) = cpu else { return };
    let mut set = CpuSet::new();
    set.set(usize::from(cpu));
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        tracing::warn!(cpu, %error, "can't bind a thread to this CPU; it floats");
    }
}
