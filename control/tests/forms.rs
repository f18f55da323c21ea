//! FILE, `-f` and `-o` at every command, against a running Culvert.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use common::{Run, run, stderr, stdout};
use serde_json::Value;

const TEXT: &str =
    "version: 1\nnode: small\nmemory: {hugepages: off}\nnetworks: {n: {gateway: 10.0.0.1/24}}\n";

/// A running Culvert, and its file.
struct Site {
    folder: tempfile::TempDir,
    _life: Run,
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("site.yaml");
        fs::write(&config, TEXT).unwrap();
        let life = Run::start(&config, &folder.path().join("run"), folder.path());
        Self {
            folder,
            _life: life,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("site.yaml")
    }

    /// Runs words of a line.
    fn run(&self, line: &str) -> Output {
        let words: Vec<_> = line.split_whitespace().collect();
        run(&words, &self.folder.path().join("run"))
    }

    fn done(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        stdout(&output)
    }

    fn json(&self, line: &str) -> Value {
        let text = self.done(&format!("{line} -o json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }
}

/// What changes between two looks.
fn still(mut value: Value) -> Value {
    fn settle(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for key in ["uptime_s", "cores", "seconds_left"] {
                    fields.remove(key);
                }
                fields.values_mut().for_each(settle);
            }
            Value::Array(items) => items.iter_mut().for_each(settle),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    settle(&mut value);
    value
}

#[test]
fn json_yaml_and_wide_are_taken_by_every_command() {
    let site = Site::start();
    for line in [
        "check",
        "diff",
        "history",
        "config show",
        "config show 1",
        "route get 10.0.0.5",
        "log-level",
        "layer show",
        "show",
        "show routes",
        "port list",
        "peer list",
    ] {
        let yaml = site.done(&format!("{line} -o yaml"));
        let yaml: Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(still(yaml), still(site.json(line)), "{line}");
        site.done(&format!("{line} -o wide"));
    }
    // What changes something says what it did.
    let added = site.json("port add vm1 network=n mac=52:54:00:00:00:01 addresses=10.0.0.5");
    assert_eq!(added["changes"][0], "port vm1 added", "{added}");
    assert_eq!(site.json("port list")[0]["name"], "vm1");
    let set = site.json("port set vm1 addresses=10.0.0.6");
    assert!(set["changes"][0].is_string(), "{set}");
    let deleted = site.json("port del vm1");
    assert_eq!(deleted["changes"][0], "port vm1 removed", "{deleted}");
    let other = TEXT.replace("10.0.0.1/24", "[10.0.0.1/24, 10.1.0.1/24]");
    fs::write(site.file(), other).unwrap();
    let applied = site.json("apply --confirm 60s");
    assert_eq!(
        applied["pending"]["revision"], applied["revision"],
        "{applied}"
    );
    let confirmed = site.json("confirm");
    assert_eq!(confirmed["revision"], applied["revision"], "{confirmed}");
    let would = site.json("rollback --to 1 --dry-run");
    assert!(would["diff"].is_object(), "{would}");
    let back = site.json("rollback --to 1");
    let left = site.json(&format!("history purge {}", confirmed["revision"]));
    assert_eq!(left[0]["number"], back["revision"], "{left}");
    // Nobody listens at a terminal: it waits for its time, and the answer stands alone.
    let tried = site.run("try --confirm 1s -o json");
    assert_eq!(tried.status.code(), Some(1));
    let told: Value = serde_json::from_str(&stdout(&tried)).unwrap();
    assert_eq!(told["pending"]["revision"], told["revision"], "{told}");
    assert!(stderr(&tried).contains("rolled back"), "{}", stderr(&tried));
    let level = site.json("log-level debug");
    assert_eq!(level["filter"], "debug", "{level}");
}

#[test]
fn what_is_no_form_is_told_which_there_are() {
    let folder = tempfile::tempdir().unwrap();
    for line in [
        "check",
        "apply",
        "try",
        "confirm",
        "rollback",
        "history",
        "history purge 1",
        "diff",
        "config show",
        "route get 10.0.0.5",
        "log-level",
        "events",
        "layer show",
        "layer del port vm1",
        "port add vm1",
        "port set vm1",
        "port del vm1",
        "port list",
        "peer add wg0/a",
        "peer list",
        "show",
        "show ports",
    ] {
        let words: Vec<_> = line.split_whitespace().chain(["-o", "xml"]).collect();
        let output = run(&words, folder.path());
        assert_eq!(output.status.code(), Some(2), "{line}");
        let text = stderr(&output);
        assert!(
            text.contains("[possible values: json, yaml, wide]"),
            "{line}: {text}"
        );
    }
}

#[test]
fn the_file_is_that_of_the_running_culvert() {
    let site = Site::start();
    let file = site.file();
    let file = file.display();
    let summary = "ok: 1 worker, 0 uplinks, 0 tunnels, 0 peers, 1 network, 0 ports";
    assert_eq!(site.done("check"), format!("{file}: {summary}\n"));
    assert_eq!(
        site.done("diff"),
        format!("running and {file} are the same\n")
    );
    let again = site.done("apply");
    assert!(again.contains("nothing changed"), "{again}");
    let history = site.json("history");
    assert_eq!(history[0]["path"], file.to_string(), "{history}");

    // Another one by `-f`, and by its place in the line.
    let other = site.folder.path().join("other.yaml");
    let text = TEXT.replace("networks: {", "networks: {m: {gateway: 10.2.0.1/24}, ");
    fs::write(&other, text).unwrap();
    let other = other.display();
    for line in [
        format!("check {other}"),
        format!("apply --dry-run {other}"),
        format!("diff running {other}"),
    ] {
        let by_f = match line.starts_with("diff") {
            true => format!("diff -f {other}"),
            false => line.replace(&format!(" {other}"), &format!(" -f {other}")),
        };
        let (one, two) = (site.run(&line), site.run(&by_f));
        assert!(!stdout(&one).is_empty(), "{line}: {}", stderr(&one));
        assert_eq!(stdout(&one), stdout(&two), "{line}");
        assert_eq!(one.status.code(), two.status.code(), "{line}");
    }
    let both = site.run(&format!("apply {other} -f {other}"));
    assert_eq!(both.status.code(), Some(2), "{}", stderr(&both));
    // A file that is called as a number is a file behind `-f`.
    let revision = site.run("diff -f 1");
    assert_eq!(revision.status.code(), Some(2));
    assert!(
        stderr(&revision).contains("can't read the file"),
        "{}",
        stderr(&revision)
    );
}

#[test]
fn where_nothing_runs_the_file_is_the_default_one() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["check"][..], &["diff"], &["apply"], &["try"], &["run"]] {
        if fs::exists("/etc/culvert/culvert.yaml").unwrap() {
            return;
        }
        let output = run(words, folder.path());
        assert!(!output.status.success(), "{words:?}");
        let text = stderr(&output);
        let file = "/etc/culvert/culvert.yaml: error: can't read the file";
        assert!(text.starts_with(file), "{words:?}: {text}");
    }
}

#[test]
fn mistakes_are_told_to_programs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    fs::write(&file, "version: 1\nnetwork: {}\n").unwrap();
    let path = file.to_str().unwrap();
    let output = run(&["check", path, "-o", "json"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "");
    let told: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(told["ok"], false, "{told}");
    assert_eq!(told["file"], path, "{told}");
    let first = &told["mistakes"][0];
    assert_eq!(first["place"], format!("{path}:2:1"), "{told}");
    assert_eq!(first["severity"], "error", "{told}");
    assert_eq!(
        first["message"], "unknown key `network` in the file",
        "{told}"
    );
}
