//! Times as people and programs read them.
//!
//! In: a time since 1970. Out: RFC 3339 text in UTC. Never: a time zone's rules, a clock.

use std::time::Duration;

/// `2026-11-30T00:20:11.123Z`, to the millisecond.
#[must_use]
pub fn rfc3339(since_1970: Duration) -> String {
    let seconds = since_1970.as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let millis = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The Gregorian date of a day, which is counted from 1970-01-01. Years are taken as beginning with March, so that the
/// leap day is a year's last; 400 of them have 146,097 days (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `date -u -d @N` says.
    #[test]
    fn dates_are_those_of_the_calendar() {
        let told = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_164_799, "2024-02-28T23:59:59.000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, text) in told {
            assert_eq!(rfc3339(Duration::from_secs(seconds)), text);
        }
        let time = Duration::new(1_796_000_000, 123_999_999);
        assert_eq!(rfc3339(time), "2026-11-30T00:53:20.123Z");
    }
}
