//! What is sent when, what is refused, what is too late.

use culvert_wire::parse_frame;

use super::*;
use crate::tree::Node;

const SECOND: u64 = 1_000_000_000;

fn profile(yaml: &str) -> Profile {
    Profile::read(&serde_saphyr::from_str::<Node>(yaml).unwrap()).unwrap()
}

fn start(profile: &Profile, seat: &str) -> Transmit {
    Transmit::new(profile, seat, &profile.packets_per_s(None).unwrap(), 1)
}

#[test]
fn streams_are_sent_at_their_rates_in_the_order_of_their_times() {
    let profile = profile(
        "duration: 1s\nrate: 3kpps\nstreams:\n- { name: a, share: 2, source_port: 1000+10 }\n- { name: b, size: imix }\n",
    );
    let mut transmit = start(&profile, "");
    let mut buffer = vec![0; transmit.longest()];
    let mut last = 0;
    for now in (0..=SECOND).step_by(100_000) {
        while let Some(due) = transmit.next(now) {
            assert!(due.intended_ns() >= last && due.intended_ns() <= now);
            last = due.intended_ns();
            let len = transmit.write(&due, &mut buffer, false);
            parse_frame(&buffer[..len], len as u32).unwrap();
        }
    }
    transmit.close(SECOND);
    let sent: Vec<_> = transmit.sent().collect();
    assert_eq!(sent[0].1.sent, 2000);
    assert_eq!((sent[1].0, sent[1].1.sent, sent[1].1.unsent), (1, 1000, 0));
    // 1,000 frames of IMIX, their check sequences left out: 83 rounds of twelve, and four small ones.
    assert_eq!(
        sent[1].1.bare_bytes,
        83 * (7 * 60 + 4 * 566 + 1514) + 4 * 60
    );
    assert_eq!(transmit.sent_by(0), Some(200));
    assert_eq!(transmit.sent_by(11), None);
}

#[test]
fn what_a_device_refuses_and_what_is_too_late_is_unsent() {
    let profile = profile("duration: 1s\nrate: 100kpps\ncatch_up: 1ms\n");
    let mut transmit = start(&profile, "");
    let mut refused = 0;
    // It stalls from 0.25 s to 0.75 s, and takes nine of ten.
    for now in (0..=SECOND)
        .step_by(50_000)
        .filter(|now| !(SECOND / 4..3 * SECOND / 4).contains(now))
    {
        while let Some(due) = transmit.next(now) {
            assert!(now - due.intended_ns() <= 1_000_000);
            if due.made.signature.sequence % 10 == 9 {
                transmit.refused(&due);
                refused += 1;
            }
        }
    }
    transmit.close(SECOND);
    let (_, sent) = transmit.sent().next().unwrap();
    assert_eq!(sent.intended, 100_000);
    assert_eq!(sent.offered - sent.sent, refused);
    assert_eq!(sent.unsent, 100_000 - sent.sent);
    assert!(
        (49_800..=50_200).contains(&(sent.intended - sent.offered)),
        "{sent:?}"
    );
    assert_eq!(transmit.sent_by(0), Some(sent.sent));
}

#[test]
fn super_frames_count_as_their_packets() {
    let profile = profile("duration: 1s\nrate: 46kpps\nsize: 64k\nsegment: 1448\nprotocol: tcp\n");
    let mut transmit = start(&profile, "");
    let mut sequences = Vec::new();
    while let Some(due) = transmit.due_ns() {
        let due = transmit.next(due).unwrap();
        sequences.push((due.made.signature.sequence, due.made.tcp_sequence));
        assert_eq!(transmit.vnet(&due).gso_size, 1448);
    }
    transmit.close(SECOND);
    let (_, sent) = transmit.sent().next().unwrap();
    assert_eq!((sequences.len(), sent.sent), (1000, 46_000));
    // 65,495 bytes each, in 46 packets.
    assert_eq!(sequences[1], (46, 65_495));
}

#[test]
fn a_seat_sends_its_own_streams() {
    let profile = profile(
        "duration: 1s\nrate: 10pps\nstreams:\n- { name: a, from: vm1 }\n- { name: b, from: vm2, flows: 1 }\n",
    );
    let mut transmit = start(&profile, "vm2");
    let due = transmit.next(0).unwrap();
    assert_eq!(due.flow(), 1);
    assert!(start(&profile, "vm3").due_ns().is_none());
}
