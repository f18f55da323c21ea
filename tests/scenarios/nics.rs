//! NICs on a PCI bus, as far as QEMU emulates them: DPDK's drivers through vfio and an IOMMU, in a guest with two NUMA
//! nodes, where Culvert is installed as its operator would.
//!
//! ```text
//!   the machine: one Culvert                                  far: wireguard-go
//!   p-e1000    10.1.1.10 ── wg-e1000   ── e1000    192.0.1.1 ── t-e1000    192.0.1.2 ── 10.2.1.1
//!   p-e1000e   10.1.2.10 ── wg-e1000e  ── e1000e   192.0.2.1 ── t-e1000e   192.0.2.2 ── 10.2.2.1
//!   …                                                IPv6: 2001:db8:1::1, fd00:1:1::10, fd00:2:1::1, and so on
//! ```
//!
//! What each NIC is at is its number, from 1.

use std::fmt::Write as _;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    GUEST_MTU, Guest, Keys, Model, Namespace, PORT, Part, Process, Scenario, WireguardGo, bounded,
    eventually, machine, offered,
};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, sendto, socket};
use serde_json::Value;

const PARTS: [Part; 3] = [Part::Root, Part::Qemu, Part::WireguardGo];
const COMMAND: Duration = Duration::from_secs(60);
/// TCG, and a build without optimisation perhaps.
const PATIENCE: Duration = Duration::from_secs(120);

/// One NIC, as far as every run has time for it.
#[test]
fn a_nic_on_a_pci_bus() -> Result<()> {
    Scenario::run("a_nic_on_a_pci_bus", &PARTS, |scenario| {
        let (models, _) = offered()?;
        let model = models.into_iter().find(|it| it.name == "e1000e");
        let mut lab = Lab::build(scenario, &[model.context("no e1000e")?])?;
        lab.install(scenario)?;
        lab.traffic(scenario)?;
        lab.what_is_told(scenario)?;
        lab.unbind(scenario)?;
        lab.end(scenario)
    })
}

/// All that this QEMU has, in one machine, and the script that strangers run.
#[test]
#[ignore = "it takes minutes; scripts/test --long runs it"]
fn nics_on_a_pci_bus() -> Result<()> {
    Scenario::run("nics_on_a_pci_bus", &PARTS, |scenario| {
        let (models, missing) = offered()?;
        if !missing.is_empty() {
            scenario.say(format!("this QEMU has no {}", missing.join(", ")));
        }
        let mut lab = Lab::build(scenario, &models)?;
        lab.install(scenario)?;
        lab.traffic(scenario)?;
        lab.what_is_told(scenario)?;
        lab.spread(scenario)?;
        lab.bent_and_tagged(scenario)?;
        lab.flap(scenario)?;
        lab.unbind(scenario)?;
        lab.end(scenario)?;
        lab.report(scenario)
    })
}

struct Lab {
    models: Vec<Model>,
    far: Namespace,
    peer: WireguardGo,
    keys: Vec<Keys>,
    machine: Guest,
}

impl Lab {
    /// Boots the machine, with keys and configuration in it, and starts the peer.
    fn build(scenario: &Scenario, models: &[Model]) -> Result<Self> {
        let far = Namespace::make("far")?;
        let far_keys = Keys::generate(scenario, "far")?;
        let keys: Result<Vec<Keys>> = models
            .iter()
            .map(|model| Keys::generate(scenario, model.name))
            .collect();
        let keys = keys?;
        let yaml = scenario.path("machine.yaml");
        std::fs::write(&yaml, configuration(models, &far_keys.public)?)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/nic-report");
        let mut files: Vec<(PathBuf, String)> = vec![
            (yaml, "etc/culvert/culvert.yaml".into()),
            (script, "usr/bin/nic-report".into()),
        ];
        for (model, keys) in models.iter().zip(&keys) {
            let path = format!("etc/culvert/{}.key", model.name);
            files.push((keys.private_file.clone(), path));
        }
        let files: Vec<(&Path, &str)> = files
            .iter()
            .map(|(from, to)| (from.as_path(), to.as_str()))
            .collect();
        scenario.say("booting the machine");
        let machine = machine(scenario, &far, models, &files)?;
        scenario.say("it is up");
        let peer = WireguardGo::start(scenario, &far, &far_keys, PORT, &[], GUEST_MTU)?;
        for (n, (model, keys)) in (1..).zip(models.iter().zip(&keys)) {
            let tap = model.tap();
            far.ip(&format!("address add 192.0.{n}.2/24 dev {tap}"))?;
            far.ip(&format!("address add 2001:db8:{n}::2/64 dev {tap} nodad"))?;
            let wg = peer.interface();
            far.ip(&format!("address add 10.2.{n}.1/32 dev {wg}"))?;
            far.ip(&format!("address add fd00:2:{n}::1/128 dev {wg} nodad"))?;
            let endpoint = format!("192.0.{n}.1:{PORT}");
            peer.peer(&far, keys, Some(&endpoint), &[], None)?;
            let allowed = format!("10.1.{n}.0/24,fd00:1:{n}::/64");
            peer.wg(&far, &["peer", &keys.public, "allowed-ips", &allowed])?;
            far.ip(&format!("route add 10.1.{n}.0/24 dev {wg} src 10.2.{n}.1"))?;
            far.ip(&format!(
                "route add fd00:1:{n}::/64 dev {wg} src fd00:2:{n}::1"
            ))?;
        }
        Ok(Self {
            models: models.to_vec(),
            far,
            peer,
            keys,
            machine,
        })
    }

    /// What an operator does: hugepages, drivers, the program.
    fn install(&mut self, scenario: &Scenario) -> Result<()> {
        self.machine.sh(
            "for m in $(cat /etc/dpdk.modules); do insmod /lib/modules/$m.ko || exit 1; done",
            COMMAND,
        )?;
        // A page of each node that has a NIC.
        for node in [0, 1] {
            let pages = "hugepages/hugepages-2048kB/nr_hugepages";
            self.machine.sh(
                &format!("echo 96 >/sys/devices/system/node/node{node}/{pages}"),
                COMMAND,
            )?;
        }
        for model in self.models.clone() {
            self.bind(model.address, "vfio-pci")?;
        }
        scenario.say("starting culvert in it");
        self.machine.sh(
            "mkdir -p /run/culvert; culvert check && (culvert run >/tmp/culvert.log 2>&1 &)",
            COMMAND,
        )?;
        eventually("an answer of culvert in the machine", PATIENCE, || {
            let (alive, _) = self.machine.run("pidof culvert", COMMAND)?;
            ensure!(alive == 0, "it has ended:\n{}", self.log()?);
            Ok(self.uplinks().ok())
        })?;
        for n in 1..=self.models.len() {
            self.machine.sh(
                &format!("ip route add 10.2.{n}.0/24 via 10.1.{n}.1; ip -6 route add fd00:2:{n}::/64 via fd00:1:{n}::1"),
                COMMAND,
            )?;
        }
        Ok(())
    }

    /// Through each NIC, over IPv4 and IPv6 outside, packets of both ends' sizes and files both ways.
    fn traffic(&mut self, scenario: &Scenario) -> Result<()> {
        for (n, model) in (1..).zip(self.models.clone()) {
            self.machine.wait_ping(&format!("10.2.{n}.1"), PATIENCE)?;
            self.ping_sizes(&format!("10.2.{n}.1"))?;
            self.send_file(n)?;
            self.receive_file(n)?;
            let endpoint = format!("[2001:db8:{n}::1]:{PORT}");
            let key = self.keys[n - 1].public.clone();
            self.peer
                .wg(&self.far, &["peer", &key, "endpoint", &endpoint])?;
            let words = ["ping", "-c", "1", "-W", "1", &format!("fd00:1:{n}::10")];
            eventually("an answer over IPv6", PATIENCE, || {
                Ok(self.far.run(&words, COMMAND).ok())
            })?;
            self.ping_sizes(&format!("fd00:2:{n}::1"))?;
            self.receive_file(n)?;
            scenario.say(format!("{}: traffic both ways", model.name));
        }
        Ok(())
    }

    fn ping_sizes(&mut self, to: &str) -> Result<()> {
        for size in [56, 980, 1372] {
            let ping = format!("/usr/bin/ping -q -c 5 -i 0.1 -W 5 -s {size} {to}");
            let output = self.machine.sh(&ping, COMMAND)?;
            // A size that can't pass loses all; one packet QEMU may lose where the machine is busy.
            let whole = [" 0% packet loss", " 20% packet loss"];
            ensure!(
                whole.iter().any(|it| output.contains(it)),
                "{size}: {output}"
            );
        }
        Ok(())
    }

    fn send_file(&mut self, n: usize) -> Result<()> {
        let sum = self.machine.sh(
            "dd if=/dev/urandom of=/tmp/out bs=1M count=1 2>/dev/null; sha256sum </tmp/out",
            COMMAND,
        )?;
        let mut listen = self.far.program("sh");
        listen.args([
            "-c",
            "socat -u -T 60 TCP-LISTEN:9000,reuseaddr - | sha256sum",
        ]);
        let (_, arrived, _) = std::thread::scope(|scope| {
            let listener = scope.spawn(move || bounded(&mut listen, PATIENCE));
            self.machine.sh(
                &format!("socat -u -T 60 OPEN:/tmp/out TCP:10.2.{n}.1:9000,retry=50,interval=0.2"),
                PATIENCE,
            )?;
            listener.join().unwrap_or_else(|_| Ok(Default::default()))
        })?;
        ensure!(sum == arrived, "sent {sum}, arrived {arrived}");
        Ok(())
    }

    fn receive_file(&mut self, n: usize) -> Result<()> {
        self.machine.sh(
            "rm -f /tmp/sum; (socat -u -T 60 TCP-LISTEN:9001,reuseaddr - | sha256sum >/tmp/sum.new; mv /tmp/sum.new /tmp/sum) >/dev/null 2>&1 &",
            COMMAND,
        )?;
        let send = format!(
            "dd if=/dev/urandom of=/tmp/cv-nics-$$ bs=1M count=1 2>/dev/null; sha256sum </tmp/cv-nics-$$; \
             socat -u -T 60 OPEN:/tmp/cv-nics-$$ TCP:10.1.{n}.10:9001,retry=50,interval=0.2; rm /tmp/cv-nics-$$"
        );
        let sent = self.far.run(&["sh", "-c", &send], PATIENCE)?;
        let arrived = eventually("the file's end", PATIENCE, || {
            let (status, text) = self.machine.run("cat /tmp/sum", COMMAND)?;
            Ok((status == 0).then_some(text))
        })?;
        ensure!(sent == arrived, "sent {sent}, arrived {arrived}");
        Ok(())
    }

    /// Driver, NUMA node, queues and offloads; nothing was lost for its form or its sum.
    fn what_is_told(&mut self, scenario: &Scenario) -> Result<()> {
        for model in self.models.clone() {
            let uplink = self.uplink(model.name)?;
            let nic = &uplink["nic"];
            ensure!(nic["driver"] == model.driver, "{nic}");
            ensure!(nic["numa_node"].as_u64() == model.node, "{nic}");
            ensure!(nic["rx_queues"] == model.queues, "{nic}");
            for offload in ["rx-udp", "tx-udp"] {
                let has = |list: &Value| {
                    list.as_array()
                        .is_some_and(|it| it.iter().any(|it| it == offload))
                };
                ensure!(has(&nic["offloads"]), "{nic}");
            }
            for reason in [
                "outer-malformed",
                "outer-checksum",
                "uplink-full",
                "uplink-refused",
            ] {
                ensure!(lost(&uplink, reason) == 0, "{uplink}");
            }
            scenario.say(format!("{}: {nic}", model.name));
        }
        Ok(())
    }

    /// Datagrams of many flows come by several queues where the NIC has them.
    fn spread(&mut self, scenario: &Scenario) -> Result<()> {
        for (n, model) in (1..).zip(self.models.clone()).filter(|(_, it)| it.spreads) {
            self.far.enter(|| {
                for _ in 0..64 {
                    UdpSocket::bind("0.0.0.0:0")?
                        .send_to(b"to nobody", format!("192.0.{n}.1:9"))?;
                }
                Ok(())
            })?;
            let received = eventually("packets on each queue", PATIENCE, || {
                let uplink = self.uplink(model.name)?;
                let received = uplink["nic"]["received"].as_array().cloned();
                let received = received.context("no counts")?;
                let all = received.iter().all(|count| count.as_u64() > Some(8));
                Ok((all && received.len() > 1).then_some(received))
            })?;
            scenario.say(format!("{}: RSS {received:?}", model.name));
        }
        Ok(())
    }

    /// A datagram with a wrong sum, and a question with a VLAN's tag: both are lost under their names.
    fn bent_and_tagged(&mut self, scenario: &Scenario) -> Result<()> {
        for (n, model) in (1..).zip(self.models.clone()) {
            let before = self.uplink(model.name)?;
            let mac = [0x52, 0x54, 0, 0, 0x77, n - 1];
            self.inject(&model, &bent(mac, n))?;
            self.inject(&model, &tagged(n))?;
            eventually("both under their names", PATIENCE, || {
                let now = self.uplink(model.name)?;
                let more = |reason| lost(&now, reason) - lost(&before, reason);
                Ok((more("outer-checksum") == 1 && more("not-for-us") >= 1).then_some(()))
            })?;
            scenario.say(format!(
                "{}: a wrong sum and a tag are told apart",
                model.name
            ));
        }
        Ok(())
    }

    fn inject(&self, model: &Model, frame: &[u8]) -> Result<()> {
        let tap = model.tap();
        self.far.enter(|| {
            let mut interfaces = getifaddrs()?;
            let address = interfaces
                .find_map(|it| {
                    (it.interface_name == tap).then(|| it.address?.as_link_addr().copied())?
                })
                .context("the TAP has no link-layer address")?;
            let fd = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                None,
            )?;
            sendto(fd.as_raw_fd(), frame, &address, MsgFlags::empty())?;
            Ok(())
        })
    }

    /// Every cable is pulled and put in again: that is told, and nothing has to be done.
    fn flap(&mut self, scenario: &Scenario) -> Result<()> {
        for up in [false, true] {
            for model in self.models.clone() {
                self.machine.set_link(&model.id(), up)?;
            }
            eventually("news of the links", PATIENCE, || {
                let all = self.uplinks()?.iter().all(|it| it["link_up"] == up);
                Ok(all.then_some(()))
            })?;
        }
        for n in 1..=self.models.len() {
            self.machine.wait_ping(&format!("10.2.{n}.1"), PATIENCE)?;
        }
        scenario.say("links went down and came up");
        Ok(())
    }

    /// The host takes a NIC back while it is in use, and gives it again.
    fn unbind(&mut self, scenario: &Scenario) -> Result<()> {
        for (n, model) in (1..).zip(self.models.clone()) {
            let inside = format!("10.2.{n}.1");
            self.machine.sh(
                &format!("/usr/bin/ping -i 0.2 {inside} >/tmp/ping 2>&1 & echo $! >/tmp/ping.pid"),
                COMMAND,
            )?;
            let unbind = format!(
                "timeout 60 sh -c 'echo {} >/sys/bus/pci/drivers/vfio-pci/unbind'",
                model.address
            );
            self.machine.sh(&unbind, PATIENCE)?;
            // The device is closed first, and then that is told.
            eventually("word that it was taken back", PATIENCE, || {
                let told = "the host wants the device back";
                let uplink = self.uplink(model.name)?;
                let is_down = uplink["link_up"] == false && uplink["nic"].is_null();
                let count = self.log()?.matches(told).count();
                Ok((is_down && count == n).then_some(()))
            })?;
            self.bind(model.address, "vfio-pci")?;
            self.machine.wait_ping(&inside, PATIENCE)?;
            self.machine.sh("kill $(cat /tmp/ping.pid)", COMMAND)?;
            eventually("word that it is open again", PATIENCE, || {
                let told = self.log()?.matches("the device is open again").count();
                Ok((told == n).then_some(()))
            })?;
            scenario.say(format!("{}: taken back and given again", model.name));
        }
        Ok(())
    }

    /// It drains, and NICs go back to the kernel's drivers.
    fn end(&mut self, scenario: &Scenario) -> Result<()> {
        let log = self.log()?;
        ensure!(!log.contains("panicked"), "{log}");
        self.machine.sh(
            "kill $(pidof culvert); for i in $(seq 100); do pidof culvert >/dev/null || exit 0; sleep 0.2; done; exit 1",
            PATIENCE,
        )?;
        for model in self.models.clone() {
            let driver = match model.name {
                "vmxnet3" => "vmxnet3",
                "virtio" => "virtio-pci",
                // This kernel has none.
                _ => continue,
            };
            self.bind(model.address, driver)?;
        }
        scenario.say("the kernel has its NIC again");
        Ok(())
    }

    /// What strangers run on their NICs, on one that the kernel has.
    fn report(&mut self, scenario: &Scenario) -> Result<()> {
        let Some(model) = self
            .models
            .clone()
            .into_iter()
            .find(|it| it.name == "virtio")
        else {
            return Ok(());
        };
        for other in &self.models {
            self.far.ip(&format!("address flush dev {}", other.tap()))?;
        }
        self.far
            .ip(&format!("link set {} down", self.peer.interface()))?;
        self.machine.sh("nic-report prepare /tmp/report", COMMAND)?;
        let far = scenario.path("far.sh");
        std::fs::write(&far, self.machine.sh("cat /tmp/report/far.sh", COMMAND)?)?;
        let mut command = self.far.program("sh");
        command.arg(&far).arg(model.tap());
        let _far = Process::start("far", scenario.scratch(), command)?;
        self.machine.sh(
            &format!(
                "(nic-report run /tmp/report --nic {} --bind vfio-pci --seconds 3 --flap 60 >/tmp/said 2>&1; echo $? >/tmp/ended) &",
                model.address
            ),
            COMMAND,
        )?;
        let is_asked = |lab: &mut Self| -> Result<bool> {
            let said = lab
                .machine
                .sh("cat /tmp/said; cat /tmp/ended 2>/dev/null || true", COMMAND)?;
            let (ended, _) = lab.machine.run("test -e /tmp/ended", COMMAND)?;
            ensure!(ended != 0, "it has ended: {said}");
            Ok(said.contains("now pull the cable"))
        };
        eventually("the wish for a link that goes down", 3 * PATIENCE, || {
            Ok(is_asked(self)?.then_some(()))
        })?;
        self.machine.set_link(&model.id(), false)?;
        std::thread::sleep(Duration::from_secs(5));
        self.machine.set_link(&model.id(), true)?;
        let ended = eventually("the report", PATIENCE, || {
            let (status, text) = self.machine.run("cat /tmp/ended", COMMAND)?;
            Ok((status == 0).then_some(text))
        })?;
        let text = self
            .machine
            .sh("cat /tmp/said /tmp/report/report.txt", COMMAND)?;
        ensure!(ended.trim() == "0", "it ended with {ended}\n{text}");
        let json = self.machine.sh("cat /tmp/report/report.json", COMMAND)?;
        let json: Value = serde_json::from_str(&json).with_context(|| json.clone())?;
        let checks = json["checks"].as_array().context("no checks")?;
        let verdict = |name: &str| {
            let check = checks.iter().find(|it| it["check"] == name);
            check.map_or(Value::Null, |it| it["verdict"].clone())
        };
        for name in [
            "open",
            "link",
            "tunnel",
            "ping-1372",
            "sums-out",
            "sums-in",
            "throughput-in",
            "flap",
        ] {
            ensure!(verdict(name) == "ok", "{name}: {json}");
        }
        // No secrets: neither a key nor the part of a MAC address that is the NIC's own.
        for file in ["near.key", "far.key"] {
            let key = self.machine.sh(
                &format!("cat /tmp/report/{file}; culvert pubkey </tmp/report/{file}"),
                COMMAND,
            )?;
            ensure!(key.lines().all(|it| !text.contains(it)), "a key: {text}");
        }
        ensure!(!text.contains("52:54:00:00:77"), "a MAC address: {text}");
        let driver = format!("readlink /sys/bus/pci/devices/{}/driver", model.address);
        let driver = self.machine.sh(&driver, COMMAND)?;
        ensure!(
            driver.trim().ends_with("/virtio-pci"),
            "it is bound to {driver}"
        );
        scenario.say(format!("nic-report:\n{text}"));
        Ok(())
    }

    fn bind(&mut self, address: &str, driver: &str) -> Result<()> {
        let device = format!("/sys/bus/pci/devices/{address}");
        self.machine.sh(
            &format!(
                "[ ! -e {device}/driver ] || echo {address} >{device}/driver/unbind; \
                 echo {driver} >{device}/driver_override && echo {address} >/sys/bus/pci/drivers_probe && \
                 readlink {device}/driver | grep {driver}"
            ),
            PATIENCE,
        )?;
        Ok(())
    }

    fn uplink(&mut self, name: &str) -> Result<Value> {
        let uplinks = self.uplinks()?;
        let found = uplinks.into_iter().find(|it| it["name"] == name);
        found.with_context(|| format!("no uplink {name}"))
    }

    /// By the API, whose socket answers sooner here than a program starts.
    fn uplinks(&mut self) -> Result<Vec<Value>> {
        let request = "printf 'GET /v1/uplinks HTTP/1.0\\r\\nHost: culvert\\r\\n\\r\\n' | socat -t 30 STDIO,ignoreeof UNIX-CONNECT:/run/culvert/api.sock";
        let answer = self.machine.sh(request, COMMAND)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        Ok(body["items"].as_array().cloned().unwrap_or_default())
    }

    fn log(&mut self) -> Result<String> {
        self.machine.sh("cat /tmp/culvert.log", COMMAND)
    }
}

fn lost(uplink: &Value, reason: &str) -> u64 {
    uplink["drops"][reason].as_u64().unwrap_or(0)
}

fn configuration(models: &[Model], far: &str) -> Result<String> {
    let mut parts = ["uplinks:\n", "tunnels:\n", "networks:\n", "ports:\n"].map(String::from);
    let [uplinks, tunnels, networks, ports] = &mut parts;
    for (n, model) in (1..).zip(models) {
        let (name, address) = (model.name, model.address);
        writeln!(
            uplinks,
            "  {name}: {{ driver: dpdk, device: \"{address}\", addresses: [192.0.{n}.1/24, \"2001:db8:{n}::1/64\"], mtu: 1500 }}"
        )?;
        writeln!(
            tunnels,
            "  wg-{name}:\n    uplink: {name}\n    listen_port: {PORT}\n    private_key_file: /etc/culvert/{name}.key\n    \
             peers:\n      far: {{ public_key: \"{far}\", allowed_ips: [10.2.{n}.0/24, \"fd00:2:{n}::/64\"], endpoint: \"192.0.{n}.2:{PORT}\" }}"
        )?;
        writeln!(
            networks,
            "  net-{name}: {{ gateway: [10.1.{n}.1/24, \"fd00:1:{n}::1/64\"], tunnel: wg-{name} }}"
        )?;
        // The second worker's, too, of which not every NIC has a queue.
        let worker = n % 2;
        writeln!(
            ports,
            "  p-{name}: {{ driver: tap, network: net-{name}, mac: \"52:54:00:01:0{n}:10\", addresses: [10.1.{n}.10, \"fd00:1:{n}::10\"], queue_workers: [{worker}] }}"
        )?;
    }
    Ok(format!(
        "version: 1\nnode: machine\ncores: {{ workers: 2, poll: adaptive }}\nmemory: {{ hugepages: required, megabytes: 96 }}\n{}",
        parts.concat()
    ))
}

/// A datagram for the tunnel whose UDP checksum is wrong.
fn bent(mac: [u8; 6], n: u8) -> Vec<u8> {
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut header = [
        69, 0, 0, 60, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, n, 2, 192, 0, n, 1,
    ];
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(0);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend([0, 9]);
    frame.extend(PORT.to_be_bytes());
    frame.extend([0, 40, 0xba, 0xd1]);
    frame.extend([1; 32]);
    frame
}

/// Who has the NIC's address, asked in VLAN 7.
fn tagged(n: u8) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9, 0x81, 0, 0, 7, 8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 192, 0, n, 9]);
    frame.extend([0, 0, 0, 0, 0, 0, 192, 0, n, 1]);
    frame.resize(64, 0);
    frame
}
