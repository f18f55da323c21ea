//! What ran, who applied it, and the way back.
//!
//! In: configurations that are applied, with their keys. Out: revisions in the state directory; one of them again. Never:
//! a change of what runs: whoever applies asks here before and tells after.
//!
//! Rooms: [`start`] how a process begins, [`revision`] what is known of one, [`past`] one of them again, [`refused`]
//! files with revoked keys, [`sums`] what tells one from another, [`store`] their files, [`texts`] those of their texts,
//! [`keys`] what their key files held, [`journal`] what is on the disk while a change waits for its confirmation,
//! [`pending`] that change.
//!
//! An apply writes its revision first, then the journal if it wants to be confirmed, and asks the engine only then; what
//! the engine refuses leaves neither. A process that ends in between starts with its file, or, while there is a journal,
//! with the revision of before.

mod journal;
mod keys;
mod past;
pub mod pending;
mod refused;
pub mod revision;
mod start;
mod store;
mod sums;
mod texts;

use std::io;
use std::path::Path;
use std::sync::Arc;

use culvert_directory::Directory;

use self::journal::Journal;
pub(crate) use self::past::NotRestored;
use self::pending::{Pending, Wanted};
pub(crate) use self::refused::refuse_revoked_of;
use self::revision::{Origin, Outcome, Revision, unix_now};
pub use self::start::Beginning;
use self::store::Store;
use self::sums::{Summed, Told};
use crate::config::{self, Config, Name};
use crate::keys::PublicKey;
use crate::state;

/// Who applies, and how.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The way that it came.
    pub origin: Origin,
    /// The user who wants it.
    pub user: String,
    /// The uplink by whose own stack he asks.
    pub uplink: Option<Name>,
    /// What he says of it.
    pub message: String,
    /// It is taken back unless it is confirmed.
    pub confirm: Option<pending::Confirm>,
    /// Nothing is changed.
    pub dry_run: bool,
    /// The revision that it brings back.
    pub restores: Option<u64>,
}

/// Bytes of what is said of a change: a line, not a text.
const MESSAGE_MAX: usize = 1024;

/// Whether that may be said of a change: it is shown on terminals.
pub(crate) fn check_message(message: &str) -> Result<(), String> {
    match message.len() <= MESSAGE_MAX && !message.contains(config::is_unseen) {
        true => Ok(()),
        false => Err(format!(
            "a message is one line of at most {MESSAGE_MAX} bytes without control characters and others that are not seen"
        )),
    }
}

/// Why an apply can't have its revision, and is not begun.
#[derive(Debug)]
pub(crate) enum Unkept {
    /// Another change waits for its confirmation.
    Pending(state::Pending),
    /// It was taken back before, and nobody wants it but what follows the file.
    Rejected(u64),
    /// The disk has no room for it.
    Disk(io::Error),
    /// Nothing ran before that could be brought back.
    NoWayBack,
}

/// What an apply has in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing: it is what runs.
    Same(Option<u64>),
    /// A revision of its own.
    New(u64),
    /// It is what waits already, for longer now.
    Extended(u64),
}

/// Why what waits is not kept.
#[derive(Debug)]
pub(crate) enum NotConfirmed {
    /// Nothing waits, or something else.
    Conflict(String),
    /// A start would take it back still: it waits on.
    Disk(io::Error),
}

/// An end that is not on the disk yet. Until it is, a start goes back to what the journal names, and no other change is
/// begun.
#[derive(Debug)]
enum Owed {
    /// The revision was rolled back, and why.
    RolledBack(u64, String),
    /// It can't be brought back, nor is it known to be confirmed.
    Unrecorded(u64),
    /// The engine never ran it.
    Withdrawn(u64),
}

impl Owed {
    fn number(&self) -> u64 {
        match self {
            Self::RolledBack(number, _) | Self::Unrecorded(number) | Self::Withdrawn(number) => {
                *number
            }
        }
    }
}

/// What is known of the past.
pub struct History {
    store: Store,
    pending: Option<Pending>,
    owed: Option<Owed>,
    /// Why it is owed still, as it was told.
    told_owed: Option<String>,
    /// A thread tries again.
    is_attended: bool,
    /// The revision that runs.
    current: Option<u64>,
    /// The sums of what runs, and of what was entered and is carried out now.
    known: Option<Summed>,
    entered: Option<Summed>,
    /// What an operator has to know of the start or the last rollback.
    notice: Option<String>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History")
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl History {
    /// Opens what is kept in a state directory.
    ///
    /// # Errors
    ///
    /// When the directory can't be used. What is damaged in it is set aside, and logged.
    pub fn open(state_dir: &Directory) -> io::Result<Self> {
        let store = Store::open(state_dir)?;
        Ok(Self {
            store,
            pending: None,
            owed: None,
            told_owed: None,
            is_attended: false,
            current: None,
            known: None,
            entered: None,
            notice: None,
        })
    }

    fn write(&mut self, told: &Told, order: &Order) -> io::Result<u64> {
        let number = self.store.next();
        let revision = Revision {
            number,
            hash: told.hash.clone(),
            unix: unix_now(),
            user: order.user.clone(),
            origin: order.origin,
            message: order.message.clone(),
            outcome: Outcome::Begun,
            why: String::new(),
            path: told.config().source.clone(),
            restores: order.restores,
        };
        self.store.add(revision, told)?;
        Ok(number)
    }

    /// The revision by which a configuration was taken back last, unless it was applied again since.
    fn rejected(&self, told: &Told) -> Option<u64> {
        let last = self.store.newest(told)?;
        (last.outcome == Outcome::RolledBack).then_some(last.number)
    }

    /// Before the engine is asked: its revision, and the journal, are on the disk.
    pub(crate) fn enter(
        &mut self,
        config: &Arc<Config>,
        order: &Order,
        wanted: Option<&Wanted>,
    ) -> Result<Entry, Unkept> {
        let told = Told::of(config, self.known.as_ref());
        let entry = self.enter_told(&told, order, wanted)?;
        self.entered = Some(told.summed);
        Ok(entry)
    }

    fn enter_told(
        &mut self,
        told: &Told,
        order: &Order,
        wanted: Option<&Wanted>,
    ) -> Result<Entry, Unkept> {
        let waits = self.pending.as_mut();
        if let Some(pending) = waits.filter(|it| !it.is_lifted) {
            let number = pending.number;
            let same = self.store.is(number, told);
            let Some(wanted) = wanted.filter(|_| same) else {
                return Err(Unkept::Pending(pending.told()));
            };
            let journal =
                Journal::new(pending.previous, number, unix_now() + wanted.wait.as_secs());
            self.store.write_journal(&journal).map_err(Unkept::Disk)?;
            pending.extend(wanted);
            return Ok(Entry::Extended(number));
        }
        if self.current.is_some_and(|it| self.store.is(it, told)) {
            return Ok(Entry::Same(self.current));
        }
        if let Some(number) = self
            .rejected(told)
            .filter(|_| order.origin == Origin::Watch)
        {
            return Err(Unkept::Rejected(number));
        }
        if self.pending.is_none() {
            self.settle_owed().map_err(Unkept::Disk)?;
        }
        let previous = self.current;
        if wanted.is_some() && previous.is_none() {
            return Err(Unkept::NoWayBack);
        }
        let number = match self.write(told, order) {
            Ok(number) => number,
            // The way back needs no room: what it leads to is kept already.
            Err(error) if order.origin == Origin::Rollback && wanted.is_none() => {
                tracing::error!(%error, "a rollback can't be written to the history, and is done");
                return Ok(Entry::Same(order.restores));
            }
            Err(error) => return Err(Unkept::Disk(error)),
        };
        if let Some((wanted, previous)) = wanted.zip(previous) {
            let journal = Journal::new(previous, number, unix_now() + wanted.wait.as_secs());
            if let Err(error) = self.store.write_journal(&journal) {
                self.owe(Owed::Withdrawn(number));
                return Err(Unkept::Disk(error));
            }
        }
        Ok(Entry::New(number))
    }

    /// The engine refused it.
    pub(crate) fn withdraw(&mut self, entry: Entry, wanted: Option<&Wanted>) {
        self.entered = None;
        if let Entry::New(number) = entry {
            match wanted {
                Some(_) => self.owe(Owed::Withdrawn(number)),
                None => self.store.remove(number),
            }
        }
    }

    /// Writes an end down, now or later.
    fn owe(&mut self, owed: Owed) {
        self.owed = Some(owed);
        let _ = self.settle_owed();
    }

    fn owes(&self) -> Option<u64> {
        self.owed.as_ref().map(Owed::number)
    }

    /// The revision whose end is not on the disk yet, if nobody sees to that: the caller does from now on.
    pub(crate) fn attend_owed(&mut self) -> Option<u64> {
        let owes = self.owes()?;
        (!std::mem::replace(&mut self.is_attended, true)).then_some(owes)
    }

    /// Writes down what is owed. Each cause that keeps it from that is told once.
    fn settle_owed(&mut self) -> io::Result<()> {
        let Some(number) = self.owes() else {
            return Ok(());
        };
        let settled = self.try_settle();
        match &settled {
            Err(error) => {
                let told = Some(error.to_string());
                if self.told_owed != told {
                    tracing::error!(revision = number, %error, "what became of a revision can't be written down, which is tried again");
                    self.told_owed = told;
                }
            }
            Ok(()) if self.told_owed.take().is_some() => {
                tracing::info!(
                    revision = number,
                    "what became of a revision is written down now"
                );
            }
            Ok(()) => {}
        }
        settled
    }

    /// The mark first, as without a journal what is pending is confirmed.
    fn try_settle(&mut self) -> io::Result<()> {
        match &self.owed {
            Some(Owed::RolledBack(number, why)) => {
                self.store.try_mark(*number, Outcome::RolledBack, why)?;
            }
            Some(Owed::Unrecorded(number)) => {
                let why = "the process ended while it was pending";
                self.store.try_mark(*number, Outcome::Unrecorded, why)?;
            }
            None | Some(Owed::Withdrawn(_)) => {}
        }
        self.store.end_journal()?;
        self.is_attended = false;
        if let Some(Owed::Withdrawn(number)) = self.owed.take() {
            self.store.remove(number);
        }
        Ok(())
    }

    /// The engine has carried it out. Whether it waits for a confirmation now.
    pub(crate) fn applied(&mut self, entry: Entry, order: &Order, wanted: Option<&Wanted>) -> bool {
        self.known = self.entered.take();
        match (entry, wanted.zip(self.current)) {
            (Entry::Same(number), _) => {
                self.current = number.or(self.current);
                false
            }
            (Entry::Extended(_), _) => false,
            (Entry::New(number), Some((wanted, previous))) => {
                let _ = self.store.mark(number, Outcome::Pending, "");
                self.pending = Some(Pending::new(number, previous, &order.user, wanted));
                self.current = Some(number);
                true
            }
            (Entry::New(number), None) => {
                let _ = self.store.mark(number, Outcome::Applied, "");
                self.current = Some(number);
                self.notice = None;
                self.expire();
                false
            }
        }
    }

    fn expire(&mut self) {
        // The journal names what it is about.
        if self.owed.is_some() {
            return;
        }
        let pending = self.pending.as_ref().map(|it| [it.previous, it.number]);
        let needed: Vec<_> = pending.into_iter().flatten().chain(self.current).collect();
        self.store.expire(&needed);
    }

    /// Keeps what waits; answers its number.
    pub(crate) fn confirm(&mut self, number: Option<u64>, why: &str) -> Result<u64, NotConfirmed> {
        let Some(pending) = &self.pending else {
            return Err(NotConfirmed::Conflict(self.nothing_pending(number)));
        };
        let waiting = pending.number;
        if let Some(number) = number.filter(|&number| number != waiting) {
            return Err(NotConfirmed::Conflict(format!(
                "revision {waiting} waits for a confirmation, not revision {number}"
            )));
        }
        // What counts: from here on a start takes the file.
        self.store.end_journal().map_err(NotConfirmed::Disk)?;
        self.pending = None;
        let _ = self.store.mark(waiting, Outcome::Applied, why);
        self.notice = None;
        self.expire();
        Ok(waiting)
    }

    fn nothing_pending(&self, number: Option<u64>) -> String {
        let revision = number.and_then(|number| self.store.revision(number));
        match revision {
            Some(it) => {
                let why = if it.why.is_empty() {
                    String::new()
                } else {
                    format!(": {}", it.why)
                };
                format!(
                    "revision {} waits for no confirmation: it is {}{why}",
                    it.number, it.outcome
                )
            }
            None => "nothing waits for a confirmation".into(),
        }
    }

    /// What waits, and what ran before it.
    pub(crate) fn waiting(&self) -> Option<(u64, u64)> {
        self.pending.as_ref().map(|it| (it.number, it.previous))
    }

    /// From here on an apply of what ran before is let through.
    pub(crate) fn lift(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.is_lifted = true;
        }
    }

    /// That was a question.
    pub(crate) fn put_down(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.is_lifted = false;
        }
    }

    /// It could not be taken back, and waits on.
    pub(crate) fn put_back(&mut self, why: &str) {
        self.put_down();
        if let Some((number, _)) = self.waiting() {
            self.notice = Some(format!(
                "revision {number} could not be rolled back, and is tried again when its time is over: {why}"
            ));
        }
    }

    /// It was taken back.
    pub(crate) fn taken_back(&mut self, why: &str) {
        let Some(pending) = self.pending.take() else {
            return;
        };
        self.owe(Owed::RolledBack(pending.number, why.to_owned()));
        self.notice = Some(format!(
            "revision {} was rolled back: {why}; revision {} runs again",
            pending.number, pending.previous
        ));
        self.expire();
    }

    /// The newest first.
    pub(crate) fn revisions(&self) -> Vec<Revision> {
        self.store.revisions().rev().cloned().collect()
    }

    /// What runs, what waits, and what an operator has to know.
    pub fn tell(&self, status: &mut state::Status) {
        status.revision = self.current;
        status.pending = self.told_pending();
        status.notice.clone_from(&self.notice);
    }

    pub(crate) fn current(&self) -> Option<u64> {
        self.current
    }

    pub(crate) fn told_pending(&self) -> Option<state::Pending> {
        self.pending.as_ref().map(Pending::told)
    }

    /// What is in the way of another change.
    pub(crate) fn hindrance(&self) -> Option<state::Pending> {
        let pending = self.pending.as_ref().filter(|it| !it.is_lifted);
        pending.map(Pending::told)
    }

    /// Forgets revisions, or their keys alone: all of them, or none if one can't be.
    pub(crate) fn purge(&mut self, numbers: &[u64], keys_only: bool) -> Result<(), String> {
        for &number in numbers {
            self.may_purge(number, keys_only)?;
        }
        for &number in numbers {
            if keys_only {
                let purged = self.store.purge_keys(number);
                purged.map_err(|error| format!("the keys of revision {number}: {error}"))?;
            } else {
                self.store.remove(number);
            }
        }
        Ok(())
    }

    /// Why a revision, or its keys alone, can't be forgotten.
    pub(crate) fn may_purge(&mut self, number: u64, keys_only: bool) -> Result<(), String> {
        if self.store.revision(number).is_none() {
            return Err(format!("there is no revision {number}"));
        }
        let settled = self.settle_owed();
        settled
            .map_err(|error| format!("what became of the last change is not written: {error}"))?;
        if let Some(pending) = self
            .pending
            .as_ref()
            .filter(|it| it.previous == number || it.number == number)
        {
            return Err(format!(
                "revision {number} is needed while revision {} waits for its confirmation",
                pending.number
            ));
        }
        match !keys_only && self.current == Some(number) {
            true => Err(format!(
                "revision {number} runs: only its keys can be purged"
            )),
            false => Ok(()),
        }
    }

    /// Whether no rollback brings that key back.
    #[must_use]
    pub fn is_revoked(&self, key: &PublicKey) -> bool {
        self.store.revoked.has(key)
    }

    /// No rollback brings that key back.
    pub(crate) fn revoke(&mut self, key: &PublicKey) -> io::Result<()> {
        self.store.revoke(key)
    }
}

/// Whether a change waited for its confirmation when the process before ended.
#[must_use]
pub fn is_interrupted(state_dir: &Path) -> bool {
    store::path(state_dir)
        .join(journal::JOURNAL)
        .symlink_metadata()
        .is_ok()
}
