//! A crowd of peers whose endpoints are silent, and one that lives.
//!
//! ```text
//!   culvert, 100,000 peers ── wan0 192.0.2.1 ═══ 192.0.2.2 wan0 :far, the way to 10.64.0.0/10, where all is dropped
//! ```

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use culvert_tests::{Culvert, Keys, Namespace, Part, Scenario, Veth, eventually};
use culvert_wireguard::{
    Budget, Device, Handshake, Instant as Moment, Now, PeerConfig, PresharedKey, PrivateKey,
    PublicKey,
};

const PARTS: [Part; 2] = [Part::Root, Part::Nftables];
/// Until all of the crowd were called in vain, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the processor's time is looked at.
const SPELL: Duration = Duration::from_secs(10);
/// Calls of the living peer, further apart than those that hold each other back.
const CALLS: usize = 10;
const APART: Duration = Duration::from_millis(200);

#[test]
fn a_peer_that_lives_is_answered_first_among_silent_ones() -> Result<()> {
    crowd(
        "a_peer_that_lives_is_answered_first_among_silent_ones",
        3_000,
    )
}

#[test]
#[ignore = "takes minutes; scripts/test --long runs it"]
fn a_peer_that_lives_is_answered_first_among_a_hundred_thousand_silent_ones() -> Result<()> {
    let name = "a_peer_that_lives_is_answered_first_among_a_hundred_thousand_silent_ones";
    crowd(name, 100_000)
}

fn crowd(name: &str, peers: u32) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let cable = Veth::join(&near, &far)?;
        cable.address(&near, "192.0.2.1/24")?;
        cable.address(&far, "192.0.2.2/24")?;
        near.ip("route add 10.64.0.0/10 via 192.0.2.2")?;
        far.nft("table ip dead { chain in { type filter hook prerouting priority 0; udp dport 9 counter drop; } }")?;
        let keys = [
            Keys::generate(scenario, "near")?,
            Keys::generate(scenario, "far")?,
        ];
        let yaml = yaml(&keys, peers)?;
        let mut culvert = Culvert::launch(scenario, "near", Some(&near), &yaml)?;

        scenario.say("until all were called in vain");
        eventually("more calls than there are peers", PATIENCE, || {
            culvert.process().must_run()?;
            // Those that were called before are called again meanwhile.
            Ok((calls(&far)? >= u64::from(peers) * 3 / 2 + 1_000).then_some(()))
        })?;
        let (before, sent) = (processor_time(&mut culvert)?, calls(&far)?);
        let begin = Instant::now();
        thread::sleep(SPELL);
        let used = processor_time(&mut culvert)? - before;
        let per_second = (calls(&far)? - sent) as f64 / begin.elapsed().as_secs_f64();
        let share = used.as_secs_f64() / begin.elapsed().as_secs_f64();
        scenario.say(format!(
            "  {:.0} calls per second, {:.1} % of a processor",
            per_second,
            share * 100.0
        ));
        // `SILENT_CALLS_PER_SECOND`, and what a bucket holds.
        ensure!(per_second < 600.0, "{per_second} calls per second");
        ensure!(share < 0.5, "{share} of a processor");

        scenario.say("a peer that lives calls");
        let mut times = Vec::new();
        for _ in 0..CALLS {
            times.push(far.enter(|| call(&keys))?);
            thread::sleep(APART);
        }
        times.sort_unstable();
        scenario.say(format!("  answered within {times:?}"));
        // It waits for no silent one: those take seconds in all.
        ensure!(times[CALLS / 2] < Duration::from_secs(1), "{times:?}");
        Ok(())
    })
}

fn yaml(keys: &[Keys; 2], peers: u32) -> Result<String> {
    let [near, far] = keys;
    let mut text = format!(
        "version: 1\ncores: {{ workers: 1 }}\nuplinks: {{ wan0: {{ driver: udp }} }}\nnetworks: {{}}\n\
         tunnels:\n  wg0:\n    uplink: wan0\n    listen_port: 51820\n    uapi: off\n    private_key_file: {}\n    \
         peers:\n      far: {{ public_key: \"{}\" }}\n",
        near.private_file.display(),
        far.public,
    );
    for number in 0..peers {
        let mut key = [9; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        writeln!(
            text,
            "      p{number}: {{ public_key: \"{}\", endpoint: {}:9, persistent_keepalive: 25s }}",
            STANDARD.encode(key),
            Ipv4Addr::from(0x0a40_0000 + number),
        )?;
    }
    Ok(text)
}

/// Handshakes that came to the dead port.
fn calls(far: &Namespace) -> Result<u64> {
    let list = far.run(&["nft", "list", "table", "ip", "dead"], SPELL)?;
    let count = list.split("counter packets ").nth(1);
    let count = count.and_then(|rest| rest.split_whitespace().next());
    Ok(count.context("no counter")?.parse()?)
}

/// What the control core's thread has had of processors.
fn processor_time(culvert: &mut Culvert) -> Result<Duration> {
    let pid = culvert.process().pid();
    let stat = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat"))?;
    let nanos = stat.split_whitespace().next().context("no time")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}

fn now() -> Result<Now> {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(Now {
        monotonic: Moment::from_nanos(u64::try_from(unix.as_nanos())?),
        unix,
    })
}

/// A handshake of the living peer's, and how long its answer takes.
fn call(keys: &[Keys; 2]) -> Result<Duration> {
    let [near, far] = keys;
    let own = STANDARD.decode(fs::read_to_string(&far.private_file)?.trim())?;
    let own = PrivateKey::from_bytes(own[..].try_into()?);
    let other = STANDARD.decode(&near.public)?;
    let socket = UdpSocket::bind("192.0.2.2:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let random = Box::new(rand_core::UnwrapErr(getrandom::SysRng));
    let mut device = Device::new(Default::default(), Some(own), random);
    let peer = device.add_peer(
        PeerConfig {
            public_key: PublicKey::from_bytes(other[..].try_into()?),
            preshared_key: PresharedKey::default(),
            persistent_keepalive: None,
            endpoint: Some("192.0.2.1:51820".parse()?),
        },
        now()?,
    )?;
    device.initiate(peer, now()?);
    device.handle_calls(&mut Budget::default(), 1, now()?);
    let message = device.poll_transmit().context("no message")?;
    let begin = Instant::now();
    socket.send_to(message.bytes(), message.to)?;
    let mut buffer = [0; 2_048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).context("no answer")?;
        let verdict = device.handle_handshake(&buffer[..len], from, 0, now()?);
        if matches!(verdict, Handshake::ResponseAccepted(_)) {
            return Ok(begin.elapsed());
        }
    }
}
