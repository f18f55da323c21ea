//! `culvert responder` as an operator runs it: by its own words, its mistakes, its answers, Ctrl-C.
//!
//! ```text
//!   near: culvert responder, net_af_packet on wan0, 192.0.2.7 ═══ cable ═══ 192.0.2.2, 198.51.100.2 :far, Linux
//! ```

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_tests::{
    Namespace, Part, Process, Scenario, Veth, bounded, culvert_binary, eventually, ping, run,
};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(30);
const DEVICE: &str = "net_af_packet0,iface=wan0";

fn responder(words: &str) -> Result<(i32, String)> {
    let mut command = Command::new(culvert_binary()?);
    command.arg("responder").args(words.split_whitespace());
    let (status, out, err) = bounded(&mut command, PATIENCE)?;
    Ok((status.code().unwrap_or(-1), out + &err))
}

/// What is wrong is said, ahead of any device.
#[test]
fn a_responder_says_what_it_is_and_what_is_wrong() -> Result<()> {
    let (status, told) = responder("--help")?;
    ensure!(status == 0, "{status}: {told}");
    for word in [
        "DEVICE",
        "ADDRESS/LEN",
        "--allow",
        "--via",
        "--mtu",
        "--run-dir",
    ] {
        ensure!(told.contains(word), "no {word} in {told}");
    }
    let allow = "--allow 192.0.2.0/24";
    for (words, wanted) in [
        (String::new(), "<DEVICE>"),
        (format!("{DEVICE} {allow}"), "<ADDRESS/LEN>"),
        (format!("{DEVICE} 192.0.2.7/24"), "--allow"),
        (format!("{DEVICE} 192.0.2.7 {allow}"), "192.0.2.7"),
        (
            format!("{DEVICE} 192.0.2.7/24 --allow everybody"),
            "everybody",
        ),
        (format!("eth1 192.0.2.7/24 {allow}"), "`device`"),
        (
            format!("{DEVICE} 192.0.2.7/24 --via 203.0.113.1 {allow}"),
            "203.0.113.1, which is not on the uplink's link",
        ),
        (format!("{DEVICE} 192.0.2.7/24 --mtu 99 {allow}"), "`mtu`"),
        (format!("{DEVICE} 224.0.0.1/24 {allow}"), "224.0.0.1"),
    ] {
        let (status, told) = responder(&words)?;
        ensure!(
            status != 0 && told.contains(wanted),
            "{words}: {status}: {told}"
        );
        ensure!(!told.contains("panicked"), "{words}: {told}");
    }
    Ok(())
}

struct Site {
    near: Namespace,
    far: Namespace,
}

impl Site {
    fn lay() -> Result<Self> {
        let (near, far) = (Namespace::make("near")?, Namespace::make("far")?);
        let wire = Veth::join(&near, &far)?;
        for address in ["192.0.2.2/24", "192.0.2.77/24", "2001:db8::2/64"] {
            wire.address(&far, address)?;
        }
        Ok(Self { near, far })
    }

    fn start(&self, scenario: &Scenario, name: &str, words: &str) -> Result<Process> {
        let mut command = self.near.program(culvert_binary()?);
        command.arg("responder").args(words.split_whitespace());
        command.arg("--run-dir").arg(scenario.path("run"));
        Process::start(name, scenario.scratch(), command)
    }

    /// What comes back of bytes from an address to the echo.
    fn echo(&self, from: &str, to: &str) -> Result<Vec<u8>> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
        self.far.enter(|| {
            use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
            let family = if to.is_ipv4() {
                AddressFamily::INET
            } else {
                AddressFamily::INET6
            };
            let socket = socket(family, SocketType::STREAM, None)?;
            bind(&socket, &from)?;
            connect(&socket, &to)?;
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"is anybody there?")?;
            stream.shutdown(Shutdown::Write)?;
            let mut came = Vec::new();
            stream.read_to_end(&mut came)?;
            Ok(came)
        })
    }
}

#[test]
fn a_responder_answers_until_it_is_ended() -> Result<()> {
    let name = "a_responder_answers_until_it_is_ended";
    Scenario::run(name, &[Part::Root], |scenario| {
        let site = Site::lay()?;
        let words = format!(
            "{DEVICE} 192.0.2.7/24 2001:db8::7/64 --via 192.0.2.2 --allow 192.0.2.0/28 --allow 2001:db8::/64 --allow 198.51.100.0/24"
        );
        let mut process = site.start(scenario, "responder", &words)?;
        eventually("an answer to ping", PATIENCE, || {
            process.must_run()?;
            Ok(ping(&site.far, "192.0.2.7", 1, "").ok())
        })?;
        for (from, to) in [
            ("192.0.2.2:0", "192.0.2.7:7"),
            ("[2001:db8::2]:0", "[2001:db8::7]:7"),
        ] {
            ensure!(site.echo(from, to)? == b"is anybody there?", "{to}");
            let (from, to): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
            let came = site.far.enter(|| {
                let socket = UdpSocket::bind(from)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send_to(b"and here?", to)?;
                let mut bytes = [0; 64];
                let (count, who) = socket.recv_from(&mut bytes)?;
                ensure!(who == to, "{who}");
                Ok(bytes[..count].to_vec())
            })?;
            ensure!(came == b"and here?", "{to}");
        }
        // By the router, to whom is not on the link.
        site.far.ip("address add 198.51.100.9/32 dev lo")?;
        ensure!(site.echo("198.51.100.9:0", "192.0.2.7:7")? == b"is anybody there?");
        // Who is not allowed is refused, as by a port of nobody's.
        let refused = site.echo("192.0.2.77:0", "192.0.2.7:7");
        ensure!(refused.is_err(), "{refused:?}");

        // It is seen as any other, and a second one at its place is refused.
        let show = |words: &[&str]| -> Result<String> {
            let mut command = Command::new(culvert_binary()?);
            command
                .args(words)
                .arg("--run-dir")
                .arg(scenario.path("run"));
            run(&mut command, PATIENCE)
        };
        let told = show(&["show"])?;
        ensure!(told.contains("wan"), "{told}");
        let told = show(&["show", "drops"])?;
        ensure!(told.contains("host-tcp-not-allowed"), "{told}");
        let mut second = site.start(scenario, "second", &words)?;
        let status = second.wait(PATIENCE)?;
        ensure!(!status.success(), "a second one: {status}");

        // Ctrl-C.
        process.signal(Signal::INT)?;
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "{status}: {}", process.log());
        let log = process.log();
        ensure!(log.contains("ended") && !log.contains("panicked"), "{log}");
        let left: Vec<_> = std::fs::read_dir(scenario.path("run"))
            .context("the run directory")?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .filter(|name| name.ends_with(".sock"))
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

/// A device that can't be had is named, and so is what mends it.
#[test]
fn a_responder_without_its_device_ends_in_a_sentence() -> Result<()> {
    let name = "a_responder_without_its_device_ends_in_a_sentence";
    Scenario::run(name, &[Part::Root], |scenario| {
        let site = Site::lay()?;
        let words = "net_af_packet0,iface=nobodys 192.0.2.7/24 --allow 192.0.2.0/24";
        let mut process = site.start(scenario, "responder", words)?;
        let status = process.wait(PATIENCE)?;
        let log = process.log();
        ensure!(!status.success(), "{status}: {log}");
        ensure!(
            log.contains("net_af_packet0") && !log.contains("panicked"),
            "{log}"
        );
        Ok(())
    })
}
