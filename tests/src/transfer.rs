//! What guests send each other: a file whose sum is compared, datagrams that come back.
//!
//! In: two guests and an address. Out: figures; any difference is an error.
//! Never: a judgement of speed.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::guest::Guest;
use crate::process::Limit;

/// A guest under TCG moves, seals and sums some megabytes a second at its worst.
const TRANSFER: Limit = Duration::from_secs(180);
const COMMAND: Limit = Duration::from_secs(60);

/// A finished transfer.
#[derive(Clone, Debug)]
pub struct Moved {
    /// Payload bytes.
    pub bytes: u64,
    /// From the sender's start to the receiver's end.
    pub took: Duration,
    /// The sum that both sides found.
    pub sha256: String,
}

impl Moved {
    /// Payload megabits per second.
    pub fn megabits_per_second(&self) -> f64 {
        // A count of bytes below 2^53 is exact.
        #[expect(clippy::cast_precision_loss, reason = "megabytes, not exabytes")]
        let bits = self.bytes as f64 * 8.0;
        bits / self.took.as_secs_f64() / 1e6
    }
}

/// Sends `megabytes` of random bytes over TCP to `address`, which is `to`'s, and compares SHA-256.
pub fn tcp_transfer(
    from: &mut Guest,
    to: &mut Guest,
    address: &str,
    megabytes: u32,
) -> Result<Moved> {
    let (family, address) = bracketed(address);
    to.sh(
        &format!("rm -f /tmp/sum; (socat -u -T 60 TCP{family}-LISTEN:9000,reuseaddr - | sha256sum >/tmp/sum.new; mv /tmp/sum.new /tmp/sum) >/dev/null 2>&1 &"),
        COMMAND,
    )?;
    from.sh(
        &format!("dd if=/dev/urandom of=/tmp/file bs=1M count={megabytes} 2>/dev/null"),
        TRANSFER,
    )?;
    let sent = from.sh("sha256sum </tmp/file", TRANSFER)?;
    // The listener needs a moment under TCG; connecting is tried again meanwhile.
    let start = Instant::now();
    from.sh(
        &format!("socat -u -T 60 OPEN:/tmp/file TCP{family}:{address}:9000,retry=20,interval=0.2"),
        TRANSFER,
    )?;
    let took = start.elapsed();
    let received = to.sh(
        "for i in $(seq 300); do [ -f /tmp/sum ] && break; sleep 0.1; done; cat /tmp/sum",
        TRANSFER,
    )?;
    from.sh("rm -f /tmp/file", COMMAND)?;
    ensure!(
        sent == received && sent.len() > 64,
        "SHA-256 differs: sent {sent}, received {received}"
    );
    Ok(Moved {
        bytes: u64::from(megabytes) << 20,
        took,
        sha256: sent.split(' ').next().unwrap_or_default().to_owned(),
    })
}

/// Sends datagrams of growing length to the other guest's echo service and compares what comes back.
/// Gives their number.
pub fn udp_exchange(from: &mut Guest, address: &str) -> Result<u32> {
    let (family, address) = bracketed(address);
    let lengths = [1, 64, 512, 1200, 1372];
    for length in lengths {
        let script = format!(
            "head -c {length} /dev/urandom >/tmp/out; socat -T 3 -t 3 -b 65000 - UDP{family}:{address}:7,shut-none </tmp/out >/tmp/in & \
             for i in $(seq 60); do cmp -s /tmp/out /tmp/in && exit 0; sleep 0.05; done; wc -c /tmp/out /tmp/in; exit 1"
        );
        from.sh(&script, COMMAND)?;
    }
    Ok(u32::try_from(lengths.len())?)
}

/// socat's family suffix and its spelling of the address.
fn bracketed(address: &str) -> (u8, String) {
    if address.contains(':') {
        (6, format!("[{address}]"))
    } else {
        (4, address.to_owned())
    }
}
