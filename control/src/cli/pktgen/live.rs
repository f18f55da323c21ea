//! What a terminal shows while trials run: one line, written over again and again.
//!
//! In: how far a trial is. Out: a line on stderr. Never: a line where nobody looks; one that stays; a generator that waits
//! for a terminal.
//!
//! A thread of its own writes. It is told by a value that is replaced, and who tells never waits.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::pktgen::stage::Moment;

/// Five times a second is as often as a person reads.
const AGAIN: Duration = Duration::from_millis(200);

/// What is to be shown, until it is.
type Told = Arc<Mutex<Option<Moment>>>;

/// The line.
#[derive(Debug, Default)]
pub(super) struct Live {
    told: Told,
    /// Nobody looks: none.
    writer: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Live {
    /// A line, if somebody looks. Before the calling thread takes a processor for itself, which the line's would take, too.
    pub(super) fn new() -> io::Result<Self> {
        let mut live = Self::default();
        if io::stderr().is_terminal() {
            let told = Arc::clone(&live.told);
            let (ended, is_ended) = mpsc::channel();
            let writer = thread::Builder::new().name("live".into());
            let writer = writer.spawn(move || {
                let mut is_seen = false;
                while is_ended.recv_timeout(AGAIN) == Err(RecvTimeoutError::Timeout) {
                    let moment = told.lock().ok().and_then(|mut it| it.take());
                    if let Some(moment) = moment {
                        is_seen = true;
                        write(&line(&moment));
                    }
                }
                if is_seen {
                    write("");
                }
            })?;
            live.writer = Some((ended, writer));
        }
        Ok(live)
    }

    pub(super) fn show(&self, moment: Moment) {
        if self.writer.is_some()
            && let Ok(mut told) = self.told.try_lock()
        {
            *told = Some(moment);
        }
    }

    /// Takes it away.
    pub(super) fn end(self) {
        if let Some((ended, writer)) = self.writer {
            drop(ended);
            // It has ended, or has nothing to say.
            let _ = writer.join();
        }
    }
}

/// Nobody is left to tell when stderr is gone.
fn write(text: &str) {
    let mut out = io::stderr().lock();
    let _ = write!(out, "\r\x1b[K{text}");
    let _ = out.flush();
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
