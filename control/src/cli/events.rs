//! `culvert events`: what happens, as it happens.
//!
//! In: a stream of events. Out: a line each. Never: a wait of the program for who reads.

use clap::Args;
use serde_json::Value;

use super::args::Reading;
use super::output::{Output, OutputArgs};
use super::{Failure, write};

/// Without a number to begin with, so many of the last events are printed first.
const LAST: u64 = 10;

/// `culvert events`.
#[derive(Debug, Args)]
pub(super) struct Events {
    /// Begin behind the event of this number; 0: with all that are kept
    #[arg(long, value_name = "NUMBER")]
    since: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    reading: Reading,
}

pub(super) fn run(args: Events) -> Result<(), Failure> {
    let OutputArgs { output } = args.output;
    let query = match args.since {
        Some(number) => format!("since={number}"),
        None => format!("last={LAST}"),
    };
    let mut failed = None;
    let client = args.reading.client()?;
    client.follow(&format!("/v1/events?{query}"), &mut |kind, data| {
        let printed = match line(kind, data, output) {
            Ok(line) => write(&line),
            Err(failure) => Err(failure),
        };
        printed.unwrap_or_else(|failure| {
            failed = Some(failure);
            false
        })
    })?;
    failed.map_or(Ok(()), Err)
}

fn line(kind: &str, data: &str, output: Option<Output>) -> Result<String, Failure> {
    let value: Value = serde_json::from_str(data)?;
    match (output, kind) {
        (Some(Output::Json), _) => Ok(format!("{data}\n")),
        (Some(Output::Yaml), _) => Ok(format!("---\n{}", serde_saphyr::to_string(&value)?)),
        (_, "lost") => Ok(format!("{} events are lost\n", value["lost"])),
        (_, "restarted") => Ok("culvert was started anew\n".into()),
        _ => Ok(words(&value)),
    }
}

/// `TIME object: text (fields)`; the object's own fields are not said twice.
fn words(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or_default();
    let object = text("object");
    let fields = event["fields"].as_object().into_iter().flatten();
    let fields = fields.filter_map(|(name, value)| {
        let value = match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        };
        let said = ["port", "tunnel", "peer", "uplink", "scope", "object"].contains(&name.as_str());
        (!said).then(|| format!("{name} {value}"))
    });
    let mut fields: Vec<_> = fields.collect();
    let labels = event["labels"].as_object().into_iter().flatten();
    fields.extend(labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))));
    if let Some(left_out) = event["left_out"].as_u64().filter(|it| *it > 0) {
        fields.push(format!("{left_out} like this left out"));
    }
    let fields = match fields.is_empty() {
        true => String::new(),
        false => format!(" ({})", fields.join(", ")),
    };
    format!("{} {object}: {}{fields}\n", text("time"), text("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let data = r#"{"number":7,"time":"2026-11-30T00:53:20.123Z","type":"guest-connected","object":"port vm1","text":"guest connected","left_out":3,"fields":{"port":"vm1","queues":2}}"#;
        let said =
            "2026-11-30T00:53:20.123Z port vm1: guest connected (queues 2, 3 like this left out)\n";
        assert_eq!(line("", data, None).unwrap(), said);
        assert_eq!(
            line("", data, Some(Output::Json)).unwrap(),
            format!("{data}\n")
        );
        assert_eq!(
            line("lost", "{\"lost\":4}", None).unwrap(),
            "4 events are lost\n"
        );
    }
}
