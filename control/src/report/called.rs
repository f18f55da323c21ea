//! What things are called: by which names an operator finds them.
//!
//! In: things as they are shown, a pattern. Out: whether it means them. Never: a name that is not shown somewhere.

use crate::state::{Core, Drop, Neighbor, Peer, Port, Route, Tunnel, Uplink};

/// A thing with names.
pub trait Called {
    /// All of its names.
    fn names(&self) -> Vec<String>;

    /// Whether one of its names is meant by a pattern, in which `*` stands for any text.
    fn is_called(&self, pattern: &str) -> bool {
        self.names().iter().any(|name| matches(pattern, name))
    }
}

impl Called for Port {
    fn names(&self) -> Vec<String> {
        let vlans = self.vlans.iter().map(|it| it.network.clone());
        let own = [self.name.clone(), self.network.clone()];
        own.into_iter().chain(vlans).collect()
    }
}

impl Called for Uplink {
    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Called for Tunnel {
    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Called for Peer {
    fn names(&self) -> Vec<String> {
        let full = format!("{}/{}", self.tunnel, self.name);
        vec![
            self.name.clone(),
            self.tunnel.clone(),
            full,
            self.public_key.clone(),
        ]
    }
}

impl Called for Route {
    fn names(&self) -> Vec<String> {
        vec![self.to.clone(), own_name(&self.table).to_owned()]
    }
}

impl Called for Neighbor {
    fn names(&self) -> Vec<String> {
        let mut names = vec![self.address.to_string(), own_name(&self.place).to_owned()];
        names.extend(self.port.clone());
        names
    }
}

impl Called for Core {
    fn names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
}

impl Called for Drop {
    fn names(&self) -> Vec<String> {
        vec![own_name(&self.scope).to_owned(), self.reason.clone()]
    }
}

/// The name in `port vm1` or `network blue`.
fn own_name(scope: &str) -> &str {
    scope.split_once(' ').map_or(scope, |(_, name)| name)
}

/// Whether a name is meant by a pattern, in which `*` stands for any text.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
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
