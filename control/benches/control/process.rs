//! A Culvert with many peers, and what its process and its control core take.
//!
//! In: the binary, a file. Out: times, memory, answers. Never: a process, a socket or a file left behind.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use axum::http::Method;
use culvert::{
    api::{bodies::ApplyBody, client::Client},
    keys,
    state::{Applied, Part, State},
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The peers of a file.
#[derive(Clone, Copy)]
pub(crate) struct Peers {
    pub(crate) count: usize,
    /// Prefixes of each.
    pub(crate) prefixes: usize,
    /// Other keepalives for the peer in the middle.
    pub(crate) turn: usize,
}

/// A running process; killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// From the start until everything was open.
    pub(crate) start: Duration,
    tunnel: String,
    port: u16,
    folder: tempfile::TempDir,
}

impl Running {
    pub(crate) fn start(peers: Peers) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = folder.path().join("identity");
        fs::write(&identity, &*keys::generate_private().unwrap().to_base64()).unwrap();
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).unwrap();
        let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        // Names of sockets that `wg` speaks to are the machine's.
        let tunnel = format!("cb{port}");
        fs::write(folder.path().join("c.yaml"), text(&tunnel, port, peers)).unwrap();
        let ready = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        ready
            .set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let begin = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_culvert"))
            .args(["run", "-c"])
            .arg(folder.path().join("c.yaml"))
            .arg("--run-dir")
            .arg(folder.path().join("run"))
            .env("NOTIFY_SOCKET", folder.path().join("notify"))
            .env_remove("WATCHDOG_USEC")
            .stderr(Stdio::from(log))
            .spawn()
            .unwrap();
        let mut running = Self {
            child,
            start: Duration::ZERO,
            tunnel,
            port,
            folder,
        };
        running.await_ready(&ready);
        running.start = begin.elapsed();
        running
    }

    fn await_ready(&mut self, ready: &UnixDatagram) {
        let mut buffer = [0; 4096];
        while ready.recv(&mut buffer).is_err() {
            let log = || fs::read_to_string(self.folder.path().join("log"));
            assert_eq!(self.child.try_wait().unwrap(), None, "{}", log().unwrap());
        }
        assert!(buffer.starts_with(b"READY=1"));
    }

    /// How long it takes to check its file.
    pub(crate) fn check(&self) -> Duration {
        let begin = Instant::now();
        let checked = Command::new(env!("CARGO_BIN_EXE_culvert"))
            .arg("check")
            .arg(self.folder.path().join("c.yaml"))
            .stdout(Stdio::null())
            .status();
        assert!(checked.unwrap().success());
        begin.elapsed()
    }

    fn client(&self) -> Client {
        Client::new(&self.folder.path().join("run"))
    }

    pub(crate) fn state(&self, part: Option<Part>) -> State {
        self.client().state(part).unwrap()
    }

    /// A file with these peers.
    pub(crate) fn file(&self, peers: Peers) -> ApplyBody {
        ApplyBody {
            path: self.folder.path().join("c.yaml"),
            text: text(&self.tunnel, self.port, peers),
            ..ApplyBody::default()
        }
    }

    /// Applies a file.
    pub(crate) fn apply(&self, file: &ApplyBody) -> Applied {
        self.client().apply(file).unwrap()
    }

    /// A file with these peers on the disk, in the place of an earlier one of that name.
    pub(crate) fn write(&self, name: &str, peers: Peers) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text(&self.tunnel, self.port, peers)).unwrap();
        path
    }

    /// Has the command apply a file.
    pub(crate) fn apply_by_command(&self, path: &Path) {
        let applied = Command::new(env!("CARGO_BIN_EXE_culvert"))
            .arg("apply")
            .arg(path)
            .arg("--run-dir")
            .arg(self.folder.path().join("run"))
            .stdout(Stdio::null())
            .status();
        assert!(applied.unwrap().success());
    }

    /// The tunnel that has them.
    pub(crate) fn tunnel(&self) -> &str {
        &self.tunnel
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Changes one object beside the file.
    pub(crate) fn change(&self, method: Method, path: &str, keys: String) {
        let applied = self.client().change(method, path, keys).unwrap();
        assert_eq!(applied.failures, [""; 0]);
    }

    /// What Prometheus reads.
    pub(crate) fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(self.folder.path().join("run/api.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nhost: culvert\r\nconnection: close\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Speaks as `wg` does.
    pub(crate) fn wg(&self) -> Wg {
        let path = PathBuf::from(format!("/var/run/wireguard/{}.sock", self.tunnel));
        let stream = UnixStream::connect(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Wg(stream)
    }

    /// What the control core, the process's first thread, has spent on a processor.
    pub(crate) fn core_time(&self) -> Duration {
        let pid = self.child.id();
        let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap();
        let nanos = text.split(' ').next().and_then(|text| text.parse().ok());
        Duration::from_nanos(nanos.unwrap())
    }

    /// The process's memory, in bytes.
    #[expect(clippy::cast_precision_loss, reason = "a figure to be divided")]
    pub(crate) fn resident(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        (kib.unwrap().trim().parse::<u64>().unwrap() << 10) as f64
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        // It takes its sockets with it.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// A connection as `wg` makes them.
pub(crate) struct Wg(UnixStream);

impl Wg {
    /// Changes something; waits until it is done.
    pub(crate) fn set(&mut self, lines: &str) {
        let answer = self.ask(&format!("set=1\n{lines}\n"));
        assert_eq!(answer, "errno=0\n\n");
    }

    /// Everything about the tunnel.
    pub(crate) fn get(&mut self) -> String {
        self.ask("get=1\n\n")
    }

    fn ask(&mut self, request: &str) -> String {
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut answer, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
        while !answer.ends_with(b"\n\n") {
            let len = self.0.read(&mut chunk).unwrap();
            assert_ne!(len, 0, "it hung up");
            answer.extend_from_slice(&chunk[..len]);
        }
        String::from_utf8(answer).unwrap()
    }
}

/// The key of a peer: nobody has the private one.
pub(crate) fn key(peer: usize) -> [u8; 32] {
    let mut state = peer as u64;
    let mut key = [0; 32];
    for word in key.chunks_exact_mut(8) {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    key
}

/// A peer's prefix of that number.
pub(crate) fn prefix(peer: usize, number: usize) -> String {
    let [.., a, b, c] = peer.to_be_bytes();
    format!("{}.{a}.{b}.{c}/32", 10 + number)
}

fn text(tunnel: &str, port: u16, peers: Peers) -> String {
    let mut text = format!(
        "version: 1\nmemory: {{hugepages: off}}\n\
         networks: {{n: {{gateway: 192.168.0.1/24, tunnel: {tunnel}}}}}\n\
         uplinks: {{lo: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
         tunnels:\n  {tunnel}:\n    uplink: lo\n    uapi: {tunnel}\n    listen_port: {port}\n    \
         private_key_file: identity\n    peers:\n"
    );
    for peer in 0..peers.count {
        let key = keys::PublicKey::from_bytes(key(peer)).to_base64();
        let prefixes: Vec<_> = (0..peers.prefixes).map(|it| prefix(peer, it)).collect();
        let keepalive = match peer == peers.count / 2 {
            true => format!(", persistent_keepalive: {}s", 100 + peers.turn),
            false => String::new(),
        };
        let prefixes = prefixes.join(", ");
        text += &format!(
            "      p{peer}: {{public_key: \"{key}\", allowed_ips: [{prefixes}]{keepalive}}}\n"
        );
    }
    text
}
