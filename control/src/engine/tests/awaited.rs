//! What waits for a peer: when workers are told to send it.

use culvert_dataplane::shared::{
    control_link::{ControlEnd, WorkerEnd, link},
    ids::Scope,
    path::Path,
    wake::Wake,
};
use culvert_stack::{HostConfig, Routes};
use culvert_wire::MacAddr;

use super::*;
use crate::{
    engine::{hops::For, workers::WorkerHandle},
    netstack::Host,
};

const OURS: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const THEIRS: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

/// The other ends of new links to the workers, which hear nothing until they have their own again.
pub(super) fn overhear(engine: &mut Engine) -> (Vec<WorkerEnd>, Vec<ControlEnd>) {
    let attention = Arc::clone(&engine.attention);
    let workers = engine.workers.0.iter_mut();
    let exchange = |worker: &mut WorkerHandle| {
        let stack = Arc::new(Wake::new().unwrap());
        let (end, control, _) = link(Arc::clone(&attention), stack, 1).unwrap();
        (end, std::mem::replace(&mut worker.link, control))
    };
    workers.map(exchange).unzip()
}

/// A site with two workers and a peer that `inside` is told the place of; answers what each worker was told.
fn told(inside: impl FnOnce(&mut Engine, usize)) -> Vec<Vec<Command>> {
    let [a] = free_ports();
    let mut config = tunnels(&[("a", a)], "");
    let worker = config.cores.workers[0];
    config.cores.workers = vec![worker; 2];
    let mut site = Site::start(config);
    let engine = &mut site.engine;
    let place = engine.peers.iter().next().unwrap().0;
    let (mut ends, own) = overhear(engine);
    inside(engine, place);
    for (worker, link) in engine.workers.0.iter_mut().zip(own) {
        worker.link = link;
    }
    let told = |end: &mut WorkerEnd| std::iter::from_fn(|| end.commands.pop().ok()).collect();
    ends.iter_mut().map(told).collect()
}

#[test]
fn one_worker_sends_an_empty_packet_unless_what_waits_there_leaves_and_the_others_what_they_have() {
    let told_all = told(|engine, place| {
        engine.keep_alive(place);
        cell_of(engine, place).note_staged();
        engine.keep_alive(place);
    });
    assert!(matches!(
        told_all[0][..],
        [Command::Keepalive(_), Command::Keepalive(_)]
    ));
    assert!(matches!(told_all[1][..], [Command::FlushStaged(_)]));
}

#[test]
fn what_waits_is_sent_once_the_next_hop_is_known() {
    let reply: Vec<u8> = [
        &OURS.0[..],
        &THEIRS.0,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        &THEIRS.0,
        &[192, 0, 2, 9],
        &OURS.0,
        &[192, 0, 2, 1],
        &[0; 18],
    ]
    .concat();
    let told_all = told(|engine, place| {
        let now = clock::now();
        let scope = Scope::Uplink(UplinkIndex::from_slot(0));
        let config = HostConfig {
            mac: OURS,
            addresses: vec![([192, 0, 2, 1].into(), 24)],
            routes: Vec::new(),
            neighbors: Vec::new(),
            mtu: 1_500,
        };
        let mut wire = Wire::new(engine);
        let host = Host {
            birth: 0,
            name: name("lo"),
            routes: Routes::new(&config),
            learns: culvert_stack::Learns::default(),
            held: None,
            unusable: None,
            config,
            kernel: None,
            bfd: None,
            services: crate::netstack::Services::default(),
            nameservers: Vec::new(),
            drops: Arc::default(),
            counters: Arc::default(),
        };
        engine.netstack.insert(scope, host);
        let there = std::net::IpAddr::from([192, 0, 2, 9]);
        let at = (scope, there);
        let (netstack, hops) = (&mut engine.netstack, &mut engine.hops);
        let ask = || netstack.ask(scope, there);
        let hop = hops.over(at, OURS, For::Peer, now.monotonic, ask);
        let path = Path::new((there, 2).into(), None, 1, hop.unwrap());
        cell_of(engine, place).publish_path(Some(path));
        wire.settle(engine, now);
        cell_of(engine, place).note_staged();
        wire.bring(engine, scope, &reply, now);
        // It is where it was.
        wire.bring(engine, scope, &reply, now);
    });
    for told in told_all {
        let flushes = told
            .iter()
            .filter(|command| matches!(command, Command::FlushAwaited));
        assert_eq!(flushes.count(), 1);
    }
}

fn cell_of(engine: &Engine, place: usize) -> &Cell {
    &engine.peers.get(place).unwrap().cell
}
