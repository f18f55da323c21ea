//! An uplink that has less room than was asked for, or less than it says.

use culvert_dataplane::{
    shared::{
        control_link::Command,
        drops::DropReason,
        ids::{TunnelIndex, UplinkIndex},
    },
    uplink::memory::{self, Wire},
};
use culvert_wire::VnetHeader;

use crate::{
    packets::{Ip, Seen, ip, noise, offload, read},
    support::{Options, Site},
};

fn inner() -> Ip {
    ip("10.0.0.2", "10.1.0.2")
}

/// A site whose uplink is a wire in memory that holds so many datagrams.
fn wired(datagrams: usize) -> (Site, Wire) {
    let mut site = Site::new(Options {
        uplink: false,
        ..Options::default()
    });
    let (queue, wire) = memory::open(&memory::Config {
        uplink: UplinkIndex(0),
        tunnel: TunnelIndex(0),
        address: site.address.ip(),
        datagrams,
        longest: 1500,
    });
    site.command(Command::AttachUplink(Box::new(queue)));
    site.settle();
    (site, wire)
}

/// Some turns of the worker, whether it finds that there is more to do or not.
fn turns(site: &mut Site) {
    for _ in 0..16 {
        site.workers[0].step();
    }
}

/// What is on the wire, opened: each with its counter.
fn sent(site: &Site, wire: &mut Wire) -> Vec<(u64, Seen)> {
    let mut all = Vec::new();
    while let Some((counter, plain)) = wire.receive(|_, bytes| site.far.open(bytes)) {
        all.push((counter, read(&plain)));
    }
    all
}

/// Packets that are told apart by their ports.
fn offer(site: &mut Site, numbers: std::ops::Range<u16>) {
    for number in numbers {
        let packet = inner().udp((number, 9), &noise(300, 1), false);
        site.offer_to_gateway(0, &packet);
    }
    turns(site);
}

fn number(seen: &Seen) -> u16 {
    u16::from_be_bytes([seen.l4[0], seen.l4[1]])
}

/// What finds no room waits in the guest's ring, and leaves once there is some, in order and once.
#[test]
fn with_fewer_rooms_than_asked_for_the_rest_waits() {
    let (mut site, mut wire) = wired(3);
    offer(&mut site, 0..8);
    let mut came = Vec::new();
    for most in [3, 3, 2, 0] {
        let burst = sent(&site, &mut wire);
        assert_eq!(burst.len(), most);
        came.extend(burst);
        turns(&mut site);
    }
    let numbers: Vec<_> = came.iter().map(|(_, seen)| number(seen)).collect();
    assert_eq!(numbers, Vec::from_iter(0..8));
    let counters: Vec<_> = came.iter().map(|(counter, _)| *counter).collect();
    assert_eq!(
        counters,
        Vec::from_iter(0..8),
        "none was used twice, or lost"
    );
    site.no_drops();
}

/// A frame of more packets than a sub-batch has begun when the rooms run out: the rest of it is lost by name.
#[test]
fn a_frame_whose_rooms_run_out_is_lost_by_name_from_there_on() {
    let (mut site, mut wire) = wired(74);
    let data = noise(60_000, 2);
    let packet = inner().udp((7, 9), &data, true);
    site.send(0, &offload(&packet, VnetHeader::GSO_UDP_L4, 600), &packet);
    let came = sent(&site, &mut wire);
    let joined: Vec<u8> = came
        .iter()
        .flat_map(|(_, seen)| seen.payload().to_vec())
        .collect();
    assert_eq!(came.len(), 74);
    assert_eq!(joined, data[..74 * 600]);
    site.peer_drops(&[(DropReason::UplinkFull, 26)]);
    // The next one is whole.
    offer(&mut site, 0..2);
    let numbers: Vec<_> = sent(&site, &mut wire)
        .iter()
        .map(|(_, seen)| number(seen))
        .collect();
    assert_eq!(numbers, [0, 1]);
    site.peer_drops(&[(DropReason::UplinkFull, 26)]);
}

/// No uplink of ours does that: what was sealed ahead of it leaves, the rest of the burst has a name.
#[test]
fn a_room_that_is_shorter_than_it_says_ends_its_burst_by_name() {
    let (mut site, mut wire) = wired(64);
    offer(&mut site, 0..1);
    assert!(wire.cut(100));
    // The buffers that lie ahead of the short one: three are left then.
    for first in [1, 21, 41] {
        offer(&mut site, first..first + 20);
        assert_eq!(sent(&site, &mut wire).len(), 20);
    }
    site.no_drops();
    offer(&mut site, 100..108);
    let numbers = |site: &Site, wire: &mut Wire| -> Vec<_> {
        sent(site, wire)
            .iter()
            .map(|(_, seen)| number(seen))
            .collect()
    };
    assert_eq!(numbers(&site, &mut wire), [100, 101, 102]);
    site.peer_drops(&[(DropReason::NotSealed, 5)]);
    assert!(numbers(&site, &mut wire).is_empty());
    for port in 0..2 {
        site.port_drops(port, &[]);
    }
    site.uplink_drops(&[]);
}
