//! Forged answers, sessions and routers on the link of a DPDK uplink: what it waits for is heard all the same.
//!
//! ```text
//!   near: Culvert ── wan0 ═══ p0 ── br0 of mid ── p1 ═══ wan0 ── Culvert :far
//!         192.0.2.7               │                      192.0.2.2
//!         2001:db8::7             └── flood0 (tap): the forger     2001:db8::2
//! ```
//!
//! Where routers are forged, far is radvd in place of a Culvert, and near has its addresses from there.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, TunFlags, Veth, eventually, make_tun,
};
use serde_json::{Value, json};

use super::overload_kinds::{checksum, ethernet, mac_of};

const PATIENCE: Duration = Duration::from_secs(40);
/// Some times what it takes to ask whether a neighbor is still there, and to give it up.
const SIEGE: Duration = Duration::from_secs(15);
/// Of each kind, so often: a rate that refills is never full when the truth comes.
const AT_ONCE: usize = 2;
const EVERY: Duration = Duration::from_micros(100);

fn yaml(keys: &Keys, peer: &Keys, [own, other]: [u8; 2]) -> String {
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         uplinks:\n  wan:\n    driver: dpdk\n    device: \"net_af_packet0,iface=wan0\"\n    \
         addresses: [192.0.2.{own}/24, \"2001:db8::{own}/64\"]\n    \
         bfd: {{ peer: 192.0.2.{other}, interval: 300ms }}\n\
         tunnels:\n  wg0:\n    uplink: wan\n    listen_port: 51820\n    uapi: off\n    private_key_file: {key}\n    \
         peers:\n      v6: {{ public_key: \"{peer}\", allowed_ips: [10.9.0.0/24], persistent_keepalive: 5, \
         endpoint: \"[2001:db8::{other}]:51820\" }}\n\
         networks: {{ n: {{ tunnel: wg0, gateway: 10.{own}.0.1/24 }} }}\nports: {{}}\n",
        key = keys.private_file.display(),
        peer = peer.public,
    )
}

/// Joins a namespace to the bridge by a cable whose end there is `port`.
fn plug(mid: &Namespace, side: &Namespace, port: &str) -> Result<Veth> {
    let cable = Veth::join(side, mid)?;
    for words in [
        "link set wan0 down".to_owned(),
        format!("link set wan0 name {port}"),
        format!("link set {port} master br0"),
        format!("link set {port} up"),
    ] {
        mid.ip(&words)?;
    }
    Ok(cable)
}

/// What says that 192.0.2.2 and 2001:db8::2 are somewhere else, and that 192.0.2.2's session is down.
fn lies(victim: [u8; 6]) -> [Vec<u8>; 3] {
    let thief = [2, 0, 0, 0, 9, 9];
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 2];
    arp.extend(thief);
    arp.extend([192, 0, 2, 2]);
    arp.extend(victim);
    arp.extend([192, 0, 2, 7]);

    let address = |host| [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host];
    // Solicited, and to be believed.
    let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
    message.extend(address(2));
    message.extend([2, 1]);
    message.extend(thief);
    let pseudo = [
        &address(2)[..],
        &address(7),
        &[0, 0, 0, 32, 0, 0, 0, 58],
        &message,
    ]
    .concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, 32, 58, 255];
    let advertisement = [&header[..], &address(2), &address(7), &message].concat();

    let mut bfd = vec![0xc3, 0x50, 0x0e, 0xc8, 0, 32, 0, 0];
    // Version 1, down, names no session.
    bfd.extend([0x20, 0x40, 3, 24, 9, 9, 9, 9, 0, 0, 0, 0]);
    bfd.extend([0, 4, 0x93, 0xe0, 0, 4, 0x93, 0xe0, 0, 0, 0, 0]);
    let mut packet = vec![0x45, 0, 0, 52, 0, 0, 0, 0, 255, 17, 0, 0];
    packet.extend([192, 0, 2, 2, 192, 0, 2, 7]);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(bfd);
    [
        ethernet(victim, [8, 6], &arp),
        ethernet(victim, [0x86, 0xdd], &advertisement),
        ethernet(victim, [8, 0], &packet),
    ]
}

/// Sends what `lies` has for each turn, while all `holds`.
fn besiege(
    mut tap: &File,
    lies: impl Fn(u32) -> Vec<Vec<u8>> + Sync,
    holds: impl Fn() -> Result<()>,
) -> Result<u64> {
    let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                for lie in lies(turn) {
                    sent.fetch_add(tap.write(&lie).is_ok().into(), Ordering::Relaxed);
                }
                std::thread::sleep(EVERY);
            }
        });
        let end = Instant::now() + SIEGE;
        let mut held = Ok(());
        while held.is_ok() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(200));
            held = holds();
        }
        stop.store(true, Ordering::Relaxed);
        held
    })?;
    Ok(sent.load(Ordering::Relaxed))
}

/// The three of them, far's cable, the forger's end of his tap.
fn lay() -> Result<([Namespace; 3], Veth, File)> {
    let [near, mid, far] = ["near", "mid", "far"].map(Namespace::make);
    let (near, mid, far) = (near?, mid?, far?);
    mid.ip("link add br0 type bridge")?;
    mid.ip("link set br0 up")?;
    plug(&mid, &near, "p0")?;
    let cable = plug(&mid, &far, "p1")?;
    let tap = TunFlags {
        tap: true,
        vnet: false,
    };
    let flood = File::from(make_tun(&mid, "flood0", tap)?);
    mid.ip("link set flood0 master br0")?;
    mid.ip("link set flood0 up")?;
    Ok(([near, mid, far], cable, flood))
}

#[test]
fn who_forges_thousands_of_answers_takes_no_neighbor_and_ends_no_session() -> Result<()> {
    let name = "who_forges_thousands_of_answers_takes_no_neighbor_and_ends_no_session";
    Scenario::run(name, &[Part::Root], |scenario| {
        let ([near, _mid, far], _, flood) = lay()?;
        let keys = [
            Keys::generate(scenario, "near")?,
            Keys::generate(scenario, "far")?,
        ];
        let mut culvert = Culvert::start(
            scenario,
            "near",
            Some(&near),
            &yaml(&keys[0], &keys[1], [7, 2]),
        )?;
        let _other = Culvert::start(
            scenario,
            "far",
            Some(&far),
            &yaml(&keys[1], &keys[0], [2, 7]),
        )?;
        let truth = mac_of(&far)?.map(|byte| format!("{byte:02x}")).join(":");
        let stands = || -> Result<Vec<String>> {
            let show = culvert.show()?;
            let neighbors = show["neighbors"].as_array().into_iter().flatten();
            let known = neighbors.filter(|it| it["mac"] == truth.as_str());
            let known = known.filter_map(|it| it["address"].as_str().map(str::to_owned));
            let bfd = show["uplinks"][0]["bfd"].as_str().unwrap_or_default();
            Ok(known.chain([bfd.to_owned()]).collect())
        };
        let wanted = ["192.0.2.2", "2001:db8::2", "up"];
        eventually("both neighbors and a session", PATIENCE, || {
            let stands = stands()?;
            Ok(wanted
                .iter()
                .all(|it| stands.iter().any(|is| is == it))
                .then_some(()))
        })?;

        let lies = lies(mac_of(&near)?);
        let twice = |_| {
            lies.iter()
                .flat_map(|lie| vec![lie.clone(); AT_ONCE])
                .collect()
        };
        let sent = besiege(&flood, twice, || {
            let stands = stands()?;
            let lost = wanted.iter().find(|it| !stands.iter().any(|is| is == *it));
            ensure!(lost.is_none(), "{lost:?} is lost: {stands:?}");
            Ok(())
        })?;
        let drops = culvert.drops()?;
        scenario.say(format!("{sent} lies: {drops:?}"));
        for lost in ["neighbor-queue-full", "host-queue-full"] {
            ensure!(drops.get(lost).is_some_and(|&n| n > 0), "{lost}: {drops:?}");
        }
        for none in [
            "neighbor-awaited-queue-full",
            "liveness-queue-full",
            "liveness-unnamed-queue-full",
        ] {
            ensure!(!drops.contains_key(none), "{none}: {drops:?}");
        }
        let log = culvert.process().log();
        ensure!(!log.contains("the BFD session is down"), "{log}");
        culvert.process().must_run()
    })
}

/// What `router` says from one hardware address to another: for how long it is one, a prefix, an MTU, a server of names.
fn advertisement(
    (from, to): ([u8; 6], [u8; 6]),
    router: Ipv6Addr,
    lifetime: u16,
    prefix: [u8; 6],
) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![134, 0, 0, 0, 64, 8];
    message.extend(lifetime.to_be_bytes());
    message.extend([0; 8]);
    message.extend([3, 4, 64, 0xc0, 0, 0, 0, 60, 0, 0, 0, 60, 0, 0, 0, 0]);
    message.extend(prefix);
    message.extend([0; 10]);
    message.extend([5, 1, 0, 0, 0, 0, 5, 0]);
    message.extend([25, 3, 0, 0, 0, 0, 0, 60]);
    message.extend(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x53).octets());
    let len = u16::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let ends = [router.octets(), all_nodes.octets()].concat();
    let pseudo = [&ends, &[0, 0][..], &len, &[0, 0, 0, 58], &message].concat();
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [0x60, 0, 0, 0, len[0], len[1], 58, 255];
    let packet = [&header[..], &ends, &message].concat();
    let mut frame = ethernet(to, [0x86, 0xdd], &packet);
    frame[6..12].copy_from_slice(&from);
    frame
}

/// In each turn the router is none any more, has other prefixes, and there are two others. Whom they are not for, the true
/// router among them, is not flooded.
fn false_routers(victim: [u8; 6], router: Ipv6Addr, turn: u32) -> Vec<Vec<u8>> {
    let [a, b, c, d] = turn.to_be_bytes();
    let thief = [2, 0, 0, 0, 9, 9];
    let changing = [2, 1, a, b, c, d];
    let prefix = [0x20, 1, 0xd, 0xb8, c, d];
    let other = Ipv6Addr::from_bits(router.to_bits() & !0xffff_ffff | u128::from(turn));
    let says = |mac, router, lifetime| advertisement((mac, victim), router, lifetime, prefix);
    vec![
        says(thief, router, 0),
        says(changing, router, 1_800),
        says(thief, other, 1_800),
        says(changing, other, 1_800),
    ]
}

#[test]
fn who_forges_thousands_of_routers_ends_none_and_changes_nothing_of_it() -> Result<()> {
    let name = "who_forges_thousands_of_routers_ends_none_and_changes_nothing_of_it";
    Scenario::run(name, &[Part::Root, Part::AddressServers], |scenario| {
        let ([near, _mid, far], cable, flood) = lay()?;
        cable.address(&far, "2001:db8:7::1/64")?;
        far.sysctl("net.ipv6.conf.all.forwarding=1")?;
        let config = scenario.path("radvd.conf");
        // What is not said again is over before the siege is.
        fs::write(
            &config,
            "interface wan0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; AdvDefaultLifetime 9; AdvLinkMTU 1400;\n\
             prefix 2001:db8:7::/64 { AdvValidLifetime 12; AdvPreferredLifetime 12; };\n\
             RDNSS 2001:db8:7::53 { AdvRDNSSLifetime 9; }; };\n",
        )?;
        let mut command = far.program("radvd");
        command.args(["-n", "-m", "stderr", "-d", "2", "-C"]);
        command
            .arg(&config)
            .arg("-p")
            .arg(scenario.path("radvd.pid"));
        let mut radvd = Process::start("radvd", scenario.scratch(), command)?;
        let mut culvert = Culvert::start(
            scenario,
            "near",
            Some(&near),
            "version: 1\ncores: { workers: 1 }\nmemory: { hugepages: off, megabytes: 128 }\n\
             uplinks: { wan: { driver: dpdk, device: \"net_af_packet0,iface=wan0\", accept_ra: true } }\n\
             networks: {}\n",
        )?;
        let learned = || -> Result<Value> {
            let learned = culvert.show()?["uplinks"][0]["learned"].clone();
            let what = ["addresses", "routes", "mtu", "dns"];
            Ok(what.map(|it| learned[it].clone()).into())
        };
        let known = eventually("a router", PATIENCE, || {
            let learned = learned()?;
            Ok((learned[2] == 1400).then_some(learned))
        })?;
        let via = known[1][0]["via"].as_str().unwrap_or_default();
        let router: Ipv6Addr = via.parse()?;
        ensure!(known[3] == json!(["2001:db8:7::53"]), "{known}");
        let victim = mac_of(&near)?;
        let sent = besiege(
            &flood,
            |turn| false_routers(victim, router, turn),
            || {
                let learned = learned()?;
                ensure!(learned == known, "{learned} in place of {known}");
                Ok(())
            },
        )?;
        let drops = culvert.drops()?;
        scenario.say(format!("{sent} lies: {drops:?}"));
        for lost in ["router-unknown-queue-full", "host-advertised-doubtful"] {
            ensure!(drops.get(lost).is_some_and(|&n| n > 0), "{lost}: {drops:?}");
        }
        ensure!(!drops.contains_key("router-queue-full"), "{drops:?}");
        radvd.must_run()?;
        culvert.process().must_run()
    })
}
