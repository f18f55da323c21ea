//! What a sender sent, over a link that loses, repeats, turns around and spoils.

use super::*;
use crate::limits::LATENCY_NS_MAX;
use crate::transmit::Transmit;
use crate::tree::Node;

const SECOND: u64 = 1_000_000_000;

fn profile(yaml: &str) -> Profile {
    Profile::read(&serde_saphyr::from_str::<Node>(yaml).unwrap()).unwrap()
}

fn start(profile: &Profile) -> Transmit {
    Transmit::new(profile, "", &profile.packets_per_s(None).unwrap(), 9)
}

/// All frames, with their intended times and segment sizes.
fn frames(profile: &Profile) -> (Transmit, Vec<(Vec<u8>, u16, u64)>) {
    let mut transmit = start(profile);
    let mut frames = Vec::new();
    while let Some(due) = transmit.due_ns() {
        let due = transmit.next(due).unwrap();
        let mut frame = vec![0; transmit.longest()];
        let len = transmit.write(&due, &mut frame, false);
        frame.truncate(len);
        frames.push((frame, transmit.vnet(&due).gso_size, due.intended_ns()));
    }
    transmit.close(SECOND);
    (transmit, frames)
}

fn only(receive: &Receive) -> Received {
    *receive.received().next().unwrap().0
}

#[test]
fn each_flow_tells_what_was_lost_repeated_and_turned_around() {
    let profile = profile(
        "duration: 1s\nrate: 10kpps\nsize: imix\nsource_port: 1000+10\ndestination: 10.0.0.1+10\n",
    );
    let (transmit, frames) = frames(&profile);
    let mut receive = Receive::new(&profile, "", 9);
    let mut sent = frames.iter().enumerate().collect::<Vec<_>>();
    // Every 100th is lost, every 250th comes twice, one in 1,000 comes 300 places later: three of its flow.
    sent.retain(|(place, _)| place % 100 != 7);
    let late: Vec<_> = sent
        .iter()
        .copied()
        .filter(|(place, _)| place % 1000 == 500)
        .collect();
    sent.retain(|(place, _)| place % 1000 != 500);
    for (place, frame) in late {
        let behind = sent.iter().position(|(it, _)| *it == place + 300).unwrap();
        sent.insert(behind + 1, (place, frame));
    }
    for (place, (frame, segment, intended)) in sent {
        receive.frame(frame, *segment, intended + 5000);
        if place % 250 == 100 {
            receive.frame(frame, *segment, intended + 6000);
        }
    }
    let found = only(&receive);
    assert_eq!((found.received, found.duplicates), (9900, 40));
    assert_eq!((found.reordered, found.displaced), (10, 3));
    assert_eq!(
        (found.corrupted, found.late, found.early, found.beyond),
        (0, 0, 0, 0)
    );
    assert_eq!(receive.strange(), Strange::default());
    let lost = |flow| transmit.sent_by(flow).unwrap() - receive.received_of(flow).unwrap().received;
    assert_eq!((0..100).map(lost).sum::<u64>(), 100);
    // All of the lost ones are of one flow: every 100th packet is.
    assert_eq!(lost(7), 100);
    let (_, latencies) = receive.received().next().unwrap();
    assert_eq!(
        (latencies.count(), latencies.summary().min_ns / 10),
        (9900, 500)
    );
}

#[test]
fn signatures_are_read_in_super_frames_and_in_what_they_are_cut_into() {
    let profile = profile("duration: 1s\nrate: 460pps\nsize: 64k\nsegment: 1448\nprotocol: tcp\n");
    let (_, frames) = frames(&profile);
    let (mut whole, mut cut) = (Receive::new(&profile, "", 9), Receive::new(&profile, "", 9));
    for (frame, segment, intended) in &frames {
        whole.frame(frame, *segment, *intended);
        for payload in frame[54..].chunks(usize::from(*segment)) {
            cut.payload(payload, 0, *intended);
        }
    }
    assert_eq!(only(&whole), only(&cut));
    assert_eq!((only(&whole).received, only(&whole).corrupted), (460, 0));
}

#[test]
fn what_is_not_ours_is_told_apart() {
    let profile = profile(
        "duration: 1s\nrate: 20pps\nsize: 128\nstreams:\n- { name: a, to: vm1 }\n- { name: b, to: vm2 }\n",
    );
    let (_, frames) = frames(&profile);
    let mut receive = Receive::new(&profile, "vm1", 9);
    let mut last = Receive::new(&profile, "vm1", 8);
    for (frame, segment, intended) in &frames {
        receive.frame(frame, *segment, *intended);
        last.frame(frame, *segment, *intended);
        receive.frame(&frame[..30], 0, 0);
    }
    receive.frame(&[0xff; 60], 0, 0);
    receive.frame(&[], 0, 0);
    let strange = receive.strange();
    assert_eq!(
        (only(&receive).received, strange.astray, strange.foreign),
        (10, 10, 22)
    );
    assert_eq!(last.strange().stale, 20);
    // A flow that no stream has.
    let foreign = Signature {
        trial: 9,
        flow: 2,
        sequence: 0,
        intended_ns: 0,
    };
    receive.payload(&foreign.write(), 0, 0);
    assert_eq!(receive.strange().unknown, 1);
}

#[test]
fn spoiled_payload_is_counted_and_times_are_not_put_right() {
    let profile = profile("duration: 1s\nrate: 10pps\nsize: 512\nlate: 1ms\n");
    let (_, frames) = frames(&profile);
    let mut receive = Receive::new(&profile, "", 9);
    for (place, (frame, _, intended)) in frames.iter().enumerate() {
        let mut frame = frame.clone();
        match place {
            0 => *frame.last_mut().unwrap() ^= 1,
            // The signature itself: it is none any more.
            1 => frame[50] ^= 1,
            _ => {}
        }
        let now = match place {
            2 => intended - 1,
            3 => intended + 2_000_000,
            4 => intended + LATENCY_NS_MAX + 1,
            _ => intended + 10,
        };
        receive.frame(&frame, 0, now);
    }
    let found = only(&receive);
    assert_eq!(
        (found.received, found.corrupted, receive.strange().foreign),
        (9, 1, 1)
    );
    assert_eq!((found.early, found.late, found.absurd), (1, 2, 1));
    // Neither the one that came too early nor the absurd one has a latency.
    assert_eq!(receive.received().next().unwrap().1.count(), 7);
}

#[test]
fn without_comparing_payload_the_signature_alone_counts() {
    let profile = profile("duration: 1s\nrate: 1pps\nsize: 512\nverify: false\n");
    let (_, frames) = frames(&profile);
    let mut receive = Receive::new(&profile, "", 9);
    let mut frame = frames[0].0.clone();
    *frame.last_mut().unwrap() ^= 1;
    receive.frame(&frame, 0, 0);
    assert_eq!((only(&receive).received, only(&receive).corrupted), (1, 0));
}
