//! Uplinks: devices that are found again, neighbors that are asked.

use super::*;

#[test]
fn uplinks_on_different_devices_share_a_port() {
    let [port] = free_ports();
    let config = parse(&format!(
        "uplinks: {{one: {{driver: udp, device: lo}}, two: {{driver: udp, device: nowhere0}}}}
tunnels:
  a: {{uplink: one, uapi: off, listen_port: {port}, private_key_file: a.key, peers: {{}}}}
  b: {{uplink: two, uapi: off, listen_port: {port}, private_key_file: b.key, peers: {{}}}}
"
    ));
    let folder = tempfile::tempdir().unwrap();
    let run_dir = RunDir::open(&folder.path().join("run")).unwrap();
    let (requester, _requests) = api::channel().unwrap();
    let started = Engine::start(config, Some(&run_dir), requester, None);
    let error = started.err().unwrap().to_string();
    // What is refused is the device that there is not, and not the port.
    assert!(
        error.contains("uplink two") && !error.contains("in use"),
        "{error}"
    );
}

#[test]
fn an_uplink_that_can_not_be_bound_anew_is_down_and_tried_again() {
    let [port] = free_ports();
    let mut site = Site::start(tunnels(&[("a", port)], ""));
    let is_up = |site: &mut Site| report(&mut site.engine).uplinks[0].link_up;
    // As if the interface had another number than the one that the sockets are bound to; they have the port there.
    let uplink = site.engine.uplinks.get_mut(0).unwrap();
    let config::UplinkDriver::Udp(driver) = &mut uplink.config.driver else {
        panic!("it is a UDP uplink");
    };
    driver.device = Some("lo".into());
    site.engine.follow_devices(clock::now());
    assert!(!is_up(&mut site));
    site.engine.chores_due = Instant::default();
    site.engine.round(clock::now()).unwrap();
    assert!(!is_up(&mut site));

    let slot = site.engine.tunnel_slot(&name("a")).unwrap();
    assert!(site.engine.deaf().is_empty());
    site.engine.tunnels.get_mut(slot).unwrap().markers.clear();
    assert_eq!(site.engine.deaf(), [name("a")]);
    let uplink = UplinkIndex::from_slot(0);
    site.engine.tell_all(|| Command::DetachUplink(uplink, None));
    let tried = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        site.engine.chores_due = Instant::default();
        site.engine.round(clock::now()).unwrap();
        is_up(&mut site)
    });
    assert!(tried);
    let tunnel = site.engine.tunnels.get(slot).unwrap();
    assert!(!tunnel.markers.is_empty());
    assert!(site.engine.deaf().is_empty());
    assert!(tunnel.markers.iter().all(|marker| marker.is_bound_to("lo")));
    let uplink = site.engine.uplinks.get_mut(0).unwrap();
    assert_eq!(uplink.device_index, crate::netlink::index_of("lo"));
    assert!(site.answers("a", port));
}

/// The device is DPDK's that loses all: neighbors answer when the test says so.
#[cfg(feature = "dpdk")]
#[test]
fn neighbors_that_answer_dont_prolong_the_wait_of_messages_to_others() {
    use culvert_dataplane::shared::{ids::Scope, limits::UNROUTED_LIFE};
    use culvert_wire::{MacAddr, arp};
    let mut site = Site::start(parse(
        "memory: {hugepages: off}
uplinks: {w: {driver: dpdk, device: net_null0, addresses: [192.0.2.1/24]}}
tunnels: {a: {uplink: w, uapi: off, listen_port: 1, private_key_file: a.key, peers: {}}}
",
    ));
    let engine = &mut site.engine;
    let mut wire = Wire::new(engine);
    let slot = engine.tunnel_slot(&name("a")).unwrap();
    let scope = Scope::Uplink(UplinkIndex::from_slot(0));
    let start = clock::now();
    let after = |pause| Now {
        monotonic: start.monotonic + pause,
        ..start
    };
    let first_call = |to: &str, now| {
        let to = to.parse().unwrap();
        Far::first_call(&key("far"), key("silent").public_key(), to, now)
    };
    let silent = first_call("192.0.2.9:9", start);
    engine.transmit(slot, silent.into(), start.monotonic);
    wire.settle(engine, start);
    for (nth, host) in [2, 3].into_iter().enumerate() {
        let now = after(Duration::from_secs(1 + nth as u64));
        let call = first_call(&format!("192.0.2.{host}:9"), now);
        engine.transmit(slot, call.into(), now.monotonic);
        wire.settle(engine, now);
        assert_eq!(engine.unrouted.len(), 2);
        let (from, own) = ([192, 0, 2, host].into(), [192, 0, 2, 1].into());
        let packet = arp::ArpPacket::request(MacAddr([2, 0, 0, 0, 0, host]), from, own);
        let mut frame = [0; arp::FRAME_LEN];
        packet.write_frame(&mut frame);
        wire.bring(engine, scope, &frame, now);
        let due: Vec<_> = engine.unrouted.iter().map(|&(due, ..)| due).collect();
        assert_eq!(due, [start.monotonic + UNROUTED_LIFE]);
    }
    wire.settle(engine, after(UNROUTED_LIFE));
    assert!(engine.unrouted.is_empty());
}

#[cfg(feature = "dpdk")]
#[test]
fn of_messages_that_wait_for_a_next_hop_the_oldest_makes_room_and_strangers_take_none() {
    use culvert_dataplane::shared::{
        drops::DropReason,
        limits::{UNROUTED_LIFE, UNROUTED_MAX},
    };
    let mut site = Site::start(parse(
        "memory: {hugepages: off}
uplinks: {w: {driver: dpdk, device: net_null0, addresses: [192.0.2.1/24]}}
tunnels: {a: {uplink: w, uapi: off, listen_port: 1, private_key_file: a.key, peers: {}}}
",
    ));
    let engine = &mut site.engine;
    let slot = engine.tunnel_slot(&name("a")).unwrap();
    let start = clock::now();
    let to = "192.0.2.9:9".parse().unwrap();
    let call = Far::first_call(&key("far"), key("silent").public_key(), to, start);
    let at = |n: usize| start.monotonic + Duration::from_micros(n as u64);
    let lost = |engine: &Engine| {
        let uplink = engine.uplinks.get(0).unwrap();
        uplink.counters.drops.count(DropReason::NextHopUnresolved)
    };
    for n in 0..UNROUTED_MAX + 10 {
        engine.transmit(slot, call.clone().into(), at(n));
    }
    let mut of_stranger = call;
    of_stranger.peer = None;
    engine.transmit(slot, of_stranger.into(), at(UNROUTED_MAX + 10));
    assert_eq!((engine.unrouted.len(), lost(engine)), (UNROUTED_MAX, 11));
    let oldest = engine.unrouted.front().map(|&(due, ..)| due);
    assert_eq!(oldest, Some(at(10) + UNROUTED_LIFE));
}

#[cfg(feature = "dpdk")]
#[test]
fn an_address_that_another_host_has_is_told_and_not_used_until_it_is_gone() {
    use culvert_dataplane::shared::ids::Scope;
    use culvert_wire::{MacAddr, arp};
    let mut site = Site::start(parse(
        "memory: {hugepages: off}
uplinks: {w: {driver: dpdk, device: net_null0, addresses: [192.0.2.1/24, 198.51.100.1/24]}}
",
    ));
    let start = clock::now();
    let after = |seconds| Now {
        monotonic: start.monotonic + Duration::from_secs(seconds),
        ..start
    };
    let engine = &mut site.engine;
    let mut wire = Wire::new(engine);
    let scope = Scope::Uplink(UplinkIndex::from_slot(0));
    let own = |engine: &mut Engine| {
        let uplink = engine.uplinks.get(0).unwrap();
        let told: Vec<_> = uplink
            .conflicts()
            .into_iter()
            .map(|it| (it.address, it.used))
            .collect();
        let snapshot = engine.snapshots.load();
        let worker = &snapshot.uplink(UplinkIndex(0)).unwrap().addresses;
        assert_eq!(*worker, uplink.addresses(&engine.netstack));
        (told, worker.len())
    };
    let claim = |address: [u8; 4]| {
        let packet = arp::ArpPacket::announcement(MacAddr([2, 0, 0, 0, 0, 9]), address.into());
        let mut frame = [0; arp::FRAME_LEN];
        packet.write_frame(&mut frame);
        frame
    };
    let way = |engine: &Engine, to: [u8; 4]| {
        let way = engine.netstack.get(scope)?.routes.way(to.into())?;
        Some(way.source.to_string())
    };
    assert_eq!(own(engine), (vec![], 3));
    wire.bring_at_once(engine, scope, &claim([192, 0, 2, 1]), start);
    let duplicate = ("192.0.2.1".to_owned(), false);
    assert_eq!(own(engine), (vec![duplicate.clone()], 2));
    assert_eq!(way(engine, [192, 0, 2, 9]), None);
    // The other is used, and is kept when somebody claims it.
    wire.settle(engine, after(1));
    wire.bring(engine, scope, &claim([198, 51, 100, 1]), after(2));
    let contested = ("198.51.100.1".to_owned(), true);
    assert_eq!(own(engine), (vec![duplicate, contested], 2));
    assert!(way(engine, [198, 51, 100, 9]).is_some());
    wire.settle(engine, after(63));
    assert_eq!(own(engine), (vec![], 3));
    assert_eq!(way(engine, [192, 0, 2, 9]).as_deref(), Some("192.0.2.1"));
    wire.leave(engine);
}
