//! `apply` and `show` against a running Culvert: nothing here is answered from a script.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{Run, culvert, run, stderr, stdout};
use culvert::api::client::Client;
use culvert::state::State;

const NETWORK: &str =
    "version: 1\nmemory: {hugepages: off}\nnetworks: {n: {gateway: 10.0.0.1/24}}\n";

/// A port's line of a configuration.
fn port(number: u8) -> String {
    format!(
        "  vm{number}: {{network: n, mac: \"52:54:00:00:00:0{number}\", addresses: [10.0.0.1{number}]}}\n"
    )
}

struct Running {
    folder: tempfile::TempDir,
    life: Run,
}

impl Running {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        let (config, run_dir) = (folder.path().join("c.yaml"), folder.path().join("run"));
        let life = Run::start(&config, &run_dir, folder.path());
        Self { folder, life }
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn apply(&self, text: &str) -> Output {
        let file = self.folder.path().join("new.yaml");
        fs::write(&file, text).unwrap();
        run(&["apply", file.to_str().unwrap()], &self.run_dir())
    }

    fn state(&self) -> State {
        Client::new(&self.run_dir()).state(None).unwrap()
    }

    fn ports(&self) -> Vec<String> {
        self.state()
            .ports
            .into_iter()
            .map(|port| port.name)
            .collect()
    }

    /// Whether a VMM could connect.
    fn answers(&self, port: &str) -> bool {
        UnixStream::connect(self.run_dir().join(format!("{port}.sock"))).is_ok()
    }
}

#[test]
fn ports_come_and_go_and_what_did_not_change_stays() {
    let one = format!("{NETWORK}ports:\n{}", port(1));
    let two = format!("{one}{}", port(2));
    let running = Running::start(&one);
    // A VMM that stays connected through all of it.
    let vmm = UnixStream::connect(running.run_dir().join("vm1.sock")).unwrap();

    let output = running.apply(&two);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "generation 2, revision 2:\n  port vm2 added\n"
    );
    assert_eq!(running.ports(), ["vm1", "vm2"]);
    assert!(running.answers("vm2"));

    let output = running.apply(&two);
    assert_eq!(
        stdout(&output),
        "generation 2, revision 2: nothing changed\n"
    );

    let output = running.apply(&one);
    assert_eq!(
        stdout(&output),
        "generation 3, revision 3:\n  port vm2 removed\n"
    );
    assert_eq!(running.ports(), ["vm1"]);
    assert!(!running.answers("vm2"));
    vmm.set_nonblocking(true).unwrap();
    let read = std::io::Read::read(&mut &vmm, &mut [0]).unwrap_err();
    assert_eq!(
        read.kind(),
        std::io::ErrorKind::WouldBlock,
        "it was cut off"
    );
}

#[test]
fn what_is_refused_changes_nothing() {
    let one = format!("{NETWORK}ports:\n{}", port(1));
    let running = Running::start(&one);
    let refused = |text: &str, says: &str| {
        let output = running.apply(text);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        let text = stderr(&output);
        assert!(text.contains("culvert: not applied: "), "{text}");
        assert!(text.contains(says), "no `{says}` in {text}");
        let state = running.state();
        assert_eq!(state.generation, 1);
        assert_eq!(running.ports(), ["vm1"]);
        assert!(running.answers("vm1"));
    };
    let with = |what: &str| format!("{one}{}{what}", port(2));
    refused(
        &with("cores: {workers: 2}\n"),
        "needs a restart: cores.workers: 1 → 2",
    );
    refused(
        &with("cores: {poll: busy}\n"),
        "needs a restart: cores.poll: adaptive → busy",
    );
    refused(&with("  vm3: {}\n"), "new.yaml:7:");
    // The socket's name is taken by something that is none.
    fs::write(running.run_dir().join("vm2.sock"), "precious").unwrap();
    refused(&with(""), "vm2.sock is no socket: remove it");
}

#[test]
fn uplinks_come_change_and_go() {
    let running = Running::start(NETWORK);
    for (uplinks, told) in [
        (
            "u: {driver: udp, addresses: [127.0.0.1/8]}",
            "uplink u added",
        ),
        (
            "u: {driver: udp, addresses: [127.0.0.1/8], mtu: 1400}",
            "uplink u changed (mtu: 1500 → 1400)",
        ),
        (
            "u: {driver: udp, addresses: [127.0.0.2/8], mtu: 1400}",
            "uplink u reopened (addresses: [127.0.0.1/8] → [127.0.0.2/8])",
        ),
        ("", "uplink u removed"),
    ] {
        let output = running.apply(&format!("{NETWORK}uplinks: {{{uplinks}}}\n"));
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stdout(&output).contains(told), "{}", stdout(&output));
        let shown = running.state().uplinks;
        assert_eq!(shown.len(), usize::from(!uplinks.is_empty()));
    }
}

/// As `check` tells them, whoever has the file applied.
#[test]
fn a_file_is_used_with_its_warnings_told() {
    let running = Running::start(NETWORK);
    let bare = port(1).replace("[10.0.0.11]", "[]");
    let text = format!("{NETWORK}ports:\n{bare}");
    let warning = "port `vm1` has no `addresses`";
    let output = running.apply(&text);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains(warning), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "generation 2, revision 2:\n  port vm1 added\n"
    );

    fs::write(running.folder.path().join("c.yaml"), &text).unwrap();
    running.life.signal(nix::sys::signal::Signal::SIGHUP);
    running.life.expect("RELOADING=1");
    running.life.expect("READY=1");
    let log = fs::read_to_string(running.folder.path().join("log")).unwrap();
    assert!(log.contains(&format!("c.yaml:5:3: {warning}")), "{log}");
}

#[test]
fn what_differs_is_told_before_it_is_applied() {
    let one = format!("{NETWORK}ports:\n{}", port(1));
    let two = format!(
        "{NETWORK}ports:\n{}{}",
        port(1).replace("}", ", queues: 2}"),
        port(2)
    );
    let running = Running::start(&one);
    let run_dir = running.run_dir();
    let new = running.folder.path().join("new.yaml");
    fs::write(&new, &two).unwrap();
    let (own, new) = (running.folder.path().join("c.yaml"), new.to_str().unwrap());
    let own = own.to_str().unwrap();

    let output = run(&["diff"], &run_dir);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), format!("running and {own} are the same\n"));

    let output = run(&["diff", "running", new], &run_dir);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        format!(
            "running → {new}\n~ port vm1  (reopens port)\n    queues: 1 → 2\n    queue_workers: [0] → [0, 0]\n\
             + port vm2\n2 changes; reopens port: 1\n"
        )
    );
    // The other way, and without anybody who runs.
    for arguments in [["diff", new, "running"], ["diff", new, own]] {
        let output = run(&arguments, &run_dir);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(text.contains("- port vm2  (closes port)\n"), "{text}");
    }
    let output = run(&["diff", "running", new, "--text"], &run_dir);
    let text = stdout(&output);
    assert!(
        text.starts_with(&format!("--- running\n+++ {new}\n@@ ")),
        "{text}"
    );
    assert!(text.contains("\n+    queues: 2\n"), "{text}");
    let output = run(&["diff", "running", new, "-o", "json"], &run_dir);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["changes"][0]["keys"][0]["new"], "2");

    // Nothing was changed by all that; what is told is what is done.
    assert_eq!(running.state().generation, 1);
    let applied = stdout(&running.apply(&two));
    assert!(
        applied.contains("port vm1 reopened") && applied.contains("port vm2 added"),
        "{applied}"
    );
    assert_eq!(
        run(&["diff", "running", new], &run_dir).status.code(),
        Some(0)
    );

    fs::write(new, "version: 1\n").unwrap();
    for arguments in [
        ["diff", "running", new],
        ["diff", own, new],
        ["diff", own, "missing.yaml"],
    ] {
        let output = run(&arguments, &run_dir);
        assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty());
    }
}

/// What it was called by when it started, and from where, is nobody's affair later.
#[test]
fn files_are_known_by_their_absolute_paths() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (config, run_dir) = (path("c.yaml"), path("run"));
    fs::write(&config, NETWORK).unwrap();
    let here = |mut command: Command| {
        command.current_dir(folder.path());
        command
    };
    let log = fs::File::create(path("log")).unwrap();
    let relative = Path::new("c.yaml");
    let _life = Run::start_by(
        here(culvert()),
        relative,
        &run_dir,
        folder.path(),
        log.into(),
    );
    let output = run(&["diff"], &run_dir);
    let config = config.display();
    assert_eq!(
        stdout(&output),
        format!("running and {config} are the same\n"),
        "{}",
        stderr(&output)
    );

    fs::write(
        path("key"),
        "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n",
    )
    .unwrap();
    fs::set_permissions(path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    let file = |name: &str, key: &Path| {
        let tunnel = format!(
            "{{uplink: u, listen_port: 5, private_key_file: {}}}",
            key.display()
        );
        let text = format!("{NETWORK}uplinks: {{u: {{driver: udp}}}}\ntunnels: {{t: {tunnel}}}\n");
        fs::write(path(name), text).unwrap();
    };
    file("a.yaml", Path::new("key"));
    file("b.yaml", &path("key"));
    let output = here(culvert()).args(["diff", "a.yaml", "b.yaml"]).output();
    let output = output.unwrap();
    assert_eq!(
        stdout(&output),
        "a.yaml and b.yaml are the same\n",
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_running_configuration_is_a_file_that_says_the_same() {
    let running = Running::start(&format!("{NETWORK}ports:\n{}", port(1)));
    let output = run(&["config", "show"], &running.run_dir());
    assert!(output.status.success(), "{}", stderr(&output));
    let written = stdout(&output);
    let output = running.apply(&written);
    assert_eq!(
        stdout(&output),
        "generation 1, revision 1: nothing changed\n",
        "{written}"
    );
}

/// A key whose only use is that it is one.
const KEY: &str = "QGWW0lbBMdlF5jVjRBWHDQGVPKVFuG8/Xx2dEpxGJkU=";
const FAR: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

#[test]
fn a_way_is_told_as_workers_find_it() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("key");
    fs::write(&key, KEY).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    // Nobody else takes that port: it is held on another address.
    let free = std::net::UdpSocket::bind("127.0.0.2:0").unwrap();
    let running = Running::start(&format!(
        "version: 1\nmemory: {{hugepages: off}}\nuplinks: {{lo0: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
        tunnels: {{wg0: {{uplink: lo0, listen_port: {free}, private_key_file: {key}, peers: {{far: {{public_key: \"{FAR}\", \
        endpoint: \"127.0.0.1:9\", allowed_ips: [10.1.0.0/16, 10.1.2.0/24]}}, \
        lost: {{public_key: \"HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=\", endpoint: \"nobody.invalid:9\"}}}}}}}}\n\
        networks: {{n: {{gateway: 10.0.0.1/24, tunnel: wg0, routes: [{{to: 10.9.0.0/16, unreachable: true}}, {{to: 10.8.0.0/16, via: 10.0.0.11}}, \
        {{to: 10.5.0.0/16, peer: lost}}]}}}}\n\
        ports:\n{}",
        port(1),
        key = key.display(),
        free = free.local_addr().unwrap().port(),
    ));
    let get = |arguments: &[&str]| {
        let all = [&["route", "get"], arguments].concat();
        run(&all, &running.run_dir())
    };
    let text = |arguments: &[&str]| {
        let output = get(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let peer = text(&["10.1.2.3", "from", "vm1"]);
    let lines: Vec<_> = peer.lines().collect();
    assert_eq!(
        lines[0],
        "10.1.2.3 from vm1 in network n: peer far of tunnel wg0"
    );
    assert_eq!(lines[1], "  because   10.1.2.0/24 (allowed-ips)");
    assert_eq!(lines[2], "  endpoint  127.0.0.1:9");
    assert!(lines[3].starts_with("  uplink    lo0"), "{peer}");
    assert!(
        peer.contains("no session: a handshake comes first"),
        "{peer}"
    );
    let own = text(&["10.0.0.11"]);
    assert!(
        own.starts_with("10.0.0.11 in network n: port vm1\n"),
        "{own}"
    );
    assert!(own.contains("the guest's side is down"), "{own}");
    assert!(text(&["10.0.0.1"]).contains("the gateway itself"));
    assert!(text(&["10.0.0.77"]).contains("no port has it, of 10.0.0.0/24"));
    let none = text(&["10.9.1.1"]);
    assert!(none.contains("nowhere: the sender is told"), "{none}");
    assert!(
        none.contains("10.9.0.0/16 is unreachable (config)"),
        "{none}"
    );
    let routed = text(&["10.8.1.1"]);
    assert!(
        routed.contains("port vm1\n  because   10.8.0.0/16 via 10.0.0.11 (config)\n"),
        "{routed}"
    );
    let lost = text(&["10.5.1.1"]);
    assert!(
        lost.contains("peer lost") && lost.contains("its endpoint's name"),
        "{lost}"
    );
    assert!(text(&["8.8.8.8"]).contains("no route leads there"));
    assert!(text(&["127.0.0.1"]).contains("never routed"));
    let v6 = text(&["fd00::1", "from", "vm1"]);
    assert!(v6.contains("guard: strict lets nothing"), "{v6}");
    let json: serde_json::Value =
        serde_json::from_str(&text(&["10.1.2.3", "from", "vm1", "-o", "json"])).unwrap();
    assert_eq!(json[0]["verdict"], "peer");
    assert_eq!(json[0]["uplink"], "lo0");
    let unknown = get(&["10.1.2.3", "from", "vm9"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(stderr(&unknown), "culvert: there is no port vm9\n");
}
