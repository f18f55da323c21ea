//! What others see of a session.
//!
//! In: a session, after each look at it. Out: the same to any thread. Never: a lock.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::{Session, State};

/// A session's state, for who is no part of its thread.
#[derive(Debug)]
pub struct Watch {
    /// A [`State`], by its place.
    state: AtomicU8,
    passes: AtomicBool,
    is_new: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(State::Down as u8),
            passes: AtomicBool::new(true),
            is_new: AtomicBool::new(false),
        }
    }
}

impl Watch {
    /// Notes how a session stands.
    pub(crate) fn note(&self, session: &Session) {
        let state = session.state() as u8;
        let passes = session.passes();
        let is_new = self.state.swap(state, Ordering::Relaxed) != state;
        if self.passes.swap(passes, Ordering::Relaxed) != passes || is_new {
            self.is_new.store(true, Ordering::Release);
        }
    }

    /// The session's state.
    #[must_use]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::AdminDown,
            2 => State::Init,
            3 => State::Up,
            _ => State::Down,
        }
    }

    /// Whether its path may be relied on.
    #[must_use]
    pub fn passes(&self) -> bool {
        self.passes.load(Ordering::Relaxed)
    }

    /// Whether something has changed since the last call.
    pub fn take_news(&self) -> bool {
        self.is_new.load(Ordering::Relaxed) && self.is_new.swap(false, Ordering::Acquire)
    }
}
