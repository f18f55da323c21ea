//! Every key: where it stands, its default, what it means. Reader, reference and flags are made from this table.
//!
//! In: nothing. Out: the table, and its reference as Markdown. Never: what a value comes to.

use std::fmt::Write as _;

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Beside `streams`.
    Profile,
    /// In a stream, or beside `streams` for all of them.
    Stream,
}

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written in a file; as a flag with `-` in place of `_`.
    pub name: &'static str,
    /// Where it stands.
    pub place: Place,
    /// What holds without it.
    pub default: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

const fn profile(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        name,
        place: Place::Profile,
        default,
        meaning,
    }
}

const fn stream(name: &'static str, default: &'static str, meaning: &'static str) -> Key {
    Key {
        name,
        place: Place::Stream,
        default,
        meaning,
    }
}

/// All keys.
pub const KEYS: &[Key] = &[
    profile(
        "duration",
        "10s",
        "how long a trial sends: `60`, `60s`, `500ms`",
    ),
    profile(
        "line",
        "none",
        "what the line carries, with preamble and gap: `10gbit`; `10gbit-outer` if sealed frames are on it",
    ),
    profile(
        "outer",
        "none",
        "what is around frames on the wire: `ipv4` or `ipv6` and WireGuard; then sizes and rates may be `-outer`",
    ),
    profile(
        "mtu",
        "1500",
        "the MTU of what frames are in: nothing longer is sent, but super-frames; the tunnel's with `outer`",
    ),
    profile(
        "pattern",
        "constant",
        "how packets follow each other: `constant`, `poisson`, `burst 32`, `ramp` (from a hundredth of the rate), `ramp 10%`, `drop 50%` (after half of the time)",
    ),
    profile(
        "catch_up",
        "1ms",
        "how late a packet may leave; beyond it, it counts as unsent",
    ),
    profile(
        "late",
        "1s",
        "how late a packet may arrive before it counts as late",
    ),
    profile(
        "verify",
        "true",
        "whether all payload is compared, and not its signature alone",
    ),
    profile(
        "seed",
        "1",
        "what draws of `poisson` begin with: with the same seed they are the same",
    ),
    profile(
        "streams",
        "one stream",
        "a list of streams; keys of a stream beside it hold for all of them",
    ),
    stream("name", "stream1, …", "what results call it"),
    stream("from", "the only seat", "the seat that sends it"),
    stream("to", "the only seat", "the seat that is to receive it"),
    stream(
        "rate",
        "max",
        "of all streams together; in a stream its own: `10mpps`, `1gbit`, `1gbit-l1`, `1gbit-outer`, `50%`, `max`",
    ),
    stream("share", "1", "parts of the common rate that are its"),
    stream(
        "size",
        "64, or what has room for a signature",
        "frames with their check sequence: `64`; `60-bare`, `1518-outer`, `64k`; mixes: `imix`, `imix-csit`, `7x64,4x570,1x1518`, `aaaaaaaAAAAg:A=570`",
    ),
    stream(
        "protocol",
        "udp",
        "`udp`, or `tcp`: data of established connections",
    ),
    stream(
        "segment",
        "none",
        "payload bytes of each segment: frames are super-frames, cut by whoever is handed them",
    ),
    stream(
        "checksum",
        "full",
        "`full`, or `partial`: completed by whoever is handed the frame",
    ),
    stream(
        "source_mac",
        "52:54:00:00:00:01",
        "hardware addresses that send: one, `A-B`, `A+COUNT`, `A+COUNT/STEP`",
    ),
    stream(
        "destination_mac",
        "52:54:00:00:00:02",
        "hardware addresses that it is sent to",
    ),
    stream(
        "source",
        "198.18.0.1, with IPv6 2001:2::1",
        "addresses that send: one, `A-B`, `A+COUNT`, `A+COUNT/STEP`",
    ),
    stream(
        "destination",
        "198.19.0.1, with IPv6 2001:2:0:1::1",
        "addresses that it is sent to; these differ first from packet to packet",
    ),
    stream("source_port", "1024", "ports that send"),
    stream("destination_port", "9", "ports that it is sent to"),
    stream(
        "flows",
        "every combination",
        "how many combinations of the ranges, from the first",
    ),
    stream("ttl", "64", "the hop limit"),
    stream("dscp", "0", "the differentiated services code point"),
];

/// The table as Markdown.
#[must_use]
pub fn table() -> String {
    let mut text = String::from("| key | without it | meaning |\n|---|---|---|\n");
    for key in KEYS {
        // A String takes everything.
        let _ = writeln!(
            text,
            "| `{}` | {} | {} |",
            key.name, key.default, key.meaning
        );
    }
    text
}

/// The known key that a word is nearest to, if it is near any.
pub(super) fn nearest(word: &str) -> Option<&'static str> {
    let near = KEYS
        .iter()
        .map(|key| (distance(word, key.name), key.name))
        .min()?;
    (near.0 <= 2 && near.0 < word.len()).then_some(near.1)
}

/// How many letters differ (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
