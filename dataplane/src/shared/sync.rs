//! The atomics of what threads share without a lock.
//!
//! In: nothing. Out: the standard library's, for `bell` and `marks`. Never: more than these two need: `tests/model`
//! compiles them with loom's in this place, and tries every order of their steps.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
