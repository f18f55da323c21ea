//! How a line looks.
//!
//! In: an event, how many like it were left out. Out: one line: for people, as an object of JSON, or as fields of
//! journald's protocol. Never: a line's end within a line.

use std::borrow::Cow;
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal as _};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::lossy::LINE_MAX;
use super::{journal, limit};

/// A text's bytes: with what stands before and behind it, it makes no line that is too long.
const TEXT_MAX: usize = LINE_MAX - 256;

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lines {
    /// Fields, for journald's socket.
    Journal,
    /// Priority first, for what journald reads of stderr (sd-daemon(3)): it has its own clock.
    Priority,
    /// Time, a coloured level.
    Terminal,
    /// Time, level.
    Plain,
    /// An object.
    Json,
}

impl Lines {
    /// What is asked for by name; without one, what suits the reader.
    pub(super) fn wanted(name: &str) -> Result<Self, ()> {
        match name {
            "" if journal::reads_stderr() => Ok(Self::Journal),
            "" | "human" => Ok(Self::by_reader()),
            "journald" => Ok(Self::Journal),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }

    pub(super) fn by_reader() -> Self {
        if std::env::var_os("JOURNAL_STREAM").is_some() {
            Self::Priority
        } else if io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        {
            Self::Terminal
        } else {
            Self::Plain
        }
    }

    pub(super) fn write<S, N>(
        self,
        writer: &mut Writer<'_>,
        context: &FmtContext<'_, S, N>,
        event: &Event<'_>,
        missing: u64,
    ) -> fmt::Result
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
        N: for<'a> FormatFields<'a> + 'static,
    {
        let level = *event.metadata().level();
        let like_this = match missing {
            0 => String::new(),
            missing => format!(" (and {missing} lines like this, left out)"),
        };
        match self {
            Self::Priority | Self::Terminal | Self::Plain => {
                let mut text = String::new();
                context.format_fields(Writer::new(&mut text), event)?;
                self.begin(writer, level)?;
                writeln!(writer, "{}{like_this}", short(&text, TEXT_MAX))
            }
            Self::Json => {
                let mut fields = Map::new();
                event.record(&mut Fields(&mut fields));
                if missing > 0 {
                    fields.insert("left_out".into(), missing.into());
                }
                writer.write_str(&json(level, event.metadata().target(), &fields))
            }
            Self::Journal => {
                let mut fields = Map::new();
                event.record(&mut Fields(&mut fields));
                writer.write_str(&journald(level, &like_this, &fields))
            }
        }
    }

    /// What stands before a line's text.
    fn begin(self, writer: &mut Writer<'_>, level: Level) -> fmt::Result {
        match self {
            Self::Priority => write!(writer, "<{}>", priority(level)),
            Self::Terminal => {
                SystemTime.format_time(writer)?;
                write!(writer, " \x1b[{}m{level:>5}\x1b[0m ", color(level))
            }
            Self::Plain | Self::Json | Self::Journal => {
                SystemTime.format_time(writer)?;
                write!(writer, " {level:>5} ")
            }
        }
    }

    /// A line that warns.
    pub(super) fn warning(self, text: &str) -> String {
        match self {
            Self::Journal => journal::entry(priority(Level::WARN), text, std::iter::empty()),
            Self::Json => {
                let mut object = head(Level::WARN, module_path!());
                object.insert("message".into(), text.into());
                format!("{}\n", Value::Object(object))
            }
            Self::Priority | Self::Terminal | Self::Plain => {
                let mut line = String::new();
                // Writing to a String can't fail.
                let _ = self.begin(&mut Writer::new(&mut line), Level::WARN);
                line + text + "\n"
            }
        }
    }
}

/// An object as a line. Its texts are shortened until it is short enough.
fn json(level: Level, target: &str, fields: &Map<String, Value>) -> String {
    let written = |max| {
        let mut object = head(level, target);
        for (name, value) in fields {
            let value = match value {
                Value::String(text) => short(text, max).into(),
                Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::Array(_)
                | Value::Object(_) => value.clone(),
            };
            object.insert(name.clone(), value);
        }
        format!("{}\n", Value::Object(object))
    };
    fitting(written)
}

/// The same as an entry.
fn journald(level: Level, like_this: &str, fields: &Map<String, Value>) -> String {
    let text = sentence(fields);
    let written = |max| {
        let named = fields.iter().filter(|(name, _)| *name != "message");
        let named = named.map(|(name, value)| (&**name, short(&plain(value), max).into_owned()));
        let text = format!("{}{like_this}", short(&text, max));
        journal::entry(priority(level), &text, named)
    };
    fitting(written)
}

/// An entry's text: what it is about, the message, and why. `journalctl` shows nothing else by itself; all else is in the
/// fields.
fn sentence(fields: &Map<String, Value>) -> String {
    let value = |name: &str| fields.get(name).map(plain);
    let about = limit::THINGS.iter();
    let about: Vec<_> = about
        .filter_map(|&thing| Some(format!("{thing} {}", value(thing)?)))
        .collect();
    let about = (!about.is_empty()).then(|| about.join(", "));
    let parts = [about, value("message"), value("reason"), value("error")];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    parts.join(": ")
}

/// A line whose texts have as many bytes as fit, halved until it does.
fn fitting(written: impl Fn(usize) -> String) -> String {
    let mut max = TEXT_MAX;
    loop {
        let line = written(max);
        // A text may have grown sixfold by its form; of fields there are few.
        if line.len() <= LINE_MAX || max < 16 {
            return line;
        }
        max /= 2;
    }
}

/// A text with so many bytes at most, and a sign that there were more.
fn short(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max {
        return text.into();
    }
    format!(
        "{}…",
        &text[..text.floor_char_boundary(max - '…'.len_utf8())]
    )
    .into()
}

/// What every object has.
fn head(level: Level, target: &str) -> Map<String, Value> {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let mut object = Map::new();
    object.insert("time".into(), time.into());
    object.insert("level".into(), level.as_str().to_lowercase().into());
    object.insert("target".into(), target.into());
    object
}

/// An event's fields as values.
struct Fields<'m>(&'m mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever reads them finds all fields.
    #[test]
    fn a_line_that_would_be_too_long_is_whole_all_the_same() {
        for text in ["é\n".repeat(4_000), "\u{1}".repeat(9_000)] {
            let mut fields = Map::new();
            fields.insert("message".into(), text.clone().into());
            fields.insert("error".into(), text.clone().into());
            fields.insert("port".into(), "vm1".into());
            let line = json(Level::WARN, "culvert::x", &fields);
            assert!(line.len() <= LINE_MAX && line.ends_with('\n'), "{line}");
            let object: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(object["port"], "vm1");
            assert!(object["message"].as_str().unwrap().ends_with('…'));
            let entry = journald(Level::WARN, " (and 3)", &fields);
            assert!(entry.len() <= LINE_MAX, "{entry}");
            assert!(entry.contains("… (and 3)\nPRIORITY=4\n"), "{entry}");
            assert!(entry.contains("\nCULVERT_PORT=vm1\n"), "{entry}");
        }
        assert_eq!(short("aéé", 5), "aéé");
        assert_eq!(short("aééé", 6), "aé…");
    }

    #[test]
    fn an_entry_s_text_is_a_sentence_and_all_else_stands_in_its_fields() {
        let fields = serde_json::json!({
            "message": "handshakes are not answered",
            "tunnel": "wg0",
            "peer": "far",
            "unanswered": 6,
        });
        let entry = journald(Level::WARN, "", fields.as_object().unwrap());
        let said = "MESSAGE=tunnel wg0, peer far: handshakes are not answered\n";
        assert!(entry.starts_with(said), "{entry}");
        assert!(
            entry.ends_with("CULVERT_TUNNEL=wg0\nCULVERT_UNANSWERED=6\n"),
            "{entry}"
        );
        let fields = serde_json::json!({ "message": "can't listen", "error": "no room" });
        let entry = journald(Level::WARN, "", fields.as_object().unwrap());
        assert!(
            entry.starts_with("MESSAGE=can't listen: no room\n"),
            "{entry}"
        );
    }

    #[test]
    fn a_warning_is_a_line_of_each_form() {
        let json = Lines::Json.warning("a \"b\"\nc");
        let object: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["message"], "a \"b\"\nc");
        assert_eq!(object["level"], "warn");
        assert_eq!(json.lines().count(), 1);
        assert_eq!(Lines::Priority.warning("x"), "<4>x\n");
        assert!(Lines::Plain.warning("x").ends_with("Z  WARN x\n"));
        assert!(
            Lines::Journal
                .warning("x")
                .starts_with("MESSAGE=x\nPRIORITY=4\n")
        );
    }
}
