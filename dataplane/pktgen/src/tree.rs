//! What an operator wrote, before anything is understood: the same for a file and for flags.
//!
//! In: YAML or JSON by serde, flags as pairs of a path and a text. Out: a tree of texts. Never: what a key means.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

/// A value with its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Nothing was written.
    Null,
    /// A single value as text, whether it was quoted or not.
    Text(String),
    /// Several values.
    List(Vec<Node>),
    /// Keys and values, in the order in which they stand.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A tree of flags: `--size 64` is `("size", "64")`.
    pub fn of_flags<'f>(flags: impl IntoIterator<Item = (&'f str, &'f str)>) -> Self {
        let pairs = flags
            .into_iter()
            .map(|(key, value)| (key.replace('-', "_"), Self::Text(value.into())));
        Self::Map(pairs.collect())
    }

    /// This tree with those keys of another one that it has, too, replaced, and the rest added: flags over a file.
    #[must_use]
    pub fn overlaid(self, over: Self) -> Self {
        match (self, over) {
            (Self::Map(mut below), Self::Map(above)) => {
                for (key, value) in above {
                    match below.iter_mut().find(|(it, _)| *it == key) {
                        Some((_, old)) => *old = value,
                        None => below.push((key, value)),
                    }
                }
                Self::Map(below)
            }
            (below, Self::Null) => below,
            (_, above) => above,
        }
    }

    /// What it is, in words.
    #[must_use]
    pub const fn form(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Text(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a table",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a table")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Text(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut pairs: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some((key, value)) = pairs.next_entry::<String, Node>()? {
            map.push((key, value));
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_flags_are_the_same_tree() {
        let file: Node =
            serde_saphyr::from_str("rate: 10mpps\nsize: 64\nsource_port: 5000-5009\n").unwrap();
        let flags = Node::of_flags([
            ("rate", "10mpps"),
            ("size", "64"),
            ("source-port", "5000-5009"),
        ]);
        assert_eq!(file, flags);
        let json: Node = serde_json::from_str(r#"{"a": [1, 2.5, true, null, "x"]}"#).unwrap();
        let texts = ["1", "2.5", "true"].map(|text| Node::Text(text.into()));
        let mut list = texts.to_vec();
        list.extend([Node::Null, Node::Text("x".into())]);
        assert_eq!(json, Node::Map(vec![("a".into(), Node::List(list))]));
    }

    #[test]
    fn flags_go_over_a_file() {
        let file = Node::of_flags([("rate", "1mpps"), ("size", "64")]);
        let both = file.overlaid(Node::of_flags([("rate", "2mpps"), ("flows", "5")]));
        assert_eq!(
            both,
            Node::of_flags([("rate", "2mpps"), ("size", "64"), ("flows", "5")])
        );
    }
}
