//! The API's resources at a running Culvert: lists with filters and pages, and that all answers are as described.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use common::Run;
use serde_json::Value;

struct Running {
    folder: tempfile::TempDir,
    _life: Run,
}

impl Running {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("c.yaml"), text).unwrap();
        let (config, run_dir) = (folder.path().join("c.yaml"), folder.path().join("run"));
        let life = Run::start(&config, &run_dir, folder.path());
        Self {
            folder,
            _life: life,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/api.sock")
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (status, body) = asked(&self.socket(), path);
        (
            status,
            serde_json::from_str(&body).unwrap_or(Value::String(body)),
        )
    }

    /// The names of all pages of a list.
    fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut after = String::new();
        loop {
            let (status, page) = self.get(&format!("{path}{after}"));
            assert_eq!(status, 200, "{page}");
            let items = page["items"].as_array().unwrap();
            names.extend(
                items
                    .iter()
                    .map(|it| it["name"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return names,
            }
        }
    }
}

/// The status and the body.
fn asked(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: culvert\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A public key that nobody has.
fn key(number: usize) -> String {
    format!("{:A<43}=", format!("peer{number:04}"))
}

fn peers(first: usize, count: usize) -> String {
    let peer = |number: usize| {
        format!(
            "p{number:04}: {{public_key: \"{}\", allowed_ips: []}}",
            key(number)
        )
    };
    let all: Vec<_> = (first..first + count).map(peer).collect();
    all.join(", ")
}

/// Three ports, and two tunnels with 300 and 2 peers.
fn start() -> Running {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.key");
    let genkey = common::culvert().arg("genkey").output().unwrap();
    fs::write(&file, genkey.stdout).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let free = || {
        UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    };
    let tunnel = |name: &str, peers: String| {
        let (port, file) = (free(), file.display());
        format!(
            "  {name}: {{uplink: lo0, uapi: false, listen_port: {port}, private_key_file: {file}, peers: {{{peers}}}}}\n"
        )
    };
    let port = |number: u8| {
        format!(
            "  vm{number}: {{network: n, mac: \"52:54:00:00:00:0{number}\", addresses: [10.0.0.1{number}]}}\n"
        )
    };
    let running = Running::start(&format!(
        "version: 1\nmemory: {{hugepages: off}}\nnetworks: {{n: {{gateway: 10.0.0.1/24}}}}\n\
         uplinks: {{lo0: {{driver: udp, addresses: [127.0.0.1/8]}}}}\ntunnels:\n{}{}ports:\n{}{}{}",
        tunnel("t1", peers(0, 300)),
        tunnel("t2", peers(300, 2)),
        port(3),
        port(1),
        port(2),
    ));
    drop(folder);
    running
}

#[test]
fn lists_come_in_pages_and_by_names() {
    let running = start();
    assert_eq!(running.names("/v1/ports?limit=2"), ["vm1", "vm2", "vm3"]);
    assert_eq!(running.names("/v1/ports?name=vm2"), ["vm2"]);
    assert_eq!(running.names("/v1/tunnels?limit=1"), ["t1", "t2"]);
    assert_eq!(running.names("/v1/uplinks?limit=1"), ["lo0"]);
    let all: Vec<_> = (0..302).map(|number| format!("p{number:04}")).collect();
    assert_eq!(running.names("/v1/peers?limit=1000"), all);
    assert_eq!(running.names("/v1/peers?limit=7"), all);
    assert_eq!(running.names("/v1/peers?limit=299"), all);
    assert_eq!(running.names("/v1/peers?tunnel=t2&limit=1"), all[300..]);
    assert_eq!(running.names("/v1/peers?state=unknown&limit=150"), all);
    assert_eq!(running.names("/v1/peers?state=up&limit=1"), [""; 0]);
    assert_eq!(running.names("/v1/peers?name=p0007&limit=1"), ["p0007"]);
    // In any of the ways in which a thing is called.
    assert_eq!(running.names("/v1/ports?like=*m2"), ["vm2"]);
    assert_eq!(
        running.names("/v1/ports?like=n&limit=2"),
        ["vm1", "vm2", "vm3"]
    );
    assert_eq!(running.names("/v1/peers?like=t1/p000*&limit=3"), all[..10]);
    assert_eq!(running.names("/v1/peers?like=t2&limit=1"), all[300..]);
    assert_eq!(
        running.names(&format!("/v1/peers?like={}", key(7))),
        ["p0007"]
    );
    assert_eq!(running.names("/v1/peers?like=nobody"), [""; 0]);
    assert_eq!(running.names("/v1/uplinks?like=l*"), ["lo0"]);
    let (_, page) = running.get("/v1/routes?like=10.0.0.0/24");
    assert_eq!(page["items"][0]["table"], "network n", "{page}");
    let (_, page) = running.get("/v1/routes?name=network%20n");
    assert_eq!(page["items"][0]["to"], "10.0.0.0/24", "{page}");
    assert_eq!(running.get("/v1/ports/vm1").1["name"], "vm1");
    assert_eq!(running.get("/v1/tunnels/t1").1["peers"], 300);
}

#[test]
fn a_question_that_is_wrong_is_refused_in_words() {
    let running = start();
    for (path, status, words) in [
        ("/v1/ports/vm9", 404, "there is no port vm9"),
        ("/v1/port", 404, "there is no /v1/port"),
        ("/v1/peers?stat=up", 400, "`stat` is unknown"),
        ("/v1/peers?limit=0", 400, "`limit` is 0, expected 1 to 1000"),
        ("/v1/peers?limit=10001", 400, "expected 1 to 10000"),
        ("/v1/ports?limit=x", 400, "the query: "),
    ] {
        let (found, refusal) = running.get(path);
        let error = refusal["error"].as_str().unwrap();
        assert_eq!(found, status, "{path}: {error}");
        assert!(error.contains(words), "{path}: {error}");
    }
}

#[test]
fn a_process_whose_ports_are_open_is_ready() {
    let running = start();
    assert_eq!(running.get("/healthz").0, 200);
    let (status, answer) = running.get("/readyz");
    assert_eq!(status, 200, "{answer}");
}

/// Every list and every object that can be asked for without a parameter answers what its description says.
#[test]
fn answers_are_as_they_are_described() {
    let running = start();
    let (_, description) = running.get("/v1/openapi.json");
    let mut tried = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        let is_plain = !path.contains('{') && path != "/v1/events";
        let schema = &item["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        let takes = item["get"]["parameters"].as_array().into_iter().flatten();
        if !is_plain || !schema.is_object() || takes.into_iter().any(|it| it["required"] == true) {
            continue;
        }
        let (status, answer) = running.get(path);
        assert_eq!(status, 200, "{path}: {answer}");
        fits(&answer, schema, &description, path);
        tried += 1;
    }
    assert!(tried >= 10, "{tried} paths of {}", description["paths"]);
}

/// As far as objects, lists, their required keys and plain types go; a key that is not described fits nothing.
fn fits(value: &Value, schema: &Value, all: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str().and_then(|it| it.rsplit('/').next()) {
        return fits(value, &all["components"]["schemas"][name], all, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let other = any.iter().find(|it| it["type"] != "null");
        if !value.is_null() {
            fits(value, other.unwrap(), all, at);
        }
        return;
    }
    match value {
        Value::Object(map) => {
            for key in schema["required"].as_array().into_iter().flatten() {
                assert!(map.contains_key(key.as_str().unwrap()), "{at} has no {key}");
            }
            for (key, value) in map {
                let described = &schema["properties"][key];
                let extra = &schema["additionalProperties"];
                let is_free = schema["properties"].is_null();
                assert!(
                    described.is_object() || extra.is_object() || is_free,
                    "{at}: {key} is not described"
                );
                let of = if described.is_object() {
                    described
                } else {
                    extra
                };
                if of.is_object() {
                    fits(value, of, all, &format!("{at}/{key}"));
                }
            }
        }
        Value::Array(items) => items
            .iter()
            .for_each(|item| fits(item, &schema["items"], all, at)),
        Value::Null => assert!(allows(schema, "null"), "{at} is null"),
        Value::String(_) => assert!(allows(schema, "string"), "{at} is a text: {schema}"),
        Value::Bool(_) => assert!(allows(schema, "boolean"), "{at} is a boolean: {schema}"),
        Value::Number(_) => assert!(
            allows(schema, "integer") || allows(schema, "number"),
            "{at} is a number: {schema}"
        ),
    }
}

fn allows(schema: &Value, form: &str) -> bool {
    let of = &schema["type"];
    of.is_null()
        || of == form
        || of
            .as_array()
            .is_some_and(|all| all.iter().any(|it| it == form))
}
