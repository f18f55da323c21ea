//! What others call a thing: the UUID of a machine, the number of a port elsewhere.
//!
//! In: keys with values; [`super::super::read`] has checked them. Out: the same in the order of the keys. Never: a meaning
//! of theirs: no packet knows them.

use std::{collections::BTreeMap, fmt, sync::Arc};

/// Labels of a port or a peer. Most have none, and a copy shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<BTreeMap<String, String>>>);

impl Labels {
    /// The longest key, in bytes.
    pub const KEY_LEN: usize = 63;
    /// The longest value, in bytes.
    pub const VALUE_LEN: usize = 128;
    /// The most that one thing has.
    pub const COUNT: usize = 16;

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// By their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().flat_map(|all| all.iter());
        all.map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.as_ref()?.get(key).map(String::as_str)
    }

    /// A map of them.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.as_deref().cloned().unwrap_or_default()
    }

    /// Whether a text can be a key: as a name of Kubernetes, its prefix included.
    #[must_use]
    pub fn is_key(text: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        text.len() <= Self::KEY_LEN
            && text.bytes().next().is_some_and(plain)
            && text
                .bytes()
                .all(|byte| plain(byte) || b"./-".contains(&byte))
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(all: I) -> Self {
        let all: BTreeMap<_, _> = all.into_iter().collect();
        Self((!all.is_empty()).then(|| Arc::new(all)))
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        for (key, value) in self.iter() {
            write!(f, "{between}{key}={value}")?;
            between = ", ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_as_kubernetes_has_them() {
        for key in ["vm", "openstack.org/port-id", "_x", "7", &"k".repeat(63)] {
            assert!(Labels::is_key(key), "{key}");
        }
        for key in ["", "-vm", "/vm", "a b", "é", "a=b", &"k".repeat(64)] {
            assert!(!Labels::is_key(key), "{key}");
        }
    }
}
