//! A Linux guest in QEMU, and a way to run commands in it.
//!
//! In: the image of `scripts/guest-image`, a network card, addresses. Out: a running guest; the output and exit
//! status of commands run inside.
//! Never: a network path of its own into the guest: commands travel over its second serial port, so that what is
//! tested is not needed for the test.
//!
//! Commands run one after the other. A long one goes to the background of its shell with its output in a file.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::needs::{guest_image, target};
use crate::network::Namespace;
use crate::process::{Limit, Process, eventually, program, tail};
use crate::scenario::Scenario;

/// The real ping inside a guest: a bare `ping` is busybox's, which can neither flood nor set DF.
pub const PING: &str = "/usr/bin/ping";

/// How a guest's network card is attached.
#[derive(Clone, Debug)]
pub enum Nic {
    /// vhost-user: QEMU connects to `socket` (and reconnects), or listens on it.
    VhostUser {
        /// The socket's path.
        socket: PathBuf,
        /// QEMU listens; else it connects.
        qemu_listens: bool,
        /// Queue pairs.
        queues: u16,
    },
    /// A TAP interface in a namespace.
    Tap {
        /// The namespace's name.
        namespace: String,
        /// The interface's name.
        interface: String,
    },
}

/// The addresses that the guest gives to its card.
#[derive(Clone, Debug, Default)]
pub struct Addressing {
    /// Address with prefix length.
    pub ip4: Option<String>,
    /// Default gateway.
    pub gateway4: Option<String>,
    /// Address with prefix length.
    pub ip6: Option<String>,
    /// Default gateway.
    pub gateway6: Option<String>,
}

/// What a guest boots, all with one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Image {
    /// That of `scripts/guest-image`, which has the addresses that it is given.
    #[default]
    Small,
    /// That of `scripts/cloud-guest`, which asks for some.
    Cloud,
}

impl Image {
    /// How long it may take to be up: TCG on a busy machine boots the small one in 4 to 15 seconds.
    const fn patience(self) -> Limit {
        match self {
            Self::Small => Duration::from_secs(90),
            Self::Cloud => Duration::from_secs(360),
        }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Small => "initrd",
            Self::Cloud => "cloud-initrd",
        }
    }
}

/// A guest to be booted.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// Its name in logs.
    pub name: String,
    /// Its card's MAC address.
    pub mac: String,
    /// Its card.
    pub nic: Nic,
    /// Its addresses.
    pub addressing: Addressing,
    /// More properties of the virtio-net device, each with a comma before it.
    pub device_options: String,
    /// What it boots.
    pub image: Image,
    /// It doesn't boot, but waits on this socket for the guest that [`Guest::migrate`] sends.
    pub incoming: Option<PathBuf>,
}

/// A running guest.
#[derive(Debug)]
pub struct Guest {
    name: String,
    image: Image,
    qemu: Process,
    console: PathBuf,
    agent: UnixStream,
    /// Its monitor's socket, and the monitor once it is asked anything: a QEMU that waits for its network doesn't
    /// answer before.
    monitor: (PathBuf, Option<Monitor>),
    /// Bytes from the agent, not yet a whole line.
    pending: Vec<u8>,
    serial: u32,
}

impl Guest {
    /// Starts QEMU. Returns before the guest is up: see [`Guest::wait_up`].
    pub fn start(scenario: &Scenario, spec: &GuestSpec) -> Result<Self> {
        let mut guest = Self::launch(scenario, &spec.name, qemu(spec)?)?;
        guest.image = spec.image;
        Ok(guest)
    }

    /// Starts a QEMU with a machine of another kind, which boots the same image.
    pub(crate) fn launch(scenario: &Scenario, name: &str, mut command: Command) -> Result<Self> {
        let console = scenario.path(&format!("{name}-console.log"));
        let agent = scenario.path(&format!("{name}-agent.sock"));
        let terminal = scenario.path(&format!("{name}-console.sock"));
        // A restart under the same name must not connect to the first life's socket.
        let _ = std::fs::remove_file(&agent);
        let monitor = scenario.path(&format!("{name}-qmp.sock"));
        let _ = std::fs::remove_file(&monitor);
        for (id, socket, log) in [
            ("con", &terminal, format!(",logfile={}", console.display())),
            ("agent", &agent, String::new()),
        ] {
            command.arg("-chardev").arg(format!(
                "socket,id={id},path={},server=on,wait=off{log}",
                socket.display()
            ));
            command.args(["-serial", &format!("chardev:{id}")]);
        }
        command.arg("-qmp");
        command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
        let mut qemu = Process::start(&format!("{name}-qemu"), scenario.scratch(), command)?;
        let agent = eventually("QEMU's agent socket", Duration::from_secs(20), || {
            qemu.must_run()?;
            Ok(UnixStream::connect(&agent).ok())
        })?;
        agent.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok(Self {
            name: name.to_owned(),
            image: Image::Small,
            qemu,
            console,
            agent,
            monitor: (monitor, None),
            pending: Vec::new(),
            serial: 0,
        })
    }

    /// Starts QEMU and waits until the guest takes commands.
    pub fn boot(scenario: &Scenario, spec: &GuestSpec) -> Result<Self> {
        let mut guest = Self::start(scenario, spec)?;
        guest.wait_up()?;
        Ok(guest)
    }

    /// Waits until the guest (again) takes commands.
    pub fn wait_up(&mut self) -> Result<()> {
        let patience = self.image.patience();
        let deadline = Instant::now() + patience;
        while let Some(line) = self.line(deadline)? {
            // The serial port's first bytes may be noise: the sentence need not begin the line.
            if String::from_utf8_lossy(&line).contains("culvert: guest is up") {
                return Ok(());
            }
        }
        bail!(
            "guest {} was not up after {patience:?}; its console:\n{}",
            self.name,
            self.console_tail()
        )
    }

    /// Runs a shell command inside: its exit status, and its output with what it said on standard error.
    pub fn run(&mut self, command: &str, limit: Limit) -> Result<(i32, String)> {
        self.serial += 1;
        let request = format!("{} {}\n", self.serial, BASE64.encode(command));
        // The guest's terminal holds 4095 bytes of a line.
        ensure!(
            request.len() < 4000,
            "too long for the guest's serial port: {command}"
        );
        self.agent.write_all(request.as_bytes())?;
        let deadline = Instant::now() + limit;
        while let Some(line) = self.line(deadline)? {
            if let Some(reply) = parse_reply(&line, self.serial) {
                return Ok(reply);
            }
            ensure!(
                !String::from_utf8_lossy(&line).contains("culvert: guest is up"),
                "guest {} rebooted during: {command}",
                self.name
            );
        }
        bail!(
            "guest {} did not finish within {limit:?}: {command}\nits console:\n{}",
            self.name,
            self.console_tail()
        )
    }

    /// Runs a shell command that must succeed, and gives its output.
    pub fn sh(&mut self, command: &str, limit: Limit) -> Result<String> {
        let (status, output) = self.run(command, limit)?;
        ensure!(
            status == 0,
            "in guest {}: `{command}` ended with {status}\n{output}",
            self.name
        );
        Ok(output)
    }

    /// Pings an address until the first answer.
    pub fn wait_ping(&mut self, to: &str, limit: Limit) -> Result<()> {
        let what = format!("an answer from {to} to a ping of {}", self.name);
        let command = format!("{PING} -c 1 -W 1 {to}");
        eventually(&what, limit, || {
            let (status, _) = self.run(&command, Duration::from_secs(10))?;
            Ok((status == 0).then_some(()))
        })
    }

    /// Pings an address `count` times; every ping must be answered. Gives the mean round trip in milliseconds.
    pub fn ping(&mut self, to: &str, count: u32) -> Result<f64> {
        let output = self.sh(
            &format!("{PING} -q -c {count} -i 0.1 -W 2 {to}"),
            Duration::from_secs(10 + u64::from(count)),
        )?;
        ensure!(output.contains(" 0% packet loss"), "{output}");
        let mean = output
            .rsplit_once("= ")
            .and_then(|(_, figures)| figures.split('/').nth(1)?.parse().ok());
        mean.with_context(|| format!("no round-trip time in: {output}"))
    }

    /// Reboots the guest as its own `reboot` would, without waiting for it to come back.
    pub fn reboot(&mut self) -> Result<()> {
        self.serial += 1;
        let request = format!("{} {}\n", self.serial, BASE64.encode("reboot -f"));
        self.agent.write_all(request.as_bytes())?;
        Ok(())
    }

    /// Pulls the cable out of a network card, or puts it in again; `id` is the device's.
    pub fn set_link(&mut self, id: &str, up: bool) -> Result<()> {
        self.ask("set_link", json!({ "name": id, "up": up }))?;
        Ok(())
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let (socket, monitor) = &mut self.monitor;
        let monitor = match monitor {
            Some(monitor) => monitor,
            None => monitor.insert(Monitor::new(UnixStream::connect(socket)?)?),
        };
        monitor.ask(command, arguments)
    }

    /// Sends the running guest to a QEMU that waits on `socket` ([`GuestSpec::incoming`]); `megabytes` a second of
    /// its memory. Returns when nothing of it is left here but a QEMU to be ended.
    pub fn migrate(
        &mut self,
        socket: &std::path::Path,
        megabytes: u64,
        limit: Limit,
    ) -> Result<Migrated> {
        self.ask(
            "migrate-set-parameters",
            json!({ "max-bandwidth": megabytes << 20 }),
        )?;
        let uri = format!("unix:{}", socket.display());
        self.ask("migrate", json!({ "uri": uri }))?;
        let what = format!("the end of the migration of {}", self.name);
        eventually(&what, limit, || {
            let state = self.ask("query-migrate", json!({}))?;
            match state["status"].as_str() {
                Some("completed") => Ok(Some(Migrated {
                    rounds: state["ram"]["dirty-sync-count"].as_u64().unwrap_or(0),
                    sent: state["ram"]["transferred"].as_u64().unwrap_or(0),
                    downtime: Duration::from_millis(state["downtime"].as_u64().unwrap_or(0)),
                })),
                Some("failed" | "cancelled") => bail!("{state}"),
                _ => Ok(None),
            }
        })
    }

    /// Waits until the guest that was sent here runs.
    pub fn wait_arrived(&mut self, limit: Limit) -> Result<()> {
        let what = format!("the guest's life at {}", self.name);
        eventually(&what, limit, || {
            let state = self.ask("query-status", json!({}))?;
            Ok((state["running"] == true).then_some(()))
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its QEMU.
    pub fn qemu(&mut self) -> &mut Process {
        &mut self.qemu
    }

    fn console_tail(&self) -> String {
        let text = std::fs::read(&self.console).unwrap_or_default();
        tail(&String::from_utf8_lossy(&text), 30)
    }

    /// One line from the agent, without its end; `None` when the deadline has passed.
    fn line(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=end).collect();
                line.pop();
                return Ok(Some(line));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            let mut chunk = [0; 4096];
            match self.agent.read(&mut chunk) {
                Ok(0) => {
                    self.qemu.must_run()?;
                    bail!("QEMU closed the serial port of guest {}", self.name);
                }
                Ok(length) => self.pending.extend_from_slice(&chunk[..length]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    self.qemu.must_run()?;
                }
                Err(error) => return Err(error).context("the guest's serial port"),
            }
        }
    }
}

/// What QEMU says of a migration.
#[derive(Clone, Copy, Debug)]
pub struct Migrated {
    /// How often it looked through the logs for what was written meanwhile.
    pub rounds: u64,
    /// Bytes of memory that it sent.
    pub sent: u64,
    /// How long the guest stood still.
    pub downtime: Duration,
}

/// QEMU's monitor: a command and its answer, one line of JSON each (QMP).
#[derive(Debug)]
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut monitor = Self(BufReader::new(stream));
        monitor.line()?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{request}")?;
        loop {
            // Events come in between.
            let mut answer = self.line()?;
            ensure!(answer["error"].is_null(), "{command}: {answer}");
            if answer.get("return").is_some() {
                return Ok(answer["return"].take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line).context("QEMU's monitor")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor said: {line}"))
    }
}

/// `RS <id> <status> <base64>`, wherever the line has its RS.
fn parse_reply(line: &[u8], id: u32) -> Option<(i32, String)> {
    let start = line.iter().rposition(|byte| *byte == 0x1e)? + 1;
    let text = std::str::from_utf8(&line[start..]).ok()?;
    let mut words = text.trim_end().split(' ');
    if words.next()?.parse::<u32>().ok()? != id {
        return None;
    }
    let status = words.next()?.parse().ok()?;
    let output = BASE64.decode(words.next().unwrap_or_default()).ok()?;
    Some((status, String::from_utf8_lossy(&output).into_owned()))
}

fn qemu(spec: &GuestSpec) -> Result<Command> {
    let image = guest_image();
    let accelerator = std::fs::read_to_string(image.join("accel")).with_context(|| {
        format!(
            "no guest image in {}; run: scripts/guest-image",
            target().display()
        )
    })?;
    let kvm = accelerator.trim() == "kvm";
    let mut words: Vec<String> = if kvm {
        words("-accel kvm -cpu host")
    } else {
        words("-accel tcg,thread=single -cpu max")
    };
    words.extend(self::words(
        "-machine q35 -smp 1 -m 256M -object memory-backend-memfd,id=mem0,size=256M,share=on -numa node,memdev=mem0 \
         -nodefaults -no-user-config -display none",
    ));
    // With message-signalled interrupts, QEMU 7.2 under TCG crashes when vhost-user starts.
    let vectors = if kvm { "" } else { ",vectors=0" };
    let mut device = format!(
        "virtio-net-pci,netdev=n0,mac={}{vectors}{}",
        spec.mac, spec.device_options
    );
    let (namespace, netdev) = match &spec.nic {
        Nic::VhostUser {
            socket,
            qemu_listens,
            queues,
        } => {
            let role = if *qemu_listens {
                "server=on,wait=off".to_owned()
            } else {
                reconnect()?
            };
            words.extend([
                "-chardev".into(),
                format!("socket,id=c0,path={},{role}", socket.display()),
            ]);
            if *queues > 1 {
                device.push_str(",mq=on");
            }
            (
                None,
                format!("vhost-user,id=n0,chardev=c0,vhostforce=on,queues={queues}"),
            )
        }
        Nic::Tap {
            namespace,
            interface,
        } => (
            Some(namespace.as_str()),
            format!("tap,id=n0,ifname={interface},script=no,downscript=no"),
        ),
    };
    words.extend(["-netdev".into(), netdev, "-device".into(), device]);
    let mut line = String::from("console=ttyS0 quiet panic=-1 no_timer_check");
    let addressing = &spec.addressing;
    for (name, value) in [
        ("ip4", &addressing.ip4),
        ("gw4", &addressing.gateway4),
        ("ip6", &addressing.ip6),
        ("gw6", &addressing.gateway6),
    ] {
        if let Some(value) = value {
            line.push_str(&format!(" culvert.{name}={value}"));
        }
    }
    words.extend([
        "-kernel".into(),
        image.join("vmlinuz").display().to_string(),
        "-initrd".into(),
        image.join(spec.image.file()).display().to_string(),
        "-append".into(),
        line,
    ]);
    if let Some(socket) = &spec.incoming {
        words.extend(["-incoming".into(), format!("unix:{}", socket.display())]);
    }
    let mut command = program(namespace, "qemu-system-x86_64");
    command.args(words);
    Ok(command)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// QEMU 9.2 renamed the option that lets a chardev reconnect, and deprecated the old one.
fn reconnect() -> Result<String> {
    let text = crate::process::run(
        Command::new("qemu-system-x86_64").arg("--version"),
        Duration::from_secs(10),
    )?;
    let version = text.split_whitespace().nth(3).unwrap_or_default();
    let mut numbers = version
        .split('.')
        .map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(if version >= (9, 2) {
        "reconnect-ms=500".into()
    } else {
        "reconnect=1".into()
    })
}

impl Nic {
    /// A new TAP interface in `namespace`.
    pub fn tap(namespace: &Namespace, interface: &str) -> Result<Self> {
        namespace.ip(&format!("tuntap add {interface} mode tap"))?;
        namespace.ip(&format!("link set {interface} up"))?;
        Ok(Self::Tap {
            namespace: namespace.name().to_owned(),
            interface: interface.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::parse_reply;

    #[test]
    fn a_reply_survives_noise_before_it() {
        let reply = parse_reply(b"\xff\x00junk\x1e7 1 aGkK\r", 7);
        assert_eq!(reply, Some((1, "hi\n".to_owned())));
    }

    #[test]
    fn another_commands_reply_is_not_ours() {
        assert_eq!(parse_reply(b"\x1e6 0 aGkK", 7), None);
        assert_eq!(parse_reply(b"7 0 aGkK", 7), None);
    }

    #[test]
    fn no_output_is_an_empty_text() {
        assert_eq!(parse_reply(b"\x1e3 0 ", 3), Some((0, String::new())));
    }
}
