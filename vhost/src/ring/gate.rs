//! A ring's gate: whose turn it is.
//!
//! In: workers, who try and go on; the session thread, who waits. Out: what is inside, to one of them at a time.
//! Never: a worker who waits, or gets into a ring that has stopped or failed.
//!
//! The lock is what orders everything. The flags beside it spare workers the lock of a ring that doesn't run, and keep
//! one that polls without pause from starving the session thread. Two threads or three, tried in every order of their
//! steps: `tests/model`.

use std::sync::{PoisonError, TryLockError};

use super::sync::{AtomicBool, AtomicU8, Mutex, MutexGuard, Ordering};

/// A ring's life: what is inside is of use while it is live.
pub(crate) struct Gate<T> {
    /// True while the session thread wants to get in. Nothing else is told by it.
    is_shut: AtomicBool,
    /// Changes under the lock, but for the session thread's word that nobody shall come any more.
    is_live: AtomicBool,
    /// Why it failed; 0 if it didn't.
    fault: AtomicU8,
    inside: Mutex<T>,
}

/// What a worker gets who wants to get in.
pub(crate) enum Attempt<'a, T> {
    Locked(MutexGuard<'a, T>),
    Busy,
    NotReady,
}

impl<T> Gate<T> {
    /// Not live.
    pub(crate) fn new(inside: T) -> Self {
        Self {
            is_shut: AtomicBool::new(false),
            is_live: AtomicBool::new(false),
            fault: AtomicU8::new(0),
            inside: Mutex::new(inside),
        }
    }

    /// A look without the lock. Who sees it live sees what was prepared for it before the start.
    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.is_live.load(Ordering::Acquire)
    }

    /// Why it failed last; 0 if it didn't since it started. Who sees the fault sees it no longer live.
    pub(crate) fn fault(&self) -> u8 {
        self.fault.load(Ordering::Acquire)
    }

    /// Worker: gets in if it is live and nobody is inside.
    #[inline]
    pub(crate) fn try_enter(&self) -> Attempt<'_, T> {
        if !self.is_live() {
            return Attempt::NotReady;
        }
        if self.is_shut.load(Ordering::Relaxed) {
            return Attempt::Busy;
        }
        let inside = match self.inside.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Attempt::Busy,
        };
        // Who was inside since the first look may have stopped it, or failed.
        if self.is_live.load(Ordering::Relaxed) {
            Attempt::Locked(inside)
        } else {
            Attempt::NotReady
        }
    }

    /// Session thread: waits for whoever is inside.
    pub(crate) fn enter(&self) -> MutexGuard<'_, T> {
        self.is_shut.store(true, Ordering::Relaxed);
        let inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_shut.store(false, Ordering::Relaxed);
        inside
    }

    /// Session thread: makes it live, once `prepare` has put inside what workers need.
    pub(crate) fn start(&self, prepare: impl FnOnce(&mut T)) {
        let mut inside = self.enter();
        self.fault.store(0, Ordering::Relaxed);
        prepare(&mut inside);
        self.is_live.store(true, Ordering::Release);
    }

    /// Session thread: lets nobody in any more, waits for who is inside, and takes out what workers needed.
    pub(crate) fn stop<R>(&self, take: impl FnOnce(&mut T) -> R) -> R {
        self.is_live.store(false, Ordering::Relaxed);
        take(&mut self.enter())
    }

    /// Who is inside, or the session thread that can't start it: nobody gets in any more, until it is started again.
    /// What is inside stays.
    pub(crate) fn fail(&self, fault: u8) {
        self.is_live.store(false, Ordering::Relaxed);
        self.fault.store(fault, Ordering::Release);
    }
}
