//! No secret key stays behind on the heap: the process looks for what it was given in its own memory.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};

use culvert::config::{self, Name, object};
use culvert::keys::{PresharedKey, PrivateKey};
use culvert::layer::secrets;
use culvert::plan::api::Object;
use culvert::uapi::codec::{Reader, Request};
use zeroize::Zeroizing;

/// A key that this test knows without having it in memory: its bits are inverted.
struct Inverted([u8; 32]);

impl Inverted {
    fn random() -> Self {
        let mut bytes = [0; 32];
        File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut bytes)
            .unwrap();
        // As a private key is clamped: the high bits of the last byte are 01.
        bytes[31] = (bytes[31] | 0x80) & !0x40;
        Self(bytes)
    }

    fn hex(&self) -> Zeroizing<String> {
        PresharedKey::from_bytes(self.0.map(|byte| !byte)).to_hex()
    }

    fn base64(&self) -> Zeroizing<String> {
        PresharedKey::from_bytes(self.0.map(|byte| !byte)).to_base64()
    }

    /// How often its second half lies in memory that is no stack: a freed block's beginning is the allocator's.
    fn copies(&self) -> usize {
        copies(&self.0[16..])
    }

    /// The same of its base64.
    fn texts(&self) -> usize {
        let inverted: Vec<_> = self.base64().bytes().map(|byte| !byte).collect();
        copies(&inverted[20..36])
    }
}

/// How often 16 bytes, inverted, lie in memory that is no stack.
fn copies(wanted: &[u8]) -> usize {
    let local = std::ptr::from_ref(&wanted) as usize;
    let mut chunk = vec![0; 1 << 20];
    let own = chunk.as_ptr() as usize..chunk.as_ptr() as usize + chunk.len();
    let memory = File::open("/proc/self/mem").unwrap();
    let mut found = 0;
    for (start, end) in regions(local) {
        let mut at = start;
        while at < end {
            let count = chunk.len().min(end - at);
            let Ok(read) = memory.read_at(&mut chunk[..count], at as u64) else {
                break;
            };
            let places = chunk[..read].windows(16).enumerate();
            let hits = places.filter(|(_, bytes)| bytes.iter().zip(wanted).all(|(a, b)| *a == !b));
            found += hits
                .filter(|(offset, _)| !own.contains(&(at + offset)))
                .count();
            // What lies across two chunks.
            at += if read == count && count == chunk.len() {
                count - 15
            } else {
                count
            };
        }
    }
    chunk.fill(0);
    found
}

/// Memory that is written to, less the stacks: this thread's has `local`.
fn regions(local: usize) -> Vec<(usize, usize)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let regions = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        let is_stack = rest.ends_with("[stack]") || (start..end).contains(&local);
        (rest.starts_with("rw-p") && !is_stack).then_some((start, end))
    });
    regions.collect()
}

#[test]
fn a_request_of_wg_leaves_no_key() {
    let (private, preshared) = (Inverted::random(), Inverted::random());
    let public = "11".repeat(32);
    let mut reader = Reader::new(|_| None);
    let feed = |reader: &mut Reader, text: &str| reader.read(text.as_bytes()).1;
    feed(&mut reader, "set=1\n");
    for _ in 0..3 {
        feed(&mut reader, "private_key=");
        feed(&mut reader, &private.hex());
        feed(&mut reader, "\n");
    }
    // Changes that make their vector move, with other things between.
    let mut between = Vec::new();
    for n in 0..300 {
        feed(&mut reader, &format!("public_key={public}\npreshared_key="));
        feed(&mut reader, &preshared.hex());
        feed(
            &mut reader,
            &format!("\nallowed_ip=10.0.0.{}/32\n", n % 256),
        );
        between.push(vec![1_u8; 1 + 40 * n]);
    }
    let request = feed(&mut reader, "\n").unwrap();
    assert!(matches!(&request, Request::Set { refused: None, .. }));
    assert_eq!((private.copies(), preshared.copies()), (3, 300));
    drop(request);
    assert_eq!((private.copies(), preshared.copies()), (0, 0));
}

#[test]
fn a_configuration_leaves_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<_> = (0..8).map(|_| Inverted::random()).collect();
    let mut text = "version: 1\nuplinks: {u: {driver: udp}}\nnetworks: {}\ntunnels:\n".to_owned();
    for (n, key) in keys.iter().enumerate() {
        let path = folder.path().join(format!("{n}.key"));
        fs::write(&path, &*key.base64()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let peer = PrivateKey::from_bytes([7; 32]).public_key().to_base64();
        text += &format!(
            "  t{n}:\n    uplink: u\n    listen_port: {}\n    private_key_file: {n}.key\n    \
             peers: {{p: {{public_key: \"{peer}\", preshared_key_file: {n}.key}}}}\n",
            n + 1
        );
    }
    let path = folder.path().join("c.yaml");
    let read = config::parse(&text, &path, &config::Disk);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    let copy = config.clone();
    assert!(keys[0].copies() >= 2);
    drop((config, copy));
    let left: Vec<_> = keys.iter().map(Inverted::copies).collect();
    assert_eq!(left, [0; 8]);
}

#[test]
fn a_body_leaves_no_key() {
    let name = |text| Name::new(text).unwrap();
    let peer = Object::Peer(name("wg0"), name("b"));
    let key = Inverted::random();
    let mut given = Vec::new();
    for (ahead, behind) in [
        ("public_key: x\npreshared_key: ", "\nendpoint: y\n"),
        ("{\"endpoint\": \"y\", \"preshared_key\": \"", "\"}"),
        ("{\"preshared_key\": \"", "\", \"endpiont"),
    ] {
        let mut body = Zeroizing::new(Vec::with_capacity(256));
        body.extend_from_slice(ahead.as_bytes());
        body.extend_from_slice(key.base64().as_bytes());
        body.extend_from_slice(behind.as_bytes());
        let taken = secrets::take(&mut body);
        let text = str::from_utf8(&body).unwrap();
        let keys = object::keys(text, "peer wg0/b");
        given.push(keys.and_then(|mut keys| secrets::given(&mut keys, taken, &peer)));
    }
    assert!(given[0].as_ref().unwrap().is_some() && given[1].is_ok() && given[2].is_err());
    assert_eq!((key.texts(), key.copies()), (0, 2));
    drop(given);
    assert_eq!((key.texts(), key.copies()), (0, 0));
}
