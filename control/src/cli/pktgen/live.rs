//! What a terminal shows while trials run: one line, written over again and again.
//!
//! In: how far a trial is. Out: a line on stderr. Never: a line where nobody looks; one that stays.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::pktgen::stage::Moment;

/// Four times a second is as often as a person reads.
const AGAIN: Duration = Duration::from_millis(250);

/// The line.
#[derive(Debug)]
pub(super) struct Live {
    is_seen: bool,
    written: Option<Instant>,
}

impl Live {
    pub(super) fn new() -> Self {
        Self {
            is_seen: io::stderr().is_terminal(),
            written: None,
        }
    }

    pub(super) fn show(&mut self, moment: Moment) {
        let is_time = self.written.is_none_or(|it| it.elapsed() >= AGAIN);
        if self.is_seen && is_time {
            self.written = Some(Instant::now());
            self.write(&line(&moment));
        }
    }

    /// Takes it away.
    pub(super) fn end(&self) {
        if self.is_seen && self.written.is_some() {
            self.write("");
        }
    }

    /// Nobody is left to tell when stderr is gone.
    fn write(&self, text: &str) {
        let mut out = io::stderr().lock();
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}

fn line(moment: &Moment) -> String {
    let seconds = |ns: u64| ns as f64 / 1e9;
    let (sent, all) = (seconds(moment.sent_for_ns), seconds(moment.duration_ns));
    format!(
        "trial {}: {:.3} Mpps, {} received, {sent:.1} of {all:.1} s, {:.0} s left",
        moment.trial,
        moment.packets_per_s / 1e6,
        moment.received,
        (all - sent).ceil()
    )
}
