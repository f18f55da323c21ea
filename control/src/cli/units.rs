//! Numbers as people read them: bytes in IEC units, rates in powers of 1000, durations as `wg` shows them.

/// `1.50 KiB`, `15.0 KiB`, `150 KiB`: three digits, not rounded up.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // The unit whose count is below 1024; a u64 ends in EiB.
    let power = (bytes.ilog2() / 10).min(6);
    let unit = UNITS[power as usize - 1];
    let divisor = 1u64 << (10 * power);
    // In hundredths with integers: a float would round 2^53 and more.
    let hundredths = u128::from(bytes) * 100 / u128::from(divisor);
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match whole {
        0..10 => format!("{whole}.{part:02} {unit}"),
        10..100 => format!("{whole}.{} {unit}", part / 10),
        _ => format!("{whole} {unit}"),
    }
}

/// `0`, `9.50`, `123`, `1.23k`, `12.3M`: three digits in powers of 1000.
pub(super) fn si(number: f64) -> String {
    const UNITS: [&str; 6] = ["", "k", "M", "G", "T", "P"];
    let (mut scaled, mut power) = (number.max(0.0), 0);
    // What would round to a fourth digit belongs to the next unit.
    while scaled >= 999.5 && power + 1 < UNITS.len() {
        scaled /= 1000.0;
        power += 1;
    }
    let unit = UNITS[power];
    match scaled {
        0.0 => "0".into(),
        below_10 if below_10 < 9.995 => format!("{scaled:.2}{unit}"),
        below_100 if below_100 < 99.95 => format!("{scaled:.1}{unit}"),
        _ => format!("{scaled:.0}{unit}"),
    }
}

/// `2 hours, 1 minute, 5 seconds`, as `wg` writes it.
pub(super) fn duration(seconds: u64) -> String {
    let units = [
        (365 * 24 * 3600, "year"),
        (24 * 3600, "day"),
        (3600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let mut left = seconds;
    let mut parts = Vec::new();
    for (length, name) in units {
        let count = left / length;
        left %= length;
        if count > 0 {
            parts.push(format!(
                "{count} {name}{}",
                if count == 1 { "" } else { "s" }
            ));
        }
    }
    parts.join(", ")
}

/// `5s ago`, `1m 5s ago`, `2h 1m ago`, `3d 2h ago`; `now`, `never`.
pub(super) fn short_age(seconds: Option<u64>) -> String {
    match seconds {
        None => "never".into(),
        Some(0) => "now".into(),
        Some(s) => format!("{} ago", short_duration(s)),
    }
}

/// `0s`, `5s`, `1m 5s`, `2h 1m`, `3d 2h`.
pub(super) fn short_duration(seconds: u64) -> String {
    let both = |a: u64, one: &str, b: u64, other: &str| match b {
        0 => format!("{a}{one}"),
        _ => format!("{a}{one} {b}{other}"),
    };
    match seconds {
        s @ ..60 => format!("{s}s"),
        s @ ..3_600 => both(s / 60, "m", s % 60, "s"),
        s @ ..86_400 => both(s / 3_600, "h", s % 3_600 / 60, "m"),
        s => both(s / 86_400, "d", s % 86_400 / 3_600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1023 KiB");
        assert_eq!(bytes(50 << 30), "50.0 GiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn numbers_have_three_digits() {
        let told = [
            0.0, 0.5, 9.994, 9.996, 99.96, 123.4, 999.6, 1_234.0, 99_960.0, 1.5e9,
        ];
        let text = told.map(si).join(" ");
        assert_eq!(text, "0 0.50 9.99 10.0 100 123 1.00k 1.23k 100k 1.50G");
    }

    #[test]
    fn durations_read_as_wg_writes_them() {
        assert_eq!(duration(1), "1 second");
        assert_eq!(duration(7265), "2 hours, 1 minute, 5 seconds");
        assert_eq!(duration(86_400), "1 day");
    }

    #[test]
    fn ages_are_short() {
        let ages = [None, Some(0), Some(5), Some(65), Some(7_265), Some(86_400)];
        let text = ages.map(short_age).join(", ");
        assert_eq!(text, "never, now, 5s ago, 1m 5s ago, 2h 1m ago, 1d ago");
    }
}
