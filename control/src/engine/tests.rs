//! The real engine, on this machine's loopback: plans carried out and undone.
//!
//! ```text
//!   far (the protocol crate on a socket) ── 127.0.0.1 ── engine with one worker: tunnels a, b, c … of one uplink
//! ```

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod awaited;
mod compile;
mod crowd;
mod failover;
mod far;
mod heard;
#[cfg(feature = "dpdk")]
mod learned;
mod lockout;
mod metrics;
mod parking;
mod peers;
mod ports;
mod proposals;
mod reads;
mod tunnels;
mod uplink_changes;
mod uplinks;
mod wg;
mod wire;
mod workers;

use std::{
    fs,
    os::unix::net::UnixStream,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use culvert_dataplane::shared::ids::UplinkIndex;
use tempfile::TempDir;
use zeroize::Zeroizing;

use self::{crowd::crowd, far::Far, wire::Wire};
use super::*;
use crate::{
    api::{self, ApplyError, Reply, SendError, client::List},
    config::{self, KeyFileError, KeyFiles},
    keys::PrivateKey,
    plan::Proposal,
    report::{
        Source,
        lists::{LIMIT, Put, Told, Which, Window},
    },
    state::{Applied, Part, Peer, State},
    uapi::{Answer, Ask, Change, Errno},
};

/// The key in the file `NAME.key` is made of the name's first byte.
struct Keys;

impl KeyFiles for Keys {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let name = path.file_name().unwrap().to_string_lossy();
        Ok(Zeroizing::new(key(&name).to_base64().to_string()))
    }
}

fn key(name: &str) -> PrivateKey {
    PrivateKey::from_bytes([name.as_bytes()[0]; 32])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn parse(text: &str) -> Config {
    let networks = if text.contains("networks:") {
        ""
    } else {
        "networks: {}\n"
    };
    let text = format!("version: 1\nnode: test\n{text}{networks}");
    let read = config::parse(&text, Path::new("test.yaml"), &Keys);
    read.map_err(|report| report.render(false)).unwrap().0
}

const UPLINK: &str = "uplinks: {lo: {driver: udp, addresses: [127.0.0.1/8]}}\n";

/// Tunnels with their ports; each has `far` as its peer, and other peers beside it.
fn tunnels(tunnels: &[(&str, u16)], rest: &str) -> Config {
    let mut text = format!("{UPLINK}tunnels:\n");
    let far = key("far").public_key().to_base64();
    for (name, port) in tunnels {
        let peer = format!("far: {{public_key: \"{far}\", allowed_ips: [10.9.0.0/16]{rest}}}");
        text += &format!(
            "  {name}: {{uplink: lo, uapi: off, listen_port: {port}, private_key_file: {name}.key, peers: {{{peer}}}}}\n"
        );
    }
    parse(&text)
}

/// UDP ports that are free.
fn free_ports<const N: usize>() -> [u16; N] {
    let sockets = [(); N].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

impl Engine {
    /// Plans a file and applies it.
    pub(super) fn apply_file(&mut self, config: Config, now: Now) -> Result<Applied, ApplyError> {
        let proposal = Proposal::new(self.desired.clone(), config);
        self.apply(proposal, false, now)
    }
}

/// A running engine and its run directory.
struct Site {
    engine: Engine,
    requester: Requester,
    requests: Requests,
    run_dir: RunDir,
    _folder: TempDir,
}

impl Site {
    fn start(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let run_dir = RunDir::open(&folder.path().join("run")).unwrap();
        let (requester, requests) = api::channel().unwrap();
        let engine = Engine::start(config, Some(&run_dir), requester.clone(), None);
        let engine = engine.unwrap_or_else(|error| panic!("{error}"));
        Self {
            engine,
            requester,
            requests,
            run_dir,
            _folder: folder,
        }
    }

    fn apply(&mut self, config: Config) -> Result<Applied, ApplyError> {
        self.engine.apply_file(config, clock::now())
    }

    fn lines(&mut self, config: Config) -> Vec<String> {
        self.apply(config).unwrap().changes
    }

    fn set(&mut self, tunnel: &str, changes: &[Change]) -> Answer {
        let ask = Ask::Set(changes.to_vec());
        self.engine.ask(&name(tunnel), ask, clock::now())
    }

    /// Whether a tunnel answers a handshake at a port.
    fn answers(&mut self, tunnel: &str, port: u16) -> bool {
        // One call of two that follow each other within 20 ms is not answered.
        (0..4).any(|_| {
            let mut far = Far::call(&key("far"), key(tunnel).public_key(), port);
            (0..40).any(|_| {
                self.engine.round(clock::now()).unwrap();
                far.hears(Duration::from_millis(2))
            })
        })
    }

    fn is_open(&self, port: &str) -> bool {
        UnixStream::connect(self.run_dir.path().join(format!("{port}.sock"))).is_ok()
    }
}

/// Rounds until something has come about.
fn await_round(site: &mut Site, mut is_over: impl FnMut(&Site) -> bool) {
    for _ in 0..10_000 {
        site.engine.round(clock::now()).unwrap();
        if is_over(site) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it never came");
}

/// What `show` prints of an engine.
pub(super) fn report(engine: &mut Engine) -> State {
    let (requester, requests) = api::channel().unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&requester, None));
        while !reader.is_finished() {
            engine.take_requests(&requests, clock::now());
        }
        reader.join().unwrap().unwrap()
    })
}

/// What a command would ask for.
fn read(source: &dyn Source, part: Option<Part>) -> Result<State, SendError> {
    let all = Which::default();
    let mut state = State::from(source.status()?);
    for list in List::of(part) {
        match list {
            List::Ports => {
                state.ports = whole(LIMIT, |window, put| source.ports(&all, window, put))?
            }
            List::Uplinks => {
                state.uplinks = whole(LIMIT, |window, put| source.uplinks(&all, window, put))?
            }
            List::Tunnels => {
                state.tunnels = whole(LIMIT, |window, put| source.tunnels(&all, window, put))?
            }
            List::Peers => {
                state.peers = whole(LIMIT, |window, put| source.peers(&all, window, put))?
            }
            List::Routes => {
                state.routes = whole(LIMIT, |window, put| source.routes(&all, window, put))?
            }
            List::Neighbors => {
                state.neighbors = whole(LIMIT, |window, put| source.neighbors(&all, window, put))?
            }
            List::Cores => {
                state.cores = whole(LIMIT, |window, put| source.cores(&all, window, put))?
            }
            List::Drops => {
                state.drops = whole(LIMIT, |window, put| source.drops(&all, window, put))?
            }
        }
    }
    Ok(state)
}

/// All pages of a list, of so many items each.
fn whole<T>(limit: usize, list: impl Fn(&Window, Put<'_, T>) -> Told) -> Result<Vec<T>, SendError> {
    let (mut items, mut after) = (Vec::new(), None);
    loop {
        let before = items.len();
        after = list(&Window { after, limit }, &mut |item| items.push(item))?;
        assert!(items.len() - before <= limit);
        if after.is_none() {
            return Ok(items);
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.engine.stop();
    }
}
