//! Prometheus's text format, version 0.0.4, and OpenMetrics 1.0.
//!
//! In: families and their samples. Out: chunks of text. Never: a line that a label's value has broken; a chunk much
//! longer than [`CHUNK`].
//!
//! <https://prometheus.io/docs/instrumenting/exposition_formats/>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>. Of the two, OpenMetrics ends with a mark, and names the
//! family of a counter without its `_total`.

use std::fmt::Write as _;

use super::families::{Family, Kind};

/// A chunk is handed on once it is that long.
const CHUNK: usize = 32 << 10;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Prometheus,
    OpenMetrics,
}

impl Form {
    /// What a reader accepts best: OpenMetrics where its `Accept` names it.
    pub(crate) fn accepted(accept: &str) -> Self {
        let open = |part: &str| {
            part.trim_start()
                .starts_with("application/openmetrics-text")
        };
        match accept.split(',').any(open) {
            true => Self::OpenMetrics,
            false => Self::Prometheus,
        }
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Who read it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

/// The text so far.
pub(super) struct Text<'p> {
    form: Form,
    chunk: String,
    put: &'p mut dyn FnMut(String) -> Result<(), Gone>,
}

impl<'p> Text<'p> {
    pub(super) fn new(form: Form, put: &'p mut dyn FnMut(String) -> Result<(), Gone>) -> Self {
        Self {
            form,
            chunk: String::with_capacity(CHUNK),
            put,
        }
    }

    /// Begins a family: its samples follow.
    pub(super) fn family(&mut self, family: &Family) {
        let Family {
            name, kind, help, ..
        } = family;
        let name = match (self.form, kind) {
            (Form::OpenMetrics, Kind::Counter) => name.trim_end_matches("_total"),
            _ => name,
        };
        let kind = kind.name();
        let _ = write!(self.chunk, "# HELP {name} ");
        escape(&mut self.chunk, help, false);
        let _ = writeln!(self.chunk, "\n# TYPE {name} {kind}");
    }

    /// One sample; the labels' values are in the order of the family's.
    pub(super) fn sample<L: AsRef<str>>(
        &mut self,
        family: &Family,
        labels: &[L],
        value: impl Into<Number>,
    ) -> Result<(), Gone> {
        self.labelled(family, labels, [], value)
    }

    /// The same with labels that the operator has chosen.
    #[expect(clippy::map_identity, reason = "these live longer than those")]
    pub(super) fn labelled<'c, L: AsRef<str>>(
        &mut self,
        family: &Family,
        labels: &[L],
        chosen: impl IntoIterator<Item = (&'c str, &'c str)>,
        value: impl Into<Number>,
    ) -> Result<(), Gone> {
        let labels = family.labels.iter().copied().zip(labels);
        let labels = labels.map(|(name, it)| (name, it.as_ref()));
        self.line(
            family.name,
            "",
            labels.chain(chosen.into_iter().map(|(name, it)| (name, it))),
            value,
        )
    }

    /// A family of one sample.
    pub(super) fn single(&mut self, family: &Family, value: impl Into<Number>) -> Result<(), Gone> {
        self.family(family);
        self.sample::<&str>(family, &[], value)
    }

    /// A histogram: how many were at most so much, all of them, and their sum.
    pub(super) fn histogram<L: AsRef<str>>(
        &mut self,
        family: &Family,
        labels: &[L],
        at_most: &[(f64, u64)],
        (count, sum): (u64, f64),
    ) -> Result<(), Gone> {
        let labels = family.labels.iter().copied().zip(labels);
        let labels = labels.map(|(name, it)| (name, it.as_ref()));
        let bounds = at_most
            .iter()
            .map(|&(bound, count)| (bound.to_string(), count));
        let bounds: Vec<_> = bounds.chain([("+Inf".to_owned(), count)]).collect();
        for (bound, count) in &bounds {
            let labels = labels.clone().chain([("le", &**bound)]);
            self.line(family.name, "_bucket", labels, *count)?;
        }
        self.line(family.name, "_sum", labels.clone(), sum)?;
        self.line(family.name, "_count", labels, count)
    }

    fn line<'l>(
        &mut self,
        name: &str,
        suffix: &str,
        labels: impl IntoIterator<Item = (&'l str, &'l str)>,
        value: impl Into<Number>,
    ) -> Result<(), Gone> {
        self.chunk.push_str(name);
        self.chunk.push_str(suffix);
        let mut mark = '{';
        for (label, value) in labels {
            self.chunk.push(mark);
            self.chunk.push_str(label);
            self.chunk.push_str("=\"");
            escape(&mut self.chunk, value, true);
            self.chunk.push('"');
            mark = ',';
        }
        if mark == ',' {
            self.chunk.push('}');
        }
        // Writing to a String can't fail.
        let _ = match value.into() {
            Number::Whole(value) => writeln!(self.chunk, " {value}"),
            Number::Real(value) => writeln!(self.chunk, " {value}"),
        };
        match self.chunk.len() >= CHUNK {
            true => self.hand_on(),
            false => Ok(()),
        }
    }

    fn hand_on(&mut self) -> Result<(), Gone> {
        (self.put)(std::mem::replace(
            &mut self.chunk,
            String::with_capacity(CHUNK),
        ))
    }

    /// Ends the text.
    pub(super) fn end(mut self) -> Result<(), Gone> {
        if self.form == Form::OpenMetrics {
            self.chunk.push_str("# EOF\n");
        }
        self.hand_on()
    }
}

/// A sample's value.
pub(super) enum Number {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Number {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Number {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

/// A help text, or a label's value, in which a quote would be the end.
fn escape(into: &mut String, text: &str, quotes: bool) {
    for letter in text.chars() {
        match letter {
            '\\' => into.push_str("\\\\"),
            '\n' => into.push_str("\\n"),
            '"' if quotes => into.push_str("\\\""),
            _ => into.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: Family = Family {
        name: "test_things_total",
        kind: Kind::Counter,
        labels: &["a", "b"],
        help: "A \\ and\na \"quote\".",
    };

    fn written(form: Form, write: impl FnOnce(&mut Text<'_>) -> Result<(), Gone>) -> Vec<String> {
        let mut chunks = Vec::new();
        let mut put = |chunk| {
            chunks.push(chunk);
            Ok(())
        };
        let mut text = Text::new(form, &mut put);
        write(&mut text).unwrap();
        text.end().unwrap();
        chunks
    }

    #[test]
    fn nothing_in_a_label_breaks_its_line() {
        let write = |text: &mut Text<'_>| {
            text.family(&FAMILY);
            text.sample(&FAMILY, &["x\"y\\\n", "z"], 7u64)
        };
        let head = "# HELP test_things_total A \\\\ and\\na \"quote\".\n# TYPE test_things_total counter\n";
        let sample = "test_things_total{a=\"x\\\"y\\\\\\n\",b=\"z\"} 7\n";
        assert_eq!(
            written(Form::Prometheus, write).concat(),
            format!("{head}{sample}")
        );
        let head = head.replace("things_total", "things");
        let open = written(Form::OpenMetrics, write).concat();
        assert_eq!(open, format!("{head}{sample}# EOF\n"));
    }

    #[test]
    fn a_long_text_comes_in_chunks_and_ends_when_nobody_takes_them() {
        let many = |text: &mut Text<'_>| {
            (0..100_000u64).try_for_each(|n| text.sample(&FAMILY, &["x", "y"], n))
        };
        let chunks = written(Form::Prometheus, many);
        assert!(chunks.len() > 50);
        assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK + 100));
        let mut takes = 3;
        let mut put = |_| {
            takes -= 1;
            if takes == 0 { Err(Gone) } else { Ok(()) }
        };
        assert_eq!(many(&mut Text::new(Form::Prometheus, &mut put)), Err(Gone));
        assert_eq!(takes, 0);
    }

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(Form::accepted(prometheus), Form::OpenMetrics);
        assert_eq!(Form::accepted("text/html, */*"), Form::Prometheus);
        assert_eq!(Form::accepted(""), Form::Prometheus);
    }
}
