//! Ports that are opened, moved, given back and tried again.

use culvert_dataplane::shared::snapshot::{Attachment, Port};
use culvert_wire::ether::VlanId;

use super::*;

/// Ports of one network, with what more is said of each.
fn ports(ports: &[(&str, &str)]) -> Config {
    let mut text = "networks: {blue: {gateway: [10.0.1.1/24]}}\nports:\n".to_owned();
    for (number, (name, rest)) in ports.iter().enumerate() {
        text += &format!(
            "  {name}: {{network: blue, mac: \"52:54:00:00:00:0{number}\", addresses: [10.0.1.{}]{rest}}}\n",
            number + 5
        );
    }
    parse(&text)
}

#[test]
fn what_a_guest_came_to_own_stays_behind_in_its_network() {
    let networks = "networks: {one: {gateway: [\"fd01::1/64\"]}, two: {gateway: [\"fd02::1/64\"]}}";
    let with = |network: &str, address: &str| {
        let port = format!("network: {network}, mac: \"52:54:00:00:00:01\"");
        let address = format!("addresses: [\"{address}\"]");
        parse(&format!(
            "{networks}\nports: {{vm: {{{port}, {address}}}}}\n"
        ))
    };
    let mut site = Site::start(with("one", "fd01::5"));
    let mut owned = Vec::new();
    for (network, address) in [("one", "fd01::6"), ("two", "fd02::5"), ("one", "fd01::6")] {
        site.apply(with(network, address)).unwrap();
        let snapshot = site.engine.snapshots.load_full();
        let attachment = snapshot.attachments.get(0).unwrap();
        owned.push(Arc::clone(&attachment.link_locals));
        let networks = snapshot.networks.iter();
        let heard: Vec<_> = networks
            .map(|(_, n)| (n.name == network, n.listeners))
            .collect();
        assert!(
            heard
                .iter()
                .all(|&(here, listeners)| listeners == usize::from(here))
        );
    }
    // Nor does it come back: another may have come to own it meanwhile.
    for [a, b] in [[0, 1], [1, 2], [0, 2]] {
        assert!(!Arc::ptr_eq(&owned[a], &owned[b]), "{a} {b}");
    }
    // Within its network it stays.
    site.apply(with("one", "fd01::7")).unwrap();
    let snapshot = site.engine.snapshots.load_full();
    let attachment = snapshot.attachments.get(0).unwrap();
    assert!(Arc::ptr_eq(&owned[2], &attachment.link_locals));
}

#[test]
fn a_vlan_comes_and_goes_and_rings_and_other_vlans_hear_nothing() {
    let with = |keys: &str| {
        let networks = ["one", "two", "six"].map(|it| format!("{it}: {{gateway: [10.0.1.1/24]}}"));
        parse(&format!(
            "networks: {{{}}}\nports: {{fw: {{mac: \"52:54:00:00:00:01\", {keys}}}}}\n",
            networks.join(", ")
        ))
    };
    let one = "network: one, addresses: [10.0.1.5]";
    let two = "10: {network: two, addresses: [10.0.1.6]}";
    let six = "20: {network: six, addresses: [10.0.1.7], guard: mac, dhcp: false}";
    let mut site = Site::start(with(&format!("{one}, vlans: {{{two}}}")));
    let seen = |site: &Site| {
        let snapshot = site.engine.snapshots.load_full();
        let port = Arc::clone(snapshot.ports.get(0).unwrap());
        let attached = port
            .attachments()
            .map(|at| Arc::clone(snapshot.attachment(at).unwrap()));
        let attached: Vec<_> = attached.collect();
        (port, attached)
    };
    let vlans = |it: &[Arc<Attachment>]| -> Vec<_> {
        it.iter()
            .map(|it| it.vlan.map_or(0, VlanId::number))
            .collect()
    };
    let (port, before) = seen(&site);
    assert_eq!(vlans(&before), [0, 10]);
    assert_eq!(
        site.lines(with(&format!("{one}, vlans: {{{six}, {two}}}"))),
        [
            "port fw changed (vlans: [10: two [10.0.1.6]] → [10: two [10.0.1.6], 20: six [10.0.1.7] guard mac no dhcp])"
        ]
    );
    let (now, after) = seen(&site);
    assert_eq!(vlans(&after), [0, 10, 20]);
    let rings = |port: &Port| Arc::as_ptr(port.guest.vhost().unwrap());
    assert_eq!(rings(&now), rings(&port));
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.index, before.network), (after.index, after.network));
        assert!(Arc::ptr_eq(&before.link_locals, &after.link_locals));
    }
    // Without a network for frames without a tag.
    site.apply(with(&format!("vlans: {{{six}, {two}}}")))
        .unwrap();
    let (now, last) = seen(&site);
    assert_eq!((vlans(&last), now.attachment), (vec![10, 20], None));
    assert_eq!((rings(&now), last[1].index), (rings(&port), after[2].index));
    // What it may ask and be told is the port's, in however many VLANs.
    for it in after.iter().chain(&last) {
        assert!(Arc::ptr_eq(&it.errors, &before[0].errors));
        assert!(Arc::ptr_eq(&it.questions, &before[0].questions));
    }
    let snapshot = site.engine.snapshots.load_full();
    let members: Vec<_> = snapshot
        .networks
        .iter()
        .map(|(_, it)| it.macs.len())
        .collect();
    assert_eq!(members, [0, 1, 1]);
    let told = &report(&mut site.engine).ports[0];
    assert_eq!((told.network.as_str(), told.vlans.len()), ("", 2));
}

#[test]
fn a_port_with_an_unknown_group_stays_as_it_is() {
    let mut site = Site::start(ports(&[("vm1", ""), ("vm2", "")]));
    let grouped = || ports(&[("vm1", ", socket_group: no-such-group"), ("vm2", "")]);
    for _ in 0..2 {
        // It is refused each time, and never "nothing changed".
        let error = site.apply(grouped()).unwrap_err().to_string();
        assert!(
            error.contains("no-such-group") && error.contains("groupadd"),
            "{error}"
        );
        assert!(site.is_open("vm1") && site.is_open("vm2"));
    }
    let lines = site.lines(ports(&[("vm1", ", socket_group: 0"), ("vm2", "")]));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("port vm1 reopened (driver: "),
        "{lines:?}"
    );
    assert!(site.is_open("vm1"));
}

#[test]
fn a_port_that_fails_late_gives_the_socket_back() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    let taker = || ports(&[("vm2", ", socket: vm1.sock")]);
    // Its rings' file can't be made, which nobody looks at ahead.
    let rings = site.run_dir.path().join("vm2.rings");
    fs::create_dir(&rings).unwrap();
    let error = site.apply(taker()).unwrap_err().to_string();
    assert!(error.contains("vm2"), "{error}");
    assert!(site.is_open("vm1"));
    let report = report(&mut site.engine);
    assert_eq!(
        (report.ports.len(), report.ports[0].name.as_str()),
        (1, "vm1")
    );
    assert_eq!(report.ports[0].hindrance, None);
    fs::remove_dir(&rings).unwrap();
    assert_eq!(site.lines(taker()), ["port vm2 added", "port vm1 removed"]);
    assert!(site.is_open("vm1"));
}

#[test]
fn a_port_that_can_not_come_back_is_told_and_tried_again() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    let rings = |port: &str| site.run_dir.path().join(format!("{port}.rings"));
    let (vm1, vm2) = (rings("vm1"), rings("vm2"));
    let _ = fs::remove_file(&vm1);
    fs::create_dir(&vm1).unwrap();
    fs::create_dir(&vm2).unwrap();
    let error = site
        .apply(ports(&[("vm2", ", socket: vm1.sock")]))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("port vm1 is down and tried again"),
        "{error}"
    );
    let problem = |site: &mut Site| report(&mut site.engine).ports[0].hindrance.clone();
    assert!(problem(&mut site).is_some());
    site.engine.retry_ports();
    assert!(problem(&mut site).is_some() && !site.is_open("vm1"));
    fs::remove_dir(&vm1).unwrap();
    site.engine.retry_ports();
    assert!(problem(&mut site).is_none() && site.is_open("vm1"));
}

#[test]
fn a_port_that_is_down_is_opened_by_the_same_file() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    let rings = |port: &str| site.run_dir.path().join(format!("{port}.rings"));
    let (vm1, vm2) = (rings("vm1"), rings("vm2"));
    let _ = fs::remove_file(&vm1);
    fs::create_dir(&vm1).unwrap();
    fs::create_dir(&vm2).unwrap();
    site.apply(ports(&[("vm2", ", socket: vm1.sock")]))
        .unwrap_err();
    let applied = site.apply(ports(&[("vm1", "")])).unwrap();
    assert!(applied.changes.is_empty(), "{applied:?}");
    assert!(
        applied.failures.len() == 1 && applied.failures[0].contains("port vm1"),
        "{applied:?}"
    );
    // Another's change is carried out meanwhile, and so is its own that its opening does not depend on.
    let added = "port vm3 added";
    let both = |rest| ports(&[("vm1", rest), ("vm3", "")]);
    let applied = site.apply(both("")).unwrap();
    assert_eq!(
        (applied.changes, applied.failures.len()),
        (vec![added.into()], 1)
    );
    assert!(site.is_open("vm3") && !site.is_open("vm1"));
    let applied = site.apply(both(", guard: off")).unwrap();
    assert_eq!((applied.changes.len(), applied.failures.len()), (1, 1));
    // But what is asked for newly and can't be had is refused.
    let error = site.apply(both(", queues: 2")).unwrap_err().to_string();
    assert!(error.contains("port vm1"), "{error}");
    assert_eq!(site.engine.down.len(), 1);
    let native = site.engine.down[0].config.native().unwrap();
    assert!(native.guard == config::Guard::Off);
    fs::remove_dir(&vm1).unwrap();
    let lines = site.lines(both(", guard: off"));
    assert_eq!(lines, ["port vm1 reopened"]);
    assert!(site.is_open("vm1") && site.engine.down.is_empty());
}

#[test]
fn two_ports_swap_their_sockets() {
    let mut site = Site::start(ports(&[("vm1", ""), ("vm2", "")]));
    let swapped = ports(&[("vm1", ", socket: vm2.sock"), ("vm2", ", socket: vm1.sock")]);
    site.apply(swapped).unwrap();
    assert!(site.is_open("vm1") && site.is_open("vm2"));
    let sockets: Vec<_> = report(&mut site.engine)
        .ports
        .into_iter()
        .map(|port| port.socket)
        .collect();
    assert!(sockets[0].ends_with("vm2.sock") && sockets[1].ends_with("vm1.sock"));
}

#[test]
fn a_change_that_does_not_reach_a_moved_interface_is_refused() {
    let interface = format!("cvm{}", std::process::id() % 1_000_000);
    let config = |mtu: u16| {
        let mut config = ports(&[("vm1", &format!(", driver: tap, interface: {interface}"))]);
        config.ports[0].mtu = mtu;
        config
    };
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut site = Site::start(config(1500));
    let (_, port) = site.engine.ports.iter_mut().next().unwrap();
    port.interface.as_mut().unwrap().moved = true;
    let error = site.apply(config(1400)).unwrap_err().to_string();
    assert!(
        error.contains("another network namespace") && !error.contains(';'),
        "{error}"
    );
}

#[test]
fn files_of_rings_go_with_their_ports() {
    let mut site = Site::start(ports(&[("vm1", ""), ("vm2", "")]));
    let folder = site.run_dir.path().to_owned();
    let rings = || {
        let names = fs::read_dir(&folder).unwrap().flatten();
        let names = names.map(|it| it.file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|it| it.ends_with(".rings")).collect();
        names.sort();
        names
    };
    assert_eq!(rings(), ["vm1.rings", "vm2.rings"]);
    // What an earlier process left.
    fs::write(folder.join("old.rings"), "").unwrap();
    site.engine.sweep_left();
    assert_eq!(rings(), ["vm1.rings", "vm2.rings"]);
    // A refused change leaves none, neither of the port that opened nor of the other; what was there stays.
    let refused = ", socket: none/such.sock";
    site.apply(ports(&[
        ("vm1", ""),
        ("vm2", refused),
        ("vm3", ""),
        ("vm4", ", socket: none/other.sock"),
    ]))
    .unwrap_err();
    assert_eq!(rings(), ["vm1.rings", "vm2.rings"]);
    site.apply(ports(&[("vm1", "")])).unwrap();
    assert_eq!(rings(), ["vm1.rings"]);
    // A VMM that is there may come back with its rings.
    let connect = |site: &mut Site| site.engine.ports.iter_mut().next().unwrap().1.connected = true;
    connect(&mut site);
    site.apply(ports(&[])).unwrap();
    assert_eq!(rings(), ["vm1.rings"]);
    let later = |hours: u64| clock::now().monotonic + Duration::from_secs(hours * 3600 + 1);
    site.engine.forget_rings(later(0));
    assert_eq!(rings(), ["vm1.rings"]);
    site.apply(ports(&[("vm1", "")])).unwrap();
    site.engine.forget_rings(later(1));
    assert_eq!(rings(), ["vm1.rings"], "the port is there again");
    connect(&mut site);
    site.apply(ports(&[])).unwrap();
    site.engine.forget_rings(later(1));
    assert_eq!(rings(), [] as [&str; 0]);
}

#[test]
fn no_path_takes_what_is_the_run_directorys_own() {
    let mut site = Site::start(ports(&[("vm1", "")]));
    for name in ["endpoints.json", "api-read.sock", "state/vm1.sock"] {
        let path = site.run_dir.path().join(name);
        let socket = format!(", socket: {}", path.display());
        let error = site.apply(ports(&[("vm1", &socket)])).unwrap_err();
        assert!(
            error.to_string().contains("taken in the run directory"),
            "{error}"
        );
    }
    let path = site.run_dir.path().join("other.sock");
    let socket = format!(", socket: {}", path.display());
    site.apply(ports(&[("vm1", &socket)])).unwrap();
}
