//! The tables of uplinks: what passes, and what they have learned.
//!
//! In, out, never: as [`super::tables`].

use super::super::units;
use super::rates;
use super::table::Table;
use super::tables::{Column, View, When, bps, bytes, dash, left, only, pps, right, sum};
use crate::state::{AddressConflict, Learned, Uplink};

const UPLINKS: &[Column<Uplink>] = &[
    left("UPLINK", |_, it| it.name.clone()),
    left("DRIVER", |_, it| it.driver.clone()),
    left("LINK", |_, it| speed(it)),
    only(
        When::Wide,
        left("BFD", |_, it| it.bfd.clone().unwrap_or_else(dash)),
    ),
    only(When::Wide, right("QUEUES", |_, it| it.queues.to_string())),
    only(
        When::WideCounts,
        right("RX PACKETS", |_, it| it.rx.packets.to_string()),
    ),
    only(When::Counts, right("RX", |_, it| bytes(it.rx))),
    only(
        When::WideCounts,
        right("TX PACKETS", |_, it| it.tx.packets.to_string()),
    ),
    only(When::Counts, right("TX", |_, it| bytes(it.tx))),
    only(When::Counts, right("DROPS", |_, it| sum(&it.drops))),
    only(When::Rates, right("RX PPS", |v, it| pps(v.uplink(it).rx))),
    only(When::Rates, right("RX BIT/S", |v, it| bps(v.uplink(it).rx))),
    only(When::Rates, right("TX PPS", |v, it| pps(v.uplink(it).tx))),
    only(When::Rates, right("TX BIT/S", |v, it| bps(v.uplink(it).tx))),
    only(
        When::Rates,
        right("DROPS/S", |v, it| units::si(v.uplink(it).drops)),
    ),
    right("MTU", |_, it| it.mtu.to_string()),
    only(When::Wide, left("DEVICE", |_, it| it.device.clone())),
    only(When::Counts, left("ADDRESSES", |_, it| addresses(it))),
];

const LEARNED: &[Column<Uplink>] = &[
    left("UPLINK", |_, it| it.name.clone()),
    left("BFD", |_, it| it.bfd.clone().unwrap_or_else(dash)),
    left("LEASE", |_, it| lease(it)),
    left("OF", |_, it| {
        of(it, |it| it.server.clone()).unwrap_or_else(dash)
    }),
    right("LINK MTU", |_, it| {
        of(it, |it| it.mtu).map_or_else(dash, |mtu| mtu.to_string())
    }),
    left("DNS", |_, it| nameservers_text(it)),
    only(
        When::Wide,
        left("DOMAIN", |_, it| {
            of(it, |it| it.domain.clone()).unwrap_or_else(dash)
        }),
    ),
    left("KERNEL", |_, it| it.exception.clone().unwrap_or_else(dash)),
    right("ROUTES", |_, it| {
        let learned = it.learned.as_ref().map_or(0, |it| it.routes.len());
        (learned + it.routes_learned.unwrap_or(0)).to_string()
    }),
];

impl View<'_> {
    /// What passes by uplinks, and what is wrong with their addresses.
    pub(super) fn uplinks(&self) -> Table {
        let mut table = self.table(UPLINKS, &self.state.uplinks);
        for uplink in &self.state.uplinks {
            let name = &uplink.name;
            let conflicts = uplink.conflicts.iter().map(conflict);
            let refused = uplink.learned.iter().flat_map(refusals);
            let all = conflicts.chain(refused);
            table.notes.extend(all.map(|it| format!("{name}: {it}")));
        }
        table
    }

    /// What they have learned, of whom, and for how long.
    pub(super) fn learned(&self) -> Table {
        self.table(LEARNED, &self.state.uplinks)
    }

    fn uplink(&self, uplink: &Uplink) -> rates::Rate {
        self.rate(&rates::uplink(&uplink.name))
    }
}

fn of<T>(uplink: &Uplink, what: impl FnOnce(&Learned) -> Option<T>) -> Option<T> {
    uplink.learned.as_ref().and_then(what)
}

/// How long the address is lent for still.
fn lease(uplink: &Uplink) -> String {
    of(uplink, |it| it.expires_in).map_or_else(dash, units::short_duration)
}

fn conflict(conflict: &AddressConflict) -> String {
    let AddressConflict { address, mac, used } = conflict;
    match used {
        true => format!("{address} is in use, and {mac} says to have it, too"),
        false => format!("{address} is not used: {mac} has it"),
    }
}

/// What was learned and is not used, and what it overlaps.
fn refusals(learned: &Learned) -> impl Iterator<Item = String> {
    let of = |all: &[String], title: &str, what: &str| {
        let line = |refused: &String| match refused.split_once(": ") {
            Some((it, with)) => format!("{title}{it} {what}: it overlaps {with}"),
            None => format!("{title}{refused} {what}"),
        };
        all.iter().map(line).collect::<Vec<_>>()
    };
    let addresses = of(&learned.refused, "", "is not used");
    let routes = of(&learned.routes_refused, "the route to ", "is not used");
    let kernel = &learned.routes_kept_from_kernel;
    let kernel = of(kernel, "the route to ", "is not given to the kernel");
    addresses.into_iter().chain(routes).chain(kernel)
}

/// Servers of names, and who says so of those up to there.
fn nameservers_text(uplink: &Uplink) -> String {
    let mut all: Vec<String> = Vec::new();
    for one in uplink.nameservers.chunk_by(|a, b| a.source == b.source) {
        let source = &one[0].source;
        let servers: Vec<_> = one.iter().map(|it| it.address.to_string()).collect();
        all.push(format!("{} ({source})", servers.join(", ")));
    }
    match all.is_empty() {
        true => dash(),
        false => all.join(", "),
    }
}

fn addresses(uplink: &Uplink) -> String {
    let refused = uplink.learned.as_ref().map(|it| it.refused.as_slice());
    match (uplink.addresses.as_slice(), refused) {
        ([], Some([])) => "none yet".into(),
        ([], Some(_)) => "none".into(),
        ([], None) => "any".into(),
        (all, _) => all.join(", "),
    }
}

fn speed(uplink: &Uplink) -> String {
    match (uplink.link_up, uplink.speed_mbps) {
        _ if uplink.disabled => "disabled".into(),
        (false, _) => "down".into(),
        (true, None) => "up".into(),
        (true, Some(speed)) if speed % 1000 == 0 => format!("{}G", speed / 1000),
        (true, Some(speed)) => format!("{speed}M"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Layout;
    use super::*;
    use crate::state::{NameServer, Part, State};

    /// The tables of a part, for one uplink.
    fn shown(part: Part, uplink: Uplink) -> String {
        let state = State {
            uplinks: vec![uplink],
            ..State::default()
        };
        let view = View {
            state: &state,
            whose: None,
            rates: None,
            is_wide: false,
        };
        view.text(Some(part), false, Layout::of_stdout(true))
    }

    fn uplink() -> Uplink {
        Uplink {
            name: "wan0".into(),
            addresses: vec!["2001:db8::7/64".into()],
            bfd: Some("init".into()),
            nameservers: vec![NameServer {
                address: [192, 0, 2, 53].into(),
                source: "dhcp".into(),
            }],
            learned: Some(Learned {
                dns: vec!["192.0.2.53".into()],
                mtu: Some(1400),
                server: Some("192.0.2.1".into()),
                expires_in: Some(3_600),
                refused: vec!["192.0.2.7/24: 192.0.2.0/24 of network blue".into()],
                routes_refused: vec![
                    "10.9.0.0/16 via 192.0.2.1: 10.9.0.0/24 of network blue".into(),
                ],
                routes_kept_from_kernel: vec![
                    "10.8.0.0/16 via 192.0.2.1: 0.0.0.0/0 of network blue".into(),
                ],
                ..Learned::default()
            }),
            ..Uplink::default()
        }
    }

    #[test]
    fn a_refused_lease_is_told_of_beside_addresses_that_there_are() {
        for part in [Part::Ports, Part::Uplinks] {
            let text = shown(part, uplink());
            let note = "wan0: 192.0.2.7/24 is not used: it overlaps 192.0.2.0/24 of network blue";
            assert!(text.contains(note), "{text}");
            for note in [
                "the route to 10.9.0.0/16 via 192.0.2.1 is not used: it overlaps 10.9.0.0/24 of network blue",
                "the route to 10.8.0.0/16 via 192.0.2.1 is not given to the kernel: it overlaps 0.0.0.0/0 of network blue",
            ] {
                assert!(text.contains(note), "{text}");
            }
        }
        let none = Uplink {
            addresses: Vec::new(),
            ..uplink()
        };
        let text = shown(Part::Ports, none);
        assert!(
            text.contains("none") && !text.contains("none yet"),
            "{text}"
        );
    }

    #[test]
    fn servers_of_names_are_told_with_who_says_so() {
        let server = |address: &str, source: &str| NameServer {
            address: address.parse().unwrap(),
            source: source.into(),
        };
        let told = |nameservers| {
            nameservers_text(&Uplink {
                nameservers,
                ..Uplink::default()
            })
        };
        let learned = vec![
            server("192.0.2.53", "dhcp"),
            server("192.0.2.54", "dhcp"),
            server("2001:db8::53", "ra"),
        ];
        let expected = "192.0.2.53, 192.0.2.54 (dhcp), 2001:db8::53 (ra)";
        assert_eq!(told(learned), expected);
        let configured = vec![server("9.9.9.9", "config"), server("2620:fe::fe", "config")];
        assert_eq!(told(configured), "9.9.9.9, 2620:fe::fe (config)");
        assert_eq!(told(Vec::new()), "-");
    }

    #[test]
    fn uplinks_tell_what_they_have_learned() {
        let text = shown(Part::Uplinks, uplink());
        for told in [
            "init",
            "192.0.2.53 (dhcp)",
            "1400",
            "192.0.2.1",
            "LEASE",
            "1h",
        ] {
            assert!(text.contains(told), "{told}: {text}");
        }
    }
}
