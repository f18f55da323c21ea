//! Whom something is read for.
//!
//! In: a client that may leave. Out: whether it is there still. Never: an end to what changes something: that goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client, as who reads for it knows it; the default one stays.
#[derive(Clone, Debug, Default)]
pub struct Audience(Arc<AtomicBool>);

/// Its client is there until this is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Audience);

impl Audience {
    pub(super) fn has_left(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn seat(&self) -> Seat {
        Seat(self.clone())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
