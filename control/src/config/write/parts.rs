//! A file's text in parts, each of which says little.
//!
//! In: a [`Config`]. Out: parts whose texts, one behind the other, are its file; which of them are made of the same as
//! those of another configuration, without a look at their texts. Never: a part that others change: of many peers or
//! ports in a row it is the one that begins a part which says so, by its key or MAC address.

use std::path::Path;
use std::sync::Arc;

use super::{Map, Yaml, missing_keys, named, network, peer, port, top, tunnel, yaml};
use crate::config::build::derived_queue_workers;
use crate::config::{Config, Name, Peer, Port};
use crate::keys::PublicKey;

/// Peers or ports that a part has at most, whatever their keys or addresses are; on average it has a quarter of that.
const MOST: usize = 1_024;

/// A part. Those that are equal have the same text.
#[derive(Debug, PartialEq)]
pub(crate) enum Part<'c> {
    /// Something of which there is little.
    Text(String),
    /// Some peers of a tunnel.
    Peers {
        tunnel: &'c Name,
        /// The file of the preshared keys of many of them.
        keys_file: Option<&'c Path>,
        peers: &'c [Arc<Peer>],
    },
    /// Some ports.
    Ports {
        ports: &'c [Port],
        /// Whether their networks are.
        plain: Vec<bool>,
        workers: usize,
        /// The worker whose turn it is with the first of them.
        turn: usize,
    },
}

/// By what a part is found among those of another configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum First<'c> {
    Peer(&'c Name, &'c PublicKey),
    Port(&'c Name),
}

impl<'c> Part<'c> {
    /// What it begins with, if it is worth to be looked for.
    pub(crate) fn first(&self) -> Option<First<'c>> {
        match self {
            Self::Text(_) => None,
            Self::Peers { tunnel, peers, .. } => {
                Some(First::Peer(tunnel, &peers.first()?.public_key))
            }
            Self::Ports { ports, .. } => Some(First::Port(&ports.first()?.name)),
        }
    }

    /// Its lines.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Peers {
                keys_file, peers, ..
            } => {
                let peers = peers.iter();
                let peers = peers.map(|it| (it.name.to_string(), peer(it, *keys_file)));
                indented(3, named(peers))
            }
            Self::Ports {
                ports,
                plain,
                workers,
                turn,
            } => {
                let mut turn = *turn;
                let ports = ports.iter().zip(plain).map(|(it, plain)| {
                    let derived = derived_queue_workers(it.queues.into(), *workers, &mut { turn });
                    turn = turn_after(it, *workers, turn);
                    (it.name.to_string(), port(it, *plain, &derived))
                });
                indented(1, named(ports))
            }
        }
    }
}

/// Whose turn it is after a port; one with workers of its own takes none.
fn turn_after(port: &Port, workers: usize, turn: usize) -> usize {
    let mut next = turn;
    let derived = derived_queue_workers(port.queues.into(), workers, &mut next);
    match port.queue_workers == derived {
        true => next % workers.max(1),
        false => turn,
    }
}

/// The parts of a configuration's file.
pub(crate) fn parts(config: &Config) -> Vec<Part<'_>> {
    let mut parts = Parts::default();
    for what in missing_keys(config) {
        parts.text += &format!("# {what} lies in no file\n");
    }
    parts.text += &yaml(&top(config));
    parts.tunnels(config);
    let networks = config.networks.iter();
    let networks = networks.map(|it| (it.name.to_string(), network(it, config)));
    let networks = Map::default().put("networks", Yaml::Map(named(networks)));
    parts.text += &yaml(&networks);
    parts.ports(config);
    parts.end_text();
    parts.all
}

#[derive(Default)]
struct Parts<'c> {
    all: Vec<Part<'c>>,
    /// What comes next.
    text: String,
}

impl<'c> Parts<'c> {
    fn end_text(&mut self) {
        if !self.text.is_empty() {
            self.all.push(Part::Text(std::mem::take(&mut self.text)));
        }
    }

    fn tunnels(&mut self, config: &'c Config) {
        if !config.tunnels.is_empty() {
            self.text += "tunnels:\n";
        }
        for it in &config.tunnels {
            let own = (it.name.to_string(), tunnel(it, config));
            self.text += &indented(1, named([own]));
            if it.peers.is_empty() {
                continue;
            }
            self.text += "    peers:\n";
            self.end_text();
            let begins = |peer: &Arc<Peer>| peer.public_key.as_bytes()[0] == 0;
            let runs = runs(&it.peers, begins).map(|peers| Part::Peers {
                tunnel: &it.name,
                keys_file: it.preshared_keys_file.as_deref(),
                peers,
            });
            self.all.extend(runs);
        }
    }

    fn ports(&mut self, config: &'c Config) {
        if config.ports.is_empty() {
            return;
        }
        self.text += "ports:\n";
        self.end_text();
        let workers = config.cores.workers.len();
        let mut turn = 0;
        let begins = |port: &Port| port.mac.octets()[5] == 0;
        self.all.extend(runs(&config.ports, begins).map(|ports| {
            let plain = ports.iter().map(|it| config.is_plain(it));
            let part = Part::Ports {
                ports,
                plain: plain.collect(),
                workers,
                turn,
            };
            turn = (ports.iter()).fold(turn, |turn, it| turn_after(it, workers, turn));
            part
        }));
    }
}

/// A list in pieces: each goes to the next thing that begins one.
fn runs<T>(all: &[T], begins: impl Fn(&T) -> bool) -> impl Iterator<Item = &[T]> {
    let mut rest = all;
    std::iter::from_fn(move || {
        let most = rest.len().min(MOST);
        let end = rest.iter().take(most).skip(1).position(&begins);
        let (run, behind) = rest.split_at(end.map_or(most, |end| end + 1));
        rest = behind;
        (!run.is_empty()).then_some(run)
    })
}

/// The lines of a map that lies so deep in others.
fn indented(depth: usize, map: Map) -> String {
    let whole = (0..depth).fold(map, |inner, _| Map::default().put("in", Yaml::Map(inner)));
    let text = yaml(&whole);
    let mut lines = text.splitn(depth + 1, '\n');
    lines.nth(depth).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Disk, parse};

    fn config(text: &str) -> Config {
        let read = parse(text, Path::new("/t.yaml"), &Disk);
        read.map_err(|report| report.render(false)).unwrap().0
    }

    /// Ports that a part of sixteen begins with.
    fn ports(count: usize) -> String {
        let port = |number: usize| {
            let [a, b] = [number / 16, number % 16];
            format!(
                "  p{number}: {{network: n, mac: \"52:54:00:00:{a:02x}:{b:02x}\", queues: {}}}\n",
                1 + number % 2
            )
        };
        let ports = (0..count).map(port).collect::<String>();
        format!(
            "version: 1\ncores: {{workers: 3}}\nnetworks: {{n: {{gateway: 10.0.0.1/8}}}}\nports:\n{ports}"
        )
    }

    #[test]
    fn what_changes_in_one_place_changes_one_part() {
        let old = config(&ports(100));
        let new = config(&ports(100).replace("p50: {network: n,", "p50: {network: n, guard: mac,"));
        let (old, new) = (parts(&old), parts(&new));
        assert_eq!((old.len(), new.len()), (8, 8));
        let differ: Vec<_> = (0..8).filter(|&at| old[at] != new[at]).collect();
        assert_eq!(differ, [1 + 50 / 16]);
        assert_eq!(old[4].first(), new[4].first());
        for (old, new) in old.iter().zip(&new) {
            assert_eq!(old == new, old.text() == new.text());
        }
    }

    #[test]
    fn what_goes_moves_no_other_parts_ends() {
        let old = config(&ports(100));
        let mut new = old.clone();
        new.ports.remove(50);
        let (old_parts, new_parts) = (parts(&old), parts(&new));
        let firsts = |parts: &[Part<'_>]| {
            parts
                .iter()
                .map(|it| format!("{:?}", it.first()))
                .collect::<Vec<_>>()
        };
        assert_eq!(firsts(&old_parts), firsts(&new_parts));
        assert_eq!(old_parts[..4], new_parts[..4]);
    }

    #[test]
    fn a_list_goes_on_from_run_to_run() {
        for count in [0, 1, 15, 16, 3_000] {
            let all: Vec<_> = (0..count).collect();
            for every in [1, 16, usize::MAX] {
                let runs: Vec<_> = runs(&all, |it| it % every == 0).collect();
                assert_eq!(runs.concat(), all);
                assert!(
                    runs.iter()
                        .all(|run| (1..=every.min(MOST)).contains(&run.len()))
                );
            }
        }
    }
}
