//! Segmentation compared byte for byte with the Linux kernel's.
//!
//! ```text
//!   test ──write──▶ cvt-in (tap, vnet header)         a network namespace of
//!                      │                              the test's own, gone with
//!                  IP forwarding, hop limit - 1       the thread that made it
//!                      │
//!   test ◀──read─── cvt-out (tap, no offloads: the kernel must cut and sum)
//! ```
//!
//! Needs root (a namespace, two taps) and iproute2. A machine without them must say so:
//! CULVERT_TEST_SKIP, a list with commas, has to name `root` for this test to pass without
//! having run.

#![allow(
    clippy::cast_possible_truncation,
    reason = "lengths and bytes of the tests' own making"
)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{ETHERNET, Super, assert_sound, segments};
use culvert_wire::VnetHeader;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const IN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const OUT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfd];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

#[test]
fn packets_are_those_that_linux_cuts() {
    let skipped = std::env::var("CULVERT_TEST_SKIP").unwrap_or_default();
    if !rustix::process::geteuid().is_root() {
        assert!(
            skipped.split(',').any(|name| name.trim() == "root"),
            "comparing with the kernel needs root for a network namespace and two taps; \
             CULVERT_TEST_SKIP=root goes without it"
        );
        eprintln!("not run: no root, and CULVERT_TEST_SKIP allows that");
        return;
    }
    // The namespace belongs to a thread of its own and ends with it.
    std::thread::spawn(|| Kernel::new().compare_all())
        .join()
        .expect("the kernel and culvert-wire agree");
}

struct Kernel {
    input: File,
    output: File,
}

impl Kernel {
    fn new() -> Self {
        // SAFETY: unshare changes the calling thread's namespace only; no memory.
        let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(
            status,
            0,
            "unshare(CLONE_NEWNET): {}",
            std::io::Error::last_os_error()
        );
        let input = tap("cvt-in", true);
        let output = tap("cvt-out", false);
        for (name, mac) in [("cvt-in", IN_MAC), ("cvt-out", OUT_MAC)] {
            let conf = format!("/proc/sys/net/ipv6/conf/{name}");
            for (key, value) in [
                ("accept_dad", "0"),
                ("addr_gen_mode", "1"),
                ("router_solicitations", "0"),
            ] {
                fs::write(format!("{conf}/{key}"), value).expect("sysctl of a tap");
            }
            ip(&["link", "set", name, "address", &mac_text(mac)]);
            ip(&["link", "set", name, "mtu", "9200", "up"]);
            fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").expect("rp_filter");
        }
        for (path, value) in [
            ("/proc/sys/net/ipv4/ip_forward", "1"),
            ("/proc/sys/net/ipv4/conf/all/rp_filter", "0"),
            ("/proc/sys/net/ipv6/conf/all/forwarding", "1"),
        ] {
            fs::write(path, value).expect("forwarding");
        }
        ip(&["addr", "add", "10.98.0.1/24", "dev", "cvt-in"]);
        ip(&["addr", "add", "10.97.0.1/24", "dev", "cvt-out"]);
        ip(&["addr", "add", "fd98::1/64", "dev", "cvt-in", "nodad"]);
        ip(&["addr", "add", "fd97::1/64", "dev", "cvt-out", "nodad"]);
        for peer in ["10.99.0.2", "fd00::2"] {
            let lladdr = mac_text(PEER_MAC);
            ip(&["route", "add", peer, "dev", "cvt-out"]);
            ip(&["neigh", "add", peer, "lladdr", &lladdr, "dev", "cvt-out"]);
        }
        Self { input, output }
    }

    fn compare_all(mut self) {
        const FIN: u8 = 0x01;
        const PSH: u8 = 0x08;
        const ACK: u8 = 0x10;
        const ECE: u8 = 0x40;
        const CWR: u8 = 0x80;

        let mut compared = 0;
        for v6 in [false, true] {
            // Lengths around multiples of the segment size, up to the longest packet.
            for (len, size) in [
                (1001, 1000),
                (3000, 1000),
                (2999, 1000),
                (64_000, 1368),
                (65_400, 1340),
                (65_400, 8948),
                (4097, 536),
                (60_000, 1001),
            ] {
                let base = Super::tcp(v6, noise(len), size);
                for flags in [ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR, ACK | CWR | ECE] {
                    for options in [0, 12, 40] {
                        let frame = Super {
                            flags,
                            options: vec![1; options],
                            ..base.clone()
                        };
                        compared += self.compare(&frame, false);
                    }
                }
                compared += self.compare(&Super::udp(v6, noise(len.min(60_000)), size), false);
            }
            // Without DF, with a DSCP and ECN, an identification that wraps.
            let odd = Super {
                dont_fragment: false,
                tos: 0xb9,
                ..Super::tcp(v6, noise(5000), 999)
            };
            compared += self.compare(&odd, false);
            compared += self.compare(&Super { udp: true, ..odd }, false);
            // Partial checksums alone; odd and even lengths, none at all.
            for len in [0, 1, 2, 777, 1400] {
                compared += self.compare(&Super::tcp(v6, noise(len), 0), true);
                compared += self.compare(&Super::udp(v6, noise(len), 0), true);
            }
            // A payload that makes the UDP checksum zero: it is sent as 0xffff.
            compared += self.compare(&zero_sum(v6, 2, 0), true);
            compared += self.compare(&zero_sum(v6, 3000, 1000), false);
        }
        assert!(compared > 5000, "only {compared} packets compared");
    }

    /// Sends one frame through the kernel and through `segments`; returns how many
    /// packets it became.
    fn compare(&mut self, frame: &Super, plain: bool) -> usize {
        let mut vnet = frame.vnet(ETHERNET);
        if plain {
            vnet.gso_type = 0;
            vnet.gso_size = 0;
        }
        let ours = segments(&vnet, &frame.frame(), 9200).expect("a plan");
        let shown = format!(
            "v6 {} udp {} length {} size {} flags {:x} options {}",
            frame.v6,
            frame.udp,
            frame.payload.len(),
            frame.gso_size,
            frame.flags,
            frame.options.len()
        );
        // The kernel forwards it, so it gets one hop more.
        let sent = Super {
            ttl: frame.ttl + 1,
            ..frame.clone()
        };
        let mut bytes = vnet.write().to_vec();
        bytes.extend(sent.frame());
        self.input.write_all(&bytes).unwrap_or_else(|error| {
            panic!("the kernel refuses a frame ({shown}): {error}");
        });
        for (index, want) in ours.iter().enumerate() {
            let got = self
                .receive()
                .unwrap_or_else(|| panic!("no packet {index} of {} ({shown})", ours.len()));
            assert_eq!(got.len(), want.len(), "length of packet {index} ({shown})");
            if let Some(at) = (0..got.len()).find(|&at| got[at] != want[at]) {
                panic!(
                    "packet {index} ({shown}) differs at byte {at}:\nkernel {:02x?}\nculvert {:02x?}",
                    &got[..got.len().min(100)],
                    &want[..want.len().min(100)]
                );
            }
            assert_sound(&got);
        }
        ours.len()
    }

    /// The next IP packet to the peer.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut frame = vec![0; 10_000];
        loop {
            match self.output.read(&mut frame) {
                Ok(len) if len > ETHERNET && frame[..6] == PEER_MAC => {
                    return Some(frame[ETHERNET..len].to_vec());
                }
                // Multicast of the namespace's own.
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    if Instant::now() > deadline {
                        return None;
                    }
                    let mut fds = [PollFd::new(&self.output, PollFlags::IN)];
                    let timeout = Timespec {
                        tv_sec: 1,
                        tv_nsec: 0,
                    };
                    poll(&mut fds, Some(&timeout)).expect("poll of a tap");
                }
                Err(error) => panic!("reading a tap: {error}"),
            }
        }
    }
}

/// A UDP frame whose first packet's checksum comes out as zero.
fn zero_sum(v6: bool, len: usize, gso_size: u16) -> Super {
    let mut frame = Super::udp(v6, vec![0; len], gso_size);
    let mut vnet = frame.vnet(ETHERNET);
    if gso_size == 0 {
        vnet.gso_type = 0;
    }
    let field = frame.l3_len() + 6;
    let first = &segments(&vnet, &frame.frame(), 9200).expect("a plan")[0];
    // Two zero bytes of payload become the checksum, and the sum all ones.
    frame.payload[..2].copy_from_slice(&first[field..field + 2]);
    let first = &segments(&vnet, &frame.frame(), 9200).expect("a plan")[0];
    assert_eq!(first[field..field + 2], [0xff, 0xff]);
    frame
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = len as u64 + 88_172_645_463_325_252;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn mac_text(mac: [u8; 6]) -> String {
    culvert_wire::MacAddr(mac).to_string()
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip of iproute2 runs");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Opens a tap in the thread's namespace. It goes with its file.
fn tap(name: &str, vnet_header: bool) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
    const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("/dev/net/tun opens");
    // struct ifreq: a name of 16 bytes, then a union of 24 whose first two are flags.
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI;
    if vnet_header {
        flags |= libc::IFF_VNET_HDR;
    }
    request[16..18].copy_from_slice(&flags.to_ne_bytes()[..2]);
    // SAFETY: the request is an ifreq in size and layout and outlives the call.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) };
    assert_eq!(status, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
    if vnet_header {
        let size = libc::c_int::from(VnetHeader::LEN as u8);
        // SAFETY: the argument is a pointer to an int that outlives the call.
        let status =
            unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const size) };
        assert_eq!(status, 0, "TUNSETVNETHDRSZ");
    }
    // SAFETY: the argument is a number; none means that nothing may be left to readers.
    let status = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETOFFLOAD as _, 0 as libc::c_ulong) };
    assert_eq!(status, 0, "TUNSETOFFLOAD");
    file
}
