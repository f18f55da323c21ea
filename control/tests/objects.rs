//! What ports, peers and routes are called by others, switched off and on, and laid beside the file: against a running
//! Culvert that is killed and started again.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use common::{Run, culvert, run, stderr, stdout};
use culvert::keys::PrivateKey;
use nix::sys::signal::Signal;
use serde_json::Value;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

struct Site {
    folder: tempfile::TempDir,
    life: Option<Run>,
    file: String,
}

impl Site {
    /// A network with a port `vm1` and a tunnel `t` with a peer `b`; what more is said of them.
    fn start(port: &str, peer: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key_file = folder.path().join("t.key");
        fs::write(&key_file, key(1).to_base64().as_bytes()).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listen = socket.local_addr().unwrap().port();
        drop(socket);
        let file = format!(
            "version: 1
memory: {{hugepages: off}}
uplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}
tunnels:
  t:
    uplink: u
    uapi: off
    listen_port: {listen}
    private_key_file: {}
    peers:
      b: {{public_key: \"{}\", allowed_ips: [10.2.0.0/16]{peer}}}
networks: {{blue: {{gateway: 10.0.0.1/24, tunnel: t}}}}
ports:
  vm1: {{network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.0.0.11]{port}}}
{rest}",
            key_file.display(),
            key(2).public_key().to_base64(),
        );
        let mut site = Self {
            folder,
            life: None,
            file,
        };
        fs::write(site.path(), &site.file).unwrap();
        site.again();
        site
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("c.yaml")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// Kills it, if it lives, and starts it.
    fn again(&mut self) {
        if let Some(life) = self.life.take() {
            life.signal(Signal::SIGKILL);
        }
        let life = Run::start(&self.path(), &self.run_dir(), self.folder.path());
        self.life = Some(life);
    }

    /// Has something else in the file.
    fn write(&mut self, old: &str, new: &str) {
        assert_eq!(self.file.matches(old).count(), 1, "{old}");
        self.file = self.file.replace(old, new);
        fs::write(self.path(), &self.file).unwrap();
    }

    fn run(&self, words: &str) -> Output {
        let words: Vec<_> = words.split(' ').collect();
        run(&words, &self.run_dir())
    }

    /// What it prints when it succeeds.
    #[track_caller]
    fn does(&self, words: &str) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// What it says when it does not.
    #[track_caller]
    fn refuses(&self, words: &str) -> String {
        let output = self.run(words);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        stderr(&output)
    }

    fn apply(&self) -> Output {
        self.run(&format!("apply {}", self.path().display()))
    }

    /// What the API answers.
    fn told(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.run_dir().join("api.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\nhost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn json(&self, path: &str) -> Value {
        let answer = self.told(path);
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        serde_json::from_str(body).unwrap()
    }

    /// The names of a list.
    fn names(&self, path: &str) -> Vec<String> {
        let page = self.json(path);
        let items = page["items"].as_array().unwrap_or_else(|| panic!("{page}"));
        let name = |it: &Value| it["name"].as_str().unwrap().to_owned();
        items.iter().map(name).collect()
    }

    /// Whether a VMM could connect.
    fn answers(&self, port: &str) -> bool {
        UnixStream::connect(self.run_dir().join(format!("{port}.sock"))).is_ok()
    }
}

const ADD: &str =
    "port add vm2 network=blue mac=52:54:00:00:00:02 addresses=10.0.0.12 --label vm=7f3a";

#[test]
fn labels_are_told_wherever_their_port_and_peer_are() {
    let labels = "metrics: {labels: [vm, openstack.org/port-id]}\n";
    let mut site = Site::start(
        ", labels: {vm: 1234, openstack.org/port-id: \"a=b\"}",
        ", labels: {site: berlin, vm: far}",
        labels,
    );
    site.does(ADD);
    let told = |path: &str| site.json(path)["labels"].to_string();
    assert_eq!(
        told("/v1/ports/vm1"),
        r#"{"openstack.org/port-id":"a=b","vm":"1234"}"#
    );
    let peers = site.json("/v1/peers");
    assert_eq!(peers["items"][0]["labels"]["site"], "berlin", "{peers}");
    // Filters.
    assert_eq!(site.names("/v1/ports?label=vm=7f3a"), ["vm2"]);
    assert_eq!(
        site.names("/v1/ports?label=openstack.org/port-id%3Da=b"),
        ["vm1"]
    );
    assert_eq!(site.names("/v1/ports?label=vm=7"), [""; 0]);
    assert_eq!(site.names("/v1/peers?label=site=berlin"), ["b"]);
    assert_eq!(site.names("/v1/peers?label=site=paris"), [""; 0]);
    let wrong = site.told("/v1/ports?label=vm");
    assert!(
        wrong.contains(" 400 ") && wrong.contains("expected KEY=VALUE"),
        "{wrong}"
    );
    // People.
    let wide = site.does("show ports -o wide");
    assert!(wide.contains("openstack.org/port-id=a=b vm=1234"), "{wide}");
    let wide = site.does("show peers -o wide");
    assert!(wide.contains("site=berlin vm=far"), "{wide}");
    let shown = site.does("config show");
    assert!(shown.contains("site: berlin"), "{shown}");
    // Metrics, of the keys that are chosen.
    let metrics = site.told("/metrics");
    for series in [
        "culvert_port_up{port=\"vm1\",label_vm=\"1234\",label_openstack_org_port_id=\"a=b\"} 0\n",
        "culvert_port_receive_bytes_total{port=\"vm2\",label_vm=\"7f3a\"} 0\n",
        "culvert_peer_up{tunnel=\"t\",peer=\"b\",label_vm=\"far\"} 0\n",
    ] {
        assert!(metrics.contains(series), "no {series} in {metrics}");
    }
    assert!(!metrics.contains("berlin"), "{metrics}");
    // The layer's, after a kill.
    site.again();
    assert_eq!(site.names("/v1/ports?label=vm=7f3a"), ["vm2"]);
    let layer = site.does("layer show");
    assert!(layer.contains("vm: 7f3a"), "{layer}");
}

#[test]
fn vlans_are_set_one_by_one_and_shown() {
    let mut site = Site::start("", "", "");
    site.write(
        "networks: {",
        "networks: {red: {gateway: 10.3.0.1/24, mtu: 1400}, six: {gateway: 10.4.0.1/24, mtu: 1400}, ",
    );
    assert!(site.apply().status.success());
    let said = site.does("port set vm1 vlans={\"10\":red}");
    assert_eq!(said, "port vm1 changed (vlans: [] → [10: red])\n");
    let said =
        site.does("port set vm1 vlans={\"20\":{\"network\":\"six\",\"addresses\":[\"10.4.0.9\"]}}");
    assert_eq!(
        said,
        "port vm1 changed (vlans: [10: red] → [10: red, 20: six [10.4.0.9]])\n"
    );
    let port = &site.json("/v1/ports/vm1")["vlans"];
    assert_eq!(
        port.to_string(),
        r#"[{"network":"red","vlan":10},{"network":"six","vlan":20}]"#
    );
    let shown = site.does("show ports");
    assert!(shown.contains("blue, 10 red, 20 six"), "{shown}");
    let found = site.does("show ports six");
    assert!(found.contains("vm1"), "{found}");
    let metrics = site.told("/metrics");
    let series = "culvert_port_vlan_info{port=\"vm1\",vlan=\"20\",network=\"six\"} 1\n";
    assert!(metrics.contains(series), "{metrics}");
    let neighbors = site.json("/v1/neighbors").to_string();
    assert!(
        neighbors.contains("network six") && neighbors.contains("10.4.0.9"),
        "{neighbors}"
    );
    let said = site.does("port set vm1 vlans={\"10\":null}");
    assert_eq!(
        said,
        "port vm1 changed (vlans: [10: red, 20: six [10.4.0.9]] → [20: six [10.4.0.9]])\n"
    );
    // What another has there can't be had.
    let said = site.refuses("port add vm2 mac=52:54:00:00:00:01 vlans={\"7\":{\"network\":\"six\",\"addresses\":[\"10.4.0.8\"]}}");
    assert!(
        said.contains("port vm1 has the MAC address 52:54:00:00:00:01"),
        "{said}"
    );
    site.again();
    let shown = site.does("show ports");
    assert!(shown.contains("blue, 20 six"), "{shown}");
}

#[test]
fn labels_are_set_one_by_one_and_touch_nothing_else() {
    let mut site = Site::start(", labels: {vm: x}", "", "");
    site.does(ADD);
    let generation = |site: &Site| site.json("/v1/status")["generation"].clone();
    let before = generation(&site);
    assert_eq!(
        site.does("port set vm2 --label project=p1"),
        "port vm2 changed (labels: {vm=7f3a} → {project=p1, vm=7f3a})\n"
    );
    assert_eq!(site.does("port set vm2 --label project=p1"), "");
    assert_eq!(
        site.does("port set vm2 --label vm="),
        "port vm2 changed (labels: {project=p1, vm=7f3a} → {project=p1})\n"
    );
    // Over the file's.
    assert_eq!(
        site.does("port set vm1 -l vm= -l a=b"),
        "port vm1 changed (labels: {vm=x} → {a=b})\n"
    );
    assert_eq!(
        site.does("peer set t/b -l rack=7"),
        "peer t/b changed (labels: {} → {rack=7})\n"
    );
    assert_eq!(generation(&site), before, "workers heard of it");
    site.write("labels: {vm: x}", "labels: {vm: y, c: d}");
    let diff = site.run(&format!("diff running {} -o json", site.path().display()));
    let diff: Value = serde_json::from_slice(&diff.stdout).unwrap();
    assert!(diff.to_string().contains("labels"), "{diff}");
    assert!(diff.to_string().contains("\"impact\":\"none\""), "{diff}");
    let applied = stdout(&site.apply());
    assert!(
        applied.contains("port vm1 changed (labels: {a=b} → {a=b, c=d})"),
        "{applied}"
    );
    assert_eq!(generation(&site), before, "workers heard of it");
    let metrics = site.told("/metrics");
    assert!(
        metrics.contains("culvert_port_up{port=\"vm1\"} 0\n"),
        "{metrics}"
    );
    for (words, what) in [
        ("port set vm2 --label vm", "is no KEY=VALUE"),
        (
            "port set vm2 --label=-x=y",
            "a key in `labels` of port `vm2` is `-x`",
        ),
        ("port set vm2 labels=x", "expected a map"),
    ] {
        let said = site.refuses(words);
        assert!(said.contains(what), "{said}");
    }
    let long = site.refuses(&format!("port set vm2 --label vm={}", "é".repeat(65)));
    assert!(long.contains("has 130 bytes"), "{long}");
    let many: Vec<_> = (0..17).map(|n| format!("--label k{n}=v")).collect();
    let many = site.refuses(&format!("port set vm2 {}", many.join(" ")));
    assert!(many.contains("expected at most 16"), "{many}");
}

#[test]
fn an_event_tells_what_others_call_its_object() {
    let mut site = Site::start("", "", "");
    site.does(ADD);
    drop(UnixStream::connect(site.run_dir().join("vm2.sock")).unwrap());
    drop(UnixStream::connect(site.run_dir().join("vm1.sock")).unwrap());
    let mut stream = UnixStream::connect(site.run_dir().join("api.sock")).unwrap();
    write!(stream, "GET /v1/events?since=0 HTTP/1.0\r\nhost: a\r\n\r\n").unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while text.matches("vmm-gone").count() < 2 {
        let read = stream.read(&mut buffer).unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    let of = |port: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let line = lines.find(|line| line.contains(&format!("\"object\":\"port {port}\"")));
        serde_json::from_str::<Value>(line.unwrap()).unwrap()
    };
    assert_eq!(of("vm2")["labels"]["vm"], "7f3a", "{text}");
    assert!(of("vm1")["labels"].is_null(), "{text}");
    site.life.take();
}

#[test]
fn a_port_goes_down_and_up_and_stays_so_over_a_kill() {
    let mut site = Site::start("", "", "");
    site.does(ADD);
    assert_eq!(
        site.does("port down vm1"),
        "port vm1 changed (enabled: true → false)\n"
    );
    assert_eq!(site.does("port down vm1"), "");
    assert!(!site.answers("vm1"));
    assert_eq!(
        site.does("port down vm2"),
        "port vm2 changed (enabled: true → false)\n"
    );
    site.again();
    assert!(!site.answers("vm1") && !site.answers("vm2"));
    assert_eq!(site.names("/v1/ports"), ["vm1", "vm2"]);
    let shown = site.does("show ports vm1");
    assert!(shown.contains("disabled"), "{shown}");
    assert_eq!(site.json("/v1/ports/vm1")["disabled"], true);
    // It hinders nobody who asks whether all is well, and has nothing that an alert goes by.
    assert!(site.told("/readyz").contains(" 200 "));
    let metrics = site.told("/metrics");
    assert!(
        metrics.contains("culvert_ports{state=\"disabled\"} 2\n"),
        "{metrics}"
    );
    assert!(!metrics.contains("culvert_port_up{"), "{metrics}");
    assert!(
        metrics.contains("culvert_port_info{port=\"vm1\""),
        "{metrics}"
    );
    // What it had is for others to have, until they have it.
    let taker = "port add vm3 network=blue mac=52:54:00:00:00:01 addresses=10.0.0.11";
    assert_eq!(site.does(taker), "port vm3 added\n");
    let said = site.refuses("port up vm1");
    assert!(said.contains("port vm3 has the MAC address"), "{said}");
    site.does("port del vm3");
    assert_eq!(
        site.does("port up vm1"),
        "port vm1 changed (enabled: false → true)\n"
    );
    assert_eq!(site.does("port up vm1"), "");
    assert_eq!(
        site.does("port up vm2"),
        "port vm2 changed (enabled: false → true)\n"
    );
    assert!(site.answers("vm1") && site.answers("vm2"));
    // Nothing is left of it: what the file says next counts.
    assert!(!site.does("layer show").contains("vm1"));
    site.write(
        "addresses: [10.0.0.11]",
        "addresses: [10.0.0.11], enabled: false",
    );
    let diff = site.run(&format!("diff running {}", site.path().display()));
    let diff = stdout(&diff);
    assert!(
        diff.contains("enabled") && diff.contains("closes port"),
        "{diff}"
    );
    let applied = stdout(&site.apply());
    assert!(
        applied.contains("port vm1 changed (enabled: true → false)"),
        "{applied}"
    );
    assert!(!site.answers("vm1"));
    assert!(site.does("config show").contains("enabled: false"));
    assert_eq!(
        site.does("port up vm1"),
        "port vm1 changed (enabled: false → true)\n"
    );
    site.again();
    assert!(site.answers("vm1"));
    assert_eq!(site.does("port up --if-exists vm9"), "");
    assert!(
        site.refuses("port down vm9")
            .contains("there is no port vm9")
    );
}

#[test]
fn an_uplink_is_switched_off_and_on_beside_the_file() {
    let mut site = Site::start("", "", "");
    let port = site.json("/v1/tunnels/t")["listen_port"].as_u64().unwrap();
    let is_open = || UdpSocket::bind(("127.0.0.1", u16::try_from(port).unwrap())).is_err();
    assert!(is_open());
    let off = "uplink u reopened (enabled: true → false)\n";
    assert_eq!(site.does("uplink down u"), off);
    assert_eq!(site.does("uplink down u"), "");
    assert!(!is_open() && site.json("/v1/uplinks/u")["disabled"] == true);
    let shown = site.does("show ports");
    assert!(shown.contains("disabled"), "{shown}");
    // Whoever asks whether all is well hears of nothing that is missing, and no alert goes by it.
    assert!(site.told("/readyz").contains(" 200 "));
    assert!(!site.told("/metrics").contains("culvert_uplink_up{"));
    // It is kept, and shown as what lies over the file.
    site.again();
    assert!(!is_open());
    let layer = site.does("layer show");
    assert!(layer.contains("# uplink u lies over the file's"), "{layer}");
    let on = "uplink u reopened (enabled: false → true)\n";
    assert_eq!(site.does("uplink up u"), on);
    assert!(is_open() && !site.does("layer show").contains("uplink"));
    // What lies over it can be forgotten, too.
    site.does("uplink down u");
    assert_eq!(site.does("layer del uplink u"), on);
    assert!(is_open());
    assert!(
        site.refuses("uplink down v")
            .contains("there is no uplink v")
    );
    assert_eq!(site.does("uplink down --if-exists v"), "");
}

#[test]
fn every_change_beside_the_file_is_told() {
    let site = Site::start("", "", "");
    for words in [
        "port add vm2 network=blue mac=52:54:00:00:00:02 addresses=10.0.0.12",
        "port set vm2 guard=mac",
        "port set vm2 guard=mac",
        "port down vm1",
        "route add blue 10.9.0.0/16 unreachable",
        "port del vm2",
        "layer del port vm1",
    ] {
        site.does(words);
    }
    let told = site.told("/metrics");
    assert!(
        told.contains("culvert_events_total{type=\"layer-changed\"} 6\n"),
        "{told}"
    );
    let log = fs::read_to_string(site.folder.path().join("log")).unwrap();
    for (object, act) in [
        ("port vm2", "added"),
        ("port vm2", "set"),
        ("port vm1", "down"),
        ("route blue/10.9.0.0/16", "added"),
        ("port vm2", "deleted"),
        ("port vm1", "forgotten"),
    ] {
        let mut lines = log
            .lines()
            .filter(|it| it.contains("changed beside the file"));
        assert!(
            lines.any(|it| it.contains(object) && it.contains(act) && it.contains("user")),
            "{object} {act}: {log}"
        );
    }
}

#[test]
fn who_follows_events_is_told_that_culvert_has_ended() {
    let mut site = Site::start("", "", "");
    site.does("port down vm1");
    let mut following = culvert();
    following.args(["events", "--since", "0", "--run-dir"]);
    following.arg(site.run_dir());
    following.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut following = following.spawn().unwrap();
    // It follows by then.
    let mut first = [0];
    let heard = following.stdout.as_mut().unwrap().read_exact(&mut first);
    heard.unwrap();
    site.life.take().unwrap().signal(Signal::SIGKILL);
    let ended = following.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = stderr(&ended);
    assert!(said.contains("the stream has ended: culvert has"), "{said}");
}

#[test]
fn a_peer_that_is_down_has_no_session_and_no_routes() {
    let mut site = Site::start("", "", "");
    let way = |site: &Site| site.does("route get 10.2.0.1");
    assert!(way(&site).contains("peer b"), "{}", way(&site));
    assert_eq!(
        site.does("peer down t/b"),
        "peer t/b changed (enabled: true → false)\n"
    );
    assert_eq!(site.does("peer down t/b"), "");
    for _ in 0..2 {
        assert!(!way(&site).contains("peer b"), "{}", way(&site));
        let peers = site.json("/v1/peers?state=disabled");
        assert_eq!(peers["items"][0]["name"], "b", "{peers}");
        let metrics = site.told("/metrics");
        assert!(
            metrics.contains("culvert_peers{tunnel=\"t\",state=\"disabled\"} 1\n"),
            "{metrics}"
        );
        assert!(!metrics.contains("culvert_peer_silent{"), "{metrics}");
        assert!(!site.does("show routes").contains("10.2.0.0/16"));
        site.again();
    }
    // Its prefixes are for others to have, its key is not.
    let key = |number| key(number).public_key().to_base64();
    let said = site.refuses(&format!("peer add t/c public_key={}", key(2)));
    assert!(
        said.contains("peer t/b, which is disabled, has that public key"),
        "{said}"
    );
    site.does(&format!(
        "peer add t/c public_key={} allowed_ips=10.2.0.0/16",
        key(3)
    ));
    assert!(way(&site).contains("peer c"), "{}", way(&site));
    let said = site.refuses("peer up t/b");
    assert!(said.contains("peer t/c has 10.2.0.0/16"), "{said}");
    site.again();
    assert!(way(&site).contains("peer c"), "{}", way(&site));
    site.does("peer del t/c");
    assert_eq!(
        site.does("peer up t/b"),
        "peer t/b changed (enabled: false → true)\n"
    );
    assert!(way(&site).contains("peer b"), "{}", way(&site));
    assert_eq!(site.does("layer show"), "");
    site.write(
        "allowed_ips: [10.2.0.0/16]",
        "allowed_ips: [10.2.0.0/16], enabled: false",
    );
    let diff = stdout(&site.run(&format!("diff running {}", site.path().display())));
    assert!(diff.contains("drops session"), "{diff}");
}

#[test]
fn a_route_comes_survives_a_kill_and_a_file_and_goes() {
    let mut site = Site::start("", "", "");
    let way = |site: &Site| site.does("route get 10.7.0.1");
    assert_eq!(
        site.does("route add blue 10.7.0.0/16 peer b"),
        "route blue/10.7.0.0/16 added\n"
    );
    assert!(way(&site).contains("peer b"), "{}", way(&site));
    assert_eq!(site.does("route add blue 10.7.0.0/16 peer b"), "");
    assert_eq!(
        site.does("route add --may-exist blue 10.7.0.0/16 peer b"),
        ""
    );
    let said = site.refuses("route add blue 10.7.0.0/16 unreachable");
    assert!(said.contains("--may-exist"), "{said}");
    let generation = site.json("/v1/status")["generation"].as_u64().unwrap();
    site.does("route add --may-exist blue 10.7.9.0/24 via 10.0.0.11");
    assert_eq!(site.json("/v1/status")["generation"], generation + 1);
    assert!(site.does("route get 10.7.9.1").contains("port vm1"));
    site.again();
    assert!(way(&site).contains("peer b"), "{}", way(&site));
    assert_eq!(
        site.does("route add --may-exist blue 10.7.9.0/24 unreachable"),
        "route blue/10.7.9.0/24 changed (leads: 10.7.9.0/24 via 10.0.0.11 → 10.7.9.0/24 unreachable)\n"
    );
    assert!(site.does("route get 10.7.9.1").contains("nowhere"));
    // A file says nothing of them.
    site.write("addresses: [10.0.0.11]", "addresses: [10.0.0.21]");
    let applied = stdout(&site.apply());
    assert!(
        applied.contains("vm1 changed") && !applied.contains("10.7"),
        "{applied}"
    );
    assert!(way(&site).contains("peer b"), "{}", way(&site));
    let list = site.does("route list");
    let rows: Vec<Vec<_>> = list
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(rows[1], ["blue", "10.7.0.0/16", "peer", "b"], "{list}");
    assert_eq!(rows[2], ["blue", "10.7.9.0/24", "unreachable"], "{list}");
    let routes = site.json("/v1/routes?name=network%20blue");
    let is_laid = |it: &&Value| it["source"] == "layer";
    assert_eq!(
        routes["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(is_laid)
            .count(),
        2
    );
    // What is exported can stand in a file.
    let layer = site.does("layer show");
    assert!(
        layer.contains("to: 10.7.0.0/16") && layer.contains("peer: b"),
        "{layer}"
    );
    assert_eq!(
        site.does("route del blue 10.7.0.0/16"),
        "route blue/10.7.0.0/16 removed\n"
    );
    assert!(!way(&site).contains("peer b"), "{}", way(&site));
    assert!(
        site.refuses("route del blue 10.7.0.0/16")
            .contains("there is no route blue/10.7.0.0/16")
    );
    assert_eq!(site.does("route del --if-exists blue 10.7.0.0/16"), "");
    site.does("layer del route blue/10.7.9.0/24");
    site.again();
    assert_eq!(site.does("route list"), "");
    assert_eq!(site.does("layer show"), "");
}

#[test]
fn a_route_that_leads_to_nobody_rests_and_one_that_can_not_be_is_refused() {
    let mut site = Site::start("", "", "");
    for (words, what) in [
        (
            "route add blau 10.7.0.0/16 peer b",
            "there is no network blau",
        ),
        (
            "route add blue 10.7.0.0/16 peer x",
            "tunnel t has no peer x",
        ),
        (
            "route add blue 10.7.0.0/16 via 10.9.0.1",
            "which is not in the network",
        ),
        (
            "route add blue 10.0.0.0/24 peer b",
            "the network's own prefix",
        ),
        (
            "route add blue 10.2.0.0/16 unreachable",
            "peer t/b has 10.2.0.0/16",
        ),
        ("route add blue 10.7.0.0/16 by b", "expected `peer NAME`"),
    ] {
        let said = site.refuses(words);
        assert!(said.contains(what), "{said}");
    }
    assert_eq!(site.does("layer show"), "");
    let add = format!(
        "peer add t/c public_key={}",
        key(3).public_key().to_base64()
    );
    site.does(&add);
    site.does("route add blue 10.7.0.0/16 peer c");
    assert!(site.does("route get 10.7.0.1").contains("peer c"));
    // Its peer goes and comes.
    let said = site.does("peer del t/c");
    assert!(said.contains("peer t/c removed"), "{said}");
    for _ in 0..2 {
        assert!(!site.does("route get 10.7.0.1").contains("peer"));
        let list = site.does("route list");
        assert!(
            list.contains("rests") && list.contains("tunnel t has no peer c"),
            "{list}"
        );
        site.again();
    }
    site.does(&add);
    assert!(site.does("route get 10.7.0.1").contains("peer c"));
    // The file has another one of that prefix.
    site.write(
        "tunnel: t}}",
        "tunnel: t, routes: [{to: 10.7.0.0/16, peer: b}]}}",
    );
    let said = stderr(&site.apply());
    assert!(
        said.contains("route blue/10.7.0.0/16 of the API layer rests"),
        "{said}"
    );
    assert!(site.does("route get 10.7.0.1").contains("peer b"));
    assert!(
        site.refuses("route del blue 10.7.0.0/16")
            .contains("is in ")
    );
    site.does("layer del route blue/10.7.0.0/16");
    // One that lies over the file's.
    site.does("route add --may-exist blue 10.7.0.0/16 peer c");
    assert!(site.does("route get 10.7.0.1").contains("peer c"));
    assert!(site.does("layer show").contains("lies over the file's"));
    site.does("layer del route blue/10.7.0.0/16");
    assert!(site.does("route get 10.7.0.1").contains("peer b"));
    assert!(
        site.told("/v1/openapi.json")
            .contains("/v1/networks/{network}/routes/{prefix}")
    );
}

/// A prefix is a peer's or a route's: of the layer's own who was there first has it, and the file's has it anyway.
#[test]
fn a_route_rests_while_a_peer_has_its_prefix() {
    let mut site = Site::start("", "", "");
    let add = |name: &str, number: u8, nets: &str| {
        let key = key(number).public_key().to_base64();
        format!("peer add t/{name} public_key={key} allowed_ips={nets}")
    };
    let way = |site: &Site, to: &str| site.does(&format!("route get {to}"));
    site.does("route add blue 10.7.0.0/16 unreachable");
    let said = site.refuses(&add("c", 3, "10.7.0.0/16"));
    assert!(said.contains("there is a route blue/10.7.0.0/16"), "{said}");
    // One that is switched off has nothing until it is switched on.
    site.does(&format!("{} enabled=false", add("c", 3, "10.7.0.0/16")));
    let said = site.refuses("peer up t/c");
    assert!(said.contains("there is a route blue/10.7.0.0/16"), "{said}");
    // Parts of it may lead elsewhere.
    site.does(&add("d", 4, "10.7.9.0/24"));
    assert!(way(&site, "10.7.9.1").contains("peer d"));

    // The file's peer has it, and that is said beforehand and afterwards.
    site.write("[10.2.0.0/16]", "[10.2.0.0/16, 10.7.0.0/16]");
    let rests = "route blue/10.7.0.0/16 of the API layer rests, the file counts alone: peer t/b has 10.7.0.0/16 among";
    let diff = stdout(&site.run(&format!("diff running {}", site.path().display())));
    assert!(diff.contains(rests), "{diff}");
    let applied = site.apply();
    assert!(applied.status.success(), "{}", stderr(&applied));
    assert!(stderr(&applied).contains(rests), "{}", stderr(&applied));
    for _ in 0..2 {
        assert!(way(&site, "10.7.0.1").contains("peer b"));
        let list = site.does("route list");
        assert!(
            list.contains("rests") && list.contains("peer t/b has 10.7.0.0/16"),
            "{list}"
        );
        assert!(
            site.does("layer show")
                .contains("# route blue/10.7.0.0/16 rests")
        );
        site.again();
    }
    // It gives way, and the route is there again.
    site.does("peer set t/b allowed_ips=10.2.0.0/16");
    assert!(way(&site, "10.7.0.1").contains("nowhere"));
    let said = site.refuses("layer del peer t/b");
    assert!(said.contains("there is a route blue/10.7.0.0/16"), "{said}");
    // A route of the file's: the layer's peer gives way.
    site.write("[10.2.0.0/16, 10.7.0.0/16]", "[10.2.0.0/16]");
    site.write(
        "tunnel: t}}",
        "tunnel: t, routes: [{to: 10.7.9.0/24, unreachable: true}]}}",
    );
    let applied = site.apply();
    let rests = "peer t/d of the API layer rests, the file counts alone: the file has a route to 10.7.9.0/24";
    assert!(stderr(&applied).contains(rests), "{}", stderr(&applied));
    for _ in 0..2 {
        assert!(way(&site, "10.7.9.1").contains("nowhere"));
        site.again();
    }
}
