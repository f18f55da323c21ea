//! `culvert route add|del|list`: routes beside the configuration.
//!
//! In: a network, a prefix, and where it leads. Out: what changed; routes that were laid down. Never: a meaning of a name:
//! the running culvert reads it as it reads a file's.

use axum::http::Method;
use clap::Subcommand;
use ipnet::IpNet;
use serde_json::json;

use super::Failure;
use super::args::Place;
use super::layer::{change, segment};
use super::output::{Output, OutputArgs};
use super::show::table::{Align, Layout, Table};
use crate::layer::told::LaidObject;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a route to a network, beside the configuration
    Add {
        /// The network
        network: String,
        /// The prefix
        #[arg(value_name = "PREFIX")]
        to: IpNet,
        /// `peer NAME`, `via ADDRESS` or `unreachable`
        #[arg(value_name = "NEXT HOP", num_args = 1..=2, required = true)]
        hop: Vec<String>,
        /// There may be one already: it leads there then
        #[arg(long)]
        may_exist: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Remove one that was added
    Del {
        /// The network
        network: String,
        /// The prefix
        #[arg(value_name = "PREFIX")]
        to: IpNet,
        /// It need not be there
        #[arg(long)]
        if_exists: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
    /// Print those that were added; all: `culvert show routes`
    List {
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        place: Place,
    },
}

pub(super) fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Add {
            network,
            to,
            hop,
            may_exist,
            output,
            place,
        } => {
            let query = if may_exist { "may_exist" } else { "new" };
            let path = format!("/v1/{}?{query}=true", below(&network, to)?);
            change(&place, output, (Method::PUT, &path), next_hop(&hop)?)
        }
        Command::Del {
            network,
            to,
            if_exists,
            output,
            place,
        } => {
            let path = format!("/v1/{}?if_exists={if_exists}", below(&network, to)?);
            change(&place, output, (Method::DELETE, &path), String::new())
        }
        Command::List { output, place } => {
            let mut objects = place.client().layer()?.objects;
            objects.retain(|it| it.object.starts_with("route "));
            let is_wide = output.output == Some(Output::Wide);
            output.print(&objects, || table(&objects, is_wide))
        }
    }
}

/// Where the API has a route.
fn below(network: &str, to: IpNet) -> Result<String, Failure> {
    let to = to.to_string().replace('/', "%2F");
    Ok(format!("networks/{}/routes/{to}", segment(network)?))
}

/// `NETWORK/PREFIX` as the API has it.
pub(super) fn path(name: &str) -> Result<String, Failure> {
    let parts = name.split_once('/');
    let parts = parts.and_then(|(network, to)| Some((network, to.parse().ok()?)));
    let Some((network, to)) = parts else {
        let error =
            format!("`{name}` is no route: expected NETWORK/PREFIX, as in `blue/10.2.0.0/16`");
        return Err(Failure::Line(error));
    };
    below(network, to)
}

/// The words as keys of a file.
fn next_hop(words: &[String]) -> Result<String, Failure> {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let keys = match words[..] {
        ["peer", name] => json!({ "peer": name }),
        ["via", address] => json!({ "via": address }),
        ["unreachable"] => json!({ "unreachable": "true" }),
        _ => {
            let error = "expected `peer NAME`, `via ADDRESS` or `unreachable` behind the prefix";
            return Err(Failure::Line(error.into()));
        }
    };
    Ok(keys.to_string())
}

fn table(objects: &[LaidObject], is_wide: bool) -> String {
    let heads = ["NETWORK", "TO", "NEXT HOP"].map(|head| (head, Align::Left));
    let mut table = Table::new(heads.into());
    for LaidObject {
        object,
        keys,
        rests,
        own,
    } in objects
    {
        let name = object.trim_start_matches("route ");
        let (network, to) = name.split_once('/').unwrap_or((name, ""));
        let value = |key: &str| keys.get(key).and_then(|it| it.as_str());
        let hop = match (value("peer"), value("via")) {
            (Some(peer), _) => format!("peer {peer}"),
            (_, Some(address)) => format!("via {address}"),
            (None, None) => "unreachable".into(),
        };
        table.row(vec![network.into(), to.into(), hop]);
        let note = match (rests, own) {
            (Some(why), _) => Some(format!("{name}: rests, the file counts alone: {why}")),
            (None, false) => Some(format!("{name}: lies over the file's")),
            (None, true) => None,
        };
        table.notes.extend(note);
    }
    match table.is_empty() {
        true => String::new(),
        false => table.render(Layout::of_stdout(is_wide)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_where_a_route_leads() {
        let keys = |words: &str| {
            let words: Vec<_> = words.split(' ').map(str::to_owned).collect();
            next_hop(&words).map_err(|_| ())
        };
        assert_eq!(keys("peer b"), Ok(r#"{"peer":"b"}"#.into()));
        assert_eq!(keys("via 10.0.0.5"), Ok(r#"{"via":"10.0.0.5"}"#.into()));
        assert_eq!(keys("unreachable"), Ok(r#"{"unreachable":"true"}"#.into()));
        for wrong in ["peer", "by b", "unreachable b"] {
            assert_eq!(keys(wrong), Err(()), "{wrong}");
        }
        let found = path("blue/10.2.0.0/16").map_err(|_| ());
        assert_eq!(found, Ok("networks/blue/routes/10.2.0.0%2F16".into()));
        assert!(path("blue").is_err());
    }
}
