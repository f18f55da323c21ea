//! The API as a client finds it that knows its description and nothing else.
//!
//! ```text
//!   schemathesis ── 127.0.0.1:9600 ── socat ── api.sock ── culvert: wg0 (far, near), vm1
//! ```
//!
//! What may be answered is what the description says; what it does not allow is refused, and what it allows is taken, or
//! refused for a reason that no description has: that there is no such port. `schemathesis.toml` says where.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, bounded, eventually, schemathesis,
};

const PARTS: [Part; 3] = [Part::Root, Part::WireguardGo, Part::Schemathesis];
/// What it says of a failure, it says again, to make it smaller.
const PATIENCE: Duration = Duration::from_secs(900);
const ANSWER: Duration = Duration::from_secs(20);
const ADDRESS: &str = "127.0.0.1:9600";

#[test]
fn a_generic_client_finds_the_api_as_it_is_described() -> Result<()> {
    let name = "a_generic_client_finds_the_api_as_it_is_described";
    driven(
        name,
        &["--max-examples", "10", "--phases", "coverage,fuzzing"],
    )
}

#[test]
#[ignore = "takes minutes; scripts/test --long runs it"]
fn a_generic_client_that_takes_its_time_finds_it_so() -> Result<()> {
    let name = "a_generic_client_that_takes_its_time_finds_it_so";
    driven(name, &["--max-examples", "300"])
}

fn driven(name: &str, words: &[&str]) -> Result<()> {
    Scenario::run(name, &PARTS, |scenario| {
        let alone = Namespace::make("a")?;
        let [own, far, near] = ["own", "far", "near"].map(|it| Keys::generate(scenario, it));
        let (own, far, near) = (own?, far?, near?);
        let yaml = format!(
            "version: 1\nnode: hv-a\nmemory: {{hugepages: off}}\nuplinks: {{wan0: {{driver: udp}}}}\ntunnels:\n  wg0:\n    \
             uplink: wan0\n    listen_port: 51820\n    uapi: off\n    private_key_file: {}\n    peers:\n      \
             far: {{public_key: \"{}\", allowed_ips: [10.1.2.0/24]}}\n      near: {{public_key: \"{}\"}}\n\
             networks: {{blue: {{tunnel: wg0, gateway: [10.1.1.1/24]}}}}\n\
             ports: {{vm1: {{network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.1.1.10]}}}}\n",
            own.private_file.display(),
            far.public,
            near.public
        );
        let mut culvert = Culvert::start(scenario, "a", Some(&alone), &yaml)?;
        let mut command = alone.program("socat");
        let (port, socket) = (
            &ADDRESS["127.0.0.1:".len()..],
            culvert.run_dir().join("api.sock"),
        );
        command
            .arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"))
            .arg(format!("UNIX-CONNECT:{}", socket.display()));
        let mut bridge = Process::start("socat", scenario.scratch(), command)?;
        eventually("an answer over the bridge", ANSWER, || {
            bridge.must_run()?;
            let connected = alone.enter(|| Ok(std::net::TcpStream::connect(ADDRESS)?));
            Ok(connected.ok().map(drop))
        })?;

        scenario.say("schemathesis drives every route");
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/schemathesis.toml");
        let program = schemathesis().unwrap_or_default();
        let mut command: Command = alone.program(program);
        command
            .arg("--config-file")
            .arg(rules)
            .args([
                "run",
                "--no-color",
                "--seed",
                "1",
                "--generation-deterministic",
            ])
            .args(["--request-timeout", "60"])
            .args(words)
            .arg(format!("http://{ADDRESS}/v1/openapi.json"))
            .current_dir(scenario.scratch());
        let (status, out, err) = bounded(&mut command, PATIENCE)?;
        culvert.process().must_run()?;
        ensure!(
            status.success(),
            "schemathesis ended with {status}\n{out}{err}"
        );
        scenario.say(
            out.lines()
                .rev()
                .take(12)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("\n"),
        );
        culvert.show()?;
        Ok(())
    })
}
