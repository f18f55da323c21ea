//! More peers than a tunnel had when it began.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use culvert_tests::{Outer, Pair, Program, Scenario, ping};

const FIRST: Duration = Duration::from_secs(15);

/// A tunnel's tables grow under a session that goes on, and shrink to it again.
#[test]
fn peers_by_the_ten_thousand() -> Result<()> {
    const PEERS: u32 = 20_000;
    let parts = Program::under_test().parts();
    Scenario::run("peers_by_the_ten_thousand", &parts, |scenario| {
        let pair = Pair::lay(scenario, [Program::under_test(); 2])?;
        pair.meet(Outer::V4)?;
        let (a, b) = (&pair.a, &pair.b);
        a.wait_ping("10.0.0.2", FIRST)?;
        let session = a.tunnel.latest_handshake(b.public())?;
        let mut text = String::new();
        for number in 0..PEERS {
            let mut key = [9; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            let [_, high, middle, low] = number.to_be_bytes();
            writeln!(
                text,
                "[Peer]\nPublicKey = {}\nAllowedIPs = 10.{}.{middle}.{low}/32",
                BASE64_STANDARD.encode(key),
                64 + high
            )?;
        }
        a.tunnel.conf(scenario, "addconf", &text)?;
        ensure!(a.tunnel.peers()?.len() == PEERS as usize + 1);
        ping(&a.namespace, "10.0.0.2", 20, "")?;
        ensure!(
            a.tunnel.latest_handshake(b.public())? == session,
            "the session did not survive"
        );
        scenario.say("a new session is found, too");
        b.tunnel.set(&format!("peer {} remove", a.public()))?;
        b.tunnel.set(&format!(
            "peer {} preshared-key {} allowed-ips 10.0.0.1/32 endpoint 192.0.2.1:{}",
            a.public(),
            pair.preshared.display(),
            a.port
        ))?;
        b.wait_ping("10.0.0.1", FIRST)?;
        ping(&a.namespace, "10.0.0.2", 20, "")?;
        let key = format!("peer {} remove", BASE64_STANDARD.encode([9; 32]));
        ensure!(
            a.tunnel.try_set(&key)?.is_none(),
            "a peer that is not there"
        );
        Ok(())
    })
}
