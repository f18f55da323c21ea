//! What a byte costs that the stack's own TCP receives, beside the kernel's.
//!
//! In: a host on the link and the address of a responder; a namespace whose kernel listens. Out: processor seconds per
//! gigabyte, of Culvert alone and of the machine, sender and cable included.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::{Namespace, eventually};

use super::{Plain, SOON, tell};

const LEN: usize = 512 << 20;
const GIGABYTE: f64 = 1e9;
/// `USER_HZ` of every kernel.
const TICKS: f64 = 100.0;

/// Sends to the responder at `to`, then to a kernel as far away.
pub(super) fn measure(
    (far, plain): (&Namespace, &Plain),
    to: SocketAddr,
    pid: u32,
    json: bool,
) -> Result<()> {
    eventually("a responder", SOON, || {
        Ok(far.enter(|| send(to, 1_000)).ok())
    })?;
    let (process, machine) = (process_seconds(pid)?, machine_seconds()?);
    far.enter(|| send(to, LEN))?;
    let per_gb = |spent: f64| spent / (LEN as f64 / GIGABYTE);
    let process = per_gb(process_seconds(pid)? - process);
    let machine = per_gb(machine_seconds()? - machine);
    let reference = per_gb(kernel(plain)?);
    tell(json, "tcp/received/process", "s/GB", process, None);
    tell(
        json,
        "tcp/received/machine",
        "s/GB",
        machine,
        Some(("kernel", reference)),
    );
    Ok(())
}

/// Sends so many bytes, and waits until the far end has had them all.
fn send(to: SocketAddr, len: usize) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SOON)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    let bytes = vec![0; 64 << 10];
    let mut left = len;
    while left > 0 {
        let part = left.min(bytes.len());
        stream.write_all(&bytes[..part])?;
        left -= part;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let rest = stream.read(&mut [0; 1])?;
    ensure!(rest == 0, "an answer of who discards");
    Ok(())
}

/// What the machine spends on the same bytes from a kernel to another.
fn kernel(Plain { near, far }: &Plain) -> Result<f64> {
    let listener = near.enter(|| Ok(TcpListener::bind("192.0.2.7:9")?))?;
    let to = listener.local_addr()?;
    let reader = thread::spawn(move || discard(&listener));
    far.enter(|| send(to, 1_000))?;
    let before = machine_seconds()?;
    far.enter(|| send(to, LEN))?;
    let spent = machine_seconds()? - before;
    reader
        .join()
        .unwrap_or_else(|_| bail!("the reader panicked"))?;
    Ok(spent)
}

/// Two connections, one after the other.
fn discard(listener: &TcpListener) -> Result<()> {
    let mut bytes = vec![0; 64 << 10];
    for _ in 0..2 {
        let (mut stream, _) = listener.accept()?;
        while stream.read(&mut bytes)? > 0 {}
    }
    Ok(())
}

/// Processor time of all threads of a process.
fn process_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a process' fields")?;
    let fields: Vec<_> = fields.split(' ').collect();
    // `utime` and `stime` of proc(5), without the two fields before.
    let ticks: Result<Vec<f64>, _> = fields[11..13].iter().map(|field| field.parse()).collect();
    Ok(ticks?.iter().sum::<f64>() / TICKS)
}

/// Processor time that the machine did not idle.
fn machine_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("a line")?;
    let ticks: Result<Vec<f64>, _> = line.split_whitespace().skip(1).map(str::parse).collect();
    let ticks = ticks?;
    // user, nice, system, then idle and iowait, then irq and softirq.
    Ok((ticks[..3].iter().sum::<f64>() + ticks[5..7].iter().sum::<f64>()) / TICKS)
}
