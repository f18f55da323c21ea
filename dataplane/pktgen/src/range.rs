//! Ranges of addresses and ports: what flows differ in.
//!
//! In: texts such as `10.0.0.1`, `10.0.0.1-10.0.0.50`, `10.0.0.1+50`, `10.0.0.1+50/256` (every 256th). Out: the first value, how
//! many there are and how far apart. Never: a value past its kind's end.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use culvert_wire::MacAddr;

use crate::limits::FLOWS_MAX;
use crate::mistake::Wrong;

/// Values at equal distances. They are kept as numbers; an address of IPv4 is one of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u128,
    /// How many, from 1.
    pub count: u32,
    /// From each to the next.
    pub step: u128,
}

/// What values of a range are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Addresses of IPv4.
    V4,
    /// Addresses of IPv6.
    V6,
    /// Hardware addresses.
    Mac,
    /// Ports of UDP or TCP.
    Port,
}

impl Kind {
    const fn largest(self) -> u128 {
        match self {
            Self::V4 => u32::MAX as u128,
            Self::V6 => u128::MAX,
            Self::Mac => (1 << 48) - 1,
            Self::Port => u16::MAX as u128,
        }
    }

    fn value(self, text: &str) -> Option<u128> {
        match self {
            Self::V4 => text
                .parse()
                .ok()
                .map(|it: Ipv4Addr| u128::from(u32::from(it))),
            Self::V6 => text.parse().ok().map(|it: Ipv6Addr| u128::from(it)),
            Self::Mac => text.parse().ok().map(|it: MacAddr| u128::from(it.to_u64())),
            Self::Port => text.parse().ok().map(|it: u16| u128::from(it)),
        }
    }

    const fn help(self) -> &'static str {
        match self {
            Self::V4 => {
                "expected addresses as in 10.0.0.1, 10.0.0.1-10.0.0.50, 10.0.0.1+50, or 10.0.0.1+50/256 for every 256th"
            }
            Self::V6 => {
                "expected addresses as in fd00::1, fd00::1-fd00::50, fd00::1+50, or fd00::1+50/65536 for every 65,536th"
            }
            Self::Mac => {
                "expected hardware addresses as in \"52:54:00:00:00:01\" or \"52:54:00:00:00:01+50\""
            }
            Self::Port => "expected ports as in 5000, 5000-5999 or 5000+1000",
        }
    }
}

impl Range {
    /// One value alone.
    #[must_use]
    pub const fn of(value: u128) -> Self {
        Self {
            first: value,
            count: 1,
            step: 0,
        }
    }

    /// Reads a range.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("`{text}` is no range of values"), kind.help());
        let text = text.trim();
        let range = if let Some((first, rest)) = text.split_once('+') {
            let (count, step) = rest.split_once('/').unwrap_or((rest, "1"));
            Self {
                first: kind.value(first).ok_or_else(wrong)?,
                count: count.trim().parse().map_err(|_| wrong())?,
                step: step.trim().parse().map_err(|_| wrong())?,
            }
        } else if let Some((first, last)) = text.split_once('-') {
            let (first, last) = (kind.value(first), kind.value(last));
            let (first, last) = first
                .zip(last)
                .filter(|(first, last)| first <= last)
                .ok_or_else(wrong)?;
            Self {
                first,
                count: u32::try_from(last - first + 1).unwrap_or(u32::MAX),
                step: 1,
            }
        } else {
            Self::of(kind.value(text).ok_or_else(wrong)?)
        };
        range.check(kind, text)
    }

    fn check(self, kind: Kind, text: &str) -> Result<Self, Wrong> {
        if self.count == 0 || u64::from(self.count) > FLOWS_MAX {
            return Err(Wrong::new(
                format!("`{text}` is {} values", self.count),
                format!("expected 1 to {FLOWS_MAX}: each is a flow of its own"),
            ));
        }
        let last = u128::from(self.count - 1)
            .checked_mul(self.step)
            .and_then(|width| width.checked_add(self.first))
            .filter(|&last| last <= kind.largest());
        match last {
            Some(_) => Ok(self),
            None => Err(Wrong::new(
                format!("`{text}` goes past the last value there is"),
                kind.help(),
            )),
        }
    }

    /// The value in a place, counted from 0.
    #[must_use]
    pub const fn at(&self, place: u32) -> u128 {
        self.first
            .wrapping_add((place as u128).wrapping_mul(self.step))
    }
}

/// Which kind the addresses of a text are, by its first.
///
/// # Errors
/// That it is no address.
pub fn family(text: &str) -> Result<Kind, Wrong> {
    let first = text.split(['+', '-']).next().unwrap_or_default().trim();
    match first.parse() {
        Ok(IpAddr::V4(_)) => Ok(Kind::V4),
        Ok(IpAddr::V6(_)) => Ok(Kind::V6),
        Err(_) => Err(Wrong::new(
            format!("`{text}` is no address and no range of them"),
            Kind::V4.help(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let range = Range::parse(Kind::V4, "10.0.0.1+50/256").unwrap();
        assert_eq!((range.count, range.step), (50, 256));
        assert_eq!(
            range.at(1),
            u128::from(u32::from(Ipv4Addr::new(10, 0, 1, 1)))
        );
        let range = Range::parse(Kind::V6, "fd00::1-fd00::10").unwrap();
        assert_eq!(
            (range.count, range.at(15)),
            (16, u128::from("fd00::10".parse::<Ipv6Addr>().unwrap()))
        );
        assert_eq!(Range::parse(Kind::Port, "5000-5999").unwrap().count, 1000);
        assert_eq!(
            Range::parse(Kind::Mac, "52:54:00:00:00:01+3")
                .unwrap()
                .at(2),
            0x5254_0000_0003
        );
        assert_eq!(
            Range::parse(Kind::V4, "10.0.0.1"),
            Ok(Range::of(0x0a00_0001))
        );
        assert_eq!(family("fd00::1+5"), Ok(Kind::V6));
        assert!(family("vm1").is_err());
    }

    #[test]
    fn ranges_that_are_none_are_explained() {
        for (kind, text, found) in [
            (Kind::V4, "10.0.0.9-10.0.0.1", "no range"),
            (Kind::V4, "10.0.0.1+", "no range"),
            (Kind::V4, "10.0.0.1+0", "is 0 values"),
            (Kind::V4, "255.255.255.0+257", "past the last"),
            (Kind::V4, "0.0.0.0-255.255.255.255", "values"),
            (
                Kind::V6,
                "ffff::+2/340282366920938463463374607431768211455",
                "past the last",
            ),
            (Kind::Port, "65000+1000", "past the last"),
            (Kind::Port, "70000", "no range"),
            (Kind::Mac, "52:54:00", "no range"),
        ] {
            let wrong = Range::parse(kind, text).unwrap_err();
            assert!(wrong.message.contains(found), "{text}: {wrong:?}");
        }
    }
}
