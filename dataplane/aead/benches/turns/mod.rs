//! Contenders that take turns, and which of the turns count.
//!
//! In: what each contender took in a turn, and whether the core was ours meanwhile. Out: medians of their times and
//! of the turns' ratios. Never: a disturbed turn among quiet ones.

use std::time::{Duration, Instant};

/// Nanoseconds, and how many times ours that is, turn by turn: medians of undisturbed turns.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) time: f64,
    pub(crate) ratio: f64,
}

/// What all contenders took in each turn, ours first.
pub(crate) struct Turns<const N: usize> {
    /// So many quiet ones are enough.
    enough: usize,
    /// And so many of any kind.
    most: usize,
    /// Those that found the core to ourselves.
    quiet: Vec<[f64; N]>,
    disturbed: Vec<[f64; N]>,
}

impl<const N: usize> Turns<N> {
    pub(crate) fn new(enough: usize, most: usize) -> Self {
        Self {
            enough,
            most,
            quiet: Vec::new(),
            disturbed: Vec::new(),
        }
    }

    /// Whether there are enough.
    pub(crate) fn done(&self) -> bool {
        self.quiet.len() >= self.enough || self.taken() >= self.most
    }

    /// How many were taken.
    pub(crate) fn taken(&self) -> usize {
        self.quiet.len() + self.disturbed.len()
    }

    pub(crate) fn push(&mut self, times: [f64; N], quiet: bool) {
        if quiet {
            self.quiet.push(times);
        } else {
            self.disturbed.push(times);
        }
    }

    /// Whether hardly any was quiet.
    pub(crate) fn are_disturbed(&self) -> bool {
        self.quiet.len() < self.enough / 10
    }

    /// Medians, of disturbed turns too if hardly any was quiet; and how many were.
    pub(crate) fn figures(&self) -> ([Figure; N], usize) {
        let mut times = self.quiet.clone();
        if self.are_disturbed() {
            times.extend(&self.disturbed);
        }
        let median = |value: &dyn Fn(&[f64; N]) -> f64| {
            let mut values: Vec<f64> = times.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let figures = std::array::from_fn(|i| Figure {
            time: median(&|turn| turn[i]),
            ratio: median(&|turn| turn[i] / turn[0]),
        });
        (figures, self.quiet.len())
    }
}

/// How many simple instructions a nanosecond of multiplications has room for: fewer when another
/// guest of the machine works on the same core. All contenders suffer from that, unequally.
#[cfg(target_arch = "x86_64")]
pub(crate) fn room() -> f64 {
    use std::arch::asm;
    let start = Instant::now();
    // SAFETY: registers only.
    unsafe {
        asm!("2:", "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}", "imul {x}, {x}",
            "dec {n}", "jnz 2b", x = inout(reg) 1u64 => _, n = inout(reg) 150u64 => _,
            options(nomem, nostack));
    }
    let chain = start.elapsed().as_nanos() as f64;
    let start = Instant::now();
    // SAFETY: registers only.
    unsafe {
        asm!("2:", "lea {a}, [{x} + 1]", "lea {b}, [{x} + 1]", "lea {a}, [{x} + 1]",
            "lea {b}, [{x} + 1]", "lea {a}, [{x} + 1]", "lea {b}, [{x} + 1]",
            "lea {a}, [{x} + 1]", "lea {b}, [{x} + 1]", "dec {n}", "jnz 2b",
            x = in(reg) 1u64, a = out(reg) _, b = out(reg) _, n = inout(reg) 500u64 => _,
            options(nomem, nostack));
    }
    chain / start.elapsed().as_nanos() as f64
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn room() -> f64 {
    1.0
}

/// Whether there was about as much room as there can be.
pub(crate) fn is_quiet(room: f64) -> bool {
    room > 0.9 * most_room()
}

/// The most room that was seen in this run: what the core has when it is ours alone.
fn most_room() -> f64 {
    static MOST: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *MOST.get_or_init(|| {
        let start = Instant::now();
        let mut seen = Vec::new();
        while start.elapsed() < Duration::from_millis(300) {
            seen.push(room());
        }
        seen.sort_by(f64::total_cmp);
        // Not the very best, which a change of the clock in between may have made.
        seen[seen.len() * 99 / 100]
    })
}
