//! Where threads run: the generator on a processor of its own, the device's worker on another, if there are two.
//!
//! In: processors that this process may use, what an operator asks for. Out: pinned threads, in words how near they are,
//! the time that others had. Never: two threads on one processor without saying so.

use std::fs;
use std::io;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Who runs where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// The generator's.
    pub generator: u16,
    /// The worker's of the device that is started, if one is.
    pub worker: u16,
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
    /// The last two processors that this process may use, but for what was asked for.
    ///
    /// # Errors
    /// One that it may not use.
    pub fn choose(generator: Option<u16>, worker: Option<u16>) -> Result<Self, String> {
        let usable = usable();
        for cpu in [generator, worker].into_iter().flatten() {
            if !usable.contains(&cpu) {
                return Err(format!(
                    "this process may not run on CPU {cpu}, but on {}",
                    listed(&usable)
                ));
            }
        }
        let free = |taken: Option<u16>| {
            let other = usable.iter().rev().find(|it| Some(**it) != taken);
            other.or(usable.last()).copied().unwrap_or(0)
        };
        let generator = generator.unwrap_or_else(|| free(worker));
        let worker = worker.unwrap_or_else(|| free(Some(generator)));
        Ok(Self { generator, worker })
    }

    /// Whether generator and device take turns on one processor.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.generator == self.worker
    }

    /// Keeps the calling thread on the generator's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn pin(self) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(usize::from(self.generator));
        Ok(sched_setaffinity(None, &set)?)
    }

    /// How near they are to each other.
    #[must_use]
    pub fn distance(self) -> String {
        if self.is_shared() {
            return "one processor for both: they take turns, and figures say little".into();
        }
        let fact = |cpu: u16, name: &str| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
            fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
        };
        let same = |name| {
            let (one, other) = (fact(self.generator, name), fact(self.worker, name));
            one.zip(other).map(|(one, other)| one == other)
        };
        match (same("physical_package_id"), same("core_id")) {
            (Some(true), Some(true)) => "two threads of one core (near)".into(),
            (Some(true), _) => "two cores of one package".into(),
            (Some(false), _) => "two packages (far)".into(),
            (None, _) => "unknown".into(),
        }
    }

    /// What the time of both went into so far.
    #[must_use]
    pub fn ticks(self) -> Ticks {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let mut sum = of_cpu(&text, self.generator);
        if !self.is_shared() {
            let worker = of_cpu(&text, self.worker);
            sum.all += worker.all;
            sum.stolen += worker.stolen;
        }
        sum
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

fn listed(cpus: &[u16]) -> String {
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
    fn generator_and_worker_have_a_processor_each_if_they_can() {
        let usable = usable();
        let cores = Cores::choose(None, None).unwrap();
        assert_eq!(cores.is_shared(), usable.len() == 1);
        let first = usable[0];
        let cores = Cores::choose(Some(first), Some(first)).unwrap();
        assert!(cores.is_shared() && cores.distance().contains("take turns"));
        assert_eq!(Cores::choose(None, Some(first)).unwrap().worker, first);
        assert!(
            Cores::choose(Some(1023), None)
                .unwrap_err()
                .contains("may not run")
        );
    }
}
