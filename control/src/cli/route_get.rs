//! `culvert route get ADDRESS [from PORT]`.

use std::io;
use std::net::IpAddr;

use clap::Args;

use super::Failure;
use super::args::Reading;
use super::output::{Output, OutputArgs, folded, width};
use crate::state::Way;

/// `culvert route get`.
#[derive(Debug, Args)]
pub(super) struct Get {
    /// The address that the packet is for
    #[arg(value_name = "ADDRESS")]
    to: IpAddr,
    /// `from PORT`: the port that it comes from; without it each network is told of
    #[arg(value_name = "from PORT", num_args = 0..=2)]
    from: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    reading: Reading,
}

/// The port's name in `from PORT`, which `ip route get` has taught everyone to write.
fn port(words: &[String]) -> Result<Option<&str>, Failure> {
    match words {
        [] => Ok(None),
        [from, port] if from == "from" => Ok(Some(port)),
        [port] if port != "from" => Ok(Some(port)),
        _ => Err(Failure::Line(
            "expected `culvert route get ADDRESS [from PORT]`".into(),
        )),
    }
}

pub(super) fn run(args: &Get) -> Result<(), Failure> {
    let client = args.reading.client()?;
    let ways = client.ways(args.to, port(&args.from)?)?;
    args.output.print(&ways, || {
        let text: Vec<_> = ways.iter().map(text).collect();
        let is_wide = args.output.output == Some(Output::Wide);
        folded(&text.join("\n"), width(&io::stdout()).filter(|_| !is_wide))
    })
}

fn text(way: &Way) -> String {
    let from = way.from.as_ref();
    let from = from.map_or_else(String::new, |from| format!(" from {from}"));
    let mut text = format!(
        "{}{from} in network {}: {}\n",
        way.to, way.network, way.next_hop
    );
    let mut line = |key: &str, value: Option<String>| {
        let value = value.filter(|value| !value.is_empty());
        text += &value.map_or_else(String::new, |value| format!("  {key:<9} {value}\n"));
    };
    line("because", Some(way.because.clone()));
    line("endpoint", way.endpoint.map(|it| it.to_string()));
    let source = way.source.map(|it| format!(", from {it}"));
    let by = |uplink: &String| format!("{uplink}{}", source.unwrap_or_default());
    line("uplink", way.uplink.as_ref().map(by));
    line("neighbor", way.neighbor.clone());
    line("mtu", way.mtu.map(|it| it.to_string()));
    for note in &way.notes {
        line("note", Some(note.clone()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_comes_after_from() {
        let words = |text: &str| {
            text.split_whitespace()
                .map(String::from)
                .collect::<Vec<_>>()
        };
        assert_eq!(port(&words("")).unwrap(), None);
        assert_eq!(port(&words("from vm1")).unwrap(), Some("vm1"));
        assert_eq!(port(&words("vm1")).unwrap(), Some("vm1"));
        assert!(port(&words("from")).is_err());
        assert!(port(&words("via vm1")).is_err());
    }
}
