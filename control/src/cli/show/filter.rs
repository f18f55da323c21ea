//! Which things are shown: those of a name.
//!
//! In: a state, names as an operator gives them. Out: the state without what has none of them. Never: an empty answer
//! for a name that nothing has.

use super::Failure;
use crate::state::{Part, State};

/// Leaves in a state what has one of the names; all of it, if there are none.
///
/// # Errors
///
/// When nothing has one of them.
pub(super) fn retain(
    state: &mut State,
    part: Option<Part>,
    names: &[String],
) -> Result<(), Failure> {
    for name in names {
        if !all_names(state).iter().any(|known| matches(name, known)) {
            return Err(Failure::Line(unknown(state, part, name)));
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let wanted = |own: &[&str]| {
        let has = |name: &String| own.iter().any(|own| matches(name, own));
        names.iter().any(has)
    };
    state.ports.retain(|it| wanted(&[&it.name, &it.network]));
    state.uplinks.retain(|it| wanted(&[&it.name]));
    state.tunnels.retain(|it| wanted(&[&it.name]));
    state.peers.retain(|it| {
        let full = format!("{}/{}", it.tunnel, it.name);
        wanted(&[&it.name, &it.tunnel, &full, &it.public_key])
    });
    state.routes.retain(|it| wanted(&route_names(it)));
    state.neighbors.retain(|it| {
        let (address, port) = (it.address.to_string(), it.port.as_deref().unwrap_or(""));
        wanted(&[&address, port, own_name(&it.place)])
    });
    state.cores.retain(|it| wanted(&[&it.name]));
    state
        .drops
        .retain(|it| wanted(&[own_name(&it.scope), &it.reason]));
    Ok(())
}

/// What all things are called.
fn all_names(state: &State) -> Vec<String> {
    let mut names = Vec::new();
    let mut add = |them: &[&str]| names.extend(them.iter().map(|&it| it.to_owned()));
    state
        .ports
        .iter()
        .for_each(|it| add(&[&it.name, &it.network]));
    state.uplinks.iter().for_each(|it| add(&[&it.name]));
    state.tunnels.iter().for_each(|it| add(&[&it.name]));
    for it in &state.peers {
        let full = format!("{}/{}", it.tunnel, it.name);
        add(&[&it.name, &it.tunnel, &full, &it.public_key]);
    }
    state.routes.iter().for_each(|it| add(&route_names(it)));
    for it in &state.neighbors {
        let (address, port) = (it.address.to_string(), it.port.as_deref().unwrap_or(""));
        add(&[&address, port, own_name(&it.place)]);
    }
    state.cores.iter().for_each(|it| add(&[&it.name]));
    state
        .drops
        .iter()
        .for_each(|it| add(&[own_name(&it.scope), &it.reason]));
    names
}

fn route_names(route: &crate::state::Route) -> [&str; 2] {
    [&route.to, own_name(&route.table)]
}

/// The name in `port vm1` or `network blue`.
fn own_name(scope: &str) -> &str {
    scope.split_once(' ').map_or(scope, |(_, name)| name)
}

fn unknown(state: &State, part: Option<Part>, name: &str) -> String {
    let part = part.map_or_else(|| "what is shown".into(), |part| part.name());
    let known = all_names(state);
    let near = known
        .iter()
        .map(|it| (strsim::jaro_winkler(it, name), it))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other));
    let near = near.map_or_else(String::new, |(_, it)| format!(": did you mean `{it}`?"));
    format!("nothing among {part} is called `{name}`{near}")
}

/// Whether a name is meant by a pattern, in which `*` stands for any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("vm1", "vm1"),
            ("vm*", "vm1"),
            ("*", ""),
            ("v*1", "vm11"),
            ("*m*", "vm1"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("vm1", "vm11"),
            ("vm*", "wm1"),
            ("v*1", "vm12"),
            ("a*a", "a"),
            ("", "vm1"),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
