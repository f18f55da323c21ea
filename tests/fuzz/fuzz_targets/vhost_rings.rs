//! Any descriptors, tables and indices in both layouts, through a real session: a ring goes on
//! or stops by name, what is read lies in the guest's memory, and a ring that is set up again
//! serves.
#![no_main]

use std::sync::{Mutex, OnceLock};

use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Port, PortConfig, RingOptions};
use culvert_wire::{MacAddr, VnetHeader};
use libfuzzer_sys::fuzz_target;

const SIZE: u16 = 16;
const MEMORY: usize = 4 << 20;
const GUEST: u64 = 0x10_0000;

struct Guest {
    port: Port,
    frontend: Frontend,
    is_packed: bool,
}

fn guests() -> &'static [Mutex<Guest>; 2] {
    static GUESTS: OnceLock<[Mutex<Guest>; 2]> = OnceLock::new();
    GUESTS.get_or_init(|| [false, true].map(|is_packed| Mutex::new(guest(is_packed))))
}

fn guest(is_packed: bool) -> Guest {
    let name = format!("cv-fuzz-{}-{is_packed}.sock", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let config = PortConfig::new("fuzz", &socket, MacAddr([2, 0, 0, 0, 0, 1]));
    let port = Port::open(config, |_| {}).expect("a port");
    let mut rings = RingOptions::all();
    if !is_packed {
        rings -= RingOptions::PACKED;
    }
    let config = FrontendConfig {
        rings,
        memory: MEMORY,
        ring_size: SIZE,
        guest: GUEST,
        ..FrontendConfig::default()
    };
    let frontend = Frontend::connect(&socket, config).expect("a session");
    Guest {
        port,
        frontend,
        is_packed,
    }
}

/// One write of the guest's: 8 bytes of input.
fn act(guest: &mut Guest, ring: usize, bytes: [u8; 8]) {
    let areas = guest.frontend.queues[ring].driver.areas();
    let memory = &guest.frontend.memory;
    let [what, slot, a, b, c, d, e, f] = bytes;
    let slot = u64::from(slot % 32);
    // Mostly in memory, sometimes near its edges, sometimes anywhere.
    let wide = u64::from(u32::from_le_bytes([a, b, c, d]));
    let address = match what >> 6 {
        0 => GUEST + wide % MEMORY as u64,
        1 => GUEST + MEMORY as u64 - wide % 4096,
        2 => areas.descriptors + wide % 1024,
        _ => wide << 32 | wide,
    };
    let length = u32::from(e) << (f & 31);
    let flags = match what >> 3 & 7 {
        0..=2 => u16::from(ring == 0) << 1,
        3 | 4 => u16::from(ring == 0) << 1 | 1,
        5 => 4,
        6 => u16::from(a & 7),
        _ => u16::from_le_bytes([a, b]),
    };
    let mut descriptor = [0; 16];
    descriptor[..8].copy_from_slice(&address.to_le_bytes());
    descriptor[8..12].copy_from_slice(&length.to_le_bytes());
    if guest.is_packed {
        let lap = if f & 0x80 == 0 { 1 << 7 } else { 1 << 15 };
        descriptor[12..14].copy_from_slice(&u16::from(f % 32).to_le_bytes());
        descriptor[14..].copy_from_slice(&(flags | lap).to_le_bytes());
    } else {
        descriptor[12..14].copy_from_slice(&flags.to_le_bytes());
        descriptor[14..].copy_from_slice(&u16::from(f % 20).to_le_bytes());
    }
    match what & 7 {
        // The ring's descriptors; a second time, so that most writes are of these.
        0..=2 => memory.write(areas.descriptors + 16 * (slot % u64::from(SIZE)), &descriptor),
        // A table somewhere in the first pages.
        3 => memory.write(GUEST + wide % 8192 / 16 * 16, &descriptor),
        4 => memory.write(areas.driver + 4 + 2 * slot % 32, &[c % 20, 0]),
        5 => {
            let used = memory.load(areas.device + 2);
            memory.store(areas.driver + 2, used.wrapping_add(u16::from(c % 18)));
        }
        6 => memory.store(areas.driver + 2, u16::from_le_bytes([a, b])),
        _ => memory.store(areas.driver, u16::from_le_bytes([a, b])),
    }
}

fn work(guest: &Guest) {
    if let Some(mut burst) = guest.port.guest_tx(0).try_lock() {
        let frames = burst.fetch(32);
        for index in 0..frames {
            let frame = burst.frame(index).clone();
            assert!(frame.len >= 14);
            let mut bytes = vec![0; frame.len as usize];
            assert_eq!(burst.copy(index, 0, &mut bytes), bytes.len());
            assert_eq!(frame.head(), &bytes[..frame.head().len()]);
            for (address, length) in burst.ranges(index, 0, u32::MAX) {
                assert!(length > 0, "{address:?}");
            }
        }
        burst.complete(frames / 2);
        let frames = burst.fetch(32);
        burst.complete(frames);
        let _ = burst.enable_notifications();
        burst.disable_notifications();
    }
    if let Ok(mut burst) = guest.port.guest_rx(0).try_lock() {
        for len in [60, 1514, 9000] {
            let _ = burst.deliver(&VnetHeader::default(), &[&[7; 40], &vec![1; len - 40]]);
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, mut input)) = input.split_first() else {
        return;
    };
    let mut guest = guests()[usize::from(kind & 1)].lock().expect("one thread");
    for ring in [0, 1] {
        guest.frontend.stop_ring(ring).expect("a session that lasts");
        let Guest { frontend, .. } = &mut *guest;
        frontend.queues[ring].driver.reset(&frontend.memory);
        let base = frontend.queues[ring].driver.first_base();
        frontend.start_ring(ring, base, None).expect("a ring");
    }
    while let Some((&bytes, rest)) = input.split_first_chunk::<9>() {
        input = rest;
        let [ring, bytes @ ..] = bytes;
        act(&mut guest, usize::from(ring & 1), bytes);
        if ring & 6 == 0 {
            work(&guest);
        }
    }
    work(&guest);
});
