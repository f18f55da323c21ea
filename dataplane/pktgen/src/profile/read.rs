//! Reading a profile: texts to types, all mistakes at once.
//!
//! In: a tree. Out: a profile, or mistakes. Never: stopping at the first mistake.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::keys::{KEYS, Place, nearest};
use super::stream::{Checksums, Family, Protocol, Share, Stream};
use super::texts::Texts;
use super::{FrameLen, Profile, Rate, Shape, Tunnel};
use crate::limits::{
    BARE_BYTES_MIN, CATCH_UP_NS, FLOWS_MAX, PLAIN_BYTES_MAX, SEGMENTS_MAX, STREAMS_MAX,
};
use crate::mistake::{Mistake, Wrong};
use crate::mix::{Around, Mix};
use crate::number;
use crate::range::Kind;
use crate::rate::{Layer, Side};
use crate::tree::Node;

pub(super) type Pairs = [(String, Node)];

/// Reads everything, and looks at streams one by one.
pub(super) fn profile(node: &Node) -> Result<Profile, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let Some(pairs) = pairs(node, "profile", &mut mistakes) else {
        return Err(mistakes);
    };
    known(pairs, None, &mut mistakes);
    let mut top = Texts::new(pairs, None, &mut mistakes);
    let tunnel_is_v6 = top.choice(
        "outer",
        &[("ipv4", Some(false)), ("ipv6", Some(true))],
        None,
    );
    let mtu = top.number("mtu", 68, u64::from(PLAIN_BYTES_MAX) - 14, 1500);
    let tunnel = tunnel_is_v6.map(|ipv6| Tunnel { ipv6, mtu });
    let mut profile = Profile {
        streams: Vec::new(),
        rate: top.parsed("rate", Rate::parse, Rate::Max),
        duration_ns: top.duration("duration", 10_000_000_000),
        shape: top.parsed("pattern", Shape::parse, Shape::Constant),
        line: top.parsed("line", |text| line(text, tunnel).map(Some), None),
        tunnel,
        mtu,
        catch_up_ns: top.duration("catch_up", CATCH_UP_NS),
        late_ns: top.duration("late", 1_000_000_000),
        verify: top.choice("verify", &[("true", true), ("false", false)], true),
        seed: top.number("seed", 0, u64::MAX, 1),
    };
    streams(pairs, &mut profile, &mut mistakes);
    match mistakes.is_empty() {
        true => Ok(profile),
        false => Err(mistakes),
    }
}

fn line(text: &str, tunnel: Option<Tunnel>) -> Result<(f64, Side), Wrong> {
    let help =
        "expected what the line carries with preamble and gap, as in 10gbit, or 10gbit-outer";
    match Rate::parse(text) {
        Ok(Rate::Bits {
            side: Side::Outer, ..
        }) if tunnel.is_none() => Err(Wrong::new(
            format!("`{text}` counts what leaves sealed, but nothing says what is around it"),
            "set `outer` to ipv4 or ipv6",
        )),
        Ok(Rate::Bits {
            bits_per_s,
            layer: Layer::L1 | Layer::L2,
            side,
        }) => Ok((bits_per_s, side)),
        _ => Err(Wrong::new(format!("`{text}` is no line rate"), help)),
    }
}

fn pairs<'n>(node: &'n Node, what: &str, mistakes: &mut Vec<Mistake>) -> Option<&'n Pairs> {
    match node {
        Node::Map(pairs) => Some(pairs),
        Node::Null => Some(&[]),
        Node::Text(_) | Node::List(_) => {
            let message = format!("is {}", node.form());
            mistakes.push(
                Mistake::new(what, message).help("expected keys and values, as in `rate: 1mpps`"),
            );
            None
        }
    }
}

/// Complains of keys that don't exist, stand in the wrong place, or stand there twice.
fn known(pairs: &Pairs, stream: Option<&str>, mistakes: &mut Vec<Mistake>) {
    for (place, (name, _)) in pairs.iter().enumerate() {
        let path = join(stream, name);
        let found = KEYS.iter().find(|key| key.name == name);
        let mistake = match found {
            None => unknown(path, name),
            Some(key) if key.place == Place::Profile && stream.is_some() => {
                Mistake::new(path, "is a key of the profile, not of a stream")
                    .help("write it beside `streams`")
            }
            Some(_) if pairs[..place].iter().any(|(it, _)| it == name) => {
                Mistake::new(path, "stands there twice").help("leave one of them out")
            }
            Some(_) => continue,
        };
        mistakes.push(mistake);
    }
}

fn unknown(path: String, name: &str) -> Mistake {
    let mistake = Mistake::new(path, format!("there is no key `{name}`"));
    match nearest(name) {
        Some(near) => mistake.help(format!("is `{near}` meant?")),
        None => {
            let names: Vec<&str> = KEYS.iter().map(|key| key.name).collect();
            mistake.help(format!("expected one of {}", names.join(", ")))
        }
    }
}

pub(super) fn join(stream: Option<&str>, key: &str) -> String {
    stream.map_or_else(|| key.into(), |stream| format!("{stream}.{key}"))
}

fn streams(pairs: &Pairs, profile: &mut Profile, mistakes: &mut Vec<Mistake>) {
    let list = pairs
        .iter()
        .find(|(key, _)| key == "streams")
        .map(|(_, node)| node);
    let single = [Node::Map(Vec::new())];
    let nodes = match list {
        None | Some(Node::Null) => &single[..],
        Some(Node::List(nodes)) => nodes,
        Some(other @ (Node::Text(_) | Node::Map(_))) => {
            let message = format!("is {}", other.form());
            mistakes
                .push(Mistake::new("streams", message).help("expected a list, as in `- size: 64`"));
            return;
        }
    };
    if !(1..=STREAMS_MAX).contains(&nodes.len()) {
        let message = format!("has {} streams", nodes.len());
        mistakes
            .push(Mistake::new("streams", message).help(format!("expected 1 to {STREAMS_MAX}")));
        return;
    }
    for (place, node) in nodes.iter().enumerate() {
        let path = format!("streams[{place}]");
        let Some(own) = self::pairs(node, &path, mistakes) else {
            continue;
        };
        known(own, Some(&path), mistakes);
        stream(own, pairs, &path, profile, mistakes);
    }
    names(profile, mistakes);
}

fn names(profile: &Profile, mistakes: &mut Vec<Mistake>) {
    for (place, stream) in profile.streams.iter().enumerate() {
        if profile.streams[..place]
            .iter()
            .any(|it| it.name == stream.name)
        {
            let message = format!("another stream is called `{}`, too", stream.name);
            let path = format!("{}.name", stream.path);
            mistakes.push(
                Mistake::new(path, message).help("results tell streams apart by their names"),
            );
        }
    }
}

fn stream(
    own: &Pairs,
    common: &Pairs,
    path: &str,
    profile: &mut Profile,
    mistakes: &mut Vec<Mistake>,
) {
    let before = mistakes.len();
    let around = Around {
        tunnel: profile.tunnel,
        mtu: profile.mtu,
    };
    let number = profile.streams.len() + 1;
    let mut texts = Texts::new(own, Some((path, common)), mistakes);
    let kinds = texts.families();
    let family = if kinds == Kind::V6 {
        Family::Ipv6
    } else {
        Family::Ipv4
    };
    let [from, to] = default_ends(kinds);
    let share = texts.parsed("share", parts, 1.0);
    let own_rate = texts.own("rate").is_some();
    let rate = texts.parsed("rate", Rate::parse, Rate::Max);
    let protocol = texts.choice(
        "protocol",
        &[("udp", Protocol::Udp), ("tcp", Protocol::Tcp)],
        Protocol::Udp,
    );
    // The shortest Ethernet frame, or the shortest with room for a signature.
    let least = Stream::header_bytes_of(family, protocol) + SIGNATURE_BYTES;
    let default_size = FrameLen::of_bare_bytes(least.max(BARE_BYTES_MIN));
    let stream = Stream {
        path: path.into(),
        name: texts
            .text("name")
            .unwrap_or_else(|| format!("stream{number}")),
        from: texts.text("from").unwrap_or_default(),
        to: texts.text("to").unwrap_or_default(),
        family,
        protocol,
        source_mac: texts.range("source_mac", Kind::Mac, 0x5254_0000_0001),
        destination_mac: texts.range("destination_mac", Kind::Mac, 0x5254_0000_0002),
        source: texts.range("source", kinds, from),
        destination: texts.range("destination", kinds, to),
        source_port: texts.range("source_port", Kind::Port, 1024),
        destination_port: texts.range("destination_port", Kind::Port, 9),
        mix: texts.parsed(
            "size",
            |text| Mix::parse(text, around),
            Mix::of(default_size),
        ),
        segment: Some(texts.number("segment", 16, 65_000, 0)).filter(|&size| size > 0),
        checksums: texts.choice(
            "checksum",
            &[("full", Checksums::Full), ("partial", Checksums::Partial)],
            Checksums::Full,
        ),
        ttl: texts.number("ttl", 1, 255, 64),
        dscp: texts.number("dscp", 0, 63, 0),
        share: if own_rate {
            Share::Own(rate)
        } else {
            Share::Of(share)
        },
        first_flow: profile.flows(),
        flows: 0,
    };
    let flows = texts.number("flows", 1, FLOWS_MAX, 0);
    if mistakes.len() == before {
        fit(&stream, profile.mtu, mistakes);
        hosts(&stream, mistakes);
        let flows = combinations(&stream, flows, profile, mistakes);
        profile.streams.push(Stream { flows, ..stream });
    }
}

/// Addresses for benchmarks (RFC 2544, appendix C.2.2; RFC 5180, section 8).
fn default_ends(kind: Kind) -> [u128; 2] {
    let ends: [IpAddr; 2] = if kind == Kind::V6 {
        [
            Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 1).into(),
        ]
    } else {
        [
            Ipv4Addr::new(198, 18, 0, 1).into(),
            Ipv4Addr::new(198, 19, 0, 1).into(),
        ]
    };
    ends.map(|end| match end {
        IpAddr::V4(end) => u128::from(u32::from(end)),
        IpAddr::V6(end) => u128::from(end),
    })
}

fn parts(text: &str) -> Result<f64, Wrong> {
    let parts = number::split(text).filter(|(parts, unit)| *parts > 0.0 && unit.is_empty());
    let help = "expected parts of the common rate, as in 1 or 2.5";
    parts
        .map(|(parts, _)| parts)
        .ok_or_else(|| Wrong::new(format!("a share of `{text}`"), help))
}

/// Whether its frames have room for their headers and signatures, and are not too long.
fn fit(stream: &Stream, mtu: u32, mistakes: &mut Vec<Mistake>) {
    let path = format!("{}.size", stream.path);
    let least = FrameLen::of_bare_bytes(stream.header_bytes() + SIGNATURE_BYTES);
    let shortest = stream.mix.sizes().iter().min().copied().unwrap_or(least);
    if shortest < least {
        let message = format!(
            "a frame of {} bytes has no room for {:?}, {:?} and a signature",
            shortest.fcs_bytes(),
            stream.family,
            stream.protocol
        );
        mistakes.push(
            Mistake::new(path.clone(), message)
                .help(format!("expected {} or more", least.fcs_bytes())),
        );
    }
    let longest = stream.mix.longest();
    let segments = stream
        .mix
        .sizes()
        .iter()
        .map(|&size| stream.segments(size))
        .max()
        .unwrap_or(1);
    let packet = stream.segment.map_or(longest.ip_bytes(), |size| {
        longest
            .ip_bytes()
            .min(stream.header_bytes() - 14 + u32::from(size))
    });
    if packet > mtu {
        let message = format!("packets of {packet} bytes, while the MTU is {mtu}");
        let help = "send smaller ones, raise `mtu`, or set `segment` to have super-frames cut";
        mistakes.push(Mistake::new(path, message).help(help));
    } else if segments as usize > SEGMENTS_MAX {
        let message = format!("frames of {segments} segments");
        let path = format!("{}.segment", stream.path);
        mistakes.push(
            Mistake::new(path, message)
                .help(format!("expected {SEGMENTS_MAX} at most: larger segments")),
        );
    } else if last_segment(stream) < SIGNATURE_BYTES {
        let message = "a frame's last segment has no room for a signature";
        let help = format!("choose sizes whose last segment has {SIGNATURE_BYTES} bytes or more");
        mistakes.push(Mistake::new(path, message).help(help));
    }
}

/// Each address of an end has one hardware address, or all have the same.
fn hosts(stream: &Stream, mistakes: &mut Vec<Mistake>) {
    for (key, mac, address) in [
        ("source", stream.source_mac, stream.source),
        ("destination", stream.destination_mac, stream.destination),
    ] {
        if mac.count != 1 && mac.count != address.count {
            let path = format!("{}.{key}_mac", stream.path);
            let message = format!(
                "{} hardware addresses of {} addresses",
                mac.count, address.count
            );
            mistakes.push(
                Mistake::new(path, message)
                    .help(format!("expected one, or as many as `{key}` has")),
            );
        }
    }
}

/// A signature's length; its own room has the layout.
const SIGNATURE_BYTES: u32 = 16;

fn last_segment(stream: &Stream) -> u32 {
    let Some(segment) = stream.segment.map(u32::from) else {
        return SIGNATURE_BYTES;
    };
    let last =
        |size: &FrameLen| match size.bare_bytes().saturating_sub(stream.header_bytes()) % segment {
            0 => segment,
            rest => rest,
        };
    stream
        .mix
        .sizes()
        .iter()
        .map(last)
        .min()
        .unwrap_or(SIGNATURE_BYTES)
}

/// How many flows it has: what was asked for, of the combinations that there are.
fn combinations(
    stream: &Stream,
    asked: u64,
    profile: &Profile,
    mistakes: &mut Vec<Mistake>,
) -> u32 {
    let all = stream.dimensions();
    let all = all.iter().fold(1, |all: u128, range| {
        all.saturating_mul(u128::from(range.count))
    });
    let flows = if asked == 0 { all } else { u128::from(asked) };
    let path = format!("{}.flows", stream.path);
    if flows > all {
        let message = format!("{flows} flows of ranges that have {all} combinations");
        mistakes.push(
            Mistake::new(path, message).help("widen a range, as in `source_port: 1024+1000`"),
        );
    } else if flows + u128::from(profile.flows()) > u128::from(FLOWS_MAX) {
        let message = format!(
            "{flows} flows, and {} of the streams before",
            profile.flows()
        );
        mistakes.push(
            Mistake::new(path, message).help(format!("there are {FLOWS_MAX} at most: set `flows`")),
        );
    } else {
        return u32::try_from(flows).unwrap_or(0);
    }
    0
}
