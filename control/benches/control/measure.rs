//! The cases.
//!
//! In: how many peers, how often. Out: figures, as they are found. Never: an assertion about a time.

use std::{
    cell::RefCell,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use axum::http::Method;
use culvert::{keys::PublicKey, state::Part};

use crate::{
    flood::{Caller, Flood},
    process::{Peers, Running, Wg, key, prefix},
};

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) peers: usize,
    /// Changes by `wg`.
    pub(crate) sets: usize,
    /// Files and reads.
    pub(crate) rounds: usize,
    /// Ports that come and go, and how many do in a second.
    pub(crate) churn: (usize, u32),
    /// Between cases: the core tells of its last two seconds.
    pub(crate) rest: Duration,
}

impl Size {
    /// What shows that the cases can be measured.
    pub(crate) const SMOKE: Self = Self {
        peers: 600,
        sets: 5,
        rounds: 1,
        churn: (20, 100),
        rest: Duration::ZERO,
    };
}

/// One line.
pub(crate) struct Figure {
    pub(crate) case: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    /// At most so much, of 100,000 peers if the case names no other number.
    pub(crate) goal: Option<f64>,
}

/// Peers of a machine whose metrics are read.
const SCRAPED: usize = 1_000;

/// Sessions that a peer wants in a round of the case of a flood alone.
const SESSIONS: usize = 20;

/// Prefixes of each peer in the case of many.
const MANY: usize = 10;

/// Measures everything, or the parts that have a text in their names.
pub(crate) fn all(size: Size, part: Option<&str>, print: impl Fn(&Figure)) {
    let print = |case: &str, unit, value, goal| {
        print(&Figure {
            case: case.into(),
            unit,
            value,
            goal,
        });
    };
    let peers = Peers {
        count: size.peers,
        prefixes: 1,
        turn: 0,
    };
    let wants = |name: &str| part.is_none_or(|part| name.contains(part));
    if wants("peers") || wants("further-prefixes") {
        let idle = Running::start(Peers { count: 1, ..peers }).resident();
        let running = Running::start(peers);
        let one = running.resident();
        if wants("peers") {
            one_prefix(&running, size, peers, idle, print);
        }
        drop(running);
        if wants("further-prefixes") {
            further_prefixes(peers, one, print);
        }
    }
    if wants("many-prefixes") {
        many_prefixes(peers, print);
    }
    if wants("metrics") {
        metrics(size, peers, print);
    }
}

fn each(bytes: f64, of: usize) -> f64 {
    bytes / f64::from(u32::try_from(of).unwrap())
}

/// Peers with one prefix each; `idle` is what the process takes without them.
fn one_prefix(
    running: &Running,
    size: Size,
    peers: Peers,
    idle: f64,
    print: impl Fn(&str, &'static str, f64, Option<f64>),
) {
    let one = running.resident();
    print("start", "ms", millis(running.start), None);
    let peer = each(one - idle, size.peers);
    print("memory/idle-peer", "B", peer, Some(2_048.0));
    let grown = |case, goal| {
        let grown = (running.resident() - idle) / (one - idle) * 100.0;
        print(case, "%", grown, goal);
    };
    files(running, size, peers, &print);
    // What a file took is given back behind the answer.
    thread::sleep(size.rest);
    grown("memory/after-files", Some(100.0));
    sets(running, size, &print);
    objects(running, size, &print);
    churn(running, size, &print);
    reads(running, size, &print);
    grown("memory/after-reads", None);
    flooded(running, size, &print);
}

fn further_prefixes(peers: Peers, one: f64, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let prefixes = 5;
    let running = Running::start(Peers { prefixes, ..peers });
    let further = each(running.resident() - one, peers.count * (prefixes - 1));
    print("memory/further-prefix", "B", further, Some(150.0));
}

/// A file with a million prefixes, if there are as many peers as there should be.
fn many_prefixes(peers: Peers, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let prefixes = MANY;
    let running = Running::start(Peers { prefixes, ..peers });
    let goal = Some(10_000.0);
    print("many-prefixes/start", "ms", millis(running.start), goal);
    let goal = Some(5_000.0);
    print("many-prefixes/check", "ms", millis(running.check()), goal);
    let peer = each(running.resident(), peers.count);
    print("many-prefixes/memory-each-peer", "B", peer, None);
}

fn metrics(size: Size, peers: Peers, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let count = size.peers.min(SCRAPED);
    let running = Running::start(Peers { count, ..peers });
    let seen = watch(&running, size, |_| {
        let series = "culvert_peer_receive_bytes_total{";
        assert_eq!(running.metrics().matches(series).count(), count);
    });
    print("metrics-1000/whole", "ms", millis(seen.whole), None);
    print("metrics-1000/core", "ms", millis(seen.core), Some(5.0));
}

/// Who asks changes nothing.
fn reads(running: &Running, size: Size, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let mut wg = running.wg();
    let seen = watch(running, size, |_| {
        assert!(running.state(Some(Part::Cores)).peers.is_empty());
    });
    seen.print("show-cores", (None, 1.0), &print);
    let seen = watch(running, size, |_| {
        assert_eq!(running.state(None).peers.len(), size.peers);
    });
    seen.print("show", (None, 1.0), &print);
    let seen = watch(running, size, |_| {
        assert_eq!(wg.get().matches("public_key=").count(), size.peers)
    });
    seen.print("wg-show", (None, 1.0), &print);
}

/// Everything is read while strangers call without end: what readers wait for, and a peer that calls among them.
fn flooded(running: &Running, size: Size, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let identity = running.state(None).tunnels[0].public_key.take();
    let identity: PublicKey = identity.unwrap().parse().unwrap();
    let caller = RefCell::new(Caller::new([0xca; 32], identity, running.port()));
    let (key, prefix) = (caller.borrow().public_key(), prefix(size.peers, 0));
    let add = format!("public_key={}\nallowed_ip={prefix}\n", hex(key.as_bytes()));
    running.wg().set(&add);
    let tell = |case: &str, seen: Seen, sessions: &[Duration]| {
        let name = |what: &str| format!("{case}/{what}");
        print(&name("whole"), "ms", millis(seen.whole), None);
        print(&name("core-at-a-stretch"), "ms", millis(seen.longest), None);
        let (median, longest) = middle_and_last(sessions);
        print(&name("session"), "ms", millis(median), None);
        print(&name("session-longest"), "ms", millis(longest), None);
    };
    let flood = Flood::start(identity, running.port());
    let mut sessions = Vec::new();
    let seen = watch(running, size, |_| {
        sessions.extend((0..SESSIONS).map(|_| caller.borrow_mut().session()));
    });
    tell("flood", seen, &sessions);
    let (mut sessions, mut caller) = (Vec::new(), caller.into_inner());
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let ended = Over(&over);
        let calls = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) || sessions.is_empty() {
                sessions.push(caller.session());
            }
        });
        let seen = watch(running, size, |_| {
            assert_eq!(running.state(None).peers.len(), size.peers + 1);
        });
        drop(ended);
        calls.join().unwrap();
        seen
    });
    drop(flood);
    tell("flood-and-show", seen, &sessions);
    running.wg().set(&format!(
        "public_key={}\nremove=true\n",
        hex(key.as_bytes())
    ));
}

fn middle_and_last(times: &[Duration]) -> (Duration, Duration) {
    let mut times = times.to_vec();
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// What `wg` changes of one peer.
fn sets(running: &Running, size: Size, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let wg = RefCell::new(running.wg());
    let case = |name: &str, lines: &dyn Fn(usize) -> String| {
        let set = |round| wg.borrow_mut().set(&lines(round));
        costs(running, size, &format!("wg-set/{name}"), set, &print);
    };
    let peer = |number: usize| format!("public_key={}\n", hex(&key(number)));
    case("change", &|round| {
        let number = size.peers / 3 + round / 2;
        let prefix = prefix(number, 1 - round % 2);
        format!(
            "{}replace_allowed_ips=true\nallowed_ip={prefix}\n",
            peer(number)
        )
    });
    case("add", &|round| {
        let number = size.peers + round;
        format!("{}allowed_ip={}\n", peer(number), prefix(number, 0))
    });
    case("remove", &|round| {
        format!("{}remove=true\n", peer(size.peers + round))
    });
}

/// Ports and peers that come and go beside the file.
fn objects(running: &Running, size: Size, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    let case = |name: &str,
                method: &Method,
                path: &dyn Fn(usize) -> String,
                keys: &dyn Fn(usize) -> String| {
        let change = |round| running.change(method.clone(), &path(round), keys(round));
        costs(running, size, &format!("layer/{name}"), change, &print);
    };
    let port = |round: usize| format!("/v1/ports/v{round}");
    let [put, patch, delete] = [Method::PUT, Method::PATCH, Method::DELETE];
    let nothing = |_| String::new();
    case("port-add", &put, &port, &|round| {
        let [.., a, b] = round.to_be_bytes();
        format!("{{network: n, mac: \"52:54:00:00:{a:02x}:{b:02x}\"}}")
    });
    case("port-del", &delete, &port, &nothing);
    let peer = |round: usize| format!("/v1/tunnels/{}/peers/l{round}", running.tunnel());
    let peer_keys = |round: usize, keepalive: &str| {
        let number = size.peers + size.sets + round;
        let key = PublicKey::from_bytes(key(number)).to_base64();
        let prefix = prefix(number, 0);
        format!(
            "{{public_key: \"{key}\", allowed_ips: [{prefix}], persistent_keepalive: {keepalive}}}"
        )
    };
    case("peer-add", &put, &peer, &|round| peer_keys(round, "off"));
    case("peer-set", &patch, &peer, &|round| peer_keys(round, "25s"));
    case("peer-del", &delete, &peer, &nothing);
}

/// Ports that are there at a time while they come and go.
const PRESENT: usize = 500;

/// Ports come and go beside the file, at a steady pace; each has its socket and its thread, and no guest.
fn churn(running: &Running, size: Size, print: impl Fn(&str, &'static str, f64, Option<f64>)) {
    thread::sleep(size.rest);
    let (changes, pace) = size.churn;
    let done = AtomicBool::new(false);
    let (begin, before) = (Instant::now(), running.core_time());
    let mut late = Duration::ZERO;
    let longest = thread::scope(|scope| {
        let over = Over(&done);
        let longest = scope.spawn(|| longest_turn(running, &done));
        for number in 0..changes {
            let due = Duration::from_secs(1) / pace * u32::try_from(number).unwrap();
            thread::sleep(due.saturating_sub(begin.elapsed()));
            come_or_go(running, number);
            late = late.max(begin.elapsed().saturating_sub(due));
        }
        // What is told of the last second is told then.
        thread::sleep(size.rest);
        drop(over);
        longest.join().unwrap()
    });
    let each = (running.core_time() - before) / u32::try_from(changes).unwrap();
    print(
        "churn/changes",
        "",
        f64::from(u32::try_from(changes).unwrap()),
        None,
    );
    print("churn/core", "µs", micros(each), Some(2_000.0));
    print("churn/latest-answer", "ms", millis(late), None);
    print(
        "churn/workers-longest-turn",
        "µs",
        micros(longest),
        Some(1_000.0),
    );
}

/// Even changes add a port, odd ones remove the one that was added longest ago, once there are as many as should be.
fn come_or_go(running: &Running, change: usize) {
    let port = |number: usize| format!("/v1/ports/c{number}");
    if change < PRESENT || change.is_multiple_of(2) {
        let number = match change < PRESENT {
            true => change,
            false => PRESENT + (change - PRESENT) / 2,
        };
        let [.., a, b] = number.to_be_bytes();
        let keys = format!("{{network: n, mac: \"52:54:00:01:{a:02x}:{b:02x}\"}}");
        running.change(Method::PUT, &port(number), keys);
    } else {
        let gone = port((change - PRESENT) / 2);
        running.change(Method::DELETE, &gone, String::new());
    }
}

/// The longest turn of any worker until it is done.
fn longest_turn(running: &Running, done: &AtomicBool) -> Duration {
    let mut longest = 0;
    while !done.load(Ordering::Relaxed) {
        let cores = running.state(Some(Part::Cores)).cores;
        let turns = cores[1..].iter().filter_map(|it| it.longest_us);
        longest = longest.max(turns.max().unwrap_or_default());
        thread::sleep(Duration::from_millis(500));
    }
    Duration::from_micros(longest)
}

/// What each of many changes of one thing costs the core.
fn costs(
    running: &Running,
    size: Size,
    name: &str,
    mut change: impl FnMut(usize),
    print: &impl Fn(&str, &'static str, f64, Option<f64>),
) {
    let mut times: Vec<_> = (0..size.sets)
        .map(|round| {
            let before = running.core_time();
            change(round);
            // It goes to sleep again.
            thread::sleep(Duration::from_millis(2));
            running.core_time() - before
        })
        .collect();
    times.sort_unstable();
    let (median, high) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    print(&format!("{name}/core"), "µs", micros(median), Some(2_000.0));
    print(
        &format!("{name}/core-p99"),
        "µs",
        micros(high),
        Some(2_000.0),
    );
}

/// Files: with nothing new, and with one changed peer. They are made before.
fn files(
    running: &Running,
    size: Size,
    peers: Peers,
    print: impl Fn(&str, &'static str, f64, Option<f64>),
) {
    let file = running.file(peers);
    let seen = watch(running, size, |_| {
        assert_eq!(running.apply(&file).changes, [""; 0]);
    });
    seen.print("file/unchanged", (None, 5.0), &print);
    let turned = |turn| Peers { turn, ..peers };
    let turns = 1..=size.rounds;
    let files: Vec<_> = turns.map(|turn| running.file(turned(turn))).collect();
    let seen = watch(running, size, |round| {
        assert_eq!(running.apply(&files[round]).changes.len(), 1);
    });
    seen.print("file/one-peer", (Some(300.0), 5.0), &print);
    drop(files);
    let turns = size.rounds + 1..=2 * size.rounds;
    let paths = turns.map(|turn| running.write(&format!("{turn}.yaml"), turned(turn)));
    let paths: Vec<_> = paths.collect();
    let seen = watch(running, size, |round| {
        running.apply_by_command(&paths[round])
    });
    seen.print("file/one-peer-by-command", (Some(300.0), 5.0), &print);
}

/// What something took, while another asked for little all the time.
struct Seen {
    /// From request to answer: the median.
    whole: Duration,
    /// Of the core: the median.
    core: Duration,
    /// Of the core at a stretch, as it says itself: the longest.
    longest: Duration,
    /// The same, without what others had of its processor in between.
    heaviest: Duration,
    /// How long the other had to wait: the longest.
    held_up: Duration,
}

impl Seen {
    fn print(
        &self,
        case: &str,
        (goal, stretch): (Option<f64>, f64),
        print: &impl Fn(&str, &'static str, f64, Option<f64>),
    ) {
        print(&format!("{case}/whole"), "ms", millis(self.whole), goal);
        print(&format!("{case}/core"), "ms", millis(self.core), None);
        let name = format!("{case}/core-at-a-stretch");
        print(&name, "ms", millis(self.longest), Some(stretch));
        let name = format!("{case}/core-at-a-stretch-cpu");
        print(&name, "ms", millis(self.heaviest), Some(stretch));
        print(
            &format!("{case}/others-wait"),
            "ms",
            millis(self.held_up),
            None,
        );
    }
}

fn watch(running: &Running, size: Size, mut act: impl FnMut(usize)) -> Seen {
    // What was before is no longer the longest.
    thread::sleep(size.rest);
    let mut other = running.wg();
    let done = AtomicBool::new(false);
    let (mut wholes, mut cores) = (Vec::new(), Vec::new());
    let (longest, heaviest, held_up) = thread::scope(|scope| {
        // When it panics, too.
        let over = Over(&done);
        let waits = scope.spawn(|| longest(running, &mut other, &done));
        for round in 0..size.rounds {
            let (begin, before) = (Instant::now(), running.core_time());
            act(round);
            wholes.push(begin.elapsed());
            cores.push(running.core_time() - before);
        }
        drop(over);
        waits.join().unwrap()
    });
    wholes.sort_unstable();
    cores.sort_unstable();
    Seen {
        whole: wholes[size.rounds / 2],
        core: cores[size.rounds / 2],
        longest,
        heaviest,
        held_up,
    }
}

/// Says when dropped that it is over.
struct Over<'d>(&'d AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks for the removal of a peer that is not there, again and again. The core's longest stretch of work, the most that
/// it had of a processor in one, and the longest wait.
fn longest(running: &Running, wg: &mut Wg, done: &AtomicBool) -> (Duration, Duration, Duration) {
    let request = format!("public_key={}\nremove=true\n", hex(&[7; 32]));
    let (mut stretch, mut spent, mut wait) = (0, 0, Duration::ZERO);
    let mut goes_on = true;
    while goes_on {
        // Once more after the last.
        goes_on = !done.load(Ordering::Relaxed);
        let begin = Instant::now();
        wg.set(&request);
        wait = wait.max(begin.elapsed());
        let cores = running.state(Some(Part::Cores)).cores;
        stretch = stretch.max(cores[0].longest_us.unwrap_or_default());
        spent = spent.max(cores[0].longest_cpu_us.unwrap_or_default());
        thread::sleep(Duration::from_millis(1));
    }
    let [stretch, spent] = [stretch, spent].map(Duration::from_micros);
    (stretch, spent, wait)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}
