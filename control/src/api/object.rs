//! Objects in bodies.
//!
//! In: values of JSON. Out: what an object says. Never: a list of an object's values in its place, which serde takes for
//! the object, and `[]` for one of which nothing is said.

use std::{fmt, marker::PhantomData};

use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor, value::MapAccessDeserializer,
};

struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(PhantomData)).map(Self)
    }
}

struct Keys<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Keys<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Reads a whole body.
///
/// # Errors
///
/// Where it is none, and why.
pub(crate) fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body).map(|Object(value)| value)
}

pub(crate) fn one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

pub(crate) fn optional<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(value.map(|Object(value)| value))
}

pub(crate) fn many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let values = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(values.into_iter().map(|Object(value)| value).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::bodies::{ApplyBody, DiffBody, PurgeBody};

    #[test]
    fn a_list_of_values_is_no_object() {
        let purge = |text: &str| read::<PurgeBody>(text.as_bytes()).map_err(|it| it.to_string());
        assert_eq!(purge(r#"{"revisions": [3]}"#).unwrap().revisions, [3]);
        let refused = purge("[]").err().unwrap();
        assert!(
            refused.contains("expected an object at line 1"),
            "{refused}"
        );
        let refused = purge(r#"{"revision": [3]}"#).err().unwrap();
        assert!(refused.contains("unknown field"), "{refused}");

        let apply = |more: &str| {
            let text = format!(r#"{{"path": "/a", "text": ""{more}}}"#);
            read::<ApplyBody>(text.as_bytes())
        };
        assert!(apply(r#", "confirm": {"seconds": 60}"#).is_ok_and(|it| it.confirm.is_some()));
        assert!(apply(r#", "confirm": null"#).is_ok_and(|it| it.confirm.is_none()));
        assert!(apply(r#", "confirm": [60]"#).is_err());
        assert!(apply(r#", "included": [["/b", ""]]"#).is_err());
        let diff = |side: &str| {
            let text = format!(r#"{{"from": "running", "to": {side}}}"#);
            read::<DiffBody>(text.as_bytes())
        };
        assert!(diff(r#"{"file": {"path": "/a", "text": ""}}"#).is_ok());
        assert!(diff(r#"{"file": ["/a", ""]}"#).is_err());
    }
}
