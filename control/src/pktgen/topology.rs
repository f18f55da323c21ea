//! What the device under test has to be, for each topology.
//!
//! In: a profile, processors. Out: the device's configuration as a text, the seats' names, notes for the reader. Never: a
//! guard that is off where the profile would pass a strict one: what is measured is what operators run.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_pktgen::Profile;
use culvert_pktgen::profile::{Family, Stream};
use culvert_pktgen::range::Range;
use culvert_wire::MacAddr;

use super::cores::{Cores, listed};
use super::far::WIRE;
use super::sealed::SINK;

/// From where to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// A guest to another one at the same Culvert.
    V2v,
    /// A guest into a tunnel, on a null NIC.
    P2t,
    /// The same, onto a NIC's wire, where packets are opened.
    P2w,
    /// Sealed packets on a NIC's wire to a guest.
    T2p,
}

/// Guests' ports of a topology with two.
const GUESTS: [&str; 2] = ["a", "b"];

/// Addresses of a strict port that are written down at most.
const ADDRESSES_MAX: u32 = 64;
/// The prefixes of the guests' network: those for benchmarks (RFC 2544, appendix C.2.2; RFC 5180, section 8). Of the second
/// halves are destinations, without other words.
const IPV4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 0, 0), Ipv4Addr::new(198, 19, 0, 0)];
const IPV6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0),
    Ipv6Addr::new(0x2001, 2, 0, 1, 0, 0, 0, 0),
];
/// The gateway, at the end of them.
const GATEWAYS: [&str; 2] = ["198.19.255.254/15", "2001:2:0:ffff:ffff:ffff:ffff:fffe/48"];
/// The same of a network whose other half is behind a tunnel: of the first half, and of the second.
const NEAR_GATEWAYS: [&str; 2] = ["198.18.255.254/16", "2001:2::ffff:ffff:ffff:fffe/64"];
const FAR_GATEWAYS: [&str; 2] = ["198.19.255.254/16", "2001:2:0:1:ffff:ffff:ffff:fffe/64"];
/// A guest that is a router there.
const ROUTERS: [&str; 2] = ["198.19.255.253", "2001:2:0:1:ffff:ffff:ffff:fffd"];
/// The least MTU that a network may have.
const MTU_MIN: u32 = 1280;

/// A device that is to be started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Its configuration.
    pub config: String,
    /// What a reader has to know of it.
    pub notes: Vec<String>,
}

impl Topology {
    /// Its name at the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V2v => "v2v",
            Self::P2t => "p2t",
            Self::P2w => "p2t to the wire",
            Self::T2p => "t2p",
        }
    }

    /// The guests, which are ports of the device and seats.
    #[must_use]
    pub const fn guests(self) -> &'static [&'static str] {
        match self {
            Self::V2v => &GUESTS,
            Self::P2t | Self::P2w | Self::T2p => &["a"],
        }
    }

    /// What streams may name: guests, and where packets go to nobody, or come from.
    #[must_use]
    pub const fn ends(self) -> &'static [&'static str] {
        match self {
            Self::V2v => &GUESTS,
            Self::P2t => &["a", SINK],
            Self::P2w => &["a", WIRE],
            Self::T2p => &[WIRE, "a"],
        }
    }

    /// The prefixes of the guests' network, and how long they are.
    const fn prefixes(self) -> ((Ipv4Addr, u32), (Ipv6Addr, u32)) {
        match self {
            Self::V2v => ((IPV4[0], 15), (IPV6[0], 48)),
            Self::P2t | Self::P2w => ((IPV4[0], 16), (IPV6[0], 64)),
            Self::T2p => ((IPV4[1], 16), (IPV6[1], 64)),
        }
    }

    /// The device; `way_out` has its uplinks and its tunnel, if it has any.
    #[must_use]
    pub fn plan(self, profile: &Profile, cores: &Cores, way_out: &str) -> Plan {
        let mut notes = Vec::new();
        let guests = self.guests();
        let ports: String = guests
            .iter()
            .map(|seat| port(profile, self, seat, &mut notes))
            .collect();
        let lan = match self {
            Self::V2v => {
                let [ipv4, ipv6] = GATEWAYS;
                format!(
                    "gateway: [{ipv4}, \"{ipv6}\"], mtu: {}",
                    profile.mtu.max(MTU_MIN)
                )
            }
            Self::P2t | Self::P2w => {
                let [ipv4, ipv6] = NEAR_GATEWAYS;
                let mac = profile.streams.first();
                let mac = mac.map_or(0x5254_0000_0002, |it| it.destination_mac.first);
                format!(
                    "gateway: [{ipv4}, \"{ipv6}\"], gateway_mac: \"{}\", tunnel: wan",
                    mac_text(mac)
                )
            }
            Self::T2p => {
                let [ipv4, ipv6] = FAR_GATEWAYS;
                format!(
                    "gateway: [{ipv4}, \"{ipv6}\"], tunnel: wan{}",
                    routes(profile)
                )
            }
        };
        let head = head(cores);
        Plan {
            config: format!("{head}{way_out}networks:\n  lan: {{ {lan} }}\nports:\n{ports}"),
            notes,
        }
    }
}

/// Streams without ends go from the first seat to the second one.
pub fn seat_streams(profile: &mut Profile, seats: &[String]) {
    let (first, last) = (seats.first(), seats.last());
    for stream in &mut profile.streams {
        let unnamed = |end: &mut String, seat: Option<&String>| {
            if end.is_empty() {
                *end = seat.cloned().unwrap_or_default();
            }
        };
        unnamed(&mut stream.from, first);
        unnamed(&mut stream.to, last);
    }
}

/// What every device has. Its workers sleep where one has no processor of its own.
fn head(cores: &Cores) -> String {
    let poll = if cores.is_shared() {
        "adaptive"
    } else {
        "busy"
    };
    format!(
        "version: 1\nnode: pktgen\ncores: {{ workers: [{}], poll: {poll} }}\n",
        listed(&cores.workers)
    )
}

/// A guest that sends some streams and receives others: its guard is as strict as they let it be.
fn port(profile: &Profile, topology: Topology, seat: &str, notes: &mut Vec<String>) -> String {
    let sent = || profile.streams.iter().filter(|it| it.from == seat);
    let received = || profile.streams.iter().filter(|it| it.to == seat);
    let mac = mac_of(profile, topology.guests(), seat);
    let is_one = |range: &Range| range.count == 1 && range.first == mac;
    let guard = if !sent().all(|it| is_one(&it.source_mac)) {
        "off"
    } else if !sent().all(|it| is_benchmark(topology, it, &it.source)) {
        "mac"
    } else {
        "strict"
    };
    if guard != "strict" {
        notes.push(format!(
            "the guard of port {seat} is `{guard}`: source addresses are more, or others, than a strict port has here"
        ));
    }
    let mut addresses = Vec::new();
    if guard == "strict" {
        for (stream, range) in sent()
            .map(|it| (it, it.source))
            .chain(received().map(|it| (it, it.destination)))
        {
            if is_benchmark(topology, stream, &range) {
                let all = (0..range.count).map(|place| address(stream, range.at(place)));
                addresses.extend(all);
            }
        }
        if topology == Topology::T2p && !routes(profile).is_empty() {
            addresses.extend(ROUTERS.map(|it| format!("\"{it}\"")));
        }
        addresses.sort();
        addresses.dedup();
    }
    let addresses = addresses.join(", ");
    format!(
        "  {seat}: {{ network: lan, mac: \"{}\", addresses: [{addresses}], guard: {guard} }}\n",
        mac_text(mac)
    )
}

/// The address that it sends from, or is sent to; one of its own, if that can't be a port's, or is another one's.
fn mac_of(profile: &Profile, guests: &[&str], seat: &str) -> u128 {
    let of = |seat: &str| {
        let mut sent = profile.streams.iter().filter(|it| it.from == seat);
        sent.next().map(|it| it.source_mac.first)
    };
    let mut received = profile.streams.iter().filter(|it| it.to == seat);
    let is_free = |mac: &u128| {
        let is_unicast = mac >> 40 & 1 == 0 && *mac != 0;
        is_unicast && guests.iter().all(|it| *it == seat || of(it) != Some(*mac))
    };
    let own = || received.next().map(|it| it.destination_mac.first);
    let mac = of(seat).or_else(own).filter(is_free);
    let place = guests.iter().position(|it| *it == seat).unwrap_or(0);
    mac.unwrap_or(0x5254_0000_00f0 + place as u128)
}

/// To destinations that are not the guest's own: it is a router then. A strict port has no more addresses than that.
fn routes(profile: &Profile) -> String {
    let topology = Topology::T2p;
    let behind = profile.streams.iter().filter_map(|it| {
        let range = it.destination;
        (it.from == WIRE && !is_benchmark(topology, it, &range)).then(|| prefix(it, &range))
    });
    let mut routes: Vec<String> = behind.collect();
    routes.sort();
    routes.dedup();
    match routes.is_empty() {
        true => String::new(),
        false => format!(", routes: [{}]", routes.join(", ")),
    }
}

/// A route to all of a range, by the guest's address.
fn prefix(stream: &Stream, range: &Range) -> String {
    let (bits, via) = match stream.family {
        Family::Ipv4 => (32, ROUTERS[0]),
        Family::Ipv6 => (128, ROUTERS[1]),
    };
    let differ = range.first ^ range.at(range.count - 1);
    let free = 128 - differ.leading_zeros();
    let first = range.first.checked_shr(free).unwrap_or(0);
    let first = first.checked_shl(free).unwrap_or(0);
    let address = address(stream, first);
    let address = address.trim_matches('"');
    format!("{{ to: \"{address}/{}\", via: \"{via}\" }}", bits - free)
}

/// Whether a range is short, and within the network's prefix.
fn is_benchmark(topology: Topology, stream: &Stream, range: &Range) -> bool {
    let last = range.at(range.count - 1);
    let ((ipv4, ipv4_len), (ipv6, ipv6_len)) = topology.prefixes();
    let (prefix, free) = match stream.family {
        Family::Ipv4 => (u128::from(u32::from(ipv4)), 32 - ipv4_len),
        Family::Ipv6 => (u128::from(ipv6), 128 - ipv6_len),
    };
    let is_in = |address: u128| address >> free == prefix >> free;
    range.count <= ADDRESSES_MAX && is_in(range.first) && is_in(last)
}

fn address(stream: &Stream, value: u128) -> String {
    match stream.family {
        Family::Ipv4 => Ipv4Addr::from(u32::try_from(value).unwrap_or(0)).to_string(),
        Family::Ipv6 => format!("\"{}\"", Ipv6Addr::from(value)),
    }
}

fn mac_text(value: u128) -> String {
    let bytes = value.to_be_bytes();
    let mac: [u8; 6] = bytes.last_chunk().copied().unwrap_or_default();
    MacAddr(mac).to_string()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use culvert_pktgen::tree::Node;

    use super::*;
    use crate::config::{self, Disk, Guard};

    fn cores() -> Cores {
        Cores {
            generator: 1,
            workers: vec![0],
        }
    }

    fn planned(flags: &[(&str, &str)]) -> (config::Config, Plan) {
        let mut profile = Profile::read(&Node::of_flags(flags.iter().copied())).unwrap();
        seat_streams(&mut profile, &GUESTS.map(String::from));
        let plan = Topology::V2v.plan(&profile, &cores(), "");
        let read = config::parse(&plan.config, Path::new("plan.yaml"), &Disk);
        let (config, report) =
            read.unwrap_or_else(|it| panic!("{}{}", it.render(false), plan.config));
        assert_eq!(report.warnings(), 0, "{}", report.render(false));
        (config, plan)
    }

    #[test]
    fn guests_have_what_the_profile_sends_from_and_to() {
        let (config, plan) = planned(&[
            ("source", "198.18.0.1+3"),
            ("mtu", "9000"),
            ("size", "9018"),
        ]);
        let [a, b] = &config.ports[..] else {
            panic!("{:?}", config.ports)
        };
        assert_eq!(
            (
                a.attachments[0].guard,
                a.attachments[0].addresses.len(),
                b.attachments[0].addresses.len()
            ),
            (Guard::Strict, 3, 1)
        );
        assert_eq!(a.mac.to_string(), "52:54:00:00:00:01");
        assert_eq!(b.mac.to_string(), "52:54:00:00:00:02");
        assert!(plan.notes.is_empty());
        let (config, _) = planned(&[("source", "2001:2::1"), ("destination", "2001:2::2")]);
        assert_eq!(config.ports[1].attachments[0].addresses.len(), 1);
    }

    #[test]
    fn a_tunnel_s_near_half_is_the_guests_network() {
        let flags = [("destination", "198.19.0.1+100/256")];
        let mut profile = Profile::read(&Node::of_flags(flags)).unwrap();
        seat_streams(
            &mut profile,
            &Topology::P2t
                .ends()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>(),
        );
        assert_eq!(profile.streams[0].to, SINK);
        let plan = Topology::P2t.plan(&profile, &cores(), "tunnels: {}\n");
        assert!(
            plan.config
                .contains("gateway_mac: \"52:54:00:00:00:02\", tunnel: wan"),
            "{}",
            plan.config
        );
        assert!(
            plan.config
                .contains("addresses: [198.18.0.1], guard: strict"),
            "{}",
            plan.config
        );
    }

    #[test]
    fn a_guest_behind_a_tunnel_has_its_addresses_or_is_a_router() {
        let planned = |flags: &[(&str, &str)]| {
            let mut profile = Profile::read(&Node::of_flags(flags.iter().copied())).unwrap();
            let ends = Topology::T2p.ends().iter().map(ToString::to_string);
            seat_streams(&mut profile, &ends.collect::<Vec<_>>());
            Topology::T2p.plan(&profile, &cores(), "").config
        };
        let config = planned(&[("destination", "198.19.0.1+2")]);
        assert!(
            config.contains(
                "mac: \"52:54:00:00:00:02\", addresses: [198.19.0.1, 198.19.0.2], guard: strict"
            ),
            "{config}"
        );
        assert!(!config.contains("routes"), "{config}");
        let config = planned(&[("destination", "10.0.0.1+100/256")]);
        let route = "routes: [{ to: \"10.0.0.0/17\", via: \"198.19.255.253\" }]";
        assert!(config.contains(route), "{config}");
        let config = planned(&[("source", "2001:2::1"), ("destination", "2001:db8:5::7")]);
        let route =
            "routes: [{ to: \"2001:db8:5::7/128\", via: \"2001:2:0:1:ffff:ffff:ffff:fffd\" }]";
        assert!(config.contains(route), "{config}");
        assert!(
            config.contains("addresses: [\"198.19.255.253\", \"2001:2:0:1:"),
            "{config}"
        );
    }

    #[test]
    fn a_guard_is_as_strict_as_the_profile_lets_it_be() {
        let (config, plan) = planned(&[("source", "10.0.0.1+1000")]);
        assert_eq!(config.ports[0].attachments[0].guard, Guard::Mac);
        assert!(
            plan.notes[0].contains("port a is `mac`"),
            "{:?}",
            plan.notes
        );
        let (config, _) = planned(&[
            ("source_mac", "52:54:00:00:00:01+5"),
            ("source", "198.18.0.1+5"),
        ]);
        assert_eq!(config.ports[0].attachments[0].guard, Guard::Off);
    }
}
