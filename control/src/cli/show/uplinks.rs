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
    left("DNS", |_, it| match it.learned.as_ref() {
        Some(learned) if !learned.dns.is_empty() => learned.dns.join(", "),
        _ => dash(),
    }),
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
            let refused = uplink.learned.iter().flat_map(|it| &it.refused);
            let refused = refused.map(|it| refusal(it));
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

/// Of an address that was learned, with what it overlaps.
fn refusal(refused: &str) -> String {
    match refused.split_once(": ") {
        Some((address, what)) => format!("{address} is not used: it overlaps {what}"),
        None => format!("{refused} is not used"),
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
    use crate::state::{Part, State};

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
            learned: Some(Learned {
                dns: vec!["192.0.2.53".into()],
                mtu: Some(1400),
                server: Some("192.0.2.1".into()),
                expires_in: Some(3_600),
                refused: vec!["192.0.2.7/24: 192.0.2.0/24 of network blue".into()],
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
    fn uplinks_tell_what_they_have_learned() {
        let text = shown(Part::Uplinks, uplink());
        for told in ["init", "192.0.2.53", "1400", "192.0.2.1", "LEASE", "1h"] {
            assert!(text.contains(told), "{told}: {text}");
        }
    }
}
