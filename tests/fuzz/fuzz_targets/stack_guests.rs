//! Any bytes as a guest's question: as a frame, and as what DHCP, DHCPv6 and a router solicitation carry.
#![no_main]

use culvert_stack::guests::{Dhcp, Lease4, Provision, Router, Served, serve};
use culvert_wire::{MacAddr, parse_frame};
use libfuzzer_sys::fuzz_target;

fn provision() -> Provision {
    let v6 = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
    Provision {
        gateway_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1420,
        dhcp: Some(Dhcp {
            v4: vec![Lease4 {
                address: [10, 0, 0, 9].into(),
                prefix_len: 24,
                gateway: [10, 0, 0, 1].into(),
            }],
            routes: vec![([172, 16, 0, 0].into(), 12, [10, 0, 0, 2].into())],
            v6: vec![v6.into()],
            lease: 3600,
        }),
        router: Some(Router {
            prefixes: vec![(v6.into(), 64)],
            autonomous: false,
        }),
        dns: vec![[9, 9, 9, 9].into(), v6.into()],
        domain: Some("vm.example.org".into()),
    }
}

fn ask(frame: &[u8]) {
    if let Ok(Served::Answer(answer) | Served::Declined(Some(answer))) = serve(&provision(), frame) {
        let headers = parse_frame(&answer, answer.len() as u32).expect("a frame");
        assert_eq!(answer.len(), 14 + headers.ip_len);
        assert!(answer.len() <= 1514);
    }
}

/// A frame with UDP to `port` ahead of `payload`.
fn udp(v6: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut frame = vec![0; 12];
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([17, 1]);
        frame.extend([0xfe; 32]);
    } else {
        frame.extend([8, 0, 0x45, 0]);
        frame.extend((20 + len).to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    }
    frame.extend([0, 68]);
    frame.extend(port.to_be_bytes());
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &bytes[..bytes.len().min(1_900)];
    ask(bytes);
    ask(&udp(false, 67, bytes));
    ask(&udp(true, 547, bytes));
    // Behind the fields and the cookie, where the options are.
    let mut message = vec![0; 240];
    message[..3].copy_from_slice(&[1, 1, 6]);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend(bytes);
    ask(&udp(false, 67, &message));
});
