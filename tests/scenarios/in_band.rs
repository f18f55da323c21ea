//! What a DPDK uplink serves by itself: the API, metrics, the responder; its far end is a kernel.
//!
//! ```text
//!   near: Culvert, net_af_packet on wan0, 192.0.2.7 ═══ cable ═══ 192.0.2.2, .77 :far, Linux (curl, sockets)
//! ```

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{Bridge, Culvert, Namespace, Part, Scenario, Veth, eventually};
use rustix::net::{AddressFamily, SendFlags, SocketType, bind, connect, ipproto, sendto, socket};
use serde_json::Value;

const ADDRESS: &str = "192.0.2.7";
const PATIENCE: Duration = Duration::from_secs(30);
/// A segment that is lost five times waits for half a minute in all.
const STALL: Duration = Duration::from_secs(150);

/// The configuration; `more` are keys of the uplink's.
fn yaml(scenario: &Scenario, more: &str) -> String {
    let folder = scenario.scratch().display();
    format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ hugepages: off, megabytes: 128 }}\n\
         api:\n  tls:\n    certificate: {folder}/own.pem\n    key: {folder}/own.key\n    client_ca: {folder}/ca.pem\n    \
         roles: {{ ops.test: write, scrape.test: read }}\n\
         uplinks:\n  wan:\n    driver: dpdk\n    device: \"net_af_packet0,iface=wan0\"\n    \
         addresses: [192.0.2.7/24, \"2001:db8::7/64\"]\n    \
         api: {{ allow: [192.0.2.0/28, \"2001:db8::/64\"] }}\n    metrics: {{ allow: [192.0.2.0/28] }}\n    \
         responder: {{ allow: [192.0.2.0/28] }}\n{more}\
         tunnels: {{}}\nnetworks: {{}}\nports: {{}}\n"
    )
}

/// A CA, a certificate of the server's, and one for each client.
pub(super) fn certificates(scenario: &Scenario) -> Result<()> {
    let folder = scenario.scratch();
    let openssl = |words: &str| -> Result<()> {
        let out = std::process::Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(folder)
            .output()?;
        let told = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "openssl {words}: {told}");
        Ok(())
    };
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!(
        "req -x509 {curve} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"
    ))?;
    for (name, alternative) in [
        ("own", "IP:192.0.2.7,IP:2001:db8::7"),
        ("ops", "DNS:ops.test"),
        ("scrape", "DNS:scrape.test"),
        ("nobody", "DNS:nobody.test"),
    ] {
        openssl(&format!(
            "req {curve} -keyout {name}.key -out {name}.csr -subj /CN={name} -addext subjectAltName={alternative}"
        ))?;
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -copy_extensions copy"
        ))?;
        let key = folder.join(format!("{name}.key"));
        fs::set_permissions(key, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// What curl is answered: its status, and the body.
pub(super) fn curl(scenario: &Scenario, far: &Namespace, words: &str) -> Result<(String, String)> {
    let out = scenario.path("curl.out");
    let _ = fs::remove_file(&out);
    let mut command = far.program("curl");
    command
        .current_dir(scenario.scratch())
        .args(["-sS", "-g", "-m", "20", "-w", "%{http_code}", "-o"])
        .arg(&out)
        .args(words.split_whitespace());
    let done = command.output()?;
    let status = String::from_utf8_lossy(&done.stdout).into_owned();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    Ok(match done.status.success() {
        true => (status, fs::read_to_string(&out).unwrap_or_default()),
        false => (format!("curl {:?}", done.status.code()), told),
    })
}

const OPS: &str = "--cacert ca.pem --cert ops.pem --key ops.key";
const SCRAPE: &str = "--cacert ca.pem --cert scrape.pem --key scrape.key";

#[test]
fn the_api_and_metrics_answer_through_a_dpdk_uplink() -> Result<()> {
    let name = "the_api_and_metrics_answer_through_a_dpdk_uplink";
    Scenario::run(name, &[Part::Root], |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        for address in ["192.0.2.2/24", "192.0.2.77/24", "2001:db8::2/64"] {
            wire.address(&far, address)?;
        }
        certificates(scenario)?;
        let yaml_now = yaml(scenario, "");
        let culvert = Culvert::start(scenario, "near", Some(&near), &yaml_now)?;
        let ask = |words: &str| curl(scenario, &far, words);
        let metrics = format!("http://{ADDRESS}:9587/metrics");
        eventually("metrics by the uplink", PATIENCE, || {
            Ok(ask(&metrics).ok().filter(|it| it.0 == "200").map(drop))
        })?;

        // 1. Who may, and is known.
        let (status, text) = ask(&metrics)?;
        ensure!(
            status == "200" && text.contains("culvert_uplink"),
            "{status} {text}"
        );
        ensure!(ask(&format!("http://{ADDRESS}:9587/v1/status"))?.0 == "404");
        for host in [ADDRESS, "[2001:db8::7]"] {
            let (status, text) = ask(&format!("{SCRAPE} https://{host}:9443/v1/uplinks"))?;
            ensure!(
                status == "200" && text.contains("\"wan\""),
                "{host}: {status} {text}"
            );
        }
        // 2. Who may connect and is not known, or may only look.
        let (status, _) = ask(&format!(
            "--cacert ca.pem https://{ADDRESS}:9443/v1/uplinks"
        ))?;
        ensure!(
            status.starts_with("curl"),
            "without a certificate: {status}"
        );
        let nobody = SCRAPE.replace("scrape", "nobody");
        let (status, _) = ask(&format!("{nobody} https://{ADDRESS}:9443/v1/uplinks"))?;
        ensure!(status == "403", "without a role: {status}");
        let post = format!("-X POST -d {{}} https://{ADDRESS}:9443/v1/apply");
        let (status, _) = ask(&format!("{SCRAPE} {post}"))?;
        ensure!(status == "403", "a reader: {status}");
        // 3. Who may not connect is refused, as by a port of nobody's.
        for words in [
            format!("--interface 192.0.2.77 {metrics}"),
            format!("--interface 192.0.2.77 {OPS} https://{ADDRESS}:9443/v1/uplinks"),
            format!("http://{ADDRESS}:22/"),
        ] {
            let (status, told) = ask(&words)?;
            ensure!(status == "curl Some(7)", "{words}: {status} {told}");
        }
        let drops = culvert.drops()?;
        for lost in ["host-tcp-not-allowed", "host-tcp-port-closed"] {
            ensure!(drops.get(lost).is_some_and(|&n| n > 0), "{lost}: {drops:?}");
        }

        // 4. What changes the uplink that it came by is for a trial.
        let apply = |yaml: &str, more: &str| -> Result<(String, String)> {
            let mut body = serde_json::json!({ "path": "/near.yaml", "text": yaml });
            if !more.is_empty() {
                body["confirm"] = serde_json::from_str(more)?;
            }
            fs::write(scenario.path("body.json"), body.to_string())?;
            ask(&format!(
                "{OPS} -X POST -d @body.json https://{ADDRESS}:9443/v1/apply"
            ))
        };
        let other = yaml_now.replace("tunnels: {}", "metrics: { labels: [rack] }\ntunnels: {}");
        let (status, text) = apply(&other, "")?;
        ensure!(status == "200", "another change: {status} {text}");
        let narrower = other.replace("192.0.2.0/28, \"2001", "192.0.2.0/29, \"2001");
        let (status, text) = apply(&narrower, "")?;
        ensure!(
            status == "409" && text.contains("--confirm"),
            "unconfirmed: {status} {text}"
        );
        let (status, text) = apply(&narrower, "{ \"seconds\": 120 }")?;
        ensure!(
            status == "200" && text.contains("pending"),
            "on trial: {status} {text}"
        );
        let (status, text) = ask(&format!(
            "{OPS} -X POST -d {{}} https://{ADDRESS}:9443/v1/confirm"
        ))?;
        ensure!(status == "200", "confirmed: {status} {text}");
        // By single objects it is not: the uplink stays, and others answer.
        fs::write(scenario.path("off.json"), "{\"enabled\": false}")?;
        let off = format!("-X PATCH -d @off.json https://{ADDRESS}:9443/v1/uplinks/wan");
        let (status, text) = ask(&format!("{OPS} {off}"))?;
        ensure!(
            status == "409" && text.contains("another way"),
            "switched off: {status} {text}"
        );
        let layer = format!("https://{ADDRESS}:9443/v1/layer");
        let (status, text) = ask(&format!("{OPS} -X DELETE {layer}/uplinks/wan"))?;
        ensure!(status == "200", "nothing to forget: {status} {text}");
        let (status, text) = ask(&format!("{OPS} {layer}"))?;
        ensure!(status == "200", "after all: {status} {text}");
        let shown: Value = culvert.show()?;
        scenario.say(format!("{}", shown["uplinks"]));
        Ok(())
    })
}

/// Who is let in by the responder and holds whatever he gets of it keeps nobody from what else the uplink serves, not
/// even himself.
#[test]
fn who_holds_all_of_the_responder_keeps_nobody_from_the_api() -> Result<()> {
    let name = "who_holds_all_of_the_responder_keeps_nobody_from_the_api";
    Scenario::run(name, &[Part::Root], |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        // Each gets half of what the others have left.
        let hosts = [2, 3, 4, 5, 6, 8];
        for host in hosts {
            wire.address(&far, &format!("192.0.2.{host}/24"))?;
        }
        certificates(scenario)?;
        let mut culvert = Culvert::start(scenario, "near", Some(&near), &yaml(scenario, ""))?;
        eventually("an echo", PATIENCE, || {
            Ok(far.enter(|| echoed(far_end(7), 100)).ok().map(drop))
        })?;
        // Whoever is refused hears nothing, and would try again.
        let hold = |from: &str| {
            far.enter(|| {
                let held = (0..30).map(|n| {
                    let to = far_end([7, 9, 19][n % 3]);
                    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
                    let from: SocketAddr = format!("{from}:0").parse()?;
                    bind(&socket, &from)?;
                    let stream = TcpStream::from(socket);
                    stream.set_nonblocking(true)?;
                    let _ = connect(&stream, &to);
                    Ok(stream)
                });
                held.collect::<Result<Vec<_>>>()
            })
        };
        let held = hosts.iter().map(|host| hold(&format!("192.0.2.{host}")));
        let held = held.collect::<Result<Vec<_>>>()?;
        eventually("refusals of a source and of all", PATIENCE, || {
            let drops = culvert.drops()?;
            let is_full = |name| drops.contains_key(name);
            Ok((is_full("host-tcp-source-full") && is_full("host-tcp-service-full")).then_some(()))
        })?;
        for words in [
            format!("http://{ADDRESS}:9587/metrics"),
            format!("{OPS} https://{ADDRESS}:9443/v1/uplinks"),
        ] {
            let (status, told) = curl(scenario, &far, &words)?;
            ensure!(status == "200", "{words}: {status} {told}");
        }
        drop(held);
        culvert.process().must_run()
    })
}

/// Bytes that look random, the same for a seed, from a place on.
fn fill(seed: u64, place: u64, bytes: &mut [u8]) {
    for (at, byte) in (place..).zip(bytes) {
        let mixed = (at ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        *byte = (mixed >> 32).to_le_bytes()[0];
    }
}

/// Sends so many bytes to the echo, and counts those that come back as they were.
fn echoed(to: SocketAddr, len: u64) -> Result<u64> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    let mut other = stream.try_clone()?;
    let writing = thread::spawn(move || -> Result<()> {
        let (mut place, mut bytes) = (0, vec![0; 32 << 10]);
        while place < len {
            let part = usize::try_from(len - place)?.min(bytes.len());
            fill(7, place, &mut bytes[..part]);
            other.write_all(&bytes[..part])?;
            place += part as u64;
        }
        other.shutdown(Shutdown::Write)?;
        Ok(())
    });
    let (mut stream, mut place) = (stream, 0);
    let (mut came, mut expected) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    loop {
        let read = stream.read(&mut came)?;
        if read == 0 {
            break;
        }
        fill(7, place, &mut expected[..read]);
        ensure!(came[..read] == expected[..read], "other bytes at {place}");
        place += read as u64;
    }
    writing
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    Ok(place)
}

fn far_end(port: u16) -> SocketAddr {
    SocketAddr::new([192, 0, 2, 7].into(), port)
}

/// A cable that loses a twentieth both ways, as the far kernel has it, and carries frames in another order.
fn rough(near: &Namespace, far: &Namespace) -> Result<Bridge> {
    let cable = Bridge::join(near, far, "wan0")?;
    far.ip("address add 192.0.2.2/24 dev wan0")?;
    far.nft(
        "add table inet rough\n\
         add chain inet rough in { type filter hook input priority 0; }\n\
         add chain inet rough out { type filter hook output priority 0; }\n\
         add rule inet rough in meta l4proto tcp numgen random mod 100 < 5 drop\n\
         add rule inet rough out meta l4proto tcp numgen random mod 100 < 5 drop\n",
    )?;
    cable.shuffle(true);
    Ok(cable)
}

fn through_loss(name: &str, megabytes: u64) -> Result<()> {
    Scenario::run(name, &[Part::Root, Part::Nftables], |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let cable = rough(&near, &far)?;
        certificates(scenario)?;
        let _culvert = Culvert::start(scenario, "near", Some(&near), &yaml(scenario, ""))?;
        eventually("an echo", PATIENCE, || {
            Ok(far.enter(|| echoed(far_end(7), 100)).ok().map(drop))
        })?;
        let began = Instant::now();
        let len = megabytes << 20;
        let came = far.enter(|| echoed(far_end(7), len))?;
        ensure!(came == len, "{came} of {len} came back");
        scenario.say(format!(
            "{megabytes} MiB both ways in {:.1} s, {} frames displaced",
            began.elapsed().as_secs_f64(),
            cable.displaced()
        ));
        ensure!(cable.displaced() > 100, "{} displaced", cable.displaced());
        Ok(())
    })
}

#[test]
fn bytes_come_back_through_loss_and_disorder() -> Result<()> {
    through_loss("bytes_come_back_through_loss_and_disorder", 4)
}

#[test]
#[ignore = "takes minutes: scripts/test --long"]
fn a_hundred_megabytes_come_back_through_loss_and_disorder() -> Result<()> {
    let name = "a_hundred_megabytes_come_back_through_loss_and_disorder";
    through_loss(name, 100)
}

fn open_descriptors(culvert: &mut Culvert) -> Result<usize> {
    let folder = format!("/proc/{}/fd", culvert.process().pid());
    Ok(fs::read_dir(folder)?.count())
}

#[test]
fn a_thousand_connections_leave_nothing_and_a_flood_keeps_nobody_out() -> Result<()> {
    let name = "a_thousand_connections_leave_nothing_and_a_flood_keeps_nobody_out";
    Scenario::run(name, &[Part::Root], |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        wire.address(&far, "192.0.2.2/24")?;
        certificates(scenario)?;
        let mut culvert = Culvert::start(scenario, "near", Some(&near), &yaml(scenario, ""))?;
        eventually("an echo", PATIENCE, || {
            Ok(far.enter(|| echoed(far_end(7), 100)).ok().map(drop))
        })?;

        // 1. One after the other; all of those that either end closes first.
        let before = open_descriptors(&mut culvert)?;
        far.enter(|| {
            for n in 0..1_000_u64 {
                if n % 2 == 0 {
                    let came = echoed(far_end(7), 100).with_context(|| format!("the {n}th"))?;
                    ensure!(came == 100, "{came} bytes of the {n}th");
                    continue;
                }
                let mut metrics = TcpStream::connect_timeout(&far_end(9587), PATIENCE)?;
                metrics.set_read_timeout(Some(PATIENCE))?;
                metrics.write_all(b"GET /no HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
                let mut answer = String::new();
                metrics.read_to_string(&mut answer)?;
                ensure!(answer.starts_with("HTTP/1.1 404"), "the {n}th: {answer}");
            }
            Ok(())
        })?;
        eventually("all descriptors closed", PATIENCE, || {
            Ok((open_descriptors(&mut culvert)? <= before).then_some(()))
        })?;

        // 2. Datagrams.
        far.enter(|| {
            let socket = UdpSocket::bind("192.0.2.2:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"a datagram", far_end(7))?;
            let mut came = [0; 64];
            let (len, from) = socket.recv_from(&mut came)?;
            ensure!((&came[..len], from) == (b"a datagram".as_slice(), far_end(7)));
            Ok(())
        })?;

        // 3. A flood, from who is allowed and who is not.
        let (ends, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| -> Result<()> {
            let flood = scope.spawn(|| far.enter(|| flood(&ends, &sent)));
            let calm = far.enter(|| {
                let mut open = TcpStream::connect_timeout(&far_end(7), PATIENCE)?;
                open.set_read_timeout(Some(PATIENCE))?;
                let end = Instant::now() + Duration::from_secs(3);
                let mut rounds = 0;
                while Instant::now() < end {
                    open.write_all(b"still there?")?;
                    open.read_exact(&mut [0; 12])?;
                    rounds += 1;
                }
                // Of a hundred thousand SYNs a second two thousand are looked at: who tries again each second gets in.
                eventually("a new connection under the flood", PATIENCE, || {
                    let second = Duration::from_secs(1);
                    Ok(TcpStream::connect_timeout(&far_end(7), second).ok())
                })?;
                Ok(rounds)
            });
            ends.store(true, Ordering::Relaxed);
            let flooded = flood
                .join()
                .map_err(|_| anyhow::anyhow!("the flood panicked"))?;
            flooded?;
            let (rounds, sent) = (calm?, sent.load(Ordering::Relaxed));
            scenario.say(format!(
                "{rounds} echoes of an open connection under {sent} SYNs"
            ));
            ensure!(rounds > 0 && sent > 10_000, "{rounds} echoes, {sent} SYNs");
            Ok(())
        })?;
        let came = far.enter(|| echoed(far_end(7), 10_000))?;
        ensure!(came == 10_000, "{came} bytes of one behind it");
        let drops = culvert.drops()?;
        for lost in ["host-tcp-not-allowed", "host-tcp-openings-full"] {
            ensure!(drops.get(lost).is_some_and(|&n| n > 0), "{lost}: {drops:?}");
        }
        Ok(())
    })
}

/// SYNs of many, who don't exist, half of them allowed.
fn flood(ends: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
    let to = SocketAddr::new([192, 0, 2, 7].into(), 0);
    for n in 0_u32.. {
        if ends.load(Ordering::Relaxed) {
            return Ok(());
        }
        let [a, b, c, d] = n.to_be_bytes();
        let source = match n % 2 {
            0 => [192, 0, 2, 3 + c % 12],
            _ => [198, 51, 100, d],
        };
        let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
        packet.extend(source);
        packet.extend([192, 0, 2, 7]);
        let mut tcp = [0; 20];
        (tcp[0], tcp[1], tcp[3]) = (b | 4, d, 7);
        tcp[4..8].copy_from_slice(&[a, b, c, d]);
        (tcp[12], tcp[13], tcp[14]) = (0x50, 2, 0xff);
        let pseudo = [&packet[12..20], &[0, 6, 0, 20]].concat();
        let words = pseudo.chunks(2).chain(tcp.chunks(2));
        let sum: u32 = words
            .map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])))
            .sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16))?;
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        packet.extend(tcp);
        if sendto(&raw, &packet, SendFlags::empty(), &to).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
