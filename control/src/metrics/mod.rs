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
use crate::report::Survey;

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
    machine::write(survey, &mut text)?;
    peers::write(survey, &mut text)?;
    exporter::write(survey, &mut text)?;
    text.end()
}
