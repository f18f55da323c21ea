//! Any virtio-net header against any packet, in any pieces, through a real ring: it arrives as
//! it was sent, and a plan to cut it is refused by name or covers the payload once.
#![no_main]

use std::sync::{Mutex, OnceLock};

use culvert_vhost::frontend::{Frontend, FrontendConfig};
use culvert_vhost::{Port, PortConfig, RingOptions};
use culvert_wire::segment::Plan;
use culvert_wire::{Checksum, MacAddr, VnetHeader, parse_frame};
use libfuzzer_sys::fuzz_target;

struct Guest {
    port: Port,
    frontend: Frontend,
}

/// By layout and by the size of pieces.
fn guests() -> &'static [Mutex<Guest>; 4] {
    static GUESTS: OnceLock<[Mutex<Guest>; 4]> = OnceLock::new();
    GUESTS.get_or_init(|| std::array::from_fn(|kind| Mutex::new(guest(kind))))
}

fn guest(kind: usize) -> Guest {
    let name = format!("cv-fuzz-{}-{kind}.sock", std::process::id());
    let socket = std::env::temp_dir().join(name);
    let config = PortConfig::new("fuzz", &socket, MacAddr([2, 0, 0, 0, 0, 1]));
    let port = Port::open(config, |_| {}).expect("a port");
    let mut rings = RingOptions::all();
    if kind & 1 == 0 {
        rings -= RingOptions::PACKED;
    }
    let config = FrontendConfig {
        rings,
        memory: 32 << 20,
        ring_size: 256,
        piece_len: if kind & 2 == 0 { 65_536 } else { 29 },
        ..FrontendConfig::default()
    };
    let frontend = Frontend::connect(&socket, config).expect("a session");
    Guest { port, frontend }
}

fuzz_target!(|input: &[u8]| {
    let Some((&[kind, mtu], bytes)) = input.split_first_chunk::<2>() else {
        return;
    };
    if bytes.len() > 4000 {
        return;
    }
    let mut guest = guests()[usize::from(kind & 3)].lock().expect("one thread");
    assert!(guest.frontend.send_bytes(0, bytes), "a ring with room");
    let mut burst = guest.port.guest_tx(0).try_lock().expect("a ring that runs");
    let frames = burst.fetch(4);
    assert_eq!(frames, usize::from(bytes.len() >= VnetHeader::LEN + 14));
    if frames == 0 {
        return;
    }
    let (header, packet) = bytes.split_first_chunk().expect("it was long enough");
    let frame = burst.frame(0);
    assert_eq!(frame.vnet, VnetHeader::read(header));
    assert_eq!(frame.len as usize, packet.len());
    assert_eq!(frame.head(), &packet[..packet.len().min(256)]);
    let mut copy = vec![0; packet.len()];
    assert_eq!(burst.copy(0, 0, &mut copy), packet.len());
    assert_eq!(copy, packet);
    // The header against what the packet really is.
    let head = frame.head();
    if let Ok(headers) = parse_frame(head, frame.len)
        && let Ok(plan) = Plan::new(&frame.vnet, &headers, head, 68 + 16 * usize::from(mtu))
    {
        let mut next = None;
        for index in 0..plan.count() {
            let payload = plan.segment(index).payload;
            assert!(payload.end <= packet.len());
            assert!(next.is_none_or(|next| next == payload.start));
            next = Some(payload.end);
            let sum = Checksum::of(&packet[payload]);
            let mut out = [0; 256];
            assert_eq!(plan.write_headers(index, head, sum, &mut out), plan.header_len(index));
        }
    }
    burst.complete(frames);
    drop(burst);
    assert!(guest.port.guest_tx(0).is_live());
});
