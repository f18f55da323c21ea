//! Tunnels that come, go and change: real sockets, and what a file says after `wg`.

use super::*;

#[test]
fn tunnels_that_take_vacant_places_answer() {
    let [a, b, c, d, e] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b), ("c", c)], ""));
    assert!(site.answers("a", a) && site.answers("b", b) && site.answers("c", c));
    site.apply(tunnels(&[("c", c)], "")).unwrap();
    assert!(!site.answers("a", a));
    site.apply(tunnels(&[("c", c), ("d", d), ("e", e)], ""))
        .unwrap();
    for (tunnel, port) in [("c", c), ("d", d), ("e", e)] {
        assert!(site.answers(tunnel, port), "{tunnel}");
    }
}

#[test]
fn two_tunnels_are_added_and_removed_in_one_plan() {
    let [a, b, c, d] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b)], ""));
    let lines = site.lines(tunnels(&[("c", c), ("d", d)], ""));
    let tunnels: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("tunnel"))
        .collect();
    assert_eq!(
        tunnels,
        [
            "tunnel c added",
            "tunnel d added",
            "tunnel a removed",
            "tunnel b removed"
        ]
    );
    assert!(site.answers("c", c) && site.answers("d", d));
    assert!(!site.answers("a", a) && !site.answers("b", b));
}

#[test]
fn two_tunnels_swap_their_ports() {
    let [one, two, three] = free_ports();
    let mut site = Site::start(tunnels(&[("a", one), ("b", two)], ""));
    site.apply(tunnels(&[("a", two), ("b", one)], "")).unwrap();
    assert!(site.answers("a", two) && site.answers("b", one));
    // In a ring, with one that is new.
    site.apply(tunnels(&[("a", one), ("b", three), ("c", two)], ""))
        .unwrap();
    assert!(site.answers("a", one) && site.answers("b", three) && site.answers("c", two));
}

#[test]
fn a_tunnel_is_renamed() {
    let [port] = free_ports();
    let mut site = Site::start(tunnels(&[("a", port)], ""));
    let lines = site.lines(tunnels(&[("b", port)], ""));
    assert_eq!(
        lines,
        ["tunnel b added", "peer b/far added", "tunnel a removed"]
    );
    assert!(site.answers("b", port));
}

#[test]
fn a_plan_whose_port_is_taken_changes_nothing() {
    let [a, b, c] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a)], ""));
    let taken = std::net::UdpSocket::bind(("127.0.0.1", c)).unwrap();
    let error = site.apply(tunnels(&[("b", b), ("c", c)], "")).unwrap_err();
    assert!(
        error.to_string().contains(&format!("UDP port {c}")),
        "{error}"
    );
    assert!(site.answers("a", a));
    drop(taken);
    site.apply(tunnels(&[("b", b), ("c", c)], "")).unwrap();
    assert!(site.answers("b", b) && site.answers("c", c));
}

#[test]
fn what_is_fixed_needs_a_restart() {
    let [a] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a)], ""));
    let mut new = tunnels(&[("a", a)], "");
    new.cores.workers.push(config::WorkerCore { cpu: None });
    new.cores.poll = config::Poll::Busy;
    // Nothing has read the rest of it yet.
    (new.memory.mtu_max, new.memory.megabytes) = (Some(9000), 77);
    let expected = [
        "cores.workers: 1 → 2",
        "cores.poll: adaptive → busy",
        "memory.mtu_max: none → 9000",
    ];
    let expected = expected.map(str::to_owned).to_vec();
    assert_eq!(
        site.apply(new).unwrap_err(),
        ApplyError::NeedsRestart(expected)
    );
    assert!(site.answers("a", a));
    let mut new = tunnels(&[("a", a)], "");
    new.memory.megabytes = 77;
    assert_eq!(site.lines(new).len(), 1);
}

#[test]
fn an_endpoint_of_wgs_does_not_survive_the_file() {
    let [a] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a)], ""));
    let far = key("far").public_key();
    let endpoint = Change::Endpoint("127.0.0.1:9".parse().unwrap());
    site.set("a", &[Change::Peer(far), endpoint]);
    let known = |site: &mut Site| {
        let report = report(&mut site.engine);
        (report.peers[0].endpoint, report.peers[0].drift.clone())
    };
    assert_eq!(
        known(&mut site),
        (
            Some("127.0.0.1:9".parse().unwrap()),
            vec!["endpoint".to_owned()]
        )
    );
    let lines = site.lines(tunnels(&[("a", a)], ""));
    assert_eq!(lines, ["peer a/far changed (endpoint: 127.0.0.1:9 → none)"]);
    assert_eq!(known(&mut site), (None, Vec::new()));
    let place = site.engine.peer_place(&name("a"), &far).unwrap();
    let now = clock::now().monotonic;
    site.engine.rebuild_paths(now);
    assert_eq!(
        site.engine.peers.get(place).unwrap().cell.path().as_deref(),
        None
    );
}

#[test]
fn a_peer_of_one_tunnel_is_not_anothers() {
    let [a, b] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b)], ""));
    let far = key("far").public_key();
    let endpoint = Change::Endpoint("127.0.0.1:9".parse().unwrap());
    site.set("a", &[Change::Peer(far), endpoint]);
    site.set("b", &[Change::Peer(far), Change::Remove]);
    let peers = report(&mut site.engine).peers;
    assert_eq!(peers.len(), 1);
    assert_eq!(
        (peers[0].tunnel.as_str(), peers[0].endpoint),
        ("a", Some("127.0.0.1:9".parse().unwrap()))
    );
}

#[test]
fn wg_moves_a_tunnel_to_another_port_or_nothing() {
    let [a, b, c] = free_ports();
    let mut site = Site::start(tunnels(&[("a", a), ("b", b)], ""));
    assert!(matches!(
        site.set("a", &[Change::ListenPort(b)]),
        Answer::Refused(Errno::ADDRINUSE)
    ));
    assert!(site.answers("a", a));
    assert!(matches!(
        site.set("a", &[Change::ListenPort(c)]),
        Answer::Done
    ));
    assert!(site.answers("a", c) && site.answers("b", b));
    let report = report(&mut site.engine);
    assert_eq!(
        report.tunnels[0].drift,
        [format!("listen_port (file: {a})")]
    );
    // The file's port is free again, and the file takes it back.
    site.apply(tunnels(&[("a", a), ("b", b)], "")).unwrap();
    assert!(site.answers("a", a));
}
