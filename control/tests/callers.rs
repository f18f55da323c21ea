//! A VMM's user who calls a port without pause: what the log and the state say.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert::api::client::Client;
use culvert::state::Port;

const CONFIG: &str = "
version: 1
networks:
  blue:
    gateway: 10.0.0.1/24
ports:
  vm1:
    driver: vhost-user
    network: blue
    mac: '52:54:00:00:00:01'
    addresses: [10.0.0.2]
";

struct Culvert(Child);

impl Drop for Culvert {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `attempt` finds, in time.
fn wait<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(10));
    }
}

fn port(run_dir: &Path) -> Option<Port> {
    Client::new(run_dir).state(None).ok()?.ports.pop()
}

#[test]
fn callers_without_number_are_a_few_lines_and_a_second_one_is_told() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let (config, log) = (folder.path().join("c.yaml"), folder.path().join("log"));
    fs::write(&config, CONFIG).unwrap();
    let _culvert = Culvert(
        common::culvert()
            .arg("run")
            .arg("--config")
            .arg(&config)
            .arg("--run-dir")
            .arg(folder.path())
            .stderr(File::create(&log).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let socket = folder.path().join("vm1.sock");
    let first = wait("the port opens", || UnixStream::connect(&socket).ok());
    wait("a VMM is there", || {
        port(folder.path())?.connected.then_some(())
    });
    let second = UnixStream::connect(&socket).unwrap();
    wait("another waits", || {
        (port(folder.path())?.hindrance.as_deref() == Some("another VMM waits")).then_some(())
    });
    wait("it is told", || {
        let lines = fs::read_to_string(&log).unwrap();
        lines
            .contains("another VMM waits on the socket")
            .then_some(())
    });
    drop((first, second));
    // More than the port takes at once: the rest comes at its pace.
    let calls = 450;
    for _ in 0..calls {
        drop(UnixStream::connect(&socket).unwrap());
    }
    wait("lines are left out", || {
        (Client::new(folder.path()).state(None).ok()?.log.left_out > 100).then_some(())
    });
    let lines = fs::read_to_string(&log).unwrap();
    let count = |what: &str| lines.lines().filter(|line| line.contains(what)).count();
    assert_eq!(count("another VMM waits on the socket"), 1, "{lines}");
    assert!(lines.lines().count() < 100, "{lines}");
    wait("all are served", || {
        (!port(folder.path())?.connected).then_some(())
    });
}
