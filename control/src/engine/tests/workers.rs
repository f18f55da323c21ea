//! A worker whose queue is full when a port changes hands.

use culvert_dataplane::shared::{
    control_link::{self, ControlEnd, WorkerEnd},
    ids::PeerIndex,
    wake::Wake,
};

use super::*;

impl Site {
    /// Puts a full queue that nobody serves in the place of the worker's; gives its own, and the full one's other end.
    fn stall(&mut self) -> (ControlEnd, WorkerEnd) {
        let attention = Arc::clone(&self.engine.attention);
        let stack = Arc::new(Wake::new().unwrap());
        let (other_end, mut link, _) = control_link::link(attention, stack, 1).unwrap();
        while link.has_room() {
            link.send(Command::FlushStaged(PeerIndex::from_slot(0)));
        }
        let own = std::mem::replace(&mut self.engine.workers.0[0].link, link);
        (own, other_end)
    }
}

#[test]
fn a_worker_that_is_behind_still_gets_the_port_that_changes_hands() {
    let [one, two] = free_ports();
    let mut site = Site::start(tunnels(&[("a", one)], ""));
    let (own, mut other_end) = site.stall();
    let taker = std::thread::spawn(move || {
        // The engine finds the queue full first.
        std::thread::sleep(Duration::from_millis(100));
        let begin = std::time::Instant::now();
        let (mut detached, mut attached) = (0, 0);
        while attached == 0 && begin.elapsed() < Duration::from_secs(10) {
            match other_end.commands.pop() {
                Ok(Command::DetachUplink(..)) => detached += 1,
                Ok(Command::AttachUplink(_)) => attached += 1,
                Ok(_) => {}
                Err(_) => std::thread::yield_now(),
            }
        }
        (detached, attached)
    });
    let applied = site.apply(tunnels(&[("a", two)], "")).unwrap();
    site.engine.workers.0[0].link = own;
    assert!(applied.failures.is_empty(), "{applied:?}");
    assert_eq!(taker.join().unwrap(), (1, 1));
}

/// The word that `wg` has is an error's number; the port has changed all the same, and `wg` shows it.
#[test]
fn wg_is_not_told_that_all_is_done_when_a_worker_took_nothing() {
    let [one, two] = free_ports();
    let mut site = Site::start(tunnels(&[("a", one)], ""));
    let (own, _other_end) = site.stall();
    let answer = site.set("a", &[Change::ListenPort(two)]);
    site.engine.workers.0[0].link = own;
    assert!(matches!(answer, Answer::Refused(Errno::BUSY)), "{answer:?}");
    let tunnel = report(&mut site.engine).tunnels.remove(0);
    assert_eq!(tunnel.listen_port, two);
    assert!(matches!(site.set("a", &[Change::Fwmark(0)]), Answer::Done));
}

#[test]
fn a_worker_that_takes_nothing_is_told() {
    let [one, two] = free_ports();
    let mut site = Site::start(tunnels(&[("a", one)], ""));
    let (own, _other_end) = site.stall();
    let applied = site.apply(tunnels(&[("a", two)], "")).unwrap();
    site.engine.workers.0[0].link = own;
    let told = applied.failures.join("; ");
    assert!(
        told.contains(&format!("UDP port {one} of tunnel a stays open"))
            && told.contains("a new UDP port"),
        "{told}"
    );
}
