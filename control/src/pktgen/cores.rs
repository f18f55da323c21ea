//! Where threads run: the generator on a processor of its own, the device's worker on another, if there are two.
//!
//! In: processors that this process may use, what an operator asks for. Out: pinned threads, in words how near they are,
//! the time that others had. Never: two threads on one processor without saying so.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Who runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The generator's.
    pub generator: u16,
    /// The workers' of devices that are started: one at least.
    pub workers: Vec<u16>,
}

/// What a processor's time went into, in ticks since the start of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ticks {
    all: u64,
    stolen: u64,
}

/// The columns of `/proc/stat` that make up a processor's time; the eighth is stolen. Guests' time is in others already.
const COLUMNS: usize = 8;

impl Cores {
    /// The last two processors that this process may use, of two cores if there are two, but for what was asked for: no
    /// workers are one.
    ///
    /// # Errors
    /// One that it may not use.
    pub fn choose(generator: Option<u16>, workers: &[u16]) -> Result<Self, String> {
        let usable = usable();
        for cpu in generator.iter().chain(workers) {
            if !usable.contains(cpu) {
                return Err(format!(
                    "this process may not run on CPU {cpu}, but on {}",
                    listed(&usable)
                ));
            }
        }
        let generator = generator.unwrap_or_else(|| free(&usable, workers, Distance::of));
        let mut workers = workers.to_vec();
        if workers.is_empty() {
            workers.push(free(&usable, &[generator], Distance::of));
        }
        Ok(Self { generator, workers })
    }

    /// Whether generator and device take turns on one processor.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.workers.contains(&self.generator)
    }

    /// Keeps the calling thread on the generator's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pin(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(usize::from(self.generator));
        Ok(sched_setaffinity(None, &set)?)
    }

    /// Where they are, in words.
    #[must_use]
    pub fn words(&self) -> String {
        let (s, workers) = (
            &"s"[..usize::from(self.workers.len() > 1)],
            listed(&self.workers),
        );
        format!(
            "generator on CPU {}, worker{s} on CPU{s} {workers}",
            self.generator
        )
    }

    /// How near the generator is to the nearest worker.
    #[must_use]
    pub fn distance(&self) -> String {
        let distances = self.workers.iter();
        let nearest = distances
            .map(|&worker| Distance::of(self.generator, worker))
            .min();
        nearest.unwrap_or(Distance::Unknown).words().into()
    }

    /// What the time of each of them went into so far.
    #[must_use]
    pub fn ticks(&self) -> Vec<Ticks> {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let cpus = std::iter::once(&self.generator).chain(&self.workers);
        cpus.map(|&cpu| of_cpu(&text, cpu)).collect()
    }
}

/// The largest share of one processor's time that others had between two looks: a trial is as good as the worst of them.
#[must_use]
pub fn stolen(earlier: &[Ticks], now: &[Ticks]) -> f64 {
    let both = earlier.iter().zip(now);
    let shares = both.map(|(earlier, now)| now.stolen_since(*earlier));
    shares.fold(0.0, f64::max)
}

/// The last processor that is not taken, rather of another core than those that are: two threads of one core slow each other
/// down.
fn free(usable: &[u16], taken: &[u16], distance: impl Fn(u16, u16) -> Distance) -> u16 {
    let is_apart = |cpu: u16, least| taken.iter().all(|&it| distance(it, cpu) > least);
    let others = |least| usable.iter().rev().find(move |it| is_apart(**it, least));
    let found = others(Distance::Siblings).or_else(|| others(Distance::Same));
    found.or(usable.last()).copied().unwrap_or(0)
}

/// How near two processors are to each other; the nearest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Distance {
    Same,
    Siblings,
    Near,
    Far,
    Unknown,
}

impl Distance {
    fn of(one: u16, other: u16) -> Self {
        let fact = |cpu: u16, name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
            fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
        };
        let same = |name| {
            let both = fact(one, name).zip(fact(other, name));
            both.map(|(one, other)| one == other)
        };
        match (same("physical_package_id"), same("core_id")) {
            _ if one == other => Self::Same,
            (Some(true), Some(true)) => Self::Siblings,
            (Some(true), _) => Self::Near,
            (Some(false), _) => Self::Far,
            (None, _) => Self::Unknown,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Same => "one processor for both: they take turns, and figures say little",
            Self::Siblings => "two threads of one core (near)",
            Self::Near => "two cores of one package",
            Self::Far => "two packages (far)",
            Self::Unknown => "unknown",
        }
    }
}

/// How long the calling thread has been ready to run so far, and was not let: others had its processor. What the kernel
/// does not tell is none.
#[must_use]
pub fn waited_ns() -> u64 {
    waited_in("/proc/thread-self")
}

fn waited_in(folder: &str) -> u64 {
    let text = fs::read_to_string(format!("{folder}/schedstat")).unwrap_or_default();
    let waited = text.split_ascii_whitespace().nth(1);
    waited.and_then(|it| it.parse().ok()).unwrap_or(0)
}

/// The same of a device's workers, by thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waited(BTreeMap<String, u64>);

impl Waited {
    /// Of threads of a process whose names begin so.
    #[must_use]
    pub fn of(pid: u32, name: &str) -> Self {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"));
        let folders = tasks.into_iter().flatten().flatten();
        let folders = folders.filter_map(|it| it.path().into_os_string().into_string().ok());
        let is_named = |folder: &String| {
            let comm = fs::read_to_string(format!("{folder}/comm"));
            comm.is_ok_and(|it| it.starts_with(name))
        };
        let folders = folders.filter(is_named);
        Self(folders.map(|it| (it.clone(), waited_in(&it))).collect())
    }

    /// The longest that one of them waited since an earlier look. Who was not there then has waited for nothing.
    #[must_use]
    pub fn longest_since(&self, earlier: &Self) -> u64 {
        let since = |(thread, ns): (&String, &u64)| {
            let before = earlier.0.get(thread).unwrap_or(ns);
            ns.saturating_sub(*before)
        };
        self.0.iter().map(since).max().unwrap_or(0)
    }
}

impl Ticks {
    /// The share that others had since an earlier time. A single tick is none yet: it is as long as a short trial.
    #[must_use]
    pub fn stolen_since(self, earlier: Self) -> f64 {
        let stolen = self.stolen.saturating_sub(earlier.stolen);
        match self.all.saturating_sub(earlier.all) {
            all if all > 0 && stolen > 1 => stolen as f64 / all as f64,
            _ => 0.0,
        }
    }
}

fn of_cpu(stat: &str, cpu: u16) -> Ticks {
    let name = format!("cpu{cpu}");
    let line = stat
        .lines()
        .find(|line| line.split(' ').next() == Some(&name));
    let columns = line.unwrap_or_default().split_ascii_whitespace().skip(1);
    let columns: Vec<u64> = columns
        .take(COLUMNS)
        .filter_map(|it| it.parse().ok())
        .collect();
    Ticks {
        all: columns.iter().sum(),
        stolen: columns.get(COLUMNS - 1).copied().unwrap_or(0),
    }
}

fn usable() -> Vec<u16> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..1024u16)
        .filter(|&cpu| set.is_set(usize::from(cpu)))
        .collect()
}

/// Numbers, as a text has them.
pub(super) fn listed(cpus: &[u16]) -> String {
    let cpus: Vec<String> = cpus.iter().map(u16::to_string).collect();
    cpus.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_time_is_a_share_of_the_processors() {
        let stat =
            "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 10 0 0 80 0 0 0 10 0 0\ncpu1 50 0 50 0 0 0 0 0 7 7\n";
        let ticks = of_cpu(stat, 0);
        assert_eq!(
            ticks,
            Ticks {
                all: 100,
                stolen: 10
            }
        );
        assert_eq!(
            of_cpu(stat, 1),
            Ticks {
                all: 100,
                stolen: 0
            }
        );
        assert_eq!(of_cpu(stat, 10), Ticks::default());
        let later = Ticks {
            all: 300,
            stolen: 20,
        };
        assert!((later.stolen_since(ticks) - 0.05).abs() < 1e-9);
        // A tick may have begun long before.
        let one = Ticks {
            all: 110,
            stolen: 11,
        };
        assert_eq!(one.stolen_since(ticks), 0.0);
        assert_eq!(ticks.stolen_since(later), 0.0);
    }

    #[test]
    fn what_one_processor_lost_is_not_spread_over_all() {
        let ticks = |all, stolen| Ticks { all, stolen };
        let (earlier, now) = ([ticks(100, 0); 2], [ticks(300, 0), ticks(300, 3)]);
        assert!((stolen(&earlier, &now) - 0.015).abs() < 1e-9);
        assert_eq!(stolen(&earlier, &earlier), 0.0);
    }

    #[test]
    fn the_worker_that_waited_longest_counts_and_who_is_new_does_not() {
        let waited = |all: &[(&str, u64)]| {
            Waited(all.iter().map(|(name, ns)| ((*name).into(), *ns)).collect())
        };
        let earlier = waited(&[("1", 10), ("2", 20)]);
        let now = waited(&[("1", 15), ("2", 50), ("3", 1000)]);
        assert_eq!(now.longest_since(&earlier), 30);
        assert_eq!(Waited::default().longest_since(&earlier), 0);
        let name = "waits-as-named";
        let thread = std::thread::Builder::new().name(name.into());
        let looked = thread.spawn(move || Waited::of(std::process::id(), name));
        assert_eq!(looked.unwrap().join().unwrap().0.len(), 1);
    }

    #[test]
    fn generator_and_worker_have_a_processor_each_if_they_can() {
        let usable = usable();
        let cores = Cores::choose(None, &[]).unwrap();
        assert_eq!(cores.is_shared(), usable.len() == 1);
        let first = usable[0];
        let cores = Cores::choose(Some(first), &[first]).unwrap();
        assert!(cores.is_shared() && cores.distance().contains("take turns"));
        assert_eq!(Cores::choose(None, &[first]).unwrap().workers, [first]);
        assert!(
            Cores::choose(Some(1023), &[])
                .unwrap_err()
                .contains("may not run")
        );
    }

    #[test]
    fn nobody_gets_the_other_thread_of_a_core_that_is_taken_if_there_is_another() {
        // 0 and 1 are a core, 2 and 3 another.
        let distance = |one: u16, other: u16| match (one == other, one / 2 == other / 2) {
            (true, _) => Distance::Same,
            (_, true) => Distance::Siblings,
            _ => Distance::Near,
        };
        let chosen = |usable: &[u16], taken: &[u16]| free(usable, taken, distance);
        assert_eq!(chosen(&[0, 1, 2, 3], &[]), 3);
        assert_eq!(chosen(&[0, 1, 2, 3], &[3]), 1);
        assert_eq!(chosen(&[2, 3], &[3]), 2);
        assert_eq!(chosen(&[3], &[3]), 3);
    }

    #[test]
    fn several_workers_are_named_and_the_nearest_counts() {
        let cores = Cores {
            generator: 1,
            workers: vec![0, 1],
        };
        assert!(cores.is_shared() && cores.distance().contains("take turns"));
        assert_eq!(cores.words(), "generator on CPU 1, workers on CPUs 0, 1");
    }
}
