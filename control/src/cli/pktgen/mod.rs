//! `culvert pktgen`: a packet generator that starts what it measures.
//!
//! In: streams as flags or a file, a topology. Out: what came of it, as text, JSON, CSV, a page. Never: a process or a file
//! left behind; a figure without what the generator does alone.

mod drafts;
mod flags;
mod live;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use culvert_pktgen::report::{self, Results};
use culvert_pktgen::tree::Node;
use culvert_pktgen::{Mistake, Profile};
use culvert_vhost::Offloads;
use serde_json::Value;

use self::drafts::{Drafts, Text};
use self::flags::Flags;
use self::live::Live;
use super::output::{Output, OutputArgs, folded, width};
use super::{Failure, print, wants_color};
use crate::pktgen::campaign::{Search, Wanted};
use crate::pktgen::cores::Cores;
use crate::pktgen::file::Streams;
use crate::pktgen::machine;
use crate::pktgen::rig::{RigError, Setup, Target};
use crate::pktgen::rings::GuestOptions;
use crate::pktgen::session::{self, Order};
use crate::pktgen::stop::Stop;
use crate::pktgen::topology::Topology;

pub(super) const AFTER_HELP: &str = "\
Examples:
  culvert pktgen v2v -m 1mpps -d 10 --size 64
  culvert pktgen v2v --search ndr,pdr --size imix --html report.html
  culvert pktgen t2p -m 500kpps -d 5 --size imix
  culvert pktgen v2v --file streams.yaml --json > results.json
  culvert pktgen run --seat a=vhost:/run/x/a.sock --seat b=vhost:/run/x/b.sock -m 100kpps";

/// `culvert pktgen`.
#[derive(Debug, Subcommand)]
pub(super) enum Pktgen {
    /// From a guest to another one at the same Culvert, which is started for it
    V2v(Measure),
    /// From a guest into a tunnel, sealed, on a NIC that takes everything and tells nobody; `--to wire`: to its far end
    P2t(Measure),
    /// From the wire side of a tunnel, sealed ahead and with fresh counters, to a guest
    T2p(T2p),
    /// Between vhost-user backends that are there already
    Run(Run),
}

/// From the wire side of a tunnel.
#[derive(Debug, Args)]
pub(super) struct T2p {
    /// What a trial may take that is sealed ahead: `512m`, `4g` [default: a quarter of what is free]
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    memory: Option<usize>,
    #[command(flatten)]
    measure: Measure,
}

/// Between seats that are there.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// A seat: what streams call it, and the socket on which a vhost-user backend listens
    #[arg(long = "seat", value_name = "NAME=vhost:SOCKET", required = true, value_parser = seat)]
    seats: Vec<(String, PathBuf)>,
    #[command(flatten)]
    measure: Measure,
}

/// What every topology takes.
#[derive(Debug, Args)]
pub(super) struct Measure {
    /// Streams in YAML, with the same keys as flags; flags go over it
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// What is searched; without it, trials run at the rate that was asked for
    #[arg(long, value_name = "SEARCH", value_enum, value_delimiter = ',')]
    search: Vec<SearchName>,
    /// How many trials, if nothing is searched
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "search")]
    trials: u32,
    /// The layout of guests' rings
    #[arg(long, value_enum, default_value_t = Ring::Split)]
    ring: Ring,
    /// Entries of guests' rings
    #[arg(long, value_name = "ENTRIES", default_value_t = 256, value_parser = ring_size)]
    ring_size: u16,
    /// What guests negotiate
    #[arg(long, value_enum, default_value_t = OffloadNames::All)]
    offloads: OffloadNames,
    /// The generator's CPU [default: the last one that may be used]
    #[arg(long, value_name = "CPU")]
    core: Option<u16>,
    /// The CPUs of the workers of the Culvert that is started [default: one worker, on the one before]
    #[arg(long, value_name = "CPU", value_delimiter = ',')]
    worker: Vec<u16>,
    /// Also a page for browsers, into this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also a line for each trial, into this file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// The same as `-o json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SearchName {
    /// The highest load without loss, by MLRsearch (RFC 9971)
    Ndr,
    /// The highest load with half a percent of loss, likewise
    Pdr,
    /// Throughput by trials of a minute (RFC 2544), likewise
    Rfc2544,
    /// What comes through at the highest load, in ten short trials
    Mrr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Ring {
    Split,
    Packed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OffloadNames {
    All,
    None,
}

/// `NAME=vhost:SOCKET`.
fn seat(text: &str) -> Result<(String, PathBuf), String> {
    let parts = text.split_once('=').and_then(|(name, place)| {
        let socket = place.strip_prefix("vhost:")?;
        (!name.is_empty() && !socket.is_empty()).then(|| (name.to_owned(), socket.into()))
    });
    parts.ok_or_else(|| "a name and a socket: `a=vhost:/run/culvert/vm1.sock`".into())
}

/// Mebibytes or gibibytes.
fn memory(text: &str) -> Result<usize, String> {
    let lower = text.to_ascii_lowercase();
    let (number, unit) = lower.split_at(lower.find(|it: char| !it.is_ascii_digit()).unwrap_or(0));
    let shift = match unit {
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        _ => None,
    };
    let number: Option<usize> = number.parse().ok();
    let bytes = number
        .zip(shift)
        .and_then(|(it, shift)| it.checked_mul(1 << shift));
    let bytes = bytes.filter(|&it| it > 0 && isize::try_from(it).is_ok());
    bytes.ok_or_else(|| "a number and its unit: `512m` or `4g`".into())
}

/// What a split ring may have (virtio 1.2, section 2.7), and what makes sense.
fn ring_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok();
    let size = size.filter(|it: &u16| it.is_power_of_two() && (32..=32_768).contains(it));
    size.ok_or_else(|| "a power of two, from 32 to 32768".into())
}

pub(super) fn run(command: Pktgen) -> Result<(), Failure> {
    match command {
        Pktgen::V2v(measure) => measure.run(Target::Own(Topology::V2v), None),
        Pktgen::P2t(measure) => measure.run(Target::Own(Topology::P2t), None),
        Pktgen::T2p(T2p { memory, measure }) => measure.run(Target::Own(Topology::T2p), memory),
        Pktgen::Run(Run { seats, measure }) => {
            let twice =
                (1..seats.len()).find(|&at| seats[..at].iter().any(|it| it.0 == seats[at].0));
            if let Some(at) = twice {
                let line = format!(
                    "two seats are called `{}`: streams tell them apart by their names",
                    seats[at].0
                );
                return Err(Failure::Line(line));
            }
            measure.run(Target::There(seats), None)
        }
    }
}

impl Measure {
    fn run(self, target: Target, memory: Option<usize>) -> Result<(), Failure> {
        let asked = Asked::read(&self.flags, self.file.as_deref())?;
        let profile = asked.profile(&self.flags)?;
        let target = target.of(&profile);
        seats_exist(&profile, &target).map_err(|mistakes| asked.told(&self.flags, &mistakes))?;
        let cores = Cores::choose(self.core, &self.worker).map_err(Failure::Line)?;
        let order = Order {
            setup: Setup {
                target,
                profile,
                guest: self.guest(),
                memory: memory.unwrap_or_else(machine::memory_to_spare),
                cores,
                // Ahead of all threads.
                stop: Stop::on_signals()?,
            },
            asked: value(&asked.tree),
            wanted: Wanted {
                searches: self.search.iter().map(|it| it.search()).collect(),
                trials: self.trials,
            },
        };
        let files: [(_, Text); 2] = [
            (self.html.as_ref(), report::html),
            (self.csv.as_ref(), report::csv),
        ];
        let drafts = Drafts::begin(files).map_err(Failure::Line)?;
        let live = Live::new()?;
        let ran = session::run(order, &mut |moment| live.show(moment));
        live.end();
        let (results, failed) = ran.map_err(|error| match error {
            RigError::Profile(mistakes) => asked.told(&self.flags, &mistakes),
            other @ (RigError::Device(_)
            | RigError::System(_)
            | RigError::Seat { .. }
            | RigError::Gone { .. }
            | RigError::Pin(_)) => Failure::Line(other.to_string()),
        })?;
        // A full disk takes no more than it has to.
        let printed = self.print(&results);
        drafts.finish(&results).map_err(Failure::Line)?;
        printed?;
        match failed {
            None => Ok(()),
            Some(why) => Err(Failure::Line(format!("ended early: {why}"))),
        }
    }

    fn guest(&self) -> GuestOptions {
        GuestOptions {
            is_packed: self.ring == Ring::Packed,
            ring_size: self.ring_size,
            offloads: match self.offloads {
                OffloadNames::All => Offloads::all(),
                OffloadNames::None => Offloads::empty(),
            },
        }
    }

    fn print(&self, results: &Results) -> Result<(), Failure> {
        let output = OutputArgs {
            output: self.output.output.or(self.json.then_some(Output::Json)),
        };
        // Its own text, in which numbers are as they were measured.
        let text = match output.output {
            Some(Output::Json) => results.json() + "\n",
            Some(Output::Yaml) => output.text(results)?.unwrap_or_default(),
            Some(Output::Wide) | None => folded(&report::text(results), width(&io::stdout())),
        };
        print(&text)
    }
}

impl SearchName {
    const fn search(self) -> Search {
        match self {
            Self::Ndr => Search::Ndr,
            Self::Pdr => Search::Pdr,
            Self::Rfc2544 => Search::Rfc2544,
            Self::Mrr => Search::Mrr,
        }
    }
}

/// What was asked for: a file's keys with flags over them.
struct Asked {
    file: Option<(PathBuf, String)>,
    tree: Node,
}

impl Asked {
    fn read(flags: &Flags, path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self {
                file: None,
                tree: flags.tree(),
            });
        };
        let text = fs::read_to_string(path)
            .map_err(|error| Failure::Line(format!("can't read {}: {error}", path.display())))?;
        let streams = Streams::read(path, &text)
            .map_err(|report| Failure::Report(report.render(wants_color(&io::stderr()))))?;
        Ok(Self {
            tree: streams.tree().overlaid(flags.tree()),
            file: Some((path.to_owned(), text)),
        })
    }

    fn profile(&self, flags: &Flags) -> Result<Profile, Failure> {
        Profile::read(&self.tree).map_err(|mistakes| self.told(flags, &mistakes))
    }

    /// Mistakes of flags by their names, those of a file with their lines.
    fn told(&self, flags: &Flags, mistakes: &[Mistake]) -> Failure {
        let (of_flags, of_file): (Vec<&Mistake>, Vec<&Mistake>) = mistakes
            .iter()
            .partition(|it| self.file.is_none() || flags.name(&it.path).is_some());
        let mut text = String::new();
        for mistake in of_flags {
            let name = flags
                .name(&mistake.path)
                .unwrap_or_else(|| mistake.path.clone());
            text += &format!("culvert: {name}: {}\n", mistake.message);
            for line in &mistake.help {
                text += &format!("  help: {line}\n");
            }
        }
        if let Some((path, file)) = self.file.as_ref().filter(|_| !of_file.is_empty()) {
            let of_file: Vec<Mistake> = of_file.into_iter().cloned().collect();
            // It was read before.
            if let Ok(streams) = Streams::read(path, file) {
                text += &streams.report(&of_file).render(wants_color(&io::stderr()));
            }
        }
        Failure::Report(text)
    }
}

/// Streams go between seats that there are.
fn seats_exist(profile: &Profile, target: &Target) -> Result<(), Vec<Mistake>> {
    let seats = target.ends();
    let mut mistakes = Vec::new();
    for stream in &profile.streams {
        for (key, seat) in [("from", &stream.from), ("to", &stream.to)] {
            if !seat.is_empty() && !seats.contains(seat) {
                let path = format!("{}.{key}", stream.path);
                mistakes.push(
                    Mistake::new(path, format!("there is no seat `{seat}`"))
                        .help(format!("expected {}", seats.join(" or "))),
                );
            }
        }
    }
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(mistakes),
    }
}

/// A tree as it stands in results.
fn value(node: &Node) -> Value {
    match node {
        Node::Null => Value::Null,
        Node::Text(text) => text.as_str().into(),
        Node::List(items) => items.iter().map(value).collect(),
        Node::Map(pairs) => {
            let pairs = pairs.iter().map(|(key, node)| (key.clone(), value(node)));
            Value::Object(pairs.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measure(words: &str) -> Measure {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            measure: Measure,
        }
        Line::parse_from(std::iter::once("x").chain(words.split_whitespace())).measure
    }

    fn told(words: &str) -> String {
        let measure = measure(words);
        let read = Asked::read(&measure.flags, measure.file.as_deref());
        let read = read.and_then(|asked| asked.profile(&measure.flags));
        match read {
            Err(Failure::Report(text)) => text,
            Err(Failure::Line(line)) => line,
            Err(Failure::Told) | Ok(_) => String::new(),
        }
    }

    #[test]
    fn flags_are_the_keys_of_a_file() {
        let it = measure("-m 10mpps -d 60 --size imix --source-port 1024+10");
        let profile = Asked::read(&it.flags, None)
            .unwrap()
            .profile(&it.flags)
            .unwrap();
        assert_eq!(
            (profile.duration_ns, profile.streams[0].flows),
            (60_000_000_000, 10)
        );
        assert_eq!(told("-m 1mpps"), "");
    }

    #[test]
    fn mistakes_have_the_flag_or_the_line_and_what_would_be_right() {
        let text = told("--size 9m --source-port 1-0");
        assert!(
            text.contains("culvert: --size: ") && text.contains("culvert: --source-port: "),
            "{text}"
        );
        assert!(text.contains("  help: expected"), "{text}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.yaml");
        fs::write(&path, "streams:\n- size: 64\n- rate: fast\n").unwrap();
        let file = path.display();
        let text = told(&format!("-f {file} -m slow"));
        assert!(
            text.contains("culvert: --rate: ") && text.contains("s.yaml:3:9"),
            "{text}"
        );
        assert!(told(&format!("-f {file}.none")).contains("can't read"));
    }

    #[test]
    fn streams_go_between_seats_that_there_are() {
        let it = measure("--to c");
        let profile = Asked::read(&it.flags, None)
            .unwrap()
            .profile(&it.flags)
            .unwrap();
        let mistakes = seats_exist(&profile, &Target::Own(Topology::V2v)).unwrap_err();
        assert!(mistakes[0].help[0].contains("a or b"), "{mistakes:?}");
        assert!(seat("a=vhost:/x").is_ok() && seat("a=/x").is_err() && seat("=vhost:/x").is_err());
    }
}
