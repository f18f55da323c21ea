//! What happens, told once: to the log, and to whoever follows the events.
//!
//! In: an event at the place where it is noticed. Out: a line of the log by the same words, and a record in a ring of the
//! last [`KEPT`]. Never: a wait for who follows; a secret; memory that grows with what happens, or with who follows.
//!
//! Rooms: [`kinds`] what there is to tell, [`ring`] where it is kept, [`time`] how a time is written.
//!
//! The control core tells most of it. That costs it a line of the log, a short lock and an `Arc`; texts are made by
//! those who read. One cause, an event of one kind about one thing, has no more records than lines of the log.

mod kinds;
mod ring;
mod time;

use std::sync::LazyLock;

pub use self::{
    kinds::{Event, KINDS, Kind},
    ring::{Batch, KEPT, Record, Ring},
    time::rfc3339,
};

/// The process's events, as the log is the process's.
pub static EVENTS: LazyLock<Ring> = LazyLock::new(Ring::default);

impl Event {
    /// Tells it: logs it, and keeps it for those who follow.
    pub fn tell(self) {
        self.log();
        EVENTS.push(self);
    }
}
