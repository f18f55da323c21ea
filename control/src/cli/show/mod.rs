//! `culvert show`: the state as tables, or as JSON or YAML; once, or again and again.
//!
//! In: states of a running Culvert. Out: what was asked for of them, with rates where two were looked at. Never: a cut
//! cell where a program may read it.
//!
//! Rooms: [`named`] which things, [`list`] some of them alone, [`rates`] what changed between two looks, [`tables`] their columns, [`uplinks`] those of uplinks, [`table`] how
//! these are laid out.

pub(super) mod list;
mod named;
mod rates;
pub(super) mod table;
mod tables;
mod uplinks;

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::named::{Told, Whose};
use self::table::Layout;
use self::tables::View;
use super::args::Reading;
use super::output::Output;
use super::{Failure, print};
use crate::api::client::List;
use crate::state::{Part, State};

/// What is to be shown.
#[derive(Debug)]
pub(super) struct Wanted {
    /// One part; `None`: all but routes and neighbors.
    pub(super) part: Option<Part>,
    /// Names, with `*` for any text. None: all things.
    pub(super) names: Vec<String>,
    /// How.
    pub(super) output: Option<Output>,
    /// What passes each second, not what passed since the start.
    pub(super) rates: bool,
    /// Again after so many seconds, without an end.
    pub(super) watch: Option<f64>,
}

pub(super) fn run(reading: &Reading, wanted: &Wanted) -> Result<(), Failure> {
    let look = Looks { reading, wanted };
    match wanted.watch {
        Some(seconds) => look.watch(Duration::from_secs_f64(seconds)),
        None if wanted.rates => {
            let before = look.at_it()?;
            thread::sleep(Duration::from_secs(1));
            let now = look.at_it()?;
            print(&look.text(&now, Some(&before))?)
        }
        None => print(&look.text(&look.at_it()?, None)?),
    }
}

/// A state, and when it was read.
#[derive(Debug)]
pub(super) struct Sight {
    /// All of what was told.
    pub(super) state: State,
    told: Told,
    pub(super) at: Instant,
}

impl Sight {
    fn of(told: Told) -> Self {
        Self {
            state: told.all(),
            told,
            at: Instant::now(),
        }
    }

    /// The processes that were asked.
    fn pids(&self) -> Vec<u32> {
        let tuns = self.told.tuns.iter().map(|(_, state)| state.pid);
        tuns.chain([self.state.pid]).collect()
    }
}

struct Looks<'w> {
    reading: &'w Reading,
    wanted: &'w Wanted,
}

impl Looks<'_> {
    fn at_it(&self) -> Result<Sight, Failure> {
        // Others may have come meanwhile.
        let whose = Whose {
            client: self.reading.client()?,
            beside: self.reading.beside(),
        };
        let told = named::gather(&whose, self.lists(), &self.what(), &self.wanted.names)?;
        Ok(Sight::of(told))
    }

    /// What is asked for: of all that there is, tables have the most important.
    fn lists(&self) -> &'static [List] {
        use List::{Cores, Drops, Peers, Ports, Tunnels, Uplinks};
        match self.wanted.part {
            None if !self.is_for_programs() => &[Ports, Uplinks, Tunnels, Peers, Cores, Drops],
            part => List::of(part),
        }
    }

    /// The same in words.
    fn what(&self) -> String {
        let part = self.wanted.part;
        part.map_or_else(|| "what is shown".into(), Part::name)
    }

    const fn is_for_programs(&self) -> bool {
        matches!(self.wanted.output, Some(Output::Json | Output::Yaml))
    }

    /// Looks until the reader has gone. A culvert that is away for a moment is waited for.
    fn watch(&self, pause: Duration) -> Result<(), Failure> {
        let mut before = self.at_it()?;
        let mut text = self.text(&before, None)?;
        loop {
            if !self.tell(&text, pause)? {
                return Ok(());
            }
            thread::sleep(pause);
            match self.at_it() {
                Ok(now) => {
                    // Another process counts from zero.
                    let same = now.pids() == before.pids();
                    text = self.text(&now, same.then_some(&before))?;
                    before = now;
                }
                Err(Failure::Line(line)) => text = format!("culvert: {line}\n"),
                Err(other) => return Err(other),
            }
        }
    }

    /// On a terminal in the place of what was there, else below it. `false`: nobody reads.
    fn tell(&self, text: &str, pause: Duration) -> Result<bool, Failure> {
        let for_programs = self.is_for_programs();
        let text = match io::stdout().is_terminal() && !for_programs {
            true => format!(
                "\x1b[H\x1b[2J\x1b[3J{text}\nevery {} s; Ctrl-C ends it\n",
                pause.as_secs_f64()
            ),
            false if for_programs => text.to_owned(),
            false => format!("{text}\n"),
        };
        super::write(&text)
    }

    fn text(&self, now: &Sight, before: Option<&Sight>) -> Result<String, Failure> {
        let Wanted { part, output, .. } = *self.wanted;
        let wanted = for_programs(&now.told, part);
        if self.wanted.watch.is_some() && output == Some(Output::Json) {
            // One look, one line.
            return Ok(serde_json::to_string(&wanted)? + "\n");
        }
        if let Some(text) = output.map(|it| it.text(&wanted)).transpose()?.flatten() {
            return Ok(text);
        }
        let is_wide = output == Some(Output::Wide);
        let layout = Layout::of_stdout(is_wide);
        let view = View {
            state: &now.state,
            whose: Some(&now.told),
            rates: before.map(|before| rates::Rates::between(before, now)),
            is_wide,
        };
        let has_names = !self.wanted.names.is_empty() || now.told.main.is_none();
        Ok(view.text(part, has_names, layout))
    }
}

/// A `culvert tun` stands apart, with its process.
fn for_programs(told: &Told, part: Option<Part>) -> Value {
    let mut value = told
        .main
        .as_ref()
        .map_or_else(|| json!({}), |it| json_of(it, part));
    let tun = |(interface, state): &(String, State)| {
        json!({
            "interface": interface,
            "pid": state.pid,
            "uptime_s": state.uptime_s,
            "tunnels": state.tunnels,
            "peers": state.peers,
        })
    };
    if !told.tuns.is_empty() {
        value["tun"] = told.tuns.iter().map(tun).collect();
    }
    value
}

fn json_of(state: &State, part: Option<Part>) -> Value {
    match part {
        None => json!(state),
        Some(Part::Ports) => json!({ "ports": state.ports, "uplinks": state.uplinks }),
        Some(Part::Uplinks) => json!({ "uplinks": state.uplinks }),
        Some(Part::Tunnels) => json!({ "tunnels": state.tunnels }),
        Some(Part::Peers) => json!({ "tunnels": state.tunnels, "peers": state.peers }),
        Some(Part::Routes) => json!({ "routes": state.routes }),
        Some(Part::Neighbors) => json!({ "neighbors": state.neighbors }),
        Some(Part::Cores) => json!({ "cores": state.cores }),
        Some(Part::Drops) => json!({ "drops": state.drops }),
    }
}
