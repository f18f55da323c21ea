//! Flows one after the other: every combination of a stream's ranges, without a division.
//!
//! In: the ranges. Out: the next flow's addresses and ports. Never: two flows alike.

#![allow(
    clippy::cast_possible_truncation,
    reason = "values of a range that was checked against its kind"
)]

use crate::profile::{Family, Stream};
use crate::range::Range;

/// What a flow's packets differ in. Addresses of IPv4 are in the last four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) source_mac: u64,
    pub(crate) destination_mac: u64,
    pub(crate) source: u128,
    pub(crate) destination: u128,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Where the source and the destination are in their ranges.
    pub(crate) source_place: u32,
    pub(crate) destination_place: u32,
}

/// Counts through a stream's flows, again and again: destinations first, then sources, then ports.
#[derive(Clone, Debug)]
pub(crate) struct Odometer {
    wheels: [Wheel; 4],
    source_mac: Range,
    destination_mac: Range,
    first_flow: u32,
    flows: u32,
    flow: u32,
}

#[derive(Clone, Copy, Debug)]
struct Wheel {
    range: Range,
    place: u32,
    value: u128,
}

impl Odometer {
    pub(crate) fn new(stream: &Stream) -> Self {
        let wheel = |range: Range| Wheel {
            range,
            place: 0,
            value: range.first,
        };
        Self {
            wheels: stream.dimensions().map(wheel),
            source_mac: stream.source_mac,
            destination_mac: stream.destination_mac,
            first_flow: stream.first_flow,
            flows: stream.flows,
            flow: 0,
        }
    }

    /// The flow that is next, as a number among those of all streams.
    #[inline]
    pub(crate) const fn flow(&self) -> u32 {
        self.first_flow + self.flow
    }

    #[inline]
    pub(crate) fn addresses(&self) -> Addresses {
        let [destination, source, destination_port, source_port] = &self.wheels;
        Addresses {
            source_mac: mac(&self.source_mac, source.place),
            destination_mac: mac(&self.destination_mac, destination.place),
            source: source.value,
            destination: destination.value,
            source_port: port(source_port.value),
            destination_port: port(destination_port.value),
            source_place: source.place,
            destination_place: destination.place,
        }
    }

    #[inline]
    pub(crate) fn advance(&mut self) {
        self.flow += 1;
        let whole = self.flow == self.flows;
        if whole {
            self.flow = 0;
        }
        for wheel in &mut self.wheels {
            if wheel.advance(whole) {
                return;
            }
        }
    }
}

impl Wheel {
    /// False if it began again, and the next one is to advance.
    #[inline]
    fn advance(&mut self, whole: bool) -> bool {
        self.place += 1;
        self.value = self.value.wrapping_add(self.range.step);
        if whole || self.place == self.range.count {
            self.place = 0;
            self.value = self.range.first;
            return false;
        }
        true
    }
}

#[inline]
fn mac(range: &Range, place: u32) -> u64 {
    let place = if range.count == 1 { 0 } else { place };
    // 48 bits, as the range was checked.
    range.at(place) as u64
}

#[inline]
fn port(value: u128) -> u16 {
    // 16 bits, as the range was checked.
    value as u16
}

impl Addresses {
    /// A flow label of 20 bits, other for every flow, and never 0 (RFC 6437: none).
    #[inline]
    pub(crate) const fn label(flow: u32) -> u32 {
        flow % 0xf_ffff + 1
    }

    /// The bytes of both addresses, as they stand in the header; how many of them.
    #[inline]
    pub(crate) fn bytes(&self, family: Family) -> ([u8; 32], usize) {
        let mut bytes = [0; 32];
        match family {
            Family::Ipv4 => {
                bytes[..4].copy_from_slice(&(self.source as u32).to_be_bytes());
                bytes[4..8].copy_from_slice(&(self.destination as u32).to_be_bytes());
                (bytes, 8)
            }
            Family::Ipv6 => {
                bytes[..16].copy_from_slice(&self.source.to_be_bytes());
                bytes[16..].copy_from_slice(&self.destination.to_be_bytes());
                (bytes, 32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::profile::Profile;
    use crate::tree::Node;

    fn stream(flags: &[(&str, &str)]) -> Stream {
        Profile::read(&Node::of_flags(flags.iter().copied()))
            .unwrap()
            .streams
            .remove(0)
    }

    #[test]
    fn flows_are_all_combinations_and_then_begin_again() {
        let stream = stream(&[
            ("destination", "10.0.0.1+3/256"),
            ("source", "10.9.0.1+2"),
            ("source_mac", "52:54:00:00:00:01+2"),
            ("source_port", "1000-1004"),
        ]);
        assert_eq!(stream.flows, 30);
        let mut odometer = Odometer::new(&stream);
        let mut round = || -> Vec<Addresses> {
            let mut next = || {
                let addresses = odometer.addresses();
                odometer.advance();
                addresses
            };
            (0..30).map(|_| next()).collect()
        };
        let first = round();
        assert_eq!(first, round());
        let ends: HashSet<_> = first
            .iter()
            .map(|it| (it.source, it.destination, it.source_port))
            .collect();
        assert_eq!(ends.len(), 30);
        // Destinations differ first, a prefix each; a host's hardware address goes with its address.
        assert_eq!(first[1].destination - first[0].destination, 256);
        assert_eq!(first[3].source - first[2].source, 1);
        assert!(
            first
                .iter()
                .all(|it| it.source_mac - 0x5254_0000_0001 == u64::from(it.source_place))
        );
        assert_eq!(first[6].source_port, 1001);
    }

    #[test]
    fn fewer_flows_begin_again_earlier() {
        let stream = stream(&[("source_port", "1000+100"), ("flows", "7")]);
        let mut odometer = Odometer::new(&stream);
        let ports: Vec<u16> = (0..14)
            .map(|_| {
                let port = odometer.addresses().source_port;
                odometer.advance();
                port
            })
            .collect();
        assert_eq!(ports[..7], ports[7..]);
        assert_eq!(ports[6], 1006);
    }
}
