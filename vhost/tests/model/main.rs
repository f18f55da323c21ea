//! What workers and the session thread share of a ring, in every order of its steps.
//!
//! In: `gate` as the rings have it, with loom's lock and atomics for the standard library's. Out: a failure for any
//! order, and any stale value that the memory model allows, in which a worker is where it must not be. Never: a thread
//! of its own or a clock: loom runs the threads, one step at a time.

#[path = "../../src/ring/gate.rs"]
mod gate;

mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, Ordering},
    };
}

use loom::{cell::UnsafeCell, model::Builder, sync::Arc, thread};

use gate::{Attempt, Gate};
use sync::{AtomicBool, Ordering};

const FAULT: u8 = 7;

/// The guest's memory: loom refuses an access that may meet another one.
type Memory = Arc<UnsafeCell<()>>;

fn memory() -> Memory {
    Arc::new(UnsafeCell::new(()))
}

/// What is inside.
#[derive(Default)]
struct Inside {
    /// There while it runs.
    memory: Option<Memory>,
    /// A worker found the guest's mistake.
    is_broken: bool,
    /// The session thread was inside.
    was_visited: bool,
}

/// A gate that is live.
fn live(memory: &Memory) -> Arc<Gate<Inside>> {
    let gate = Gate::new(Inside::default());
    gate.start(|inside| inside.memory = Some(Arc::clone(memory)));
    Arc::new(gate)
}

/// Runs `body` in every order in which a thread is interrupted at most so often.
fn model(interruptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(body);
}

/// Workers read what the guest's memory has; when the ring has stopped, the memory goes.
#[test]
fn a_ring_that_has_stopped_is_held_by_nobody() {
    model(2, || {
        let old = memory();
        let gate = live(&old);
        let workers = [0, 1].map(|_| {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                if let Attempt::Locked(inside) = gate.try_enter() {
                    let memory = inside.memory.as_ref().expect("it is live");
                    memory.with(|_| ());
                }
            })
        });
        gate.stop(|inside| inside.memory = None);
        old.with_mut(|_| ());
        let new = memory();
        gate.start(|inside| inside.memory = Some(new));
        for worker in workers {
            worker.join().unwrap();
        }
        assert!(matches!(gate.try_enter(), Attempt::Locked(_)), "left shut");
    });
}

/// One of two workers finds a mistake: the other doesn't find it again, and the session thread hears of it once.
#[test]
fn a_ring_that_failed_lets_nobody_in() {
    model(3, || {
        let gate = live(&memory());
        let alarm = Arc::new(AtomicBool::new(false));
        let workers = [0, 1].map(|_| {
            let (gate, alarm) = (Arc::clone(&gate), Arc::clone(&alarm));
            thread::spawn(move || {
                let Attempt::Locked(mut inside) = gate.try_enter() else {
                    return 0;
                };
                assert!(!inside.is_broken, "it has failed");
                inside.is_broken = true;
                gate.fail(FAULT);
                // The descriptor that this stands for orders what is before and behind.
                alarm.store(true, Ordering::Release);
                1
            })
        });
        if alarm.load(Ordering::Acquire) {
            assert_eq!(gate.fault(), FAULT, "the alarm has no reason");
        }
        let faults = workers.map(|worker| worker.join().unwrap());
        assert_eq!(faults.iter().sum::<u32>(), 1);
        assert!(!gate.is_live());
        gate.stop(|inside| *inside = Inside::default());
        gate.start(|inside| inside.memory = Some(memory()));
        assert!(gate.is_live() && gate.fault() == 0, "an old fault");
    });
}

/// A worker fails while the session thread changes the ring for reasons of its own.
#[test]
fn a_fault_of_before_stops_no_ring_that_was_started_again() {
    model(3, || {
        let gate = live(&memory());
        let worker = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                if let Attempt::Locked(inside) = gate.try_enter()
                    && !inside.was_visited
                {
                    gate.fail(FAULT);
                }
            })
        };
        gate.stop(|inside| inside.memory = None);
        gate.start(|inside| {
            inside.memory = Some(memory());
            inside.was_visited = true;
        });
        worker.join().unwrap();
        assert!(gate.is_live() && gate.fault() == 0);
    });
}

/// A worker that is turned away for the session thread's sake gets in behind it only.
#[test]
fn who_polls_without_pause_lets_the_session_thread_pass() {
    model(4, || {
        let gate = live(&memory());
        let worker = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                let mut gave_way = false;
                for _ in 0..3 {
                    match gate.try_enter() {
                        Attempt::Locked(inside) => assert!(inside.was_visited || !gave_way),
                        Attempt::Busy => gave_way = true,
                        Attempt::NotReady => panic!("it runs all the time"),
                    }
                }
            })
        };
        gate.enter().was_visited = true;
        worker.join().unwrap();
        assert!(matches!(gate.try_enter(), Attempt::Locked(_)), "left shut");
    });
}

/// Looks without the lock.
#[test]
fn what_is_seen_from_outside_is_true() {
    model(3, || {
        let gate = Arc::new(Gate::new(Inside::default()));
        let kick = Arc::new(AtomicBool::new(false));
        let worker = {
            let (gate, kick) = (Arc::clone(&gate), Arc::clone(&kick));
            thread::spawn(move || {
                if gate.is_live() {
                    assert!(kick.load(Ordering::Relaxed), "live before it was prepared");
                }
                let attempt = gate.try_enter();
                if let Attempt::Locked(inside) = &attempt {
                    assert!(inside.memory.is_some(), "nothing inside");
                    gate.fail(FAULT);
                }
                matches!(attempt, Attempt::Locked(_))
            })
        };
        let reporter = {
            let gate = Arc::clone(&gate);
            thread::spawn(move || {
                if gate.fault() != 0 {
                    assert!(!gate.is_live(), "it runs with a fault");
                }
            })
        };
        kick.store(true, Ordering::Relaxed);
        gate.start(|inside| inside.memory = Some(memory()));
        let has_failed = worker.join().unwrap();
        reporter.join().unwrap();
        assert_eq!(gate.fault() == FAULT, has_failed, "a fault is lost");
    });
}
