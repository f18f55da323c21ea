//! Workers with threads of their own: sleep and wake, snapshots, guests that vanish.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use culvert_dataplane::shared::control_link::Command;
use culvert_vhost::{PortDrop, frontend::FrontendReq};
use culvert_wire::VnetHeader;

use crate::{
    packets::{ip, read},
    support::{GATEWAY, GUEST, Options, PATIENCE, Site, frame, guest, packet},
};

/// Ends the site's workers when the test does.
struct Running(Vec<JoinHandle<()>>);

impl Running {
    fn start(site: &mut Site) -> Self {
        let workers = std::mem::take(&mut site.workers);
        Self(
            workers
                .into_iter()
                .map(|worker| std::thread::spawn(|| worker.run()))
                .collect(),
        )
    }

    fn stop(self, site: &mut Site) {
        for control in &mut site.controls {
            assert!(control.send(Command::Stop));
        }
        for thread in self.0 {
            thread.join().unwrap();
        }
    }
}

/// Tries until there is something.
fn wait<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn numbered(source: &str, destination: &str, port: u16, n: u32) -> Vec<u8> {
    ip(source, destination).udp((port, 9), &n.to_be_bytes(), false)
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload.try_into().unwrap())
}

fn send(site: &mut Site, guest: usize, queue: u16, bytes: &[u8]) {
    wait("room in the ring", || {
        site.guests[guest]
            .send_frame(queue, &VnetHeader::default(), bytes)
            .then_some(())
    });
}

#[test]
fn a_worker_that_sleeps_is_woken_by_kick_datagram_and_command() {
    let mut site = Site::new(Options::default());
    let running = Running::start(&mut site);
    for n in 0..20 {
        // Long enough to fall asleep, whether it does or not.
        std::thread::sleep(Duration::from_millis(2));
        send(
            &mut site,
            0,
            0,
            &frame(GUEST[0], GATEWAY, &numbered("10.0.0.2", "10.1.0.2", 1, n)),
        );
        let (_, sealed) = wait("the kick wakes", || site.far.receive());
        assert_eq!(number(read(&sealed).payload()), n);
        std::thread::sleep(Duration::from_millis(2));
        site.far
            .send_packets(&[numbered("10.1.0.2", "10.0.0.2", 1, n)]);
        let (_, got) = wait("the datagram wakes", || site.guests[0].receive_frame(0));
        assert_eq!(number(read(packet(&got, GATEWAY, GUEST[0])).payload()), n);
        std::thread::sleep(Duration::from_millis(2));
        let index = site.peers[0].index;
        site.command(Command::Keepalive(index));
        assert!(
            wait("the command wakes", || site.far.receive())
                .1
                .is_empty()
        );
    }
    running.stop(&mut site);
    site.no_drops();
}

#[test]
fn a_worker_looks_by_itself_at_the_ring_of_a_guest_that_can_not_kick() {
    let mut site = Site::new(Options::default());
    let running = Running::start(&mut site);
    // SET_VRING_KICK without a descriptor, for the guest TX ring.
    let no_descriptor = 1 | 1 << 8;
    site.guests[0]
        .tell_u64(FrontendReq::SET_VRING_KICK, no_descriptor)
        .unwrap();
    let (count, start) = (30, Instant::now());
    for n in 0..count {
        std::thread::sleep(Duration::from_millis(2));
        let packet = numbered("10.0.0.2", "10.1.0.2", 1, n);
        send(&mut site, 0, 0, &frame(GUEST[0], GATEWAY, &packet));
        let (_, sealed) = wait("the worker looks", || site.far.receive());
        assert_eq!(number(read(&sealed).payload()), n);
    }
    // A sleep without end lasts a second, and each frame would wait for one.
    assert!(start.elapsed() < Duration::from_secs(u64::from(count) / 2));
    running.stop(&mut site);
    site.no_drops();
}

#[test]
fn snapshots_that_change_under_traffic_lose_nothing() {
    let mut site = Site::new(Options::default());
    let running = Running::start(&mut site);
    let count = 4_000;
    let mut out = 0;
    let mut back = 0;
    for n in 0..count {
        if n % 10 == 0 {
            site.change(|_| {});
            site.controls[0].wake().notify();
        }
        send(
            &mut site,
            0,
            0,
            &frame(GUEST[0], GATEWAY, &numbered("10.0.0.2", "10.1.0.2", 1, n)),
        );
        site.far
            .send_packets(&[numbered("10.1.0.2", "10.0.0.2", 1, n)]);
        // Not more on the way than rings and sockets hold.
        while n - out >= 64 {
            let (_, sealed) = wait("outbound", || site.far.receive());
            assert_eq!(number(read(&sealed).payload()), out);
            out += 1;
        }
        while n - back >= 64 {
            let (_, got) = wait("inbound", || site.guests[0].receive_frame(0));
            for part in parts(&got) {
                assert_eq!(part, back);
                back += 1;
            }
        }
    }
    while out < count {
        let (_, sealed) = wait("outbound", || site.far.receive());
        assert_eq!(number(read(&sealed).payload()), out);
        out += 1;
    }
    while back < count {
        let (_, got) = wait("inbound", || site.guests[0].receive_frame(0));
        for part in parts(&got) {
            assert_eq!(part, back);
            back += 1;
        }
    }
    running.stop(&mut site);
    site.no_drops();
}

/// The numbers in a frame that may be several datagrams joined.
fn parts(frame: &[u8]) -> Vec<u32> {
    frame[14 + 28..].chunks(4).map(number).collect()
}

#[test]
fn two_workers_keep_the_order_of_a_flow() {
    let mut site = Site::new(Options {
        workers: 2,
        queue_pairs: 2,
        ..Options::default()
    });
    site.far.socket.set_nonblocking(true).unwrap();
    let running = Running::start(&mut site);
    let count = 2_000;
    let mut sealed = [0; 2];
    let mut local = [0; 2];
    let mut inward = 0;
    let done = |sealed: &[u32; 2], local: &[u32; 2], inward: u32| {
        sealed.iter().chain(local).sum::<u32>() + inward
    };
    for n in 0..count {
        for queue in 0..2 {
            let flow = 100 + queue;
            let tunnel = numbered("10.0.0.2", "10.1.0.2", flow, n);
            send(&mut site, 0, queue, &frame(GUEST[0], GATEWAY, &tunnel));
            let other = numbered("10.0.0.2", "10.0.0.3", flow, n);
            send(&mut site, 0, queue, &frame(GUEST[0], GUEST[1], &other));
        }
        site.far
            .send_packets(&[numbered("10.1.0.2", "10.0.0.2", 1, n)]);
        let least = if n + 1 == count {
            5 * count
        } else {
            (5 * n).saturating_sub(200)
        };
        wait("all come", || {
            while let Some((_, plaintext)) = site.far.receive() {
                let seen = read(&plaintext);
                let flow = usize::from(seen.l4[1]) - 100;
                assert_eq!(number(seen.payload()), sealed[flow]);
                sealed[flow] += 1;
            }
            for queue in 0..2 {
                while let Some((_, got)) = site.guests[1].receive_frame(queue) {
                    let seen = read(packet(&got, GUEST[0], GUEST[1]));
                    let flow = usize::from(seen.l4[1]) - 100;
                    assert_eq!(number(seen.payload()), local[flow]);
                    local[flow] += 1;
                }
                while let Some((_, got)) = site.guests[0].receive_frame(queue) {
                    for part in parts(&got) {
                        assert_eq!(part, inward);
                        inward += 1;
                    }
                }
            }
            (done(&sealed, &local, inward) >= least).then_some(())
        });
    }
    assert_eq!((sealed, local, inward), ([count; 2], [count; 2], count));
    running.stop(&mut site);
    site.no_drops();
}

#[test]
fn a_guest_that_vanishes_in_traffic_harms_nobody_else() {
    let mut site = Site::new(Options::default());
    let running = Running::start(&mut site);
    let mut n = 0;
    for round in 0..10u32 {
        for _ in 0..100 {
            send(
                &mut site,
                0,
                0,
                &frame(GUEST[0], GUEST[1], &numbered("10.0.0.2", "10.0.0.3", 1, n)),
            );
            let bytes = frame(GUEST[1], GATEWAY, &numbered("10.0.0.3", "10.1.0.2", 1, n));
            // Left in the ring as they may be.
            let _ = site.guests[1].send_frame(0, &VnetHeader::default(), &bytes);
            while site.guests[1].receive_frame(0).is_some() {}
            n += 1;
        }
        // Gone, and back with memory of its own.
        let options = site.options.clone();
        site.guests.truncate(1);
        let port = Arc::clone(&site.ports[1]);
        wait("the rings stop", || {
            (!port.guest.vhost().unwrap().guest_rx(0).is_live()).then_some(())
        });
        send(
            &mut site,
            0,
            0,
            &frame(GUEST[0], GUEST[1], &numbered("10.0.0.2", "10.0.0.3", 1, n)),
        );
        n += 1;
        let rx = port.guest.vhost().unwrap().guest_rx(0).counters();
        wait("the loss is named", || {
            (rx.drops(PortDrop::NotReady) > round.into()).then_some(())
        });
        // The other guest and the tunnel go on.
        site.far
            .send_packets(&[numbered("10.1.0.2", "10.0.0.2", 1, round)]);
        let (_, got) = wait("inbound", || site.guests[0].receive_frame(0));
        assert_eq!(parts(&got), [round]);
        site.guests
            .push(guest(&site.dir, &options, 1, options.offloads[1]));
        wait("the rings start", || {
            port.guest
                .vhost()
                .unwrap()
                .guest_rx(0)
                .is_live()
                .then_some(())
        });
    }
    let port = Arc::clone(&site.ports[1]);
    let rx = port.guest.vhost().unwrap().guest_rx(0).counters();
    let lost = || {
        PortDrop::ALL
            .iter()
            .map(|&reason| rx.drops(reason))
            .sum::<u64>()
    };
    wait("every frame is delivered or named", || {
        (rx.frames() + lost() == u64::from(n)).then_some(())
    });
    running.stop(&mut site);
    site.port_drops(0, &[]);
    site.port_drops(1, &[]);
    site.peer_drops(&[]);
}
