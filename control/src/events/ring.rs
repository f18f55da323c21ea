//! The last events, with numbers.
//!
//! In: events. Out: records, from a number on. Never: more than [`KEPT`] of them; a wait of who tells for who reads.
//!
//! Whoever reads asks for what comes behind a number that it knows. What is not kept any more it is told as a count, so
//! the slowest reader costs nobody memory; readers look for news themselves, so that nobody has to be woken.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{Event, KINDS, rfc3339};
use crate::config::Labels;
use crate::process::log::limit::Limit;

/// Events that are kept: some minutes of a busy machine, and some MB.
pub const KEPT: usize = 8_192;

/// One event as it is kept.
#[derive(Debug)]
pub struct Record {
    /// From 1, without a gap.
    pub number: u64,
    /// Since 1970.
    pub at: Duration,
    /// Records like it that were left out before, because there were too many.
    pub left_out: u64,
    /// What happened.
    pub event: Event,
    /// What others called it then that this is about.
    pub labels: Labels,
}

impl Record {
    /// As programs read it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let kind = self.event.kind();
        let mut record = json!({
            "number": self.number,
            "time": rfc3339(self.at),
            "type": kind.word,
            "object": self.event.object(),
            "text": kind.text,
            "left_out": self.left_out,
            "fields": self.event,
        });
        if !self.labels.is_empty() {
            record["labels"] = json!(self.labels.to_map());
        }
        record
    }
}

/// What was read at once.
#[derive(Debug)]
pub struct Batch {
    /// Events that came behind the number and are not kept any more.
    pub lost: u64,
    /// In their order.
    pub records: Vec<Arc<Record>>,
    /// The number of the last event that this batch speaks of.
    pub last: u64,
}

/// The last events.
pub struct Ring {
    kept: Mutex<Kept>,
    limit: Limit<Event>,
    /// Tells this run's numbers from those of another.
    run: u64,
    counts: [AtomicU64; KINDS.len()],
    left_out: AtomicU64,
    /// Of things that have some, by what they are called.
    labels: Mutex<HashMap<String, Labels>>,
}

#[derive(Default)]
struct Kept {
    records: VecDeque<Arc<Record>>,
    /// The last event's number.
    last: u64,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("run", &self.run)
            .finish_non_exhaustive()
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            limit: Limit::default(),
            run: now().as_secs(),
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            left_out: AtomicU64::new(0),
            labels: Mutex::default(),
        }
    }
}

impl Ring {
    /// Keeps an event, unless its cause has too many.
    pub fn push(&self, event: Event) {
        self.push_at(event, Instant::now());
    }

    fn push_at(&self, event: Event, now: Instant) {
        self.counts[event.index()].fetch_add(1, Ordering::Relaxed);
        let place = hash(event.kind().word);
        let object = event.object();
        // An operator's doings are about nothing else.
        let thing = (object != "configuration").then(|| hash((place, object)));
        // What is not admitted is the last one of its cause, perhaps, and kept later.
        let admitted = self.limit.admit_cause(place, thing, || event.clone(), now);
        if let Some(left_out) = admitted {
            self.keep(event, left_out);
        }
    }

    /// Keeps the last events of causes that had too many, once they may have one again.
    pub fn tell_left_out(&self) {
        for (event, left_out) in self.limit.due(Instant::now()) {
            // It is one of them itself.
            self.keep(event, left_out.saturating_sub(1));
        }
    }

    /// What others call a thing from now on: `port vm1`, `peer wg0/hv-b`.
    pub fn label(&self, object: String, labels: &Labels) {
        let mut all = self.labels();
        match labels.is_empty() {
            true => drop(all.remove(&object)),
            false => drop(all.insert(object, labels.clone())),
        }
    }

    fn labels(&self) -> MutexGuard<'_, HashMap<String, Labels>> {
        self.labels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, event: Event, left_out: u64) {
        self.left_out.fetch_add(left_out, Ordering::Relaxed);
        let labels = self.labels().get(&event.object()).cloned();
        let mut kept = self.kept();
        kept.last += 1;
        if kept.records.len() == KEPT {
            kept.records.pop_front();
        }
        let record = Record {
            number: kept.last,
            at: now(),
            left_out,
            labels: labels.unwrap_or_default(),
            event,
        };
        kept.records.push_back(Arc::new(record));
    }

    /// At most `most` events behind the one of this number.
    #[must_use]
    pub fn behind(&self, number: u64, most: usize) -> Batch {
        let kept = self.kept();
        let number = number.min(kept.last);
        let first = kept.records.front().map_or(kept.last + 1, |it| it.number);
        let lost = first.saturating_sub(number + 1);
        let from = usize::try_from((number + 1).saturating_sub(first)).unwrap_or(usize::MAX);
        let records: Vec<_> = kept.records.iter().skip(from).take(most).cloned().collect();
        let last = records.last().map_or(number + lost, |it| it.number);
        Batch {
            lost,
            records,
            last,
        }
    }

    /// The last event's number; 0 before the first.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.kept().last
    }

    /// Which run's numbers these are.
    #[must_use]
    pub fn run(&self) -> u64 {
        self.run
    }

    /// How often each kind of event happened, those that were left out with them.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.counts.iter().map(|it| it.load(Ordering::Relaxed));
        KINDS.iter().map(|kind| kind.word).zip(counts)
    }

    /// Events that were left out, as the records say that came behind them: the last one of a cause is kept in the end.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

fn now() -> Duration {
    // A clock before 1970 is none.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Name;

    fn gone(port: usize) -> Event {
        Event::VmmConnected {
            port: Name::new(&format!("p{port}")).unwrap(),
        }
    }

    #[test]
    fn who_knows_a_number_gets_what_comes_behind_it() {
        let ring = Ring::default();
        assert_eq!(ring.behind(0, 10).last, 0);
        (0..5).for_each(|port| ring.push(gone(port)));
        let batch = ring.behind(2, 2);
        let numbers: Vec<_> = batch.records.iter().map(|it| it.number).collect();
        assert_eq!((batch.lost, numbers, batch.last), (0, vec![3, 4], 4));
        let batch = ring.behind(5, 2);
        assert_eq!((batch.lost, batch.records.len(), batch.last), (0, 0, 5));
        // A number of the future is none of this run.
        assert_eq!(ring.behind(99, 2).last, 5);
    }

    #[test]
    fn who_is_too_slow_is_told_how_many_are_lost() {
        let ring = Ring::default();
        // Of things enough, and slowly enough for causes that are told apart no more.
        let mut now = Instant::now();
        for port in 0..KEPT + 100 {
            ring.push_at(gone(port), now);
            now += Duration::from_secs(2);
        }
        let batch = ring.behind(10, 3);
        assert_eq!(batch.lost, 90);
        assert_eq!(batch.records[0].number, 101);
        assert_eq!(ring.last(), (KEPT + 100) as u64);
        assert_eq!(ring.behind(10, usize::MAX).records.len(), KEPT);
    }

    #[test]
    fn one_cause_does_not_push_out_the_others() {
        let ring = Ring::default();
        let now = Instant::now();
        (0..1_000).for_each(|_| ring.push_at(gone(1), now));
        ring.push_at(gone(2), now);
        assert_eq!(ring.last(), 21);
        assert_eq!(ring.left_out(), 0);
        let count = ring.counts().find(|(word, _)| *word == "vmm-connected");
        assert_eq!(count, Some(("vmm-connected", 1_001)));
        ring.push_at(gone(1), now + Duration::from_secs(5));
        let batch = ring.behind(21, 10);
        assert_eq!(batch.records[0].left_out, 980);
        assert_eq!(ring.left_out(), 980);
        // What is told later was not left out.
        let long_ago = now - Duration::from_secs(60);
        (0..30).for_each(|_| ring.push_at(gone(3), long_ago));
        ring.tell_left_out();
        let told = ring.behind(ring.last() - 1, 1);
        assert_eq!(told.records[0].left_out, 9);
        assert_eq!(ring.left_out(), 989);
    }
}
