//! What waits for a peer: when workers are told to send it.

use culvert_dataplane::shared::control_link::{ControlEnd, WorkerEnd, link};

use super::*;

/// The other ends of new links to the workers, which hear nothing until they have their own again.
fn overhear(engine: &mut Engine) -> (Vec<WorkerEnd>, Vec<ControlEnd>) {
    let attention = Arc::clone(&engine.attention);
    let workers = engine.workers.0.iter_mut();
    let exchange = |worker: &mut workers::WorkerHandle| {
        let (end, control) = link(Arc::clone(&attention), 1).unwrap();
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

fn cell_of(engine: &Engine, place: usize) -> &Cell {
    &engine.peers.get(place).unwrap().cell
}
