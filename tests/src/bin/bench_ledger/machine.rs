//! What figures depend on: the machine, what was built, how.
//!
//! In: `/proc`, `/sys`, the compiler, the package and the repository, as far as they are there. Out: texts by name. Never: a
//! name of the machine, an address, a serial number.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// All that is known when a run begins.
pub(crate) fn facts() -> BTreeMap<String, String> {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let known = [
        ("processor", field(&cpuinfo, "model name")),
        ("processors", Some(usable().len().to_string())),
        ("microcode", field(&cpuinfo, "microcode")),
        (
            "virtual",
            field(&cpuinfo, "flags").map(|flags| is_virtual(&flags).into()),
        ),
        ("cores", distance()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("hugepages", hugepages()),
        (
            "governor",
            read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ),
        (
            "load",
            read("/proc/loadavg").map(|text| text.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ),
        ("compiler", said("rustc", &["--version"])),
        (
            "dpdk",
            said("dpkg-query", &["-W", "-f", "${Version}", "libdpdk-dev"]),
        ),
        ("commit", said("git", &["describe", "--always", "--dirty"])),
        ("date", said("date", &["-u", "+%FT%TZ"])),
    ];
    let known = known
        .into_iter()
        .filter_map(|(name, fact)| Some((name.to_owned(), fact?)));
    known.collect()
}

/// What the processors' time went into so far, in ticks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ticks {
    all: u64,
    stolen: u64,
}

impl Ticks {
    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal. What follows is in the first two.
    pub(crate) fn now() -> Self {
        let stat = read("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let columns = line.split_ascii_whitespace().skip(1).take(8);
        let columns: Vec<u64> = columns.flat_map(str::parse).collect();
        Self {
            all: columns.iter().sum(),
            stolen: columns.get(7).copied().unwrap_or(0),
        }
    }

    /// The share that others had since.
    pub(crate) fn stolen_since(self, earlier: Self) -> f64 {
        let all = self.all.saturating_sub(earlier.all).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a share, for display")]
        let share = self.stolen.saturating_sub(earlier.stolen) as f64 / all as f64;
        share
    }
}

/// How long a cache line takes from the first processor to the second and back: how near they are, which a virtual
/// machine's topology does not tell.
pub(crate) fn cache_line() -> String {
    match usable()[..] {
        [one, other, ..] => match there_and_back(one, other) {
            Some(time) => format!("{:.0} ns", time.as_secs_f64() * 1e9),
            None => "unknown".into(),
        },
        _ => "one processor".into(),
    }
}

/// A batch's turns. The fastest batch counts: in others somebody else had a processor.
const TURNS: u32 = 1_000;
const BATCHES: u32 = 200;
/// What ends the other side.
const END: u32 = u32::MAX;

fn there_and_back(one: usize, other: usize) -> Option<Duration> {
    let line = AtomicU32::new(0);
    thread::scope(|threads| {
        // Even numbers are the first processor's to answer, odd ones the second's.
        threads.spawn(|| {
            if pin(other).is_err() {
                return;
            }
            loop {
                match line.load(Ordering::Acquire) {
                    END => break,
                    turn if turn % 2 == 1 => line.store(turn + 1, Ordering::Release),
                    _ => std::hint::spin_loop(),
                }
            }
        });
        // On a thread of its own, so that the caller stays where it may run.
        let measured = threads.spawn(|| {
            let mut best = None;
            if pin(one).is_ok() {
                best = (0..BATCHES).map_while(|_| batch(&line)).min();
            }
            line.store(END, Ordering::Release);
            best
        });
        measured.join().ok().flatten()
    })
}

/// A turn's time in the mean of a batch; nothing if the other side does not answer.
fn batch(line: &AtomicU32) -> Option<Duration> {
    let begin = Instant::now();
    for turn in 0..TURNS {
        line.store(2 * turn + 1, Ordering::Release);
        while line.load(Ordering::Acquire) != 2 * turn + 2 {
            if begin.elapsed() > Duration::from_secs(1) {
                return None;
            }
            std::hint::spin_loop();
        }
    }
    Some(begin.elapsed() / TURNS)
}

fn pin(cpu: usize) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
}

fn usable() -> Vec<usize> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::MAX_CPU)
        .filter(|cpu| set.is_set(*cpu))
        .collect()
}

/// What the kernel says of the first two processors, which of a virtual machine's is as true as its host likes.
fn distance() -> Option<String> {
    let [one, other, ..] = usable()[..] else {
        return Some("one".into());
    };
    let is_same = |name: &str| {
        let of = |cpu: usize| read(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}"));
        Some(of(one)? == of(other)?)
    };
    let words = match (is_same("physical_package_id")?, is_same("core_id")?) {
        (true, true) => "two threads of one core",
        (true, false) => "two cores of one package",
        (false, _) => "two packages",
    };
    Some(words.into())
}

fn is_virtual(flags: &str) -> &'static str {
    match flags.split(' ').any(|flag| flag == "hypervisor") {
        true => "yes",
        false => "no",
    }
}

fn hugepages() -> Option<String> {
    let meminfo = read("/proc/meminfo")?;
    let of = |name| field(&meminfo, name).unwrap_or_default();
    Some(format!(
        "{} free of {}, {} each",
        of("HugePages_Free"),
        of("HugePages_Total"),
        of("Hugepagesize")
    ))
}

/// The first `name : value` of a text.
fn field(text: &str, name: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut found = pairs.filter(|(key, _)| key.trim() == name);
    found.next().map(|(_, value)| value.trim().to_owned())
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn said(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
