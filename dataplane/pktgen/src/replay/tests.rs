//! Captures of both formats and orders, damaged ones, and whatever bytes.

#![allow(
    clippy::cast_possible_truncation,
    reason = "fields of files are made of words"
)]

use proptest::prelude::*;

use super::*;

fn pcap(big: bool, nanoseconds: bool, link: u32, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let word = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let magic = if nanoseconds {
        0xa1b2_3c4d
    } else {
        0xa1b2_c3d4
    };
    let mut file = [
        word(magic),
        word(0),
        word(0),
        word(0),
        word(65_535),
        word(link),
    ]
    .concat();
    for (seconds, fraction, bytes) in packets {
        let len = bytes.len() as u32;
        file.extend([word(*seconds), word(*fraction), word(len), word(len)].concat());
        file.extend_from_slice(bytes);
    }
    file
}

fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let word = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(4), 0);
    let len = word(padded.len() as u32 + 12);
    [&word(kind)[..], &len, &padded, &len].concat()
}

fn pcapng(big: bool, packets: &[(u64, &[u8])]) -> Vec<u8> {
    let word = |value: u32| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let half = |value: u16| {
        if big {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    };
    let mut file = block(
        big,
        0x0a0d_0d0a,
        &[word(0x1a2b_3c4d), word(1), word(u32::MAX), word(u32::MAX)].concat(),
    );
    // Nanoseconds: if_tsresol of 9.
    let options = [&half(9)[..], &half(1), &[9, 0, 0, 0], &word(0)].concat();
    file.extend(block(
        big,
        1,
        &[&half(1)[..], &half(0), &word(0), &options].concat(),
    ));
    file.extend(block(big, 5, b"statistics, stepped over"));
    for (ns, bytes) in packets {
        let len = word(bytes.len() as u32);
        let head = [word(0), word((ns >> 32) as u32), word(*ns as u32), len, len].concat();
        file.extend(block(big, 6, &[&head[..], bytes].concat()));
    }
    file
}

fn read(file: &[u8]) -> Result<Capture, ReplayError> {
    Capture::read(&mut &file[..], Room::default())
}

fn frames(capture: &Capture) -> Vec<(Vec<u8>, u64)> {
    (0..capture.len())
        .map(|place| capture.frame(place).unwrap())
        .map(|(bytes, ns)| (bytes.to_vec(), ns))
        .collect()
}

#[test]
fn both_formats_in_both_orders_are_read() {
    let (first, second) = ([1u8; 60], [2u8; 101]);
    let expected = vec![(first.to_vec(), 0), (second.to_vec(), 1_500_000_000)];
    for big in [false, true] {
        for (nanoseconds, half) in [(false, 500_000), (true, 500_000_000)] {
            let file = pcap(big, nanoseconds, 1, &[(10, 0, &first), (11, half, &second)]);
            assert_eq!(
                frames(&read(&file).unwrap()),
                expected,
                "{big} {nanoseconds}"
            );
        }
        let file = pcapng(
            big,
            &[(1 << 40, &first), ((1 << 40) + 1_500_000_000, &second)],
        );
        let capture = read(&file).unwrap();
        assert_eq!(frames(&capture), expected);
        // A second section, in the other order.
        let both = [file, pcapng(!big, &[(1 << 41, &first)])].concat();
        assert_eq!(read(&both).unwrap().len(), 3);
        assert_eq!(capture.mean_bare_bytes(), 80.5);
    }
}

#[test]
fn what_does_not_fit_is_left_out_and_counted() {
    let frame = [7u8; 100];
    let file = pcap(
        false,
        false,
        1,
        &[(1, 0, &frame), (3, 0, &frame), (2, 0, &frame)],
    );
    let capture = Capture::read(
        &mut &file[..],
        Room {
            frames: 2,
            bytes: 1000,
        },
    )
    .unwrap();
    assert_eq!((capture.len(), capture.left_out.beyond), (2, 1));
    let capture = Capture::read(
        &mut &file[..],
        Room {
            frames: 9,
            bytes: 199,
        },
    )
    .unwrap();
    assert_eq!((capture.len(), capture.left_out.beyond), (1, 2));
    // One that is out of order leaves with the one before it.
    let times: Vec<_> = frames(&read(&file).unwrap())
        .into_iter()
        .map(|(_, ns)| ns / 1_000_000_000)
        .collect();
    assert_eq!(times, [0, 2, 2]);
    // A file whose writer was killed.
    let torn = read(&file[..file.len() - 1]).unwrap();
    assert_eq!((torn.len(), torn.left_out.torn), (2, true));
}

#[test]
fn what_can_not_be_replayed_is_explained() {
    let said = |file: &[u8]| read(file).unwrap_err().to_string();
    assert!(said(b"").contains("neither pcap nor pcapng"));
    assert!(said(b"\x1f\x8b\x08\x00compressed").contains("uncompressed"));
    assert!(said(&pcap(false, false, 101, &[(0, 0, &[0; 60])])).contains("1 of other link layers"));
    assert!(said(&pcap(false, false, 1, &[])).contains("no whole frame"));
    let mut cut = pcap(false, false, 1, &[(0, 0, &[0; 60])]);
    cut[24 + 12] = 61;
    assert!(said(&cut).contains("1 cut short"));
    cut[24 + 10] = 0xff;
    assert!(said(&cut).contains("damaged at byte 40: a packet longer"));
    let mut lengths = pcapng(false, &[(0, &[0; 60])]);
    let last = lengths.len() - 4;
    lengths[last] ^= 4;
    assert!(said(&lengths).contains("two lengths differ"));
}

#[test]
fn a_length_alone_allocates_nothing() {
    let mut file = pcap(false, false, 1, &[(0, 0, &[0; 4])]);
    file[24 + 8..24 + 12].copy_from_slice(&CAPTURE_PACKET.to_le_bytes());
    let mut reader = &file[..];
    let mut source = Source {
        reader: &mut reader,
        at: 0,
        buffer: Vec::new(),
    };
    assert!(source.take(u32::MAX).is_err());
    assert!(
        source.buffer.capacity() < 4096,
        "{}",
        source.buffer.capacity()
    );
}

const CAPTURE_PACKET: u32 = crate::limits::CAPTURE_PACKET_MAX;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_bytes_are_no_harm(kind in 0usize..3, damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), tail: Vec<u8>, end in any::<prop::sample::Index>()) {
        let frame = [3u8; 60];
        let mut file = match kind {
            0 => pcap(false, true, 1, &[(0, 1, &frame), (0, 2, &frame)]),
            1 => pcapng(true, &[(1, &frame), (2, &frame)]),
            _ => pcapng(false, &[(1, &frame), (2, &frame)]),
        };
        for (at, value) in damage {
            let at = at.index(file.len());
            file[at] = value;
        }
        file.truncate(end.index(file.len()) + 1);
        file.extend(tail);
        if let Ok(capture) = read(&file) {
            prop_assert!(capture.len() <= 2 + file.len() / 16);
            for (bytes, _) in frames(&capture) {
                prop_assert!(!bytes.is_empty());
            }
        }
    }
}
