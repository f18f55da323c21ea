//! Metrics, as Prometheus reads them.
//!
//! In: a [`Survey`]: what the control core told, a page at a time. Out: text in chunks, family by family. Never: the
//! core's time, or a worker's: counters are read where they are; all of the text at once.
//!
//! Rooms: [`families`] every metric's name, labels and meaning, [`text`] the two formats, [`machine`] the process, its
//! cores, ports and uplinks, [`peers`] tunnels and peers, [`exporter`] the names that WireGuard's exporters use.

mod exporter;
mod families;
mod machine;
mod peers;
mod text;

pub use self::families::{ALL, Family, Kind};
use self::text::Text;
pub(crate) use self::text::{Form, Gone};
use crate::{config::metrics_label, report::Survey};

/// Labels of ports and peers that their series have, too: their keys, and what they are called here.
struct Chosen(Vec<(String, String)>);

impl Chosen {
    fn of(survey: &Survey) -> Self {
        let keys = survey.head.desired.file().metrics.labels.iter();
        Self(keys.map(|key| (key.clone(), metrics_label(key))).collect())
    }

    /// Those of one thing, which tells the value of a key.
    fn of_thing<'c>(
        &'c self,
        value: impl Fn(&str) -> Option<&'c str>,
    ) -> impl Iterator<Item = (&'c str, &'c str)> {
        let all = self.0.iter();
        all.filter_map(move |(key, name)| Some((name.as_str(), value(key)?)))
    }
}

/// Writes all metrics: chunks of some KiB, one after the other, as long as somebody takes them.
///
/// # Errors
///
/// When nobody does any more.
pub(crate) fn write(
    survey: &Survey,
    form: Form,
    put: &mut dyn FnMut(String) -> Result<(), Gone>,
) -> Result<(), Gone> {
    let mut text = Text::new(form, put);
    let chosen = Chosen::of(survey);
    machine::write(survey, &chosen, &mut text)?;
    peers::write(survey, &chosen, &mut text)?;
    exporter::write(survey, &mut text)?;
    text.end()
}
