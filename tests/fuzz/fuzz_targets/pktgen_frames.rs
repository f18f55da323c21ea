//! Any bytes as a frame that arrives at the generator.
#![no_main]

use culvert_pktgen::tree::Node;
use culvert_pktgen::{Profile, Receive};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let flags = Node::of_flags([("size", "512"), ("source_port", "1024+100")]);
    let Ok(profile) = Profile::read(&flags) else {
        panic!("it is a profile");
    };
    let mut receive = Receive::new(&profile, "", 1);
    let [low, high, frame @ ..] = bytes else {
        return;
    };
    let segment = u16::from_le_bytes([*low, *high]);
    receive.frame(frame, segment, 1_000_000);
    receive.payload(frame, segment, 2_000_000);
    let told: u64 = receive.received().map(|(it, _)| it.received + it.duplicates + it.beyond).sum();
    let strange = receive.strange();
    assert!(told + strange.foreign + strange.stale + strange.unknown >= 2);
});
