//! `show` and `apply` against the control socket, with an engine that answers from a script.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use culvert::api::ApplyError;
use culvert::api::client::{Client, ClientError};
use culvert::state::{Applied, Peer, State};

use common::{Running, culvert, run, state, stderr, stdout};

fn nothing() -> Result<Applied, ApplyError> {
    Ok(Applied::default())
}

const SMALL: &str = "version: 1\nnode: small\nnetworks: {}\n";

#[test]
fn the_state_arrives_as_it_was() {
    let running = Running::start(nothing());
    assert_eq!(Client::new(&running.run_dir).state(None).unwrap(), state());
    let mode = std::fs::metadata(running.run_dir.join("api.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
}

#[test]
fn show_prints_tables() {
    let running = Running::start(nothing());
    let output = run(&["show"], &running.run_dir);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = stdout(&output);
    assert_eq!(
        text,
        "\
hv-a: culvert 0.1.0, pid 4711, up 1 hour, 1 minute, 1 second
/etc/culvert/hv-a.yaml (generation 3)
log: 2 lines could not be written, 5 were left out

PORT  NETWORK  LINK        RX     TX  DROPS   MTU
vm1   blue     up    1.50 KiB  100 B      7  1420

UPLINK  DRIVER  LINK   RX   TX  DROPS   MTU  ADDRESSES
wan0    dpdk    25G   0 B  0 B      0  1500  192.0.2.10/24

TUNNEL  UPLINK   PORT  PEERS  PUBLIC KEY
wg0     wan0    51821      1  HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=
  wg0: not as in the file: listen_port (file: 51820)

PEER      ENDPOINT          UPLINK  STATE  HANDSHAKE        RX   TX
wg0/hv-b  192.0.2.11:51820  -       up     1m 5s ago  5.00 MiB  0 B

CORE      CPU  BUSY  PACKETS  PER BURST  SLEEPS  QUEUES
worker 0    1  12 %       10        2.5       7  vm1:0 wan0:0

DROPPED AT  REASON     PACKETS
port vm1    ring-full        3
"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
}

#[test]
fn show_prints_all_columns_where_they_are_wanted() {
    let running = Running::start(nothing());
    let wide = stdout(&run(&["show", "-o", "wide"], &running.run_dir));
    let has = |line: &str| assert!(wide.contains(line), "{line}\n{wide}");
    has(
        "PORT  NETWORK  LINK  QUEUES  RX PACKETS        RX  TX PACKETS     TX  DROPS   MTU  DRIVER      MAC",
    );
    has(
        "vm1   blue     up       1/2          10  1.50 KiB          12  100 B      7  1420  vhost-user  52:54:00:00:00:01  /run/culvert/vm1.sock",
    );
    has("wg0     wan0    51821      1       -  1420  /var/run/wireguard/wg0.sock");
    has("wg0/hv-b  192.0.2.11:51820  -       up     1m 5s ago  current        25s");
    has("10.1.2.0/24, fd00:2::/64  3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=");
}

#[test]
fn show_prints_what_is_called_so() {
    let running = Running::start(nothing());
    let text = |arguments: &[&str]| stdout(&run(arguments, &running.run_dir));
    let one = text(&["show", "ports", "vm*"]);
    assert!(one.starts_with("PORT") && one.contains("vm1"), "{one}");
    assert!(!one.contains("wan0"), "{one}");
    for name in [
        "hv-b",
        "wg0/hv-b",
        "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
    ] {
        let yaml = text(&["show", "peers", name, "-o", "yaml"]);
        assert!(yaml.contains("name: hv-b"), "{name}: {yaml}");
        assert!(yaml.contains("tunnels: []"), "{name}: {yaml}");
    }
    let unknown = run(&["show", "ports", "vm2"], &running.run_dir);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        stderr(&unknown),
        "culvert: nothing among ports is called `vm2`: did you mean `vm1`?\n"
    );
}

/// All that is sent of a list passes a proxy that counts.
#[test]
fn show_asks_for_what_it_shows() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    let peer = |number: usize| Peer {
        tunnel: "wg0".into(),
        name: format!("hv-{number:05}"),
        ..Peer::default()
    };
    let running = Running::telling(State {
        peers: (0..100_000).map(peer).collect(),
        ..state()
    });
    let folder = tempfile::tempdir().unwrap();
    let door = UnixListener::bind(folder.path().join("api.sock")).unwrap();
    let (asked, told) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(AtomicUsize::new(0)),
    );
    let (asks, tells) = (Arc::clone(&asked), Arc::clone(&told));
    let behind = running.run_dir.join("api.sock");
    std::thread::spawn(move || {
        for stream in door.incoming() {
            let (mut near, mut far) = (stream.unwrap(), UnixStream::connect(&behind).unwrap());
            let mut request = [0; 4096];
            let len = near.read(&mut request).unwrap();
            let line = String::from_utf8_lossy(&request[..len]);
            let path = line.split(' ').nth(1).unwrap().to_owned();
            asks.lock().unwrap().push(path);
            let request = line.replacen("\r\n", "\r\nconnection: close\r\n", 1);
            far.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            far.read_to_end(&mut answer).unwrap();
            tells.fetch_add(answer.len(), Ordering::Relaxed);
            near.write_all(&answer).unwrap();
        }
    });
    let output = run(&["show", "peers", "wg0/hv-0001*"], folder.path());
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 11, "{text}{}", stderr(&output));
    let asked = asked.lock().unwrap();
    assert_eq!(
        *asked,
        [
            "/v1/status",
            "/v1/tunnels?like=wg0%2Fhv-0001%2A&limit=10000",
            "/v1/peers?like=wg0%2Fhv-0001%2A&limit=10000"
        ]
    );
    let told = told.load(Ordering::Relaxed);
    assert!(told < 16_384, "{told} bytes for ten peers");
}

/// Pages follow one another to the end, and what two names mean is there once.
#[test]
fn show_reads_lists_to_their_ends() {
    let peer = |number: usize| Peer {
        tunnel: "wg0".into(),
        name: format!("hv-{number}"),
        ..Peer::default()
    };
    let running = Running::telling(State {
        peers: (0..2_500).map(peer).collect(),
        ..state()
    });
    let names = |arguments: &[&str]| -> Vec<String> {
        let peers: serde_json::Value =
            serde_json::from_str(&stdout(&run(arguments, &running.run_dir))).unwrap();
        let names = peers.as_array().unwrap().iter();
        names
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let all: Vec<_> = (0..2_500).map(|number| format!("hv-{number}")).collect();
    assert_eq!(names(&["peer", "list", "-o", "json"]), all);
    assert_eq!(
        names(&["peer", "list", "hv-9", "wg0/hv-9*", "hv-11", "-o", "json"])[..3],
        ["hv-9", "hv-11", "hv-90"]
    );
}

#[test]
fn a_list_is_one_table_or_array() {
    let running = Running::start(nothing());
    let text = |arguments: &[&str]| stdout(&run(arguments, &running.run_dir));
    assert_eq!(
        text(&["port", "list"]),
        "PORT  NETWORK  LINK        RX     TX  DROPS   MTU\n\
         vm1   blue     up    1.50 KiB  100 B      7  1420\n"
    );
    assert_eq!(
        text(&["peer", "list", "hv-*"]),
        "PEER      ENDPOINT          UPLINK  STATE  HANDSHAKE        RX   TX\n\
         wg0/hv-b  192.0.2.11:51820  -       up     1m 5s ago  5.00 MiB  0 B\n"
    );
    let unknown = run(&["peer", "list", "vm1"], &running.run_dir);
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(
        stderr(&unknown),
        "culvert: nothing among peers is called `vm1`\n"
    );
}

#[test]
fn show_prints_rates() {
    let running = Running::start(nothing());
    let rates = stdout(&run(&["show", "ports", "--rates"], &running.run_dir));
    let lines: Vec<_> = rates.lines().collect();
    assert_eq!(
        lines[0],
        "PORT  NETWORK  LINK  RX PPS  RX BIT/S  TX PPS  TX BIT/S  DROPS/S   MTU"
    );
    // Nothing passes there.
    assert_eq!(
        lines[1],
        "vm1   blue     up         0         0       0         0        0  1420"
    );
}

#[test]
fn show_watches_until_nobody_reads() {
    use std::io::{BufRead as _, BufReader};
    let running = Running::start(nothing());
    let mut child = culvert()
        .args(["show", "drops", "--watch=0.1", "-o", "json", "--run-dir"])
        .arg(&running.run_dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = lines.next().unwrap().unwrap();
        let look: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(look["drops"][0]["reason"], "ring-full");
    }
    drop(lines);
    assert!(child.wait().unwrap().success());
}

#[test]
fn show_prints_one_part() {
    let running = Running::start(nothing());
    let part = |name: &str| stdout(&run(&["show", name], &running.run_dir));
    assert_eq!(
        part("routes"),
        "TABLE         TO           NEXT HOP         METRIC  FROM\nnetwork blue  10.1.2.0/24  peer hv-b (wg0)       -  allowed-ips\n"
    );
    assert!(
        part("neighbors").contains("uplink wan0  192.0.2.11  -    incomplete  never"),
        "{}",
        part("neighbors")
    );
    assert!(part("ports").contains("wan0"));
    assert!(!part("peers").contains("vm1"));
    let unknown = run(&["show", "prots"], &running.run_dir);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("ports"), "{}", stderr(&unknown));
}

#[test]
fn show_prints_json() {
    let running = Running::start(nothing());
    let all: State =
        serde_json::from_str(&stdout(&run(&["show", "--json"], &running.run_dir))).unwrap();
    assert_eq!(all, state());
    let part: serde_json::Value = serde_json::from_str(&stdout(&run(
        &["show", "peers", "--json"],
        &running.run_dir,
    )))
    .unwrap();
    assert_eq!(part["peers"][0]["last_handshake_unix"], 1_700_000_000);
    assert_eq!(part["tunnels"][0]["drift"][0], "listen_port (file: 51820)");
    assert_eq!(part.as_object().unwrap().len(), 2);
}

#[test]
fn apply_hands_the_checked_file_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.yaml");
    std::fs::write(&file, SMALL).unwrap();
    let changes = vec![
        "peer wg0/hv-b changed".to_owned(),
        "port vm2 added".to_owned(),
    ];
    let running = Running::start(Ok(Applied {
        generation: 4,
        changes,
        ..Applied::default()
    }));
    let output = run(&["apply", file.to_str().unwrap()], &running.run_dir);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "generation 4:\n  peer wg0/hv-b changed\n  port vm2 added\n"
    );
    let config = running.applied.recv().unwrap();
    assert_eq!(config.node.as_str(), "small");
    assert_eq!(config.source, file);
}

#[test]
fn apply_of_a_file_with_mistakes_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "version: 1\nnetwork: {}\n").unwrap();
    let running = Running::start(nothing());
    let output = run(&["apply", file.to_str().unwrap()], &running.run_dir);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("bad.yaml:2:1: error: unknown key `network`"),
        "{text}"
    );
    assert!(text.contains("did you mean `networks`?"), "{text}");
    assert!(
        text.contains("not applied: the configuration has a mistake"),
        "{text}"
    );
    assert!(running.applied.try_recv().is_err());
}

#[test]
fn apply_says_what_needs_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("small.yaml");
    std::fs::write(&file, SMALL).unwrap();
    let running = Running::start(Err(ApplyError::NeedsRestart(vec![
        "cores.workers".into(),
        "memory.mtu_max".into(),
    ])));
    let output = run(&["apply", file.to_str().unwrap()], &running.run_dir);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        "culvert: not applied: needs a restart: cores.workers; memory.mtu_max\n"
    );
}

#[test]
fn nobody_at_home() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(&["show"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no culvert runs in"),
        "{}",
        stderr(&output)
    );
    // A socket that a killed process left behind.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("api.sock")).unwrap());
    let error = Client::new(folder.path()).state(None).unwrap_err();
    assert!(matches!(error, ClientError::NotRunning(_)), "{error}");
}

#[test]
fn an_engine_that_ended_is_named() {
    let mut running = Running::start(nothing());
    running.end_engine();
    let error = Client::new(&running.run_dir).state(None).unwrap_err();
    assert_eq!(error.to_string(), "the engine has ended");
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_answered() {
    use std::io::{Read as _, Write as _};
    let running = Running::start(nothing());
    let connect =
        || std::os::unix::net::UnixStream::connect(running.run_dir.join("api.sock")).unwrap();
    for garbage in [
        &b"\x00\xff\x16\x03 garbage\r\n\r\n"[..],
        b"POST /v1/apply HTTP/1.1\r\nhost: c\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 3\r\n\r\n{x}",
        b"GET /v2/none HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n",
        b"DELETE /v1/status HTTP/1.1\r\nhost: c\r\nconnection: close\r\n\r\n",
    ] {
        let mut stream = connect();
        stream.write_all(garbage).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    drop(connect());
    assert_eq!(Client::new(&running.run_dir).state(None).unwrap().pid, 4711);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let running = Running::start(nothing());
    let mut child = culvert()
        .args(["show", "--run-dir"])
        .arg(&running.run_dir)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
    assert!(Path::new(&running.run_dir).exists());
}
