//! Rates: what was asked for, and what it comes to in packets.
//!
//! In: texts such as `10mpps`, `1gbit`, `1gbit-l1`, `50%`, `max`, how long packets are, what the line carries.
//! Out: packets per second. Never: more than the line carries.
//!
//! Bits without a word are those of frames with their check sequence (layer 2). `-l1` counts preamble and gap, too, as
//! shares of a line do. `-outer` counts what leaves sealed, not the frame inside.

use serde::Serialize;

use crate::mistake::Wrong;
use crate::number;
use crate::size::{FCS_BYTES, PREAMBLE_AND_GAP_BYTES};

/// Which bytes of a frame a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// The frame, preamble and gap.
    L1,
    /// The frame with its check sequence.
    L2,
}

/// Which frame a rate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The guest's.
    Inner,
    /// The sealed one.
    Outer,
}

/// A rate as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Packets per second.
    Packets(f64),
    /// Bits per second.
    Bits {
        /// How many.
        bits_per_s: f64,
        /// Of what.
        layer: Layer,
        /// Of which frames.
        side: Side,
    },
    /// A share of what the line carries; without a line, of the generator's own ceiling.
    Share(f64),
    /// All of it.
    Max,
}

/// How long packets are in the mean, without check sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// The guest's.
    pub inner_bare_bytes: f64,
    /// The sealed ones; the same, if nothing is sealed.
    pub outer_bare_bytes: f64,
}

/// What rates are limited by.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ceiling {
    /// What the line carries, on layer 1, and which frames are on it.
    pub line: Option<(f64, LineSide)>,
    /// What the generator itself sends at most, as it measured before.
    pub own_packets_per_s: Option<f64>,
}

/// Which frames are on the line.
pub type LineSide = Side;

/// More packets per second are asked for by mistake, and would leave the arithmetic of times.
const PACKETS_MAX: f64 = 1e12;
/// The same of bits.
const BITS_MAX: f64 = 1e15;

const HELP: &str = "expected a rate as in 10mpps, 1gbit (frames), 1gbit-l1 (with preamble and gap), 1gbit-outer (sealed), 50% or max";

impl Rate {
    /// Reads a rate.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = || Wrong::new(format!("`{text}` is no rate"), HELP);
        if text.trim().eq_ignore_ascii_case("max") {
            return Ok(Self::Max);
        }
        let (number, words) = number::split(text).ok_or_else(wrong)?;
        if number <= 0.0 || number > 1e15 {
            return Err(Wrong::new(format!("a rate of `{text}`"), HELP));
        }
        if words == "%" {
            return share(text, number);
        }
        let mut words = words.split('-');
        let unit = words.next().unwrap_or_default();
        if let Some(times) = unit.strip_suffix("pps").and_then(number::thousands) {
            let rate = Self::Packets(number * times);
            let is_one = words.next().is_none() && number * times <= PACKETS_MAX;
            return is_one.then_some(rate).ok_or_else(wrong);
        }
        let letter = ["bits", "bit", "bps"]
            .iter()
            .find_map(|it| unit.strip_suffix(it));
        let times = letter.and_then(number::thousands).ok_or_else(wrong)?;
        if number * times > BITS_MAX {
            return Err(wrong());
        }
        let (mut layer, mut side) = (Layer::L2, Side::Inner);
        for word in words {
            match word {
                "l1" => layer = Layer::L1,
                "l2" => layer = Layer::L2,
                "inner" => side = Side::Inner,
                "outer" => side = Side::Outer,
                _ => return Err(wrong()),
            }
        }
        Ok(Self::Bits {
            bits_per_s: number * times,
            layer,
            side,
        })
    }

    /// What it comes to.
    ///
    /// # Errors
    /// That it is more than the line carries, or a share of nothing that is known.
    pub fn packets_per_s(self, lengths: Lengths, ceiling: Ceiling) -> Result<f64, Wrong> {
        let line = ceiling
            .line
            .map(|(bits_per_s, side)| bits_per_s / bits(lengths.of(side), Layer::L1));
        let whole = line.or(ceiling.own_packets_per_s);
        let asked = match self {
            Self::Packets(packets_per_s) => packets_per_s,
            Self::Bits {
                bits_per_s,
                layer,
                side,
            } => bits_per_s / bits(lengths.of(side), layer),
            Self::Share(share) => share * whole.ok_or_else(of_nothing)?,
            Self::Max => whole.ok_or_else(of_nothing)?,
        };
        match line {
            // A ten-millionth is what the arithmetic of fractions may make of an exact line rate.
            Some(line) if asked > line * (1.0 + 1e-7) => Err(Wrong::new(
                format!(
                    "{asked:.0} packets/s is more than the line carries: {line:.0} packets/s of {:.0} bytes",
                    lengths.inner_bare_bytes + f64::from(FCS_BYTES)
                ),
                "ask for less, for max, or say what the line carries, as in `line: 25gbit`",
            )),
            _ => Ok(asked),
        }
    }
}

impl Lengths {
    const fn of(self, side: Side) -> f64 {
        match side {
            Side::Inner => self.inner_bare_bytes,
            Side::Outer => self.outer_bare_bytes,
        }
    }
}

/// Bits of one packet.
#[must_use]
pub fn bits(bare_bytes: f64, layer: Layer) -> f64 {
    let more = match layer {
        Layer::L1 => FCS_BYTES + PREAMBLE_AND_GAP_BYTES,
        Layer::L2 => FCS_BYTES,
    };
    8.0 * (bare_bytes + f64::from(more))
}

fn share(text: &str, percent: f64) -> Result<Rate, Wrong> {
    if percent > 100.0 {
        return Err(Wrong::new(format!("`{text}` is more than all"), HELP));
    }
    Ok(Rate::Share(percent / 100.0))
}

fn of_nothing() -> Wrong {
    Wrong::new(
        "a share of a line whose rate is not known",
        "say what it carries, as in `line: 10gbit`, or ask for packets, as in 1mpps",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Lengths = Lengths {
        inner_bare_bytes: 60.0,
        outer_bare_bytes: 122.0,
    };
    const TEN_GIGABIT: Ceiling = Ceiling {
        line: Some((10e9, Side::Inner)),
        own_packets_per_s: None,
    };

    fn comes_to(text: &str) -> f64 {
        let rate = Rate::parse(text).unwrap();
        rate.packets_per_s(SMALL, TEN_GIGABIT).unwrap()
    }

    fn near(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1.0,
            "{found} instead of {expected}"
        );
    }

    #[test]
    fn rates_come_to_packets() {
        near(comes_to("10mpps"), 10e6);
        near(comes_to("1.5Mpps"), 1.5e6);
        near(comes_to("500kpps"), 500e3);
        // 64 bytes and 20 on the line: the 14.88 Mpps that everybody knows.
        near(comes_to("max"), 14_880_952.0);
        near(comes_to("100%"), 14_880_952.0);
        near(comes_to("50%"), 7_440_476.0);
        near(comes_to("10gbit-l1"), 14_880_952.0);
        near(comes_to("1gbit"), 1_953_125.0);
        near(comes_to("1gbps"), 1_953_125.0);
        near(comes_to("1gbit-outer"), 1e9 / (126.0 * 8.0));
        near(comes_to("1gbit-l1-outer"), 1e9 / (146.0 * 8.0));
    }

    #[test]
    fn nothing_is_above_the_line() {
        let rate = Rate::parse("20mpps").unwrap();
        let wrong = rate.packets_per_s(SMALL, TEN_GIGABIT).unwrap_err();
        assert!(
            wrong.message.contains("14880952 packets/s of 64 bytes"),
            "{wrong:?}"
        );
        // On a line of sealed frames less fits.
        let sealed = Ceiling {
            line: Some((10e9, Side::Outer)),
            own_packets_per_s: None,
        };
        near(
            Rate::Max.packets_per_s(SMALL, sealed).unwrap(),
            10e9 / (146.0 * 8.0),
        );
        assert!(
            Rate::parse("10mpps")
                .unwrap()
                .packets_per_s(SMALL, sealed)
                .is_err()
        );
    }

    #[test]
    fn a_share_is_of_something_known() {
        let own = Ceiling {
            line: None,
            own_packets_per_s: Some(4e6),
        };
        near(Rate::Share(0.5).packets_per_s(SMALL, own).unwrap(), 2e6);
        let wrong = Rate::Share(0.5)
            .packets_per_s(SMALL, Ceiling::default())
            .unwrap_err();
        assert!(wrong.help.contains("line: 10gbit"));
        assert!(Rate::Max.packets_per_s(SMALL, Ceiling::default()).is_err());
    }

    #[test]
    fn rates_that_are_none_are_explained() {
        for bad in [
            "",
            "10",
            "fast",
            "0mpps",
            "-1mpps",
            "101%",
            "10mpps-l1",
            "1gbit-l3",
            "1gbyte",
            "1xbit",
            "mpps",
            "2tpps",
            "2000tbit",
            "99999999999999999gpps",
        ] {
            let wrong = Rate::parse(bad).unwrap_err();
            assert!(wrong.help.contains("1gbit-l1"), "{bad}");
        }
    }
}
