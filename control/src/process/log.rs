//! Log lines: for people on a terminal, with priorities for journald (sd-daemon(3)).
//!
//! In: `CULVERT_LOG` (tracing's directives, `info` by default), `JOURNAL_STREAM`, `NO_COLOR`. Out:
//! lines on stderr, as far as it takes them ([`lossy`]) and their causes are not too many ([`limit`]); the counts of
//! those that are missing. Never: keys; no type of this workspace shows one.

mod limit;
mod lossy;

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::LazyLock;
use std::time::Instant;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use limit::{LeftOut, Limit};
use lossy::Lossy;

/// The environment variable with tracing's directives.
const VARIABLE: &str = "CULVERT_LOG";

/// Sets up the process's log, once. A directive that can't be read is reported and the default holds.
pub fn init() {
    init_with("info");
}

/// As [`init`], with what holds where the environment says nothing else.
pub fn init_with(default: &str) {
    let directives = std::env::var(VARIABLE).unwrap_or_default();
    let parsed = EnvFilter::builder().parse(if directives.is_empty() {
        default
    } else {
        &directives
    });
    let mistake = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new(default));
    let lines = if std::env::var_os("JOURNAL_STREAM").is_some() {
        Lines::Journal
    } else if io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
    {
        Lines::Terminal
    } else {
        Lines::Plain
    };
    let warning = match lines {
        Lines::Journal => |text: &str| Lines::Journal.warning(text),
        Lines::Terminal => |text: &str| Lines::Terminal.warning(text),
        Lines::Plain => |text: &str| Lines::Plain.warning(text),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Lossy { warning })
        .with_ansi(lines == Lines::Terminal)
        .event_format(Limited { lines });
    // A second call keeps the first one's log.
    let _ = subscriber.try_init();
    if let Some(mistake) = mistake {
        tracing::warn!("{VARIABLE} can't be read: {mistake}");
    }
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    /// Priority first; journald has its own clock.
    Journal,
    /// Time, a coloured level.
    Terminal,
    /// Time, level.
    Plain,
}

impl Lines {
    /// What stands before a line's text.
    fn begin(self, writer: &mut Writer<'_>, level: Level) -> fmt::Result {
        match self {
            Self::Journal => write!(writer, "<{}>", priority(level)),
            Self::Plain => {
                SystemTime.format_time(writer)?;
                write!(writer, " {level:>5} ")
            }
            Self::Terminal => {
                SystemTime.format_time(writer)?;
                write!(writer, " \x1b[{}m{level:>5}\x1b[0m ", color(level))
            }
        }
    }

    /// A line that warns.
    fn warning(self, text: &str) -> String {
        let mut line = String::new();
        // Writing to a String can't fail.
        let _ = self.begin(&mut Writer::new(&mut line), Level::WARN);
        line + text + "\n"
    }
}

/// Lines, as far as their causes may have them.
struct Limited {
    lines: Lines,
}

static LIMIT: LazyLock<Limit> = LazyLock::new(Limit::default);

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
        let Some(missing) = LIMIT.admit(event, text, Instant::now()) else {
            return Ok(());
        };
        self.lines.begin(&mut writer, *event.metadata().level())?;
        context.format_fields(writer.by_ref(), event)?;
        match missing {
            0 => writeln!(writer),
            missing => writeln!(writer, " (and {missing} lines like this, left out)"),
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

/// syslog(3)'s priority.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

fn color(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 34,
    }
}
