//! Log lines: for people on a terminal, as JSON, with fields for journald.
//!
//! In: `CULVERT_LOG` (tracing's directives, `info` by default), `CULVERT_LOG_FORMAT`, `JOURNAL_STREAM`, `NO_COLOR`. Out:
//! lines on stderr or to journald, as far as these take them ([`lossy`]) and their causes are not too many ([`limit`]);
//! the counts of those that are missing. Never: keys; no type of this workspace shows one.
//!
//! Rooms: [`lines`] how a line looks, [`lossy`] and [`journal`] where it goes, [`limit`] how many there may be.

mod journal;
pub(crate) mod limit;
mod lines;
mod lossy;

use std::fmt;
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use journal::Journal;
use limit::{LeftOut, Limit};
use lines::Lines;
use lossy::{Lossy, Out};

/// The environment variable with tracing's directives.
const VARIABLE: &str = "CULVERT_LOG";
/// The environment variable with the lines' form: `human`, `json` or `journald`.
const FORMAT: &str = "CULVERT_LOG_FORMAT";

/// What is logged, and the way to change that.
struct Filter {
    directives: Mutex<String>,
    set: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

static FILTER: OnceLock<Filter> = OnceLock::new();

/// Sets up the process's log, once. A directive that can't be read is reported and the default holds.
pub fn init() {
    init_with("info");
}

/// As [`init`], with what holds where the environment says nothing else.
pub fn init_with(default: &str) {
    let mut mistakes = Vec::new();
    let mut directives = std::env::var(VARIABLE).unwrap_or_default();
    if directives.is_empty() {
        default.clone_into(&mut directives);
    }
    let filter = parse(&directives).unwrap_or_else(|error| {
        mistakes.push(format!("{VARIABLE} can't be read: {error}"));
        default.clone_into(&mut directives);
        EnvFilter::new(default)
    });
    let lines = Lines::wanted(&std::env::var(FORMAT).unwrap_or_default());
    let lines = lines.unwrap_or_else(|()| {
        mistakes.push(format!("{FORMAT} is `human`, `json` or `journald`"));
        Lines::by_reader()
    });
    let (lines, out) = match (lines, Journal::connect()) {
        (Lines::Journal, Ok(journal)) => (lines, Out::Journal(journal)),
        (Lines::Journal, Err(error)) => {
            mistakes.push(format!("journald takes no lines with fields: {error}"));
            (Lines::Priority, Out::Stderr)
        }
        (lines, _) => (lines, Out::Stderr),
    };
    let out: &'static Out = Box::leak(Box::new(out));
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || Lossy { out, lines })
        .with_ansi(lines == Lines::Terminal)
        .event_format(Limited { lines })
        .with_env_filter(filter)
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    // A second call keeps the first one's log.
    if tracing::subscriber::set_global_default(subscriber.finish()).is_ok() {
        let set = move |filter| handle.reload(filter).map_err(|error| error.to_string());
        let _ = FILTER.set(Filter {
            directives: Mutex::new(directives),
            set: Box::new(set),
        });
    }
    for mistake in mistakes {
        tracing::warn!("{mistake}");
    }
}

/// What is logged at present, as tracing's directives. `None`: there is no log.
pub fn filter() -> Option<String> {
    let directives = FILTER.get()?.directives.lock();
    Some(directives.unwrap_or_else(PoisonError::into_inner).clone())
}

/// Logs something else from now on, until the process ends.
///
/// # Errors
///
/// When these are no directives, in words.
pub fn set_filter(directives: &str) -> Result<(), String> {
    let parsed = parse(directives)?;
    let filter = FILTER.get().ok_or("this process has no log")?;
    let mut now = filter
        .directives
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    (filter.set)(parsed)?;
    directives.clone_into(&mut now);
    tracing::info!("logged from now on: {directives}");
    Ok(())
}

/// tracing would take a word that is no level for a target, all of whose lines are wanted.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    const EXPECTED: &str =
        "expected a level (error, warn, info, debug, trace, off) or `info,culvert::engine=debug`";
    let words = directives.split(',').map(str::trim);
    // Spans have brackets, which may have commas.
    let mut words =
        words.filter(|word| !word.is_empty() && !word.contains(['=', '[', ']', '{', '}']));
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(format!("`{word:.200}` is no level; {EXPECTED}"));
    }
    let parsed = EnvFilter::builder().parse(directives);
    parsed.map_err(|error| format!("{error}; {EXPECTED}"))
}

/// Lines, as far as their causes may have them.
struct Limited {
    lines: Lines,
}

static LIMIT: LazyLock<Limit<LeftOut>> = LazyLock::new(Limit::default);

impl<S, N> FormatEvent<S, N> for Limited
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Of a line that is left out nothing is written.
        let text = || {
            let mut text = String::new();
            // Writing to a String can't fail.
            let _ = context.format_fields(Writer::new(&mut text), event);
            text
        };
        match LIMIT.admit(event, text, Instant::now()) {
            None => Ok(()),
            Some(missing) => self.lines.write(&mut writer, context, event, missing),
        }
    }
}

/// Writes the last lines of causes that had too many, once they may have one again: how things stand is in the log in the
/// end.
pub fn tell_left_out() {
    for (LeftOut { level, text }, count) in LIMIT.due(Instant::now()) {
        match level {
            Level::ERROR => tracing::error!("{text} (the last of {count} like this, left out)"),
            Level::WARN => tracing::warn!("{text} (the last of {count} like this, left out)"),
            _ => tracing::info!("{text} (the last of {count} like this, left out)"),
        }
    }
}

/// What is missing of the log since the start.
pub fn missing() -> crate::state::Log {
    crate::state::Log {
        lost: lossy::lost(),
        left_out: limit::left_out(),
    }
}
