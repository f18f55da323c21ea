//! Guests that come up by themselves: stock clients behind tap ports.
//!
//! ```text
//!   :p1  t1 ──┐
//!   :p2  t2 ──┤ network blue, gateway 10.1.1.1 fd00:1::1 ── culvert :hv
//!   ...  tN ──┘
//! ```
//!
//! Each tap is moved into a namespace of its own, which leaves it without addresses, down and with another MTU: there a
//! client finds it as it finds a virtual machine's NIC. Clients run with a copy of /etc of their own, so that their stock
//! scripts write no file of the machine's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{Culvert, Namespace, Part, Process, Scenario, bounded, eventually, ping, run};

/// A client's patience: duplicate detection, and a first question that was lost while the link came up.
const UP: Duration = Duration::from_secs(60);
const COMMAND: Duration = Duration::from_secs(20);

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::Dhcp];

/// A switch whose guests are in namespaces.
struct Site {
    culvert: Culvert,
    yaml: String,
    guests: Vec<Namespace>,
    _hypervisor: Namespace,
}

impl Site {
    /// `keys` are the network's, `of_port(n)` those of port `n` beside its addresses.
    fn start(
        scenario: &Scenario,
        guests: u8,
        keys: &str,
        of_port: impl Fn(u8) -> &'static str,
    ) -> Result<Self> {
        let hypervisor = Namespace::make("hv")?;
        let ports: String = (1..=guests)
            .map(|n| {
                let more = of_port(n);
                format!("  t{n}: {{ driver: tap, network: blue, mac: \"52:54:00:00:00:0{n}\", addresses: [10.1.1.1{n}, \"fd00:1::1{n}\"]{more} }}\n")
            })
            .collect();
        let yaml = format!(
            "version: 1\nnode: hv\ncores: {{ workers: 2 }}\nnetworks:\n  blue:\n    gateway: [10.1.1.1/24, \"fd00:1::1/64\"]\n{keys}ports:\n{ports}"
        );
        let culvert = Culvert::start(scenario, "culvert", Some(&hypervisor), &yaml)?;
        let mut namespaces = Vec::new();
        for n in 1..=guests {
            let guest = Namespace::make(&format!("p{n}"))?;
            hypervisor.ip(&format!("link set t{n} netns {}", guest.name()))?;
            guest.ip(&format!("link set t{n} mtu 1500"))?;
            namespaces.push(guest);
        }
        Ok(Self {
            culvert,
            yaml,
            guests: namespaces,
            _hypervisor: hypervisor,
        })
    }

    /// Drops of a port by name, as `show` tells them.
    fn drops(&self, port: &str) -> Result<String> {
        let show = self.culvert.show()?;
        let ports = show["ports"].as_array().context("ports")?;
        let port = ports.iter().find(|it| it["name"] == port);
        Ok(port.context("the port")?["drops"].to_string())
    }
}

/// Starts a client in a mount namespace of its own, with a copy of /etc and empty folders where clients keep what they have,
/// and in a process namespace, which takes its helpers along when it ends.
pub(super) fn client(
    scenario: &Scenario,
    guest: &Namespace,
    name: &str,
    words: &str,
) -> Result<Process> {
    let etc = etc_of(scenario, name)?;
    let script = format!(
        "mount --make-rprivate / && mount --bind {} /etc && mount -t tmpfs none /run \
         && mkdir -p /var/lib/dhcpcd /var/lib/dhcp && mount -t tmpfs none /var/lib/dhcpcd && mount -t tmpfs none /var/lib/dhcp \
         && {words}; exit $?",
        etc.display()
    );
    let mut command = guest.program("unshare");
    command.args([
        "--uts",
        "--mount",
        "--pid",
        "--mount-proc",
        "--fork",
        "--kill-child",
    ]);
    command.args(["sh", "-c", &script]);
    Process::start(name, scenario.scratch(), command)
}

fn etc_of(scenario: &Scenario, name: &str) -> Result<PathBuf> {
    let etc = scenario.path(&format!("{name}.etc"));
    if !etc.exists() {
        fs::create_dir_all(&etc)?;
        run(Command::new("cp").args(["-a", "/etc/."]).arg(&etc), COMMAND)?;
        let _ = fs::remove_file(etc.join("resolv.conf"));
        fs::write(etc.join("resolv.conf"), "")?;
    }
    Ok(etc)
}

/// Waits until `ip WORDS` in the namespace says all of `wanted`.
fn wait_ip(guest: &Namespace, words: &str, wanted: &[&str]) -> Result<()> {
    let what = format!("{wanted:?} in `ip {words}` of {}", guest.name());
    let mut last = String::new();
    eventually(&what, UP, || {
        last = guest.ip(words)?;
        Ok(wanted.iter().all(|it| last.contains(it)).then_some(()))
    })
    .with_context(|| last.clone())
}

/// Whether a guest is up as its port is configured, with both families.
fn is_up(guest: &Namespace, n: usize) -> Result<()> {
    has_v4(guest, n)?;
    let address = format!("inet6 fd00:1::1{n}/");
    wait_ip(guest, &format!("-6 addr show dev t{n}"), &[&address])?;
    wait_ip(guest, "-6 route", &["default via fe80::"])?;
    ping(guest, "fd00:1::1", 3, "")
}

pub(super) fn has_v4(guest: &Namespace, n: usize) -> Result<()> {
    let address = format!("inet 10.1.1.1{n}/24");
    wait_ip(guest, &format!("-4 addr show dev t{n}"), &[&address])?;
    wait_ip(guest, "-4 route", &["default via 10.1.1.1"])?;
    ping(guest, "10.1.1.1", 3, "")
}

const TOLD: &str = "    mtu: 1400\n    dhcp: { dns: [10.1.1.53, \"fd00:1::53\"], domain: vm.example.org }\n    routes: [{ to: 172.16.0.0/12, via: 10.1.1.14 }]\n";

/// udhcpc, isc-dhclient, dhcpcd and systemd-networkd, each with its own scripts and defaults.
#[test]
fn stock_clients_come_up_by_themselves() -> Result<()> {
    Scenario::run("stock_clients_come_up_by_themselves", &PARTS, |scenario| {
        let site = Site::start(scenario, 4, TOLD, |_| "")?;
        let [a, b, c, d] = &site.guests[..] else {
            unreachable!("four guests")
        };
        for (guest, n) in site.guests.iter().zip(1..) {
            guest.ip(&format!("link set t{n} up"))?;
        }
        // dhclient ends at once without an address to send from.
        eventually("link-local addresses", UP, || {
            let shown = b.ip("-6 addr show dev t2")?;
            let has = shown.contains("fe80::") && !shown.contains("tentative");
            Ok(has.then_some(()))
        })?;
        let udhcpc = client(
            scenario,
            a,
            "udhcpc",
            "udhcpc -f -i t1 -s /etc/udhcpc/default.script",
        )?;
        let files = |family: u8| {
            let file = |kind| scenario.path(&format!("dhclient{family}.{kind}"));
            let (leases, pid) = (file("leases"), file("pid"));
            format!("-lf {} -pf {}", leases.display(), pid.display())
        };
        let dhclient = client(
            scenario,
            b,
            "dhclient",
            &format!("dhclient -4 -d -v {} t2", files(4)),
        )?;
        let dhclient6 = client(
            scenario,
            b,
            "dhclient6",
            &format!("dhclient -6 -d -v {} t2", files(6)),
        )?;
        let dhcpcd = client(scenario, c, "dhcpcd", "dhcpcd -B -d t3")?;
        let networkd = networkd(scenario, d)?;

        has_v4(a, 1)?;
        scenario.say("udhcpc is up");
        is_up(b, 2)?;
        scenario.say("dhclient is up");
        is_up(c, 3)?;
        scenario.say("dhcpcd is up");
        is_up(d, 4)?;
        scenario.say("systemd-networkd is up");

        // What they were told beside it: the route over a guest, the MTU, names.
        for guest in [b, c] {
            wait_ip(guest, "-4 route", &["172.16.0.0/12 via 10.1.1.14"])?;
        }
        // dhcpcd has it at its routes.
        wait_ip(b, "link show t2", &["mtu 1400"])?;
        wait_ip(c, "-4 route", &["mtu 1400"])?;
        for name in ["udhcpc", "dhclient"] {
            let text = fs::read_to_string(etc_of(scenario, name)?.join("resolv.conf"))?;
            ensure!(text.contains("nameserver 10.1.1.53"), "{name}: {text}");
            ensure!(text.contains("vm.example.org"), "{name}: {text}");
        }
        // The clients are neighbors now, and none has heard another's questions: what a port was told is all it knows.
        ping(b, "10.1.1.13", 3, "")?;
        ping(c, "fd00:1::12", 3, "")?;
        ping(d, "10.1.1.11", 3, "")?;
        for port in ["t1", "t2", "t3", "t4"] {
            let drops = site.drops(port)?;
            for name in ["service-", "guard-dhcp", "guard-address"] {
                ensure!(!drops.contains(name), "{port}: {drops}");
            }
        }
        drop((udhcpc, dhclient, dhclient6, dhcpcd, networkd));
        Ok(())
    })
}

/// systemd-networkd as a container has it: without udev and without D-Bus.
fn networkd(scenario: &Scenario, guest: &Namespace) -> Result<Process> {
    let etc = etc_of(scenario, "networkd")?;
    let folder = etc.join("systemd/network");
    fs::create_dir_all(&folder)?;
    fs::write(
        folder.join("10-guest.network"),
        "[Match]\nName=t4\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n",
    )?;
    let words = "sh -c 'mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp \
         && chown -R systemd-network:systemd-network /run/systemd/netif && mount -o remount,ro /sys \
         && exec env SYSTEMD_LOG_LEVEL=debug SYSTEMD_LOG_TARGET=console /lib/systemd/systemd-networkd'";
    client(scenario, guest, "networkd", words)
}

/// A router's advertisement as rdisc6 reads it; and a guest that makes its address of it.
#[test]
fn routers_are_found_and_addresses_made() -> Result<()> {
    Scenario::run("routers_are_found_and_addresses_made", &PARTS, |scenario| {
        let site = Site::start(scenario, 1, TOLD, |_| "")?;
        let guest = &site.guests[0];
        guest.ip("link set t1 up")?;
        let said = ask_router(guest)?;
        for wanted in [
            "Stateful address conf.    :          Yes",
            "Stateful other conf.      :          Yes",
            "Router lifetime           :         1800",
            "Prefix                   : fd00:1::/64",
            "Autonomous address conf.:           No",
            "MTU                      :         1400 bytes",
            "Recursive DNS server     : fd00:1::53",
            "DNS search list          : vm.example.org",
        ] {
            ensure!(said.contains(wanted), "no {wanted:?} in\n{said}");
        }
        drop(site);

        // fd00:1:: and what is made of 52:54:00:00:00:01: not the port's other address, whose guard is lighter.
        let site = Site::start(scenario, 1, "    ra: slaac\n", |_| ", guard: mac")?;
        let guest = &site.guests[0];
        guest.ip("link set t1 up")?;
        let address = "inet6 fd00:1::5054:ff:fe00:1/64";
        wait_ip(guest, "-6 addr show dev t1", &[address])?;
        wait_ip(guest, "-6 route", &["default via fe80::"])
    })
}

/// What rdisc6 makes of the answer to its question.
fn ask_router(guest: &Namespace) -> Result<String> {
    eventually("an answer to rdisc6", UP, || {
        let mut command = guest.program("rdisc6");
        let (status, said, _) = bounded(command.args(["-1", "t1"]), COMMAND)?;
        Ok(status.success().then_some(said))
    })
}

/// A thousand exchanges a second, each answered, while another guest comes up.
#[test]
fn a_thousand_exchanges_a_second() -> Result<()> {
    Scenario::run("a_thousand_exchanges_a_second", &PARTS, |scenario| {
        let site = Site::start(scenario, 2, "", |_| "")?;
        let [busy, late] = &site.guests[..] else {
            unreachable!("two guests")
        };
        busy.ip("link set t1 up")?;
        busy.ip("addr add 10.1.1.11/24 dev t1")?;
        late.ip("link set t2 up")?;
        for family in ["-4", "-6"] {
            let mut command = busy.program("perfdhcp");
            command.args([family, "-r", "1000", "-p", "5", "-R", "1", "-l", "t1"]);
            if family == "-6" {
                command.arg("all");
            }
            let load = Process::start(&format!("perfdhcp{family}"), scenario.scratch(), command)?;
            if family == "-4" {
                let client = client(
                    scenario,
                    late,
                    "udhcpc",
                    "udhcpc -f -i t2 -s /etc/udhcpc/default.script",
                )?;
                has_v4(late, 2)?;
                drop(client);
            }
            let said = ended(load)?;
            let (sent, dropped) = exchanges(&said)?;
            scenario.say(format!("{family}: {sent} sent, {dropped} unanswered"));
            ensure!(sent > 1_000, "{said}");
            // Where the machine gives no time for it, rates are kept and the rest is lost by name.
            ensure!(dropped * 20 < sent, "{said}\n{}", site.drops("t1")?);
        }
        Ok(())
    })
}

/// A lease of another network's makes a client ask for its address after a reboot: it is refused, and gets its port's.
#[test]
fn an_address_of_elsewhere_is_refused() -> Result<()> {
    Scenario::run("an_address_of_elsewhere_is_refused", &PARTS, |scenario| {
        let site = Site::start(scenario, 1, "", |_| "")?;
        let guest = &site.guests[0];
        guest.ip("link set t1 up")?;
        let leases = scenario.path("leases");
        fs::write(
            &leases,
            "lease {\n  interface \"t1\";\n  fixed-address 10.1.1.99;\n  option subnet-mask 255.255.255.0;\n\
             option routers 10.1.1.1;\n  option dhcp-server-identifier 10.1.1.1;\n  option dhcp-lease-time 999999;\n\
             option dhcp-message-type 5;\n  renew 0 2037/01/01 00:00:00;\n  rebind 0 2037/01/01 00:00:00;\n\
             expire 0 2037/01/01 00:00:00;\n}\n",
        )?;
        let words = format!(
            "dhclient -4 -d -v -lf {} -pf {} t1",
            leases.display(),
            scenario.path("pid").display()
        );
        let dhclient = client(scenario, guest, "dhclient", &words)?;
        has_v4(guest, 1)?;
        let said = dhclient.log();
        ensure!(said.contains("DHCPREQUEST for 10.1.1.99"), "{said}");
        ensure!(said.contains("DHCPNAK from 10.1.1.1"), "{said}");
        Ok(())
    })
}

/// A guest's own server is heard once its guard allows it, by guests that have no other.
#[test]
fn a_guests_own_server() -> Result<()> {
    Scenario::run("a_guests_own_server", &PARTS, |scenario| {
        let site = Site::start(scenario, 2, "", |n| match n {
            1 => ", guard: strict",
            _ => ", dhcp: false",
        })?;
        let [server, guest] = &site.guests[..] else {
            unreachable!("two guests")
        };
        server.ip("link set t1 up")?;
        server.ip("addr add 10.1.1.11/24 dev t1")?;
        guest.ip("link set t2 up")?;
        let config = scenario.path("udhcpd.conf");
        let leases = scenario.path("udhcpd.leases");
        fs::write(&leases, "")?;
        fs::write(
            &config,
            format!(
                "start 10.1.1.12\nend 10.1.1.12\ninterface t1\nlease_file {}\noption subnet 255.255.255.0\noption router 10.1.1.1\n",
                leases.display()
            ),
        )?;
        let words = format!("busybox udhcpd -f {}", config.display());
        let _udhcpd = client(scenario, server, "udhcpd", &words)?;
        let ask = |name: &str| -> Result<String> {
            let words = "udhcpc -f -n -q -t 4 -T 2 -i t2 -s /etc/udhcpc/default.script";
            ended(client(scenario, guest, name, words)?)
        };
        let said = ask("udhcpc-strict")?;
        ensure!(said.contains("no lease"), "{said}");
        let drops = site.drops("t1")?;
        ensure!(drops.contains("guard-dhcp"), "{drops}");

        let allowed = site.yaml.replace("guard: strict", "guard: mac");
        site.culvert.apply(&allowed)?;
        let said = ask("udhcpc-mac")?;
        ensure!(
            said.contains("lease of 10.1.1.12 obtained from 10.1.1.11"),
            "{said}"
        );
        has_v4(guest, 2)
    })
}

fn ended(mut load: Process) -> Result<String> {
    eventually("its end", UP, || load.ended())?;
    Ok(load.log())
}

/// First messages of exchanges that perfdhcp sent, and how many had no answer.
fn exchanges(said: &str) -> Result<(u64, u64)> {
    let number = |key: &str| -> Result<u64> {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key));
        let text = line.with_context(|| format!("no {key:?} in\n{said}"))?;
        Ok(text.trim().parse()?)
    };
    Ok((number("sent packets:")?, number("drops:")?))
}
