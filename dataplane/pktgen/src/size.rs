//! Sizes of frames: with or without their check sequence, inside a tunnel or around it.
//!
//! In: texts such as `64`, `60-bare`, `1518-outer`, what tunnel is around. Out: lengths, each with its unit in its name.
//! Never: a length whose meaning is a guess.
//!
//! ```text
//!  inner, bare   | Ethernet 14 | IP packet ............................. |
//!  inner, fcs    | Ethernet 14 | IP packet ............................. | 4 |
//!  outer, bare   | Ethernet 14 | IP 20/40 | UDP 8 | 16 | IP packet, padded to 16 | tag 16 |
//!  on the line   | preamble 8  | frame with its check sequence ......... | gap 12 |
//! ```

use serde::Serialize;

use crate::limits::{BARE_BYTES_MIN, SUPER_BYTES_MAX};
use crate::mistake::Wrong;
use crate::number;

/// The check sequence of an Ethernet frame.
pub const FCS_BYTES: u32 = 4;
/// What a frame takes on a line beside itself: preamble, start delimiter, the least gap.
pub const PREAMBLE_AND_GAP_BYTES: u32 = 20;
/// An Ethernet header.
pub const ETHERNET_BYTES: u32 = 14;

/// What a WireGuard data message puts around a packet: UDP, its own header, the tag.
const MESSAGE_BYTES: u32 = 8 + 16 + 16;
/// To a multiple of this the packet inside is padded, as far as the MTU goes (whitepaper, section 5.4.6).
const PADDING: u32 = 16;

/// The length of a guest's frame, without its check sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FrameLen {
    bare_bytes: u32,
}

impl FrameLen {
    /// Of a frame without its check sequence.
    #[must_use]
    pub const fn of_bare_bytes(bare_bytes: u32) -> Self {
        Self { bare_bytes }
    }

    /// Of a frame with its check sequence.
    #[must_use]
    pub const fn of_fcs_bytes(bytes: u32) -> Self {
        Self::of_bare_bytes(bytes.saturating_sub(FCS_BYTES))
    }

    /// Without the check sequence: what is handed over.
    #[must_use]
    pub const fn bare_bytes(self) -> u32 {
        self.bare_bytes
    }

    /// With the check sequence: what RFC 2544 calls the size.
    #[must_use]
    pub const fn fcs_bytes(self) -> u32 {
        self.bare_bytes + FCS_BYTES
    }

    /// The IP packet inside.
    #[must_use]
    pub const fn ip_bytes(self) -> u32 {
        self.bare_bytes.saturating_sub(ETHERNET_BYTES)
    }
}

/// What is around a frame on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Whether the endpoints have IPv6 addresses.
    pub ipv6: bool,
    /// The tunnel's MTU, beyond which nothing is padded.
    pub mtu: u32,
}

impl Tunnel {
    /// The sealed frame around an inner one; both without their check sequences.
    #[must_use]
    pub const fn around(self, inner: FrameLen) -> FrameLen {
        FrameLen::of_bare_bytes(self.overhead_bytes() + self.padded(inner.ip_bytes()))
    }

    /// The inner frame that a sealed one is around, if there is one: its packet is a multiple of 16, or the MTU.
    ///
    /// # Errors
    /// The nearest lengths below and above that exist.
    pub fn inside(self, outer: FrameLen) -> Result<FrameLen, (FrameLen, FrameLen)> {
        let packet = outer.bare_bytes().saturating_sub(self.overhead_bytes());
        let inner = FrameLen::of_bare_bytes(packet + ETHERNET_BYTES);
        if self.around(inner) == outer {
            return Ok(inner);
        }
        let below = packet / PADDING * PADDING;
        let above = self.padded(packet);
        let sealed = |packet| FrameLen::of_bare_bytes(self.overhead_bytes() + packet);
        Err((sealed(below), sealed(above)))
    }

    const fn overhead_bytes(self) -> u32 {
        ETHERNET_BYTES + if self.ipv6 { 40 } else { 20 } + MESSAGE_BYTES
    }

    const fn padded(self, packet: u32) -> u32 {
        let padded = packet.next_multiple_of(PADDING);
        if packet <= self.mtu && padded > self.mtu {
            self.mtu
        } else {
            padded
        }
    }
}

const HELP: &str = "expected a length with its check sequence, as in 64, or 60-bare without it, \
                    1518-outer or 1514-outer-bare for what leaves sealed, 64k for super-frames";

/// One size as text. Without a word it is the inner frame's, with its check sequence.
///
/// # Errors
/// What is wrong with the text, or that no frame is so long.
pub fn parse(text: &str, tunnel: Option<Tunnel>) -> Result<FrameLen, Wrong> {
    let wrong = |why: String| Wrong::new(why, HELP);
    let (number, words) =
        number::split(text).ok_or_else(|| wrong(format!("`{text}` is no size")))?;
    if number == 64.0 && words == "k" {
        return Ok(FrameLen::of_bare_bytes(SUPER_BYTES_MAX));
    }
    let (mut bare, mut outer) = (false, false);
    for word in words.split(['-', ' ']).filter(|word| !word.is_empty()) {
        match word {
            "bare" => bare = true,
            "outer" => outer = true,
            "fcs" | "inner" => {}
            _ => return Err(wrong(format!("`{text}` is no size: what is `{word}`?"))),
        }
    }
    let bytes = u32::try_from(number::whole(number)).unwrap_or(u32::MAX);
    let said = if bare {
        FrameLen::of_bare_bytes(bytes)
    } else {
        FrameLen::of_fcs_bytes(bytes)
    };
    let inner = if outer {
        within(text, said, tunnel)?
    } else {
        said
    };
    if !(BARE_BYTES_MIN..=SUPER_BYTES_MAX).contains(&inner.bare_bytes()) {
        let (least, most) = (
            FrameLen::of_bare_bytes(BARE_BYTES_MIN),
            FrameLen::of_bare_bytes(SUPER_BYTES_MAX),
        );
        return Err(wrong(format!(
            "a frame of {text} bytes: there are such of {} to {}",
            least.fcs_bytes(),
            most.fcs_bytes()
        )));
    }
    Ok(inner)
}

fn within(text: &str, outer: FrameLen, tunnel: Option<Tunnel>) -> Result<FrameLen, Wrong> {
    let tunnel = tunnel.ok_or_else(|| {
        Wrong::new(
            format!(
                "`{text}` is the size of what leaves sealed, but nothing says what is around it"
            ),
            "set `outer` to ipv4 or ipv6",
        )
    })?;
    tunnel.inside(outer).map_err(|(below, above)| {
        Wrong::new(
            format!("no packet is {text} when it is sealed: packets inside are padded to 16 bytes"),
            format!(
                "the nearest are {}-outer and {}-outer",
                below.fcs_bytes(),
                above.fcs_bytes()
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Tunnel = Tunnel {
        ipv6: false,
        mtu: 1420,
    };

    #[test]
    fn sizes_say_what_they_count() {
        let bare = |text| parse(text, Some(V4)).map(FrameLen::bare_bytes);
        assert_eq!(bare("64"), Ok(60));
        assert_eq!(bare("60-bare"), Ok(60));
        assert_eq!(bare("64 fcs"), Ok(60));
        assert_eq!(bare("64k"), Ok(65_549));
        // 14 + 20 + 8 + 16 + 48 + 16, and 4: a packet of 48 bytes.
        assert_eq!(bare("126-outer"), Ok(62));
        assert_eq!(bare("122-outer-bare"), Ok(62));
    }

    #[test]
    fn sizes_that_are_none_are_explained() {
        let message = |text, tunnel| parse(text, tunnel).unwrap_err();
        assert!(message("63", None).message.contains("64 to 65553"));
        assert!(message("70000", None).message.contains("64 to 65553"));
        assert!(message("64-outher", None).message.contains("outher"));
        assert!(message("big", None).help.contains("60-bare"));
        assert!(message("1518-outer", None).help.contains("`outer`"));
        let near = message("128-outer", Some(V4));
        assert!(
            near.help.contains("126-outer") && near.help.contains("142-outer"),
            "{near:?}"
        );
    }

    #[test]
    fn what_is_sealed_is_as_long_as_the_tunnel_makes_it() {
        for ipv6 in [false, true] {
            let tunnel = Tunnel { ipv6, mtu: 1420 };
            for packet in 46..=1420 {
                let outer = tunnel.around(FrameLen::of_bare_bytes(14 + packet));
                let message = outer.bare_bytes() - 14 - if ipv6 { 40 } else { 20 } - 8;
                let padded = message - 32;
                assert!(padded >= packet && padded - packet < 16 && padded <= 1420);
                assert!(padded.is_multiple_of(16) || padded == 1420);
                let inner = tunnel.inside(outer).unwrap();
                assert_eq!(tunnel.around(inner), outer);
            }
        }
    }
}
