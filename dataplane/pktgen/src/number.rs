//! Numbers as people write them, and the one way from fractions to whole numbers.
//!
//! In: texts such as `1.5k`, fractions. Out: numbers. Never: a number that is none, or infinite.

/// The whole number nearest to a fraction; what is negative or no number is 0.
#[must_use]
pub(crate) fn whole(value: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the conversion saturates at both ends"
    )]
    let whole = value.round() as u64;
    whole
}

/// A number in front of letters: `1.5mpps` is 1.5 and `mpps`, in lower case. Underscores between digits are left out.
#[must_use]
pub(crate) fn split(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    if !text.starts_with(|char: char| char.is_ascii_digit()) {
        return None;
    }
    let end = text
        .find(|char: char| !(char.is_ascii_digit() || char == '.' || char == '_'))
        .unwrap_or(text.len());
    let digits: String = text[..end].chars().filter(|&char| char != '_').collect();
    let number: f64 = digits.parse().ok()?;
    Some((number, text[end..].trim().to_ascii_lowercase()))
}

/// What a letter before a unit multiplies by: `k`, `m`, `g`, `t`.
#[must_use]
pub(crate) fn thousands(letter: &str) -> Option<f64> {
    match letter {
        "" => Some(1.0),
        "k" => Some(1e3),
        "m" => Some(1e6),
        "g" => Some(1e9),
        "t" => Some(1e12),
        _ => None,
    }
}

/// A length of time in nanoseconds: `30s`, `2m`, `500ms`, `10us`, `100ns`, or seconds alone.
#[must_use]
pub(crate) fn duration_ns(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let ns = match unit.as_str() {
        "" | "s" => 1e9,
        "h" => 3600e9,
        "m" | "min" => 60e9,
        "ms" => 1e6,
        "us" | "µs" => 1e3,
        "ns" => 1.0,
        _ => return None,
    };
    Some(whole(number * ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_people_write_them() {
        assert_eq!(split("1.5Mpps"), Some((1.5, "mpps".into())));
        assert_eq!(split("10_000"), Some((10_000.0, String::new())));
        assert_eq!(split("1e400"), Some((1.0, "e400".into())));
        for bad in ["", "pps", "-1pps", ".5", "1.2.3", "_1", "nan", "inf"] {
            assert_eq!(split(bad), None, "{bad}");
        }
        assert_eq!(duration_ns("60"), Some(60_000_000_000));
        assert_eq!(duration_ns("2m"), Some(120_000_000_000));
        assert_eq!(duration_ns("1.5ms"), Some(1_500_000));
        assert_eq!(duration_ns("1 week"), None);
        assert_eq!(whole(-1.0), 0);
        assert_eq!(whole(f64::NAN), 0);
        assert_eq!(whole(2.5), 3);
    }
}
