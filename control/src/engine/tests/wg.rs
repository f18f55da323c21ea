//! Tunnels whose socket for `wg` somebody else has.

use culvert_directory::Listener;

use super::*;
use crate::uapi::server;

fn config(tunnel: &str, uapi: &str, port: u16) -> Config {
    parse(&format!(
        "{UPLINK}tunnels: {{{tunnel}: {{uplink: lo, {uapi}listen_port: {port}, private_key_file: a.key, peers: {{}}}}}}\n"
    ))
}

/// A name that no other test has.
fn unique(kind: char) -> String {
    format!("t{kind}{}", std::process::id())
}

/// Another program's socket; none without the right to the folder.
fn other(name: &str) -> Option<Listener> {
    server::open(&server::directory().ok()?, name).ok()
}

impl Site {
    /// Where `wg` finds the tunnel, and why it doesn't.
    fn wg(&mut self) -> (bool, Option<String>) {
        let tunnel = report(&mut self.engine).tunnels.remove(0);
        (tunnel.uapi.is_some(), tunnel.uapi_hindrance)
    }
}

#[test]
fn a_tunnel_that_wg_must_find_and_does_not_is_a_failure_each_time() {
    let ([port], wg) = (free_ports(), unique('m'));
    let file = || config("a", &format!("uapi: {wg}, "), port);
    if server::directory().is_err() {
        return;
    }
    let mut site = Site::start(file());
    assert_eq!(site.wg(), (true, None));
    site.engine.doors.order(uapi::Names::new());
    site.engine.doors.wait(Duration::from_secs(60));
    site.engine.tunnels.get_mut(0).unwrap().served = None;
    let taken = other(&wg).unwrap();
    for _ in 0..2 {
        let applied = site.apply(file()).unwrap();
        assert!(applied.changes.is_empty());
        assert!(
            applied.failures[0].starts_with("tunnel a: `wg` can't be served"),
            "{applied:?}"
        );
        assert!(site.wg().1.is_some());
    }
    drop(taken);
    assert!(site.apply(file()).unwrap().failures.is_empty());
    assert_eq!(site.wg(), (true, None));
}

#[test]
fn a_tunnel_that_wg_may_find_is_tried_again() {
    let ([port], tunnel) = (free_ports(), unique('a'));
    let Some(taken) = other(&tunnel) else {
        return;
    };
    let mut site = Site::start(config(&tunnel, "", port));
    let (found, why) = site.wg();
    assert!(!found && why.is_some());
    assert!(
        site.apply(config(&tunnel, "", port))
            .unwrap()
            .failures
            .is_empty()
    );
    drop(taken);
    // It rings when it has succeeded; here the rounds follow each other anyway.
    let found = (0..1_000).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        site.engine.round(clock::now()).unwrap();
        site.wg() == (true, None)
    });
    assert!(found, "{:?}", site.wg());
    let socket = Path::new(server::DIRECTORY).join(server::file_name(&tunnel));
    assert!(socket.exists());
    drop(site);
    assert!(!socket.exists());
}

#[test]
fn a_name_that_somebody_has_is_refused_on_the_askers_thread() {
    let ([port], wg) = (free_ports(), unique('n'));
    let Some(taken) = other(&wg) else {
        return;
    };
    let mut site = Site::start(config("a", "uapi: off, ", port));
    let file = || config("a", &format!("uapi: {wg}, "), port);
    let apply = |site: &mut Site| {
        let file = file();
        site.serve_until(move |requester| api::apply_blocking(requester, file))
    };
    let error = apply(&mut site).unwrap_err().to_string();
    assert!(
        error.starts_with("tunnel a: ") && error.contains(&wg),
        "{error}"
    );
    assert_eq!(
        site.engine.desired.file().tunnels[0].uapi,
        config::Uapi::Off
    );
    // The core itself doesn't look at what is there.
    let applied = site.apply(file()).unwrap();
    assert_eq!((applied.changes.len(), applied.failures.len()), (1, 1));
    // A name that was asked for before hinders no other change.
    let applied = apply(&mut site).unwrap();
    assert_eq!((applied.changes.len(), applied.failures.len()), (0, 1));
    drop(taken);
    assert!(apply(&mut site).unwrap().failures.is_empty());
    assert_eq!(site.wg(), (true, None));
}

#[test]
fn a_start_is_refused_if_somebody_has_the_name() {
    let ([port], wg) = (free_ports(), unique('s'));
    let Some(_taken) = other(&wg) else {
        return;
    };
    let (requester, _requests) = api::channel().unwrap();
    let file = config("a", &format!("uapi: {wg}, "), port);
    let started = Engine::start(file, None, requester, None);
    let error = started.err().unwrap().to_string();
    assert!(error.contains(&wg), "{error}");
}
