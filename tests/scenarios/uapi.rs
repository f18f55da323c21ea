//! `wg` on a running Culvert: with a YAML file, where its changes are drift; and `culvert tun` in wireguard-go's place,
//! also under `wg-quick`.
//!
//! ```text
//!   quick a: wg-quick, 10.7.0.1 ── wan0 192.0.2.1 ═══ wan0 192.0.2.2 ── 10.7.0.2, wg-quick :quick b
//! ```

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Program, Scenario, Tunnel, Veth, bounded,
    culvert_binary, eventually, run,
};
use rustix::process::Signal;
use serde_json::Value;

const PARTS: [Part; 3] = [Part::Root, Part::Tun, Part::WireguardGo];
const COMMAND: Duration = Duration::from_secs(30);
/// How long something that must happen may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tunnel of a YAML file, with one peer in it.
struct Ruled {
    culvert: Culvert,
    namespace: Namespace,
    yaml: String,
    name: String,
    far: Keys,
}

/// The settings that are not as the file says.
type Drift = Vec<String>;

impl Ruled {
    fn start(scenario: &Scenario) -> Result<Self> {
        let namespace = Namespace::make("ruled")?;
        let (own, far) = (
            Keys::generate(scenario, "own")?,
            Keys::generate(scenario, "far")?,
        );
        // Sockets of all namespaces lie in one folder.
        let name = format!("cvu{:x}", std::process::id());
        let yaml = format!(
            "version: 1\n\
             uplinks: {{ wan0: {{ driver: udp }} }}\n\
             tunnels:\n  wg0:\n    uplink: wan0\n    listen_port: 51820\n    fwmark: 0x51\n    uapi: {name}\n    \
             private_key_file: {}\n    peers:\n      far:\n        public_key: \"{}\"\n        \
             endpoint: 127.0.0.1:9\n        allowed_ips: [10.8.0.0/16]\n        persistent_keepalive: 25s\n\
             networks: {{ blue: {{ gateway: [10.1.1.1/24], tunnel: wg0 }} }}\n",
            own.private_file.display(),
            far.public,
        );
        Ok(Self {
            culvert: Culvert::start(scenario, "ruled", Some(&namespace), &yaml)?,
            namespace,
            yaml,
            name,
            far,
        })
    }

    fn wg(&self, words: &str) -> Result<String> {
        let mut words = words.split_whitespace();
        let verb = words.next().context("a verb")?;
        let mut command = Command::new("wg");
        command.args([verb, &self.name]).args(words);
        run(command.env("WG_HIDE_KEYS", "never"), COMMAND)
    }

    fn socket(&self) -> PathBuf {
        socket(&self.name)
    }

    /// What drifted: at the tunnel, and at each peer by its name.
    fn drift(&self) -> Result<(Drift, Vec<(String, Drift)>)> {
        let show = self.culvert.show()?;
        let words = |value: &Value| -> Drift {
            let list = value.as_array().into_iter().flatten();
            list.filter_map(|word| Some(word.as_str()?.to_owned()))
                .collect()
        };
        let peers = show["peers"].as_array().context("peers")?.iter();
        let peers = peers.map(|peer| {
            let name = peer["name"].as_str().unwrap_or_default().to_owned();
            (name, words(&peer["drift"]))
        });
        Ok((words(&show["tunnels"][0]["drift"]), peers.collect()))
    }
}

impl Drop for Ruled {
    fn drop(&mut self) {
        // A process that is killed leaves its socket, in a folder that outlives the scenario.
        let _ = fs::remove_file(self.socket());
    }
}

fn socket(name: &str) -> PathBuf {
    format!("/var/run/wireguard/{name}.sock").into()
}

/// What a client that is not `wg` gets for this text.
fn say(socket: &Path, text: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn uapi_changes_are_drift_until_the_file_is_applied() -> Result<()> {
    let name = "uapi_changes_are_drift_until_the_file_is_applied";
    Scenario::run(name, &PARTS, |scenario| {
        let mut ruled = Ruled::start(scenario)?;
        let mode = fs::metadata(ruled.socket())?.permissions().mode();
        ensure!(mode & 0o777 == 0o600, "{mode:o}");
        let before = ruled.wg("show dump")?;
        let lines: Vec<Vec<&str>> = before.lines().map(|l| l.split('\t').collect()).collect();
        ensure!(lines[0][2..] == ["51820", "0x51"], "{before}");
        ensure!(lines[1][0] == ruled.far.public, "{before}");
        ensure!(lines[1][2..4] == ["127.0.0.1:9", "10.8.0.0/16"], "{before}");
        ensure!(lines[1][7] == "25", "{before}");
        ensure!(
            ruled.drift()? == (vec![], vec![("far".to_owned(), vec![])]),
            "{:?}",
            ruled.drift()
        );

        scenario.say("wg set: another peer takes half of the first one's prefixes");
        let other = Keys::generate(scenario, "other")?;
        let psk = other.preshared(scenario)?;
        ruled.wg(&format!(
            "set listen-port 0 fwmark 7 peer {} allowed-ips 10.8.0.0/16,fd00::/8 endpoint [::1]:7 preshared-key {}",
            other.public,
            psk.display()
        ))?;
        ruled.wg(&format!(
            "set peer {} persistent-keepalive off allowed-ips 10.9.0.0/16 endpoint 127.0.0.1:10",
            ruled.far.public
        ))?;
        let dump = ruled.wg("show dump")?;
        let lines: Vec<Vec<&str>> = dump.lines().map(|l| l.split('\t').collect()).collect();
        ensure!(
            lines[0][2] != "51820" && lines[0][2] != "0" && lines[0][3] == "0x7",
            "{dump}"
        );
        ensure!(
            lines[1][2..4] == ["127.0.0.1:10", "10.9.0.0/16"] && lines[1][7] == "off",
            "{dump}"
        );
        ensure!(lines[2][1] == fs::read_to_string(&psk)?.trim(), "{dump}");
        ensure!(
            lines[2][2..4] == ["[::1]:7", "10.8.0.0/16,fd00::/8"],
            "{dump}"
        );
        let sockets = ruled.namespace.run(&["ss", "-Huln"], COMMAND)?;
        ensure!(
            sockets.contains(&format!(":{}", lines[0][2])) && !sockets.contains(":51820"),
            "{sockets}"
        );

        let (tunnel, peers) = ruled.drift()?;
        ensure!(
            tunnel == ["listen_port (file: 51820)", "fwmark (file: 0x51)"],
            "{tunnel:?}"
        );
        ensure!(
            peers[0].1 == ["endpoint", "allowed_ips", "persistent_keepalive"],
            "{peers:?}"
        );
        ensure!(peers[1].1 == ["not in the file"], "{peers:?}");
        let table = ruled.culvert.call(&["show", "peers"])?;
        ensure!(
            table.contains("far: not as in the file: endpoint")
                && table.contains("not in the file\n"),
            "{table}"
        );

        scenario.say("what wg removes is drift, too, and comes back under its name");
        ruled.wg(&format!("set peer {} remove", ruled.far.public))?;
        ensure!(
            ruled.drift()?.0.contains(&"peer far removed".to_owned()),
            "{:?}",
            ruled.drift()
        );
        ruled.wg(&format!("set peer {}", ruled.far.public))?;
        ensure!(
            ruled.drift()?.1.iter().any(|(name, _)| name == "far"),
            "{:?}",
            ruled.drift()
        );

        scenario.say("the file's next apply");
        ruled.culvert.apply(&ruled.yaml)?;
        ensure!(
            ruled.drift()? == (vec![], vec![("far".to_owned(), vec![])]),
            "{:?}",
            ruled.drift()
        );
        let after = ruled.wg("show dump")?;
        let settings = |dump: &str| -> Vec<String> {
            let fields = dump.lines().map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                [&fields[..4], &fields[fields.len() - 1..]]
                    .concat()
                    .join(" ")
            });
            fields.collect()
        };
        ensure!(settings(&after) == settings(&before), "{after}\n{before}");
        ensure!(
            !ruled
                .culvert
                .call(&["show", "peers"])?
                .contains("in the file"),
            "the table still speaks of drift"
        );

        ruled.culvert.stop(PATIENCE)?;
        ensure!(!ruled.socket().exists(), "the socket is still there");
        Ok(())
    })
}

#[test]
fn uapi_whole_configurations() -> Result<()> {
    Scenario::run("uapi_whole_configurations", &PARTS, |scenario| {
        let ruled = Ruled::start(scenario)?;
        let key = fs::read_to_string(scenario.path("own.key"))?;
        let (one, two) = (
            Keys::generate(scenario, "one")?.public,
            Keys::generate(scenario, "two")?.public,
        );
        let file = scenario.path("whole.conf");
        let path = file.display().to_string();
        let peers = |ruled: &Ruled| -> Result<Vec<String>> {
            let text = ruled.wg("show allowed-ips")?;
            Ok(text.lines().map(str::to_owned).collect())
        };
        let interface = format!("[Interface]\nPrivateKey = {key}\nListenPort = 5353\n");
        let peer =
            |key: &str, nets: &str| format!("[Peer]\nPublicKey = {key}\nAllowedIPs = {nets}\n");

        scenario.say("setconf replaces everything");
        fs::write(&file, format!("{interface}{}", peer(&one, "10.1.0.0/16")))?;
        ruled.wg(&format!("setconf {path}"))?;
        ensure!(
            peers(&ruled)? == [format!("{one}\t10.1.0.0/16")],
            "{:?}",
            peers(&ruled)
        );
        ensure!(ruled.wg("show listen-port")?.trim() == "5353", "the port");
        ensure!(ruled.wg("show fwmark")?.trim() == "off", "the mark");

        scenario.say("addconf adds");
        fs::write(&file, peer(&two, "10.2.0.0/16, 10.1.0.0/16"))?;
        ruled.wg(&format!("addconf {path}"))?;
        let expected = [
            format!("{one}\t(none)"),
            format!("{two}\t10.1.0.0/16 10.2.0.0/16"),
        ];
        ensure!(peers(&ruled)? == expected, "{:?}", peers(&ruled));

        scenario.say("syncconf removes what is not there");
        fs::write(&file, format!("{interface}{}", peer(&two, "10.2.0.0/16")))?;
        ruled.wg(&format!("syncconf {path}"))?;
        ensure!(
            peers(&ruled)? == [format!("{two}\t10.2.0.0/16")],
            "{:?}",
            peers(&ruled)
        );

        scenario.say("showconf reads back");
        let shown = ruled.wg("showconf")?;
        fs::write(&file, &shown)?;
        ruled.wg(&format!("setconf {path}"))?;
        ensure!(ruled.wg("showconf")? == shown, "{shown}");

        scenario.say("the private key is cleared");
        ruled.wg("set private-key /dev/null")?;
        ensure!(
            ruled.wg("show private-key")?.trim() == "(none)",
            "a key is left"
        );
        Ok(())
    })
}

#[test]
fn uapi_errors_and_hostile_clients() -> Result<()> {
    Scenario::run("uapi_errors_and_hostile_clients", &PARTS, |scenario| {
        let ruled = Ruled::start(scenario)?;
        let at = ruled.socket();
        let taken = ruled
            .namespace
            .enter(|| Ok(std::net::UdpSocket::bind("0.0.0.0:7000")?))?;
        for (text, expected) in [
            ("set=1\nlisten_port=7000\n\n", "errno=-98\n\n"),
            ("set=1\nlisten_port=70000\n\n", "errno=-22\n\n"),
            ("set=1\nnonsense=1\n\n", "errno=-22\n\n"),
            ("set=1\nnonsense\n\n", "errno=-71\n\n"),
            ("set=1\n\n", "errno=0\n\n"),
            ("what=1\n\n", "errno=-71\n\n"),
        ] {
            let answer = say(&at, text)?;
            ensure!(answer == expected, "{text:?}: {answer:?}");
        }
        drop(taken);

        scenario.say("what stands before the wrong line counts");
        let answer = say(&at, "set=1\nfwmark=99\nlisten_port=x\nfwmark=98\n\n")?;
        ensure!(answer == "errno=-22\n\n", "{answer:?}");
        ensure!(
            ruled.wg("show fwmark")?.trim() == "0x63",
            "{}",
            ruled.wg("show fwmark")?
        );

        scenario.say("its own key as a peer is passed over");
        let own = ruled.wg("show public-key")?;
        ruled.wg(&format!("set peer {} allowed-ips 10.0.0.0/8", own.trim()))?;
        ensure!(ruled.wg("show peers")?.trim() == ruled.far.public, "{own}");

        scenario.say("clients that never end their line, one that never stops");
        let mut hostile = Vec::new();
        for _ in 0..50 {
            let mut stream = UnixStream::connect(&at)?;
            stream.write_all(b"set=1\nprivate_key=0123")?;
            hostile.push(stream);
        }
        let mut flood = UnixStream::connect(&at)?;
        flood.set_write_timeout(Some(PATIENCE))?;
        while flood.write_all(&[b'x'; 4096]).is_ok() {}

        scenario.say("a hundred honest ones beside them");
        let outcomes: Vec<Result<String>> = thread::scope(|scope| {
            let ask = |_| scope.spawn(|| say(&at, "get=1\n\nset=1\nfwmark=5\n\nget=1\n\n"));
            let asked: Vec<_> = (0..100).map(ask).collect();
            asked
                .into_iter()
                .filter_map(|one| one.join().ok())
                .collect()
        });
        ensure!(outcomes.len() == 100, "{}", outcomes.len());
        for outcome in outcomes {
            let text = outcome?;
            ensure!(text.matches("errno=0\n\n").count() == 3, "{text}");
            ensure!(text.contains("fwmark=5\n"), "{text}");
        }
        drop(hostile);
        Ok(())
    })
}

/// `wg-quick` with a link to Culvert in wireguard-go's place.
struct Quick {
    namespace: Namespace,
    conf: PathBuf,
    links: PathBuf,
    interface: String,
}

impl Quick {
    fn run(&self, verb: &str) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = self.namespace.program("wg-quick");
        command
            .arg(verb)
            .arg(&self.conf)
            .env("PATH", format!("{}:{path}", self.links.display()))
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", "culvert-tun");
        let (status, out, err) = bounded(&mut command, COMMAND)?;
        ensure!(status.success(), "wg-quick {verb}: {status}\n{out}\n{err}");
        ensure!(!err.contains("culvert:"), "{err}");
        Ok(())
    }

    fn ping(&self, address: &str) -> Result<()> {
        let words = ["ping", "-q", "-c", "5", "-i", "0.2", "-W", "3", address];
        self.namespace.run(&words, COMMAND)?;
        Ok(())
    }

    fn must_be_gone(&self) -> Result<()> {
        eventually("the end of its socket and interface", PATIENCE, || {
            let links = self.namespace.ip("-o link")?;
            let gone = !socket(&self.interface).exists() && !links.contains(&self.interface);
            Ok(gone.then_some(()))
        })
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        let _ = fs::remove_file(socket(&self.interface));
    }
}

#[test]
fn culvert_tun_under_wg_quick() -> Result<()> {
    Scenario::run("culvert_tun_under_wg_quick", &PARTS, |scenario| {
        let links = scenario.path("bin");
        fs::create_dir(&links)?;
        symlink(culvert_binary()?, links.join("culvert-tun"))?;
        let keys = [
            Keys::generate(scenario, "a")?,
            Keys::generate(scenario, "b")?,
        ];
        let lay = |own: usize| -> Result<Quick> {
            let (near, far) = (own + 1, 2 - own);
            let interface = format!("cvq{:x}{own}", std::process::id());
            let conf = scenario.path(&format!("{interface}.conf"));
            fs::write(
                &conf,
                format!(
                    "[Interface]\nPrivateKey = {}ListenPort = 5182{near}\nAddress = 10.7.0.{near}/24, fd07::{near}/64\n\
                     MTU = 1400\n[Peer]\nPublicKey = {}\nAllowedIPs = 10.7.0.{far}/32, fd07::{far}/128\n\
                     Endpoint = 192.0.2.{far}:5182{far}\n",
                    fs::read_to_string(&keys[own].private_file)?,
                    keys[1 - own].public
                ),
            )?;
            fs::set_permissions(&conf, fs::Permissions::from_mode(0o600))?;
            Ok(Quick {
                namespace: Namespace::make(&format!("quick{near}"))?,
                conf,
                links: links.clone(),
                interface,
            })
        };
        let (a, b) = (lay(0)?, lay(1)?);
        let veth = Veth::join(&a.namespace, &b.namespace)?;
        veth.address(&a.namespace, "192.0.2.1/24")?;
        veth.address(&b.namespace, "192.0.2.2/24")?;

        scenario.say("up on both sides");
        a.run("up")?;
        b.run("up")?;
        a.ping("10.7.0.2")?;
        b.ping("fd07::1")?;
        let link = a.namespace.ip(&format!("-o link show {}", a.interface))?;
        ensure!(link.contains("mtu 1400"), "{link}");

        scenario.say("down and up again at once, as often as one likes");
        for _ in 0..5 {
            a.run("down")?;
            a.run("up")?;
        }
        a.ping("10.7.0.2")?;

        scenario.say("strip and syncconf, as wg-quick's manual has it");
        let stripped = a.namespace.run(
            &["wg-quick", "strip", &a.conf.display().to_string()],
            COMMAND,
        )?;
        let file = scenario.path("stripped");
        fs::write(&file, stripped)?;
        run(
            Command::new("wg")
                .args(["syncconf", &a.interface])
                .arg(&file),
            COMMAND,
        )?;
        a.ping("fd07::2")?;

        scenario.say("down on both sides");
        a.run("down")?;
        b.run("down")?;
        a.must_be_gone()?;
        b.must_be_gone()
    })
}

#[test]
fn culvert_tun_ends_as_wireguard_go_does() -> Result<()> {
    Scenario::run(
        "culvert_tun_ends_as_wireguard_go_does",
        &PARTS,
        |scenario| {
            let namespace = Namespace::make("ends")?;
            let start = || Tunnel::start(scenario, &namespace, Program::Culvert);

            scenario.say("two at once; the interface of one is deleted");
            let (mut one, two) = (start()?, start()?);
            namespace.ip(&format!("link delete {}", one.interface()))?;
            one.must_end(PATIENCE)?;
            two.show(&["dump"])?;

            scenario.say("the socket is removed");
            let mut two = two;
            fs::remove_file(two.socket())?;
            two.must_end(PATIENCE)?;
            let links = namespace.ip("-o link")?;
            ensure!(!links.contains(two.interface()), "{links}");

            scenario.say("signals");
            for signal in [Signal::TERM, Signal::INT] {
                let mut tunnel = start()?;
                tunnel.process().signal(signal)?;
                tunnel.must_end(PATIENCE)?;
            }

            scenario.say("after a crash the name is free");
            let mut crashed = start()?;
            crashed.process().kill()?;
            ensure!(crashed.socket().exists(), "no stale socket was left");
            let mut command = namespace.program(culvert_binary()?);
            command.args(["tun", "--foreground", crashed.interface()]);
            let mut again = Process::start("again", scenario.scratch(), command)?;
            eventually("an answer to wg", PATIENCE, || {
                again.must_run()?;
                Ok(crashed.show(&["dump"]).ok())
            })?;

            scenario.say("the name is taken while it runs, and the second says so");
            let mut command = namespace.program(culvert_binary()?);
            command.args(["tun", crashed.interface()]);
            let (status, out, err) = bounded(&mut command, COMMAND)?;
            ensure!(
                !status.success() && err.contains("listens on") && err.contains("already: stop it"),
                "{status} {out} {err}"
            );
            crashed.show(&["dump"])?;
            again.signal(Signal::TERM)?;
            ensure!(again.wait(PATIENCE)?.success(), "{}", again.log());
            ensure!(again.log().is_empty(), "{}", again.log());
            Ok(())
        },
    )
}

/// What the kernel calls the processes that were started for an interface.
fn names_of(interface: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        // Those that have ended meanwhile have none.
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if words
            .split(|&byte| byte == 0)
            .any(|word| word == interface.as_bytes())
        {
            let name = fs::read_to_string(process.path().join("comm"))?;
            names.push(name.trim_end().to_owned());
        }
    }
    Ok(names)
}

#[test]
fn culvert_tun_goes_to_the_background_when_it_is_ready() -> Result<()> {
    let name = "culvert_tun_goes_to_the_background_when_it_is_ready";
    Scenario::run(name, &PARTS, |scenario| {
        let namespace = Namespace::make("background")?;
        let interface = format!("cvb{:x}", std::process::id());
        let start = |environment: &[(&str, &str)]| -> Result<(String, String)> {
            let mut command = namespace.program(culvert_binary()?);
            command
                .args(["tun", &interface])
                .envs(environment.iter().copied());
            // It would not end if its child kept the pipes.
            let (status, out, err) = bounded(&mut command, COMMAND)?;
            ensure!(status.success(), "{status}\n{out}\n{err}");
            Ok((out, err))
        };
        let (out, err) = start(&[])?;
        ensure!(out.is_empty() && err.is_empty(), "{out}{err}");

        scenario.say("it is there when the command returns");
        run(Command::new("wg").args(["show", &interface]), COMMAND)?;
        let link = namespace.ip(&format!("-o link show {interface}"))?;
        ensure!(link.contains("mtu 1420") && !link.contains(",UP"), "{link}");
        let names = names_of(&interface)?;
        ensure!(names == ["culvert-tun"], "the kernel calls it {names:?}");
        namespace.ip(&format!("link set {interface} up"))?;
        namespace.ip(&format!("link delete {interface}"))?;
        eventually("the end of its socket", PATIENCE, || {
            Ok((!socket(&interface).exists()).then_some(()))
        })?;

        scenario.say("what can't be made is told, and the command fails");
        let mut command = namespace.program(culvert_binary()?);
        command.args(["tun", "lo"]);
        let (status, out, err) = bounded(&mut command, COMMAND)?;
        ensure!(
            !status.success() && err.contains("lo"),
            "{status} {out} {err}"
        );
        ensure!(!socket("lo").exists(), "a socket was left behind");
        Ok(())
    })
}
