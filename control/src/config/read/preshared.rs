//! The preshared keys of many peers, in one file.
//!
//! In: the file's lines: a public key and a preshared one, or `(none)`, as `wg show INTERFACE preshared-keys` prints
//! them. Out: peers with their keys; what the file and the peers don't agree on goes to the report. Never: a preshared
//! key in a message.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Reader;
use crate::config::draft::{Peer, Tunnel};
use crate::config::report::Report;
use crate::config::section::{At, Section};
use crate::keys::{PresharedKey, PublicKey};

/// Lines and names that a message has of many.
const SHOWN: usize = 5;

/// A line of the file.
struct Line {
    number: usize,
    /// None: that peer is to have none.
    key: Option<PresharedKey>,
}

impl Reader<'_> {
    /// Gives a tunnel's peers the keys that its file has for them.
    pub(super) fn preshared_keys(&mut self, section: &Section<'_>, tunnel: &mut Tunnel) {
        tunnel.preshared_keys_file = self.key_path(section, "preshared_keys_file");
        let Some(file) = tunnel.preshared_keys_file.clone() else {
            return;
        };
        let text = match self.keys.read_many_in(&self.key_directory, &file.value) {
            Ok(text) => text,
            Err(error) => {
                let make = "expected a line for each peer: its public key, a space and a key of `culvert genpsk`";
                self.unusable(&file, "the preshared keys", &error, make);
                return;
            }
        };
        let Some(mut lines) = lines(&text, &file, self.report) else {
            return;
        };
        let mut without = Vec::new();
        for peer in tunnel.peers.read_mut() {
            let line = peer.public_key.and_then(|key| lines.remove(&key.value));
            match line {
                Some(line) => give(peer, line, &file, self.report),
                None if peer.public_key.is_some() && peer.preshared_key_file.is_none() => {
                    without.push(peer.name.value.as_str());
                }
                None => {}
            }
        }
        tell_without(&without, &file, self.report);
        tell_left(&lines, tunnel, &file, self.report);
    }
}

fn give(peer: &mut Peer, line: Line, file: &At<PathBuf>, report: &mut Report) {
    if peer.preshared_key_file.is_some() {
        let (name, shown, number) = (&peer.name.value, file.value.display(), line.number);
        report
            .error(peer.name.span, format!("peer `{name}` has a `preshared_key_file`, and a key in line {number} of `{shown}`"))
            .help("keep one of the two");
        return;
    }
    if line.key.is_some() {
        peer.preshared_key_file = Some(file.value.clone());
    }
    peer.preshared_key = line.key;
}

/// The lines by their public keys; `None` if one is none, which is reported.
fn lines(text: &str, file: &At<PathBuf>, report: &mut Report) -> Option<HashMap<PublicKey, Line>> {
    let mut lines: HashMap<PublicKey, Line> = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        if line.trim().is_empty() {
            continue;
        }
        let (key, line) = match read(number, line) {
            Ok(read) => read,
            Err(what) => {
                report
                    .error(file.span, format!("line {number} of `{}` {what}", file.value.display()))
                    .help("expected a public key, a space and a preshared key, or `(none)`, as `wg show INTERFACE preshared-keys` prints them");
                return None;
            }
        };
        if let Some(first) = lines.insert(key, line) {
            let message = format!(
                "line {number} of `{}` has a public key again",
                file.value.display()
            );
            report.error(file.span, message).help(format!(
                "it stands in its line {} already: remove one of the two",
                first.number
            ));
            return None;
        }
    }
    Some(lines)
}

fn read(number: usize, line: &str) -> Result<(PublicKey, Line), &'static str> {
    let mut words = line.split_whitespace();
    let (Some(public), Some(secret), None) = (words.next(), words.next(), words.next()) else {
        return Err("is not two keys");
    };
    let public = PublicKey::from_base64(public).map_err(|_| "does not begin with a public key")?;
    let key = match secret {
        "(none)" => None,
        secret => Some(
            PresharedKey::from_base64(secret).map_err(|_| "does not end with a preshared key")?,
        ),
    };
    Ok((public, Line { number, key }))
}

/// Peers that the file does not name are called without a key, which the far end may not expect.
fn tell_without(names: &[&str], file: &At<PathBuf>, report: &mut Report) {
    if names.is_empty() {
        return;
    }
    let shown: Vec<_> = names
        .iter()
        .take(SHOWN)
        .map(|name| format!("`{name}`"))
        .collect();
    report
        .warning(
            file.span,
            format!(
                "`{}` has no key for {}{}",
                file.value.display(),
                shown.join(", "),
                more(names.len())
            ),
        )
        .help("if they are to have none, say so there: their public key and `(none)`");
}

fn tell_left(
    lines: &HashMap<PublicKey, Line>,
    tunnel: &Tunnel,
    file: &At<PathBuf>,
    report: &mut Report,
) {
    let mut left: Vec<_> = lines.iter().map(|(key, line)| (line.number, key)).collect();
    if left.is_empty() {
        return;
    }
    left.sort_unstable_by_key(|(number, _)| *number);
    let shown = left.iter().take(SHOWN);
    let shown: Vec<_> = shown
        .map(|(number, key)| format!("{} in line {number}", key.to_base64()))
        .collect();
    let name = &tunnel.name.value;
    report
        .warning(
            file.span,
            format!(
                "no peer of tunnel `{name}` has the public keys of `{}`: {}{}",
                file.value.display(),
                shown.join(", "),
                more(left.len())
            ),
        )
        .help("add the peers, or remove these lines");
}

fn more(count: usize) -> String {
    match count.saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}
