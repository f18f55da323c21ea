//! What threads share without a lock, in every order of its steps.
//!
//! In: `bell`, `marks` and the rings' `gate` as the data path has them, with loom's atomics for the standard library's.
//! Out: a failure for any order, and any stale value that the memory model allows, in which something is lost. Never: a
//! thread of its own or a clock: loom runs the threads, one step at a time.

#[path = "../../src/shared/bell.rs"]
mod bell;
#[allow(dead_code, reason = "its own model is in vhost/tests")]
#[path = "../../../vhost/src/ring/gate.rs"]
mod gate;
#[path = "../../src/shared/marks.rs"]
mod marks;

mod sync {
    pub(crate) use loom::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering, fence},
    };
}

use loom::{model::Builder, sync::Arc, thread};

use bell::Bell;
use gate::Gate;
use marks::{Marks, Signals};
use sync::{AtomicBool, AtomicU64, Ordering};

/// Runs `body` in every order in which a thread is interrupted at most so often.
fn model(interruptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(body);
}

/// Someone publishes while the owner falls asleep: it sees what was published, or it is rung for.
#[test]
fn a_sleeper_is_rung_for_what_it_did_not_see() {
    model(3, || {
        let bell = Arc::new(Bell::new());
        let inputs = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let producers = [0, 1].map(|n| {
            let (bell, inputs) = (Arc::clone(&bell), Arc::clone(&inputs));
            thread::spawn(move || {
                inputs[n].store(true, Ordering::Relaxed);
                bell.must_ring()
            })
        });
        bell.announce();
        let seen = [0, 1].map(|n| inputs[n].load(Ordering::Relaxed));
        let rung = producers.map(|producer| producer.join().unwrap());
        assert!(rung.contains(&true) || seen == [true; 2], "asleep for ever");
        assert!(rung != [true; 2], "one wake-up is enough");
    });
}

/// An owner that was woken and sleeps again hears of what comes then.
#[test]
fn who_was_awake_is_rung_for_again() {
    model(3, || {
        let bell = Arc::new(Bell::new());
        let input = Arc::new(AtomicU64::new(0));
        bell.announce();
        bell.awake();
        let producer = {
            let (bell, input) = (Arc::clone(&bell), Arc::clone(&input));
            thread::spawn(move || {
                [1, 2].map(|n| {
                    input.store(n, Ordering::Relaxed);
                    bell.must_ring()
                })
            })
        };
        bell.announce();
        let seen = input.load(Ordering::Relaxed);
        let rung = producer.join().unwrap();
        assert!(rung.contains(&true) || seen == 2, "the last news is missed");
    });
}

/// Two workers raise signals of one peer while the core sweeps and falls asleep.
#[test]
fn no_signal_is_lost_and_none_waits_for_a_sleeper() {
    const BITS: [u32; 2] = [0b011, 0b110];
    model(2, || {
        let bell = Arc::new(Bell::new());
        let signals = Arc::new(Signals::new());
        let marks = Arc::new(Marks::new(64));
        let notes = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let workers = [0, 1].map(|n| {
            let (bell, signals, marks) =
                (Arc::clone(&bell), Arc::clone(&signals), Arc::clone(&marks));
            let notes = Arc::clone(&notes);
            thread::spawn(move || {
                // What the core looks up when it has the signal.
                notes[n].store(true, Ordering::Relaxed);
                signals.raise(BITS[n]) && {
                    marks.mark(7);
                    bell.must_ring()
                }
            })
        });
        let sweep = || {
            let mut taken = 0;
            marks.sweep(|place| {
                assert_eq!(place, 7);
                let bits = signals.take();
                for n in [0, 1] {
                    let alone = BITS[n] & !BITS[1 - n];
                    let is_noted = notes[n].load(Ordering::Relaxed);
                    assert!(bits & alone == 0 || is_noted, "seen before it was said");
                }
                taken |= bits;
            });
            taken
        };
        bell.announce();
        let taken = sweep();
        let rung = workers.map(|worker| worker.join().unwrap());
        let all = BITS[0] | BITS[1];
        assert!(
            rung.contains(&true) || taken == all,
            "the core sleeps on it"
        );
        assert_eq!(taken | sweep(), all, "lost");
    });
}

/// A signal that is not urgent rings for nobody, unless the core has asked for it before its last sweep.
#[test]
fn what_is_not_urgent_is_swept_or_rung_for() {
    model(3, || {
        let bell = Arc::new(Bell::new());
        let signals = Arc::new(Signals::new());
        let marks = Arc::new(Marks::new(64));
        let worker = {
            let (bell, signals, marks) =
                (Arc::clone(&bell), Arc::clone(&signals), Arc::clone(&marks));
            thread::spawn(move || signals.raise(1) && marks.mark(7) && bell.must_ring())
        };
        let mut taken = 0;
        bell.announce();
        marks.sweep(|_| taken |= signals.take());
        marks.watch(true);
        assert!(marks.is_watched());
        marks.sweep(|_| taken |= signals.take());
        let rung = worker.join().unwrap();
        assert!(rung || taken == 1, "the core sleeps on it");
    });
}

/// A key is published, then the worker is told to flush what waited for it; the worker looks for orders, then for the
/// key, and keeps a frame only if there is none. No frame is kept that nobody will flush.
///
/// The command queue and the key's cell are other crates'; here each is what they promise: what was written before a
/// push is seen after the pop.
#[test]
fn no_frame_is_staged_behind_its_flush() {
    model(3, || {
        let key = Arc::new(AtomicBool::new(false));
        let order = Arc::new(AtomicBool::new(false));
        let core = {
            let (key, order) = (Arc::clone(&key), Arc::clone(&order));
            thread::spawn(move || {
                key.store(true, Ordering::Release);
                order.store(true, Ordering::Release);
            })
        };
        let (mut staged, mut sent) = (0, 0);
        let mut obeyed = false;
        // Two turns, each with a frame.
        for _ in 0..2 {
            if !obeyed && order.load(Ordering::Acquire) {
                obeyed = true;
                sent += std::mem::take(&mut staged);
            }
            if key.load(Ordering::Acquire) {
                // What waits goes first.
                sent += std::mem::take(&mut staged) + 1;
            } else {
                staged += 1;
            }
        }
        core.join().unwrap();
        if !obeyed {
            sent += std::mem::take(&mut staged);
        }
        assert_eq!((sent, staged), (2, 0), "a frame waits for ever");
    });
}

/// A frame waits for its peer's key, and its worker and the core fall asleep: the core hears of it, or is rung for; once
/// there is a key, the worker sees it, finds the order to flush, or is rung for.
#[test]
fn a_frame_that_waits_for_a_key_leaves_though_all_fall_asleep() {
    model(3, || {
        let (core, owner) = (Arc::new(Bell::new()), Arc::new(Bell::new()));
        let signals = Arc::new(Signals::new());
        let marks = Arc::new(Marks::new(64));
        let key = Arc::new(AtomicBool::new(false));
        let order = Arc::new(AtomicBool::new(false));
        let worker = {
            let (core, owner) = (Arc::clone(&core), Arc::clone(&owner));
            let (signals, marks) = (Arc::clone(&signals), Arc::clone(&marks));
            let (key, order) = (Arc::clone(&key), Arc::clone(&order));
            thread::spawn(move || {
                if key.load(Ordering::Acquire) {
                    return (false, false);
                }
                let rings = signals.raise(1) && {
                    marks.mark(7);
                    core.must_ring()
                };
                owner.announce();
                (rings, !order.load(Ordering::Acquire))
            })
        };
        core.announce();
        let mut taken = 0;
        marks.sweep(|_| taken |= signals.take());
        let rings = taken != 0 && {
            key.store(true, Ordering::Release);
            order.store(true, Ordering::Release);
            owner.must_ring()
        };
        let (core_is_rung, sleeps) = worker.join().unwrap();
        assert!(taken != 0 || core_is_rung, "the core sleeps on it");
        assert!(taken == 0 || !sleeps || rings, "the worker sleeps on it");
    });
}

/// A ring starts while its worker falls asleep: the worker finds it, or is rung for.
#[test]
fn no_worker_sleeps_on_a_ring_that_starts() {
    model(3, || {
        let bell = Arc::new(Bell::new());
        let gate = Arc::new(Gate::new(()));
        let session = {
            let (bell, gate) = (Arc::clone(&bell), Arc::clone(&gate));
            thread::spawn(move || {
                gate.start(|()| ());
                bell.must_ring()
            })
        };
        bell.announce();
        // Whether it gets in or is turned away, it looks again.
        let found = gate.is_live();
        let rung = session.join().unwrap();
        assert!(rung || found, "nobody looks at it");
    });
}
