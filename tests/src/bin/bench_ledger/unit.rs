//! What a unit says of which figure is better.
//!
//! In: a unit. Out: whether less or more is better. Never: a guess at a unit that is not known.

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// Times, memory, shares of a processor, losses: what is in front of a `per`.
const COSTS: [&str; 16] = [
    "ns",
    "us",
    "µs",
    "ms",
    "s",
    "B",
    "bytes",
    "KiB",
    "MiB",
    "GiB",
    "%",
    "percent",
    "instructions",
    "cycles",
    "packets lost",
    "lost",
];

impl Better {
    /// Nothing where the unit doesn't say.
    pub(crate) fn of(unit: &str) -> Option<Self> {
        let is_rate = ["/s", "pps", "/CPU-second"]
            .iter()
            .any(|end| unit.ends_with(end));
        let what = unit.split('/').next().unwrap_or_default();
        match is_rate {
            true => Some(Self::Higher),
            false => COSTS.contains(&what).then_some(Self::Lower),
        }
    }
}

/// From nothing, or to it: so much is no more than chance, and not worth a word. A tenth of a percent, a packet per change,
/// what few packets are of the time of an apply.
pub(crate) fn least(unit: &str) -> f64 {
    match unit {
        "%" | "percent" => 0.1,
        "lost/change" => 1.0,
        "ms" => 0.05,
        _ => 0.0,
    }
}

/// Whether figures of this unit are counted, and don't move with the machine.
pub(crate) fn is_exact(unit: &str) -> bool {
    unit.starts_with("instructions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_down_and_rates_go_up() {
        for unit in [
            "ns",
            "ns/packet",
            "ms",
            "KiB",
            "s/GB",
            "bytes/prefix",
            "percent",
            "instructions/packet",
            "lost/change",
        ] {
            assert_eq!(Better::of(unit), Some(Better::Lower), "{unit}");
        }
        for unit in ["Mpps", "kpps", "Gbit/s", "1/s", "MB/CPU-second"] {
            assert_eq!(Better::of(unit), Some(Better::Higher), "{unit}");
        }
        for unit in ["", "bananas"] {
            assert_eq!(Better::of(unit), None, "{unit}");
        }
    }
}
