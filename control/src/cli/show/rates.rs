//! What passed between two looks.
//!
//! In: two sights of one process. Out: packets, bits and losses a second, by the thing's name. Never: a negative rate:
//! what was made anew counts from zero.

use std::collections::HashMap;

use super::Sight;
use crate::state::{State, Traffic};

/// A second's traffic of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) rx: Passed,
    pub(super) tx: Passed,
    pub(super) drops: f64,
}

/// Packets and bits a second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Passed {
    pub(super) packets: f64,
    pub(super) bits: f64,
}

/// The rates of all things.
#[derive(Debug)]
pub(super) struct Rates {
    things: HashMap<String, Rate>,
    /// Lost packets a second by scope and reason.
    losses: HashMap<(String, String), f64>,
}

impl Rates {
    pub(super) fn between(before: &Sight, now: &Sight) -> Self {
        let seconds = now.at.duration_since(before.at).as_secs_f64();
        let old: HashMap<_, _> = counts(&before.state).collect();
        let things = counts(&now.state).map(|(name, count)| {
            let old = old.get(&name).copied().unwrap_or_default();
            (name, count.since(old, seconds))
        });
        let lost = |state: &State| -> HashMap<_, _> {
            let drops = state.drops.iter();
            drops
                .map(|it| ((it.scope.clone(), it.reason.clone()), it.packets))
                .collect()
        };
        let old = lost(&before.state);
        let losses = lost(&now.state).into_iter().map(|(name, packets)| {
            let old = old.get(&name).copied().unwrap_or(0);
            (name, a_second(old, packets, seconds))
        });
        Self {
            things: things.collect(),
            losses: losses.collect(),
        }
    }

    pub(super) fn of(&self, name: &str) -> Rate {
        self.things.get(name).copied().unwrap_or_default()
    }

    pub(super) fn lost(&self, scope: &str, reason: &str) -> f64 {
        let name = (scope.to_owned(), reason.to_owned());
        self.losses.get(&name).copied().unwrap_or_default()
    }
}

#[derive(Clone, Copy, Default)]
struct Count {
    rx: Traffic,
    tx: Traffic,
    drops: u64,
}

impl Count {
    fn since(self, old: Self, seconds: f64) -> Rate {
        let passed = |old: Traffic, new: Traffic| Passed {
            packets: a_second(old.packets, new.packets, seconds),
            bits: 8.0 * a_second(old.bytes, new.bytes, seconds),
        };
        Rate {
            rx: passed(old.rx, self.rx),
            tx: passed(old.tx, self.tx),
            drops: a_second(old.drops, self.drops, seconds),
        }
    }
}

fn counts(state: &State) -> impl Iterator<Item = (String, Count)> {
    let sum = |drops: &std::collections::BTreeMap<String, u64>| drops.values().sum();
    let ports = state.ports.iter().map(move |it| {
        let drops = sum(&it.drops);
        (
            port(&it.name),
            Count {
                rx: it.rx,
                tx: it.tx,
                drops,
            },
        )
    });
    let uplinks = state.uplinks.iter().map(move |it| {
        let drops = sum(&it.drops);
        (
            uplink(&it.name),
            Count {
                rx: it.rx,
                tx: it.tx,
                drops,
            },
        )
    });
    let peers = state.peers.iter().map(move |it| {
        let drops = sum(&it.drops);
        (
            peer(&it.tunnel, &it.name),
            Count {
                rx: it.rx,
                tx: it.tx,
                drops,
            },
        )
    });
    let cores = state.cores.iter().map(|it| {
        let rx = Traffic {
            packets: it.packets,
            bytes: 0,
        };
        (
            core(&it.name),
            Count {
                rx,
                ..Count::default()
            },
        )
    });
    ports.chain(uplinks).chain(peers).chain(cores)
}

pub(super) fn port(name: &str) -> String {
    format!("port {name}")
}

pub(super) fn uplink(name: &str) -> String {
    format!("uplink {name}")
}

pub(super) fn peer(tunnel: &str, name: &str) -> String {
    format!("peer {tunnel}/{name}")
}

pub(super) fn core(name: &str) -> String {
    format!("core {name}")
}

#[allow(clippy::cast_precision_loss, reason = "printed with three digits")]
fn a_second(old: u64, new: u64, seconds: f64) -> f64 {
    let passed = if new >= old { new - old } else { new };
    passed as f64 / seconds.max(0.001)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::named::Told;
    use super::*;
    use crate::state::Port;

    fn sight(packets: u64, at: Instant) -> Sight {
        let rx = Traffic {
            packets,
            bytes: 100 * packets,
        };
        let port = Port {
            name: "vm1".into(),
            rx,
            ..Port::default()
        };
        let state = State {
            ports: vec![port],
            ..State::default()
        };
        let told = Told {
            main: Some(state),
            ..Told::default()
        };
        Sight {
            at,
            ..Sight::of(told)
        }
    }

    #[test]
    fn a_rate_is_what_passed_by_the_time() {
        let start = Instant::now();
        let later = sight(30, start + Duration::from_secs(2));
        let rates = Rates::between(&sight(10, start), &later);
        let rx = rates.of(&port("vm1")).rx;
        assert_eq!(
            rx,
            Passed {
                packets: 10.0,
                bits: 8000.0
            }
        );
        // A port that was opened anew in between.
        let rates = Rates::between(&sight(50, start), &later);
        assert_eq!(rates.of(&port("vm1")).rx.packets, 15.0);
    }
}
