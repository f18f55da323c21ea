//! No body of a writing route harms who reads it. What is taken as an object is the same when its keys are read again; what
//! is taken as a file is what `config_yaml` looks at.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use culvert::api::bodies::{ApplyBody, ConfirmBody, DiffBody, LogFilter, PurgeBody, RollbackBody, Side};
use culvert::config::object::{self, Keys};
use culvert::config::{self, Config, KeyFileError, KeyFiles, Name};
use culvert::keys::PublicKey;
use culvert::plan::Laid;
use culvert::plan::api::{Said, peer, port, route};
use culvert::process::log;
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

/// Every file holds a key.
struct OneKey;

impl KeyFiles for OneKey {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(KEY.into()))
    }

    fn read_many(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(KEY.into()))
    }
}

/// What runs.
static FILE: LazyLock<Config> = LazyLock::new(|| {
    let text = "\
version: 1
cores: { workers: [0, 1] }
uplinks: { wan0: { driver: udp } }
tunnels:
  wg0:
    uplink: wan0
    listen_port: 51820
    private_key_file: a.key
    peers:
      far: { public_key: \"US7qRs6zkh3/Q2PHBp2J1JZNHZ/Mqg9BGFGnqmClyGg=\", allowed_ips: [10.1.2.0/24] }
networks:
  blue: { tunnel: wg0, gateway: [10.1.1.1/24, \"fd00:1::1/64\"] }
ports:
  vm1: { network: blue, mac: \"52:54:00:00:00:01\", addresses: [10.1.1.10], queues: 2 }
";
    let read = config::parse(text, Path::new("/c.yaml"), &OneKey);
    read.unwrap_or_else(|report| panic!("{}", report.render(false))).0
});

/// As the server reads it; what was understood can be said again.
fn read<T: DeserializeOwned + Serialize>(body: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(body).ok()?;
    let text = serde_json::to_vec(&read).expect("it was read from such a text");
    serde_json::from_slice::<T>(&text).expect("it is what was read");
    Some(read)
}

fn file(body: ApplyBody) {
    if let Err(report) = config::parse_texts(&body.into_texts(), &OneKey) {
        assert!(report.errors() > 0 && !report.render(true).is_empty());
    }
}

fn side(side: Side) {
    if let Side::File(body) = side {
        file(body);
    }
}

/// Keys of a port, of a peer and of a route, over the file and beside it.
fn objects(text: &str) {
    let keys = match object::keys(text, "port vm1") {
        Ok(keys) => keys,
        Err(report) => return assert!(report.errors() > 0 && !report.render(true).is_empty()),
    };
    let json = serde_json::to_string(&keys).expect("a map of texts");
    assert_eq!(object::keys(&json, "port vm1").as_ref(), Ok(&keys), "{json}");
    let said = |own| Said {
        own,
        keys: keys.clone(),
        preshared_key: None,
        hindrance: None,
    };
    let name = |text: &str| Name::new(text).expect("a name");
    for (own, of) in [(false, "vm1"), (true, "vm2")] {
        if let Ok((made, _)) = port(&FILE, &name(of), &said(own)) {
            let keys: Keys = object::port_keys(&FILE, &made);
            let again = object::port(&FILE, &made.name, &keys);
            let (again, _) = again.unwrap_or_else(|report| panic!("{}", report.render(false)));
            assert_eq!(again, made, "{keys:?}");
        }
    }
    let tunnel = &FILE.tunnels[0];
    for (own, of) in [(false, "far"), (true, "near")] {
        if let Ok((mut made, _)) = peer(&FILE, tunnel, &name(of), &said(own)) {
            // It is given beside the keys.
            Arc::make_mut(&mut made).preshared_key_file = None;
            let keys = object::peer_keys(&made);
            let again = object::peer(&FILE, tunnel, &made.name, &keys);
            let (again, _) = again.unwrap_or_else(|report| panic!("{}", report.render(false)));
            assert_eq!(again, made, "{keys:?}");
        }
    }
    let to = "10.9.0.0/16".parse().expect("a prefix");
    if let Ok(made) = route(&FILE, &Laid::default(), &name("blue"), &to, &said(true)) {
        assert_eq!(made.to, to);
    }
}

// A letter for the route, and the body.
fuzz_target!(|data: &[u8]| {
    let Some((route, body)) = data.split_first() else {
        return;
    };
    match route {
        b'a' => drop(read::<ApplyBody>(body).map(file)),
        b'd' => {
            if let Some(body) = read::<DiffBody>(body) {
                side(body.from);
                side(body.to);
            }
        }
        b'c' => drop(read::<ConfirmBody>(body)),
        b'r' => drop(read::<RollbackBody>(body)),
        b'p' => {
            if let Some(body) = read::<PurgeBody>(body) {
                body.revoke.iter().for_each(|key| {
                    let _ = PublicKey::from_base64(key);
                });
            }
        }
        b'l' => {
            if let Some(body) = read::<LogFilter>(body) {
                // There is no log here: it is read, and refused all the same.
                assert!(log::set_filter(&body.filter).is_err());
            }
        }
        _ => {
            if let Ok(text) = std::str::from_utf8(body) {
                objects(text);
            }
        }
    }
});
