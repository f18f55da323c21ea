//! What is written of a configuration reads as the same configuration.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::fs;
use std::path::Path;

use culvert::config::{self, Config, KeyFileError, KeyFiles};
use proptest::prelude::*;
use zeroize::Zeroizing;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

/// Every file holds a key.
struct Keys;

impl KeyFiles for Keys {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(KEY.into()))
    }
}

fn read(text: &str) -> Config {
    match config::parse(text, Path::new("/etc/culvert/test.yaml"), &Keys) {
        Ok((config, _)) => config,
        Err(report) => panic!("{}\n{text}", report.render(false)),
    }
}

/// Writes and reads again.
#[track_caller]
fn again(config: &Config) -> String {
    let text = config::to_yaml(config);
    assert_eq!(read(&text), *config, "\n{text}");
    assert!(!text.contains(KEY), "a secret in\n{text}");
    text
}

#[test]
fn the_examples() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut written = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        // The alert rules are Prometheus's.
        if path.extension().is_some_and(|it| it == "yaml") && !path.ends_with("alerts.yaml") {
            again(&read(&fs::read_to_string(path).unwrap()));
            written += 1;
        }
    }
    assert!(written >= 5, "{written}");
}

/// Nothing in it is a default.
const EVERY_KEY: &str = r#"version: 1
node: hv-1
cores:
  control: 0
  workers: [1, 2]
  poll: busy
memory:
  hugepages: required
  megabytes: 512
  mtu_max: 9000
metrics:
  listen: 127.0.0.1:9587
  wireguard_exporter: true
  wireguard_exporter_peers: 5000
  labels: [vm, openstack.org/id]
api:
  socket:
    owner: root
    group: culvert
    mode: 0600
  readers:
    group: "1234"
  listen: "[::1]:9443"
  tls:
    certificate: /tls/own.pem
    key: /tls/own.key
    client_ca: /tls/ca.pem
    roles:
      ops.example.net: write
      spiffe://example.net/a: read
  body_megabytes: 8
uplinks:
  wan0:
    driver: dpdk
    device: net_bonding0,mode=1
    members: ["net_af_packet0,iface=eth1", "0000:3b:00.1"]
    rx_descriptors: 512
    tx_descriptors: 2048
    addresses: [192.0.2.10/24, 2001:db8::10/64]
    routes:
      - to: 0.0.0.0/0
        via: 192.0.2.1
        metric: 50
        from: 192.0.2.10
      - to: 0.0.0.0/0
        via: 192.0.2.3
        metric: 200
    nameservers:
      addresses: [192.0.2.53, 2001:db8::53]
    mtu: 1600
    queue_workers: [1, 1]
    bfd:
      peer: 192.0.2.1
      interval: 100ms
  wan1:
    driver: udp
    device: eth2
    fwmark: 7
    addresses: [198.51.100.1/24]
    enabled: false
tunnels:
  "1":
    uplinks: [wan0, wan1]
    listen_port: 51820
    private_key_file: /keys/one
    mtu: 1400
    pmtu: probe
    uapi: wg7
    peers:
      "null":
        public_key: 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=
        preshared_key_file: /keys/with space
        endpoint: "[2001:db8::1]:51820"
        allowed_ips: [10.1.0.0/16, fd00:1::/32]
        persistent_keepalive: 25s
        pmtu: 1480
        probe: 10.1.0.7
        labels:
          site: berlin
  wg1:
    uplink: wan1
    listen_port: 51821
    private_key_file: /keys/one
    fwmark: 0
    uapi: false
    peers:
      far:
        public_key: 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=
        endpoint: vpn.example:51820
networks:
  blue:
    gateway: [10.0.0.1/24, fd00::1/64]
    gateway_mac: "52:54:00:00:00:ff"
    tunnel: "1"
    mtu: 1300
    mss_clamp: true
    dhcp:
      dns: [9.9.9.9, 2620:fe::fe]
      domain: vm.example.org
      lease: 3600s
    ra: slaac
    routes:
      - to: 10.2.0.0/16
        peer: "null"
      - to: 10.3.0.0/16
        via: 10.0.0.5
      - to: 10.4.0.0/16
        unreachable: true
  green:
    gateway: [10.5.0.1/24]
    dhcp: false
  plain:
    tunnel: wg1
ports:
  vm1:
    socket: /run/vms/vm1.sock
    socket_owner: libvirt-qemu
    socket_group: "107"
    socket_permissions: "0600"
    network: blue
    mac: "52:54:00:00:00:01"
    addresses: [10.0.0.5, fd00::5]
    guard: mac
    dhcp: false
    queues: 2
    queue_workers: [1, 0]
    offloads:
      checksum: true
      tso4: false
      tso6: true
      ecn: true
      uso: false
      mergeable: true
      packed: false
    labels:
      openstack.org/id: 7f3a b
      vm: 1
  vm2:
    socket_mode: client
    network: blue
    mac: "52:54:00:00:00:02"
    guard: off
    offloads: none
  fw:
    vlans:
      "5": green
      "4094":
        network: blue
        addresses: [10.0.0.7]
        guard: mac
        dhcp: false
    mac: "52:54:00:00:00:04"
  gw:
    network: blue
    vlans:
      "5":
        network: green
        guard: strict
        dhcp: true
    mac: "52:54:00:00:00:05"
    guard: mac
    dhcp: false
  tap0:
    driver: tap
    interface: tap7
    network: blue
    mac: "52:54:00:00:00:03"
  wg9:
    driver: tun
    network: plain
    addresses: [10.9.0.2]
"#;

#[test]
fn every_key() {
    let text = again(&read(EVERY_KEY));
    assert_eq!(text.replace('"', ""), EVERY_KEY.replace('"', ""));
}

/// Ports of a network, each with queues, workers or none, an offload switched off or none.
fn ports() -> impl Strategy<Value = String> {
    let port = (
        1..4usize,
        any::<Option<[bool; 4]>>(),
        prop::option::of(prop::sample::select(vec![
            "checksum", "tso4", "uso", "packed",
        ])),
        prop::sample::select(vec!["strict", "mac", "off"]),
    );
    prop::collection::vec(port, 0..6).prop_map(|ports| {
        let mut text = String::new();
        for (number, (queues, workers, off, guard)) in ports.into_iter().enumerate() {
            text += &format!(
                "  p{number}: {{network: blue, mac: \"52:54:00:00:00:{number:02x}\", guard: {guard}, queues: {queues}"
            );
            if let Some(workers) = workers {
                let numbers = workers.iter().take(queues).map(|it| u8::from(*it).to_string());
                let numbers: Vec<_> = numbers.collect();
                text += &format!(", queue_workers: [{}]", numbers.join(", "));
            }
            if let Some(off) = off {
                text += &format!(", offloads: {{{off}: false}}");
            }
            text += "}\n";
        }
        text
    })
}

proptest! {
    #[test]
    fn ports_of_any_kind(ports in ports(), mtu in 1400..9000u16, own in any::<bool>()) {
        let own = if own { format!("mtu: {mtu}, ") } else { String::new() };
        let text = format!(
            "version: 1\ncores: {{workers: 2}}\nuplinks: {{w: {{driver: udp, mtu: {mtu}}}}}\n\
             tunnels: {{t: {{uplink: w, listen_port: 9, private_key_file: k, peers: {{}}}}}}\n\
             networks: {{blue: {{{own}gateway: [10.0.0.1/24], tunnel: t}}}}\nports:\n{ports}"
        );
        // A network's packets may be too large for its tunnel: that is another test's.
        if let Ok((config, _)) = config::parse(&text, Path::new("/t.yaml"), &Keys) {
            let text = config::to_yaml(&config);
            let (again, _) = config::parse(&text, Path::new("/t.yaml"), &Keys)
                .map_err(|report| TestCaseError::fail(report.render(false) + &text))?;
            prop_assert_eq!(again, config);
        } else {
            prop_assert!(!own.is_empty() || ports.is_empty(), "{}", text);
        }
    }
}
