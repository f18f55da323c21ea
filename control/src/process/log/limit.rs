//! How many lines one cause may have.
//!
//! In: lines as they come. Out: whether a line is written, and how many like it were left out before; the last one that
//! was left out, once its cause may have a line again: how things stand is in the log in the end. Never: a line of one
//! port, peer or tunnel that another one's keep from being written; memory beyond [`CAUSES`].
//!
//! Guests, VMMs, peers and clients of the sockets cause lines, as many as they like: one that only connects to a
//! port's socket and leaves again has tens of thousands a second to give. A line's cause is where in the source it is
//! written, and which thing it is about. Where it is about none, an operator has asked for it. Events ([`crate::events`])
//! are limited by the same, for whoever follows them.

use std::collections::HashMap;
use std::fmt::{self, Debug, Write as _};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// Fields that name what a line is about.
pub(super) const THINGS: [&str; 7] = [
    "port",
    "tunnel",
    "peer",
    "uplink",
    "network",
    "interface",
    "object",
];
/// Lines about one thing in a row, and how often there is one more.
const OF_ONE: Rate = Rate::new(20, Duration::from_secs(5));
/// The same where a line is about no thing: an `apply` of many changes has that many lines.
const OF_ALL: Rate = Rate::new(1_000, Duration::from_secs(1));
/// Causes that are told apart at once. Beyond them a line counts as if it were about no thing.
const CAUSES: usize = 4_096;

/// Lines that were left out since the start.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// Lines that were left out since the start.
pub(super) fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    each: Duration,
}

impl Rate {
    const fn new(burst: u32, each: Duration) -> Self {
        Self { burst, each }
    }
}

/// All causes that wrote lately; `L` is what is kept of the last line that was left out.
pub(crate) struct Limit<L>(Mutex<Causes<L>>);

struct Causes<L> {
    known: HashMap<u64, Cause<L>>,
    /// When those that rest were forgotten last, because there were too many.
    swept: Option<Instant>,
}

struct Cause<L> {
    rate: Rate,
    /// When it has had no line for long enough.
    rested: Instant,
    left_out: u64,
    last: Option<L>,
}

/// The last line that was left out.
pub(super) struct LeftOut {
    pub(super) level: Level,
    pub(super) text: String,
}

impl<L> Cause<L> {
    /// Takes room for one line, if there is some.
    fn take(&mut self, now: Instant) -> bool {
        let rested = self.rested.max(now) + self.rate.each;
        let is_free = rested <= now + self.rate.each * self.rate.burst;
        if is_free {
            self.rested = rested;
        }
        is_free
    }
}

impl<L> Default for Limit<L> {
    fn default() -> Self {
        Self(Mutex::new(Causes {
            known: HashMap::new(),
            swept: None,
        }))
    }
}

impl Limit<LeftOut> {
    /// Whether an event's line is written: then how many like it were left out before. What only those see who asked
    /// for it (`debug`, `trace`) has no limit.
    /// `text` makes the line's.
    pub(super) fn admit(
        &self,
        event: &Event<'_>,
        text: impl FnOnce() -> String,
        now: Instant,
    ) -> Option<u64> {
        let level = *event.metadata().level();
        if level > Level::INFO {
            return Some(0);
        }
        let mut thing = Thing::default();
        event.record(&mut thing);
        let mut hasher = DefaultHasher::new();
        event.metadata().callsite().hash(&mut hasher);
        let place = hasher.finish();
        let left_out = || LeftOut {
            level,
            text: text(),
        };
        let admitted = self.admit_cause(place, thing.hash(place), left_out, now);
        if admitted.is_none() {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }
}

impl<L> Limit<L> {
    /// Whether one more may come of a cause: of `thing`, or of all that comes from `place`. Then how many were left out
    /// before.
    pub(crate) fn admit_cause(
        &self,
        place: u64,
        thing: Option<u64>,
        left_out: impl FnOnce() -> L,
        now: Instant,
    ) -> Option<u64> {
        let mut causes = self.causes();
        let (key, rate) = match thing {
            Some(thing) if causes.has_room(thing, now) => (thing, OF_ONE),
            Some(_) | None => (place, OF_ALL),
        };
        let cause = causes.known.entry(key).or_insert(Cause {
            rate,
            rested: now,
            left_out: 0,
            last: None,
        });
        if !cause.take(now) {
            cause.left_out += 1;
            cause.last = Some(left_out());
            return None;
        }
        cause.last = None;
        Some(std::mem::take(&mut cause.left_out))
    }

    /// The last lines of causes that may have one again, and how many each has left out.
    pub(crate) fn due(&self, now: Instant) -> Vec<(L, u64)> {
        let mut causes = self.causes();
        let left_out = causes.known.values_mut().filter(|cause| cause.left_out > 0);
        let due = left_out.filter_map(|cause| {
            let last = if cause.take(now) {
                cause.last.take()
            } else {
                None
            };
            Some((last?, std::mem::take(&mut cause.left_out)))
        });
        due.collect()
    }

    fn causes(&self) -> MutexGuard<'_, Causes<L>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl<L> Causes<L> {
    fn has_room(&mut self, cause: u64, now: Instant) -> bool {
        if self.known.contains_key(&cause) {
            return true;
        }
        let is_due = |swept| now.saturating_duration_since(swept) >= OF_ONE.each;
        if self.known.len() >= CAUSES && self.swept.is_none_or(is_due) {
            self.swept = Some(now);
            self.known.retain(|_, cause| cause.rested > now);
        }
        self.known.len() < CAUSES
    }
}

/// What a line is about.
#[derive(Default)]
struct Thing(DefaultHasher, bool);

impl Thing {
    fn hash(mut self, place: u64) -> Option<u64> {
        place.hash(&mut self.0);
        self.1.then(|| self.0.finish())
    }
}

impl Visit for Thing {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if THINGS.contains(&field.name()) {
            self.1 = true;
            // A hasher takes everything.
            let _ = write!(self, "{}={value:?} ", field.name());
        }
    }
}

impl fmt::Write for Thing {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(limit: &Limit<LeftOut>, thing: Option<u64>, count: u32, now: Instant) -> usize {
        (0..count)
            .filter(|_| admit(limit, thing, now).is_some())
            .count()
    }

    fn admit(limit: &Limit<LeftOut>, thing: Option<u64>, now: Instant) -> Option<u64> {
        let left_out = || LeftOut {
            level: Level::INFO,
            text: format!("{thing:?}"),
        };
        limit.admit_cause(0, thing, left_out, now)
    }

    #[test]
    fn one_cause_is_limited_and_no_other_for_it() {
        let (limit, now) = (Limit::default(), Instant::now());
        assert_eq!(admitted(&limit, Some(1), 1_000, now), 20);
        assert_eq!(admitted(&limit, Some(2), 10, now), 10);
        let later = now + OF_ONE.each;
        // The next one tells of those that are missing.
        assert_eq!(admit(&limit, Some(1), later), Some(980));
        assert_eq!(admit(&limit, Some(1), later), None);
        let rested = later + OF_ONE.each * 20;
        assert_eq!(admitted(&limit, Some(1), 1_000, rested), 20);
    }

    #[test]
    fn the_last_line_that_was_left_out_comes_after_all() {
        let (limit, now) = (Limit::default(), Instant::now());
        admitted(&limit, Some(1), 100, now);
        admitted(&limit, Some(2), 20, now);
        assert!(limit.due(now).is_empty(), "too soon");
        let due = limit.due(now + OF_ONE.each);
        let due: Vec<_> = due.iter().map(|(last, n)| (&*last.text, *n)).collect();
        assert_eq!(due, [("Some(1)", 80)]);
        assert!(limit.due(now + OF_ONE.each * 50).is_empty(), "once");
    }

    #[test]
    fn an_apply_may_say_much() {
        let (limit, now) = (Limit::default(), Instant::now());
        assert_eq!(admitted(&limit, None, 2_000, now), 1_000);
    }

    #[test]
    fn causes_without_number_take_no_memory_without_end() {
        let (limit, mut now) = (Limit::default(), Instant::now());
        let mut count = 0;
        for thing in 1..20_000 {
            count += usize::from(admit(&limit, Some(thing), now).is_some());
        }
        assert!(limit.0.lock().unwrap().known.len() <= CAUSES + 1);
        assert!(count < CAUSES + 1_001, "{count} lines");
        now += OF_ALL.each * 2_000;
        assert!(admit(&limit, Some(30_000), now).is_some());
        assert!(
            limit.0.lock().unwrap().known.len() < 10,
            "those that rest are forgotten"
        );
    }
}
