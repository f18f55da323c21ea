//! Any bytes as a capture to replay.
#![no_main]

use culvert_pktgen::replay::{Capture, Replay, Room, Times};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let room = Room {
        frames: 64,
        bytes: 4096,
    };
    let Ok(capture) = Capture::read(&mut &bytes[..], room) else {
        return;
    };
    assert!((1..=64).contains(&capture.len()));
    let frames = (0..capture.len()).filter_map(|place| capture.frame(place));
    assert!(frames.map(|(frame, _)| frame.len()).sum::<usize>() <= 4096);
    let mut replay = Replay::new(capture, Times::Captured { speed: 1.0 }, 2, 1000);
    for _ in 0..200 {
        let Some(due) = replay.due_ns() else {
            return;
        };
        assert!(replay.next(due).is_some());
    }
    panic!("two rounds of 64 frames at most");
});
