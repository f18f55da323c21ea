//! The examples have no mistake, and the reference of all keys is the program's own.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert::config::{
    self, Config, Guard, KeyFileError, KeyFiles, MacAddr, NextHop, PortDriver, SocketPath,
    UplinkDriver, WorkerIndex,
};
use serde_json::Value;
use zeroize::Zeroizing;

/// Every file under /etc/culvert holds a key.
struct Keys;

impl KeyFiles for Keys {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        assert!(path.starts_with("/etc/culvert"), "{}", path.display());
        Ok(Zeroizing::new(
            "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=".into(),
        ))
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn example(name: &str) -> Config {
    let text = fs::read_to_string(folder().join(name)).unwrap();
    match config::parse(&text, Path::new(name), &Keys) {
        Ok((config, report)) => {
            assert_eq!(report.mistakes(), [], "{}", report.render(false));
            config
        }
        Err(report) => panic!("{}", report.render(false)),
    }
}

#[test]
fn every_example_is_without_a_mistake() {
    let mut checked = 0;
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        // The alert rules are Prometheus's.
        if path.extension().is_some_and(|it| it == "yaml") && !path.ends_with("alerts.yaml") {
            example(path.file_name().unwrap().to_str().unwrap());
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
}

#[test]
fn the_two_hypervisors_fit_each_other() {
    let (a, b) = (example("hv-a.yaml"), example("hv-b.yaml"));
    let (to_b, to_a) = (&a.tunnels[0].peers[0], &b.tunnels[0].peers[0]);
    assert_eq!(
        to_b.endpoint.as_ref().unwrap().to_string(),
        "192.0.2.11:51820"
    );
    assert_eq!(b.uplinks[0].addresses[0].to_string(), "192.0.2.11/24");
    let prefixes = |config: &Config| {
        config.networks[0]
            .gateways
            .iter()
            .map(config::IpNet::trunc)
            .collect::<Vec<_>>()
    };
    assert_eq!(to_b.allowed_ips, prefixes(&b));
    assert_eq!(to_a.allowed_ips, prefixes(&a));
    assert_eq!(a.tunnels[0].mtu, 1420);
    assert_eq!(a.ports[0].mtu, 1420);
    let PortDriver::VhostUser(vm1) = &a.ports[0].driver else {
        panic!()
    };
    assert_eq!(vm1.socket, SocketPath::InRunDir("vm1.sock".into()));
    assert_eq!(
        vm1.socket.resolve(Path::new("/run/x")),
        Path::new("/run/x/vm1.sock")
    );
}

#[test]
fn values_mean_what_they_say() {
    let nfv = example("nfv.yaml");
    let UplinkDriver::Dpdk(dpdk) = &nfv.uplinks[0].driver else {
        panic!()
    };
    assert_eq!(dpdk.device.devargs(), "0000:3b:00.0");
    assert_eq!(nfv.memory.mtu_max, Some(9000));
    assert_eq!(nfv.uplinks[0].routes[0].to.to_string(), "0.0.0.0/0");
    let routes = &nfv.networks[0].routes;
    assert_eq!(
        routes[0].next_hop,
        NextHop::Guest("10.0.0.254".parse().unwrap())
    );
    assert_eq!(routes[1].next_hop, NextHop::Unreachable);
    assert_eq!(nfv.ports[0].native().unwrap().guard, Guard::Mac);
    assert_eq!(nfv.ports[0].mac, MacAddr([0x52, 0x54, 0, 0, 0, 0xfe]));
    let PortDriver::VhostUser(dns) = &nfv.ports[1].driver else {
        panic!()
    };
    assert_eq!(dns.permissions, 0o660);
    // The firewall's two queues take the two workers; the next port's turn is the first again.
    assert_eq!(nfv.ports[0].queue_workers, [WorkerIndex(0), WorkerIndex(1)]);
    assert_eq!(nfv.ports[1].queue_workers, [WorkerIndex(0)]);

    let laptop = example("laptop.yaml");
    assert_eq!(laptop.cores.workers.len(), 1);
    assert_eq!(laptop.cores.workers[0].cpu, None);
    assert!(laptop.uplinks[0].addresses.is_empty());
    let peer = &laptop.tunnels[0].peers[0];
    assert_eq!(
        peer.endpoint.as_ref().unwrap().to_string(),
        "vpn.example.com:51820"
    );
    assert_eq!(peer.persistent_keepalive, Some(25));

    let tenants = example("multi-queue.yaml");
    assert_eq!(tenants.ports[1].queues, 2);
    assert!(!tenants.ports[1].offloads.packed && tenants.ports[1].offloads.tso4);
    let red = tenants.networks_of(&tenants.ports[1]).next().unwrap();
    assert_eq!(red.tunnel.as_ref().unwrap().as_str(), "red");
    assert_ne!(tenants.networks[0].gateway_mac, red.gateway_mac);
    assert!(!red.gateway_mac.is_group());
}

#[test]
fn equal_files_make_equal_configurations() {
    assert_eq!(example("hv-a.yaml"), example("hv-a.yaml"));
    assert_ne!(example("hv-a.yaml").ports, example("hv-b.yaml").ports);
}

/// `UPDATE_REFERENCE=1 cargo test -p culvert --test examples` writes it anew.
#[test]
fn the_reference_is_complete_and_true() {
    const BEGIN: &str = "<!-- the reference begins -->\n";
    const END: &str = "<!-- the reference ends -->\n";
    let path = folder().join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let begin = readme.find(BEGIN).unwrap() + BEGIN.len();
    let end = readme.find(END).unwrap();
    let printed = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .args(["schema", "--markdown"])
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(
            &path,
            format!("{}{printed}{}", &readme[..begin], &readme[end..]),
        )
        .unwrap();
        return;
    }
    assert!(
        readme[begin..end] == printed,
        "configs/README.md is not what `culvert schema --markdown` prints"
    );
}

/// The JSON schema knows every key of the examples, and nothing more is required than they have.
#[test]
fn the_json_schema_fits_the_examples() {
    let printed = Command::new(env!("CARGO_BIN_EXE_culvert"))
        .arg("schema")
        .output()
        .unwrap();
    let schema: Value = serde_json::from_slice(&printed.stdout).unwrap();
    for name in [
        "hv-a.yaml",
        "hv-b.yaml",
        "nfv.yaml",
        "branch.yaml",
        "laptop.yaml",
        "two-uplinks.yaml",
        "reachable.yaml",
        "multi-queue.yaml",
    ] {
        let text = fs::read_to_string(folder().join(name)).unwrap();
        let value: Value = serde_saphyr::from_str(&text).unwrap();
        fits(&schema, &value, name);
    }
}

fn fits(schema: &Value, value: &Value, place: &str) {
    if let Some(any) = schema["anyOf"].as_array() {
        let matching = any
            .iter()
            .find(|schema| type_of(schema).contains(&kind(value)));
        return fits(
            matching.unwrap_or_else(|| panic!("{place}: {value} fits none")),
            value,
            place,
        );
    }
    if schema.get("type").is_some() {
        assert!(
            type_of(schema).contains(&kind(value)),
            "{place}: {value} is no {}",
            schema["type"]
        );
    }
    if let Some(map) = value.as_object() {
        for (key, value) in map {
            if key.starts_with("x-") {
                continue;
            }
            let known = schema["properties"]
                .get(key)
                .or_else(|| schema.get("additionalProperties").filter(|s| s.is_object()));
            fits(
                known.unwrap_or_else(|| panic!("{place}: no {key}")),
                value,
                &format!("{place}.{key}"),
            );
        }
        for key in schema["required"].as_array().into_iter().flatten() {
            assert!(
                map.contains_key(key.as_str().unwrap()),
                "{place}: {key} is required"
            );
        }
    }
    for item in value.as_array().into_iter().flatten() {
        fits(&schema["items"], item, place);
    }
}

fn type_of(schema: &Value) -> Vec<&str> {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().flat_map(type_of).collect();
    }
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(|one| one.as_str()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            vec!["string", "integer"]
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "object",
        Value::Array(_) => "array",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::Null | Value::String(_) => "string",
    }
}
