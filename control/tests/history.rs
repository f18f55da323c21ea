//! What ran, and the way back: applies of a real Culvert that are kept, confirmed, taken back and cut short.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Run, culvert, run, stderr, stdout};
use culvert::api::client::Client;
use culvert::history::revision::{Origin, Outcome, Revision};
use culvert::state::State;
use nix::sys::signal::Signal;

const NETWORK: &str =
    "version: 1\nmemory: {hugepages: off}\nnetworks: {n: {gateway: 10.0.0.1/24}}\n";

/// A configuration with that many ports.
fn ports(count: u8) -> String {
    let ports = (1..=count).map(|number| {
        format!(
            "  vm{number}: {{network: n, mac: \"52:54:00:00:00:0{number}\", addresses: [10.0.0.1{number}]}}\n"
        )
    });
    format!("{NETWORK}ports:\n{}", ports.collect::<String>())
}

/// A folder with a file, a run directory, and the state in that.
struct Place(tempfile::TempDir);

impl Place {
    fn new(text: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write(text);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("c.yaml")
    }

    fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    fn history_dir(&self) -> PathBuf {
        self.run_dir().join("state/history")
    }

    fn write(&self, text: &str) {
        fs::write(self.config(), text).unwrap();
    }

    fn start(&self) -> Run {
        Run::start(&self.config(), &self.run_dir(), self.0.path())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn client(&self) -> Client {
        Client::new(&self.run_dir())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(arguments, &self.run_dir())
    }

    /// What must work; its output.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            stderr(&output)
        );
        stdout(&output)
    }

    /// What must be refused; why.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            stdout(&output)
        );
        stderr(&output)
    }

    /// What must be done in part; all that is said.
    fn partly(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        stdout(&output) + &stderr(&output)
    }

    fn apply(&self, text: &str, arguments: &[&str]) -> String {
        self.write(text);
        self.done(&[&["apply"], arguments].concat())
    }

    fn state(&self) -> State {
        self.client().state(None).unwrap()
    }

    /// How many ports there are.
    fn ports(&self) -> usize {
        self.state().ports.len()
    }

    fn history(&self) -> Vec<Revision> {
        self.client().history().unwrap()
    }

    fn revision(&self, number: u64) -> Revision {
        let mut all = self.history().into_iter();
        all.find(|it| it.number == number).unwrap()
    }

    /// What the API tells until these words have come.
    fn told(&self, path: &str, until: &str) -> String {
        let mut api = UnixStream::connect(self.run_dir().join("api.sock")).unwrap();
        api.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(api, "GET {path} HTTP/1.0\r\nhost: a\r\n\r\n").unwrap();
        let (mut text, mut room) = (String::new(), [0; 4096]);
        let end = Instant::now() + Duration::from_secs(20);
        while !text.contains(until) {
            assert!(Instant::now() < end, "no `{until}` in {text}");
            let len = api.read(&mut room).unwrap();
            assert!(len > 0, "no `{until}` in {text}");
            text.push_str(&String::from_utf8_lossy(&room[..len]));
        }
        text
    }

    /// Waits until nothing is pending.
    fn settle(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.state().pending.is_some() {
            assert!(Instant::now() < end, "it waits still");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn kill(mut life: Run) {
    life.child.kill().unwrap();
    life.child.wait().unwrap();
}

#[test]
fn what_ran_is_kept_shown_compared_and_brought_back() {
    let place = Place::new(&ports(1));
    let _life = place.start();
    place.apply(&ports(2), &["-m", "a second guest"]);
    place.apply(&ports(3), &["-f", place.config().to_str().unwrap()]);
    let all = place.history();
    let told: Vec<_> = all
        .iter()
        .map(|it| (it.number, it.origin, it.outcome))
        .collect();
    assert_eq!(
        told,
        [
            (3, Origin::Cli, Outcome::Applied),
            (2, Origin::Cli, Outcome::Applied),
            (1, Origin::Start, Outcome::Applied),
        ]
    );
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap();
    assert_eq!(all[1].user, user.map_or_else(String::new, |user| user.name));
    assert_eq!(all[1].message, "a second guest");
    let table = place.done(&["history"]);
    assert!(table.contains("a second guest"), "{table}");
    assert!(
        place
            .done(&["history", "-o", "json"])
            .contains("\"number\": 3")
    );
    // The same once more is no other revision.
    place.apply(&ports(3), &[]);
    assert_eq!(place.history().len(), 3);

    // A revision is a file that `check` takes.
    let text = place.done(&["config", "show", "1"]);
    fs::write(place.path("one.yaml"), &text).unwrap();
    place.done(&[
        "diff",
        place.path("one.yaml").to_str().unwrap(),
        place.path("one.yaml").to_str().unwrap(),
    ]);
    let output = place.run(&["diff", "1", "3"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(
        text.contains("+ port vm2") && text.contains("+ port vm3"),
        "{text}"
    );
    assert_eq!(place.run(&["diff", "running", "3"]).status.code(), Some(0));
    assert_eq!(place.run(&["diff", "9"]).status.code(), Some(2));

    let text = place.done(&["rollback", "--to", "1", "-m", "too many"]);
    assert!(text.contains("revision 4:\n"), "{text}");
    assert!(text.contains("port vm3 removed"), "{text}");
    assert!(text.contains("what runs is revision 1 again"), "{text}");
    assert_eq!(place.ports(), 1);
    let last = place.revision(4);
    assert_eq!((last.origin, last.restores), (Origin::Rollback, Some(1)));
    assert_eq!(last.message, "too many");
    assert!(
        place
            .refused(&["rollback", "--to", "77"])
            .contains("no revision 77")
    );
    // Without a number: the one before, and only by a word.
    let text = place.refused(&["rollback"]);
    assert!(text.contains("rollback --to 3"), "{text}");
    place.done(&["rollback", "--yes"]);
    assert_eq!(place.ports(), 3);
    for entry in fs::read_dir(place.history_dir()).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{entry:?}");
    }
    assert_eq!(
        place.history_dir().metadata().unwrap().mode() & 0o777,
        0o700
    );
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_would_change() {
    let place = Place::new(&ports(1));
    let _life = place.start();
    let text = place.apply(&ports(2), &["--dry-run"]);
    assert!(text.contains("+ port vm2"), "{text}");
    let text = place.done(&["rollback", "--to", "1", "--dry-run"]);
    assert_eq!(text, "nothing would change\n");
    assert_eq!((place.ports(), place.history().len()), (1, 1));
    place.write(&format!("{}cores: {{workers: 2}}\n", ports(2)));
    let text = place.refused(&["apply", "--dry-run"]);
    assert!(text.contains("needs a restart"), "{text}");
}

#[test]
fn what_nobody_confirms_is_taken_back() {
    let place = Place::new(&ports(1));
    let life = place.start();
    let text = place.apply(&ports(2), &["--confirm", "600s"]);
    assert!(text.contains("revision 2 (by "), "{text}");
    assert_eq!(place.ports(), 2);
    let pending = place.state().pending.unwrap();
    assert_eq!((pending.revision, pending.previous), (2, 1));
    let text = place.done(&["show"]);
    assert!(text.contains("`culvert confirm 2` keeps it"), "{text}");

    // Nobody else gets through, by whatever way.
    place.write(&ports(3));
    for arguments in [
        &["apply"][..],
        &["apply", "--confirm", "9m"],
        &["rollback", "--to", "1"],
    ] {
        let text = place.refused(arguments);
        assert!(text.contains("revision 2 (by "), "{arguments:?}: {text}");
        assert!(text.contains(" s more"), "{text}");
    }
    // A question is answered, with what is in the way.
    let text = place.done(&["apply", "--dry-run"]);
    assert!(text.contains("+ port vm3"), "{text}");
    let refused = "it would be refused now: revision 2 (by ";
    assert!(text.contains(refused), "{text}");
    let text = place.done(&["rollback", "--dry-run"]);
    assert!(
        text.contains("- port vm2") && !text.contains(refused),
        "{text}"
    );
    assert_eq!(place.ports(), 2);
    life.signal(Signal::SIGHUP);
    life.expect("RELOADING=1");
    life.expect("READY=1");
    assert_eq!(place.ports(), 2);
    assert!(place.log().contains("revision 2"), "{}", place.log());
    assert!(
        place
            .refused(&["confirm", "1"])
            .contains("revision 2 waits")
    );

    // The same again only changes the time.
    place.apply(&ports(2), &["--confirm", "1s"]);
    assert_eq!(place.history().len(), 2);
    place.settle();
    assert_eq!(place.ports(), 1);
    let undone = place.revision(2);
    assert_eq!(undone.outcome, Outcome::RolledBack);
    assert_eq!(undone.why, "nobody confirmed it in time");
    assert_eq!(place.revision(3).restores, Some(1));
    let text = place.refused(&["confirm", "2"]);
    assert!(
        text.contains("rolled back: nobody confirmed it in time"),
        "{text}"
    );
    assert!(place.done(&["show"]).contains("revision 2 was rolled back"));
    // Nothing is in the way of the next one.
    place.apply(&ports(3), &[]);
    assert_eq!(place.ports(), 3);
    assert!(place.state().notice.is_none());
}

#[test]
fn a_confirmation_keeps_it_and_a_rollback_cancels_it() {
    let place = Place::new(&ports(1));
    let _life = place.start();
    assert!(place.refused(&["confirm"]).contains("nothing waits"));
    place.apply(&ports(2), &["--confirm", "10m"]);
    assert_eq!(place.done(&["confirm", "2"]), "revision 2 is confirmed\n");
    assert_eq!(place.revision(2).outcome, Outcome::Applied);
    assert!(place.state().pending.is_none());
    assert!(!place.history_dir().join("journal").exists());

    place.apply(&ports(3), &["--confirm", "10m"]);
    assert!(place.history_dir().join("journal").exists());
    let text = place.done(&["rollback", "--dry-run"]);
    assert!(text.contains("- port vm3"), "{text}");
    assert_eq!(place.ports(), 3);
    assert_eq!(place.state().pending.unwrap().revision, 3);
    let text = place.refused(&["rollback", "--confirm", "9m"]);
    assert!(text.contains("can't wait for a confirmation"), "{text}");
    let long = "x".repeat(1025);
    for message in ["two\nlines", &long] {
        let text = place.refused(&["rollback", "-m", message]);
        assert!(text.contains("one line of at most"), "{text}");
    }
    let text = place.done(&["rollback", "-m", "no third guest"]);
    assert!(text.contains("what runs is revision 2 again"), "{text}");
    assert_eq!(place.ports(), 2);
    let undone = place.revision(3);
    assert_eq!(undone.outcome, Outcome::RolledBack);
    assert!(undone.why.ends_with(": no third guest"), "{}", undone.why);
    let last = place.revision(4);
    assert_eq!(last.message, "no third guest");
    assert_eq!(last.user, undone.user);
    assert!(!place.history_dir().join("journal").exists());
}

#[test]
fn what_becomes_of_a_trial_is_told_as_events() {
    let place = Place::new(&ports(1));
    let _life = place.start();
    place.apply(&ports(2), &["--confirm", "10m"]);
    place.done(&["confirm"]);
    place.apply(&ports(3), &["--confirm", "10m"]);
    place.done(&["rollback", "-m", "no third guest"]);
    let text = place.told("/v1/events?since=0", "\"type\":\"config-rolled-back\"");
    let kinds = text.split("\"type\":\"config-").skip(1);
    let kinds: Vec<_> = kinds.map(|rest| rest.split('"').next().unwrap()).collect();
    let told = [
        "applied",
        "pending",
        "confirmed",
        "applied",
        "pending",
        "applied",
        "rolled-back",
    ];
    assert_eq!(kinds, told, "{text}");
    assert!(text.contains("\"revision\":3"), "{text}");
}

/// A folder in the journal's place can't be removed as one.
#[test]
fn what_a_start_would_take_back_still_is_not_confirmed() {
    let place = Place::new(&ports(1));
    let life = place.start();
    place.apply(&ports(2), &["--confirm", "10m"]);
    let journal = place.history_dir().join("journal");
    let text = fs::read(&journal).unwrap();
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    let why = place.refused(&["confirm"]);
    assert!(why.contains("it waits on"), "{why}");
    assert_eq!(place.state().pending.unwrap().revision, 2);
    // Nor is what was taken back in the way of a start, or forgotten.
    place.done(&["rollback"]);
    assert_eq!(place.ports(), 1);
    place.write(&ports(3));
    assert!(place.refused(&["apply"]).contains("nothing is changed"));
    // At once: what is owed is looked after every two seconds.
    let aside = place.history_dir().join("aside");
    fs::write(&aside, text).unwrap();
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, &aside, rustix::fs::CWD, &journal, exchange)
        .unwrap();
    fs::remove_dir(&aside).unwrap();
    place.done(&["apply"]);
    assert!(!journal.exists());
    assert_eq!(place.ports(), 3);
    kill(life);
    let _life = place.start();
    assert_eq!(place.ports(), 3);
}

#[test]
fn what_the_engine_refuses_leaves_no_journal() {
    let place = Place::new(&ports(1));
    let _life = place.start();
    place.write(&format!("{}cores: {{workers: 2}}\n", ports(2)));
    let text = place.refused(&["apply", "--confirm", "5m"]);
    assert!(text.contains("needs a restart"), "{text}");
    assert!(!place.history_dir().join("journal").exists());
    assert_eq!(place.history().len(), 1);
    assert!(place.state().pending.is_none());
    for (arguments, why) in [
        (
            &["apply", "--confirm", "60"][..],
            "say the unit: 60s or 60m",
        ),
        (&["apply", "--check", "port=vm1"], "add --confirm"),
        (
            &["apply", "--confirm", "5s", "--check", "port=vm7"],
            "no port `vm7`",
        ),
        (&["apply", "--confirm", "5s", "--check", "vm7"], "port=NAME"),
    ] {
        place.write(&ports(2));
        let output = place.run(arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(
            stderr(&output).contains(why),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
    assert_eq!(place.ports(), 1);
}

#[test]
fn a_start_with_a_pending_change_runs_what_was_before() {
    let place = Place::new(&ports(1));
    let life = place.start();
    place.apply(&ports(2), &["--confirm", "10m"]);
    kill(life);
    let life = place.start();
    assert_eq!(place.ports(), 1);
    let notice = place.state().notice.unwrap();
    assert!(notice.contains("revision 2 was not confirmed"), "{notice}");
    assert!(place.log().contains("revision 2 was not confirmed"));
    assert_eq!(place.revision(2).outcome, Outcome::RolledBack);
    assert!(place.state().pending.is_none());
    // The file says it still, and it is not what is taken, though nobody is asked any more.
    kill(life);
    let life = place.start();
    assert_eq!(place.ports(), 1);
    let notice = place.state().notice.unwrap();
    assert!(
        notice.contains("the file is revision 2, which was rolled back"),
        "{notice}"
    );
    let named = format!("`culvert apply {}`", place.config().display());
    assert!(notice.contains(&named), "{notice}");
    // Even a file with mistakes keeps nobody from the way back.
    place.apply(&ports(2), &[]);
    assert_eq!(place.ports(), 2);
    place.apply(&ports(3), &["--confirm", "10m"]);
    place.write("version: 1\nnetwork: {}\n");
    kill(life);
    let _life = place.start();
    assert_eq!(place.ports(), 2);
}

/// The keys of then, not those that the files hold now.
struct Tunnel(Place);

impl Tunnel {
    const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

    fn new() -> Self {
        let tunnel = Self(Place::new(""));
        tunnel.0.write(&tunnel.text(1420));
        tunnel.new_key();
        tunnel
    }

    fn text(&self, mtu: u16) -> String {
        let peer = Self::PEER;
        format!(
            "version: 1\nmemory: {{hugepages: off}}\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
             tunnels:\n  t:\n    uplink: u\n    listen_port: 0\n    private_key_file: t.key\n    uapi: off\n    \
             mtu: {mtu}\n    peers: {{laptop: {{public_key: \"{peer}\", allowed_ips: [10.9.0.0/24]}}}}\n\
             networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n"
        )
    }

    fn new_key(&self) {
        let key = culvert().arg("genkey").output().unwrap().stdout;
        let path = self.0.path("t.key");
        fs::write(&path, key).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    }

    fn public_key(&self) -> String {
        self.0.state().tunnels[0].public_key.clone().unwrap()
    }
}

#[test]
fn a_rollback_has_the_keys_of_then_unless_they_are_revoked() {
    let tunnel = Tunnel::new();
    let place = &tunnel.0;
    place.write(
        &tunnel
            .text(1420)
            .replace("listen_port: 0", "listen_port: 51999"),
    );
    let text = fs::read_to_string(place.config()).unwrap();
    let _life = place.start();
    let first = tunnel.public_key();
    tunnel.new_key();
    place.apply(&text, &[]);
    let second = tunnel.public_key();
    assert_ne!(first, second);
    // Two revisions whose texts are the same.
    assert_eq!(place.history().len(), 2);
    place.done(&["rollback", "--to", "1"]);
    assert_eq!(tunnel.public_key(), first);
    assert!(!place.done(&["config", "show", "1"]).contains(&first));
    let keys = place.history_dir().join("1.keys");
    assert_eq!(keys.metadata().unwrap().mode() & 0o777, 0o600);

    // Purged keys are not there any more: those of now are taken, and that is said.
    place.done(&["history", "purge", "2", "--keys"]);
    assert!(!place.history_dir().join("2.keys").exists());
    tunnel.new_key();
    let text = place.partly(&["rollback", "--to", "2"]);
    assert!(
        text.contains("the key of then is not kept any more"),
        "{text}"
    );
    assert!(text.contains("not all of revision 2"), "{text}");
    let third = tunnel.public_key();
    assert!(third != first && third != second);

    // A revoked key comes back by no way, neither a tunnel's nor a peer's.
    let text = place.done(&["history", "purge", "--revoke", &first]);
    assert!(text.contains("neither a tunnel nor a peer"), "{text}");
    assert!(!keys.exists());
    place.partly(&["rollback", "--to", "1"]);
    assert_eq!(tunnel.public_key(), third);
    let text = place.done(&["history", "purge", "--revoke", Tunnel::PEER]);
    assert!(text.contains("peer t/laptop runs with it"), "{text}");
    let text = place.partly(&["rollback", "--to", "1"]);
    assert!(
        text.contains("peer t/laptop is left out: its key is revoked"),
        "{text}"
    );
    assert!(place.state().peers.is_empty());
    let text = place.refused(&["history", "purge", "--revoke", "short"]);
    assert!(text.contains("no public key"), "{text}");
    // All, or none.
    let count = place.history().len();
    place.refused(&["history", "purge", "1", "4242"]);
    assert_eq!(place.history().len(), count);
    place.done(&["history", "purge", "1"]);
    assert!(
        place
            .refused(&["config", "show", "1"])
            .contains("no revision 1")
    );
}

#[test]
fn what_wg_set_meanwhile_is_discarded_by_name() {
    let tunnel = Tunnel::new();
    let place = &tunnel.0;
    let name = format!("cvhist{}", std::process::id() % 100_000);
    let text = |mtu| {
        let text = tunnel
            .text(mtu)
            .replace("uapi: off", &format!("uapi: {name}"));
        text.replace("listen_port: 0", "listen_port: 51998")
    };
    place.write(&text(1420));
    let _life = place.start();
    place.apply(&text(1400), &["--confirm", "10m"]);
    let mut wg = UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).unwrap();
    wg.write_all(b"set=1\nfwmark=7\n\n").unwrap();
    wg.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    wg.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("errno=0"), "{answer}");
    assert_eq!(place.state().tunnels[0].fwmark, 7);
    place.told("/v1/events?since=0", "\"type\":\"drift\"");
    assert!(!place.done(&["config", "show"]).contains("fwmark"));
    let drift = place.done(&["config", "show", "--drift"]);
    assert!(drift.contains("fwmark: 7"), "{drift}");
    let text = place.done(&["rollback"]);
    let said = "what wg had set is discarded: tunnel t: fwmark (file: 0x0)";
    assert!(text.contains(said), "{text}");
    assert_eq!(place.state().tunnels[0].fwmark, 0);
    assert!(place.log().contains(said));
}

/// A process that may end at any of its steps.
struct Mortal {
    child: Child,
}

impl Mortal {
    fn start(place: &Place, step: u64) -> Self {
        let child = culvert()
            .args(["run", "-c"])
            .arg(place.config())
            .arg("--run-dir")
            .arg(place.run_dir())
            .env("CULVERT_TEST_DIES_AT_STEP", step.to_string())
            .stderr(fs::File::create(place.path("log")).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut life = Self { child };
        while life.lives() && place.client().state(None).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
        life
    }

    fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn ends(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file is edited, applied with `confirm`, kept; edited again, applied, taken back. The process ends at one step
/// after the other: what starts then is one configuration whole, and never one that was tried and not confirmed.
#[test]
fn what_starts_after_an_end_at_any_step_is_old_or_new_and_whole() {
    let mut seen = [0; 4];
    for step in 1.. {
        let place = Place::new(&ports(1));
        let mut life = Mortal::start(&place, step);
        // What runs after an end now: with a journal, and without.
        let mut then = [1, 1];
        let commands: [(Option<u8>, &[&str], [usize; 2]); 4] = [
            (Some(2), &["apply", "--confirm", "10m"], [1, 2]),
            (None, &["confirm"], [1, 2]),
            (Some(3), &["apply", "--confirm", "10m"], [2, 3]),
            (None, &["rollback"], [2, 2]),
        ];
        for (edited, command, runs) in commands {
            if !life.lives() {
                break;
            }
            if let Some(count) = edited {
                place.write(&ports(count));
            }
            then = runs;
            if !place.run(command).status.success() {
                life.child.wait().unwrap();
            }
        }
        let whole = life.lives();
        life.ends();
        let journal = place.history_dir().join("journal").exists();
        let _life = place.start();
        let runs = place.ports();
        let log = place.log();
        let expected = then[usize::from(!journal)];
        assert_eq!(runs, expected, "step {step}, journal {journal}: {log}");
        seen[runs] += 1;
        let state = place.state();
        assert_eq!(
            journal,
            log.contains("was not confirmed"),
            "step {step}: {log}"
        );
        assert!(state.pending.is_none(), "step {step}");
        assert!(!place.history_dir().join("journal").exists(), "step {step}");
        // It says which: a revision whose text has as many ports.
        let text = place.done(&["config", "show", &state.revision.unwrap().to_string()]);
        assert_eq!(
            text.matches("52:54:00").count(),
            runs,
            "step {step}: {text}"
        );
        assert!(
            !place
                .history()
                .iter()
                .any(|it| it.outcome == Outcome::Begun)
        );
        // And the next apply is in nobody's way.
        place.apply(&ports(4), &[]);
        assert_eq!(place.ports(), 4, "step {step}");
        if whole {
            assert!(step > 15, "only {step} steps");
            break;
        }
    }
    assert!(seen[1] > 3 && seen[2] > 3, "{seen:?}");
}

#[test]
fn on_a_full_disk_nothing_is_changed_but_the_way_back_stays_open() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("root", "mounts need it");
    }
    let place = Place::new(&ports(1));
    let state = place.path("state");
    fs::create_dir(&state).unwrap();
    let script =
        "mount -t tmpfs -o size=256k,mode=700 tmpfs \"$CULVERT_STATE_DIR\" && exec \"$0\" \"$@\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", script, env!("CARGO_BIN_EXE_culvert")]);
    command
        .env("CULVERT_STATE_DIR", &state)
        .env_remove("CULVERT_LOG");
    let log = fs::File::create(place.path("log")).unwrap();
    let life = Run::start_by(
        command,
        &place.config(),
        &place.run_dir(),
        place.0.path(),
        log.into(),
    );
    place.apply(&ports(2), &["--confirm", "10m"]);
    // The mount is the process's own.
    let inside = PathBuf::from(format!("/proc/{}/root{}", life.child.id(), state.display()));
    let fill = |name: &str| {
        let mut filler = fs::File::create(inside.join(name)).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        let _ = filler.write_all(&[0; 1]);
    };
    fill("filler");
    // What waits can be taken back, without room for a revision of it.
    place.done(&["rollback"]);
    assert_eq!(place.ports(), 1);
    // What that is worth to a start from the same files.
    let of_then = Place::new(&ports(2));
    fs::create_dir_all(of_then.history_dir()).unwrap();
    for folder in [
        of_then.run_dir(),
        of_then.run_dir().join("state"),
        of_then.history_dir(),
    ] {
        fs::set_permissions(folder, Permissions::from_mode(0o700)).unwrap();
    }
    for entry in fs::read_dir(inside.join("history")).unwrap().flatten() {
        fs::copy(entry.path(), of_then.history_dir().join(entry.file_name())).unwrap();
    }
    let again = of_then.start();
    assert_eq!(of_then.ports(), 1, "{}", of_then.log());
    assert_eq!(of_then.revision(2).outcome, Outcome::RolledBack);
    drop(again);
    let (before, numbers) = (place.state().generation, place.history().len());
    fill("more");
    place.write(&ports(3));
    for arguments in [&["apply"][..], &["apply", "--confirm", "5m"]] {
        let text = place.refused(arguments);
        assert!(text.contains("nothing is changed"), "{text}");
        assert!(text.contains("No space left"), "{text}");
    }
    assert_eq!(place.ports(), 1);
    assert_eq!(place.state().generation, before);
    assert_eq!(place.history().len(), numbers);
    fs::remove_file(inside.join("filler")).unwrap();
    fs::remove_file(inside.join("more")).unwrap();
    place.done(&["apply"]);
    assert_eq!(place.ports(), 3);
    assert_eq!(place.revision(2).outcome, Outcome::RolledBack);
    assert!(!inside.join("history/journal").exists());
}

/// A mount namespace with a small disk for a state directory, which outlives the processes that run in it.
struct SmallDisk {
    holder: Child,
    state: PathBuf,
}

impl SmallDisk {
    fn new(place: &Place) -> Self {
        let state = place.path("state");
        fs::create_dir(&state).unwrap();
        let script =
            "mount -t tmpfs -o size=256k,mode=700 tmpfs \"$0\" && echo mounted && exec sleep 600";
        let mut holder = std::process::Command::new("unshare")
            .args(["-m", "sh", "-c", script])
            .arg(&state)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 7];
        holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
        Self { holder, state }
    }

    /// Its files, from outside.
    fn path(&self, name: &str) -> PathBuf {
        let inside = format!("/proc/{}/root{}", self.holder.id(), self.state.display());
        PathBuf::from(inside).join(name)
    }

    fn start(&self, place: &Place) -> Run {
        let mut command = std::process::Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id()))
            .arg(env!("CARGO_BIN_EXE_culvert"))
            .env("CULVERT_STATE_DIR", &self.state)
            .env_remove("CULVERT_LOG");
        let log = fs::File::create(place.path("log")).unwrap();
        Run::start_by(
            command,
            &place.config(),
            &place.run_dir(),
            place.0.path(),
            log.into(),
        )
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.path("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A full disk keeps no start from the way back; that it was taken is written down as soon as there is room.
#[test]
fn an_end_that_is_owed_at_a_start_is_written_down_by_itself() {
    if !nix::unistd::geteuid().is_root() {
        return common::skip("root", "mounts need it");
    }
    let place = Place::new(&ports(1));
    let disk = SmallDisk::new(&place);
    let life = disk.start(&place);
    place.apply(&ports(2), &["--confirm", "10m"]);
    kill(life);
    disk.fill();
    let life = disk.start(&place);
    assert_eq!(place.ports(), 1, "{}", place.log());
    assert!(disk.path("history/journal").exists());
    let told = |what: &str| place.log().matches(what).count();
    // It was tried more than once by then.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(told("which is tried again"), 1, "{}", place.log());
    assert_eq!(told("is written down now"), 0, "{}", place.log());
    fs::remove_file(disk.path("filler")).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while disk.path("history/journal").exists() {
        assert!(Instant::now() < end, "{}", place.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let end = Instant::now() + Duration::from_secs(10);
    while told("is written down now") == 0 {
        assert!(Instant::now() < end, "{}", place.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(place.revision(2).outcome, Outcome::RolledBack);
    kill(life);
    let _life = disk.start(&place);
    assert_eq!(place.ports(), 1, "{}", place.log());
    let notice = place.state().notice.unwrap();
    assert!(notice.contains("which was rolled back"), "{notice}");
}

#[test]
fn a_damaged_history_is_said_and_set_aside() {
    let place = Place::new(&ports(1));
    let life = place.start();
    place.apply(&ports(2), &[]);
    place.apply(&ports(3), &["--confirm", "10m"]);
    kill(life);
    let path = |name: &str| place.history_dir().join(name);
    // What ran before can't be read, so there is no way back.
    fs::write(path("1.json"), "{").unwrap();
    fs::write(path("2.json"), r#"{"format":99}"#).unwrap();
    let life = place.start();
    assert_eq!(place.ports(), 3, "the file");
    let log = place.log();
    for told in [
        "1.json is damaged",
        "2.json",
        "journal names revision 2, which can't be read",
    ] {
        assert!(log.contains(told), "no `{told}` in {log}");
    }
    assert!(log.contains("set aside"), "{log}");
    assert!(
        place
            .state()
            .notice
            .unwrap()
            .contains("the history was damaged")
    );
    assert!(path("1.json.damaged").exists() && path("2.parts.damaged").exists());
    // A later revision has what it shares with it still.
    assert!(path("1.parts").exists());
    assert_eq!(
        place
            .done(&["config", "show", "3"])
            .matches("52:54:00")
            .count(),
        3
    );
    // Numbers go on.
    place.apply(&ports(2), &[]);
    assert!(place.history()[0].number > 3);

    // A text that is not what was written.
    let newest = place.history()[0].number;
    fs::write(path(&format!("{newest}.parts")), "x").unwrap();
    place.apply(&ports(1), &[]);
    let text = place.refused(&["rollback", "--to", &newest.to_string()]);
    assert!(text.contains("is damaged"), "{text}");
    assert_eq!(place.ports(), 1);
    kill(life);
    // A journal that is none.
    fs::write(path("journal"), "no").unwrap();
    let life = place.start();
    assert_eq!(place.ports(), 1);
    assert!(path("journal.damaged").exists());
    // It says nothing of a confirmation.
    place.apply(&ports(2), &["--confirm", "10m"]);
    let number = place.history()[0].number;
    kill(life);
    fs::write(path("journal"), r#"{"format":99}"#).unwrap();
    let life = place.start();
    assert_eq!(place.ports(), 2);
    assert_eq!(place.revision(number).outcome, Outcome::Unrecorded);
    let notice = place.state().notice.unwrap();
    assert!(notice.contains("nobody knows whether"), "{notice}");
    kill(life);
    // Nobody knows which keys may not come back.
    fs::write(path("revoked.json"), "[").unwrap();
    fs::set_permissions(path("revoked.json"), Permissions::from_mode(0o600)).unwrap();
    let _life = place.start();
    let before = place.history()[1].number.to_string();
    let text = place.refused(&["rollback", "--to", &before]);
    assert!(text.contains("remove it and revoke them again"), "{text}");
    assert!(path("revoked.json").exists());
}

/// Histories as earlier versions wrote them: one that waited for a confirmation when its process ended.
#[test]
fn every_format_that_was_ever_written_is_read() {
    for format in 1..=2 {
        let place = Place::new(&ports(3));
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/history/{format}"));
        fs::create_dir_all(place.history_dir()).unwrap();
        for path in [
            place.run_dir(),
            place.run_dir().join("state"),
            place.history_dir(),
        ] {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
        }
        for entry in fs::read_dir(from).unwrap().flatten() {
            let to = place.history_dir().join(entry.file_name());
            fs::copy(entry.path(), &to).unwrap();
            fs::set_permissions(to, Permissions::from_mode(0o600)).unwrap();
        }
        let _life = place.start();
        assert_eq!(place.ports(), 1, "{}", place.log());
        assert_eq!(place.revision(2).outcome, Outcome::RolledBack);
        assert_eq!(place.revision(2).message, "a second guest");
        // The file of its key is none of this machine's.
        assert!(place.state().tunnels[0].public_key.is_some());
        assert_eq!(place.revision(3).restores, Some(1));
        let text = place.done(&["config", "show", "2"]);
        assert_eq!(text.matches("52:54:00").count(), 2, "{text}");
        assert!(!place.log().contains("set aside"), "{}", place.log());
    }
}

#[test]
fn a_file_with_a_revoked_key_is_refused_with_its_line() {
    let tunnel = Tunnel::new();
    let place = &tunnel.0;
    let text = |mtu| {
        tunnel
            .text(mtu)
            .replace("listen_port: 0", "listen_port: 51997")
    };
    place.write(&text(1420));
    let life = place.start();
    place.done(&["history", "purge", "--revoke", Tunnel::PEER]);
    place.write(&text(1400));
    let text = fs::read_to_string(place.config()).unwrap();
    let line = text.lines().position(|it| it.contains(Tunnel::PEER));
    let at = format!("c.yaml:{}:", line.unwrap() + 1);
    let refusal = |text: &str| {
        assert!(
            text.contains("the key of peer `t/laptop` is revoked"),
            "{text}"
        );
        assert!(
            text.contains(&at) && text.contains("revoked.json"),
            "{text}"
        );
    };
    refusal(&place.refused(&["apply"]));
    refusal(&stderr(&place.run(&["diff"])));
    assert_eq!(place.history().len(), 1);
    // A start leaves that peer out, and runs.
    kill(life);
    let _life = place.start();
    let peers = place.state().peers;
    let states: Vec<_> = peers.iter().map(|it| (&*it.name, &*it.state)).collect();
    assert_eq!(states, [("laptop", "disabled")]);
    refusal(&place.refused(&["apply"]));
    // Without the peer the file is taken.
    let other = Tunnel::PEER.replacen('3', "4", 1);
    place.write(&text.replace(Tunnel::PEER, &other));
    place.done(&["apply"]);
}

/// As an `apply` would, running or not; who may not read the state directory is told nothing of it.
#[test]
fn check_knows_revoked_keys_where_it_may_read_them() {
    let tunnel = Tunnel::new();
    let place = &tunnel.0;
    let text = tunnel
        .text(1420)
        .replace("listen_port: 0", "listen_port: 51996");
    place.write(&text);
    let life = place.start();
    let own = tunnel.public_key();
    let file = place.config().display().to_string();
    place.done(&["check", &file]);
    place.done(&["history", "purge", "--revoke", Tunnel::PEER]);
    let line = text.lines().position(|it| it.contains(Tunnel::PEER));
    let at = format!("c.yaml:{}:", line.unwrap() + 1);
    let refusal = |told: &str, what: &str| {
        assert!(told.contains(what) && told.contains(&at), "{told}");
    };
    let peer = "the key of peer `t/laptop` is revoked";
    refusal(&place.refused(&["check", &file]), peer);
    let json = place.run(&["check", &file, "-o", "json"]);
    assert_eq!(json.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(json["ok"], false, "{json}");
    refusal(json["mistakes"][0]["place"].as_str().unwrap(), "c.yaml");
    assert_eq!(json["mistakes"][0]["message"], peer);
    kill(life);
    refusal(&place.refused(&["check", &file]), peer);
    let state = place.run_dir().join("state");
    let elsewhere = |state: &Path, run_dir: &Path| {
        let mut check = culvert();
        check
            .args(["check", &file, "--run-dir"])
            .arg(run_dir)
            .arg("--state-dir")
            .arg(state);
        check.output().unwrap()
    };
    refusal(&stderr(&elsewhere(&state, Path::new("/nowhere"))), peer);
    assert!(
        elsewhere(Path::new("/nowhere"), &place.run_dir())
            .status
            .success()
    );
    // A tunnel's own.
    let revoked = place.history_dir().join("revoked.json");
    fs::write(&revoked, format!("[\"{own}\"]")).unwrap();
    let told = place.refused(&["check", &file]);
    assert!(
        told.contains("the private key of tunnel `t` is revoked"),
        "{told}"
    );
    // What can't be read is not told of.
    fs::remove_file(&revoked).unwrap();
    nix::unistd::mkfifo(&revoked, nix::sys::stat::Mode::S_IRWXU).unwrap();
    place.done(&["check", &file]);
    fs::remove_file(&revoked).unwrap();
    fs::write(&revoked, "[").unwrap();
    place.done(&["check", &file]);
}
