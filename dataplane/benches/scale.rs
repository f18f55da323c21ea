//! What a packet costs as there is more of everything: peers, prefixes, guests. Flat lines are the goal.
//!
//! In: two processors, libdpdk's `net_null`. Out: nanoseconds per packet at each scale, medians, beside those at the least
//! one. Never: a comparison of runs that were not next to each other in time; caches that another scale's turn has filled.
//!
//! The scales of a line take turns. A turn is some bursts that do not count, then some that do, each of 32 packets of 64 bytes,
//! the way of `way`: out, every guest posts a burst; in, each burst is one guest's. Packets go to one peer, or one prefix, after
//! the other, so each is met again when all others have been: the worst that a cache can be asked for.
//!
//! Usage: cargo bench -p culvert-dataplane --bench scale -- [--json] [--case TEXT] [--turns N]

#![allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark: it displays, and stops where it fails"
)]

mod site;
#[path = "../aead/benches/turns/mod.rs"]
mod turns;

use std::{env, time::Duration};

use culvert_aead::Engine;
use site::{
    Scale, Size, Way, null,
    rig::{Rig, WORKER, processor},
};
use turns::{Figure, Turns};

const SIZE: Size = Size::Packet(64);
const BURST: usize = 32;
/// Bursts of a turn: those that bring a scale's own memory back into the caches, and those that count.
const WARM: usize = 4;
const COUNTED: usize = 4;
/// Turns that make a figure, and how many there are at the most when others disturb.
const TURNS: usize = 200;
const MOST: usize = 6;

/// What there is more and more of.
#[derive(Clone, Copy)]
enum Line {
    Peers,
    Prefixes,
    Guests,
}

impl Line {
    const ALL: [Self; 3] = [Self::Peers, Self::Prefixes, Self::Guests];

    const fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Prefixes => "prefixes",
            Self::Guests => "guests",
        }
    }

    const fn counts(self) -> [usize; 4] {
        match self {
            Self::Peers => [1, 100, 10_000, 100_000],
            Self::Prefixes => [1, 1_000, 100_000, 1_000_000],
            Self::Guests => [1, 4, 16, 64],
        }
    }

    const fn scale(self, count: usize) -> Scale {
        let one = Scale::peers(1);
        match self {
            Self::Peers => Scale::peers(count),
            Self::Prefixes => Scale {
                prefixes: count,
                ..one
            },
            Self::Guests => Scale {
                guests: count,
                ..one
            },
        }
    }
}

fn main() {
    let options = Options::read(env::args().skip(1));
    let eal = null::eal(WORKER);
    let processor = processor();
    if !options.json {
        println!("{processor}, bursts of {BURST} packets of 64 bytes");
        println!(
            "{:24} {:>8} {:>8} {:>13}",
            "ns per packet, medians", "way", "of one", "quiet"
        );
    }
    let mut devices = 0..;
    for way in [Way::Out, Way::In] {
        for line in Line::ALL {
            let names = (line.counts()).map(|n| format!("{}/{}-{n}", way.name(), line.name()));
            if names.iter().any(|name| name.contains(&options.case)) {
                let rigs = line.counts().map(|count| {
                    let number = devices.next().unwrap_or(0);
                    Rig::new(way, line.scale(count), number, eal, Engine::new())
                });
                let turns = compare(rigs, way, options.turns);
                show(&names, &turns, &processor, options.json);
            }
        }
    }
}

/// What was asked for.
struct Options {
    json: bool,
    case: String,
    turns: usize,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            json: false,
            case: String::new(),
            turns: TURNS,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().expect("a value behind the option");
            match word.as_str() {
                "--json" => options.json = true,
                "--case" => options.case = value(),
                "--turns" => options.turns = value().parse().expect("a number of turns"),
                // Cargo's own.
                "--bench" => {}
                _ => panic!("no option {word}"),
            }
        }
        options
    }
}

fn compare<const N: usize>(mut rigs: [Rig; N], way: Way, enough: usize) -> Turns<N> {
    rigs.iter_mut().for_each(Rig::renew_keys);
    let mut turns = Turns::new(enough, MOST * enough);
    while !turns.done() {
        let before = turns::room();
        let mut spent = [0.0; N];
        for turn in 0..N {
            let side = (turns.taken() + turn) % N;
            spent[side] = ns_per_packet(&mut rigs[side], way);
        }
        turns.push(spent, turns::is_quiet(before.min(turns::room())));
    }
    rigs.into_iter().for_each(Rig::settle);
    turns
}

fn ns_per_packet(rig: &mut Rig, way: Way) -> f64 {
    for _ in 0..WARM {
        rig.burst(SIZE, BURST);
    }
    let spent: Duration = (0..COUNTED).map(|_| rig.burst(SIZE, BURST)).sum();
    let guests = match way {
        Way::Out => rig.scale.guests,
        Way::In => 1,
    };
    spent.as_nanos() as f64 / (COUNTED * BURST * guests) as f64
}

fn show<const N: usize>(names: &[String; N], turns: &Turns<N>, processor: &str, json: bool) {
    let (figures, quiet) = turns.figures();
    let taken = turns.taken();
    for (name, Figure { time, ratio }) in names.iter().zip(figures) {
        if json {
            println!(
                "{{\"section\":\"scale\",\"case\":\"{name}\",\"unit\":\"ns/packet\",\"value\":{time:.1},\
                 \"reference\":\"{}\",\"reference_value\":{:.1},\"ratio\":{:.3},\
                 \"quiet\":{quiet},\"turns\":{taken},\"processor\":\"{processor}\"}}",
                names[0],
                figures[0].time,
                1.0 / ratio
            );
            continue;
        }
        let disturbed = if turns.are_disturbed() {
            "  disturbed"
        } else {
            ""
        };
        let turns = format!("{quiet} of {taken}");
        println!("{name:24} {time:>8.1} {ratio:>8.3} {turns:>13}{disturbed}");
    }
}
