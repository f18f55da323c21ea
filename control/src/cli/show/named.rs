//! Which things are shown: those of a name, of a running Culvert and of the `culvert tun`s beside it.
//!
//! In: names as an operator gives them. Out: what there is of these. Never: an empty answer for a name that nothing has;
//! more asked for than has one of the names.

use super::Failure;
use crate::api::client::{Client, ClientError, List, Wanted};
use crate::process::tun_dir;
use crate::report::called::Called;
use crate::state::State;

/// Who is asked.
pub(super) struct Whose {
    pub(super) client: Client,
    /// Interfaces of `culvert tun`; one that has ended is left out.
    pub(super) beside: Vec<String>,
}

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Nobody may run but a `culvert tun`.
    pub(super) main: Option<State>,
    /// Each interface with its tunnel and peers.
    pub(super) tuns: Vec<(String, State)>,
}

/// What a `culvert tun` is shown with.
const OF_TUN: [List; 2] = [List::Tunnels, List::Peers];

/// In the place of the uplink's name, which nobody gave it.
const UPLINK: &str = "culvert tun";

impl Told {
    fn is_empty(&self) -> bool {
        let tuns = self.tuns.iter().map(|(_, state)| state);
        self.main.iter().chain(tuns).all(State::is_empty)
    }

    fn append(&mut self, other: Self) {
        let took = |one: &mut State, other| {
            one.append(other);
            one.sort();
        };
        match (&mut self.main, other.main) {
            (Some(one), Some(other)) => took(one, other),
            (None, other) => self.main = other,
            (Some(_), None) => {}
        }
        for (interface, state) in other.tuns {
            match self.tuns.iter_mut().find(|(it, _)| *it == interface) {
                Some((_, one)) => took(one, state),
                None => self.tuns.push((interface, state)),
            }
        }
    }

    /// All of it as one, for people.
    pub(super) fn all(&self) -> State {
        let mut all = self.main.clone().unwrap_or_default();
        for (_, state) in &self.tuns {
            let mut state = state.clone();
            for tunnel in &mut state.tunnels {
                tunnel.uplink = UPLINK.into();
            }
            all.append(state);
        }
        all
    }
}

/// What the lists have that is called so; all of it, if there are no names. `what` they are is for the message.
///
/// # Errors
///
/// When nothing has one of the names.
pub(super) fn gather(
    whose: &Whose,
    lists: &[List],
    what: &str,
    names: &[String],
) -> Result<Told, Failure> {
    let Some((first, others)) = names.split_first() else {
        return whose.tell(lists, Wanted::default());
    };
    let mut told = called(whose, lists, what, first)?;
    for name in others {
        told.append(called(whose, lists, what, name)?);
    }
    Ok(told)
}

fn called(whose: &Whose, lists: &[List], what: &str, name: &str) -> Result<Told, Failure> {
    let wanted = |name, is_brief| whose.tell(lists, Wanted { name, is_brief });
    let found = wanted(Some(name), false)?;
    if !found.is_empty() {
        return Ok(found);
    }
    // Of very many the first ones: a hint is not worth reading all.
    let known = all_names(&wanted(None, true)?.all());
    Err(Failure::Line(unknown(&known, what, name)))
}

impl Whose {
    fn tell(&self, lists: &[List], wanted: Wanted<'_>) -> Result<Told, Failure> {
        let of_tun: Vec<_> = lists
            .iter()
            .filter(|it| OF_TUN.contains(it))
            .copied()
            .collect();
        let beside = self.beside.iter().filter(|_| !of_tun.is_empty());
        let tuns = beside.filter_map(|interface| {
            // Whoever has ended meanwhile, or lets others in, is not worth a failure.
            let client = Client::new(&tun_dir::of(interface));
            let state = client.lists(&of_tun, wanted).ok()?;
            Some((interface.clone(), state))
        });
        let tuns: Vec<_> = tuns.collect();
        let main = match self.client.lists(lists, wanted) {
            Ok(state) => Some(state),
            Err(ClientError::NotRunning(_)) if !tuns.is_empty() => None,
            Err(error) => return Err(error.into()),
        };
        Ok(Told { main, tuns })
    }
}

/// What all things are called.
fn all_names(state: &State) -> Vec<String> {
    fn of<T: Called>(things: &[T]) -> impl Iterator<Item = String> {
        things.iter().flat_map(Called::names)
    }
    of(&state.ports)
        .chain(of(&state.uplinks))
        .chain(of(&state.tunnels))
        .chain(of(&state.peers))
        .chain(of(&state.routes))
        .chain(of(&state.neighbors))
        .chain(of(&state.cores))
        .chain(of(&state.drops))
        .collect()
}

fn unknown(known: &[String], what: &str, name: &str) -> String {
    let near = known
        .iter()
        .map(|it| (strsim::jaro_winkler(it, name), it))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let near = near.map_or_else(String::new, |(_, it)| format!(": did you mean `{it}`?"));
    format!("nothing among {what} is called `{name}`{near}")
}
