//! The lists of the API, read to their ends.
//!
//! In: which lists, and which names. Out: a [`State`] with these alone, each in the order in which people count. Never:
//! more of a list than has the name that is asked for.

use axum::http::Method;
use serde::de::DeserializeOwned;

use super::{Client, ClientError};
use crate::report::lists::{LIMIT, Page};
use crate::state::{Part, State, Status};

/// A list of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Ports.
    Ports,
    /// Uplinks.
    Uplinks,
    /// Tunnels.
    Tunnels,
    /// Peers.
    Peers,
    /// Routes.
    Routes,
    /// Neighbors.
    Neighbors,
    /// Cores.
    Cores,
    /// Losses.
    Drops,
}

impl List {
    /// Those of a part, or of all parts.
    #[must_use]
    pub const fn of(part: Option<Part>) -> &'static [Self] {
        use List::{Cores, Drops, Neighbors, Peers, Ports, Routes, Tunnels, Uplinks};
        match part {
            None => &[
                Ports, Uplinks, Tunnels, Peers, Routes, Neighbors, Cores, Drops,
            ],
            Some(Part::Ports) => &[Ports, Uplinks],
            Some(Part::Uplinks) => &[Uplinks],
            Some(Part::Tunnels) => &[Tunnels],
            Some(Part::Peers) => &[Tunnels, Peers],
            Some(Part::Routes) => &[Routes],
            Some(Part::Neighbors) => &[Neighbors],
            Some(Part::Cores) => &[Cores],
            Some(Part::Drops) => &[Drops],
        }
    }
}

/// What is wanted of lists.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'w> {
    /// What is called so, `*` standing for any text; else all.
    pub name: Option<&'w str>,
    /// Its first page alone.
    pub is_brief: bool,
}

impl Client {
    /// What the process is, and what it runs.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn status(&self) -> Result<Status, ClientError> {
        self.ask(Method::GET, "/v1/status", Vec::new())
    }

    /// All of what is, or a part of it.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn state(&self, part: Option<Part>) -> Result<State, ClientError> {
        self.lists(List::of(part), Wanted::default())
    }

    /// These lists, page after page; the others are empty.
    ///
    /// # Errors
    ///
    /// When nobody answers.
    pub fn lists(&self, lists: &[List], wanted: Wanted<'_>) -> Result<State, ClientError> {
        let mut state = State::from(self.status()?);
        for list in lists {
            match list {
                List::Ports => state.ports = self.list("ports", wanted)?,
                List::Uplinks => state.uplinks = self.list("uplinks", wanted)?,
                List::Tunnels => state.tunnels = self.list("tunnels", wanted)?,
                List::Peers => state.peers = self.list("peers", wanted)?,
                List::Routes => state.routes = self.list("routes", wanted)?,
                List::Neighbors => state.neighbors = self.list("neighbors", wanted)?,
                List::Cores => state.cores = self.list("cores", wanted)?,
                List::Drops => state.drops = self.list("drops", wanted)?,
            }
        }
        state.sort();
        Ok(state)
    }

    fn list<T: DeserializeOwned>(
        &self,
        list: &str,
        wanted: Wanted<'_>,
    ) -> Result<Vec<T>, ClientError> {
        let (mut items, mut after) = (Vec::new(), None);
        // Of what is not read to its end a short page is enough.
        let limit = (!wanted.is_brief).then(|| LIMIT.to_string());
        loop {
            let keys = [
                ("like", wanted.name),
                ("after", after.as_deref()),
                ("limit", limit.as_deref()),
            ];
            let path = format!("/v1/{list}{}", query(keys));
            let mut page: Page<T> = self.ask(Method::GET, &path, Vec::new())?;
            items.append(&mut page.items);
            after = page.next.filter(|_| !wanted.is_brief);
            if after.is_none() {
                return Ok(items);
            }
        }
    }
}

/// A query of those keys that have a value.
fn query<const N: usize>(keys: [(&str, Option<&str>); N]) -> String {
    let keys = keys.into_iter();
    let given = keys.filter_map(|(key, value)| Some(format!("{key}={}", encoded(value?))));
    let given: Vec<_> = given.collect();
    match given.is_empty() {
        true => String::new(),
        false => format!("?{}", given.join("&")),
    }
}

/// A text as a query has it.
pub(super) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).into(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_query_means_otherwise_is_encoded() {
        assert_eq!(query([("like", None), ("after", None)]), "");
        let both = [("like", Some("wg0/hv-*")), ("after", Some("a b"))];
        assert_eq!(query(both), "?like=wg0%2Fhv-%2A&after=a%20b");
        assert_eq!(encoded("a+b=é&c d"), "a%2Bb%3D%C3%A9%26c%20d");
    }
}
