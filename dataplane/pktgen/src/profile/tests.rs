//! What profiles come to, and how mistakes are told.

use proptest::prelude::*;

use super::*;
use crate::limits::STREAMS_MAX;

fn profile(yaml: &str) -> Profile {
    match Profile::read(&serde_saphyr::from_str(yaml).unwrap()) {
        Ok(profile) => profile,
        Err(mistakes) => panic!("{mistakes:#?}"),
    }
}

fn mistakes(yaml: &str) -> Vec<Mistake> {
    Profile::read(&serde_saphyr::from_str(yaml).unwrap()).unwrap_err()
}

#[test]
fn one_line_of_flags_is_a_profile() {
    let flags = Node::of_flags([("rate", "10mpps"), ("duration", "60"), ("size", "64")]);
    let profile = Profile::read(&flags).unwrap();
    assert_eq!(profile.duration_ns, 60_000_000_000);
    assert_eq!(profile.packets_per_s(None).unwrap(), [10e6]);
    let [stream] = &profile.streams[..] else {
        panic!()
    };
    assert_eq!((stream.flows, stream.header_bytes()), (1, 42));
    assert_eq!(stream.mix.words(), "64");
}

#[test]
fn streams_share_a_rate_and_have_what_is_common() {
    let profile = profile(
        "rate: 3mpps\nsize: 128\nline: 10gbit\nstreams:\n\
         - { name: a, share: 2, source_port: 1000+100 }\n\
         - { name: b, destination: 10.0.0.1+50/256, source: 10.9.0.1 }\n\
         - { name: c, rate: 100kpps, size: imix, flows: 1 }\n",
    );
    let rates = profile.packets_per_s(None).unwrap();
    assert_eq!(rates, [2e6, 1e6, 1e5]);
    let flows: Vec<_> = profile
        .streams
        .iter()
        .map(|it| (it.first_flow, it.flows))
        .collect();
    assert_eq!(flows, [(0, 100), (100, 50), (150, 1)]);
    assert_eq!(profile.flows(), 151);
    assert_eq!(profile.streams[0].mix.words(), "128");
}

#[test]
fn lengths_are_those_of_all_packets_whoever_sets_their_rates() {
    let profile = profile(
        "rate: 3mpps\nstreams: [{ name: a, size: 64 }, { name: b, size: 1518, rate: 1mpps }]\n",
    );
    let rates = profile.packets_per_s(None).unwrap();
    assert_eq!(rates, [3e6, 1e6]);
    // Three of 60 bytes and one of 1514.
    assert_eq!(profile.mean_lengths(&rates).inner_bare_bytes, 423.5);
    assert_eq!(profile.mean_lengths(&[0.0, 0.0]).inner_bare_bytes, 787.0);
}

#[test]
fn long_packets_with_a_rate_of_their_own_are_not_above_the_line_either() {
    let it = profile(
        "line: 1gbit\nrate: 100kpps\nstreams: [{ name: a }, { name: b, size: 1518, rate: 80kpps }]\n",
    );
    assert!(it.packets_per_s(None).is_err());
}

#[test]
fn all_streams_together_are_not_above_the_line() {
    let profile =
        profile("line: 1gbit\nrate: 1mpps\nstreams: [{ name: a }, { name: b, rate: 1mpps }]\n");
    let wrong = profile.packets_per_s(None).unwrap_err();
    assert_eq!(wrong[0].path, "streams");
    assert!(
        wrong[0]
            .message
            .contains("2000000 packets/s, the line carries 1488095"),
        "{wrong:?}"
    );
}

#[test]
fn super_frames_count_as_the_packets_that_they_become() {
    let profile =
        profile("size: 64k\nsegment: 1448\nprotocol: tcp\nrate: 1mpps\nchecksum: partial\n");
    let stream = &profile.streams[0];
    // 65,495 bytes of payload in segments of 1,448.
    assert_eq!(stream.segments(stream.mix.longest()), 46);
    let mean = profile.lengths(stream).inner_bare_bytes;
    assert!((mean - (65_495.0 / 46.0 + 54.0)).abs() < 1e-6, "{mean}");
}

#[test]
fn a_rate_of_sealed_frames_knows_what_is_around_them() {
    let profile = profile("outer: ipv4\nmtu: 1420\nline: 10gbit-outer\nrate: max\nsize: 64\n");
    let rates = profile.packets_per_s(None).unwrap();
    // 46 bytes of packet, padded to 48, and 74 around it; check sequence, preamble, gap.
    assert!(
        (rates[0] - 10e9 / 8.0 / (48.0 + 74.0 + 24.0)).abs() < 1.0,
        "{rates:?}"
    );
}

#[test]
fn mistakes_are_all_told_with_their_places() {
    let cases = [
        ("szie: 64", "szie", "there is no key", "is `size` meant?"),
        (
            "colour: red",
            "colour",
            "there is no key",
            "expected one of duration",
        ),
        (
            "streams: [{ duration: 5 }]",
            "streams[0].duration",
            "a key of the profile",
            "beside `streams`",
        ),
        ("size: [64]", "size", "is a list", "single value"),
        (
            "streams: [{}, { size: 63 }]",
            "streams[1].size",
            "there are such of 64",
            "check sequence",
        ),
        (
            "source: fd00::1\ndestination: fd00::2\nsize: 64",
            "streams[0].size",
            "no room",
            "expected 82",
        ),
        (
            "protocol: tcp\nsize: 64",
            "streams[0].size",
            "no room",
            "expected 74",
        ),
        (
            "source: fd00::1\ndestination: 10.0.0.1",
            "destination",
            "another family",
            "two addresses",
        ),
        (
            "source_port: 1-10\nflows: 11",
            "streams[0].flows",
            "have 10 combinations",
            "widen",
        ),
        (
            "source: 10.0.0.1+5000\nsource_port: 1-5000",
            "streams[0].flows",
            "25000000 flows",
            "at most",
        ),
        (
            "size: 1519",
            "streams[0].size",
            "packets of 1501 bytes",
            "`segment`",
        ),
        (
            "size: 64k\nsegment: 100\nprotocol: tcp",
            "streams[0].segment",
            "655 segments",
            "128 at most",
        ),
        (
            "size: 9000\nsegment: 8949",
            "streams[0].size",
            "MTU is 1500",
            "raise",
        ),
        (
            "size: 2998\nsegment: 1472",
            "streams[0].size",
            "last segment has no room",
            "16 bytes",
        ),
        (
            "source: 10.0.0.1+5\nsource_mac: \"52:54:00:00:00:01+4\"",
            "streams[0].source_mac",
            "4 hardware addresses of 5",
            "one, or as many",
        ),
        ("rate: fast", "rate", "`fast` is no rate", "10mpps"),
        ("line: 10mpps", "line", "no line rate", "10gbit"),
        (
            "line: 10gbit-outer",
            "line",
            "nothing says what is around",
            "`outer`",
        ),
        ("duration: 0", "duration", "is `0`", "60s"),
        ("duration: 100h", "duration", "is `100h`", "78h"),
        (
            "pattern: bursty",
            "pattern",
            "`bursty` is no pattern",
            "burst 32",
        ),
        (
            "streams: [{ name: a }, { name: a }]",
            "streams[1].name",
            "called `a`",
            "apart",
        ),
        ("streams: {}", "streams", "is a table", "a list"),
        ("streams: []", "streams", "has 0 streams", "1 to 64"),
        ("- 1", "profile", "is a list", "keys and values"),
        ("ttl: 0", "ttl", "is `0`", "1 to 255"),
        ("verify: maybe", "verify", "is `maybe`", "true or false"),
        ("share: 0", "share", "a share of `0`", "2.5"),
    ];
    for (yaml, path, message, help) in cases {
        let mistakes = mistakes(yaml);
        let found = mistakes.iter().any(|it| {
            it.path == path
                && it.message.contains(message)
                && it.help.iter().any(|line| line.contains(help))
        });
        assert!(found, "{yaml}: {mistakes:#?}");
    }
    assert_eq!(
        mistakes("szie: 64\nrate: fast\nstreams: [{ ttl: 0 }]").len(),
        3
    );
    let many = format!("streams: [{}]", "{},".repeat(STREAMS_MAX + 1));
    assert!(mistakes(&many)[0].message.contains("65 streams"));
}

#[test]
fn the_default_size_has_room_for_a_signature() {
    for (flags, expected) in [
        ("{}", 64),
        ("protocol: tcp", 74),
        ("source: fd00::1\ndestination: fd00::2", 82),
    ] {
        assert_eq!(
            profile(flags).streams[0].mix.longest().fcs_bytes(),
            expected,
            "{flags}"
        );
    }
}

proptest! {
    /// Whatever stands in a key, it is read or told of.
    #[test]
    fn any_text_is_a_value_or_a_mistake(key in 0..KEYS.len(), text in r"[0-9a-zA-Z:.,+/%\- ]{0,24}|\PC{0,12}") {
        let tree = Node::Map(vec![(KEYS[key].name.into(), Node::Text(text.clone()))]);
        match Profile::read(&tree) {
            Ok(profile) => {
                let _ = profile.packets_per_s(Some(1e6));
            }
            Err(mistakes) => prop_assert!(mistakes.iter().all(|it| !it.help.is_empty()), "{mistakes:?}"),
        }
    }
}

#[test]
fn every_key_is_read() {
    // A value of another form is complained of, so the key is looked at.
    for key in KEYS.iter().filter(|key| key.name != "streams") {
        let yaml = format!("{}: {{ a: b }}", key.name);
        let mistakes = mistakes(&yaml);
        assert!(
            mistakes
                .iter()
                .any(|it| it.path == key.name && it.message == "is a table"),
            "{}: {mistakes:?}",
            key.name
        );
    }
    assert_eq!(table().lines().count(), KEYS.len() + 2);
}
