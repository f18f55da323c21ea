//! Numbers as people read them: bytes in IEC units, ages as `wg` shows them.

/// `1.50 KiB`, as `wg` rounds.
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
    format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
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

/// `5 seconds ago`, `now`, `never`.
pub(super) fn ago(seconds: Option<u64>) -> String {
    match seconds {
        None => "never".into(),
        Some(0) => "now".into(),
        Some(seconds) => format!("{} ago", duration(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_two_digits_behind_the_point() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(1536), "1.50 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1023.99 KiB");
        assert_eq!(bytes(5 << 30), "5.00 GiB");
        assert_eq!(bytes(u64::MAX), "15.99 EiB");
    }

    #[test]
    fn ages_read_as_wg_writes_them() {
        assert_eq!(ago(None), "never");
        assert_eq!(ago(Some(0)), "now");
        assert_eq!(ago(Some(1)), "1 second ago");
        assert_eq!(ago(Some(7265)), "2 hours, 1 minute, 5 seconds ago");
        assert_eq!(ago(Some(86_400)), "1 day ago");
    }
}
