//! `scripts/bench start`: from nothing to a tunnel that is ready, the memory that it then takes, and what it costs idle.
//!
//! In: the built `culvert`, Debian's wireguard-go and `wg`, root. Out: JSON lines. Start: milliseconds from the program's
//! start until all is open: Culvert with a file, when `/readyz` on its API says so; wireguard-go when `wg setconf` has
//! given it the same peers and its interface is up. Memory: resident, and its share of what is shared, a second later. Idle:
//! the processor's time of a worker that may sleep, and of either process, over ten seconds without a packet. Never: a peer
//! that answers; traffic.
//!
//! ```text
//!   namespace start:  t0 (tun) ── culvert | wireguard-go ── udp, port 51820 ── nobody
//! ```
//! Both are started in the same way, in turns, in a namespace of their own. wireguard-go is measured with one peer and with a
//! thousand: it takes its peers by `wg`, and Culvert by its file, as operators of either do. So a `wg` and an `ip` are in its
//! time; what both take that have nothing to do is printed.
//!
//! Usage: culvert-bench-start [--json] [--starts N] [--most PEERS]

#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss, reason = "times and memory, for display")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_tests::{Keys, Namespace, Part, Process, Scenario, culvert_binary, median};
use serde_json::json;

const PEERS: [usize; 3] = [1, 1_000, 100_000];
/// Beyond it wireguard-go isn't measured: it is given its peers one by one.
const PEERS_OF_OTHERS: usize = 1_000;
const PORT: u16 = 51_820;
const INTERFACE: &str = "t0";
const PATIENCE: Duration = Duration::from_secs(300);
/// Behind the start, so that what it took for that alone is given back.
const SETTLE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(10);

struct Options {
    /// Of each program with each number of peers; with the most, once.
    starts: usize,
    most: usize,
}

fn main() -> ExitCode {
    let outcome = Options::parse().and_then(|options| {
        let parts = [Part::Root, Part::Tun, Part::WireguardGo];
        Scenario::run("bench-start", &parts, |scenario| {
            measure(scenario, &options)
        })
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn parse() -> Result<Self> {
        let mut options = Self {
            starts: 3,
            most: PEERS[2],
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} takes a value"))
            };
            match word.as_str() {
                // It prints nothing else.
                "--json" => {}
                "--starts" => options.starts = value()?.parse().context("--starts")?,
                "--most" => options.most = value()?.parse().context("--most")?,
                _ => bail!("no option {word}; see the head of this program"),
            }
        }
        ensure!(options.starts > 0, "--starts takes at least 1");
        Ok(options)
    }
}

fn measure(scenario: &Scenario, options: &Options) -> Result<()> {
    let site = Site::lay(scenario)?;
    for peers in PEERS.into_iter().filter(|peers| *peers <= options.most) {
        site.write(peers)?;
        let starts = if peers == PEERS[2] { 1 } else { options.starts };
        let mut turns = Vec::new();
        for start in 0..starts {
            let is_idle_seen = (peers, start) == (1, 0);
            let own = site.start(Who::Culvert)?.figures(is_idle_seen)?;
            let other = match peers <= PEERS_OF_OTHERS {
                true => Some(site.start(Who::WireguardGo)?.figures(is_idle_seen)?),
                false => None,
            };
            turns.push((own, other));
        }
        tell(peers, &turns);
    }
    tell_tools(&site, options.starts)
}

/// Who is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Culvert,
    WireguardGo,
}

/// The namespace, and the files that either is started with.
struct Site<'s> {
    scenario: &'s Scenario,
    namespace: Namespace,
    key: PathBuf,
    /// wireguard-go's. Names of sockets that `wg` speaks to are the machine's.
    interface: String,
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        // wireguard-go leaves it behind when it is killed.
        let _ = fs::remove_file(self.wg_socket());
    }
}

/// A program that is ready.
struct Ready {
    process: Process,
    took: Duration,
    who: Who,
}

/// What a start came to.
struct Figures {
    start_ms: f64,
    rss_kib: f64,
    pss_kib: f64,
    /// In percent of a processor.
    idle: Option<f64>,
    idle_worker: Option<f64>,
}

impl<'s> Site<'s> {
    fn lay(scenario: &'s Scenario) -> Result<Self> {
        Ok(Self {
            scenario,
            namespace: Namespace::make("start")?,
            key: Keys::generate(scenario, "start")?.private_file,
            interface: format!("cv{:x}s", std::process::id()),
        })
    }

    /// The same peers as Culvert's file and as wg's.
    fn write(&self, peers: usize) -> Result<()> {
        let key = self.key.display();
        let mut own = format!(
            "version: 1\ncores: {{ workers: 1, poll: adaptive }}\nuplinks: {{ wan0: {{ driver: udp }} }}\n\
             networks: {{ n: {{ tunnel: wg0, gateway: [192.168.0.1/24] }} }}\n\
             ports: {{ {INTERFACE}: {{ driver: tun, network: n, addresses: [192.168.0.2] }} }}\n\
             tunnels:\n  wg0:\n    uplink: wan0\n    uapi: off\n    listen_port: {PORT}\n    private_key_file: {key}\n    peers:\n"
        );
        let mut others = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n",
            fs::read_to_string(&self.key)?.trim()
        );
        for peer in 0..peers {
            let (key, prefix) = (public_key(peer), prefix(peer));
            writeln!(
                own,
                "      p{peer}: {{ public_key: \"{key}\", allowed_ips: [{prefix}] }}"
            )?;
            writeln!(others, "[Peer]\nPublicKey = {key}\nAllowedIPs = {prefix}")?;
        }
        fs::write(self.culvert_file(), own)?;
        fs::write(self.wg_file(), others)?;
        let interface = &self.interface;
        let up = format!("address add 192.168.0.2/24 dev {interface}\nlink set {interface} up\n");
        fs::write(self.up_file(), up)?;
        Ok(())
    }

    fn culvert_file(&self) -> PathBuf {
        self.scenario.path("start.yaml")
    }

    fn wg_file(&self) -> PathBuf {
        self.scenario.path("start.conf")
    }

    fn start(&self, who: Who) -> Result<Ready> {
        match who {
            Who::Culvert => self.start_culvert(),
            Who::WireguardGo => self.start_wireguard_go(),
        }
    }

    fn start_culvert(&self) -> Result<Ready> {
        let run_dir = self.scenario.path("run");
        // Of an earlier start.
        let _ = fs::remove_dir_all(&run_dir);
        let mut command = self.namespace.program(culvert_binary()?);
        command
            .arg("run")
            .arg("-c")
            .arg(self.culvert_file())
            .arg("--run-dir")
            .arg(&run_dir);
        let socket = run_dir.join("api.sock");
        self.started("culvert", Who::Culvert, command, || Ok(is_ready(&socket)))
    }

    fn start_wireguard_go(&self) -> Result<Ready> {
        let interface = &self.interface;
        let mut command = self.namespace.program("wireguard-go");
        command.args(["-f", interface]).env("LOG_LEVEL", "error");
        self.started("wireguard-go", Who::WireguardGo, command, || {
            // `wg` takes away a socket on which nobody listens yet.
            if UnixStream::connect(self.wg_socket()).is_err() {
                return Ok(false);
            }
            let mut wg = Command::new("wg");
            carry_out(wg.args(["setconf", interface]).arg(self.wg_file()))?;
            carry_out(&mut self.ip(&self.up_file()))?;
            Ok(true)
        })
    }

    /// What a `wg` and an `ip` take that have nothing to do.
    fn tools_alone(&self) -> Result<Duration> {
        let begin = Instant::now();
        carry_out(Command::new("wg").arg("--version"))?;
        carry_out(&mut self.ip(Path::new("/dev/null")))?;
        Ok(begin.elapsed())
    }

    /// All lines of a file, by one process.
    fn ip(&self, lines: &Path) -> Command {
        let mut ip = Command::new("ip");
        ip.args(["-n", self.namespace.name(), "-batch"]).arg(lines);
        ip
    }

    fn up_file(&self) -> PathBuf {
        self.scenario.path("start.ip")
    }

    fn wg_socket(&self) -> PathBuf {
        PathBuf::from(format!("/var/run/wireguard/{}.sock", self.interface))
    }

    /// Looks every millisecond.
    fn started(
        &self,
        name: &str,
        who: Who,
        command: Command,
        mut is_ready: impl FnMut() -> Result<bool>,
    ) -> Result<Ready> {
        let begin = Instant::now();
        let mut process = Process::start(name, self.scenario.scratch(), command)?;
        while !is_ready()? {
            process.must_run()?;
            ensure!(
                begin.elapsed() < PATIENCE,
                "{name} was not ready within {PATIENCE:?}"
            );
            thread::sleep(Duration::from_millis(1));
        }
        Ok(Ready {
            process,
            took: begin.elapsed(),
            who,
        })
    }
}

/// Waits for its end itself: looking for it every few milliseconds would add those to what is measured.
fn carry_out(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n{said}",
        output.status
    );
    Ok(())
}

/// Whether the API says that all is open.
fn is_ready(socket: &Path) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: culvert\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

impl Ready {
    /// What it takes; then it ends.
    fn figures(mut self, and_idle: bool) -> Result<Figures> {
        thread::sleep(SETTLE);
        self.process.must_run()?;
        let pid = self.process.pid();
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let mut figures = Figures {
            start_ms: self.took.as_secs_f64() * 1e3,
            rss_kib: kib(&rollup, "Rss:")?,
            pss_kib: kib(&rollup, "Pss:")?,
            idle: None,
            idle_worker: None,
        };
        if and_idle {
            let (all, worker) = (spent(pid, "")?, spent(pid, "worker-")?);
            let begin = Instant::now();
            thread::sleep(IDLE);
            let share = |nanos: u64| nanos as f64 / 1e7 / begin.elapsed().as_secs_f64();
            figures.idle = Some(share(spent(pid, "")?.saturating_sub(all)));
            figures.idle_worker = (self.who == Who::Culvert)
                .then(|| spent(pid, "worker-"))
                .transpose()?
                .map(|now| share(now.saturating_sub(worker)));
        }
        // It takes its interface and its socket away.
        self.process.signal(rustix::process::Signal::TERM)?;
        self.process.wait(PATIENCE)?;
        Ok(figures)
    }
}

fn kib(rollup: &str, name: &str) -> Result<f64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}

/// Nanoseconds on a processor so far of the threads whose names begin so.
fn spent(pid: u32, name: &str) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let folder = task?.path();
        if fs::read_to_string(folder.join("comm"))?.starts_with(name) {
            let text = fs::read_to_string(folder.join("schedstat"))?;
            let first = text.split(' ').next().context("a time")?;
            sum += first.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// Any 32 bytes will do: nobody has the private one.
fn public_key(peer: usize) -> String {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&(peer as u64 + 1).to_le_bytes());
    STANDARD.encode(bytes)
}

fn prefix(peer: usize) -> String {
    let [_, a, b, c] = u32::try_from(peer).unwrap_or(0).to_be_bytes();
    format!("10.{a}.{b}.{c}/32")
}

/// What is in wireguard-go's time and not in Culvert's, beside what `wg` has to say.
fn tell_tools(site: &Site<'_>, turns: usize) -> Result<()> {
    let times: Vec<Duration> = (0..turns)
        .map(|_| site.tools_alone())
        .collect::<Result<_>>()?;
    let ms = median(times.iter().map(|it| it.as_secs_f64() * 1e3));
    let line = json!({
        "section": "start", "case": "start/wg and ip alone", "unit": "ms", "value": ms, "turns": turns,
        "method": "nothing of Culvert's: in wireguard-go's time",
    });
    println!("{line}");
    Ok(())
}

/// Medians of starts, in turns: how far those are apart says nothing of another run.
fn tell(peers: usize, turns: &[(Figures, Option<Figures>)]) {
    let count = match peers {
        1 => "1 peer".to_owned(),
        _ => format!("{peers} peers"),
    };
    type Read = fn(&Figures) -> Option<f64>;
    let figures: [(String, &str, Read); 5] = [
        (format!("start/{count}"), "ms", |it| Some(it.start_ms)),
        (format!("memory/{count}/rss"), "MiB", |it| {
            Some(it.rss_kib / 1024.0)
        }),
        (format!("memory/{count}/pss"), "MiB", |it| {
            Some(it.pss_kib / 1024.0)
        }),
        ("idle/process".into(), "percent", |it| it.idle),
        ("idle/worker, adaptive".into(), "percent", |it| {
            it.idle_worker
        }),
    ];
    for (case, unit, read) in figures {
        let values: Vec<f64> = turns.iter().filter_map(|(own, _)| read(own)).collect();
        if values.is_empty() {
            continue;
        }
        let mut line = json!({
            "section": "start", "case": case, "unit": unit, "value": median(values.iter().copied()), "turns": values.len(),
        });
        let others = turns.iter().filter_map(|(_, other)| read(other.as_ref()?));
        let others: Vec<f64> = others.collect();
        if !others.is_empty() {
            let ratios = others.iter().zip(&values).map(|(other, own)| other / own);
            line["reference"] = json!("wireguard-go");
            line["reference_value"] = json!(median(others.iter().copied()));
            line["ratio"] = json!(median(ratios));
        }
        println!("{line}");
    }
}
