//! A seat: where frames leave and arrive, and the half of a trial that belongs to it.
//!
//! In: the time, a trial's beginning and end. Out: frames at their times, what came. Never: a wait; an allocation while a
//! trial runs.

use culvert_pktgen::{Profile, Receive, Transmit};
use culvert_vhost::frontend::Broken;

use super::guest::Guest;
use super::memory::Memory;

/// Frames that a seat sends or takes at a time, as DPDK's applications do.
pub const BURST: usize = 32;

/// The device is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It did something with its rings that no device may do.
    #[error("{0}")]
    Broken(#[from] Broken),
    /// It has gone, and was not found again.
    #[error("there is no connection")]
    Gone,
}

/// What a seat is.
#[derive(Debug)]
pub enum Place {
    /// A guest's.
    Guest(Guest),
    /// A loop in memory.
    Memory(Memory),
}

/// A seat.
#[derive(Debug)]
pub struct Seat {
    /// What streams call it.
    pub name: String,
    /// What it is.
    pub place: Place,
    /// What it sends in the trial that runs,
    pub transmit: Transmit,
    /// and what it has received.
    pub receive: Receive,
    /// Whether the device was slower to take frames than they were due, once in this trial.
    pub pushed_back: bool,
}

impl Seat {
    /// A seat that sends and receives those streams of a profile that name it.
    #[must_use]
    pub fn new(name: &str, place: Place, profile: &Profile) -> Self {
        let rates = vec![0.0; profile.streams.len()];
        Self {
            transmit: Transmit::new(profile, name, &rates, 0),
            receive: Receive::new(profile, name, 0),
            name: name.into(),
            place,
            pushed_back: false,
        }
    }

    /// Begins a trial.
    pub fn begin(&mut self, profile: &Profile, packets_per_s: &[f64], trial: u8) {
        self.transmit.again(profile, packets_per_s, trial);
        self.receive.again(profile, trial);
        self.pushed_back = false;
    }

    /// Sends what is due, a burst at most.
    ///
    /// # Errors
    /// The device can't be sent to any more.
    #[inline]
    pub fn send(&mut self, now_ns: u64) -> Result<(), Lost> {
        if self.transmit.due_ns().is_none_or(|due| due > now_ns) {
            return Ok(());
        }
        let transmit = &mut self.transmit;
        let is_full = match &mut self.place {
            Place::Guest(guest) => guest.send(transmit, now_ns)?,
            Place::Memory(memory) => memory.send(transmit, now_ns),
        };
        self.pushed_back |= is_full;
        Ok(())
    }

    /// Takes what came, a burst at most. `now` is the time at which it was looked for. Returns how many frames there were.
    ///
    /// # Errors
    /// The device can't be heard any more.
    #[inline]
    pub fn receive(&mut self, now: impl FnOnce() -> u64) -> Result<usize, Lost> {
        match &mut self.place {
            Place::Guest(guest) => guest.receive(&mut self.receive, now()),
            Place::Memory(memory) => Ok(memory.receive(&mut self.receive, now())),
        }
    }

    /// Whether the device is still there. A system call.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match &self.place {
            Place::Guest(guest) => guest.is_connected(),
            Place::Memory(_) => true,
        }
    }
}
