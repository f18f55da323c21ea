//! How a process begins: with its file, or with what ran before a change that nobody confirmed.
//!
//! In: the file, what the process before left. Out: the configuration to begin with, and its revision. Never: a change that
//! was taken back, unless an operator applies it again.

use std::sync::Arc;

use super::journal::{Found, Journal};
use super::past::Restored;
use super::revision::{Origin, Outcome, Revision};
use super::sums::Told;
use super::{History, Order, Owed};
use crate::config::{Config, shell_quoted};
use crate::events::Event;

/// What a process starts with.
#[derive(Debug)]
pub struct Beginning {
    /// The configuration.
    pub config: Arc<Config>,
    /// What was tried and not confirmed, whose place a revision takes.
    undone: Option<(u64, u64)>,
    number: Option<u64>,
}

impl Beginning {
    /// Its configuration, and what is to be told when the process has begun with it.
    #[must_use]
    pub fn into_parts(self) -> (Arc<Config>, Option<(u64, u64)>, Option<u64>) {
        (self.config, self.undone, self.number)
    }
}

impl History {
    /// Writes down what became of those whose end the process before could not.
    fn settle(&mut self, journal: &Found) {
        let waits = match journal {
            Found::Waits(journal) => Some(journal.pending),
            Found::Nothing | Found::Unreadable(_) => None,
        };
        let mut all_written = true;
        let open: Vec<_> = self
            .store
            .revisions()
            .filter(|it| Some(it.number) != waits)
            .cloned()
            .collect();
        for it in open {
            let written = match it.outcome {
                Outcome::Begun => {
                    let why = "the process ended while it was applied";
                    tracing::warn!(
                        revision = it.number,
                        "{why}: how much of it came about is not known"
                    );
                    self.store.mark(it.number, Outcome::Unrecorded, why)
                }
                Outcome::Pending if matches!(journal, Found::Unreadable(_)) => {
                    let why = "the journal can't be read: nobody knows whether this was confirmed";
                    let number = it.number;
                    self.notice =
                        Some(format!("revision {number} runs if the file says so; {why}"));
                    self.store.mark(number, Outcome::Unrecorded, why)
                }
                // Without a journal it was kept.
                Outcome::Pending => self.store.mark(it.number, Outcome::Applied, "confirmed"),
                Outcome::Applied | Outcome::RolledBack | Outcome::Unrecorded => Ok(()),
            };
            all_written &= written.is_ok();
        }
        // Without it, what could not be marked would be confirmed at the next start.
        if let Found::Unreadable(why) = journal
            && all_written
        {
            self.store.put_journal_aside(why);
        }
    }

    /// What a process starts with: its file, unless that was tried and not confirmed. `None`: the file has mistakes, and
    /// there is nothing else.
    pub fn begin<E>(&mut self, file: Result<Config, E>) -> Result<Beginning, E> {
        let journal = self.store.journal();
        self.settle(&journal);
        for what in std::mem::take(&mut self.store.set_aside) {
            tracing::error!("the history: {what}");
            let notice = self.notice.take().map_or(String::new(), |it| it + "; ");
            self.notice = Some(format!("{notice}the history was damaged: {what}"));
        }
        if let Found::Waits(journal) = journal {
            match self.restore(journal.previous) {
                Ok(restored) => return Ok(self.go_back(journal, restored)),
                Err(why) => {
                    let (previous, pending) = (journal.previous, journal.pending);
                    let notice = format!(
                        "revision {pending} was not confirmed, and revision {previous} can't be brought back: {why}"
                    );
                    tracing::error!("{notice}; the file is taken");
                    self.notice = Some(notice);
                    self.owe(Owed::Unrecorded(pending));
                }
            }
        }
        let config = file?;
        Ok(self.begin_with(config))
    }

    /// The revision of before runs again.
    fn go_back(&mut self, journal: Journal, restored: Restored) -> Beginning {
        let Journal {
            previous, pending, ..
        } = journal;
        let notice = format!(
            "revision {pending} was not confirmed before the process ended: revision {previous} runs, whatever the file says"
        );
        Event::ConfigRolledBack {
            reason: notice.clone(),
        }
        .tell();
        restored
            .notes
            .iter()
            .for_each(|note| tracing::warn!("{note}"));
        self.notice = Some(notice);
        self.current = Some(previous);
        let order = Order {
            origin: Origin::Rollback,
            message: format!("revision {pending} was not confirmed before the process ended"),
            restores: Some(previous),
            ..Order::default()
        };
        let config = Arc::new(restored.config);
        let told = Told::of(&config, None);
        let number = self.keep(&told, &order);
        self.known = Some(told.summed);
        Beginning {
            number,
            config,
            undone: Some((pending, previous)),
        }
    }

    /// The file runs, unless it is what was taken back for want of a confirmation.
    fn begin_with(&mut self, file: Config) -> Beginning {
        let config = Arc::new(file);
        let told = Told::of(&config, None);
        let last = self.last_applied().map(|it| it.number);
        if let (Some(rejected), Some(number)) = (self.rejected(&told), last)
            && let Ok(restored) = self.restore(number)
        {
            let file = shell_quoted(&told.config().source);
            let notice = format!(
                "the file is revision {rejected}, which was rolled back: revision {number} runs; `culvert apply {file}` takes the file anyway"
            );
            tracing::warn!("{notice}");
            self.notice = Some(notice);
            self.current = Some(number);
            return Beginning {
                config: Arc::new(restored.config),
                undone: None,
                number: None,
            };
        }
        let number = match last {
            Some(number) if self.store.is(number, &told) => {
                self.current = Some(number);
                None
            }
            _ => self.keep(
                &told,
                &Order {
                    origin: Origin::Start,
                    ..Order::default()
                },
            ),
        };
        self.known = Some(told.summed);
        Beginning {
            config,
            undone: None,
            number,
        }
    }

    fn last_applied(&self) -> Option<&Revision> {
        let mut newest = self.store.revisions().rev();
        newest.find(|it| it.outcome == Outcome::Applied)
    }

    /// A revision that runs whether or not it can be written.
    fn keep(&mut self, told: &Told, order: &Order) -> Option<u64> {
        match self.write(told, order) {
            Ok(number) => Some(number),
            Err(error) => {
                tracing::error!(%error, "what runs can't be written to the history");
                None
            }
        }
    }

    /// The process has begun with it.
    pub fn begun(&mut self, undone: Option<(u64, u64)>, number: Option<u64>) {
        if let Some(number) = number {
            let _ = self.store.mark(number, Outcome::Applied, "");
            self.current = Some(number);
        }
        if let Some((pending, previous)) = undone {
            let why = format!(
                "not confirmed before the process ended; revision {previous} was brought back"
            );
            self.owe(Owed::RolledBack(pending, why));
        }
        self.expire();
    }

    /// The process could not begin with it.
    pub fn not_begun(&mut self, number: Option<u64>) {
        if let Some(number) = number {
            self.store.remove(number);
        }
    }
}
