//! Metrics and events of a running Culvert, read by a real Prometheus and by `culvert events`.
//!
//! ```text
//!   Prometheus ── 127.0.0.1:9587 ── a: tun0 10.0.0.1 ── wan0 192.0.2.1 ═══ wan0 192.0.2.2 ── tun0 10.0.0.2 :b
//!                                      vm1 (no guest)      peer "nobody" at 192.0.2.99
//! ```

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::{
    Culvert, Keys, Namespace, Part, Process, Scenario, Veth, bounded, culvert_binary, eventually,
    run,
};
use serde_json::Value;

const PARTS: [Part; 4] = [Part::Root, Part::Tun, Part::WireguardGo, Part::Prometheus];
const COMMAND: Duration = Duration::from_secs(30);
/// Six calls in vain, and Prometheus's start.
const PATIENCE: Duration = Duration::from_secs(90);
const PROMETHEUS: &str = "127.0.0.1:9599";

fn yaml(node: &str, own: &Keys, rest: &str, peers: &[(&str, &str, &str, &str)]) -> String {
    let peers = peers.iter().map(|(name, key, endpoint, prefix)| {
        format!(
            "      {name}: {{public_key: \"{key}\", endpoint: \"{endpoint}:51820\", allowed_ips: [{prefix}], persistent_keepalive: 1s}}\n"
        )
    });
    format!(
        "version: 1\nnode: {node}\n{rest}memory: {{hugepages: off}}\nuplinks: {{wan0: {{driver: udp}}}}\ntunnels:\n  wg0:\n    \
         uplink: wan0\n    listen_port: 51820\n    uapi: off\n    private_key_file: {}\n    peers:\n{}",
        own.private_file.display(),
        peers.collect::<String>(),
    )
}

/// `GET`, as a client that knows HTTP/1.0 alone; the body of a success.
fn get(namespace: &Namespace, address: &str, path: &str) -> Result<String> {
    let answer = namespace.enter(|| {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(COMMAND))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.contains(" 200 "), "{path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// The series that Prometheus answers a query with.
fn query(namespace: &Namespace, query: &str) -> Result<Vec<Value>> {
    let encoded = query.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    let path = format!("/api/v1/query?query={}", encoded.collect::<String>());
    let answer: Value = serde_json::from_str(&get(namespace, PROMETHEUS, &path)?)?;
    let series = answer["data"]["result"].as_array();
    Ok(series
        .with_context(|| format!("{query}: {answer}"))?
        .clone())
}

/// All queries of the dashboard, with its variables filled in.
fn queries(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().into_iter().flatten();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries = targets.filter_map(|target| target["expr"].as_str());
    let filled = queries.map(|query| {
        query
            .replace("$__rate_interval", "20s")
            .replace("$job", "culvert")
            .replace("$instance", ".+")
    });
    filled.collect()
}

fn sources(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn promtool(words: &[&str], input: Option<&Path>) -> Result<String> {
    let mut command = Command::new("promtool");
    command.args(words);
    if let Some(input) = input {
        command.stdin(fs::File::open(input)?);
    }
    run(&mut command, COMMAND)
}

/// All events so far, as `culvert events` prints them within a second.
fn events(culvert: &Culvert) -> Result<Vec<Value>> {
    let mut follow = Command::new("timeout");
    follow
        .arg("1")
        .arg(culvert_binary()?)
        .args(["events", "--since", "0", "-o", "json", "--run-dir"])
        .arg(culvert.run_dir());
    let (_, lines, _) = bounded(&mut follow, COMMAND)?;
    let events = lines.lines().map(serde_json::from_str);
    Ok(events.collect::<Result<_, _>>()?)
}

#[test]
fn prometheus_answers_every_query_of_the_dashboard() -> Result<()> {
    let name = "prometheus_answers_every_query_of_the_dashboard";
    Scenario::run(name, &PARTS, |scenario| {
        let (a, b) = (Namespace::make("a")?, Namespace::make("b")?);
        let veth = Veth::join(&a, &b)?;
        veth.address(&a, "192.0.2.1/24")?;
        veth.address(&b, "192.0.2.2/24")?;
        let [own, far, nobody] = ["own", "far", "nobody"].map(|it| Keys::generate(scenario, it));
        let (own, far, nobody) = (own?, far?, nobody?);
        let metrics = "metrics: {listen: \"127.0.0.1:9587\", wireguard_exporter: true}\n";
        let host = |address: &str| {
            format!(
                "networks:\n  host: {{tunnel: wg0}}\n  blue: {{gateway: [10.1.1.1/24]}}\nports:\n  tun0: {{driver: tun, network: host, addresses: [{address}]}}\n"
            )
        };
        let vm = "  vm1: {network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.1.1.10]}\n";
        let peers = [
            ("far", &*far.public, "192.0.2.2", "10.0.0.2/32"),
            ("nobody", &*nobody.public, "192.0.2.99", "10.9.0.0/16"),
        ];
        let a_yaml = yaml("hv-a", &own, metrics, &peers) + &host("10.0.0.1") + vm;
        let b_yaml = yaml(
            "hv-b",
            &far,
            "",
            &[("far", &own.public, "192.0.2.1", "10.0.0.1/32")],
        ) + &host("10.0.0.2");
        let culvert = Culvert::start(scenario, "a", Some(&a), &a_yaml)?;
        let _b = Culvert::start(scenario, "b", Some(&b), &b_yaml)?;
        a.ip("route add 10.0.0.2/32 dev tun0")?;
        a.ip("route add 10.9.0.0/16 dev tun0")?;
        b.ip("route add 10.0.0.1/32 dev tun0")?;

        scenario.say("promtool reads the text, as it is and as OpenMetrics");
        let text = get(&a, "127.0.0.1:9587", "/metrics")?;
        let file = scenario.path("metrics.txt");
        fs::write(&file, &text)?;
        promtool(&["check", "metrics"], Some(&file))?;
        ensure!(text.contains("culvert_build_info{"), "{text}");
        let rules = sources("configs/alerts.yaml");
        let rules = rules.to_str().context("a path of letters")?;
        promtool(&["check", "rules", rules], None)?;
        let tests = fs::read_to_string(sources("tests/scenarios/alerts.test.yaml"))?;
        let file = scenario.path("alerts.test.yaml");
        fs::write(&file, tests.replace("RULES", rules))?;
        promtool(&["test", "rules", file.to_str().context("letters")?], None)?;

        scenario
            .say("Prometheus scrapes; one peer answers, one does not, and packets for it are lost");
        let config = scenario.path("prometheus.yaml");
        fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n\
                 scrape_configs: [{{job_name: culvert, static_configs: [{{targets: [\"127.0.0.1:9587\"]}}]}}]\n"
            ),
        )?;
        let mut command = a.program("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                scenario.path("tsdb").display()
            ))
            .arg(format!("--web.listen-address={PROMETHEUS}"));
        let mut prometheus = Process::start("prometheus", scenario.scratch(), command)?;
        eventually("a ping through the tunnel", PATIENCE, || {
            let words = ["ping", "-q", "-c", "1", "-W", "1", "10.0.0.2"];
            Ok(a.run(&words, COMMAND).ok().map(drop))
        })?;
        let dashboard = fs::read_to_string(sources("configs/grafana-dashboard.json"))?;
        let queries = queries(&serde_json::from_str(&dashboard)?);
        ensure!(queries.len() > 20, "{queries:?}");
        let mut missing = Vec::new();
        let answered = eventually("an answer to every query", PATIENCE, || {
            prometheus.must_run()?;
            // What is waited for by a peer that does not answer is dropped in the end.
            let flood = [
                "ping", "-q", "-i", "0.001", "-c", "900", "-w", "1", "10.9.0.1",
            ];
            let _ = bounded(a.program(flood[0]).args(&flood[1..]), COMMAND)?;
            missing.clear();
            for text in &queries {
                if query(&a, text).is_ok_and(|series| series.is_empty()) {
                    missing.push(text.clone());
                }
            }
            Ok(missing.is_empty().then_some(()))
        });
        answered.with_context(|| format!("without an answer: {missing:#?}"))?;
        for text in &queries {
            query(&a, text)?;
        }
        let one = |text: &str| -> Result<String> {
            let series = query(&a, text)?;
            ensure!(series.len() == 1, "{text}: {series:?}");
            Ok(series[0]["value"][1]
                .as_str()
                .unwrap_or_default()
                .to_owned())
        };
        ensure!(one("culvert_peers{state=\"up\"}")? == "1");
        ensure!(one("culvert_port_up{port=\"vm1\"}")? == "0");
        ensure!(one("culvert_ports{state=\"waiting\"}")? == "1");
        ensure!(one("up{job=\"culvert\"}")? == "1");
        let last = "culvert_peer_last_handshake_timestamp_seconds";
        ensure!(query(&a, last)?.len() == 1, "never is absent");
        ensure!(one(&format!("time() - {last} < bool 300"))? == "1");
        ensure!(one("wireguard_latest_handshake_seconds{friendly_name=\"nobody\"}")? == "0");
        let same = "sum(wireguard_sent_bytes_total) == bool sum(culvert_peer_transmit_bytes_total)";
        ensure!(one(same)? == "1");

        scenario.say("the silent peer, and its alert");
        eventually("a silent peer", PATIENCE, || {
            let silent = query(&a, "culvert_peer_silent{peer=\"nobody\"} == 1")?;
            let pending = query(
                &a,
                "ALERTS{alertname=\"CulvertPeerSilent\", peer=\"nobody\"}",
            )?;
            Ok((!silent.is_empty() && !pending.is_empty()).then_some(()))
        })?;

        scenario.say(
            "what happened is told as events, and where metrics are served is changed by an apply",
        );
        culvert.apply(&a_yaml.replace("9587", "9588"))?;
        eventually("metrics on the other port", COMMAND, || {
            Ok(get(&a, "127.0.0.1:9588", "/metrics").ok().map(drop))
        })?;
        ensure!(get(&a, "127.0.0.1:9587", "/metrics").is_err());
        let told = eventually("the event of the silent peer", PATIENCE, || {
            let told = events(&culvert)?;
            let is_silent = told.iter().any(|event| event["type"] == "peer-silent");
            Ok(is_silent.then_some(told))
        })?;
        let numbers = told.iter().filter_map(|event| event["number"].as_u64());
        ensure!(numbers.eq(1..=told.len() as u64), "{told:?}");
        let found = |kind: &str, object: &str| {
            let is_it = |event: &Value| event["type"] == kind && event["object"] == object;
            ensure!(told.iter().any(is_it), "no {kind} of {object}: {told:?}");
            Ok(())
        };
        found("peer-up", "peer wg0/far")?;
        found("peer-silent", "peer wg0/nobody")?;
        found("drops-began", "peer wg0/nobody")?;
        found("config-applied", "configuration")?;
        Ok(())
    })
}
