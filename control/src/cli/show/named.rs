//! Which things are shown: those of a name.
//!
//! In: names as an operator gives them. Out: what a running Culvert has of these. Never: an empty answer for a name that
//! nothing has; more asked for than has one of the names.

use super::Failure;
use crate::api::client::{Client, List, Wanted};
use crate::report::called::Called;
use crate::state::State;

/// What the lists have that is called so; all of it, if there are no names. `what` they are is for the message.
///
/// # Errors
///
/// When nothing has one of the names.
pub(super) fn gather(
    client: &Client,
    lists: &[List],
    what: &str,
    names: &[String],
) -> Result<State, Failure> {
    let Some((first, others)) = names.split_first() else {
        return Ok(client.lists(lists, Wanted::default())?);
    };
    let mut state = called(client, lists, what, first)?;
    for name in others {
        state.append(called(client, lists, what, name)?);
    }
    state.sort();
    Ok(state)
}

fn called(client: &Client, lists: &[List], what: &str, name: &str) -> Result<State, Failure> {
    let wanted = |name, is_brief| client.lists(lists, Wanted { name, is_brief });
    let found = wanted(Some(name), false)?;
    if !found.is_empty() {
        return Ok(found);
    }
    // Of very many the first ones: a hint is not worth reading all.
    let known = all_names(&wanted(None, true)?);
    Err(Failure::Line(unknown(&known, what, name)))
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
