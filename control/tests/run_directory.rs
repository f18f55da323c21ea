//! What a running Culvert makes in its run directory, when others were there before it; what two Culverts must not
//! share.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs::{self, Permissions};
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use common::{Run, culvert, run, stderr};
use nix::sys::signal::Signal;

/// A configuration with something for every file: a port, a tunnel, a peer with an endpoint.
struct Place {
    folder: tempfile::TempDir,
    port: u16,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("t.key");
        let made = culvert().arg("genkey").output().unwrap();
        fs::write(&key, made.stdout).unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
        // Free at this moment, and rarely given out again so soon.
        let port = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let text = format!(
            "version: 1\nmemory: {{hugepages: off}}\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
             tunnels:\n  t:\n    uplink: u\n    listen_port: {port}\n    private_key_file: t.key\n    uapi: off\n    \
             peers: {{p: {{public_key: \"3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\", endpoint: \"127.0.0.1:9\"}}}}\n\
             networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n\
             ports: {{vm1: {{network: n, mac: \"52:54:00:00:00:01\", addresses: [10.0.0.2]}}}}\n"
        );
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        Self { folder, port }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> PathBuf {
        self.path("c.yaml")
    }

    /// A start that must fail; what it says.
    fn refused(&self, run_dir: &Path) -> String {
        let config = self.config();
        let output = run(&["run", "-c", config.to_str().unwrap()], run_dir);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        stderr(&output)
    }
}

/// What somebody wants to have overwritten.
struct Victim(PathBuf);

impl Victim {
    fn new(path: PathBuf) -> Self {
        fs::write(&path, "precious").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
        Self(path)
    }

    fn must_be_whole(&self, name: &str) {
        assert_eq!(fs::read_to_string(&self.0).unwrap(), "precious", "{name}");
        let mode = fs::metadata(&self.0).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o604, "{name}");
    }
}

#[test]
fn a_run_directory_that_a_group_may_write_to_is_refused() {
    let place = Place::new();
    let run_dir = place.path("run");
    fs::create_dir(&run_dir).unwrap();
    fs::set_permissions(&run_dir, Permissions::from_mode(0o770)).unwrap();
    let text = place.refused(&run_dir);
    let mending = format!("chmod 0750 {}", run_dir.display());
    for part in ["others may write", "mode 0770", &mending, "--run-dir"] {
        assert!(text.contains(part), "no `{part}` in {text}");
    }
    assert_eq!(fs::read_dir(&run_dir).unwrap().count(), 0, "it left a file");
    // The command that it names mends it.
    let mended = std::process::Command::new("sh")
        .args(["-c", &mending])
        .status();
    assert!(mended.unwrap().success());
    let _run = Run::start(&place.config(), &run_dir, place.folder.path());
}

#[test]
fn a_run_directory_that_is_a_link_or_of_another_user_is_refused() {
    let place = Place::new();
    let (real, link) = (place.path("real"), place.path("link"));
    fs::create_dir(&real).unwrap();
    symlink(&real, &link).unwrap();
    let text = place.refused(&link);
    assert!(text.contains("or a link to one"), "{text}");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&real, Some(12_345), None).unwrap();
        let text = place.refused(&real);
        assert!(text.contains("chown 0 "), "{text}");
    }
    assert_eq!(fs::read_dir(&real).unwrap().count(), 0);
}

/// Whoever could once write to the directory has left a link under every name that is used there: it is refused, because
/// nothing of ours can have made it.
#[test]
fn a_planted_link_is_written_through_by_nothing() {
    let place = Place::new();
    let victim = Victim::new(place.path("victim"));
    // (The peers' last endpoints are replaced: the engine's own tests see to them.)
    let refused = [
        "lock",
        "api.sock",
        ".api.sock.lock",
        "vm1.sock",
        ".vm1.sock.lock",
        "vm1.rings",
    ];
    for (number, name) in refused.iter().enumerate() {
        let run_dir = place.path(&format!("run{number}"));
        fs::create_dir(&run_dir).unwrap();
        fs::set_permissions(&run_dir, Permissions::from_mode(0o750)).unwrap();
        let planted = run_dir.join(name);
        symlink(&victim.0, &planted).unwrap();
        let text = place.refused(&run_dir);
        let named = name.trim_start_matches('.').trim_end_matches(".lock");
        assert!(text.contains(named), "{name}: {text}");
        assert!(text.contains("remove it"), "{name}: {text}");
        assert!(planted.is_symlink(), "{name}");
        victim.must_be_whole(name);
        // Nothing is left that listens or that a stranger could use.
        let left: Vec<_> = fs::read_dir(&run_dir).unwrap().flatten().collect();
        let sockets = left.iter().filter(|entry| {
            use std::os::unix::fs::FileTypeExt as _;
            entry.file_type().unwrap().is_socket()
        });
        assert_eq!(sockets.count(), 0, "{name}");
    }
}

/// What two processes must not share is refused to the second one, which says what it is and who has it.
#[test]
fn a_second_process_is_refused_what_the_first_one_has() {
    let place = Place::new();
    let (one, two) = (place.path("one"), place.path("two"));
    let first = Run::start(&place.config(), &one, place.folder.path());
    let holder = format!("culvert (pid {})", first.child.id());

    let text = place.refused(&one);
    let said = format!("{holder} uses the run directory {}", one.display());
    assert!(text.contains(&said), "{text}");

    // Another directory, the same UDP port.
    let text = place.refused(&two);
    let said = format!(
        "tunnel t: uplink u: UDP port {} on 127.0.0.1 is taken",
        place.port
    );
    assert!(text.contains(&said), "{text}");

    // Another port, the same socket.
    let other = Place::new();
    let socket = one.join("vm1.sock");
    let text = fs::read_to_string(other.config()).unwrap();
    let here = format!("vm1: {{socket: {}, ", socket.display());
    fs::write(other.config(), text.replace("vm1: {", &here)).unwrap();
    let text = other.refused(&other.path("run"));
    let said = format!("port vm1: {holder} listens on {}", socket.display());
    assert!(text.contains(&said), "{text}");
    UnixStream::connect(socket).unwrap();
}

/// Names that anybody may bind keep nobody from starting.
#[test]
fn a_stranger_who_takes_names_blocks_no_start() {
    let place = Place::new();
    let names = ["any", "127.0.0.1"].map(|address| {
        let name = format!("culvert/udp/{}/{address}", place.port);
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).unwrap()).unwrap()
    });
    let mut life = Run::start(&place.config(), &place.path("run"), place.folder.path());
    life.signal(Signal::SIGTERM);
    assert!(life.child.wait().unwrap().success());
    drop(names);
}

/// Sockets in a directory.
fn sockets(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let names = entries.map(|it| it.file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(".sock")).collect();
    names.sort();
    names
}

/// Who does not come to an end is told twice, and leaves nothing behind; what only a killed one leaves is swept by the next.
#[test]
fn a_second_signal_leaves_no_socket_and_what_is_killed_is_swept() {
    let place = Place::new();
    let (config, run_dir) = (place.config(), place.path("run"));
    let text = fs::read_to_string(&config).unwrap();
    let group = nix::unistd::getegid();
    let text = format!("{text}api: {{readers: {{group: {group}}}}}\n");
    fs::write(&config, &text).unwrap();
    let start = || {
        let mut command = culvert();
        command.env("CULVERT_TEST_HANGS_AT_STEP", "draining");
        let log = fs::File::create(place.path("log")).unwrap();
        Run::start_by(command, &config, &run_dir, place.folder.path(), log.into())
    };
    let made = ["api-read.sock", "api.sock", "vm1.sock"];
    let mut life = start();
    life.signal(Signal::SIGTERM);
    life.expect("STOPPING=1");
    // The same one, told twice.
    life.signal(Signal::SIGTERM);
    sleep(Duration::from_millis(1_100));
    assert_eq!(life.child.try_wait().unwrap(), None);
    assert_eq!(sockets(&run_dir), made);
    life.signal(Signal::SIGTERM);
    assert_eq!(life.child.wait().unwrap().code(), Some(130));
    assert_eq!(sockets(&run_dir), [""; 0]);

    let mut life = start();
    life.signal(Signal::SIGKILL);
    life.child.wait().unwrap();
    assert_eq!(sockets(&run_dir), made);
    // A VMM's that listens there is the VMM's, and so is one that will.
    let vmm = UnixListener::bind(run_dir.join("vmm.sock")).unwrap();
    drop(UnixListener::bind(run_dir.join("later.sock")).unwrap());
    let client = "later: {network: n, mac: \"52:54:00:00:00:03\", addresses: [10.0.0.3], socket: later.sock, socket_mode: client}";
    let text = text.replace(
        "ports: {vm1: {network: n, mac: \"52:54:00:00:00:01\", addresses: [10.0.0.2]}}",
        &format!("ports: {{{client}}}"),
    );
    fs::write(&config, text.replace("\napi: ", "\nx-api: ")).unwrap();
    let _life = start();
    assert_eq!(sockets(&run_dir), ["api.sock", "later.sock", "vmm.sock"]);
    UnixStream::connect(run_dir.join("vmm.sock")).unwrap();
    drop(vmm);
}
