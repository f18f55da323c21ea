//! What is to be sent: streams, how fast, how long.
//!
//! In: a tree of texts (a file, flags, both). Out: a [`Profile`] whose every field is checked, or all mistakes that it has.
//! Never: a default that is not in the table of [`KEYS`]; a file.
//!
//! Keys of a stream may stand beside `streams`, too: there they hold for all streams, and without `streams` they are the
//! only one. So a file of many streams and a line of flags have the same keys.

mod keys;
mod read;
mod stream;
mod texts;

use crate::mistake::Mistake;
use crate::pace::Shape;
use crate::rate::{Ceiling, Lengths, Rate, Side};
use crate::size::{FrameLen, Tunnel};
use crate::tree::Node;

pub use self::{
    keys::{KEYS, Key, Place, table},
    stream::{Checksums, Family, Protocol, Share, Stream},
};

/// What is to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// At least one.
    pub streams: Vec<Stream>,
    /// Of all streams that have none of their own, together.
    pub rate: Rate,
    /// How long a trial sends.
    pub duration_ns: u64,
    /// How packets follow each other.
    pub shape: Shape,
    /// What the line carries on layer 1, if there is a line, and which frames are on it.
    pub line: Option<(f64, Side)>,
    /// What is around frames on the wire.
    pub tunnel: Option<Tunnel>,
    /// The MTU of what frames are in.
    pub mtu: u32,
    /// How late a packet may leave before it counts as unsent.
    pub catch_up_ns: u64,
    /// How late a packet may arrive before it counts as late.
    pub late_ns: u64,
    /// Whether all payload is compared, and not the signature alone.
    pub verify: bool,
    /// What draws of the Poisson process begin with.
    pub seed: u64,
}

impl Profile {
    /// Reads a profile.
    ///
    /// # Errors
    /// All mistakes that it has, in the order of its keys.
    pub fn read(node: &Node) -> Result<Self, Vec<Mistake>> {
        read::profile(node)
    }

    /// Flows of all streams.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.streams.last().map_or(0, |it| it.first_flow + it.flows)
    }

    /// How long a stream's packets are in the mean: each segment of a super-frame is one.
    #[must_use]
    pub fn lengths(&self, stream: &Stream) -> Lengths {
        Lengths {
            inner_bare_bytes: stream.mean_of_packets(|len| f64::from(len.bare_bytes())),
            outer_bare_bytes: stream.mean_of_packets(|len| f64::from(self.outer(len).bare_bytes())),
        }
    }

    /// A packet's frame as it is on the wire.
    #[must_use]
    pub fn outer(&self, inner: FrameLen) -> FrameLen {
        self.tunnel.map_or(inner, |tunnel| tunnel.around(inner))
    }

    /// Packets per second of each stream.
    ///
    /// # Errors
    /// That a rate is more than the line carries, or a share of nothing that is known.
    pub fn packets_per_s(&self, own_packets_per_s: Option<f64>) -> Result<Vec<f64>, Vec<Mistake>> {
        let ceiling = Ceiling {
            line: self.line,
            own_packets_per_s,
        };
        let together = self.rate.packets_per_s(self.shared_lengths(), ceiling);
        let together = together.map_err(|wrong| vec![wrong.at("rate")])?;
        let rates: Vec<f64> = self.rates(ceiling, together)?;
        let lengths = self.mean_lengths(&rates);
        let line = Rate::Max.packets_per_s(lengths, ceiling).ok();
        match line.filter(|_| self.line.is_some()) {
            Some(line) if rates.iter().sum::<f64>() > line * (1.0 + 1e-7) => {
                let all: f64 = rates.iter().sum();
                let message = format!(
                    "all streams together are {all:.0} packets/s, the line carries {line:.0}"
                );
                Err(vec![
                    Mistake::new("streams", message)
                        .help("give streams lower rates, or shares of one `rate`"),
                ])
            }
            _ => Ok(rates),
        }
    }

    fn rates(&self, ceiling: Ceiling, together: f64) -> Result<Vec<f64>, Vec<Mistake>> {
        let shares: f64 = self.streams.iter().map(|it| it.share.of_all()).sum();
        let rates = self.streams.iter().map(|stream| match stream.share {
            Share::Of(share) => Ok(together * share / shares),
            Share::Own(rate) => rate
                .packets_per_s(self.lengths(stream), ceiling)
                .map_err(|wrong| vec![wrong.at(format!("{}.rate", stream.path))]),
        });
        rates.collect()
    }

    /// The mean over all streams that share the profile's rate, or all if none does.
    fn shared_lengths(&self) -> Lengths {
        let shares: Vec<f64> = self.streams.iter().map(|it| it.share.of_all()).collect();
        self.mean_lengths(&shares)
    }

    /// The mean over all packets; `packets_per_s` has each stream's part of them. If none has any, all streams are alike.
    #[must_use]
    pub fn mean_lengths(&self, packets_per_s: &[f64]) -> Lengths {
        let all: f64 = packets_per_s.iter().sum();
        let weights = |place: usize| match all > 0.0 {
            true => packets_per_s.get(place).map_or(0.0, |it| it / all),
            false => 1.0 / self.streams.len() as f64,
        };
        let mean = |of: fn(Lengths) -> f64| -> f64 {
            let streams = self.streams.iter().enumerate();
            streams
                .map(|(place, it)| weights(place) * of(self.lengths(it)))
                .sum()
        };
        Lengths {
            inner_bare_bytes: mean(|it| it.inner_bare_bytes),
            outer_bare_bytes: mean(|it| it.outer_bare_bytes),
        }
    }
}

#[cfg(test)]
mod tests;
