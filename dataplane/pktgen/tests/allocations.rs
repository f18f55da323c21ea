//! No packet allocates: neither when it is made nor when it is checked.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_pktgen::tree::Node;
use culvert_pktgen::{Profile, Receive, Transmit};

/// The system's allocator, counted.
struct Counting;

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn no_packet_allocates() {
    let yaml = "
rate: 10mpps
duration: 10s
pattern: poisson
streams:
- { name: a, size: imix, source_port: 1024+1000 }
- { name: b, size: 64k, segment: 1428, protocol: tcp, source: fd00::1, destination: fd00::2+9 }
";
    let profile = Profile::read(&serde_saphyr::from_str::<Node>(yaml).unwrap()).unwrap();
    let mut transmit = Transmit::new(&profile, "", &profile.packets_per_s(None).unwrap(), 1);
    let mut receive = Receive::new(&profile, "", 1);
    let mut buffer = vec![0; transmit.longest()];
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut frames = 0;
    let mut now = 0;
    while frames < 20_000 {
        now += 500;
        while let Some(due) = transmit.next(now) {
            let len = transmit.write(&due, &mut buffer, false);
            if due.flow() % 97 == 5 {
                transmit.refused(&due);
                continue;
            }
            receive.frame(&buffer[..len], transmit.vnet(&due).gso_size, now);
            receive.frame(&buffer[..len.min(200)], 0, now);
            frames += 1;
        }
    }
    assert_eq!(ALLOCATED.load(Ordering::Relaxed), before);
    assert!(receive.received().all(|(it, _)| it.received > 1000));
}
