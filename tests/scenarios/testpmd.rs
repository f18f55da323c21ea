//! DPDK's testpmd as a guest that sends as fast as it can.
//!
//! ```text
//!   testpmd txonly ── virtio-user ── hv-a ── wan0 (veth) ── hv-b ── virtio-user ── testpmd rxonly
//!   10.1.1.10                                                                      10.1.2.10
//! ```
//!
//! It outruns everything behind it: what is asserted is that packets arrive, that every packet is either
//! delivered or counted under a name, and that ports and peers live on.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{Part, Scenario, SocketMode, Testpmd, TestpmdSpec, TwoHosts, Uplink};

const PARTS: [Part; 3] = [Part::Root, Part::Testpmd, Part::Hugepages];
const FLOOD: Duration = Duration::from_secs(3);

#[test]
fn one_worker() -> Result<()> {
    flood("one_worker", Uplink::Udp, 1)
}

#[test]
fn two_workers() -> Result<()> {
    flood("two_workers", Uplink::Udp, 2)
}

#[test]
fn one_worker_over_dpdk() -> Result<()> {
    flood("one_worker_over_dpdk", Uplink::Dpdk, 1)
}

#[test]
fn two_workers_over_dpdk() -> Result<()> {
    flood("two_workers_over_dpdk", Uplink::Dpdk, 2)
}

/// What a guest leaves in its ring when it goes is never taken.
const RING: u64 = 256;

fn flood(name: &str, uplink: Uplink, workers: usize) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let mut hosts = TwoHosts::lay(scenario, uplink, workers, SocketMode::Server)?;
        hosts.start(scenario)?;
        let queues = u16::try_from(workers)?;
        let (from, to) = (hosts.a.spec.ports[0].clone(), hosts.b.spec.ports[0].clone());
        let sink = Testpmd::start(
            scenario,
            &TestpmdSpec::guest("sink", to.socket, &to.mac, queues, "rxonly"),
        )?;
        let source = Testpmd::start(
            scenario,
            &TestpmdSpec::guest("source", from.socket.clone(), &from.mac, queues, "txonly")
                .sending(&hosts.a.spec.gateway_mac, "10.1.1.10", "10.1.2.10", 256),
        )?;
        thread::sleep(FLOOD);
        let sent = source.finish()?.sent;
        // What is under way arrives.
        thread::sleep(Duration::from_millis(500));
        let received = sink.finish()?.received;
        scenario.say(format!("{sent} sent, {received} received"));
        ensure!(received > 1000, "{sent} sent, only {received} received");
        ensure!(received <= sent, "{sent} sent, but {received} received");

        let port = hosts.a.culvert()?.port("vm1")?;
        let in_ring = RING * u64::from(queues);
        ensure!(
            (sent - in_ring..=sent).contains(&port.from_guest),
            "the guest sent {sent}: {port:?}"
        );
        let delivered = hosts.b.culvert()?.port("vm1")?;
        ensure!(
            delivered.to_guest == received,
            "the guest received {received}: {delivered:?}"
        );
        hosts.a.culvert_mut()?.process().must_run()?;
        hosts.b.culvert_mut()?.process().must_run()?;

        scenario.say("a guest with another's MAC address");
        let impostor = TestpmdSpec::guest(
            "impostor",
            from.socket,
            "52:54:00:00:66:66",
            queues,
            "txonly",
        );
        let impostor = impostor.sending(&hosts.a.spec.gateway_mac, "10.1.1.10", "10.1.2.10", 128);
        let impostor = Testpmd::start(scenario, &impostor)?;
        thread::sleep(Duration::from_secs(1));
        let forged = impostor.finish()?.sent;
        let after = hosts.a.culvert()?.port("vm1")?;
        let taken = after.from_guest - port.from_guest;
        let dropped = after.drop_count("guard-mac") - port.drop_count("guard-mac");
        ensure!(
            taken > 0 && (forged - in_ring..=forged).contains(&taken) && dropped == taken,
            "{forged} forged, {taken} taken, {dropped} dropped: {after:?}"
        );
        Ok(())
    })
}
