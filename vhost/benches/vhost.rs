//! A vhost-user port against DPDK's `net_vhost`, each with a guest of the same kind.
//!
//! In: dpdk-testpmd, 1 GiB of 2 MiB pages, two processors. Out: packets per second, as medians,
//! and the median of the paired ratios.
//! Never: a comparison of runs that were not next to each other in time: two virtual processors
//! are now near each other and now far, and every figure moves with that.
//!
//! ```text
//!   processor 1                        processor 0
//!   testpmd, net_virtio_user  ──────   one thread of this program that polls a Port
//!   testpmd, net_virtio_user  ──────   testpmd, net_vhost
//! ```
//! The pairs take turns; who doesn't measure sleeps. The guest's own statistics are the
//! measure, in both directions. What the hosts do with a frame is the same: from the guest, all
//! of it is copied out of guest memory into a private buffer (`net_vhost` fills an mbuf, and
//! testpmd frees it); to the guest, each frame's headers are written anew into a private buffer
//! (testpmd's txonly) that is then copied into the guest's. Bursts are of 32. The guests take the
//! faster of net_virtio_user's paths for each layout, or else a guest would be what is measured.
//!
//! Usage: cargo bench -p culvert-vhost --bench vhost --
//!        [--json] [--pairs N] [--case TEXT] [--guest OPTIONS_OF_NET_VIRTIO_USER]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use culvert_vhost::{Port, PortConfig};
use culvert_wire::{MacAddr, VnetHeader};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The processors of hosts and guests.
const HOST: usize = 0;
const GUEST: usize = 1;
const BURST: usize = 32;
/// How long a host and a guest run before they are measured, and how long they are.
const WARM: Duration = Duration::from_millis(150);
const SPAN: Duration = Duration::from_millis(500);
/// Layouts, with the options of their guests.
const GUESTS: [(&str, &str, &str); 2] = [
    ("split", "packed_vq=0", "mrg_rxbuf=1,in_order=1"),
    (
        "packed",
        "packed_vq=1",
        "mrg_rxbuf=0,in_order=1,vectorized=1",
    ),
];
/// How long testpmd may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

struct Options {
    json: bool,
    pairs: usize,
    case: String,
    /// net_virtio_user's options beyond the layout, instead of the usual ones.
    guest: Option<String>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self {
            json: false,
            pairs: 21,
            case: String::new(),
            guest: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--json" => options.json = true,
                "--pairs" => {
                    let number = words.next().and_then(|word| word.parse().ok());
                    options.pairs = number.expect("--pairs takes a number");
                }
                "--case" => options.case = words.next().expect("--case takes a text"),
                "--guest" => options.guest = words.next(),
                // Cargo's own.
                "--bench" => {}
                _ => panic!("no option {word}"),
            }
        }
        assert!(options.pairs > 0, "--pairs takes at least 1");
        options
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromGuest,
    ToGuest,
}

struct Case {
    name: String,
    direction: Direction,
    size: usize,
    /// What is to be reached.
    target: f64,
}

fn cases(layout: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, direction) in [
        ("guest-to-host", Direction::FromGuest),
        ("host-to-guest", Direction::ToGuest),
    ] {
        for size in [64, 1518] {
            let is_small = direction == Direction::ToGuest && size == 64;
            cases.push(Case {
                name: format!("{name}/{layout}/{size}"),
                direction,
                size,
                target: if is_small { 1.3 } else { 1.0 },
            });
        }
    }
    cases
}

fn main() {
    let options = Options::parse();
    let folder = std::env::temp_dir().join(format!("cv-{}-1", std::process::id()));
    std::fs::create_dir(&folder).expect("a scratch folder");
    if !options.json {
        println!(
            "{:28} {:>13} {:>14} {:>7} {:>15} {:>7}",
            "Mpps, medians", "culvert", "dpdk net_vhost", "ratio", "least .. most", "target"
        );
    }
    for (layout, ring, usual) in GUESTS {
        let ring = format!("{ring},{}", options.guest.as_deref().unwrap_or(usual));
        let mut cases = cases(layout);
        cases.retain(|case| case.name.contains(&options.case));
        if cases.is_empty() {
            continue;
        }
        let mut own = Own::start(&folder.join(format!("own-{layout}")), &ring);
        let mut reference = Reference::start(&folder.join(format!("reference-{layout}")), &ring);
        for case in &cases {
            eprint!("{}:", case.name);
            let pairs: Vec<(f64, f64)> = (0..options.pairs)
                .map(|round| {
                    // Who comes first alternates.
                    let pair = if round % 2 == 0 {
                        let value = own.measure(case);
                        (value, reference.measure(case))
                    } else {
                        let value = reference.measure(case);
                        (own.measure(case), value)
                    };
                    eprint!(" {:.1}/{:.1}", pair.0, pair.1);
                    pair
                })
                .collect();
            eprintln!();
            report(case, &pairs, options.json);
        }
    }
    let _ = std::fs::remove_dir_all(&folder);
}

fn report(case: &Case, pairs: &[(f64, f64)], json: bool) {
    let value = median(pairs.iter().map(|pair| pair.0));
    let reference = median(pairs.iter().map(|pair| pair.1));
    let ratios = || pairs.iter().map(|pair| pair.0 / pair.1);
    let ratio = median(ratios());
    if json {
        println!(
            "{{\"section\":\"vhost\",\"case\":\"{}\",\"unit\":\"Mpps\",\"value\":{value:.3},\
             \"reference\":\"dpdk net_vhost\",\"reference_value\":{reference:.3},\"ratio\":{ratio:.3},\"pairs\":{}}}",
            case.name,
            pairs.len()
        );
    } else {
        let least = ratios().fold(f64::INFINITY, f64::min);
        let most = ratios().fold(0.0, f64::max);
        println!(
            "{:28} {value:>13.2} {reference:>14.2} {ratio:>7.2} {:>15} {:>7.1}{}",
            case.name,
            format!("{least:.2} .. {most:.2}"),
            case.target,
            if ratio < case.target { "  short" } else { "" }
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// A port of ours and its guest.
struct Own {
    guest: Testpmd,
    host: Host,
}

impl Own {
    fn start(socket: &Path, ring: &str) -> Self {
        let host = Host::start(socket);
        Self {
            guest: Testpmd::guest(socket, ring),
            host,
        }
    }

    fn measure(&mut self, case: &Case) -> f64 {
        match case.direction {
            Direction::FromGuest => {
                self.host.work(SINK);
                let rate = self.guest.measure(case);
                self.host.work(IDLE);
                rate
            }
            Direction::ToGuest => {
                self.host.work(case.size);
                let rate = self.guest.measure(case);
                self.host.work(IDLE);
                rate
            }
        }
    }
}

/// DPDK's port and its guest.
struct Reference {
    guest: Testpmd,
    host: Testpmd,
}

impl Reference {
    fn start(socket: &Path, ring: &str) -> Self {
        let device = format!("net_vhost0,iface={},queues=1", socket.display());
        let host = Testpmd::start("reference host", &device, HOST);
        Self {
            guest: Testpmd::guest(socket, ring),
            host,
        }
    }

    fn measure(&mut self, case: &Case) -> f64 {
        let is_sender = case.direction == Direction::ToGuest;
        self.host.forward(is_sender, case.size);
        let rate = self.guest.measure(case);
        self.host.halt();
        rate
    }
}

const IDLE: usize = 0;
const SINK: usize = 1;

/// The thread that polls our port.
struct Host {
    /// [`IDLE`], [`SINK`], or the size of the frames to send.
    work: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    fn start(socket: &Path) -> Self {
        let config = PortConfig::new("bench", socket, MacAddr([0x52, 0x54, 0, 0, 0, 1]));
        let port = Port::open(config, |_| {}).expect("a port");
        let work = Arc::new(AtomicUsize::new(IDLE));
        let shared = Arc::clone(&work);
        let thread = std::thread::spawn(move || poll(&port, &shared));
        Self {
            work,
            thread: Some(thread),
        }
    }

    fn work(&self, work: usize) {
        self.work.store(work, Ordering::SeqCst);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.work(usize::MAX);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(port: &Port, work: &AtomicUsize) {
    let mut processors = CpuSet::new();
    processors.set(HOST);
    sched_setaffinity(None, &processors).expect("a processor to be pinned to");
    let mut buffers = vec![[0x5au8; 2176]; 2 * BURST];
    // Ethernet, IPv4 and UDP, as txonly writes them.
    let headers: [u8; 42] = std::array::from_fn(|at| if at == 12 { 8 } else { 0x11 });
    loop {
        match work.load(Ordering::Relaxed) {
            IDLE => std::thread::park(),
            SINK => sink(port, &mut buffers),
            usize::MAX => return,
            size => source(port, &mut buffers, &headers, size),
        }
    }
}

/// Takes a burst from the guest, all of it copied into private buffers.
fn sink(port: &Port, buffers: &mut [[u8; 2176]]) {
    let Some(mut tx) = port.guest_tx(0).try_lock() else {
        return;
    };
    let frames = tx.fetch(BURST);
    for (index, buffer) in buffers.iter_mut().enumerate().take(frames) {
        let frame = tx.frame(index);
        let head = frame.head();
        buffer[..head.len()].copy_from_slice(head);
        if head.len() < frame.len as usize {
            // The burst's ranges begin where the private copy ends.
            let offset = u32::try_from(head.len()).expect("at most 256");
            tx.copy(index, offset, &mut buffer[head.len()..]);
        }
    }
    std::hint::black_box(&mut *buffers);
    tx.complete(frames);
}

/// Sends a burst to the guest, each frame with its headers written anew.
fn source(port: &Port, buffers: &mut [[u8; 2176]], headers: &[u8; 42], size: usize) {
    let Ok(mut rx) = port.guest_rx(0).try_lock() else {
        return;
    };
    rx.expect(BURST);
    for buffer in buffers.iter_mut().take(BURST) {
        buffer[..headers.len()].copy_from_slice(headers);
    }
    std::hint::black_box(&mut *buffers);
    for buffer in buffers.iter().take(BURST) {
        let sent = rx.deliver(&VnetHeader::default(), &[&buffer[..size]]);
        if sent.is_err() {
            break;
        }
    }
}

/// A testpmd at its prompt.
struct Testpmd {
    name: &'static str,
    child: Child,
    commands: ChildStdin,
    lines: Receiver<String>,
}

impl Testpmd {
    fn guest(socket: &Path, ring: &str) -> Self {
        let device = format!(
            "net_virtio_user0,path={},queues=1,queue_size=256,{ring}",
            socket.display()
        );
        Self::start("guest", &device, GUEST)
    }

    fn start(name: &'static str, device: &str, processor: usize) -> Self {
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        // To a pipe, testpmd would hold its answers back.
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "stdbuf", "-oL", "dpdk-testpmd"])
            .arg(format!("--lcores=0@(0,1),1@{processor}"))
            .args(["--no-pci", "--in-memory", "--no-telemetry"])
            // The vectorised path of a packed ring wants AVX-512.
            .args(["--force-max-simd-bitwidth=512"])
            .args(["-m", "192", "--single-file-segments"])
            .arg(format!("--file-prefix=cv{}-{serial}", std::process::id()))
            .args(["--vdev", device, "--", "-i", "--total-num-mbufs=16384"])
            .args(["--no-lsc-interrupt", "--disable-link-check"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("dpdk-testpmd (package dpdk-dev), setpriv and stdbuf");
        let output = BufReader::new(child.stdout.take().expect("a piped output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let commands = child.stdin.take().expect("a piped input");
        let mut own = Self {
            name,
            child,
            commands,
            lines,
        };
        own.ask("show port stats 0", "Tx-pps:");
        own
    }

    fn tell(&mut self, command: &str) {
        writeln!(self.commands, "{command}").expect("a testpmd that runs");
    }

    /// Gives a command and waits for a line; returns it.
    fn ask(&mut self, command: &str, answer: &str) -> String {
        self.tell(command);
        self.hear(command, answer)
    }

    fn hear(&mut self, command: &str, answer: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(answer) => return line,
                Ok(_) => {}
                Err(_) => panic!(
                    "{} (dpdk-testpmd) did not answer '{command}'; has the machine 1 GiB of huge pages?",
                    self.name
                ),
            }
        }
    }

    fn forward(&mut self, is_sender: bool, size: usize) {
        if is_sender {
            self.tell("set fwd txonly");
            self.tell(&format!("set txpkts {size}"));
        } else {
            self.tell("set fwd rxonly");
        }
        self.ask("start", "packet forwarding - ports=1");
    }

    fn halt(&mut self) {
        self.ask("stop", "Done.");
    }

    /// As the guest: sends or receives for a while; returns its Mpps.
    fn measure(&mut self, case: &Case) -> f64 {
        let is_sender = case.direction == Direction::FromGuest;
        self.forward(is_sender, case.size);
        std::thread::sleep(WARM);
        self.ask("show port stats 0", "Tx-pps:");
        std::thread::sleep(SPAN);
        self.tell("show port stats 0");
        let received = self.hear("show port stats 0", "Rx-pps:");
        let sent = self.hear("show port stats 0", "Tx-pps:");
        self.halt();
        let line = if is_sender { sent } else { received };
        let mut words = line.split_whitespace();
        let rate = words.nth(1).and_then(|word| word.parse::<f64>().ok());
        rate.expect("a rate in testpmd's statistics") / 1e6
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
