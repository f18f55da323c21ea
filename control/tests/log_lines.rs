//! Log lines that can't be written, and causes that would have too many: real processes, real disks and pipes.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Run, culvert, skip};
use culvert::api::bodies::ApplyBody;
use culvert::api::client::Client;
use culvert::state::Log;
use nix::sys::signal::Signal;

const CONFIG: &str = "version: 1\nmemory: {hugepages: off}\nnetworks: {n: {gateway: 10.0.0.1/24}}\n\
    ports: {vm1: {network: n, mac: \"52:54:00:00:00:01\", addresses: [10.0.0.2]}}\n";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c.yaml"), CONFIG).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, stderr: Stdio) -> Run {
        self.start_by(culvert(), stderr)
    }

    fn start_by(&self, command: Command, stderr: Stdio) -> Run {
        let (config, run_dir) = (self.path("c.yaml"), self.path("run"));
        Run::start_by(command, &config, &run_dir, self.folder.path(), stderr)
    }

    fn log(&self) -> Log {
        Client::new(&self.path("run")).state(None).unwrap().log
    }

    /// A VMM that comes and goes; returns when it has been seen.
    fn visit(&self) {
        let mut visitor = UnixStream::connect(self.path("run/vm1.sock")).unwrap();
        visitor.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = visitor.read(&mut [0]);
    }
}

fn reload(life: &Run) {
    life.signal(Signal::SIGHUP);
    life.expect("RELOADING=1");
    life.expect("READY=1");
}

/// It ends as it was told to, and not by a panic.
fn end(mut life: Run) {
    life.signal(Signal::SIGTERM);
    let status = life.child.wait().unwrap();
    assert!(status.success(), "{status}");
}

/// A program in a mount namespace of its own, with a tmpfs of two pages at a path, which is full.
fn with_full_disk(at: &Path) -> Option<Command> {
    let root = nix::unistd::geteuid().is_root();
    let flags = if root { "-m" } else { "-rm" };
    let tried = Command::new("unshare").args([flags, "true"]).status();
    if !tried.is_ok_and(|status| status.success()) {
        return None;
    }
    let script = "at=$1; shift; mount -t tmpfs -o size=8k culvert-test \"$at\" && \
        { cat /dev/zero > \"$at/filler\" 2>/dev/null; exec \"$@\" 2>>\"$at/log\"; }";
    let mut command = Command::new("unshare");
    let words = [flags, "--propagation", "private", "sh", "-c", script, "sh"];
    command.args(words).arg(at);
    command.arg(culvert().get_program());
    Some(command)
}

#[test]
fn a_full_disk_behind_stderr_costs_lines_and_nothing_else() {
    let place = Place::new();
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    let Some(command) = with_full_disk(&disk) else {
        skip("root", "no mount namespace may be made here");
        return;
    };
    let life = place.start_by(command, Stdio::null());
    reload(&life);
    place.visit();
    let log = place.log();
    assert!(log.lost >= 2, "{log:?}");

    // Room again: the next line comes after one that says how many are missing.
    let inside = Path::new("/proc").join(life.child.id().to_string());
    let disk = inside.join("root").join(disk.strip_prefix("/").unwrap());
    assert_eq!(
        fs::metadata(disk.join("log")).unwrap().len(),
        0,
        "it was full"
    );
    fs::remove_file(disk.join("filler")).unwrap();
    reload(&life);
    let text = fs::read_to_string(disk.join("log")).unwrap();
    let (_, lost) = text.split_once(" WARN ").unwrap();
    let lost: u64 = lost.split(' ').next().unwrap().parse().unwrap();
    let mut lines = text.lines();
    let first = lines.next().unwrap();
    assert!(first.ends_with("log lines could not be written"), "{first}");
    assert!(lines.next().unwrap().contains("SIGHUP"), "{text}");
    assert_eq!(place.log().lost, lost);
    end(life);
}

#[test]
fn a_pipe_whose_reader_is_gone_costs_lines_and_nothing_else() {
    let place = Place::new();
    let mut life = place.start(Stdio::piped());
    drop(life.child.stderr.take());
    reload(&life);
    place.visit();
    let before = place.log().lost;
    assert!(before >= 2, "{before}");
    reload(&life);
    assert!(place.log().lost > before);
    end(life);
}

#[test]
fn a_reader_that_sleeps_holds_nobody_up() {
    let place = Place::new();
    let mut command = culvert();
    // Every visit has a line at this level, without limit.
    command.env("CULVERT_LOG", "debug");
    let mut life = place.start_by(command, Stdio::piped());
    for _ in 0..2_000 {
        reload(&life);
        if place.log().lost > 0 {
            break;
        }
    }
    let lost = place.log().lost;
    assert!(lost > 0);
    // Awake again, it is told.
    let mut lines = BufReader::new(life.child.stderr.take().unwrap()).lines();
    let reading = std::thread::spawn(move || {
        lines.find(|line| {
            line.as_ref()
                .unwrap()
                .contains("log lines could not be written")
        })
    });
    while !reading.is_finished() {
        reload(&life);
    }
    assert!(reading.join().unwrap().is_some());
    end(life);
}

#[test]
fn a_client_that_asks_without_end_has_so_many_lines() {
    let place = Place::new();
    let log = place.path("log");
    let life = place.start(fs::File::create(&log).unwrap().into());
    let client = Client::new(&place.path("run"));
    let asked = 1_500;
    for _ in 0..asked {
        let (path, text) = (place.path("c.yaml"), CONFIG.to_owned());
        client
            .apply(&ApplyBody {
                path,
                text,
                ..ApplyBody::default()
            })
            .unwrap();
    }
    let text = fs::read_to_string(&log).unwrap();
    // One that was left out may have come after all by now.
    let is_written = |line: &&str| {
        line.contains("configuration applied: nothing changed") && !line.contains("(the last of ")
    };
    let written = text.lines().filter(is_written).count();
    let left_out = usize::try_from(place.log().left_out).unwrap();
    assert!((1_000..asked).contains(&written), "{written} lines");
    assert_eq!(written + left_out, asked);
    // The last one comes after all, when there is room again.
    let is_told = || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        fs::read_to_string(&log).unwrap().contains("(the last of ")
    };
    assert!((0..400).any(|_| is_told()));
    // Nobody else's lines are missing for it.
    reload(&life);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("SIGHUP: applying"), "{text}");
    end(life);
}

#[test]
fn lines_are_objects_where_they_are_wanted_so_and_levels_change_at_once() {
    let place = Place::new();
    let log = place.path("log");
    let mut command = culvert();
    command.env("CULVERT_LOG_FORMAT", "json");
    let life = place.start_by(command, fs::File::create(&log).unwrap().into());
    let log_level = |arguments: &[&str]| {
        let mut command = culvert();
        command.arg("log-level").args(arguments).arg("--run-dir");
        command.arg(place.path("run")).output().unwrap()
    };
    let said = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();
    let lines = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&log).unwrap();
        let objects = text.lines().map(serde_json::from_str);
        objects.collect::<Result<_, _>>().unwrap()
    };
    assert_eq!(said(log_level(&[])), "info\n");
    let started = lines();
    let started = started.iter().find(|it| it["message"] == "starting");
    assert_eq!(started.unwrap()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(said(log_level(&["warn"])), "warn\n");
    let before = lines().len();
    reload(&life);
    assert_eq!(lines().len(), before);
    let directives = "warn,culvert::process::signals=info";
    assert_eq!(said(log_level(&[directives])), format!("{directives}\n"));
    reload(&life);
    let more = lines().split_off(before);
    let of_signals = |it: &serde_json::Value| it["target"] == "culvert::process::signals";
    assert!(!more.is_empty() && more.iter().all(of_signals), "{more:?}");
    for wrong in ["culvert=loudest", "inof", "info,culvert"] {
        let refused = log_level(&[wrong]);
        assert_eq!(refused.status.code(), Some(1));
        let why = String::from_utf8(refused.stderr).unwrap();
        assert!(why.contains("expected a level"), "{why}");
    }
    assert_eq!(said(log_level(&[])), format!("{directives}\n"));
    end(life);
}

#[test]
fn a_level_of_the_environment_that_is_none_is_said_and_the_default_holds() {
    let place = Place::new();
    let log = place.path("log");
    let mut command = culvert();
    command.env("CULVERT_LOG", "debgu");
    let life = place.start_by(command, fs::File::create(&log).unwrap().into());
    let text = fs::read_to_string(&log).unwrap();
    let said = "CULVERT_LOG can't be read: `debgu` is no level";
    assert!(text.contains(said), "{text}");
    let filter = Client::new(&place.path("run")).log_filter().unwrap();
    assert_eq!(filter.filter, "info");
    end(life);
}

#[test]
fn journald_is_told_fields() {
    let place = Place::new();
    let journal = place.path("journal");
    fs::create_dir(&journal).unwrap();
    let journald = std::os::unix::net::UnixDatagram::bind(journal.join("socket")).unwrap();
    let timeout = std::time::Duration::from_secs(20);
    journald.set_read_timeout(Some(timeout)).unwrap();
    let root = nix::unistd::geteuid().is_root();
    let flags = if root { "-m" } else { "-rm" };
    let script = "mount -t tmpfs culvert-test /run && mkdir -p /run/systemd/journal && \
        mount --bind \"$1\" /run/systemd/journal && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    let words = [flags, "--propagation", "private", "sh", "-c", script, "sh"];
    command.args(words).arg(&journal);
    command.arg(culvert().get_program());
    command.env("CULVERT_LOG_FORMAT", "journald");
    let tried = Command::new("unshare").args([flags, "true"]).status();
    if !tried.is_ok_and(|status| status.success()) {
        skip("root", "no mount namespace may be made here");
        return;
    }
    let life = place.start_by(command, Stdio::null());
    let entry = |wanted: &str| {
        let mut entry = [0; 8192];
        loop {
            let length = journald.recv(&mut entry).unwrap();
            let text = String::from_utf8_lossy(&entry[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let starting = entry("MESSAGE=starting");
    let node = "\nPRIORITY=6\nSYSLOG_IDENTIFIER=culvert\nSYSLOG_PID=";
    assert!(starting.contains(node), "{starting}");
    let version = concat!("\nCULVERT_VERSION=", env!("CARGO_PKG_VERSION"), "\n");
    assert!(starting.contains(version), "{starting}");
    place.visit();
    let visited = entry("CULVERT_PORT=vm1");
    let message = visited.lines().next().unwrap();
    assert!(message.starts_with("MESSAGE=port vm1: "), "{visited}");
    assert_eq!(
        message.matches('=').count(),
        1,
        "fields are lines of their own"
    );
    end(life);
}
