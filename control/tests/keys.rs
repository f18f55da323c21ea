//! Secret keys of a running Culvert: who may name them, what keeps them, and that nobody is told them.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{Run, run, stderr, stdout};
use culvert::api::client::Client;
use culvert::config::{Disk, parse};
use culvert::keys::{PrivateKey, generate_preshared};
use culvert::state::Peer;
use nix::sys::signal::Signal;
use serde_json::Value;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_bytes([number; 32])
}

fn public(number: u8) -> String {
    key(number).public_key().to_base64()
}

fn write(path: &Path, text: &str, mode: u32) -> String {
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    path.display().to_string()
}

/// A UDP port that is free.
fn port() -> u16 {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// What comes true in time.
#[track_caller]
fn wait<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(50));
    }
}

/// A running Culvert with a tunnel `t`.
struct Site {
    folder: tempfile::TempDir,
    life: Option<Run>,
    port: u16,
}

impl Site {
    /// `own`: the number of its private key. `more`: lines of the file ahead of its uplinks; `peers`: the tunnel's.
    fn start(own: u8, port: u16, more: &str, peers: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("keys")).unwrap();
        write(&folder.path().join("t.key"), &key(own).to_base64(), 0o600);
        let mut site = Self {
            folder,
            life: None,
            port,
        };
        write(
            &site.path("c.yaml"),
            &site.text("t.key", more, peers),
            0o644,
        );
        site.again();
        site
    }

    fn text(&self, key: &str, more: &str, peers: &str) -> String {
        let keys = self.path("keys").display().to_string();
        format!(
            "version: 1\nnode: a\nmemory: {{hugepages: off}}\napi:\n  key_directory: {keys}\n{more}\
             uplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\ntunnels:\n  t:\n    uplink: u\n    \
             listen_port: {}\n    uapi: false\n    private_key_file: {key}\n    peers: {{{peers}}}\n\
             networks: {{blue: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n",
            self.port
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Kills it, if it lives, and starts it.
    fn again(&mut self) {
        if let Some(mut life) = self.life.take() {
            life.signal(Signal::SIGKILL);
            life.child.wait().unwrap();
        }
        let life = Run::start(&self.path("c.yaml"), &self.run_dir(), self.folder.path());
        self.life = Some(life);
    }

    fn run(&self, words: &[&str]) -> Output {
        run(words, &self.run_dir())
    }

    /// What it prints when it succeeds.
    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    /// What it says when it does not.
    #[track_caller]
    fn refuses(&self, words: &[&str], what: &str) {
        let output = self.run(words);
        assert!(!output.status.success(), "{}", stdout(&output));
        let said = stderr(&output);
        assert!(said.contains(what), "no `{what}` in {said}");
    }

    fn peer(&self, name: &str) -> Option<Peer> {
        let state = Client::new(&self.run_dir()).state(None).unwrap();
        state.peers.into_iter().find(|it| it.name == name)
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(self.run_dir().join("api.sock")).unwrap();
        let timeout = Some(Duration::from_secs(5));
        stream.set_read_timeout(timeout).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = Vec::new();
        // A stream of events has no end.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The files in which the keys of the layer lie.
    fn kept(&self) -> Vec<PathBuf> {
        let folder = self.run_dir().join("state/keys");
        let files = fs::read_dir(folder).unwrap();
        files.map(|it| it.unwrap().path()).collect()
    }

    /// Everything that can be read of it, by the API, by commands, in its log and in its files but those of keys.
    fn readings(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let described = self.ask("GET", "/v1/openapi.json", "");
        let described = described.split_once("\r\n\r\n").unwrap().1;
        let described: Value = serde_json::from_str(described).unwrap();
        for (path, item) in described["paths"].as_object().unwrap() {
            if !item["get"].is_object() {
                continue;
            }
            let is_one = path.contains("{name}");
            let path = path.replace("{number}", "1").replace("{tunnel}", "t");
            let path = path.replace("{name}", "b");
            let query = match path.as_str() {
                "/v1/routes/get" => "?to=10.2.0.1",
                "/v1/config" => "?drift=true",
                "/v1/events" => "?since=0",
                "/v1/diff" => "?from=running&to=1&text=true",
                _ => "",
            };
            let answer = self.ask("GET", &format!("{path}{query}"), "");
            // There is a peer of that name, and nothing else.
            let is_read = is_one || answer.starts_with("HTTP/1.1 2");
            assert!(is_read, "{path}: {answer}");
            all.push((path, answer));
        }
        let peer = &described["components"]["schemas"]["PeerKeys"]["properties"];
        assert_eq!(peer["preshared_key"]["writeOnly"], true);
        let running = "{\"from\": \"running\", \"to\": {\"revision\": 1}, \"text\": true}";
        all.push(("diff".into(), self.ask("POST", "/v1/diff", running)));
        for words in [
            &["layer", "show"][..],
            &["layer", "show", "-o", "json"],
            &["show", "--json"],
            &["config", "show", "--drift"],
            &["history"],
        ] {
            let output = self.run(words);
            all.push((words.join(" "), stdout(&output) + &stderr(&output)));
        }
        for file in ["log", "run/state/layer.journal", "run/endpoints.json"] {
            let text = fs::read(self.path(file)).unwrap_or_default();
            all.push((file.into(), String::from_utf8_lossy(&text).into_owned()));
        }
        for file in fs::read_dir(self.path("run/state/history")).unwrap() {
            let path = file.unwrap().path();
            let text = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&text).into_owned();
            all.push((path.display().to_string(), text));
        }
        all
    }
}

/// A preshared key, and the ways to write it.
struct Secret {
    file: String,
    written: Vec<String>,
}

impl Secret {
    fn new(folder: &Path, name: &str) -> Self {
        let key = generate_preshared().unwrap();
        let (base64, hex) = (key.to_base64(), key.to_hex());
        let unpadded = base64.trim_end_matches('=').to_owned();
        Self {
            file: write(&folder.join(name), &base64, 0o600),
            written: vec![unpadded, hex.to_uppercase(), hex.to_string()],
        }
    }

    #[track_caller]
    fn is_nowhere_in(&self, readings: &[(String, String)]) {
        for (place, text) in readings {
            for written in &self.written {
                assert!(!text.contains(written), "{place} has the key");
            }
        }
    }
}

/// The far end has the key in a file: without it no handshake is completed.
#[test]
fn a_preshared_key_of_the_layer_is_used_kept_and_told_to_nobody() {
    let (here, there) = (port(), port());
    let mut site = Site::start(1, here, "", "");
    let secret = Secret::new(site.folder.path(), "psk");
    let far = Site::start(
        2,
        there,
        "",
        &format!(
            "a: {{public_key: \"{}\", endpoint: \"127.0.0.1:{here}\", preshared_key_file: {}, persistent_keepalive: 1s}}",
            public(1),
            secret.file
        ),
    );
    let wrong = Secret::new(site.folder.path(), "wrong");
    let public = format!("public_key={}", public(2));
    let endpoint = format!("endpoint=127.0.0.1:{there}");
    let add = |site: &Site, file: &str| {
        let words = ["peer", "add", "--may-exist", "t/b", &public, &endpoint];
        let more = [
            "allowed_ips=10.2.0.0/16",
            "persistent_keepalive=1s",
            "--preshared-key-file",
            file,
        ];
        site.run(&[&words[..], &more].concat())
    };
    assert_eq!(stdout(&add(&site, &wrong.file)), "peer t/b added\n");
    let said = stdout(&add(&site, &secret.file));
    assert!(said.contains("peer t/b changed (preshared_key: "), "{said}");
    // The same again is no change.
    assert_eq!(stdout(&add(&site, &secret.file)), "");
    let shaken = |site: &Site| site.peer("b").and_then(|it| it.last_handshake_unix);
    wait("a handshake with the key", || shaken(&site));
    assert!(site.peer("b").unwrap().preshared_key);
    // One file, of ours alone.
    let kept = site.kept();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(
        kept[0].metadata().unwrap().permissions().mode() & 0o7777,
        0o600
    );
    let name = kept[0].file_name().unwrap().to_str().unwrap().to_owned();
    assert!(name.starts_with("t:b:"), "{name}");
    for secret in [&secret, &wrong] {
        secret.is_nowhere_in(&site.readings());
    }
    let layer = site.does(&["layer", "show"]);
    assert!(
        layer.contains("# peer t/b has a preshared key, which is not told"),
        "{layer}"
    );
    // What is read can be put again.
    let layer = site.ask("GET", "/v1/layer", "");
    let layer: Value = serde_json::from_str(layer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let keys = &layer["objects"][0]["keys"];
    assert_eq!(keys["preshared_key"], "(hidden)");
    let put = site.ask("PUT", "/v1/tunnels/t/peers/b", &keys.to_string());
    assert!(put.contains("\"changes\":[]"), "{put}");

    // Killed: the far end takes no handshake without the key.
    site.again();
    wait("a handshake after a kill", || shaken(&site));
    assert_eq!(site.kept(), kept);
    // Another key drops nothing.
    let before = site.peer("b").unwrap();
    let said = site.does(&["peer", "set", "t/b", "--preshared-key-file", &wrong.file]);
    assert!(said.contains("peer t/b changed (preshared_key: "), "{said}");
    let after = site.peer("b").unwrap();
    assert_eq!(after.keypair, "current");
    assert_eq!(after.last_handshake_unix, before.last_handshake_unix);
    let now = site.kept();
    assert!(now.len() == 1 && now != kept, "{now:?}");
    // None, and a mistake in which one stands.
    site.does(&["peer", "set", "t/b", "preshared_key="]);
    assert!(!site.peer("b").unwrap().preshared_key);
    assert!(site.kept().is_empty());
    let text = fs::read_to_string(&secret.file).unwrap();
    for body in [
        format!("{{\"preshared_key\": \"{text}\", \"endpiont\": 1}}"),
        format!("{{\"preshared_key\": \"{text}\""),
        format!("preshared_key: {text}x\n"),
        format!("presharedkey: {text}\n"),
        format!("psk: {text}\n"),
    ] {
        let answer = site.ask("PATCH", "/v1/tunnels/t/peers/b", &body);
        assert!(answer.starts_with("HTTP/1.1 422"), "{answer}");
        secret.is_nowhere_in(&[("a refusal".into(), answer)]);
    }
    site.refuses(
        &["peer", "set", "t/b", &format!("preshared_key={text}")],
        "--preshared-key-file",
    );
    // With its object it goes.
    assert!(add(&site, &secret.file).status.success());
    assert_eq!(site.kept().len(), 1);
    site.does(&["peer", "del", "t/b"]);
    assert!(site.kept().is_empty());
    secret.is_nowhere_in(&site.readings());
    drop(far);
}

#[test]
fn a_revoked_peer_is_refused_and_rests_after_a_start() {
    let mut site = Site::start(1, port(), "", "");
    let secret = Secret::new(site.folder.path(), "psk");
    let add = |name: &str, number: u8| -> Vec<String> {
        let key = format!("public_key={}", public(number));
        let words = [
            "peer",
            "add",
            name,
            &key,
            "--preshared-key-file",
            &secret.file,
        ];
        words.map(str::to_owned).into()
    };
    fn words(words: &[String]) -> Vec<&str> {
        words.iter().map(String::as_str).collect()
    }
    site.does(&words(&add("t/b", 2)));
    site.does(&words(&add("t/c", 3)));
    for number in [2, 4] {
        site.does(&["history", "purge", "--revoke", &public(number)]);
    }
    site.refuses(&words(&add("t/d", 4)), "its public key is revoked");
    site.again();
    assert!(site.peer("b").is_none());
    assert!(site.peer("c").unwrap().preshared_key);
    let layer = site.does(&["layer", "show"]);
    assert!(
        layer.contains("# peer t/b rests, the file counts alone: its public key is revoked"),
        "{layer}"
    );
    // One whose key was taken from the disk is not called without it.
    for kept in site.kept() {
        fs::remove_file(kept).unwrap();
    }
    site.again();
    assert!(site.peer("c").is_none());
    let layer = site.does(&["layer", "show"]);
    assert!(layer.contains("its preshared key is lost"), "{layer}");
    site.refuses(
        &["peer", "set", "t/c", "persistent_keepalive=9s"],
        "has no preshared key that could be kept",
    );
    site.does(&["peer", "set", "t/c", "--preshared-key-file", &secret.file]);
    assert!(site.peer("c").unwrap().preshared_key);
}

/// A member of the socket's group who is nobody else.
#[test]
fn a_member_of_the_group_has_no_path_opened() {
    const MEMBER: u32 = 54_322;
    if !nix::unistd::geteuid().is_root() {
        return common::skip("root", "nobody else's user can be had");
    }
    let site = Site::start(1, port(), "  socket: {mode: \"0666\"}\n", "");
    for folder in [site.folder.path(), &site.run_dir()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    write(&site.path("keys/other"), &key(3).to_base64(), 0o600);
    let binary = site.path("culvert");
    fs::copy(common::culvert().get_program(), &binary).unwrap();
    let apply = |key: &str| {
        let text = site.text(key, "  socket: {mode: \"0666\"}\n", "");
        let file = write(&site.path("theirs.yaml"), &text, 0o644);
        let mut command = std::process::Command::new(&binary);
        command.uid(MEMBER).gid(MEMBER).args(["apply", &file]);
        let output = command
            .arg("--run-dir")
            .arg(site.run_dir())
            .output()
            .unwrap();
        (output.status.success(), stdout(&output) + &stderr(&output))
    };
    let (refused, told) = apply("/etc/shadow");
    assert!(
        !refused && told.contains("user 54322 may name none"),
        "{told}"
    );
    assert!(told.contains("`key:NAME`"), "{told}");
    let told = told.replace("/etc/shadow", "PATH");
    for path in ["/etc/shadoo", "/etc/passwd", "/dev/random", "/etc/init.d"] {
        let (refused, other) = apply(path);
        assert!(!refused);
        assert_eq!(other.replace(path, "PATH"), told);
    }
    // As it runs, by either way of writing it, and by a name.
    for key in ["t.key", site.path("t.key").to_str().unwrap(), "key:other"] {
        let (is_done, told) = apply(key);
        assert!(is_done, "{told}");
    }
    // A file of theirs is not looked into to tell a line of it, either: a FIFO would keep everybody waiting.
    let fifo = site.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let text = site.text(
        "t.key",
        "  socket: {mode: \"0666\"}\n",
        &format!("p: {{public_key: \"{}\"}}", public(9)),
    );
    let body = serde_json::json!({ "path": fifo, "text": text }).to_string();
    assert!(
        site.ask("POST", "/v1/apply", &body)
            .starts_with("HTTP/1.1 200")
    );
    let answer = site.ask("DELETE", "/v1/tunnels/t/peers/p", "");
    assert!(answer.contains("remove it there"), "{answer}");
}

#[test]
fn a_key_directory_holds_files_of_its_owner_alone() {
    let site = Site::start(1, port(), "", "");
    let told = |name: &str| {
        let text = site.text(&format!("key:{name}"), "", "");
        let read = parse(&text, &site.path("c.yaml"), &Disk);
        read.map(|_| ()).map_err(|report| report.render(false))
    };
    let says = |name: &str, what: &str| {
        let error = told(name).unwrap_err();
        assert!(error.contains(what), "no `{what}` in {error}");
    };
    let keys = site.path("keys");
    let file = |name: &str| keys.join(name);
    write(&file("good"), &key(3).to_base64(), 0o600);
    assert_eq!(told("good"), Ok(()));
    says("missing", "the file is missing");
    says(
        "missing",
        &format!("culvert genkey > {}", file("missing").display()),
    );
    write(&file("open"), &key(3).to_base64(), 0o644);
    says("open", "its permissions are 0644");
    says("open", &format!("chmod 600 {}", file("open").display()));
    symlink(file("good"), file("link")).unwrap();
    says("link", "it is a symbolic link");
    nix::unistd::mkfifo(
        &file("fifo"),
        nix::sys::stat::Mode::from_bits_truncate(0o600),
    )
    .unwrap();
    says("fifo", "not a file");
    for name in ["../t.key", "a/b", "..", "'key:x'"] {
        let text = site.text(&format!("\"key:{name}\""), "", "");
        let report = parse(&text, &site.path("c.yaml"), &Disk).unwrap_err();
        let told = report.render(false);
        assert!(
            told.contains("expected the name of a file of the key directory without `/`"),
            "{told}"
        );
    }
    if nix::unistd::geteuid().is_root() {
        write(&file("foreign"), &key(3).to_base64(), 0o600);
        chown(file("foreign"), Some(54_322), None).unwrap();
        says("foreign", "it belongs to user 54322");
        says("foreign", &format!("chown 0 {}", file("foreign").display()));
    }
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o777)).unwrap();
    says("good", "others may write to");
    fs::rename(&keys, site.path("real")).unwrap();
    says("good", &format!("mkdir -m 700 {}", keys.display()));
    symlink(site.path("real"), &keys).unwrap();
    says("good", "not a directory, or a link to one");
}

#[test]
fn a_peer_of_the_layer_names_a_key_whose_change_an_apply_takes_in() {
    let mut site = Site::start(1, port(), "", "");
    let file = site.path("keys/b.psk");
    write(&file, &key(5).to_base64(), 0o600);
    let public = format!("public_key={}", public(2));
    let add = |file: &str| {
        let file = format!("preshared_key_file={file}");
        site.run(&["peer", "add", "t/b", &public, &file])
    };
    for (file, what) in [
        ("/etc/shadow", "no path is opened"),
        ("key:/etc/shadow", "no path is opened"),
        ("key:../t.key", "no path is opened"),
        ("key:missing", "the file is missing"),
    ] {
        let said = stderr(&add(file));
        assert!(said.contains(what), "no `{what}` in {said}");
    }
    assert_eq!(stdout(&add("key:b.psk")), "peer t/b added\n");
    assert_eq!(stdout(&add("key:b.psk")), "");
    assert!(site.peer("b").unwrap().preshared_key);
    assert!(site.kept().is_empty());
    let layer = site.does(&["layer", "show"]);
    assert!(layer.contains("preshared_key_file: key:b.psk"), "{layer}");
    site.again();
    assert!(site.peer("b").unwrap().preshared_key);
    let config = site.path("c.yaml").display().to_string();
    let applied = |site: &Site| site.does(&["apply", &config]);
    write(&file, &key(6).to_base64(), 0o600);
    let said = applied(&site);
    assert!(said.contains("peer t/b changed (preshared_key: "), "{said}");
    // What can't be read stays as long as the process lives, and is not called without a key after that.
    fs::remove_file(&file).unwrap();
    assert!(!applied(&site).contains("peer t/b"));
    assert!(site.peer("b").unwrap().preshared_key);
    site.again();
    assert!(site.peer("b").is_none());
    write(&file, &key(7).to_base64(), 0o600);
    let said = applied(&site);
    assert!(said.contains("peer t/b added"), "{said}");
    assert!(site.peer("b").unwrap().preshared_key);
}
