//! Wide links of a DPDK uplink: 9,000 bytes at the cable, less in the middle, and nobody who says so.
//!
//! The hosts are those of [`super::narrow_told`]; the router drops its own ICMP, and the far end all fragments.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result};
use culvert_tests::{Part, Scenario};

use super::narrow::wait_found;
use super::narrow_told::{Ends, V4, V6};

const PARTS: [Part; 4] = [Part::Root, Part::Tun, Part::Iperf, Part::Nftables];
/// A search that ends with halves, three lost probes of each.
const SEARCH: Duration = Duration::from_secs(120);
/// What was found is confirmed once a minute.
const FALL: Duration = Duration::from_secs(180);
const WIDE: u16 = 9000;
/// The frames of its rings have to hold such packets.
const DPDK: &str = "{ driver: dpdk, device: \"net_af_packet0,iface=wan0,blocksz=65536,framesz=16384,framecnt=128\", mtu: MTU, \
                    addresses: [192.0.2.1/24, \"2001:db8:1::1/64\"], routes: [{ to: default, via: 192.0.2.254 }, \
                    { to: default, via: \"2001:db8:1::fe\" }] }";

#[test]
#[ignore = "minutes of searching: scripts/test --long"]
fn a_wide_dpdk_uplink_is_no_black_hole_in_silence() -> Result<()> {
    let name = "a_wide_dpdk_uplink_is_no_black_hole_in_silence";
    Scenario::run(name, &PARTS, |scenario| {
        let ends = Ends::lay_wide(scenario, DPDK, "probe", WIDE)?;
        ends.line.silence()?;
        for (at, middles) in [(V4, &[WIDE, 1400][..]), (V6, &[WIDE, 1500])] {
            ends.line.narrow(WIDE)?;
            ends.turn_to(at, "probe")?;
            for (n, &middle) in middles.iter().enumerate() {
                scenario.say(format!("to {at}, the middle lets {middle} bytes through"));
                ends.line.narrow(middle)?;
                // Who is not sent to is not searched.
                let mut pings = ends.line.a.program("ping");
                pings.args(["-q", "-i", "0.2", "-W", "1", "-w", "400", "10.9.1.10"]);
                let mut pings = pings.stdout(Stdio::null()).spawn()?;
                let limit = if n == 0 { SEARCH } else { FALL };
                // The tunnel's MTU over IPv4 leaves twenty bytes of the cable.
                let most = if at == V4 { WIDE - 20 } else { WIDE };
                let found = wait_found(&ends.near, middle.min(most), limit);
                pings.kill()?;
                pings.wait()?;
                found.with_context(|| {
                    format!("{:?}", ends.near.show().map(|it| it["peers"].to_string()))
                })?;
                ends.carries()?;
            }
        }
        Ok(())
    })
}
