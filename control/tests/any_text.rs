//! No text panics the reader, and a refused text always says why.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::path::Path;

use culvert::config::{self, KeyFileError, KeyFiles};
use proptest::prelude::*;
use zeroize::Zeroizing;

/// Every file holds a key.
struct Keys;

impl KeyFiles for Keys {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(
            "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=".into(),
        ))
    }
}

/// Every file holds a key, and the file of many holds this.
struct Many<'t>(&'t str);

impl KeyFiles for Many<'_> {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Keys.read(path)
    }

    fn read_many(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(self.0.to_owned()))
    }
}

/// A tunnel with such a file of preshared keys.
const TUNNEL: &str = "version: 1
uplinks: {u: {driver: udp}}
networks: {n: {gateway: 10.0.0.1/24, tunnel: t}}
tunnels:
  t:
    uplink: u
    listen_port: 1
    private_key_file: k
    preshared_keys_file: many
    peers:
      p: {public_key: \"hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=\"}
";

/// Reads, and shows what was found in both ways.
fn read(text: &str) -> Result<(), TestCaseError> {
    match config::parse(text, Path::new("any.yaml"), &Keys) {
        Ok((_, report)) => prop_assert_eq!(report.errors(), 0),
        Err(report) => {
            prop_assert!(report.errors() > 0);
            prop_assert!(!report.render(false).is_empty());
            prop_assert!(report.render(true).len() > report.render(false).len());
            let lines = text.lines().count() + 1;
            for mistake in report.mistakes() {
                prop_assert!(
                    mistake.span.line <= lines,
                    "{:?} of {} lines",
                    mistake.span,
                    lines
                );
            }
        }
    }
    Ok(())
}

/// Words that the reader treats in some way of its own.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "version",
        "node",
        "cores",
        "control",
        "workers",
        "poll",
        "memory",
        "mtu_max",
        "uplinks",
        "tunnels",
        "networks",
        "ports",
        "driver",
        "dpdk",
        "udp",
        "device",
        "addresses",
        "routes",
        "to",
        "via",
        "default",
        "mtu",
        "queues",
        "queue_workers",
        "listen_port",
        "private_key_file",
        "peers",
        "public_key",
        "endpoint",
        "allowed_ips",
        "persistent_keepalive",
        "gateway",
        "gateway_mac",
        "dhcp",
        "dns",
        "domain",
        "lease",
        "12h",
        "ra",
        "slaac",
        "tunnel",
        "network",
        "mac",
        "guard",
        "strict",
        "socket",
        "socket_mode",
        "client",
        "offloads",
        "interface",
        "tun",
        "unreachable",
        "peer",
        "a",
        "b",
        "1",
        "0",
        "2",
        "65535",
        "4294967296",
        "-1",
        "1280",
        "9000",
        "0x10",
        "1e999",
        ".nan",
        "~",
        "true",
        "off",
        "25s",
        "10.0.0.1",
        "10.0.0.1/24",
        "10.0.0.0/33",
        "0.0.0.0/0",
        "fd00::1/64",
        "::/0",
        "fd00::1",
        "[::1]:5",
        "h.example:1",
        "52:54:00:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "0000:3b:00.0",
        "net_tap0",
        "0660",
        "é€",
        "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    ];
    proptest::sample::select(words.to_vec()).prop_map(String::from)
}

/// A document of known words in every form.
fn document() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![4 => word(), 1 => word().prop_map(|word| format!("{word:?}"))];
    scalar.prop_recursive(6, 80, 8, |inner| {
        prop_oneof![
            3 => prop::collection::vec((word(), inner.clone()), 0..8)
                .prop_map(|entries| {
                    let entries: Vec<String> = entries.iter().map(|(key, value)| format!("{key:?}: {value}")).collect();
                    format!("{{{}}}", entries.join(", "))
                }),
            1 => prop::collection::vec(inner, 0..5).prop_map(|items| format!("[{}]", items.join(", "))),
        ]
    })
}

const EXAMPLES: [&str; 2] = [
    include_str!("../../configs/hv-a.yaml"),
    include_str!("../../configs/multi-queue.yaml"),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(text in "\\PC*") {
        read(&text)?;
    }

    /// Lines of preshared keys that are some or none, and never shown.
    #[test]
    fn any_file_of_preshared_keys(
        words in prop::collection::vec(
            prop_oneof![
                Just("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="),
                Just("3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="),
                Just("yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="),
                Just("(none)"), Just(" "), Just("\t"), Just("\n"), Just("#"), Just("é"),
            ],
            0..24,
        ),
    ) {
        let secret = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        let text = words.concat();
        let read = config::parse(TUNNEL, Path::new("any.yaml"), &Many(&text));
        let (Ok((_, report)) | Err(report)) = &read;
        // A word in a public key's place is taken for one.
        let leads = text.lines().any(|line| line.trim_start().starts_with(secret));
        prop_assert!(leads || !report.render(false).contains(secret));
        if let Ok((config, _)) = &read {
            let peer = &config.tunnels[0].peers[0];
            prop_assert_eq!(peer.preshared_key.is_some(), peer.preshared_key_file.is_some());
        }
    }

    #[test]
    fn yaml_like_text(text in "([a-z]{1,3}: ?|- |[\\[\\]{},&*!|>'\"#~?%@`]|[0-9./:]{1,4}| {1,4}|\n|\t|é|\r\n|---|<<: )*") {
        read(&text)?;
    }

    #[test]
    fn known_words_in_every_form(text in document()) {
        read(&text)?;
    }

    #[test]
    fn examples_with_pieces_changed(
        example in 0..EXAMPLES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[ -~\n\té]{0,6}"), 1..6),
    ) {
        let mut chars: Vec<char> = EXAMPLES[example].chars().collect();
        for (place, removed, added) in edits {
            let at = place.index(chars.len());
            let end = (at + removed).min(chars.len());
            chars.splice(at..end, added.chars());
        }
        read(&chars.iter().collect::<String>())?;
    }

    #[test]
    fn examples_with_words_exchanged(
        example in 0..EXAMPLES.len(),
        place in any::<prop::sample::Index>(),
        value in prop_oneof![word(), document()],
    ) {
        // The value of one line is another.
        let mut lines: Vec<String> = EXAMPLES[example].lines().map(String::from).collect();
        let index = place.index(lines.len());
        if let Some((key, _)) = lines[index].split_once(": ") {
            lines[index] = format!("{key}: {value}");
        }
        read(&lines.join("\n"))?;
    }
}
