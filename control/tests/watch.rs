//! `culvert run --watch`: what changes on the disk is applied, whichever way it comes there.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Run, run, stderr};
use culvert::api::client::Client;
use culvert::history::revision::{Origin, Revision};
use culvert::keys::PrivateKey;
use nix::sys::signal::Signal;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::ServerName;

/// A Culvert that follows its file.
struct Followed {
    folder: tempfile::TempDir,
    run: Run,
}

impl Followed {
    fn start(folder: tempfile::TempDir, config: &str) -> Self {
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "exec \"$0\" \"$@\" --watch",
            env!("CARGO_BIN_EXE_culvert"),
        ]);
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let (config, run_dir) = (folder.path().join(config), folder.path().join("run"));
        let run = Run::start_by(command, &config, &run_dir, folder.path(), log.into());
        Self { folder, run }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits until the file was applied, or refused.
    #[track_caller]
    fn applied(&self) {
        self.run.expect("RELOADING=1");
        self.run.expect("READY=1");
    }

    /// The networks that run, by their routes.
    fn networks(&self) -> usize {
        let client = Client::new(&self.path("run"));
        client.state(None).unwrap().routes.len()
    }

    /// What ran last.
    fn newest(&self) -> Revision {
        let history = Client::new(&self.path("run")).history().unwrap();
        history.into_iter().next().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn end(mut self) {
        self.run.signal(Signal::SIGTERM);
        assert!(self.run.child.wait().unwrap().success());
    }
}

fn text(networks: u8) -> String {
    "version: 1\nnode: small\n".to_owned() + &networks_of(0..networks)
}

fn networks_of(numbers: std::ops::Range<u8>) -> String {
    let networks = numbers.map(|n| format!("  n{n}: {{gateway: 10.{n}.0.1/24}}\n"));
    "networks:\n".to_owned() + &networks.collect::<String>()
}

/// As editors and deployment tools do.
fn rename_over(path: &Path, text: &str) {
    put(path, text, 0o644);
}

fn put(path: &Path, text: &str, mode: u32) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[test]
fn a_file_that_changes_is_applied() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.yaml"), text(1)).unwrap();
    let culvert = Followed::start(folder, "c.yaml");
    let file = culvert.path("c.yaml");
    assert_eq!(culvert.networks(), 1);
    rename_over(&file, &text(2));
    culvert.applied();
    assert_eq!(culvert.networks(), 2);
    // In its place.
    fs::write(&file, text(3)).unwrap();
    culvert.applied();
    assert_eq!(culvert.networks(), 3);
    // With a copy left behind, and nothing in its place for a moment.
    fs::rename(&file, culvert.path("c.yaml~")).unwrap();
    fs::write(&file, text(4)).unwrap();
    culvert.applied();
    assert_eq!(culvert.networks(), 4);
    // One that is wrong changes nothing, and is told of once, however often it is written.
    let wrong = "version: 1\nnetwrks: {}\n";
    rename_over(&file, wrong);
    culvert.applied();
    assert_eq!(culvert.networks(), 4);
    rename_over(&file, wrong);
    fs::write(culvert.path("other.yaml"), "x").unwrap();
    // A good one again.
    rename_over(&file, &text(5));
    culvert.applied();
    assert_eq!(culvert.networks(), 5);
    let log = culvert.log();
    assert_eq!(
        log.matches("c.yaml:2:1: unknown key `netwrks`").count(),
        1,
        "{log}"
    );
    assert_eq!(
        log.matches("the configuration has changed: applying it")
            .count(),
        5,
        "{log}"
    );
    culvert.end();
}

/// What could not be applied while another file was on trial is applied afterwards, whatever became of that.
#[test]
fn a_file_that_changes_during_a_trial_is_applied_after_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.yaml"), text(1)).unwrap();
    let culvert = Followed::start(folder, "c.yaml");
    let other = culvert.path("other.yaml");
    fs::write(&other, text(2)).unwrap();
    let words = ["apply", other.to_str().unwrap(), "--confirm", "60s"];
    let tried = run(&words, &culvert.path("run"));
    assert!(tried.status.success(), "{}", stderr(&tried));
    rename_over(&culvert.path("c.yaml"), &text(3));
    culvert.applied();
    assert_eq!(culvert.networks(), 2);
    let back = run(&["rollback"], &culvert.path("run"));
    assert!(back.status.success(), "{}", stderr(&back));
    culvert.applied();
    assert_eq!(culvert.networks(), 3);
    let log = culvert.log();
    assert!(log.contains("it is applied once no change waits"), "{log}");
    culvert.end();
}

/// What was rolled back comes again by who wants it, and not because it lies there.
#[test]
fn what_was_taken_back_is_not_applied_by_following() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.yaml"), text(1)).unwrap();
    let culvert = Followed::start(folder, "c.yaml");
    let other = culvert.path("other.yaml");
    fs::write(&other, text(2)).unwrap();
    let words = ["apply", other.to_str().unwrap(), "--confirm", "60s"];
    let tried = run(&words, &culvert.path("run"));
    assert!(tried.status.success(), "{}", stderr(&tried));
    let back = run(&["rollback"], &culvert.path("run"));
    assert!(back.status.success(), "{}", stderr(&back));
    rename_over(&culvert.path("c.yaml"), &text(2));
    culvert.applied();
    assert_eq!(culvert.networks(), 1);
    let log = culvert.log();
    let said = "revision 2 is the same, and was rolled back: it is not applied by itself again";
    assert_eq!(log.matches(said).count(), 1, "{log}");
    culvert.run.signal(Signal::SIGHUP);
    culvert.applied();
    assert_eq!(culvert.networks(), 2);
    assert_eq!(culvert.newest().origin, Origin::Sighup);
    rename_over(&culvert.path("c.yaml"), &text(3));
    culvert.applied();
    assert_eq!(culvert.networks(), 3);
    assert_eq!(culvert.newest().origin, Origin::Watch);
    let body = serde_json::json!({ "path": other, "text": text(4) }).to_string();
    let mut api = UnixStream::connect(culvert.path("run/api.sock")).unwrap();
    write!(
        api,
        "POST /v1/apply HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    api.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(culvert.newest().origin, Origin::Api);
    culvert.end();
}

#[test]
fn what_is_included_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let main = "version: 1\nnode: small\ninclude: [more]\n".to_owned() + &networks_of(0..1);
    fs::write(folder.path().join("c.yaml"), main).unwrap();
    fs::create_dir(folder.path().join("more")).unwrap();
    let culvert = Followed::start(folder, "c.yaml");
    fs::write(culvert.path("more/a.yaml"), networks_of(1..2)).unwrap();
    culvert.applied();
    assert_eq!(culvert.networks(), 2);
    rename_over(&culvert.path("more/a.yaml"), &networks_of(1..4));
    culvert.applied();
    assert_eq!(culvert.networks(), 4);
    fs::remove_file(culvert.path("more/a.yaml")).unwrap();
    culvert.applied();
    assert_eq!(culvert.networks(), 1);
    // The folder itself is another one.
    fs::create_dir(culvert.path("next")).unwrap();
    fs::write(culvert.path("next/b.yaml"), networks_of(5..7)).unwrap();
    fs::rename(culvert.path("more"), culvert.path("old")).unwrap();
    fs::rename(culvert.path("next"), culvert.path("more")).unwrap();
    culvert.applied();
    assert_eq!(culvert.networks(), 3);
    culvert.end();
}

/// As Kubernetes mounts a ConfigMap: the file is a link through `..data`, which is swapped.
#[test]
fn a_link_that_is_swapped_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    let publish = |mount: &Path, version: &str, text: &str| {
        fs::create_dir_all(mount.join(version)).unwrap();
        fs::write(mount.join(version).join("c.yaml"), text).unwrap();
        symlink(version, mount.join("..data_tmp")).unwrap();
        fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    };
    publish(&mount, "..1", &text(1));
    symlink("..data/c.yaml", mount.join("c.yaml")).unwrap();
    let culvert = Followed::start(folder, "mount/c.yaml");
    for (version, networks) in [("..2", 2), ("..3", 3)] {
        publish(&mount, version, &text(networks));
        let before = format!("..{}", networks - 1);
        fs::remove_dir_all(mount.join(before)).unwrap();
        culvert.applied();
        assert_eq!(culvert.networks(), usize::from(networks));
    }
    culvert.end();
}

/// A tunnel whose keys lie in the key directory and beside it.
#[test]
fn key_files_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let key = |number: u8| PrivateKey::from_bytes([number; 32]);
    put(&keys.join("t.key"), &key(1).to_base64(), 0o600);
    let peers = [2, 3].map(|number| key(number).public_key().to_base64());
    let line = |number: u8| format!("{} {}\n", peers[1], &*key(number).to_base64());
    put(&folder.path().join("many.psk"), &line(7), 0o600);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let text = format!(
        "version: 1\nnode: small\napi: {{key_directory: keys}}\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
         tunnels:\n  t:\n    uplink: u\n    listen_port: {port}\n    uapi: false\n    private_key_file: key:t.key\n    \
         preshared_keys_file: many.psk\n    peers:\n      a: {{public_key: \"{}\", preshared_key_file: key:a.psk}}\n      \
         b: {{public_key: \"{}\"}}\nnetworks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n",
        peers[0], peers[1]
    );
    put(&keys.join("a.psk"), &key(5).to_base64(), 0o600);
    fs::write(folder.path().join("c.yaml"), text).unwrap();
    let culvert = Followed::start(folder, "c.yaml");
    let changed = |what: &str, times: usize| {
        culvert.applied();
        let log = culvert.log();
        assert_eq!(log.matches(what).count(), times, "{log}");
    };
    // In the key directory.
    put(&culvert.path("keys/a.psk"), &key(6).to_base64(), 0o600);
    changed("applied: peer t/a changed (preshared_key: ", 1);
    // Of many.
    put(&culvert.path("many.psk"), &line(8), 0o600);
    changed("applied: peer t/b changed (preshared_key: ", 1);
    // One that others can read changes nothing until that is mended.
    put(&culvert.path("keys/a.psk"), &key(9).to_base64(), 0o644);
    changed("its permissions are 0644", 1);
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(culvert.path("keys/a.psk"), mode).unwrap();
    changed("applied: peer t/a changed (preshared_key: ", 2);
    put(&culvert.path("keys/t.key"), &key(10).to_base64(), 0o600);
    changed("applied: tunnel t changed (private_key: ", 1);
    culvert.end();
}

/// A CA that signs for one name.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Puts a new certificate and its key in the place of what is there; the certificate as a client sees it.
    fn renew(&self, certificate: &Path, key: &Path) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName("culvert.test".try_into().unwrap())];
        let own = KeyPair::generate().unwrap();
        let signed = params.signed_by(&own, &self.0).unwrap();
        put(key, &own.serialize_pem(), 0o600);
        put(certificate, &signed.pem(), 0o644);
        signed.der().to_vec()
    }

    /// The certificate that a new connection is shown; what comes after it needs one of ours.
    fn shown(&self, at: SocketAddr) -> Vec<u8> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("culvert.test").unwrap();
        let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut tcp = TcpStream::connect(at).unwrap();
        while session.is_handshaking() {
            session.complete_io(&mut tcp).unwrap();
        }
        session.peer_certificates().unwrap()[0].to_vec()
    }
}

/// What the file does not name, or not as a key: a key file of a peer of the API layer's, the API's own certificate.
#[test]
fn keys_of_the_layer_and_certificates_are_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (keys, certs) = (at("keys"), at("certs"));
    fs::create_dir(&keys).unwrap();
    fs::create_dir(&certs).unwrap();
    let ca = Ca::new();
    let (certificate, own) = (certs.join("own.pem"), certs.join("own.key"));
    let first = ca.renew(&certificate, &own);
    put(&certs.join("ca.pem"), &ca.0.pem(), 0o644);
    let key = |number: u8| PrivateKey::from_bytes([number; 32]);
    put(&at("t.key"), &key(1).to_base64(), 0o600);
    put(&keys.join("b.psk"), &key(5).to_base64(), 0o600);
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    drop(socket);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = listener.local_addr().unwrap();
    drop(listener);
    let text = format!(
        "version: 1\nnode: small\napi:\n  key_directory: keys\n  listen: \"{listen}\"\n  tls:\n    \
         certificate: certs/own.pem\n    key: certs/own.key\n    client_ca: certs/ca.pem\n    roles: {{ops.test: read}}\n\
         uplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
         tunnels: {{t: {{uplink: u, listen_port: {port}, uapi: false, private_key_file: t.key}}}}\n\
         networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n"
    );
    fs::write(at("c.yaml"), text).unwrap();
    let culvert = Followed::start(folder, "c.yaml");
    let keys = culvert.path("keys");
    let public = format!("public_key={}", key(2).public_key().to_base64());
    let file = "preshared_key_file=key:b.psk";
    let added = run(&["peer", "add", "t/b", &public, file], &culvert.path("run"));
    assert!(added.status.success(), "{}", stderr(&added));
    put(&keys.join("b.psk"), &key(6).to_base64(), 0o600);
    culvert.applied();
    let log = culvert.log();
    assert!(
        log.contains("applied: peer t/b changed (preshared_key: "),
        "{log}"
    );
    assert_eq!(ca.shown(listen), first);
    let renewed = ca.renew(&certificate, &own);
    culvert.applied();
    assert_eq!(ca.shown(listen), renewed);
    assert_ne!(renewed, first);
    culvert.end();
}
