//! A seat: where frames leave and arrive, and the half of a trial that belongs to it.
//!
//! In: the time, a trial's beginning and end. Out: frames at their times, what came. Never: a wait; an allocation while a
//! trial runs.

use std::io;

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

/// A seat: its name, its place, its halves of a trial.
#[derive(Debug)]
pub struct Seat {
    /// What streams call it.
    pub name: String,
    /// What it is.
    pub place: Place,
    /// What it sends and has received in the trial that runs.
    pub halves: Halves,
    /// Whether the device was slower to take frames than they were due, once in this trial.
    pub pushed_back: bool,
}

/// Both halves of a trial.
#[derive(Debug)]
pub struct Halves {
    /// What is sent.
    pub transmit: Transmit,
    /// What came.
    pub receive: Receive,
}

impl Seat {
    /// A seat that sends and receives those streams of a profile that name it.
    #[must_use]
    pub fn new(name: &str, place: Place, profile: &Profile) -> Self {
        let rates = vec![0.0; profile.streams.len()];
        Self {
            name: name.into(),
            place,
            halves: Halves {
                transmit: Transmit::new(profile, name, &rates, 0),
                receive: Receive::new(profile, name, 0),
            },
            pushed_back: false,
        }
    }

    /// Gets ready for a trial, before its clock runs: here a place takes its time.
    pub fn prepare(&mut self, profile: &Profile, packets_per_s: &[f64], trial: u8) {
        self.halves.transmit.again(profile, packets_per_s, trial);
        self.halves.receive.again(profile, trial);
        self.pushed_back = false;
        match &mut self.place {
            Place::Guest(_) => {}
            Place::Memory(memory) => memory.begin(),
        }
    }

    /// When the next frame is due, if there is one.
    #[inline]
    #[must_use]
    pub fn due_ns(&self) -> Option<u64> {
        match &self.place {
            Place::Guest(_) | Place::Memory(_) => self.halves.transmit.due_ns(),
        }
    }

    /// Sends what is due, a burst at most.
    ///
    /// # Errors
    /// The device can't be sent to any more.
    #[inline]
    pub fn send(&mut self, now_ns: u64) -> Result<(), Lost> {
        if self.due_ns().is_none_or(|due| due > now_ns) {
            return Ok(());
        }
        let transmit = &mut self.halves.transmit;
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
        let receive = &mut self.halves.receive;
        match &mut self.place {
            Place::Guest(guest) => guest.receive(receive, now()),
            Place::Memory(memory) => Ok(memory.receive(receive, now())),
        }
    }

    /// Ends sending at a time: what was intended before and has not left is unsent.
    pub fn close(&mut self, now_ns: u64) {
        match &self.place {
            Place::Guest(_) | Place::Memory(_) => self.halves.transmit.close(now_ns),
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

    /// Sits down anew, at a device that has restarted.
    ///
    /// # Errors
    /// It is not there.
    pub fn reconnect(&mut self) -> io::Result<()> {
        match &mut self.place {
            Place::Guest(guest) => guest.reconnect(),
            Place::Memory(_) => Ok(()),
        }
    }
}
