//! Every mistake is found, stands where it is, and says how to mend it.
//!
//! Each case changes the good configuration below. `⟦` marks where the caret must stand; it is
//! taken out before the text is read.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::path::Path;

use culvert::{
    config::{self, KeyFileError, KeyFiles, Report, Severity},
    keys::PublicKey,
};
use zeroize::Zeroizing;

const GOOD: &str = r#"version: 1
node: hv-a
cores: { control: 0, workers: [1, 2], poll: adaptive }
uplinks:
  wan0:
    driver: dpdk
    device: "0000:3b:00.0"
    addresses: [192.0.2.10/24]
    routes: [{ to: default, via: 192.0.2.1 }]
    mtu: 1500
  lan0:
    driver: udp
tunnels:
  wg0:
    uplink: wan0
    listen_port: 51820
    private_key_file: /keys/good
    peers:
      hv-b:
        public_key: "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
        preshared_key_file: /keys/psk
        endpoint: 192.0.2.11:51820
        allowed_ips: [10.1.2.0/24, "fd00:2::/64"]
        persistent_keepalive: 25s
      hv-c:
        public_key: "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08="
        allowed_ips: [10.1.3.0/24]
networks:
  blue:
    gateway: [10.1.1.1/24, "fd00:1::1/64"]
    tunnel: wg0
    routes: [{ to: 10.9.0.0/16, via: 10.1.1.20 }]
  red:
    gateway: 10.2.0.1/16
ports:
  vm1:
    driver: vhost-user
    socket: /run/vms/vm1.sock
    queues: 2
    network: blue
    mac: "52:54:00:00:00:01"
    addresses: [10.1.1.10, "fd00:1::10"]
    guard: strict
  vm2:
    network: blue
    mac: "52:54:00:00:00:02"
    addresses: 10.1.1.11
"#;

/// The private key whose public key is `OWN_PUBLIC`.
const OWN_PRIVATE: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const OWN_PUBLIC: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";

struct Keys;

impl KeyFiles for Keys {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        match path.to_str().unwrap() {
            "/keys/good" | "/keys/psk" => Ok(Zeroizing::new(OWN_PRIVATE.into())),
            "/keys/open" => Err(KeyFileError::Exposed { mode: 0o644 }),
            "/keys/other" => Ok(Zeroizing::new("not a key".into())),
            _ => Err(KeyFileError::Missing),
        }
    }

    fn read_many(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let [b, c] = [
            "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
            "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
        ];
        let text = match path.to_str().unwrap() {
            "/keys/both" => {
                format!("# all of them\n{b} {OWN_PRIVATE}\n\n{c}\t(none) # on purpose\n")
            }
            "/keys/c" => format!("{c} {OWN_PRIVATE}\n"),
            "/keys/more" => {
                format!("{b}\t{OWN_PRIVATE}\n{c} {OWN_PRIVATE}\n{OWN_PUBLIC} {OWN_PRIVATE}\n")
            }
            "/keys/twice" => format!("{b} {OWN_PRIVATE}\n{c} (none)\n{b} (none)\n"),
            "/keys/words" => format!("{b} {OWN_PRIVATE} x\n"),
            "/keys/public" => format!("x {OWN_PRIVATE}\n"),
            "/keys/secret" => format!("{b} x\n"),
            "/keys/open" => return Err(KeyFileError::Exposed { mode: 0o640 }),
            _ => return Err(KeyFileError::Missing),
        };
        Ok(Zeroizing::new(text))
    }
}

fn report(text: &str) -> Report {
    match config::parse(text, Path::new("hv.yaml"), &Keys) {
        Ok((_, report)) | Err(report) => report,
    }
}

/// The good configuration with one text replaced; the text must be there once.
fn changed(old: &str, new: &str) -> String {
    assert_eq!(
        GOOD.matches(old).count(),
        1,
        "{old:?} stands once in the good configuration"
    );
    GOOD.replacen(old, new, 1)
}

/// Checks the only mistake of a text.
#[track_caller]
fn only(severity: Severity, marked: &str, message: &str, help: &str) {
    let before = &marked[..marked.find('⟦').expect("a mark")];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let report = report(&marked.replacen('⟦', "", 1));
    let shown = report.render(false);
    assert_eq!(report.mistakes().len(), 1, "{shown}");
    let mistake = &report.mistakes()[0];
    assert_eq!(mistake.severity, severity, "{shown}");
    assert_eq!(
        (mistake.span.line, mistake.span.column),
        (line, column),
        "{shown}"
    );
    assert!(
        mistake.message.contains(message),
        "no {message:?} in\n{shown}"
    );
    assert!(
        mistake.help.join("\n").contains(help),
        "no {help:?} in\n{shown}"
    );
}

#[track_caller]
fn error(old: &str, new: &str, message: &str, help: &str) {
    only(Severity::Error, &changed(old, new), message, help);
}

#[track_caller]
fn warning(old: &str, new: &str, message: &str, help: &str) {
    only(Severity::Warning, &changed(old, new), message, help);
}

#[test]
fn the_good_configuration_has_no_mistake() {
    // `lan0` and `red` are there for the cases below; nothing has to use them.
    let report = report(GOOD);
    assert_eq!(report.mistakes(), [], "{}", report.render(false));
}

#[test]
fn unknown_and_doubled_keys() {
    error(
        "    listen_port: 51820",
        "    listen_port: 51820\n    ⟦listenport: 1",
        "unknown key `listenport` in tunnel `wg0`",
        "did you mean `listen_port`?",
    );
    error(
        "node: hv-a",
        "node: hv-a\n⟦tunels: {}",
        "unknown key `tunels` in the file",
        "did you mean `tunnels`?",
    );
    error(
        "poll: adaptive",
        "⟦polling_mode: busy",
        "unknown key `polling_mode` in `cores`",
        "expected one of: `control`, `workers`, `poll`",
    );
    error(
        "    guard: strict",
        "    guard: strict\n    ⟦guard: off",
        "`guard` stands twice in port `vm1`",
        "line 43 already",
    );
    error("  vm2:", "  ⟦vm1:", "a second port named `vm1`", "line 36");
    error(
        "node: hv-a",
        "node: hv-a\n⟦[a, b]: 1",
        "a list is no key",
        "expected a word",
    );
    // A place for anchors, at the top only.
    assert_eq!(
        report(&changed("node: hv-a", "node: hv-a\nx-defaults: { a: 1 }")).mistakes(),
        []
    );
    error(
        "    guard: strict",
        "    ⟦x-guard: strict",
        "unknown key `x-guard`",
        "did you mean `guard`?",
    );
}

#[test]
fn missing_keys() {
    error(
        "version: 1\n",
        "⟦",
        "the file has no `version`",
        "expected `version: 1`",
    );
    error(
        "  wg0:\n    uplink: wan0\n",
        "  ⟦wg0:\n",
        "tunnel `wg0` has no `uplink`",
        "`uplink: NAME`",
    );
    let text = changed("    mac: \"52:54:00:00:00:01\"\n", "").replace("  vm1:", "  ⟦vm1:");
    only(
        Severity::Error,
        &text,
        "port `vm1` has no `mac`",
        "`mac: \"52:54:00:00:00:01\"`",
    );
    let text = changed("    addresses: [192.0.2.10/24]\n", "").replace("  wan0:", "  ⟦wan0:");
    only(
        Severity::Error,
        &text,
        "uplink `wan0` has no `addresses`",
        "[192.0.2.10/24]",
    );
    // What is learned need not stand there.
    let text = changed("    addresses: [192.0.2.10/24]\n", "    dhcp4: true\n");
    let text = text.replace("    routes: [{ to: default, via: 192.0.2.1 }]\n", "");
    let report = report(&text);
    assert_eq!(report.mistakes(), [], "{}", report.render(false));
}

/// As in the files of `wg` and `wg-quick`.
#[test]
fn words_of_wg() {
    for (old, new, word, help) in [
        (
            "allowed_ips: [10.1.3",
            "⟦AllowedIPs: [10.1.3",
            "AllowedIPs",
            "`allowed_ips`",
        ),
        (
            "persistent_keepalive:",
            "⟦PersistentKeepalive:",
            "PersistentKeepalive",
            "`persistent_keepalive`",
        ),
        (
            "persistent_keepalive:",
            "⟦keepalive:",
            "keepalive",
            "`persistent_keepalive`",
        ),
        ("endpoint: 192", "⟦EndPoint: 192", "EndPoint", "`endpoint`"),
        (
            "    listen_port: 51820",
            "    listen_port: 51820\n    ⟦PostUp: x",
            "PostUp",
            "runs no command",
        ),
        (
            "    listen_port: 51820",
            "    listen_port: 51820\n    ⟦DNS: x",
            "DNS",
            "remove it",
        ),
        (
            "    listen_port: 51820",
            "    listen_port: 51820\n    ⟦Table: off",
            "Table",
            "remove it",
        ),
    ] {
        error(old, new, &format!("unknown key `{word}`"), help);
    }
}

/// A keepalive in seconds, a host as an address, a prefix with bits of a host: `wg` takes all of them.
#[test]
fn values_as_wg_takes_them() {
    let peer = |text: &str| {
        let (config, report) = config::parse(text, Path::new("hv.yaml"), &Keys).unwrap();
        (config.tunnels[0].peers[0].clone(), report.warnings())
    };
    for (text, seconds) in [
        ("25", Some(25)),
        ("25s", Some(25)),
        ("65535", Some(65535)),
        ("0", None),
        ("off", None),
    ] {
        let (peer, warnings) = peer(&changed("keepalive: 25s", &format!("keepalive: {text}")));
        assert_eq!(
            (peer.persistent_keepalive, warnings),
            (seconds, 0),
            "{text}"
        );
    }
    for (text, prefix, warned) in [
        ("10.7.0.1", "10.7.0.1/32", 0),
        ("\"fd00:7::1\"", "fd00:7::1/128", 0),
        ("10.7.0.1/16", "10.7.0.0/16", 1),
        ("\"fd00:7::1/32\"", "fd00:7::/32", 1),
        ("0.0.0.0/0", "0.0.0.0/0", 0),
    ] {
        let (peer, warnings) = peer(&changed("[10.1.2.0/24, \"fd00:2::/64\"]", text));
        let taken: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        assert_eq!(
            (taken, warnings),
            (vec![prefix.to_owned()], warned),
            "{text}"
        );
    }
    warning(
        "[10.1.3.0/24]",
        "[⟦10.1.3.7/24]",
        "`10.1.3.7/24`, which has bits beyond its prefix",
        "it is taken as `10.1.3.0/24`: write that, or `10.1.3.7` for one address",
    );
}

#[test]
fn vlans_are_numbers_with_networks() {
    let vm2 = "    network: blue\n    mac: \"52:54:00:00:00:02\"\n    addresses: 10.1.1.11";
    let mac = "    mac: \"52:54:00:00:00:02\"";
    let with = |keys: &str| format!("{mac}\n    guard: mac\n    {keys}");
    for (keys, message, help) in [
        (
            "vlans: {⟦0: blue}",
            "a VLAN in `vlans` of port `vm2` is `0`",
            "from 1 to 4094",
        ),
        ("vlans: {⟦4095: blue}", "is `4095`", "from 1 to 4094"),
        ("vlans: {⟦ten: blue}", "is `ten`", "from 1 to 4094"),
        (
            "vlans: ⟦[10]",
            "`vlans` of port `vm2` is a list, expected a map",
            "{ 1: … }",
        ),
        (
            "vlans: {10: red, ⟦0x0a: red}",
            "VLAN 10 stands twice in `vlans` of port `vm2`",
            "keep one",
        ),
        (
            "vlans: {10: ⟦green}",
            "VLAN 10 of port `vm2` names the network `green`, which there is not",
            "",
        ),
        (
            "vlans: {10: ⟦[red]}",
            "VLAN 10 of port `vm2` is a list, expected a map",
            "its keys: `network`",
        ),
        (
            "vlans: {⟦10: {addresses: [10.2.0.5]}}",
            "VLAN 10 of port `vm2` has no `network`",
            "network: NAME",
        ),
        (
            "vlans: {10: red, 20: ⟦red}",
            "VLAN 20 of port `vm2` joins network `red` a second time",
            "another network",
        ),
        (
            "network: red\n    vlans: {10: ⟦red}",
            "VLAN 10 of port `vm2` joins network `red` a second time",
            "another network",
        ),
        (
            "vlans: {10: {network: red, addresses: [⟦10.1.1.11]}}",
            "VLAN 10 of port `vm2` has 10.1.1.11, which is outside",
            "inside `10.2.0.0/16`",
        ),
        (
            "vlans: {10: {network: blue, addresses: [⟦10.1.1.10]}}",
            "VLAN 10 of port `vm2` has 10.1.1.10, which another port",
            "one port",
        ),
        (
            "vlans: {10: red}\n    ⟦addresses: [10.2.0.5]",
            "`addresses` in port `vm2` is only beside `network`",
            "vlans: { 10: { network: NAME, addresses: [...] } }",
        ),
        (
            "vlans: {10: {network: red, ⟦mac: \"52:54:00:00:00:03\"}}",
            "unknown key `mac` in VLAN 10 of port `vm2`",
            "",
        ),
        (
            "driver: tap\n    network: red\n    ⟦vlans: {10: blue}",
            "`vlans` in port `vm2` is only for `vhost-user` ports",
            "an interface for each network",
        ),
    ] {
        error(vm2, &with(keys), message, help);
    }
    // Without either it is in no network.
    let text = changed(vm2, &with("vlans: {}")).replace("  vm2:", "  ⟦vm2:");
    only(
        Severity::Error,
        &text,
        "port `vm2` has no `network`",
        "a port without `vlans` needs `network: NAME`",
    );
    // A strict guard without addresses is told for each.
    let text = changed(vm2, &format!("{mac}\n    vlans: {{⟦10: red}}"));
    only(
        Severity::Warning,
        &text,
        "VLAN 10 of port `vm2` has no `addresses`",
        "guard: mac",
    );
}

#[test]
fn vlans_have_what_their_port_has_unless_they_say_so() {
    let vm2 = "    mac: \"52:54:00:00:00:02\"\n    addresses: 10.1.1.11";
    let keys = "    mac: \"52:54:00:00:00:02\"\n    guard: mac\n    dhcp: false\n    \
                vlans: {20: {network: red, guard: off, dhcp: true}}";
    let text = changed(vm2, keys);
    let (config, _) = config::parse(&text, Path::new("hv.yaml"), &Keys).unwrap();
    let port = &config.ports[1];
    let all: Vec<_> = port.attachments.iter().collect();
    let said = all.iter().map(|it| {
        (
            it.vlan.map(|vlan| vlan.number()),
            it.network.as_str(),
            it.guard,
            it.dhcp,
        )
    });
    let expected = [
        (None, "blue", config::Guard::Mac, false),
        (Some(20), "red", config::Guard::Off, true),
    ];
    assert_eq!(said.collect::<Vec<_>>(), expected);
    let text = changed(
        "    network: blue\n    mac: \"52:54:00:00:00:02\"\n    addresses: 10.1.1.11",
        "    mac: \"52:54:00:00:00:02\"\n    guard: mac\n    vlans: {20: red, 3: blue}",
    );
    let (config, _) = config::parse(&text, Path::new("hv.yaml"), &Keys).unwrap();
    let vlans = config.ports[1]
        .vlans()
        .map(|(vlan, it)| (vlan.number(), it.network.as_str(), it.guard));
    assert_eq!(
        vlans.collect::<Vec<_>>(),
        [
            (3, "blue", config::Guard::Mac),
            (20, "red", config::Guard::Mac)
        ]
    );
    assert!(config.ports[1].native().is_none());
}

#[test]
fn labels_are_keys_with_short_texts() {
    let vm2 = "addresses: 10.1.1.11";
    let with = |labels: &str| format!("{vm2}\n    labels: {labels}");
    for (labels, message, help) in [
        ("⟦[a]", "`labels` of port `vm2` is a list", "{ vm: 7f3a… }"),
        (
            "{⟦-a: b}",
            "a key in `labels` of port `vm2` is `-a`",
            "63 letters",
        ),
        ("{a: ⟦[b]}", "`a` in `labels` of port `vm2` is a list", ""),
        ("{a: ⟦\"b\\nc\"}", "control character", "on one line"),
    ] {
        error(vm2, &with(labels), message, help);
    }
    let long = format!("{{a: ⟦{}}}", "x".repeat(129));
    error(vm2, &with(&long), "has 129 bytes", "at most 128");
    let many: Vec<_> = (0..17).map(|n| format!("k{n}: v")).collect();
    let many = format!("⟦{{{}}}", many.join(", "));
    error(vm2, &with(&many), "has 17", "at most 16");
    let metrics = |labels: &str| format!("version: 1\nmetrics: {{labels: {labels}}}");
    let twice = metrics("[a.b, vm, ⟦a/b]");
    error(
        "version: 1",
        &twice,
        "are both called `label_a_b` there",
        "leave one",
    );
    let many = metrics("[a, b, c, d, e, f, g, h, ⟦i]");
    error("version: 1", &many, "has 9 keys", "at most 8");
}

#[test]
fn values_of_the_wrong_form() {
    // That alone: it has addresses, if wrong ones.
    error(
        "addresses: 10.1.1.11",
        "addresses: ⟦10.1.1.300",
        "`addresses` of port `vm2` has `10.1.1.300`",
        "as in `10.1.1.10`",
    );
    error(
        "version: 1",
        "version: ⟦2",
        "`version` of the file is `2`",
        "expected 1",
    );
    error(
        "listen_port: 51820",
        "listen_port: ⟦70000",
        "`listen_port` of tunnel `wg0` is `70000`",
        "from 1 to 65535",
    );
    error(
        "listen_port: 51820",
        "listen_port: ⟦[1]",
        "is a list, expected a single value",
        "",
    );
    error(
        "    gateway: 10.2.0.1/16",
        "    gateway:\n      ⟦x: 1",
        "is a map, expected a list",
        "`[a, b]`",
    );
    error(
        "node: hv-a",
        "node: ⟦hv a",
        "`node` of the file is `hv a`",
        "letters, digits",
    );
    error(
        "guard: strict",
        "guard: ⟦strickt",
        "`guard` of port `vm1` is `strickt`",
        "did you mean `strict`?",
    );
    error(
        "driver: vhost-user",
        "driver: ⟦vhostuser",
        "`driver` of port `vm1`",
        "did you mean `vhost-user`?",
    );
    error(
        "192.0.2.11:51820",
        "⟦192.0.2.11",
        "`endpoint` of peer `hv-b`",
        "the port is missing: `192.0.2.11:51820`",
    );
    error(
        "192.0.2.11:51820",
        "⟦\"2001:db8::1\"",
        "`endpoint` of peer `hv-b`",
        "the port is missing: `[2001:db8::1]:51820`",
    );
    error(
        "192.0.2.11:51820",
        "⟦\"[fe80::1%no such interface]:51820\"",
        "`endpoint` of peer `hv-b`",
        "`[LINK-LOCAL-ADDRESS%INTERFACE]:PORT`",
    );
    error(
        "192.0.2.11:51820",
        "⟦\"[fe80::1%eth0]:51820\"",
        "the name `fe80::1%eth0`",
        "expected `ADDRESS:PORT`",
    );
    error(
        "keepalive: 25s",
        "keepalive: ⟦25000ms",
        "`persistent_keepalive`",
        "whole seconds, as in `25s`",
    );
    error(
        "keepalive: 25s",
        "keepalive: ⟦65536",
        "`persistent_keepalive`",
        "a number without a unit is seconds",
    );
    error(
        "[10.1.3.0/24]",
        "⟦10.1.3.0/24, 10.1.4.0/24",
        "`allowed_ips` of peer `hv-c` has `10.1.3.0/24, 10.1.4.0/24`",
        "a list is written `[\"10.1.3.0/24\", \"10.1.4.0/24\"]`",
    );
    error(
        "keepalive: 25s",
        "keepalive: ⟦100h",
        "`persistent_keepalive`",
        "`65535s`",
    );
    error(
        "10.1.1.10,",
        "⟦10.1.1.10/24,",
        "has `10.1.1.10/24`",
        "without a prefix length: `10.1.1.10`",
    );
    error(
        "gateway: 10.2.0.1/16",
        "gateway: ⟦10.2.0.1",
        "has `10.2.0.1`",
        "as in `10.2.0.1/24`",
    );
    error(
        "[10.1.3.0/24]",
        "[⟦10.1.3/24]",
        "`allowed_ips` of peer `hv-c` has `10.1.3/24`",
        "expected a prefix",
    );
    error(
        "\"52:54:00:00:00:01\"",
        "⟦52:54:00:00:00",
        "`mac` of port `vm1`",
        "six pairs of hexadecimal digits",
    );
    error(
        "\"52:54:00:00:00:01\"",
        "⟦01:00:5e:00:00:01",
        "the group address",
        "the first byte must be even",
    );
    error(
        "queues: 2",
        "queues: ⟦0",
        "`queues` of port `vm1` is `0`",
        "from 1 to 128",
    );
    error(
        "    guard: strict",
        "    guard: strict\n    socket_permissions: ⟦\"0999\"",
        "`socket_permissions`",
        "as in `0660`",
    );
    error(
        "vms/vm1.sock\n",
        "vms/vm1.sock\n    offloads: { ⟦tso4: true, checksum: false }\n",
        "`tso4` of `offloads` of port `vm1` is on without `checksum`",
        "switch",
    );
    error(
        "poll: adaptive",
        "poll: ⟦buzy",
        "`poll` of `cores` is `buzy`",
        "did you mean `busy`?",
    );
}

#[test]
fn what_paths_let_through() {
    for (wrong, marked) in [
        ("on", "⟦on"),
        ("575", "⟦575"),
        ("65536", "⟦65536"),
        ("1400b", "⟦1400b"),
    ] {
        error(
            "persistent_keepalive: 25s",
            &format!("pmtu: {marked}"),
            &format!("`pmtu` of peer `hv-b` is `{wrong}`"),
            "expected `off`, `probe`, or 576 to 65535 bytes",
        );
    }
    error(
        "    listen_port: 51820",
        "    listen_port: 51820\n    pmtu: ⟦auto",
        "`pmtu` of tunnel `wg0` is `auto`",
        "`probe`",
    );
    error(
        "persistent_keepalive: 25s",
        "probe: ⟦10.1.3.1",
        "`probe` of peer `hv-b` is 10.1.3.1, which is not behind it",
        "an address in its `allowed_ips` that answers pings",
    );
    error(
        "    gateway: 10.2.0.1/16",
        "    gateway: 10.2.0.1/16\n    mss_clamp: ⟦1400",
        "`mss_clamp` of network `red` is `1400`",
        "expected `true` or `false`",
    );
}

#[test]
fn what_an_uplink_serves() {
    let with = |keys: &str| format!("    mtu: 1500\n    {keys}");
    let wrong = |keys: &str, message: &str, help: &str| {
        error("    mtu: 1500", &with(keys), message, help);
    };
    wrong(
        "⟦api: { allow: [192.0.2.0/24] }",
        "uplink `wan0` serves the API, and `api` has no `tls`",
        "certificates and roles",
    );
    wrong(
        "⟦metrics: { port: 9587 }",
        "`metrics` of uplink `wan0` has no `allow`",
        "",
    );
    wrong(
        "⟦metrics: { allow: [] }",
        "`allow` of `metrics` of uplink `wan0` lets nobody in",
        "`0.0.0.0/0` is everybody",
    );
    wrong(
        "responder: { allow: [10.0.0.0/8] }\n    ⟦metrics: { allow: [10.0.0.0/8], port: 9 }",
        "`metrics` of uplink `wan0` has port 9, which its `responder` has",
        "a port for each",
    );
    error(
        "    driver: udp",
        "    driver: udp\n    ⟦metrics: { allow: [10.0.0.0/8] }",
        "`metrics` in uplink `lan0` is only for `dpdk` uplinks",
        "`metrics.listen`",
    );
    error(
        "node: hv-a",
        "node: hv-a\napi: { ⟦tls: { certificate: a, key: b, client_ca: c, roles: { d: read } } }",
        "`api` has `tls`, and needs `listen` with it",
        "or `api` at an uplink",
    );
}

#[test]
fn doors_of_the_api() {
    let api = |keys: &str| format!("node: hv-a\napi: {keys}");
    let tls =
        |roles: &str| format!("tls: {{ certificate: c, key: k, client_ca: a, roles: {roles} }}");
    let line =
        |keys: &str, message: &str, help: &str| error("node: hv-a", &api(keys), message, help);
    line(
        &format!("{{ listen: ⟦localhost, {} }}", tls("{ a: read }")),
        "`listen` of `api` is `localhost`",
        "ADDRESS:PORT",
    );
    warning(
        "node: hv-a",
        &api(&format!(
            "{{ listen: ⟦\"[::1]:9586\", {} }}",
            tls("{ a: read }")
        )),
        "port 9586",
        "exporter's",
    );
    line(
        "{ socket: { mode: ⟦rw } }",
        "`mode` of `socket` of `api` is `rw`",
        "octal digits",
    );
    line(
        &format!("{{ listen: \"[::1]:1\", {} }}", tls("{ a: ⟦all }")),
        "`a` of `roles` of `tls` of `api` is `all`",
        "expected",
    );
    line(
        &format!(
            "{{ listen: \"[::1]:1\", {} }}",
            tls("{ a: read, ⟦a: write }")
        ),
        "`a` stands twice in `roles`",
        "leave one",
    );
    let without = api("{ listen: \"[::1]:1\" }").replace("api:", "⟦api:");
    error(
        "node: hv-a",
        &without,
        "`api` has no `tls`",
        "`listen` needs `tls",
    );
}

#[test]
fn devices() {
    error(
        "\"0000:3b:00.0\"",
        "⟦eth1",
        "`device` of uplink `wan0` is `eth1`",
        "`net_af_packet0,iface=eth1`",
    );
    error(
        "\"0000:3b:00.0\"",
        "⟦net_af_paket0,iface=eth1",
        "net_af_paket0",
        "did you mean `net_af_packet0`?",
    );
    error("\"0000:3b:00.0\"", "⟦net_tap", "is `net_tap`", "`net_tap0`");
    error(
        "\"0000:3b:00.0\"",
        "⟦net_af_packet0",
        "names no interface",
        "`net_af_packet0,iface=eth1`",
    );
    error(
        "    driver: udp",
        "    driver: udp\n    ⟦routes: []",
        "`routes` in uplink `lan0` is only for `dpdk` uplinks",
        "the kernel's routes",
    );
    error(
        "    driver: udp",
        "    driver: udp\n    ⟦nameservers: { addresses: [192.0.2.53] }",
        "`nameservers` in uplink `lan0` is only for `dpdk` uplinks",
        "the kernel's routes, neighbors, resolver",
    );
    for key in ["dhcp4", "accept_ra"] {
        error(
            "    driver: udp",
            &format!("    driver: udp\n    ⟦{key}: true"),
            &format!("`{key}` in uplink `lan0` is only for `dpdk` uplinks"),
            "the kernel's",
        );
    }
    error(
        "    mtu: 1500",
        "    mtu: 1500\n    ⟦fwmark: 1",
        "only for `udp` uplinks",
        "driver: udp",
    );
    error(
        "    mtu: 1500",
        "    mtu: 1500\n    members: [⟦net_tap0]",
        "`0000:3b:00.0` has members and is no bond",
        "net_bonding0,mode=1",
    );
    error(
        "device: \"0000:3b:00.0\"",
        "device: ⟦net_bonding0,mode=4",
        "the bond `net_bonding0` has no members",
        "members: [",
    );
    error(
        "device: \"0000:3b:00.0\"",
        "device: ⟦net_bonding0,mode=4,slave=net_tap0\n    members: [net_tap0]",
        "names members among its arguments",
        "name them in `members`",
    );
    error(
        "device: \"0000:3b:00.0\"",
        "device: net_bonding0,mode=4\n    members: [net_tap0, ⟦net_bonding1]",
        "`net_bonding1` is a bond in a bond",
        "instead",
    );
    error(
        "device: \"0000:3b:00.0\"",
        "device: net_bonding0,mode=4\n    members: [net_tap0, ⟦net_tap0]",
        "the device `net_tap0` has an uplink already",
        "expected one uplink a device",
    );
    error(
        "    driver: udp",
        "    driver: udp\n    ⟦members: [net_tap0]",
        "`members` in uplink `lan0` is only for `dpdk` uplinks",
        "the kernel's",
    );
    error(
        "    mtu: 1500",
        "    mtu: 1500\n    rx_descriptors: ⟦1000",
        "is `1000`",
        "`1024`",
    );
}

#[test]
fn keys_and_their_files() {
    error(
        "/keys/good",
        "⟦/keys/none",
        "the file is missing",
        "(umask 077; culvert genkey > /keys/none)",
    );
    error(
        "/keys/psk",
        "⟦/keys/none",
        "the file is missing",
        "(umask 077; culvert genpsk > /keys/none)",
    );
    error(
        "/keys/good",
        "⟦/keys/open",
        "permissions are 0644",
        "chmod 600 /keys/open",
    );
    error(
        "/keys/good",
        "⟦/keys/other",
        "something else than one key",
        "culvert genkey",
    );
    error(
        "    private_key_file: /keys/good",
        "    ⟦private_key: aaaa",
        "unknown key `private_key`",
        "`private_key_file: /etc/culvert/NAME.key`",
    );
    error(
        "        preshared_key_file: /keys/psk",
        "        ⟦preshared_key: aaaa",
        "unknown key `preshared_key`",
        "keys are never written into the configuration",
    );
    error(
        "\"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"",
        "⟦3p7bfXt9w=",
        "it has 10 characters of 44",
        "culvert pubkey",
    );
    error(
        "\"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"",
        &format!("⟦{OWN_PUBLIC}"),
        "has the key of tunnel `wg0` itself",
        "far end's public key",
    );
    error(
        "\"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"",
        "⟦hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
        "a second peer with that public key: `hv-c`",
        "line 20",
    );
    error(
        "\"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\"",
        "⟦AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "all zeros",
        "far end",
    );
}

#[test]
fn a_key_in_the_file_is_never_shown() {
    for (old, new) in [
        (
            "private_key_file: /keys/good",
            format!("private_key_file: {OWN_PRIVATE}"),
        ),
        (
            "private_key_file: /keys/good",
            format!("private_key: {OWN_PRIVATE}"),
        ),
        (
            "private_key_file: /keys/good",
            format!("PrivateKey: \"{OWN_PRIVATE}\" # mine"),
        ),
        (
            "private_key_file: /keys/good",
            format!("private_key: |\n      {OWN_PRIVATE}"),
        ),
        (
            "preshared_key_file: /keys/psk",
            format!("preshared_key: {OWN_PRIVATE}"),
        ),
        (
            "via: 10.1.1.20 }",
            format!("psk: {OWN_PRIVATE}, via: 10.1.1.20 }}"),
        ),
    ] {
        let text = changed(old, &new);
        let report = report(&text);
        assert_eq!(report.errors(), 1, "{}", report.render(false));
        for shown in [report.render(false), report.render(true)] {
            assert!(!shown.contains(&OWN_PRIVATE[..8]), "{shown}");
        }
    }
    let text = changed(
        "private_key_file: /keys/good",
        &format!("private_key_file: {OWN_PRIVATE}"),
    );
    assert!(report(&text).render(false).contains("holds a key itself"));
}

#[test]
fn no_configuration_shows_its_keys() {
    let (config, _) = config::parse(GOOD, Path::new("hv.yaml"), &Keys).unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains("/keys/good"));
    assert!(!shown.contains(OWN_PRIVATE));
    assert!(
        !shown.contains("200, 9, 243"),
        "the first bytes of the private key"
    );
}

/// The preshared keys of many peers in one file.
#[test]
fn preshared_keys_in_one_file() {
    let with = |file: &str| {
        let own = "        preshared_key_file: /keys/psk\n";
        let file = format!("    preshared_keys_file: {file}\n    peers:");
        changed(own, "").replacen("    peers:", &file, 1)
    };
    let read = config::parse(&with("/keys/both"), Path::new("hv.yaml"), &Keys).unwrap();
    let peers = &read.0.tunnels[0].peers;
    assert_eq!(read.1.mistakes(), []);
    assert_eq!(
        peers[0].preshared_key_file.as_deref(),
        Some(Path::new("/keys/both"))
    );
    assert!(peers[0].preshared_key.is_some() && peers[1].preshared_key.is_none());
    // As a file again.
    let yaml = config::to_yaml(&read.0);
    assert_eq!(yaml.matches("/keys/both").count(), 1, "{yaml}");
    let again = config::parse(&yaml, Path::new("hv.yaml"), &Keys).unwrap();
    assert_eq!(again.0, read.0);

    let told = |severity, file: &str, message: &str, help: &str| {
        only(severity, &with(&format!("⟦{file}")), message, help);
    };
    let error = |file: &str, message: &str, help: &str| told(Severity::Error, file, message, help);
    told(
        Severity::Warning,
        "/keys/c",
        "`/keys/c` has no key for `hv-b`",
        "their public key and `(none)`",
    );
    told(
        Severity::Warning,
        "/keys/more",
        &format!(
            "no peer of tunnel `wg0` has the public keys of `/keys/more`: {OWN_PUBLIC} in line 3"
        ),
        "add the peers, or remove these lines",
    );
    error(
        "/keys/twice",
        "line 3 of `/keys/twice` has a public key again",
        "in its line 1 already",
    );
    error(
        "/keys/words",
        "line 1 of `/keys/words` is not two keys",
        "wg show INTERFACE preshared-keys",
    );
    error(
        "/keys/public",
        "line 1 of `/keys/public` does not begin with a public key",
        "",
    );
    error(
        "/keys/secret",
        "line 1 of `/keys/secret` does not end with a preshared key",
        "",
    );
    error(
        "/keys/open",
        "the preshared keys in `/keys/open` can't be used",
        "chmod 600 /keys/open",
    );
    error(
        "/keys/none",
        "the preshared keys in `/keys/none` can't be used: the file is missing",
        "a line for each peer",
    );
    let both = changed(
        "    peers:\n      hv-b:",
        "    preshared_keys_file: /keys/both\n    peers:\n      ⟦hv-b:",
    );
    only(
        Severity::Error,
        &both,
        "peer `hv-b` has a `preshared_key_file`, and a key in line 2 of `/keys/both`",
        "keep one of the two",
    );
    // None of it shows a key.
    let shown = report(&with("/keys/words")).render(false);
    assert!(!shown.contains(OWN_PRIVATE), "{shown}");
}

#[test]
fn credentials_of_systemd() {
    for name in ["", "..", "a/b", "/etc/key"] {
        error(
            "private_key_file: /keys/good",
            &format!("private_key_file: ⟦\"credential:{name}\""),
            "`private_key_file` of tunnel `wg0` is `credential:",
            "a credential without `/`",
        );
    }
    error(
        "private_key_file: /keys/good",
        "private_key_file: ⟦credential:wg0.key",
        "the private key in `credential:wg0.key` can't be used: the file is missing",
        "add `LoadCredential=wg0.key:/etc/culvert/wg0.key`",
    );
}

#[test]
fn where_metrics_are_served() {
    error(
        "version: 1\n",
        "version: 1\nmetrics: {listen: ⟦\"127.0.0.1:9586\"}\n",
        "`listen` of `metrics` has port 9586",
        "that is WireGuard's exporter's, whose metrics have other names: expected another, as in `127.0.0.1:9587`",
    );
    error(
        "version: 1\n",
        "version: 1\nmetrics: {listen: ⟦9587}\n",
        "`listen` of `metrics` is `9587`",
        "expected `ADDRESS:PORT`",
    );
}

#[test]
fn several_uplinks() {
    error(
        "    uplink: wan0\n    listen",
        "    uplink: wan0\n    ⟦uplinks: [wan0, lan0]\n    listen",
        "tunnel `wg0` has both `uplink` and `uplinks`",
        "expected one of the two",
    );
    error(
        "    uplink: wan0\n",
        "    uplinks: [wan0, ⟦wan0]\n",
        "tunnel `wg0` names the uplink `wan0` twice",
        "line 15",
    );
    error(
        "    uplink: wan0\n",
        "    uplinks: [wan0, ⟦wan7]\n",
        "tunnel `wg0` names the uplink `wan7`, which there is not",
        "did you mean `wan0`?",
    );
    error(
        "    uplink: wan0\n",
        "    ⟦uplinks: []\n",
        "`uplinks` of tunnel `wg0` is empty",
        "`uplinks: [wan0, wan1]`",
    );
    let text = changed("    uplink: wan0\n", "    uplinks: [lan0, ⟦lan1]\n");
    let text = text.replace(
        "tunnels:\n",
        "  lan1: { driver: udp, addresses: [192.0.2.99/24] }\ntunnels:\n",
    );
    only(
        Severity::Error,
        &text,
        "the uplinks `lan0` and `lan1` of tunnel `wg0` share an address",
        "`device` or `addresses` of their own",
    );
}

#[test]
fn bfd_sessions() {
    let with = |bfd: &str| {
        let line = "    routes: [{ to: default, via: 192.0.2.1 }]\n";
        changed(line, &format!("{line}    bfd: {bfd}\n"))
    };
    only(
        Severity::Error,
        &with("{ peer: ⟦203.0.113.1 }"),
        "the BFD session of uplink `wan0` is with 203.0.113.1, which is not on its link",
        "expected an address inside `192.0.2.0/24`",
    );
    only(
        Severity::Error,
        &with("{ peer: ⟦192.0.2.10 }"),
        "is with 192.0.2.10, its own address",
        "the gateway",
    );
    only(
        Severity::Error,
        &with("{ peer: 192.0.2.1, interval: ⟦10ms }"),
        "is `10ms`",
        "expected `50ms` to `10s`",
    );
    only(
        Severity::Error,
        &changed(
            "    driver: udp\n",
            "    driver: udp\n    ⟦bfd: { peer: 192.0.2.1 }\n",
        ),
        "`bfd` in uplink `lan0` is only for `dpdk` uplinks",
        "FRR's bfdd",
    );
}

#[test]
fn references() {
    error(
        "    uplink: wan0",
        "    uplink: ⟦wan1",
        "tunnel `wg0` names the uplink `wan1`, which there is not",
        "did you mean `wan0`?",
    );
    error(
        "    tunnel: wg0",
        "    tunnel: ⟦wg9x",
        "network `blue` names the tunnel",
        "expected one of: `wg0`",
    );
    error(
        "queues: 2\n    network: blue",
        "queues: 2\n    network: ⟦bleu",
        "port `vm1` names the network `bleu`",
        "did you mean `blue`?",
    );
    error(
        "via: 10.1.1.20 }",
        "peer: ⟦hv-d }",
        "names the peer of tunnel `wg0` `hv-d`",
        "did you mean `hv-b`?",
    );
}

#[test]
fn collisions() {
    error(
        "\"52:54:00:00:00:02\"",
        "⟦\"52:54:00:00:00:01\"",
        "port `vm2` has the MAC address",
        "line 41 already",
    );
    error(
        "addresses: 10.1.1.11",
        "addresses: ⟦10.1.1.10",
        "port `vm2` has 10.1.1.10, which another port",
        "line 42",
    );
    error(
        "  vm2:\n",
        "  vm2:\n    socket: ⟦/run/vms//vm1.sock\n",
        "has the socket `/run/vms//vm1.sock` of another port",
        "line 38",
    );
    error(
        "    gateway: 10.2.0.1/16",
        "    gateway: 10.2.0.1/16\n    tunnel: ⟦wg0",
        "network `red` uses tunnel `wg0`, as network `blue` does",
        "leak into each other",
    );
    error(
        "[10.1.3.0/24]",
        "[⟦10.1.2.0/24]",
        "which is peer `hv-b`'s",
        "line 23 already",
    );
    error(
        "to: 10.9.0.0/16",
        "to: ⟦10.1.3.0/24",
        "which has a peer's `allowed_ips` already",
        "line 27",
    );
    error(
        "workers: [1, 2]",
        "workers: [1, ⟦1]",
        "CPU 1 has a worker already",
        "one worker a CPU",
    );
    warning(
        "control: 0",
        "control: ⟦2",
        "share CPU 2",
        "leave CPU 2 out of `workers`",
    );
    // What an uplink has for itself.
    for (port, key, keys) in [
        (68, "dhcp4", "dhcp4: true"),
        (19, "responder", "responder: { allow: [0.0.0.0/0] }"),
        (3784, "bfd", "bfd: { peer: 192.0.2.1 }"),
    ] {
        let text = changed("listen_port: 51820", &format!("listen_port: ⟦{port}"));
        assert_eq!(report(&text.replace('⟦', "")).mistakes(), []);
        let uplink = "    mtu: 1500";
        assert_eq!(text.matches(uplink).count(), 1);
        only(
            Severity::Error,
            &text.replace(uplink, &format!("{uplink}\n    {keys}")),
            &format!("tunnel `wg0` listens on port {port}, which `{key}` of uplink `wan0` has"),
            "another port for the tunnel",
        );
    }
    let second = "networks:\n";
    let tunnel = "  wg1:\n    uplink: wan0\n    listen_port: ⟦51820\n    private_key_file: /keys/good\nnetworks:\n";
    let text = changed(second, tunnel).replace("  red:\n", "  red:\n    tunnel: wg1\n");
    only(
        Severity::Error,
        &text,
        "tunnel `wg1` listens on port 51820, as tunnel `wg0` does",
        "line 16",
    );
}

/// The good configuration with a plain network in place of blue, changed.
fn plain(old: &str, new: &str) -> String {
    let good = changed("node: hv-a", "node: hv-a");
    let (front, _) = good.split_once("  blue:").unwrap();
    let plain = format!(
        "{front}{}",
        r#"  blue:
    tunnel: wg0
  red:
    gateway: 10.2.0.1/16
ports:
  vm1:
    driver: tun
    network: blue
    interface: wg0
    addresses: [10.1.1.10, "fd00:1::10"]
"#
    );
    assert_eq!(plain.matches(old).count(), 1, "{old}");
    plain.replace(old, new)
}

#[test]
fn networks_without_a_router() {
    let plain_error = |old: &str, new: &str, message: &str, help: &str| {
        only(Severity::Error, &plain(old, new), message, help);
    };
    assert_eq!(report(&plain("vm1", "vm1")).mistakes(), []);
    assert_eq!(
        report(&plain("    driver: tun", "    driver: tun\n    guard: off")).mistakes(),
        []
    );
    error(
        "  red:\n    gateway: 10.2.0.1/16",
        "  ⟦red: {}",
        "network `red` has no `gateway` and no `tunnel`",
        "give the network a `gateway: ADDRESS/LENGTH`",
    );
    let portless = plain("    network: blue", "    network: red\n    guard: off")
        .replace("  blue:", "  ⟦blue:")
        .replace("[10.1.1.10, \"fd00:1::10\"]", "[10.2.0.10]");
    only(
        Severity::Error,
        &portless,
        "network `blue` has no `gateway` and no port",
        "`driver: tun`",
    );
    plain_error(
        "  vm1:\n    driver: tun",
        "  ⟦vm1:\n    mac: \"52:54:00:00:00:01\"\n    driver: tap",
        "port `vm1` is no `tun` port, and its network `blue` has no `gateway`",
        "only IP packets can pass",
    );
    plain_error(
        "    driver: tun",
        "    driver: tun\n    guard: ⟦strict",
        "port `vm1` has a guard, and its network `blue` has no `gateway`",
        "`guard: off`",
    );
    plain_error(
        "    interface: wg0",
        "    interface: wg0\n  ⟦vm2:\n    driver: tun\n    network: blue",
        "port `vm2` is the second of network `blue`, which has no `gateway`",
        "a network has one port",
    );
    plain_error(
        "    tunnel: wg0",
        "    tunnel: wg0\n    gateway_mac: ⟦\"52:54:00:00:00:09\"",
        "network `blue` has no `gateway`, but a `gateway_mac`",
        "remove it",
    );
    plain_error(
        "    tunnel: wg0",
        "    tunnel: wg0\n    routes: [{ to: ⟦10.9.0.0/16, peer: hv-b }]",
        "network `blue` has no `gateway`, but `routes`",
        "`allowed_ips` are the only routes",
    );
}

#[test]
fn what_guests_are_told() {
    let blue = "    gateway: [10.1.1.1/24, \"fd00:1::1/64\"]";
    let told = |key: &str| format!("{blue}\n    {key}");
    for (key, message, help) in [
        (
            "dhcp: ⟦maybe",
            "`dhcp` of network `blue` is `maybe`",
            "expected `true` or `false`",
        ),
        (
            "dhcp: { dns: [⟦9.9.9] }",
            "`dns` of `dhcp` of network `blue` has `9.9.9`",
            "",
        ),
        (
            "dhcp: { dns: [10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5, 10.0.0.6, 10.0.0.7, 10.0.0.8, ⟦10.0.0.9] }",
            "has 9 addresses",
            "expected 8 at most",
        ),
        (
            "dhcp: { domain: ⟦a..b }",
            "`domain` of `dhcp` of network `blue` is `a..b`",
            "as in `vm.example.org`",
        ),
        (
            "dhcp: { lease: ⟦5s }",
            "`lease` of `dhcp` of network `blue` is `5s`",
            "expected `60s` to `31536000s`;",
        ),
        (
            "dhcp: { lease: ⟦off }",
            "`lease` of `dhcp` of network `blue` is `off`",
            "expected `60s` to `31536000s`;",
        ),
        (
            "dhcp: { lease: ⟦90000ms }",
            "`lease` of `dhcp` of network `blue` is `90000ms`",
            "expected whole seconds, as in `60s`",
        ),
        (
            "dhcp: { ⟦leas: 1h }",
            "unknown key `leas`",
            "did you mean `lease`?",
        ),
        (
            "ra: ⟦stateless",
            "`ra` of network `blue` is `stateless`",
            "managed",
        ),
        (
            "dhcp: false\n    ra: ⟦managed",
            "network `blue` has `ra: managed`, and `dhcp: false`",
            "nobody would answer",
        ),
    ] {
        error(blue, &told(key), message, help);
    }
    error(
        blue,
        "    gateway: [10.1.1.1/24, ⟦\"fd00:1::1/48\"]\n    ra: slaac\n    dhcp: true",
        "network `blue` has `ra: slaac`, and the gateway fd00:1::1/48",
        "expected a /64",
    );
    only(
        Severity::Error,
        &plain("    tunnel: wg0", "    tunnel: wg0\n    ra: ⟦slaac"),
        "network `blue` has no `gateway`, but `ra`",
        "no router",
    );
    only(
        Severity::Error,
        &plain("    driver: tun", "    driver: tun\n    ⟦dhcp: false"),
        "`dhcp` in port `vm1` is only for `vhost-user` and `tap` ports",
        "remove it",
    );
}

#[test]
fn an_address_that_a_guest_does_not_make() {
    let slaac = changed(
        "    tunnel: wg0\n    routes",
        "    tunnel: wg0\n    ra: slaac\n    routes",
    );
    let marked = slaac.replace("\"fd00:1::10\"]", "⟦\"fd00:1::10\"]");
    only(
        Severity::Warning,
        &marked,
        "port `vm1` has fd00:1::10, which its guest will not make",
        "made of the port's MAC address",
    );
    let made = slaac.replace("fd00:1::10\"]", "fd00:1::5054:ff:fe00:1\"]");
    let unserved = slaac.replace("guard: strict", "dhcp: false");
    for text in [made, unserved] {
        assert_eq!(report(&text).mistakes().len(), 0);
    }
}

#[test]
fn addresses_that_do_not_fit() {
    error(
        "[10.1.1.10,",
        "[⟦10.1.9.10,",
        "which is outside of network `blue`",
        "inside `10.1.1.0/24`, `fd00:1::/64`",
    );
    error(
        "[10.1.1.10,",
        "[⟦10.1.1.1,",
        "which is its network's gateway",
        "of its own",
    );
    error(
        "[10.1.1.10,",
        "[⟦10.1.1.255,",
        "which is the broadcast address",
        "a host can have",
    );
    error(
        "gateway: 10.2.0.1/16",
        "gateway: ⟦10.2.0.0/16",
        "which is the address of its network",
        "`10.2.0.1/16`",
    );
    for (endpoint, help) in [
        (
            "far.example.org:51820",
            "`nameservers: { addresses: [ADDRESS] }` there",
        ),
        ("\"[fe80::1%eth0]:51820\"", "interfaces are the kernel's"),
    ] {
        error(
            "endpoint: 192.0.2.11:51820",
            &format!("endpoint: ⟦{endpoint}"),
            "`endpoint` of peer `hv-b` is the name",
            help,
        );
    }
    let one = "routes: [{ to: default, via: 192.0.2.1 }]";
    for (routes, message, help) in [
        (
            "routes: [{ to: default, via: 192.0.2.1 }, { to: ⟦default, via: 192.0.2.2 }]",
            "leads to 0.0.0.0/0 a second time",
            "a higher `metric`",
        ),
        (
            "routes: [{ to: default, via: 192.0.2.1, metric: ⟦-1 }]",
            "`-1`",
            "0",
        ),
        (
            "routes: [{ to: default, via: 192.0.2.1, from: ⟦192.0.2.99 }]",
            "is from 192.0.2.99, which is no address of the uplink's",
            "one of its `addresses`",
        ),
        (
            "routes: [{ to: default, via: 192.0.2.1, from: ⟦\"2001:db8::1\" }]",
            "is from 2001:db8::1, and by the IPv4 router 192.0.2.1",
            "an IPv4 address",
        ),
    ] {
        error(one, routes, message, help);
    }
    for (keys, message, help) in [
        (
            "exception: ⟦a-name-that-is-too-long",
            "is `a-name-that-is-too-long`",
            "an interface's name",
        ),
        (
            "routes_from: ⟦main",
            "`routes_from` without `exception`",
            "`exception: tap-wan0` beside it",
        ),
        (
            "exception: x0, routes_from: ⟦local",
            "is `local`",
            "expected `main`, or the number",
        ),
        (
            "exception: x0, routes_from: ⟦255",
            "is `255`",
            "expected `main`, or the number",
        ),
        (
            "nameservers: { addresses: [192.0.2.53,⟦192.0.2.53] }",
            "the server of names 192.0.2.53 of uplink `wan0` stands twice",
            "keep one",
        ),
        (
            "nameservers: { addresses: [⟦192.0.2.10] }",
            "is the uplink itself",
            "another host",
        ),
        ("⟦nameservers: {}", "has no `addresses`", "addresses"),
        ("⟦bfd: {}", "has no `peer`", "peer"),
        (
            "nameservers: { addresses: [8.8.8.1,8.8.8.2,8.8.8.3,8.8.8.4,8.8.8.5,8.8.8.6,8.8.8.7,8.8.8.8,⟦8.8.8.9] }",
            "has 9 servers of names",
            "at most 8",
        ),
    ] {
        let keys = keys.replace(", ", "\n    ");
        error(
            "    mtu: 1500\n  lan0",
            &format!("    mtu: 1500\n    {keys}\n  lan0"),
            message,
            help,
        );
    }
    let taken = changed("    mtu: 1500\n", "    mtu: 1500\n    exception: ⟦tap0\n")
        .replace("  vm2:\n", "  vm2:\n    driver: tap\n    interface: tap0\n");
    only(
        Severity::Error,
        &taken,
        "the interface `tap0` is another's",
        "expected a name of its own",
    );
    error(
        "    driver: udp\ntunnels",
        "    driver: udp\n    ⟦exception: tap-lan0\ntunnels",
        "for `dpdk` uplinks",
        "remove it",
    );
    error(
        "via: 192.0.2.1 }",
        "via: ⟦198.51.100.1 }",
        "not on the uplink's link",
        "inside `192.0.2.0/24`",
    );
    error(
        "via: 192.0.2.1 }",
        "via: ⟦\"2001:db8::1\" }",
        "not on the uplink's link",
        "inside `192.0.2.0/24`",
    );
    let neighbors = |list: &str| format!("via: 192.0.2.1 }}]\n    neighbors: [{list}");
    let mac = "\"52:54:00:00:00:01\"";
    for (neighbor, message, help) in [
        (
            "⟦198.51.100.1",
            "is not on its link",
            "inside `192.0.2.0/24`",
        ),
        ("⟦192.0.2.10", "the uplink's own address", "another host"),
    ] {
        let text = neighbors(&format!("{{ address: {neighbor}, mac: {mac} }}"));
        error("via: 192.0.2.1 }", &text, message, help);
    }
    let twice =
        format!("{{ address: 192.0.2.9, mac: {mac} }}, {{ address: ⟦192.0.2.9, mac: {mac} }}");
    error(
        "via: 192.0.2.1 }",
        &neighbors(&twice),
        "stands twice",
        "keep one",
    );
    let many: Vec<_> = (0..257)
        .map(|n| {
            let [place, mark] = [n % 250 + 1, n / 250].map(|it| it.to_string());
            let mark_at = if n == 256 { "⟦" } else { "" };
            format!("{{ address: {mark_at}\"fd00::{mark}:{place}\", mac: {mac} }}")
        })
        .collect();
    error(
        "[192.0.2.10/24]\n    routes: [{ to: default, via: 192.0.2.1 }",
        &format!(
            "[192.0.2.10/24, \"fd00::ffff/64\"]\n    routes: [{{ to: default, via: 192.0.2.1 }}]\n    neighbors: [{}",
            many.join(", ")
        ),
        "has 257 neighbors",
        "at most 256",
    );
    error(
        "via: 10.1.1.20",
        "via: ⟦10.2.1.20",
        "which is not in the network",
        "`10.1.1.0/24`",
    );
    error(
        "192.0.2.11:51820",
        "⟦\"[2001:db8::11]:51820\"",
        "is IPv6, but uplink `wan0` has no IPv6 address",
        "line 8",
    );
    error(
        "192.0.2.11:51820",
        "⟦192.0.2.10:51820",
        "is tunnel `wg0` itself",
        "far end's address",
    );
    error(
        "192.0.2.11:51820",
        "⟦hv-b.example:51820",
        "the name `hv-b.example`",
        "or give `ADDRESS:PORT`",
    );
    let no_route = changed("    routes: [{ to: default, via: 192.0.2.1 }]\n", "")
        .replace("192.0.2.11:51820", "⟦198.51.100.7:51820");
    only(
        Severity::Warning,
        &no_route,
        "has no route to",
        "to: default",
    );
    warning(
        "[10.1.3.0/24]",
        "[⟦10.1.3.7/24]",
        "bits beyond its prefix",
        "`10.1.3.0/24`",
    );
    warning(
        "[10.1.3.0/24]",
        "[⟦10.1.1.128/25]",
        "lies in network `blue` itself",
        "own link",
    );
    warning(
        "  vm2:\n    network: blue\n    mac: \"52:54:00:00:00:02\"\n    addresses: 10.1.1.11",
        "  ⟦vm2:\n    network: blue\n    mac: \"52:54:00:00:00:02\"",
        "no `addresses`",
        "`guard: mac`",
    );
}

#[test]
fn mtus() {
    error(
        "    listen_port: 51820",
        "    listen_port: 51820\n    mtu: ⟦1500",
        "too large for its uplink's 1500",
        "at most 1440",
    );
    error(
        "    mtu: 1500",
        "    mtu: ⟦1300",
        "uplink `wan0` has an MTU of 1300, too small for tunnel `wg0`",
        "at least 1360",
    );
    warning(
        "    tunnel: wg0",
        "    tunnel: wg0\n    mtu: ⟦1500",
        "its tunnel only 1420",
        "at most 1420",
    );
    let text = changed("node: hv-a", "node: hv-a\nmemory: { mtu_max: 1499 }")
        .replace("mtu: 1500", "mtu: ⟦1500");
    let text = text
        .replace("  lan0:\n", "  lan0:\n    mtu: 1400\n")
        .replace("10.2.0.1/16\n", "10.2.0.1/16\n    mtu: 1400\n");
    only(
        Severity::Error,
        &text,
        "uplink `wan0` has an MTU of 1500, more than `mtu_max`",
        "line 3 is 1499",
    );
}

#[test]
fn queues_and_workers() {
    error(
        "    queues: 2",
        "    queues: 2\n    queue_workers: ⟦[0]",
        "has 1 workers for 2 queues",
        "one worker for each queue",
    );
    error(
        "    queues: 2",
        "    queues: 2\n    queue_workers: [0, ⟦2]",
        "port `vm1` has no worker 2",
        "from 0 to 1",
    );
}

#[test]
fn text_that_is_not_yaml() {
    only(
        Severity::Error,
        "version: 1\nnode: ⟦[a",
        "unclosed bracket",
        "not YAML",
    );
    only(
        Severity::Error,
        "version: 1\n⟦\tnode: a",
        "a tab",
        "with spaces",
    );
    only(
        Severity::Error,
        "version: 1\n---\n⟦version: 1",
        "a second YAML document",
        "one document",
    );
    only(
        Severity::Error,
        "⟦[1, 2]",
        "the file is a list, expected a map",
        "`version`",
    );
    only(
        Severity::Error,
        "version: 1\nnetworks: {}\nnode: ⟦*nobody",
        "anchor",
        "not YAML",
    );
}

#[test]
fn all_mistakes_come_in_one_run_in_the_order_of_lines() {
    let text = GOOD
        .replace("listen_port", "listenport")
        .replace("guard: strict", "guard: strickt")
        .replace("uplink: wan0", "uplink: wan9")
        .replace("10.1.1.10,", "10.7.7.7,")
        .replace("/keys/good", "/keys/none");
    let report = report(&text);
    let lines: Vec<usize> = report
        .mistakes()
        .iter()
        .map(|mistake| mistake.span.line)
        .collect();
    assert_eq!(lines, [15, 16, 17, 42, 43], "{}", report.render(false));
    assert_eq!(report.errors(), 5);
}

#[test]
fn a_mistake_is_shown_with_its_line_and_a_caret() {
    let text = changed("guard: strict", "guard: strickt");
    assert_eq!(
        report(&text).render(false),
        "\
hv.yaml:43:12: error: `guard` of port `vm1` is `strickt`
   |
43 |     guard: strickt
   |            ^^^^^^^
   = expected one of: `strict`, `mac`, `off`
   = did you mean `strict`?

"
    );
}

/// Many peers at one endpoint; what the rest of the last one's line says.
fn crowd(peers: u32, last: &str) -> String {
    let mut text = "version: 1
uplinks: {u: {driver: udp}}
networks: {}
tunnels:
  t: {uplink: u, listen_port: 1, private_key_file: /keys/good, peers: {
"
    .to_owned();
    for number in 0..peers {
        let mut key = [7; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let key = PublicKey::from_bytes(key).to_base64();
        let last = if number + 1 == peers { last } else { "" };
        text += &format!(
            "    p{number}: {{public_key: \"{key}\", endpoint: \"192.0.2.1:9\"{last}}},\n"
        );
    }
    text + "  }}\n"
}

#[test]
fn warnings_that_are_alike_are_counted() {
    let shown = report(&crowd(1_000, "")).render(false);
    // And one of the tunnel, which no network uses.
    assert_eq!(shown.matches(": warning: ").count(), 11, "{shown}");
    let end =
        "and 989 more warnings like that in line 7: a second peer of tunnel `t` at 192.0.2.1:9\n\n";
    assert!(shown.ends_with(end), "{shown}");
}

#[test]
fn a_mistake_is_shown_before_any_number_of_warnings() {
    let text = crowd(301, ", oops: 1");
    let report = report(&text);
    let shown = report.render(false);
    assert_eq!(report.errors(), 1, "{shown}");
    assert!(
        shown.contains(": error: ") && shown.contains("oops"),
        "{shown}"
    );
}

/// Of a file that is broken in each of its lines some mistakes are kept, and the others counted.
#[test]
fn a_report_does_not_grow_with_what_is_broken() {
    const LINES: usize = 20_000;
    let mut text = String::from("version: 1\nnetworks: {}\nports:\n");
    (0..LINES).for_each(|line| text += &format!("  p{line}: 7\n"));
    let report = report(&text);
    assert_eq!(report.errors(), LINES, "{}", report.render(false));
    assert!(
        report.mistakes().len() < 2_000,
        "{}",
        report.mistakes().len()
    );
    let shown = report.render(false);
    let end = format!("and {} more errors\n\n", LINES - 200);
    assert!(shown.ends_with(&end), "{shown}");
    assert!(report.summary().contains("20000 mistakes"));
}

#[test]
fn aliases_point_at_their_use() {
    let text = changed("    guard: strict", "    guard: ⟦*mode")
        .replace("node: hv-a", "x-mode: &mode strickt\nnode: hv-a");
    only(
        Severity::Error,
        &text,
        "is `strickt`",
        "did you mean `strict`?",
    );
}

#[test]
fn an_alias_bomb_ends_early() {
    let mut text = String::from("version: 1\nx-a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n");
    for (this, last) in ('b'..='j').zip('a'..) {
        let items = vec![format!("*{last}"); 10].join(", ");
        text += &format!("x-{this}: &{this} [{items}]\n");
    }
    let report = report(&text);
    assert_eq!(report.errors(), 1, "{}", report.render(false));
    assert!(report.mistakes()[0].span.line > 2);
}

#[test]
fn sockets_have_no_names_of_the_run_directory() {
    let taken = [
        "api.sock",
        "api-read.sock",
        "lock",
        "endpoints.json",
        "./endpoints.json",
        "state",
        "state/history/x.json",
        "vm1.rings",
        ".vm2.sock.lock",
    ];
    for name in taken {
        let new = format!("    socket: ⟦{name}\n");
        error(
            "    socket: /run/vms/vm1.sock\n",
            &new,
            "taken in the run directory",
            "vm1-port.sock",
        );
    }
    for name in ["../state/x.sock", "vms/../../x.sock"] {
        let new = format!("    socket: ⟦{name}\n");
        error(
            "    socket: /run/vms/vm1.sock\n",
            &new,
            "leads out of the run directory",
            "absolute",
        );
    }
    let report = report(&changed("/run/vms/vm1.sock", "vms/lock.sock"));
    assert_eq!(report.mistakes(), [], "{}", report.render(false));
}

#[test]
fn what_looks_like_a_key_is_not_shown() {
    let texts = [
        changed(
            "    preshared_key_file: /keys/psk",
            &format!("    preshared_key: [{OWN_PRIVATE}]"),
        ),
        changed("node: hv-a", &format!("node: hv-a\n{OWN_PRIVATE}: 1")),
        format!("{OWN_PRIVATE}\n"),
    ];
    for text in texts {
        let shown = report(&text).render(false);
        assert!(!shown.contains(OWN_PRIVATE), "{shown}");
        assert!(shown.contains(&"*".repeat(44)), "{shown}");
    }
}

#[test]
fn characters_that_are_not_seen_are_refused() {
    for char in ["\u{200b}", "\u{202e}", "\u{2028}", "\u{2066}", "\u{feff}"] {
        error(
            "    socket: /run/vms/vm1.sock\n",
            &format!("    labels: {{ owner: ⟦a{char}b }}\n"),
            "not seen",
            "type it anew",
        );
    }
}
