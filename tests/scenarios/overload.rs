//! What can be flooded is flooded, and who must be heard is heard.
//!
//! ```text
//!   t0 (tun) ── culvert ───────── wan0 (veth) ═══ wan0 ── br0 ── far: wireguard-go, the kernel
//!   10.1.1.10          192.0.2.1               192.0.2.2   │
//!                    2001:db8::1             2001:db8::2   └── flood0 (tap): the floods
//! ```

use std::fs::File;
use std::io::Write as _;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Far, Namespace, Outer, Part, PeerSpec, Scenario, TunFlags, Uplink, Veth, eventually,
    make_tun,
};
use culvert_wireguard::{PublicKey, cookie::Mac1};

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::WireguardGo];
const COMMAND: Duration = Duration::from_secs(60);
/// How long something that must happen may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(40);

/// Frames that bring no datagram with them are answered, too. How soon is printed, not asserted: on an idle machine
/// within a millisecond; that the core is told at once is a test of the device's (`datagrams_cross_devices`).
#[test]
fn neighbors_and_pings_on_a_dpdk_device_are_answered() -> Result<()> {
    let name = "neighbors_and_pings_on_a_dpdk_device_are_answered";
    Scenario::run(name, &PARTS, |scenario| {
        let far = Far::lay(scenario, Uplink::Dpdk, 1, Outer::V4)?;
        let yaml = far.a.spec.yaml().replace("poll: adaptive", "poll: busy");
        let mut culvert = Culvert::start(scenario, "hv-a", Some(&far.a.namespace), &yaml)?;
        for address in ["192.0.2.1", "2001:db8::1"] {
            let ping = |words: &str| -> Result<Vec<f64>> {
                let words = format!("ping -W 5 {words} {address}");
                let words: Vec<&str> = words.split_whitespace().collect();
                times(&far.namespace.run(&words, COMMAND)?)
            };
            ping("-c 1")?;
            let warm = ping("-c 41 -i 0.05")?;
            ensure!(warm.len() == 41, "{} of 41 pings answered", warm.len());
            let mut cold = Vec::new();
            for _ in 0..11 {
                far.namespace
                    .ip(&format!("neighbor flush dev {}", Veth::NAME))?;
                cold.extend(ping("-c 1")?);
            }
            ensure!(cold.len() == 11, "{} of 11 pings answered", cold.len());
            for (what, times) in [("ping", warm), ("neighbor and ping", cold)] {
                scenario.say(format!("{address}: {what}: {:.3} ms", median(times)));
            }
        }
        culvert.process().must_run()
    })
}

/// The round-trip times in what `ping` prints, in milliseconds.
fn times(output: &str) -> Result<Vec<f64>> {
    let times = output.lines().filter_map(|line| line.split_once(" time="));
    times
        .map(|(_, rest)| {
            let number = rest.split_whitespace().next().unwrap_or_default();
            number.parse().with_context(|| format!("no time: {rest}"))
        })
        .collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// ARP, ND and ICMP for the host stack, handshakes, datagrams and frames for nobody, a guest that sends to peers that
/// are not there: all at once. Neighbors, a handshake and pings get through, and every loss has a name.
#[test]
fn all_floods_at_once() -> Result<()> {
    Scenario::run("all_floods_at_once", &PARTS, |scenario| {
        let mut far = Far::lay(scenario, Uplink::Dpdk, 2, Outer::V4)?;
        let flood = bridge(&far.namespace)?;
        // It has to call us, through the floods.
        far.a.spec.peers[0].endpoint = None;
        for (name, endpoint, net) in [
            ("silent", "192.0.2.2:9", "10.1.3.0/24"),
            ("gone", "192.0.2.77:51820", "10.1.4.0/24"),
        ] {
            far.a.spec.peers.push(PeerSpec {
                name: name.to_owned(),
                public_key: culvert_tests::Keys::generate(scenario, name)?.public,
                endpoint: Some(endpoint.to_owned()),
                allowed_ips: vec![net.to_owned()],
                preshared_key_file: None,
            });
        }
        far.a.spec.ports.clear();
        let port = "ports:\n  t0:\n    driver: tun\n    network: blue\n    mac: \"52:54:00:00:01:10\"\n    \
                    addresses: [10.1.1.10]";
        let yaml = far.a.spec.yaml().replace("ports: {}", port);
        let mut culvert = Culvert::start(scenario, "hv-a", Some(&far.a.namespace), &yaml)?;
        for net in ["10.1.2.0/24", "10.1.3.0/24", "10.1.4.0/24"] {
            far.a
                .namespace
                .ip(&format!("route add {net} via 10.1.1.1 dev t0"))?;
        }
        let kinds = kinds(&far, &far.a.spec.keys.public)?;

        let stop = AtomicBool::new(false);
        let sent: Vec<AtomicU64> = kinds.iter().map(|_| AtomicU64::new(0)).collect();
        let heard = std::thread::scope(|scope| -> Result<Heard> {
            let flooded = scope.spawn(|| send_frames(&flood, &kinds, &sent, &stop));
            let guest = scope.spawn(|| {
                far.a.namespace.enter(|| {
                    let socket = UdpSocket::bind("10.1.1.10:0")?;
                    while !stop.load(Ordering::Relaxed) {
                        for _ in 0..32 {
                            // A full interface loses; that is the guest's affair.
                            let _ = socket.send_to(&[0; 400], "10.1.3.5:9");
                            let _ = socket.send_to(&[0; 400], "10.1.4.5:9");
                        }
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Ok(())
                })
            });
            let heard = listen(scenario, &far, &culvert);
            stop.store(true, Ordering::Relaxed);
            let panicked = |_| anyhow::anyhow!("a flood panicked");
            flooded.join().map_err(panicked)??;
            guest.join().map_err(panicked)??;
            heard
        })?;
        scenario.say(format!("{heard:?}"));

        // What is not heard is lost by name.
        let drops = eventually("the last losses counted", PATIENCE, || {
            let before = culvert.drops()?;
            std::thread::sleep(Duration::from_millis(300));
            let after = culvert.drops()?;
            Ok((before == after).then_some(after))
        })?;
        scenario.say(format!("{drops:?}"));
        for (kind, sent) in kinds.iter().zip(&sent) {
            let sent = sent.load(Ordering::Relaxed);
            scenario.say(format!("{sent} × {}", kind.name));
            let lost = kind.lost.iter().filter_map(|reason| drops.get(*reason));
            let (lost, names) = (lost.sum::<u64>(), kind.lost);
            ensure!(lost > 0, "{}: nothing lost as {names:?}", kind.name);
        }
        for reason in ["staged-overflow", "next-hop-unresolved"] {
            let lost = drops.get(reason).unwrap_or(&0);
            ensure!(*lost > 0, "the guest lost nothing as {reason}: {drops:?}");
        }
        ensure!(
            heard.pings > 0,
            "no ping of the uplink's address was answered"
        );
        ensure!(
            heard.inner >= 15,
            "{} of 20 pings through the tunnel",
            heard.inner
        );
        culvert.process().must_run()
    })
}

/// What got through the floods.
#[derive(Debug)]
struct Heard {
    /// Pings of the uplink's own address that were answered, of 100.
    pings: usize,
    /// Pings through the tunnel that were answered, of 20.
    inner: usize,
}

/// While the floods last: a neighbor asks for us, a peer calls, pings come.
fn listen(scenario: &Scenario, far: &Far, culvert: &Culvert) -> Result<Heard> {
    std::thread::sleep(Duration::from_secs(1));
    ensure!(culvert.handshake_age("far")?.is_none(), "nobody called yet");
    let count = |words: &str| -> Result<usize> {
        let words: Vec<&str> = words.split_whitespace().collect();
        let (_, out, _) =
            culvert_tests::bounded(far.namespace.program(words[0]).args(&words[1..]), COMMAND)?;
        Ok(times(&out)?.len())
    };
    let begun = Instant::now();
    eventually("a peer's first packet through the floods", PATIENCE, || {
        Ok((count("ping -c 1 -W 2 10.1.1.10")? > 0).then_some(()))
    })?;
    scenario.say(format!("a peer is up after {:?}", begun.elapsed()));
    ensure!(
        culvert.handshake_age("far")?.is_some(),
        "a handshake was made"
    );

    far.namespace.ip("neighbor flush dev br0")?;
    let begun = Instant::now();
    eventually("a neighbor that asks is answered", PATIENCE, || {
        count("ping -c 2 -i 0.2 -W 1 192.0.2.1")?;
        let known = far.namespace.ip("neighbor show 192.0.2.1 dev br0")?;
        Ok(known.contains("lladdr").then_some(()))
    })?;
    scenario.say(format!("a neighbor knows us after {:?}", begun.elapsed()));

    let pings = count("ping -c 100 -i 0.02 -W 2 192.0.2.1")?;
    let inner = count("ping -c 20 -i 0.1 -W 5 10.1.1.10")?;
    let show = culvert.show()?;
    let neighbors = show["neighbors"].as_array().context("no neighbors")?;
    let ours = neighbors.iter().find(|n| n["address"] == "192.0.2.2");
    let state = ours.and_then(|n| n["state"].as_str()).unwrap_or_default();
    ensure!(
        ["reachable", "stale", "probing"].contains(&state),
        "the next hop of a live peer is {state:?}"
    );
    Ok(Heard { pings, inner })
}

/// Puts the far end's side of the cable and a tap for the floods on one bridge, which has the addresses.
fn bridge(namespace: &Namespace) -> Result<File> {
    let tap = TunFlags {
        tap: true,
        vnet: false,
    };
    let flood = File::from(make_tun(namespace, "flood0", tap)?);
    for words in [
        "link add br0 type bridge",
        "address flush dev wan0",
        "link set flood0 master br0",
        "link set wan0 master br0",
        "link set flood0 up",
        "link set br0 up",
        "address add 192.0.2.2/24 dev br0",
        "address add 2001:db8::2/64 dev br0 nodad",
    ] {
        namespace.ip(words)?;
    }
    Ok(flood)
}

/// One kind of flood.
struct Kind {
    name: &'static str,
    /// The names under which some of it is lost, one or the other.
    lost: &'static [&'static str],
    frame: Vec<u8>,
    /// Where the sender's last address bytes are, and its MAC's.
    spoof: &'static [usize],
}

fn kinds(far: &Far, public_key: &str) -> Result<Vec<Kind>> {
    let mac = mac_of(&far.a.namespace)?;
    let key = PublicKey::from_base64(public_key).context("a public key")?;
    let mut call = vec![7; 148];
    call[..4].copy_from_slice(&[1, 0, 0, 0]);
    call[132..].fill(0);
    ensure!(Mac1::new(&key).fill(&mut call));
    let mut junk_call = call.clone();
    junk_call[120] ^= 1;
    let mut data = vec![9; 96];
    data[..4].copy_from_slice(&[4, 0, 0, 0]);
    let mut arp = vec![0; 28];
    arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    arp[8..14].copy_from_slice(&[2, 0, 0, 0, 9, 9]);
    arp[14..18].copy_from_slice(&[192, 0, 2, 99]);
    arp[24..28].copy_from_slice(&[192, 0, 2, 1]);
    let udp = |port: u16, payload: &[u8]| {
        let len = u16::try_from(payload.len() + 8).unwrap_or(8);
        let mut bytes = vec![0x99, 0x99];
        bytes.extend(port.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(payload);
        bytes
    };
    let mut echo = vec![8, 0, 0, 0, 1, 2, 0, 3];
    echo.extend([0; 48]);
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let v4 = |protocol: u8, body: &[u8]| ethernet(mac, [8, 0], &ipv4(protocol, body));
    Ok(vec![
        Kind {
            name: "ARP requests",
            lost: &["neighbor-queue-full"],
            frame: ethernet([0xff; 6], [8, 6], &arp),
            spoof: &[10, 11, 26, 27],
        },
        Kind {
            name: "neighbor solicitations",
            lost: &["neighbor-queue-full"],
            frame: solicitation(),
            spoof: &[10, 11],
        },
        Kind {
            name: "pings",
            lost: &["icmp-queue-full"],
            frame: v4(1, &echo),
            spoof: &[10, 11],
        },
        Kind {
            name: "handshakes",
            // Asked for a cookie only as long as more come than are looked at.
            lost: &[
                "handshake-undecryptable",
                "handshake-cookie-sent",
                "handshake-queue-full",
            ],
            frame: v4(17, &udp(51_820, &call)),
            spoof: &[10, 11],
        },
        Kind {
            name: "handshakes for others",
            lost: &["handshake-mac1-invalid"],
            frame: v4(17, &udp(51_820, &junk_call)),
            spoof: &[10, 11],
        },
        Kind {
            name: "data of no session",
            lost: &["receiver-unknown"],
            frame: v4(17, &udp(51_820, &data)),
            spoof: &[10, 11],
        },
        Kind {
            name: "datagrams for nobody",
            lost: &["datagram-queue-full", "host-error-limited"],
            frame: v4(17, &udp(9, &[0; 18])),
            spoof: &[10, 11],
        },
        Kind {
            name: "fragments",
            lost: &["fragment-queue-full", "host-reassembly-source-full"],
            frame: first_fragment(mac),
            spoof: &[10, 11, 60, 61],
        },
        Kind {
            name: "frames of no protocol",
            lost: &["not-for-us"],
            frame: ethernet(mac, [0x88, 0xb5], &[0; 46]),
            spoof: &[10, 11],
        },
        Kind {
            name: "cut packets",
            lost: &["outer-malformed"],
            frame: v4(17, &[0; 4]),
            spoof: &[10, 11],
        },
    ])
}

/// All kinds in turn, some 60,000 frames per second at the most.
fn send_frames(
    mut tap: &File,
    kinds: &[Kind],
    sent: &[AtomicU64],
    stop: &AtomicBool,
) -> Result<()> {
    let mut serial = 0_u32;
    let mut frames: Vec<_> = kinds.iter().map(|kind| kind.frame.clone()).collect();
    while !stop.load(Ordering::Relaxed) {
        for ((kind, frame), sent) in kinds.iter().zip(&mut frames).zip(sent) {
            for _ in 0..8 {
                serial = serial.wrapping_mul(0x9E37_79B1).wrapping_add(1);
                for (&at, byte) in kind.spoof.iter().zip(serial.to_be_bytes()) {
                    frame[at] = byte;
                }
                if tap.write(frame).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn ethernet(to: [u8; 6], ether_type: [u8; 2], packet: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &[2, 0, 0, 0, 9, 9], &ether_type, packet].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// From 192.0.2.99.
fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + body.len()).unwrap_or(20);
    let mut packet = vec![0x45, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend([192, 0, 2, 99, 192, 0, 2, 1]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

/// The first fragment of a packet of 2001:db8::99's, the others of which never come; its number lies at 58.
fn first_fragment(mac: [u8; 6]) -> Vec<u8> {
    let source = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];
    let us = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let header = [0x60, 0, 0, 0, 0, 24, 44, 64];
    let fragment = [17, 0, 0, 1, 0, 0, 0, 0];
    let packet = [&header[..], &source, &us, &fragment, &[0x99; 16]].concat();
    ethernet(mac, [0x86, 0xdd], &packet)
}

/// 2001:db8::99 asks for 2001:db8::1, without saying where it is itself.
fn solicitation() -> Vec<u8> {
    let source = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x99];
    let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1];
    let target = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    let pseudo = [&source[..], &group, &[0, 0, 0, 24, 0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, 24, 58, 255];
    let packet = [&header[..], &source, &group, &message].concat();
    ethernet([0x33, 0x33, 0xff, 0, 0, 1], [0x86, 0xdd], &packet)
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// The MAC address of a side's end of the cable.
fn mac_of(namespace: &Namespace) -> Result<[u8; 6]> {
    let line = namespace.ip(&format!("-o link show {}", Veth::NAME))?;
    let (_, rest) = line.split_once("link/ether ").context("no MAC")?;
    let mut mac = [0; 6];
    for (byte, text) in mac.iter_mut().zip(rest.split([':', ' '])) {
        *byte = u8::from_str_radix(text, 16)?;
    }
    Ok(mac)
}
