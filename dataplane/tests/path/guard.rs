//! What a strict port may send: nothing that a receiver would take for another's.

use culvert_dataplane::shared::drops::DropReason;

use crate::{
    local::{PLAIN, arp, neighbor, who_has},
    packets::ip,
    support::{GATEWAY, GUEST, Options, Site, frame},
};

fn site() -> Site {
    Site::new(Options::default())
}

/// Guest 0 sends, and the workers do what is to do.
fn offer(site: &mut Site, bytes: &[u8]) {
    site.offer(0, &PLAIN, bytes);
    site.settle();
}

#[test]
fn a_port_without_addresses_owns_none() {
    let mut site = site();
    site.change_port(0, |port| port.addresses.clear());
    for bytes in [
        frame(GUEST[0], GATEWAY, &ip("10.0.0.2", "10.1.0.2").echo(b"x")),
        frame(GUEST[0], GUEST[1], &ip("10.0.0.3", "10.0.0.3").echo(b"x")),
        frame(GUEST[0], GATEWAY, &ip("fd00::2", "fd00:1::2").echo(b"x")),
    ] {
        offer(&mut site, &bytes);
    }
    for bytes in [
        who_has("10.0.0.2", "10.0.0.1"),
        arp(GUEST[1], 2, (GUEST[0], "10.0.0.1"), (GUEST[1], "10.0.0.3")),
        neighbor(136, "fd00::2", "fd00::2", Some(GUEST[0])),
        neighbor(135, "fd00::2", "fd00::1", Some(GUEST[0])),
    ] {
        offer(&mut site, &bytes);
    }
    site.port_drops(
        0,
        &[
            (DropReason::GuardAddress, 3),
            (DropReason::GuardNeighbor, 4),
        ],
    );
    assert!(site.sealed().is_empty());
    assert!(site.frames(0).is_empty() && site.frames(1).is_empty());
}
