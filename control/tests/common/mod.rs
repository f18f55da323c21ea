//! An engine of answers from a script, and the commands to ask it with.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a failure here is the test's")]

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use culvert::api::{self, ApplyError, Request, Requester, SendError};
use culvert::config::{self, Config};
use culvert::plan::Layers;
use culvert::report::Source;
use culvert::report::lists::{Put, Told, Which, Window, among};
use culvert::state::{
    Applied, Core, Drop, Log, Neighbor, Peer, Port, Route, State, Status, Traffic, Tunnel, Uplink,
};
use culvert_directory::Directory;

/// A state with something in every part.
pub(crate) fn state() -> State {
    State {
        node: "hv-a".into(),
        version: "0.1.0".into(),
        pid: 4711,
        config: "/etc/culvert/hv-a.yaml".into(),
        generation: 3,
        uptime_s: 3661,
        ports: vec![Port {
            name: "vm1".into(),
            network: "blue".into(),
            vlans: Vec::new(),
            driver: "vhost-user".into(),
            socket: "/run/culvert/vm1.sock".into(),
            connected: true,
            link_up: true,
            disabled: false,
            hindrance: None,
            features: vec!["VERSION_1".into(), "CSUM".into()],
            queues: 1,
            queues_max: 2,
            mac: "52:54:00:00:00:01".into(),
            mtu: 1420,
            rx: Traffic {
                packets: 10,
                bytes: 1536,
            },
            tx: Traffic {
                packets: 12,
                bytes: 100,
            },
            drops: [("ring-full".to_owned(), 3), ("guard-mac".to_owned(), 4)].into(),
            labels: [("vm".to_owned(), "7f3a".to_owned())].into(),
        }],
        uplinks: vec![Uplink {
            name: "wan0".into(),
            driver: "dpdk".into(),
            device: "0000:3b:00.0".into(),
            link_up: true,
            speed_mbps: Some(25_000),
            addresses: vec!["192.0.2.10/24".into()],
            mtu: 1500,
            queues: 2,
            ..Uplink::default()
        }],
        tunnels: vec![Tunnel {
            name: "wg0".into(),
            uplink: "wan0".into(),
            public_key: Some("HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=".into()),
            listen_port: 51821,
            mtu: 1420,
            peers: 1,
            uapi: Some("/var/run/wireguard/wg0.sock".into()),
            drift: vec!["listen_port (file: 51820)".into()],
            ..Tunnel::default()
        }],
        peers: vec![Peer {
            tunnel: "wg0".into(),
            name: "hv-b".into(),
            public_key: "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=".into(),
            endpoint: Some("192.0.2.11:51820".parse().unwrap()),
            allowed_ips: vec!["10.1.2.0/24".into(), "fd00:2::/64".into()],
            persistent_keepalive_s: Some(25),
            last_handshake_unix: Some(1_700_000_000),
            last_handshake_age_s: Some(65),
            keypair: "current".into(),
            state: "up".into(),
            rx: Traffic {
                packets: 1,
                bytes: 5 << 20,
            },
            staged: 2,
            ..Peer::default()
        }],
        routes: vec![Route {
            table: "network blue".into(),
            to: "10.1.2.0/24".into(),
            next_hop: "peer hv-b (wg0)".into(),
            metric: None,
            source: "allowed-ips".into(),
        }],
        neighbors: vec![Neighbor {
            place: "uplink wan0".into(),
            address: "192.0.2.11".parse().unwrap(),
            mac: None,
            state: "incomplete".into(),
            age_s: None,
            port: None,
        }],
        cores: vec![Core {
            name: "worker 0".into(),
            cpu: Some(1),
            busy: 0.125,
            bursts: 4,
            packets: 10,
            sleeps: 7,
            queues: vec!["vm1:0".into(), "wan0:0".into()],
            ..Core::default()
        }],
        drops: vec![Drop {
            scope: "port vm1".into(),
            reason: "ring-full".into(),
            packets: 3,
        }],
        log: Log {
            lost: 2,
            left_out: 5,
        },
        ..State::default()
    }
}

/// What an engine without a configuration desires.
fn desired() -> Layers {
    let path = Path::new("empty.yaml");
    let read = config::parse("version: 1\nnetworks: {}\n", path, &config::Disk);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    Layers::new(Arc::new(config))
}

/// What lists tell of an engine, until it is over.
struct Script {
    state: State,
    over: Arc<AtomicBool>,
}

impl Script {
    fn told<T: Clone>(&self, what: &T) -> Result<T, SendError> {
        match self.over.load(Ordering::Relaxed) {
            false => Ok(what.clone()),
            true => Err(SendError::Ended),
        }
    }
}

impl Source for Script {
    fn status(&self) -> Result<Status, SendError> {
        let state = &self.state;
        self.told(&Status {
            node: state.node.clone(),
            version: state.version.clone(),
            pid: state.pid,
            config: state.config.clone(),
            generation: state.generation,
            uptime_s: state.uptime_s,
            log: state.log,
            ..Status::default()
        })
    }

    fn ports(&self, which: &Which, window: &Window, put: Put<'_, Port>) -> Told {
        let all = self.told(&self.state.ports)?;
        let key = |it: &Port| it.name.clone();
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn uplinks(&self, which: &Which, window: &Window, put: Put<'_, Uplink>) -> Told {
        let all = self.told(&self.state.uplinks)?;
        let key = |it: &Uplink| it.name.clone();
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn tunnels(&self, which: &Which, window: &Window, put: Put<'_, Tunnel>) -> Told {
        let all = self.told(&self.state.tunnels)?;
        let key = |it: &Tunnel| it.name.clone();
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn peers(&self, which: &Which, window: &Window, put: Put<'_, Peer>) -> Told {
        let all = self.told(&self.state.peers)?;
        let key = |it: &Peer| format!("{}/{}", it.tunnel, it.name);
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn routes(&self, which: &Which, window: &Window, put: Put<'_, Route>) -> Told {
        let all = self.told(&self.state.routes)?;
        let key = |it: &Route| format!("{} {}", it.table, it.to);
        Ok(among(all, (which, window), |it| &it.table, key, put))
    }

    fn neighbors(&self, which: &Which, window: &Window, put: Put<'_, Neighbor>) -> Told {
        let all = self.told(&self.state.neighbors)?;
        let key = |it: &Neighbor| format!("{} {}", it.place, it.address);
        Ok(among(all, (which, window), |it| &it.place, key, put))
    }

    fn cores(&self, which: &Which, window: &Window, put: Put<'_, Core>) -> Told {
        let all = self.told(&self.state.cores)?;
        let key = |it: &Core| it.name.clone();
        Ok(among(all, (which, window), |it| &it.name, key, put))
    }

    fn drops(&self, which: &Which, window: &Window, put: Put<'_, Drop>) -> Told {
        let all = self.told(&self.state.drops)?;
        let key = |it: &Drop| format!("{} {}", it.scope, it.reason);
        Ok(among(all, (which, window), |it| &it.scope, key, put))
    }
}

/// A control socket in a run directory of its own, with an engine behind it.
pub(crate) struct Running {
    pub(crate) run_dir: PathBuf,
    pub(crate) applied: mpsc::Receiver<Config>,
    requester: Requester,
    engine: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
    _server: api::server::Server,
    _folder: tempfile::TempDir,
}

impl Running {
    /// Answers every `apply` with `answer`.
    pub(crate) fn start(answer: Result<Applied, ApplyError>) -> Self {
        Self::with_doors(answer, &config::Api::default())
    }

    /// Tells of another state.
    pub(crate) fn telling(state: State) -> Self {
        Self::with(Ok(Applied::default()), &config::Api::default(), state)
    }

    /// The same, with more doors than one.
    pub(crate) fn with_doors(answer: Result<Applied, ApplyError>, api: &config::Api) -> Self {
        Self::with(answer, api, state())
    }

    fn with(answer: Result<Applied, ApplyError>, api: &config::Api, state: State) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (requester, requests) = api::channel().unwrap();
        let directory = Directory::own(folder.path(), 0o750).unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let script = Script { state, over };
        let server =
            api::server::serve(&directory, api, requester.clone(), Arc::new(script)).unwrap();
        let (sender, applied) = mpsc::channel();
        let engine = std::thread::spawn(move || {
            while let Some(request) = requests.wait(None) {
                match request {
                    Request::Look(_) => panic!("states are from the script"),
                    Request::Desired { reply } => reply.send(desired()),
                    Request::Apply {
                        proposal, reply, ..
                    } => {
                        sender.send(Config::clone(proposal.file())).unwrap();
                        reply.send(answer.clone());
                    }
                    Request::Call { .. } => {}
                    Request::Confirmed { reply } => reply.send(()),
                    Request::Layer { reply, .. } => reply.send(answer.clone()),
                    Request::Uapi { .. } => panic!("nobody asks here as `wg` does"),
                    Request::Drain => break,
                }
            }
        });
        Self {
            run_dir: folder.path().to_owned(),
            applied,
            requester,
            engine: Some(engine),
            is_over,
            _server: server,
            _folder: folder,
        }
    }

    /// Ends the engine; the socket stays.
    pub(crate) fn end_engine(&mut self) {
        if let Some(engine) = self.engine.take() {
            self.requester.send(Request::Drain).unwrap();
            engine.join().unwrap();
            self.is_over.store(true, Ordering::Relaxed);
        }
    }
}

impl std::ops::Drop for Running {
    fn drop(&mut self) {
        self.end_engine();
    }
}

/// A running `culvert run`, killed if the test fails.
pub(crate) struct Run {
    pub(crate) child: Child,
    notifications: UnixDatagram,
}

impl Run {
    /// Starts it and waits until it is ready; it logs to `log` in `folder`.
    pub(crate) fn start(config: &Path, run_dir: &Path, folder: &Path) -> Self {
        let log = fs::File::create(folder.join("log")).unwrap();
        Self::start_by(culvert(), config, run_dir, folder, log.into())
    }

    /// The same by a command that comes to `culvert` in the end, with stderr somewhere else.
    pub(crate) fn start_by(
        mut command: Command,
        config: &Path,
        run_dir: &Path,
        folder: &Path,
        stderr: Stdio,
    ) -> Self {
        let socket = folder.join("notify");
        let _ = fs::remove_file(&socket);
        let notifications = UnixDatagram::bind(&socket).unwrap();
        notifications
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let child = command
            .args(["run", "-c"])
            .arg(config)
            .arg("--run-dir")
            .arg(run_dir)
            .env("NOTIFY_SOCKET", &socket)
            .stderr(stderr)
            .spawn()
            .unwrap();
        let run = Self {
            child,
            notifications,
        };
        run.expect("READY=1");
        run
    }

    /// Waits for that line, and skips others.
    pub(crate) fn expect(&self, line: &str) {
        let mut buffer = [0; 4096];
        loop {
            let len = match self.notifications.recv(&mut buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => panic!("no {line}: {error}"),
            };
            if String::from_utf8_lossy(&buffer[..len])
                .lines()
                .any(|got| got == line)
            {
                return;
            }
        }
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl std::ops::Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary, with nothing of this terminal.
pub(crate) fn culvert() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert"));
    for name in [
        "CULVERT_RUN_DIR",
        "CULVERT_STATE_DIR",
        "CULVERT_LOG",
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
        "NO_COLOR",
        "WATCHDOG_USEC",
    ] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn run(arguments: &[&str], run_dir: &Path) -> Output {
    culvert()
        .args(arguments)
        .arg("--run-dir")
        .arg(run_dir)
        .output()
        .unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A part of the machine is missing for a test, which is skipped: it fails, unless `CULVERT_TEST_SKIP` names
/// that part, or `all`. What was skipped stands where that of scenarios does, for `scripts/test` to tell.
pub(crate) fn skip(part: &str, why: &str) {
    let allowed = std::env::var("CULVERT_TEST_SKIP").unwrap_or_default();
    let is_allowed = allowed.split(',').any(|word| word == part || word == "all");
    assert!(
        is_allowed,
        "it needs '{part}': {why} (CULVERT_TEST_SKIP={part} skips it)"
    );
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let line = format!("SKIPPED {test}: {part}: {why}");
    println!("{line}");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    let folder = target.join("scenarios");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("skipped");
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(file)
        .unwrap();
    writeln!(file, "{line}").unwrap();
}
