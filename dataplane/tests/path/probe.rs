//! Probes of a path: their length, who may cut them, and the answer.

use culvert_dataplane::shared::{
    control_link::{Command, Probe},
    drops::DropReason,
    peer::signal,
};

use crate::{
    packets::{ip, read},
    support::{Options, Site, count},
};

const ID: u16 = 0xbeef;

fn probe(site: &mut Site, size: u16, token: u16, v4: bool) {
    send(site, size, (token, true), v4);
}

fn send(site: &mut Site, size: u16, (token, asks): (u16, bool), v4: bool) {
    let ends = match v4 {
        true => ["10.0.0.1", "10.1.0.2"],
        false => ["fd00::1", "fd00:1::2"],
    };
    let [source, destination] = ends.map(|text| text.parse().unwrap());
    let probe = Probe {
        size,
        source,
        destination,
        id: ID,
        token,
        asks,
    };
    site.command(Command::Probe(site.peers[0].index, Box::new(probe)));
    site.settle();
}

#[test]
fn a_probe_has_the_length_that_was_asked_for_and_a_small_question() {
    for v6 in [false, true] {
        let mut site = Site::new(Options {
            v6,
            ..Options::default()
        });
        let overhead = if v6 { 80 } else { 60 };
        let _ = site.peers[0].take_signals();
        for (token, size) in (1..).zip([1280, 1293, 1500, 9000]) {
            probe(&mut site, size, token, token % 2 == 0);
            let (_, packet) = site.far.receive().unwrap();
            assert_eq!(packet.len(), usize::from(size) - overhead);
            let seen = read(&packet);
            assert_eq!(seen.l4[4..8], [0xbe, 0xef, 0, u8::try_from(token).unwrap()]);
            assert_eq!(seen.l4.len(), 8);
            let echo = if token % 2 == 0 { [8, 0] } else { [128, 0] };
            assert_eq!(seen.l4[..2], echo);
        }
        assert_eq!(
            site.peers[0].take_signals(),
            0,
            "nothing was sent that counts"
        );
        assert_eq!(count(&site.peers[0].traffic.tx_packets), 4);
        site.no_drops();
    }
}

#[test]
fn answers_are_noted_and_what_answers_nothing_is_lost_by_name() {
    let mut site = Site::new(Options::default());
    let peer = site.peers[0].clone();
    let reply = |id: u16, token: u8| {
        let mut packet = ip("10.1.0.2", "10.0.0.1").echo(&[]);
        let [high, low] = id.to_be_bytes();
        packet[20..28].copy_from_slice(&[0, 0, 0, 0, high, low, 0, token]);
        packet
    };
    site.far.send_packets(&[reply(ID, 1)]);
    site.settle();
    site.peer_drops(&[(DropReason::GatewayNotServed, 1)]);
    peer.expect_answers(ID);
    let _ = peer.take_signals();
    site.far.send_packets(&[reply(ID ^ 1, 2)]);
    site.settle();
    assert_eq!(peer.take_signals() & signal::PROBE_ANSWERED, 0);
    site.far.send_packets(&[reply(ID, 3)]);
    site.settle();
    assert_ne!(peer.take_signals() & signal::PROBE_ANSWERED, 0);
    assert_eq!(peer.answered(), 3);
    site.peer_drops(&[(DropReason::GatewayNotServed, 2)]);
    peer.expect_answers(0);
    site.far.send_packets(&[reply(0, 4)]);
    site.settle();
    site.peer_drops(&[(DropReason::GatewayNotServed, 3)]);
    assert!(site.sealed().is_empty());
}

#[test]
fn a_probe_that_nobody_answers_is_thrown_away_by_everybody() {
    let mut site = Site::new(Options::default());
    let _ = site.peers[0].take_signals();
    for v4 in [true, false] {
        for size in [1280, 1500, 9000] {
            send(&mut site, size, (0, false), v4);
            let (_, packet) = site.far.receive().unwrap();
            assert_eq!(packet.len(), usize::from(size) - 60);
            match v4 {
                // UDP from and to port 9, without a byte or a sum, one hop far.
                true => {
                    assert_eq!(packet[..1], [0x45]);
                    assert_eq!(packet[2..4], [0, 28]);
                    assert_eq!(packet[8..10], [1, 17]);
                    assert_eq!(packet[20..28], [0, 9, 0, 9, 0, 8, 0, 0]);
                    assert!(packet[28..].iter().all(|&byte| byte == 0));
                }
                false => {
                    assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 0, 59, 1]);
                    assert!(packet[40..].iter().all(|&byte| byte == 0));
                }
            }
        }
    }
    assert_eq!(
        site.peers[0].take_signals(),
        0,
        "nothing was sent that counts"
    );
    site.no_drops();
}
