//! Mixes of sizes: one, or a sequence that is repeated, as an IMIX genome says it (RFC 6985).
//!
//! In: texts such as `64`, `imix`, `7x64,4x570,1x1518`, `aaaaaaaAAAAg:A=570`. Out: distinct sizes, and the sequence of them.
//! Never: an order that differs between two runs.
//!
//! Genome letters (RFC 6985, section 4) are sizes with their check sequence: a = 64, b = 128, c = 256, d = 512,
//! e = 1024, f = 1280, g = 1518, h = 2112, i = 9000, j = 16000, z = the MTU; capitals are given beside it.

use crate::limits::{GENOME_MAX, SIZES_MAX};
use crate::mistake::Wrong;
use crate::size::{self, ETHERNET_BYTES, FCS_BYTES, FrameLen, Tunnel};

/// The default mix: 7 of 64, 4 of 570, 1 of 1518.
pub const IMIX: &str = "7x64,4x570,1x1518";
/// As CSIT sends it: the same shares, in longer runs.
pub const IMIX_CSIT: &str = "28x64,16x570,4x1518";

const LETTERS: [(char, u32); 10] = [
    ('a', 64),
    ('b', 128),
    ('c', 256),
    ('d', 512),
    ('e', 1024),
    ('f', 1280),
    ('g', 1518),
    ('h', 2112),
    ('i', 9000),
    ('j', 16_000),
];

/// Sizes in the order in which they are sent, again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix {
    sizes: Vec<FrameLen>,
    /// Places in `sizes`.
    sequence: Vec<u8>,
}

/// What sizes are read against.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// What is around frames, if they are sealed.
    pub tunnel: Option<Tunnel>,
    /// What the genome's letter z means.
    pub mtu: u32,
}

impl Mix {
    /// One size alone.
    #[must_use]
    pub fn of(size: FrameLen) -> Self {
        Self {
            sizes: vec![size],
            sequence: vec![0],
        }
    }

    /// Reads a size, a mix or a genome.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str, around: Around) -> Result<Self, Wrong> {
        let text = text.trim();
        match text {
            "imix" => Self::listed(IMIX, around),
            "imix-csit" => Self::listed(IMIX_CSIT, around),
            _ if text.starts_with(|char: char| char.is_ascii_alphabetic()) => genome(text, around),
            _ => Self::listed(text, around),
        }
    }

    /// `7x64,4x570`: runs, in this order.
    fn listed(text: &str, around: Around) -> Result<Self, Wrong> {
        let mut lengths = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (times, size) = part.split_once('x').unwrap_or(("1", part));
            let times: usize = times.trim().parse().map_err(|_| {
                Wrong::new(
                    format!("`{part}` is no part of a mix"),
                    format!("expected how many and of what size, as in {IMIX}"),
                )
            })?;
            let size = size::parse(size, around.tunnel)?;
            lengths.extend(std::iter::repeat_n(size, times.min(GENOME_MAX + 1)));
            check_length(lengths.len())?;
        }
        Self::of_sequence(&lengths)
    }

    fn of_sequence(lengths: &[FrameLen]) -> Result<Self, Wrong> {
        check_length(lengths.len())?;
        let mut sizes: Vec<FrameLen> = Vec::new();
        let mut sequence = Vec::with_capacity(lengths.len());
        for &size in lengths {
            let place = sizes.iter().position(|&it| it == size).unwrap_or_else(|| {
                sizes.push(size);
                sizes.len() - 1
            });
            sequence.push(u8::try_from(place).unwrap_or(u8::MAX));
        }
        if sizes.len() > SIZES_MAX {
            return Err(Wrong::new(
                format!("a mix of {} sizes", sizes.len()),
                format!("expected {SIZES_MAX} different ones at most"),
            ));
        }
        Ok(Self { sizes, sequence })
    }

    /// The distinct sizes.
    #[must_use]
    pub fn sizes(&self) -> &[FrameLen] {
        &self.sizes
    }

    /// Which of [`Mix::sizes`] comes in which place; repeated.
    #[must_use]
    pub fn sequence(&self) -> &[u8] {
        &self.sequence
    }

    /// The mean over the sequence of something that each size has.
    #[must_use]
    pub fn mean(&self, of: impl Fn(FrameLen) -> f64) -> f64 {
        let sum: f64 = self
            .sequence
            .iter()
            .map(|&place| of(self.sizes[usize::from(place)]))
            .sum();
        sum / self.sequence.len() as f64
    }

    /// The longest.
    #[must_use]
    pub fn longest(&self) -> FrameLen {
        self.sizes
            .iter()
            .copied()
            .max()
            .unwrap_or(FrameLen::of_bare_bytes(0))
    }

    /// In words: `64`, or `7x64,4x570,1x1518`; with check sequences.
    #[must_use]
    pub fn words(&self) -> String {
        if let [only] = self.sizes[..] {
            return only.fcs_bytes().to_string();
        }
        let runs = self.sequence.chunk_by(|a, b| a == b);
        let words: Vec<String> = runs
            .map(|run| {
                format!(
                    "{}x{}",
                    run.len(),
                    self.sizes[usize::from(run[0])].fcs_bytes()
                )
            })
            .collect();
        words.join(",")
    }
}

fn check_length(length: usize) -> Result<(), Wrong> {
    if (1..=GENOME_MAX).contains(&length) {
        return Ok(());
    }
    Err(Wrong::new(
        "a mix that is empty or too long",
        format!("expected 1 to {GENOME_MAX} frames in all"),
    ))
}

/// `aaaaaaaAAAAg:A=570`: a letter for each frame, then what the capitals mean.
fn genome(text: &str, around: Around) -> Result<Mix, Wrong> {
    let (letters, given) = text.split_once(':').unwrap_or((text, ""));
    let mut custom = Vec::new();
    for part in given
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let read = part.split_once('=').and_then(|(letter, size)| {
            let letter = letter.trim().parse::<char>().ok()?;
            letter.is_ascii_uppercase().then_some((letter, size))
        });
        let (letter, size) = read.ok_or_else(|| no_genome(text, part))?;
        custom.push((letter, size::parse(size, around.tunnel)?));
    }
    let lengths: Option<Vec<FrameLen>> = letters
        .chars()
        .map(|letter| meaning(letter, &custom, around))
        .collect();
    let lengths = lengths.ok_or_else(|| {
        let unknown = letters
            .chars()
            .find(|&letter| meaning(letter, &custom, around).is_none());
        no_genome(text, &unknown.map(String::from).unwrap_or_default())
    })?;
    Mix::of_sequence(&lengths)
}

fn meaning(letter: char, custom: &[(char, FrameLen)], around: Around) -> Option<FrameLen> {
    if letter == 'z' {
        return Some(FrameLen::of_fcs_bytes(
            around.mtu + ETHERNET_BYTES + FCS_BYTES,
        ));
    }
    let known = LETTERS
        .iter()
        .find(|(it, _)| *it == letter)
        .map(|(_, bytes)| FrameLen::of_fcs_bytes(*bytes));
    known.or_else(|| {
        custom
            .iter()
            .find(|(it, _)| *it == letter)
            .map(|(_, size)| *size)
    })
}

fn no_genome(text: &str, part: &str) -> Wrong {
    Wrong::new(
        format!("`{text}` is no size and no mix: what is `{part}`?"),
        format!(
            "expected a size as in 64, a mix as in {IMIX}, imix, imix-csit, or a genome as in aaaaaaaAAAAg:A=570"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Around = Around {
        tunnel: None,
        mtu: 1500,
    };

    fn mix(text: &str) -> Mix {
        Mix::parse(text, PLAIN).unwrap()
    }

    #[test]
    fn a_genome_and_a_list_mean_the_same() {
        let imix = mix("imix");
        assert_eq!(imix, mix("aaaaaaaAAAAg:A=570"));
        assert_eq!(imix.words(), IMIX);
        assert_eq!(imix.sequence().len(), 12);
        assert_eq!(imix.longest().fcs_bytes(), 1518);
        // The mean that the facts of a mix are compared by: 353.8 bytes.
        let mean = imix.mean(|size| f64::from(size.fcs_bytes()));
        assert!((mean - (7.0 * 64.0 + 4.0 * 570.0 + 1518.0) / 12.0).abs() < 1e-9);
        assert_eq!(mix("imix-csit").words(), IMIX_CSIT);
        assert_eq!(mix("z").words(), "1518");
        assert_eq!(mix("64").sequence(), [0]);
        assert_eq!(mix("64").words(), "64");
    }

    #[test]
    fn mixes_that_are_none_are_explained() {
        for (text, found) in [
            ("7y64", "7y64"),
            ("axb", "what is `x`"),
            ("aaA", "what is `A`"),
            ("aaA:570", "what is `570`"),
            ("0x64", "empty"),
            ("5000x64", "too long"),
            ("99999999999999x64,1x64", "too long"),
            ("7x12", "there are such of"),
            ("", "no size"),
        ] {
            let wrong = Mix::parse(text, PLAIN).unwrap_err();
            assert!(wrong.message.contains(found), "{text}: {wrong:?}");
            assert!(!wrong.help.is_empty());
        }
    }
}
