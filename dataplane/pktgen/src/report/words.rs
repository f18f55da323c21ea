//! Numbers and texts as a page shows them.
//!
//! In: values. Out: text that is safe in HTML. Never: more digits than a measurement has.

/// A text in which nothing is markup.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// With three or four digits: 14.88, 1.953, 120.
#[must_use]
pub fn digits(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".into(),
        0.0 => "0".into(),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.2}"),
        _ if size >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

/// A number without zeros at its end, for axes; what follows it stays.
pub(super) fn trimmed(text: &str) -> String {
    let (number, unit) = text
        .split_once(' ')
        .map_or((text, ""), |(number, _)| (number, &text[number.len()..]));
    if !number.contains('.') || number.contains('e') {
        return text.into();
    }
    format!(
        "{}{unit}",
        number.trim_end_matches('0').trim_end_matches('.')
    )
}

/// Packets per second in millions.
pub(super) fn mpps(packets_per_s: f64) -> String {
    digits(packets_per_s / 1e6)
}

/// Bits per second in thousands of millions.
pub(super) fn gbit(bits_per_s: f64) -> String {
    digits(bits_per_s / 1e9)
}

/// A time with the unit that fits.
pub(super) fn time(ns: f64) -> String {
    match ns {
        _ if ns < 1e3 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{} µs", digits(ns / 1e3)),
        _ if ns < 1e9 => format!("{} ms", digits(ns / 1e6)),
        _ => format!("{} s", digits(ns / 1e9)),
    }
}

/// A share in percent, small ones in words that don't look like nothing.
pub(super) fn percent(ratio: f64) -> String {
    match ratio * 100.0 {
        0.0 => "0".into(),
        percent if percent < 0.0001 => "&lt;0.0001 %".into(),
        percent if percent < 0.1 => format!("{percent:.4} %"),
        percent => format!("{percent:.2} %"),
    }
}

/// A whole number with its thousands apart.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_digits_that_they_are_read_with() {
        assert_eq!(
            [14.880_952, 1.953_125, 120.4, 0.0, 1e-5, f64::NAN].map(digits),
            ["14.88", "1.953", "120", "0", "1.00e-5", "–"]
        );
        assert_eq!(
            [12.0, 1500.0, 2.5e6, 3e9].map(time),
            ["12 ns", "1.500 µs", "2.500 ms", "3.000 s"]
        );
        assert_eq!(
            [0.0, 1e-8, 0.000_5, 0.5].map(percent),
            ["0", "&lt;0.0001 %", "0.0500 %", "50.00 %"]
        );
        assert_eq!(
            ["10.00 µs", "100 %", "1.500", "1.00e-5"].map(trimmed),
            ["10 µs", "100 %", "1.5", "1.00e-5"]
        );
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(escaped("<b a='\"&'>"), "&lt;b a=&#39;&quot;&amp;&#39;&gt;");
    }
}
