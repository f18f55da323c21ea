//! The binary's commands: exit statuses, messages, keys as `wg` has them, a whole life of `run`.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Run, culvert, run, skip, stderr, stdout};
use culvert::api::client::Client;
use nix::fcntl::OFlag;

/// Nothing that needs a device: any engine can run it.
const SMALL: &str = "version: 1\nnode: small\nnetworks: {}\n";

fn piped(mut command: Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_child_whose_parent_has_ended_does_not_start() {
    // The parent of this one is the test, and nobody has this number.
    let number = i32::MAX.to_string();
    let output = culvert().args(["run", "--with-parent", &number]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(told.contains("which started this one, has ended"), "{told}");
}

#[test]
fn check_reads_standard_input() {
    let check = |arguments: &[&str]| {
        let mut command = culvert();
        command.arg("check").args(arguments);
        command
    };
    let good = piped(check(&["-"]), SMALL);
    assert!(good.status.success(), "{}", stderr(&good));
    assert!(stdout(&good).starts_with("-: ok: "), "{}", stdout(&good));
    let bad = piped(check(&["-f", "-"]), "version: 1\nnetwork: {}\n");
    assert_eq!(bad.status.code(), Some(1));
    assert!(stderr(&bad).contains("-:2:1"), "{}", stderr(&bad));
    // Relative paths begin where the command is.
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("part.yaml"), "networks: {}\n").unwrap();
    let mut command = check(&["-", "-o", "json"]);
    command.current_dir(folder.path());
    let included = piped(command, "version: 1\nnode: n\ninclude: [part.yaml]\n");
    assert!(included.status.success(), "{}", stdout(&included));
}

fn command(program: &str, argument: &str) -> Command {
    let mut command = if program == "culvert" {
        culvert()
    } else {
        Command::new(program)
    };
    command.arg(argument);
    command
}

#[test]
fn keys_are_those_of_wg() {
    if Command::new("wg").arg("--version").output().is_err() {
        skip(
            "wireguard-go",
            "there is no `wg`; try: apt install wireguard-tools",
        );
        return;
    }
    for maker in ["wg", "culvert"] {
        let key = stdout(&command(maker, "genkey").output().unwrap());
        assert_eq!((key.len(), key.ends_with("=\n")), (45, true), "{maker}");
        let public = |program| stdout(&piped(command(program, "pubkey"), &key));
        assert_eq!(public("wg"), public("culvert"), "{maker}");
        assert_eq!(
            stdout(&command(maker, "genpsk").output().unwrap()).len(),
            45
        );
    }
    // Not clamped: `wg` clamps while it computes, and so must we.
    let unclamped = "//////////////////////////////////////////8=\n";
    assert_eq!(
        stdout(&piped(command("wg", "pubkey"), unclamped)),
        stdout(&piped(command("culvert", "pubkey"), unclamped))
    );
    let twice: Vec<String> = (0..2)
        .map(|_| stdout(&command("culvert", "genkey").output().unwrap()))
        .collect();
    assert_ne!(twice[0], twice[1]);
}

#[test]
fn pubkey_refuses_what_is_no_key() {
    let long = "A".repeat(1000);
    for input in [
        "",
        "short\n",
        "!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!\n",
        &long,
    ] {
        let output = piped(command("culvert", "pubkey"), input);
        assert_eq!(output.status.code(), Some(1), "{input}");
        assert!(
            stderr(&output).contains("no private key"),
            "{}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn genkey_warns_of_a_file_for_everybody() {
    let folder = tempfile::tempdir().unwrap();
    for (mode, warned) in [(0o644, true), (0o600, false)] {
        let path = folder.path().join(format!("{mode:o}"));
        let file = fs::File::create(&path).unwrap();
        file.set_permissions(fs::Permissions::from_mode(mode))
            .unwrap();
        let output = culvert().arg("genkey").stdout(file).output().unwrap();
        assert_eq!(stderr(&output).contains("others can read"), warned);
        assert_eq!(fs::read_to_string(path).unwrap().len(), 45);
    }
}

#[test]
fn check_tells_by_its_status() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.yaml");
    fs::write(&good, SMALL).unwrap();
    let output = culvert().arg("check").arg(&good).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        format!(
            "{}: ok: 1 worker, 0 uplinks, 0 tunnels, 0 peers, 0 networks, 0 ports\n",
            good.display()
        )
    );
    assert_eq!(stderr(&output), "");

    let bad = folder.path().join("bad.yaml");
    fs::write(&bad, "version: 2\nnetwork: {}\nnode: [a]\n").unwrap();
    let output = culvert().arg("check").arg(&bad).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    for place in [":1:10: error:", ":2:1: error:", ":3:7: error:"] {
        assert!(
            text.contains(&format!("{}{place}", bad.display())),
            "{text}"
        );
    }
    assert!(text.ends_with("bad.yaml: 3 mistakes\n"), "{text}");
    assert!(!text.contains('\x1b'), "colour in a pipe");

    let output = culvert()
        .args(["check", "/nonexistent.yaml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("/nonexistent.yaml: error: can't read the file"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn check_warns_of_accounts_that_this_machine_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("culvert.yaml");
    let port = |name, mac, group| {
        format!(
            "  {name}: {{ network: lan, mac: 02:00:00:00:00:{mac}, addresses: [10.0.0.{mac}], socket_group: {group} }}\n"
        )
    };
    let mut text =
        String::from("version: 1\nnetworks: { lan: { gateway: [10.0.0.1/24] } }\nports:\n");
    text += &(port("vm1", "11", "no-such-group") + &port("vm2", "12", "no-such-group"));
    text += &port("vm3", "13", "root");
    text += "api: { readers: { group: no-such-readers } }\n";
    fs::write(&file, text).unwrap();
    let output = culvert().arg("check").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stderr(&output);
    let expected = [
        "warning: api: `readers`: there is no group no-such-readers: `groupadd --system no-such-readers` makes it",
        "warning: port `vm1`: `socket_group`: there is no group no-such-group: `groupadd --system no-such-group` makes it",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn check_refuses_files_of_the_tcp_port_that_can_not_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let file = at("culvert.yaml");
    let text = "version: 1\nnetworks: {}\napi:\n  listen: \"127.0.0.1:9700\"\n  tls:\n    certificate: c.pem\n    \
                key: k.pem\n    client_ca: a.pem\n    roles: { a: read }\n";
    fs::write(&file, text).unwrap();
    let refused = |line: u32, words: &[&str]| {
        let output = culvert().arg("check").arg(&file).output().unwrap();
        let said = stderr(&output);
        assert!(!output.status.success(), "{said}");
        let place = format!("culvert.yaml:{line}:");
        for word in words.iter().chain(&[&*place, "expected"]) {
            assert!(said.contains(word), "{word}: {said}");
        }
    };
    refused(6, &["`certificate`", "No such file"]);
    fs::write(at("c.pem"), "no certificate").unwrap();
    refused(6, &["`certificate`", "no certificate in it"]);
    let [one, other] =
        [(); 2].map(|()| rcgen::generate_simple_self_signed(["one.test".to_owned()]).unwrap());
    fs::write(at("c.pem"), one.cert.pem()).unwrap();
    let key = |pem: &str, mode| {
        fs::write(at("k.pem"), pem).unwrap();
        fs::set_permissions(at("k.pem"), fs::Permissions::from_mode(mode)).unwrap();
    };
    key(&one.signing_key.serialize_pem(), 0o644);
    refused(7, &["`key`", "chmod 600"]);
    key(&other.signing_key.serialize_pem(), 0o600);
    refused(8, &["`client_ca`", "No such file"]);
    fs::write(at("a.pem"), "").unwrap();
    refused(8, &["`client_ca`", "no certificate in it"]);
    fs::write(at("a.pem"), one.cert.pem()).unwrap();
    refused(7, &["`key`", "not the key of the certificate"]);
    key(&one.signing_key.serialize_pem(), 0o600);
    let output = culvert().arg("check").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn key_files_are_read_with_care() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tunnel.yaml");
    fs::write(
        &config,
        "version: 1\nuplinks: { u: { driver: udp } }\nnetworks: { n: { gateway: 10.0.0.1/24, tunnel: t } }\n\
         tunnels: { t: { uplink: u, listen_port: 1, private_key_file: t.key } }\n",
    )
    .unwrap();
    let check = || culvert().arg("check").arg(&config).output().unwrap();
    let key = folder.path().join("t.key");
    assert!(
        stderr(&check()).contains(&format!("(umask 077; culvert genkey > {})", key.display())),
        "{}",
        stderr(&check())
    );
    fs::write(&key, command("culvert", "genkey").output().unwrap().stdout).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(
        stderr(&check()).contains(&format!("chmod 600 {}", key.display())),
        "{}",
        stderr(&check())
    );
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(check().status.success(), "{}", stderr(&check()));
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&key, Some(12_345), None).unwrap();
        let text = stderr(&check());
        assert!(text.contains("belongs to user 12345, who can"), "{text}");
        assert!(
            text.contains(&format!("chown 0 {}", key.display())),
            "{text}"
        );
        std::os::unix::fs::chown(&key, Some(0), None).unwrap();
    }
    fs::write(&key, "x".repeat(100_000)).unwrap();
    assert!(stderr(&check()).contains("something else than one key"));
    // A key is in it, and nobody is told to write over it.
    let made = command("culvert", "genkey").output().unwrap().stdout;
    for text in [[b"\xef\xbb\xbf", &made[..]].concat(), made.repeat(2)] {
        fs::write(&key, text).unwrap();
        let told = stderr(&check());
        assert!(
            told.contains("byte order mark") && !told.contains(" > "),
            "{told}"
        );
    }
    fs::write(&key, "\n").unwrap();
    let told = stderr(&check());
    assert!(
        told.contains("the file is empty") && told.contains("culvert genkey >"),
        "{told}"
    );
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(
        stderr(&check()).contains("not a file"),
        "{}",
        stderr(&check())
    );
    fs::remove_dir(&key).unwrap();
    // Nobody writes to it: opening it must not wait.
    nix::unistd::mkfifo(&key, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(
        stderr(&check()).contains("not a file"),
        "{}",
        stderr(&check())
    );
}

/// As systemd hands them to a unit.
#[test]
fn credentials_are_read_where_systemd_puts_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.yaml");
    let text = "version: 1\nuplinks: {u: {driver: udp}}\nnetworks: {n: {gateway: 10.0.0.1/24, tunnel: t}}\n\
         tunnels: {t: {uplink: u, listen_port: 1, private_key_file: \"credential:wg0.key\"}}\n";
    fs::write(&config, text).unwrap();
    let credentials = folder.path().join("credentials");
    fs::create_dir(&credentials).unwrap();
    let check = |directory: Option<&Path>| {
        let mut command = culvert();
        command
            .arg("check")
            .arg(&config)
            .env_remove("CREDENTIALS_DIRECTORY");
        command.envs(directory.map(|directory| ("CREDENTIALS_DIRECTORY", directory)));
        command.output().unwrap()
    };
    let refused = |directory, words: &[&str]| {
        let output = check(directory);
        assert_eq!(output.status.code(), Some(1));
        let told = stderr(&output);
        words
            .iter()
            .for_each(|word| assert!(told.contains(word), "no {word:?} in\n{told}"));
    };
    refused(
        None,
        &[
            "$CREDENTIALS_DIRECTORY is not set",
            "LoadCredential=wg0.key:",
            "to check it by hand",
        ],
    );
    refused(
        Some(&credentials),
        &["the file is missing", "systemctl daemon-reload"],
    );
    let key = credentials.join("wg0.key");
    fs::write(&key, "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n").unwrap();
    // 0440 is what an access list for another user looks like.
    for mode in [0o400, 0o440] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let output = check(Some(&credentials));
        assert!(output.status.success(), "{}", stderr(&output));
    }
    fs::set_permissions(&key, fs::Permissions::from_mode(0o444)).unwrap();
    refused(Some(&credentials), &["others can read or change it"]);
}

#[test]
fn help_and_version() {
    let help = culvert().arg("--help").output().unwrap();
    for word in [
        "run", "check", "schema", "genkey", "pubkey", "genpsk", "show", "apply", "version",
    ] {
        assert!(stdout(&help).contains(word), "{word}");
    }
    let version = stdout(&culvert().arg("version").output().unwrap());
    assert_eq!(
        version,
        stdout(&culvert().arg("--version").output().unwrap())
    );
    assert_eq!(
        culvert().arg("rnu").output().unwrap().status.code(),
        Some(2)
    );
    assert_eq!(culvert().output().unwrap().status.code(), Some(2));
}

#[test]
fn a_whole_life() {
    use nix::sys::signal::Signal;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("small.yaml");
    fs::write(&config, SMALL).unwrap();
    let run_dir = folder.path().join("a/run");
    let mut life = Run::start(&config, &run_dir, folder.path());

    // What it left on disk, and to whom.
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&run_dir), 0o750);
    assert_eq!(mode(&run_dir.join("api.sock")), 0o660);

    // No core dumps.
    let limits = fs::read_to_string(format!("/proc/{}/limits", life.child.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(
        core.split_ascii_whitespace().collect::<Vec<_>>()[4..6],
        ["0", "0"]
    );

    // A second one is refused and disturbs nothing.
    let second = run(&["run", "-c", config.to_str().unwrap()], &run_dir);
    assert_eq!(second.status.code(), Some(1));
    let text = stderr(&second);
    assert!(
        text.contains(&format!("culvert (pid {})", life.child.id())),
        "{text}"
    );
    assert!(text.contains("--run-dir"), "{text}");
    assert!(run_dir.join("api.sock").exists());

    // SIGHUP with a bad file: reported, nothing changed, still there.
    fs::write(&config, "version: 1\nnetwrks: {}\n").unwrap();
    life.signal(Signal::SIGHUP);
    life.expect("RELOADING=1");
    life.expect("READY=1");
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(
        log.contains("small.yaml:2:1: unknown key `netwrks`"),
        "{log}"
    );
    assert!(log.contains("nothing was changed"), "{log}");

    // SIGTERM ends it cleanly.
    let asked = Instant::now();
    life.signal(Signal::SIGTERM);
    life.expect("STOPPING=1");
    let status = life.child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert!(!run_dir.join("api.sock").exists());

    // A killed one leaves its socket; the next one takes it over.
    fs::write(&config, SMALL).unwrap();
    let killed = Run::start(&config, &run_dir, folder.path());
    drop(killed);
    assert!(run_dir.join("api.sock").exists());
    let mut next = Run::start(&config, &run_dir, folder.path());
    // One that is told twice is one.
    next.signal(Signal::SIGINT);
    next.signal(Signal::SIGTERM);
    assert!(next.child.wait().unwrap().success());
    assert!(!run_dir.join("api.sock").exists());
}

/// The file is a FIFO that the process is handed, so that a reload lasts until the test has written it.
#[test]
fn a_reload_while_another_is_under_way_follows_it() {
    use nix::sys::signal::Signal;
    let folder = tempfile::tempdir().unwrap();
    let (config, run_dir) = (folder.path().join("c.yaml"), folder.path().join("run"));
    nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut options = fs::File::options();
    options.read(true).custom_flags(OFlag::O_PATH.bits());
    // Without close-on-exec.
    let fd = nix::unistd::dup(options.open(&config).unwrap()).unwrap();
    let handed = format!("/dev/fd/{}", fd.as_raw_fd());
    let mut life = std::thread::scope(|scope| {
        scope.spawn(|| fs::write(&config, SMALL).unwrap());
        Run::start(Path::new(&handed), &run_dir, folder.path())
    });
    life.signal(Signal::SIGHUP);
    life.expect("RELOADING=1");
    // Two while the first is under way: one more turn takes over what the file says by then.
    life.signal(Signal::SIGHUP);
    life.signal(Signal::SIGHUP);
    let generation = || {
        let state = Client::new(&run_dir).state(None).unwrap();
        (state.generation, state.routes.len())
    };
    let with = |network| format!("version: 1\nnode: small\nnetworks: {{{network}}}\n");
    fs::write(&config, with("a: {gateway: 10.1.0.1/24}")).unwrap();
    life.expect("READY=1");
    assert_eq!(generation(), (2, 1));
    life.expect("RELOADING=1");
    let two = "a: {gateway: 10.1.0.1/24}, b: {gateway: 10.2.0.1/24}";
    fs::write(&config, with(two)).unwrap();
    life.expect("READY=1");
    assert_eq!(generation(), (3, 2));
    life.signal(Signal::SIGTERM);
    assert!(life.child.wait().unwrap().success());
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert_eq!(log.matches("SIGHUP: applying").count(), 2, "{log}");
    assert!(log.contains("applied: network b added"), "{log}");
}

#[test]
fn nothing_starts_with_a_bad_file_or_directory() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.yaml");
    fs::write(&config, "version: 1\n").unwrap();
    let run_dir = folder.path().join("run");
    let output = run(&["run", "-c", config.to_str().unwrap()], &run_dir);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("the file has no `networks`"),
        "{}",
        stderr(&output)
    );
    assert!(!run_dir.exists());

    fs::write(&config, SMALL).unwrap();
    fs::create_dir(&run_dir).unwrap();
    fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o777)).unwrap();
    let output = run(&["run", "-c", config.to_str().unwrap()], &run_dir);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("chmod 0755"),
        "{}",
        stderr(&output)
    );

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = run(&["run", "-c", config.to_str().unwrap()], &file);
    assert!(
        stderr(&output).contains("is not a directory"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn log_lines_carry_a_priority_for_journald() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.yaml");
    fs::write(&config, "version: 1\n").unwrap();
    let log = |journal: bool| {
        let mut command = culvert();
        command
            .args(["run", "-c"])
            .arg(&config)
            .env("CULVERT_LOG", "a=b=c");
        if journal {
            command.env("JOURNAL_STREAM", "8:12345");
        }
        stderr(&command.output().unwrap())
    };
    assert!(
        log(true).starts_with("<4>CULVERT_LOG can't be read"),
        "{}",
        log(true)
    );
    assert!(
        log(false).contains("Z  WARN CULVERT_LOG can't be read"),
        "{}",
        log(false)
    );
}
