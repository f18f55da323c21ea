//! Log lines: for people on a terminal, with priorities for journald (sd-daemon(3)).
//!
//! In: `CULVERT_LOG` (tracing's directives, `info` by default), `JOURNAL_STREAM`, `NO_COLOR`. Out:
//! lines on stderr. Never: keys; no type of this workspace shows one.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

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
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(lines == Lines::Terminal)
        .event_format(lines);
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

impl<S, N> FormatEvent<S, N> for Lines
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
        let level = *event.metadata().level();
        match self {
            Self::Journal => write!(writer, "<{}>", priority(level))?,
            Self::Plain => {
                SystemTime.format_time(&mut writer)?;
                write!(writer, " {level:>5} ")?;
            }
            Self::Terminal => {
                SystemTime.format_time(&mut writer)?;
                write!(writer, " \x1b[{}m{level:>5}\x1b[0m ", color(level))?;
            }
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
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
