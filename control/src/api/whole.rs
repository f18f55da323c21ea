//! Whole numbers in bodies.
//!
//! In: numbers of JSON, which knows no kinds of them: `60.0` is as whole as `60` (RFC 8259, section 6). Out: integers.
//! Never: a fraction cut off.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};

struct Whole(u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_u64(Digits).map(Self)
    }
}

struct Digits;

impl Visitor<'_> for Digits {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 to 18446744073709551615")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        Ok(number)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        let digits = (number.fract() == 0.0).then(|| format!("{number:.0}"));
        let whole = digits.and_then(|digits| digits.parse().ok());
        whole.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Float(number), &self))
    }
}

pub(crate) fn one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Whole::deserialize(deserializer).map(|Whole(number)| number)
}

pub(crate) fn optional<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u64>, D::Error> {
    let number = Option::<Whole>::deserialize(deserializer)?;
    Ok(number.map(|Whole(number)| number))
}

pub(crate) fn many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    let numbers = Vec::<Whole>::deserialize(deserializer)?;
    Ok(numbers.into_iter().map(|Whole(number)| number).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_however_it_is_written() {
        let read = |text: &str| one(&mut serde_json::Deserializer::from_str(text));
        for (text, number) in [
            ("60", 60),
            ("60.0", 60),
            ("6e1", 60),
            ("0.0", 0),
            ("1e19", 10u64.pow(19)),
        ] {
            assert_eq!(read(text).unwrap(), number, "{text}");
        }
        for text in [
            "60.5",
            "-1",
            "-1.0",
            "1e20",
            "18446744073709551616",
            "\"60\"",
            "null",
            "true",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains("expected a whole number"), "{text}: {error}");
        }
    }
}
