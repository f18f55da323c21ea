//! `culvert try` and `culvert rollback` at a terminal: what is counted, shown and heard there, and what its loss leaves
//! behind.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{Run, culvert};
use culvert::api::client::Client;
use culvert::history::revision::Outcome;

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn text(networks: u8) -> String {
    let network = |number: u8| format!("n{number}: {{gateway: 10.{number}.0.1/24}}");
    let all: Vec<_> = (0..networks).map(network).collect();
    format!(
        "version: 1\nnode: small\nnetworks: {{{}}}\n",
        all.join(", ")
    )
}

/// A running Culvert whose file has another network by now.
struct Site {
    folder: tempfile::TempDir,
    _life: Run,
}

impl Site {
    fn start() -> Self {
        Self::between(&text(1), &text(2))
    }

    fn between(runs: &str, lies_there: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("c.yaml");
        fs::write(&config, runs).unwrap();
        let life = Run::start(&config, &folder.path().join("run"), folder.path());
        fs::write(&config, lies_there).unwrap();
        Self {
            folder,
            _life: life,
        }
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn networks(&self) -> usize {
        Client::new(&self.run_dir())
            .state(None)
            .unwrap()
            .routes
            .len()
    }

    /// What is tried waits still, and nobody keeps it.
    fn leaves_it_to_its_time(&self) {
        let state = Client::new(&self.run_dir()).state(None).unwrap();
        assert!(state.pending.is_some());
        assert_eq!(self.outcome(), Outcome::RolledBack);
        assert_eq!(self.networks(), 1);
    }

    /// What became of the newest revision, once it is known.
    fn outcome(&self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        loop {
            let history = Client::new(&self.run_dir()).history().unwrap();
            let tried = history.iter().find(|it| it.number == 2).unwrap();
            if tried.outcome != Outcome::Pending {
                return tried.outcome;
            }
            assert!(Instant::now() < end, "it waits still");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A command at a terminal of 80 columns of its own, which script(1) makes.
struct Terminal {
    script: Child,
    keys: Option<ChildStdin>,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open(site: &Site, line: &str) -> Self {
        let culvert = culvert();
        let (program, run_dir) = (culvert.get_program().to_str().unwrap(), site.run_dir());
        let line = format!(
            "stty cols 80 rows 24; exec {program} {line} --run-dir {}",
            run_dir.display()
        );
        let mut script = Command::new("script")
            .args([
                "--quiet",
                "--flush",
                "--return",
                "--command",
                &line,
                "/dev/null",
            ])
            .env_remove("CULVERT_RUN_DIR")
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut out, screen) = (script.stdout.take().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut room = [0; 1024];
            while let Ok(len @ 1..) = out.read(&mut room) {
                screen.lock().unwrap().extend_from_slice(&room[..len]);
            }
        });
        let keys = script.stdin.take();
        Self {
            script,
            keys,
            shown,
        }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    fn wait_for(&self, word: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.shown().contains(word) {
            assert!(Instant::now() < end, "no {word:?} in\n{}", self.shown());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        let out = self.keys.as_mut().unwrap();
        out.write_all(keys.as_bytes()).unwrap();
        out.flush().unwrap();
    }

    /// The end of the command.
    fn ends(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.script.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it goes on:\n{}", self.shown());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The lines as they stood there: what begins anew with a carriage return is a line of its own.
    fn lines(&self) -> Vec<String> {
        let shown = self.shown().replace("\x1b[K", "");
        let lines = shown.split(['\n', '\r']).filter(|line| !line.is_empty());
        lines.map(str::to_owned).collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

#[test]
fn enter_keeps_what_is_tried() {
    let site = Site::start();
    let mut terminal = Terminal::open(&site, "try");
    terminal.wait_for("119 s left");
    terminal.wait_for("118 s left");
    assert_eq!(site.networks(), 2);
    terminal.press("\n");
    let status = terminal.ends();
    assert!(status.success(), "{}", terminal.shown());
    assert_eq!(site.outcome(), Outcome::Applied);
    assert_eq!(site.networks(), 2);
    let lines = terminal.lines();
    let wide: Vec<_> = lines.iter().filter(|it| it.chars().count() > 80).collect();
    assert!(wide.is_empty(), "{wide:#?}");
    let counted = |line: &&String| !line.ends_with("s left ");
    let lines: Vec<_> = lines.iter().filter(counted).collect();
    let text: Vec<_> = lines.iter().map(|line| line.trim()).collect();
    let file = site.folder.path().join("c.yaml");
    let file = format!("culvert: the file is {}", file.display());
    let said = [&*file, "generation 2, revision 2:", "network n1 added"];
    assert_eq!(text[..3], said);
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let user = user.unwrap().map(|it| it.name).unwrap_or_default();
    assert_eq!(
        text[3..].join(" "),
        format!(
            "revision 2 (by {user}) waits for its confirmation, 120 s more: `culvert confirm 2` keeps it, `culvert \
             rollback` brings revision 1 back Enter alone keeps it, anything else and Enter takes it back. Ctrl-C, or \
             a terminal that is lost, leaves it to its time. revision 2 is confirmed"
        )
    );
}

#[test]
fn any_other_line_takes_it_back() {
    let site = Site::start();
    let mut terminal = Terminal::open(&site, "try");
    terminal.wait_for("s left");
    terminal.press("no\n");
    assert_eq!(terminal.ends().code(), Some(1), "{}", terminal.shown());
    assert_eq!(site.outcome(), Outcome::RolledBack);
    assert_eq!(site.networks(), 1);
    // Not behind what was counted.
    let lines = terminal.lines();
    let last = lines
        .iter()
        .position(|it| it.starts_with("culvert: revision 2 was rolled back"));
    assert!(last.is_some(), "{lines:#?}");
    assert!(
        lines.iter().all(|it| it.chars().count() <= 80),
        "{lines:#?}"
    );
}

#[test]
fn ctrl_c_leaves_it_to_its_time() {
    let site = Site::start();
    let mut terminal = Terminal::open(&site, "try --confirm 4s");
    terminal.wait_for("s left");
    terminal.press("\x03");
    assert!(!terminal.ends().success());
    site.leaves_it_to_its_time();
}

#[test]
fn a_terminal_that_is_closed_leaves_it_to_its_time() {
    let site = Site::start();
    let terminal = Terminal::open(&site, "try --confirm 4s");
    terminal.wait_for("s left");
    // As when its window is closed, or a connection breaks: nobody has the other end any more.
    drop(terminal);
    site.leaves_it_to_its_time();
}

/// Who looks away sees what became of it.
#[test]
fn what_its_time_takes_back_is_told() {
    let site = Site::start();
    let mut terminal = Terminal::open(&site, "try --confirm 2s");
    assert_eq!(terminal.ends().code(), Some(1), "{}", terminal.shown());
    assert_eq!(site.outcome(), Outcome::RolledBack);
    let lines = terminal.lines();
    assert!(
        lines
            .iter()
            .any(|it| it == "0 s left " || it == "1 s left "),
        "{lines:#?}"
    );
    assert!(
        lines.iter().all(|it| it.chars().count() <= 80),
        "{lines:#?}"
    );
}

#[test]
fn a_rollback_shows_what_it_does_and_asks() {
    let site = Site::start();
    let applied = common::run(&["apply"], &site.run_dir());
    assert!(applied.status.success(), "{}", common::stderr(&applied));
    for (answer, networks) in [("\n", 2), ("n\n", 2), ("y\n", 1)] {
        let mut terminal = Terminal::open(&site, "rollback");
        terminal.wait_for("Go back to revision 1? [y/N]");
        assert!(
            terminal.shown().contains("- network n1"),
            "{}",
            terminal.shown()
        );
        assert_eq!(site.networks(), 2);
        terminal.press(answer);
        let status = terminal.ends();
        assert_eq!(status.success(), networks == 1, "{}", terminal.shown());
        assert_eq!(site.networks(), networks);
    }
}

/// Whatever is long: names, addresses, what changes, what rests.
#[test]
fn every_table_fits_a_terminal_of_80_columns() {
    let keys = tempfile::tempdir().unwrap();
    let key = keys.path().join("t.key");
    let text = culvert::keys::PrivateKey::from_bytes([1; 32]).to_base64();
    fs::write(&key, &*text).unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let uuid = "a5b0c9d8-1e2f-4a3b-8c7d-0123456789ab";
    let peer = culvert::keys::PrivateKey::from_bytes([2; 32])
        .public_key()
        .to_base64();
    let long = "2001:db8:1111:2222:3333:4444:5555:6666";
    let file = |nets: &str, mac: u8, mtu: u16| {
        format!(
            "version: 1\nmemory: {{hugepages: off}}\nuplinks: {{{uuid}: {{driver: udp}}}}\ntunnels:\n  {uuid}:\n    \
             uplink: {uuid}\n    listen_port: {port}\n    uapi: off\n    private_key_file: {}\n    peers: {{{uuid}: \
             {{public_key: \"{peer}\", endpoint: \"[{long}]:51820\", allowed_ips: [{nets}]}}}}\n\
             networks: {{{uuid}: {{gateway: [10.0.0.1/24, \"fd00::1/64\"], mtu: {mtu}, tunnel: {uuid}}}}}\n\
             ports: {{{uuid}: {{network: {uuid}, mac: \"52:54:00:00:00:{mac:02x}\", addresses: [10.0.0.2, \"fd00::2\"]}}}}\n",
            key.display()
        )
    };
    let runs = file("10.2.0.0/16, \"fd02::/16\"", 1, 1400);
    let comes = file(
        "10.2.0.0/16, 10.3.0.0/16, 10.4.0.0/16, \"fd02::/16\"",
        2,
        1300,
    );
    let site = Site::between(&runs, &comes);
    let done = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let output = common::run(&words, &site.run_dir());
        assert!(
            output.status.success(),
            "{line}: {}",
            common::stderr(&output)
        );
    };
    done(&format!("route add {uuid} 10.3.0.0/16 peer {uuid}"));
    let message =
        "a_message_of_one_word_that_no_table_of_eighty_characters_has_room_for_in_the_whole_world";
    let tried = format!("apply --confirm 10m -m {message}");
    for (line, shows) in [
        ("diff", "rests"),
        ("apply --dry-run", "rests"),
        (&*tried, "waits"),
        ("show", "PUBLIC KEY"),
        ("show --rates", "RX PPS"),
        ("show peers", "ENDPOINT"),
        ("show routes", "NEXT HOP"),
        ("show neighbors", "CONFIRMED"),
        ("show cores", "PER BURST"),
        ("show drops", "DROPPED AT"),
        ("port list", "NETWORK"),
        ("peer list", "HANDSHAKE"),
        ("route list", "rests"),
        ("route get 10.3.0.1", "because"),
        ("history", "MESSAGE"),
        ("rollback --dry-run", "changes"),
        ("log-level", "info"),
    ] {
        let mut terminal = Terminal::open(&site, line);
        terminal.wait_for(shows);
        if line == tried {
            // It waits for Enter there.
            terminal.press("\x03");
        }
        terminal.ends();
        let lines = terminal.lines();
        let wide: Vec<_> = lines.iter().filter(|it| plain(it) > 80).collect();
        assert!(wide.is_empty(), "{line}: {wide:#?}");
    }
    // Elsewhere nothing is cut.
    let output = common::run(&["history", "-o", "wide"], &site.run_dir());
    assert!(common::stdout(&output).contains(message));
}

/// How many characters of a line are seen.
fn plain(line: &str) -> usize {
    let mut parts = line.split("\x1b[");
    let first = parts.next().unwrap_or_default().chars().count();
    let coloured = parts.map(|it| {
        it.split_once('m')
            .map_or(0, |(_, rest)| rest.chars().count())
    });
    first + coloured.sum::<usize>()
}
