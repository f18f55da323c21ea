//! Single objects beside the configuration, against a running Culvert that is killed and started again.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Output;

use common::{Run, run, stderr, stdout};
use culvert::api::client::Client;
use culvert::config::{Disk, parse};
use culvert::keys::PrivateKey;
use nix::sys::signal::Signal;

const FILE: &str = "version: 1
memory: {hugepages: off}
networks: {blue: {gateway: 10.0.0.1/24}}
ports:
  vm1: {network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.0.0.11]}
";

/// The words that make a port.
fn keys(number: u8) -> [String; 3] {
    [
        "network=blue".into(),
        format!("mac=52:54:00:00:00:{number:02x}"),
        format!("addresses=10.0.0.{number}"),
    ]
}

struct Site {
    folder: tempfile::TempDir,
    life: Option<Run>,
}

impl Site {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut site = Self { folder, life: None };
        site.write(text);
        site.again();
        site
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join("c.yaml");
        fs::write(&path, text).unwrap();
        path
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn journal(&self) -> PathBuf {
        self.run_dir().join("state/layer.journal")
    }

    /// Kills it, if it lives, and starts it.
    fn again(&mut self) {
        if let Some(life) = self.life.take() {
            life.signal(Signal::SIGKILL);
        }
        let config = self.folder.path().join("c.yaml");
        let life = Run::start(&config, &self.run_dir(), self.folder.path());
        self.life = Some(life);
    }

    fn apply(&self, text: &str) -> Output {
        let path = self.write(text);
        run(&["apply", path.to_str().unwrap()], &self.run_dir())
    }

    fn port(&self, words: &[&str], keys: &[String]) -> Output {
        let mut all = vec!["port"];
        all.extend(words);
        all.extend(keys.iter().map(String::as_str));
        run(&all, &self.run_dir())
    }

    /// What it prints when it succeeds.
    fn does(&self, words: &[&str], keys: &[String]) -> String {
        let output = self.port(words, keys);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// What it says when it does not.
    fn refuses(&self, words: &[&str], keys: &[String]) -> String {
        let output = self.port(words, keys);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        stderr(&output)
    }

    fn layer(&self) -> String {
        stdout(&run(&["layer", "show"], &self.run_dir()))
    }

    fn ports(&self) -> Vec<String> {
        let state = Client::new(&self.run_dir()).state(None).unwrap();
        state.ports.into_iter().map(|port| port.name).collect()
    }

    /// Whether a VMM could connect.
    fn answers(&self, port: &str) -> bool {
        UnixStream::connect(self.run_dir().join(format!("{port}.sock"))).is_ok()
    }

    /// What the API answers.
    fn told(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.run_dir().join("api.sock")).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

#[test]
fn a_port_comes_survives_a_kill_and_a_file_and_goes() {
    let mut site = Site::start(FILE);
    assert_eq!(site.does(&["add", "vm2"], &keys(12)), "port vm2 added\n");
    assert_eq!(site.ports(), ["vm1", "vm2"]);
    assert!(site.answers("vm2"));
    // Whoever asks for ports is told of it.
    assert!(site.told("/v1/ports").contains("\"name\":\"vm2\""));
    assert!(
        site.told("/metrics")
            .contains("culvert_port_up{port=\"vm2\"} 0")
    );
    let way = run(
        &["route", "get", "10.0.0.11", "from", "vm2"],
        &site.run_dir(),
    );
    let way = stdout(&way);
    assert!(
        way.starts_with("10.0.0.11 from vm2 in network blue"),
        "{way}"
    );
    // The same again is no change, by whichever word.
    assert_eq!(site.does(&["add", "vm2"], &keys(12)), "");
    assert_eq!(site.does(&["add", "--may-exist", "vm2"], &keys(12)), "");
    site.again();
    assert_eq!(site.ports(), ["vm1", "vm2"]);
    assert!(site.answers("vm2"));
    // A file says nothing of it, and takes nothing from it.
    let output = site.apply(&FILE.replace("10.0.0.11", "10.0.0.21"));
    let text = stdout(&output);
    assert!(
        text.contains("port vm1 changed") && !text.contains("vm2"),
        "{text}"
    );
    assert_eq!(site.ports(), ["vm1", "vm2"]);
    assert_eq!(
        site.does(&["set", "vm2"], &["guard=mac".into()]),
        "port vm2 changed (guard: strict → mac)\n"
    );
    site.again();
    assert!(site.layer().contains("guard: mac"), "{}", site.layer());
    assert_eq!(site.does(&["del", "vm2"], &[]), "port vm2 removed\n");
    assert!(!site.answers("vm2"));
    site.again();
    assert_eq!(site.ports(), ["vm1"]);
    assert_eq!(site.layer(), "");
}

/// What is exported is a part of a file that says the same.
#[test]
fn the_layer_is_printed_as_a_part_of_a_file() {
    let site = Site::start(FILE);
    site.does(&["add", "vm2"], &keys(12));
    let layer = site.layer();
    let head = FILE.split("ports:").next().unwrap();
    let text = format!("{head}{layer}");
    let read = parse(&text, &site.folder.path().join("x.yaml"), &Disk);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    let names: Vec<_> = config
        .ports
        .iter()
        .map(|port| port.name.to_string())
        .collect();
    assert_eq!(names, ["vm2"], "{text}");
    let output = run(&["layer", "show", "-o", "json"], &site.run_dir());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["objects"][0]["object"], "port vm2");
    assert_eq!(json["objects"][0]["own"], true);
}

#[test]
fn what_can_not_be_is_refused_and_changes_nothing() {
    let site = Site::start(FILE);
    site.does(&["add", "vm2"], &keys(12));
    let journal = fs::read(site.journal()).unwrap();
    let says = |text: String, what: &str| assert!(text.contains(what), "no `{what}` in {text}");
    says(site.refuses(&["add", "vm2"], &keys(13)), "--may-exist");
    says(site.refuses(&["del", "vm3"], &[]), "there is no port vm3");
    assert_eq!(site.does(&["del", "--if-exists", "vm3"], &[]), "");
    says(
        site.refuses(&["set", "vm3"], &keys(13)),
        "there is no port vm3",
    );
    let text = site.refuses(&["del", "vm1"], &[]);
    says(
        text,
        &format!("{}, line 5", site.folder.path().join("c.yaml").display()),
    );
    // In the words of a file's mistakes.
    let text = site.refuses(
        &["add", "vm3"],
        &["network=blau".into(), "mac=52:54:00:00:00:03".into()],
    );
    says(text, "names the network `blau`, which there is not");
    says(
        site.refuses(&["add", "vm3"], &["netwrok=blue".into()]),
        "did you mean `network`?",
    );
    says(
        site.refuses(&["add", "vm3"], &["network=blue".into()]),
        "has no `mac`",
    );
    says(site.refuses(&["add", "-", "network=blue"], &[]), "no name");
    let with = |word: &str, other: String| {
        let mut keys = keys(13);
        let at = keys.iter().position(|it| it.starts_with(word)).unwrap();
        keys[at] = other;
        keys
    };
    let taken = with("mac", "mac=52:54:00:00:00:01".into());
    says(
        site.refuses(&["add", "vm3"], &taken),
        "port vm1 has the MAC address 52:54:00:00:00:01",
    );
    let taken = with("addresses", "addresses=10.0.0.12".into());
    says(
        site.refuses(&["add", "vm3"], &taken),
        "port vm2 has the address 10.0.0.12",
    );
    let outside = with("addresses", "addresses=10.9.0.1".into());
    says(
        site.refuses(&["add", "vm3"], &outside),
        "outside of network `blue`",
    );
    let mut socket = keys(13).to_vec();
    socket.push("socket=vm2.sock".into());
    says(
        site.refuses(&["add", "vm3"], &socket),
        "port vm2 has the socket",
    );
    // The same file by another name.
    *socket.last_mut().unwrap() = format!("socket={}", site.run_dir().join("vm2.sock").display());
    says(
        site.refuses(&["add", "vm3"], &socket),
        "port vm2 has the socket",
    );
    // What only the system refuses.
    fs::write(site.run_dir().join("vm3.sock"), "precious").unwrap();
    says(
        site.refuses(&["add", "vm3"], &keys(13)),
        "vm3.sock is no socket",
    );
    assert_eq!(site.ports(), ["vm1", "vm2"]);
    assert!(site.answers("vm1") && site.answers("vm2"));
    assert_eq!(
        fs::read(site.journal()).unwrap(),
        journal,
        "something was kept"
    );
}

#[test]
fn keys_lie_over_the_files_until_the_layer_forgets_them() {
    let mut site = Site::start(FILE);
    assert_eq!(
        site.does(&["set", "vm1"], &["guard=mac".into()]),
        "port vm1 changed (guard: strict → mac)\n"
    );
    let layer = site.layer();
    assert!(
        layer.starts_with("# port vm1 lies over the file's\n"),
        "{layer}"
    );
    site.again();
    // What the file says of other keys counts.
    let output = site.apply(&FILE.replace("10.0.0.11", "10.0.0.21"));
    let text = stdout(&output);
    assert!(
        text.contains("addresses") && !text.contains("guard"),
        "{text}"
    );
    let output = run(&["layer", "del", "port", "vm1"], &site.run_dir());
    assert_eq!(stdout(&output), "port vm1 changed (guard: mac → strict)\n");
    assert_eq!(site.layer(), "");
    // The file no more has what something lies over.
    site.does(&["set", "vm1"], &["guard=mac".into()]);
    let output = site.apply(FILE.split("ports:").next().unwrap());
    assert!(
        stderr(&output).contains("port vm1 of the API layer rests"),
        "{}",
        stderr(&output)
    );
    assert_eq!(site.ports(), [""; 0]);
    assert!(
        site.layer().contains("has none of that name any more"),
        "{}",
        site.layer()
    );
}

#[test]
fn a_conflict_is_said_and_the_file_wins() {
    let mut site = Site::start(FILE);
    let output = run(&["layer", "del", "port", "vm1"], &site.run_dir());
    assert_eq!(
        stdout(&output),
        "nothing to do: nothing was laid down for port vm1\n"
    );
    for number in [12, 13] {
        site.does(&["add", &format!("vm{number}")], &keys(number));
    }
    let port = |name, number| {
        format!(
            "  {name}: {{network: blue, mac: \"52:54:00:00:00:{number:02x}\", addresses: [10.0.0.{number}]}}\n"
        )
    };
    // One of the same name that is another, and one that takes an address.
    let text = format!("{FILE}{}{}", port("vm12", 99), port("vm4", 13));
    let would = run(
        &["diff", site.write(&text).to_str().unwrap()],
        &site.run_dir(),
    );
    let would = stdout(&would);
    assert!(
        would.contains("port vm12 of the API layer rests"),
        "{would}"
    );
    let output = site.apply(&text);
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("port vm12 of the API layer rests"), "{said}");
    assert!(said.contains("port vm4 has the MAC address"), "{said}");
    let ports = ["vm1", "vm4", "vm12"];
    assert_eq!(site.ports(), ports);
    let layer = site.layer();
    assert!(layer.contains("# port vm12 rests"), "{layer}");
    assert!(layer.contains("# port vm13 rests"), "{layer}");
    site.again();
    assert_eq!(site.ports(), ports);
    assert!(
        site.log().contains("port vm13 of the API layer rests"),
        "{}",
        site.log()
    );
    // When the file gives way, they are there again.
    site.apply(FILE);
    assert_eq!(site.ports(), ["vm1", "vm12", "vm13"]);
}

#[test]
fn a_damaged_journal_is_said_and_set_aside() {
    let mut site = Site::start(FILE);
    site.does(&["add", "vm2"], &keys(12));
    site.does(&["add", "vm3"], &keys(13));
    site.life.take();
    let mut text = fs::read(site.journal()).unwrap();
    let at = text.windows(5).position(|it| it == b"\"vm2\"").unwrap();
    text[at + 1] = 0xff;
    fs::write(site.journal(), &text).unwrap();
    site.again();
    assert_eq!(site.ports(), ["vm1", "vm3"]);
    assert!(
        site.log().contains("layer.journal.damaged"),
        "{}",
        site.log()
    );
    let aside = site.run_dir().join("state/layer.journal.damaged");
    assert_eq!(fs::read(aside).unwrap(), text);
}

/// What others could have written is not taken, and keeps nothing else from running.
#[test]
fn a_journal_that_can_not_be_trusted_is_said_and_left_alone() {
    let mut site = Site::start(FILE);
    site.does(&["add", "vm2"], &keys(12));
    site.life.take();
    let journal = fs::read(site.journal()).unwrap();
    let path = site.journal();
    let allow = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    allow(0o666);
    site.again();
    assert_eq!(site.ports(), ["vm1"]);
    let says = |text: &str| assert!(text.contains("chmod 600"), "{text}");
    says(&site.refuses(&["add", "vm3"], &keys(13)));
    says(&site.told("/readyz"));
    says(&stdout(&run(&["show"], &site.run_dir())));
    assert_eq!(fs::read(site.journal()).unwrap(), journal);
    allow(0o600);
    site.again();
    assert_eq!(site.ports(), ["vm1", "vm2"]);
    site.does(&["add", "vm3"], &keys(13));
    assert!(site.told("/readyz").starts_with("HTTP/1.1 200"));
}

/// Who rests takes nothing from what the file has, and is no part of it.
#[test]
fn what_rests_hinders_nobody() {
    let site = Site::start(FILE);
    site.does(&["add", "vm2"], &keys(12));
    let taken = "  vm4: {network: blue, mac: \"52:54:00:00:00:0c\", addresses: [10.0.0.14]}\n";
    let text = format!("{FILE}{taken}");
    site.apply(&text);
    assert_eq!(
        site.does(&["set", "vm4"], &["guard=mac".into()]),
        "port vm4 changed (guard: strict → mac)\n"
    );
    let layer = site.layer();
    assert!(layer.contains("# port vm2 rests"), "{layer}");
    assert!(!layer.contains("# port vm4 rests"), "{layer}");
    // Beside the file it is a part of one.
    assert!(layer.lines().all(|line| line.starts_with('#')), "{layer}");
    assert!(layer.contains("#   vm2:"), "{layer}");
    assert!(
        site.refuses(&["set", "vm2"], &["guard=mac".into()])
            .contains("port vm4 has the MAC address")
    );
    assert_eq!(
        site.does(&["del", "vm2"], &[]),
        "port vm2, which rested, forgotten by the API layer\n"
    );
}

/// Nor does another apply of the same, which extends its time.
#[test]
fn what_a_pending_change_touches_stays_until_it_is_kept() {
    let site = Site::start(FILE);
    let path = site.write(&FILE.replace("10.0.0.11", "10.0.0.21"));
    let set = || site.refuses(&["set", "vm1"], &["guard=mac".into()]);
    for _ in 0..2 {
        let words = ["apply", path.to_str().unwrap(), "--confirm", "9m"];
        let output = run(&words, &site.run_dir());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(set().contains("waits for its confirmation"), "{}", set());
    }
    // What it does not touch comes and goes.
    assert_eq!(site.does(&["add", "vm2"], &keys(12)), "port vm2 added\n");
    assert!(site.answers("vm2"));
    assert_eq!(site.does(&["del", "vm2"], &[]), "port vm2 removed\n");
    run(&["confirm"], &site.run_dir());
    site.does(&["set", "vm1"], &["guard=mac".into()]);
    let words = ["apply", path.to_str().unwrap(), "--confirm", "9m"];
    let text = stdout(&run(&words, &site.run_dir()));
    assert!(text.contains("nothing waits for a confirmation"), "{text}");
}

/// A port that can't be had any more is tried again, and nothing else waits for it.
#[test]
fn a_port_that_can_not_be_opened_does_not_hinder_the_start() {
    let mut site = Site::start(FILE);
    site.does(&["add", "vm2"], &keys(12));
    site.does(&["add", "vm3"], &keys(13));
    site.life.take();
    let obstacle = site.run_dir().join("vm2.sock");
    let _ = fs::remove_file(&obstacle);
    fs::write(&obstacle, "precious").unwrap();
    site.again();
    assert_eq!(site.ports(), ["vm1", "vm2", "vm3"]);
    assert!(site.answers("vm3"));
    assert!(
        site.log()
            .contains("port vm2 of the API layer can't be had"),
        "{}",
        site.log()
    );
    fs::remove_file(&obstacle).unwrap();
    while !site.answers("vm2") {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Peers of a tunnel, and `wg` beside them.
#[test]
fn a_peer_comes_survives_a_kill_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("t.key");
    let key = |number: u8| PrivateKey::from_bytes([number; 32]);
    fs::write(&key_file, key(1).to_base64().as_bytes()).unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let public = |number| key(number).public_key().to_base64();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let text = format!(
        "version: 1
memory: {{hugepages: off}}
uplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}
tunnels:
  t:
    uplink: u
    listen_port: {port}
    uapi: false
    private_key_file: {}
    peers:
      a: {{public_key: \"{}\", allowed_ips: [10.1.0.0/16]}}
networks: {{blue: {{gateway: 10.0.0.1/24, tunnel: t}}}}
",
        key_file.display(),
        public(2)
    );
    let mut site = Site::start(&text);
    let peer = |site: &Site, words: &[&str]| {
        let mut all = vec!["peer"];
        all.extend(words);
        let output = run(&all, &site.run_dir());
        stdout(&output) + &stderr(&output)
    };
    let peers = |site: &Site| -> Vec<String> {
        let state = Client::new(&site.run_dir()).state(None).unwrap();
        state.peers.into_iter().map(|it| it.name).collect()
    };
    let key = format!("public_key={}", public(3));
    let b = ["add", "t/b", &key, "allowed_ips=10.2.0.0/16,10.3.0.0/16"];
    assert_eq!(peer(&site, &b), "peer t/b added\n");
    assert_eq!(peer(&site, &b), "");
    assert_eq!(peers(&site), ["a", "b"]);
    let says = |text: String, what: &str| assert!(text.contains(what), "no `{what}` in {text}");
    let other = format!("public_key={}", public(4));
    says(
        peer(&site, &["add", "t/c", &other, "allowed_ips=10.1.0.0/16"]),
        "peer t/a has 10.1.0.0/16",
    );
    says(
        peer(&site, &["add", "t/c", &key]),
        "peer t/b has that public key",
    );
    says(
        peer(&site, &["add", "t/c", "allowed_ips=10.9.0.0/16"]),
        "has no `public_key`",
    );
    says(peer(&site, &["add", "x/c", &other]), "there is no tunnel x");
    says(peer(&site, &["add", "c", &other]), "expected TUNNEL/PEER");
    says(
        peer(
            &site,
            &["add", "t/c", &other, "preshared_key_file=/etc/shadow"],
        ),
        "no path is opened",
    );
    says(peer(&site, &["del", "t/a"]), ", line 11");
    says(
        peer(&site, &["set", "t/a", "persistent_keepalive=25s"]),
        "peer t/a changed",
    );
    says(
        peer(&site, &["set", "t/b", "allowed_ips=10.3.0.0/16"]),
        "peer t/b changed",
    );
    site.again();
    assert_eq!(peers(&site), ["a", "b"]);
    let layer = site.layer();
    assert!(layer.contains("# peer t/a lies over the file's"), "{layer}");
    assert!(
        layer.contains("10.3.0.0/16") && !layer.contains("10.2.0.0/16"),
        "{layer}"
    );
    // The file takes the prefix.
    let taken = text.replace("10.1.0.0/16", "10.3.0.0/16");
    let output = site.apply(&taken);
    says(stderr(&output), "peer t/b of the API layer rests");
    assert_eq!(peers(&site), ["a"]);
    site.apply(&text);
    assert_eq!(peers(&site), ["a", "b"]);
    assert_eq!(peer(&site, &["del", "t/b"]), "peer t/b removed\n");
    site.again();
    assert_eq!(peers(&site), ["a"]);
}
