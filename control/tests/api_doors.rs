//! Who comes in by which way, and what it may: over real sockets.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Running;
use culvert::api::bodies::ApplyBody;
use culvert::api::client::Client;
use culvert::config::{Account, Api, ApiTls, Role};
use culvert::state::Applied;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// A machine under load takes its time; this is no promise.
const PATIENCE: Duration = Duration::from_secs(30);

fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: culvert\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The status and all that follows.
fn asked(stream: &mut (impl Read + Write), request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // A TLS stream that ends without its farewell has been read all the same.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.unwrap_or(0), answer)
}

fn by_socket(running: &Running, name: &str, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(running.run_dir.join(name)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    asked(&mut stream, request)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

fn own_group() -> Account {
    Account::Id(nix::unistd::getegid().as_raw())
}

fn apply(running: &Running, api: &str) {
    let body = ApplyBody {
        path: "/test.yaml".into(),
        included: Vec::new(),
        text: format!("version: 1\nnetworks: {{}}\napi: {api}\n"),
        ..ApplyBody::default()
    };
    Client::new(&running.run_dir).apply(&body).unwrap();
}

/// What becomes true some time after the answer: the API's thread does it.
fn soon(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn readers_have_a_socket_by_which_nothing_changes() {
    let api = Api {
        readers: Some(own_group()),
        ..Api::default()
    };
    let running = Running::with_doors(Ok(Applied::default()), &api);
    assert_eq!(mode(&running.run_dir.join("api-read.sock")), 0o660);
    let (status, answer) = by_socket(&running, "api-read.sock", &request("GET", "/v1/config", ""));
    assert_eq!(status, 200, "{answer}");
    let body =
        serde_json::json!({ "path": "/t.yaml", "text": "version: 1\nnetworks: {}\n" }).to_string();
    let apply = request("POST", "/v1/apply", &body);
    let (status, answer) = by_socket(&running, "api-read.sock", &apply);
    assert_eq!(status, 403, "{answer}");
    assert!(
        answer.contains("nothing can be changed: ask by api.sock"),
        "{answer}"
    );
    assert!(running.applied.try_recv().is_err());
    assert_eq!(by_socket(&running, "api.sock", &apply).0, 200);
    // A page that a browser shows, with the rights of who looks at it.
    let forged = apply.replacen("host:", "origin: https://evil.example\r\nhost:", 1);
    assert_eq!(by_socket(&running, "api.sock", &forged).0, 403);
}

/// A user of the readers' group asks as everyone does, by the command.
#[test]
fn a_reader_s_commands_find_its_socket() {
    const READERS: u32 = 54_321;
    if !nix::unistd::geteuid().is_root() {
        common::skip("root", "nobody else's user can be had");
        return;
    }
    let api = Api {
        readers: Some(Account::Id(READERS)),
        ..Api::default()
    };
    let running = Running::with_doors(Ok(Applied::default()), &api);
    std::fs::set_permissions(&running.run_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A copy, where that user may run it.
    let binary = running.run_dir.join("culvert");
    std::fs::copy(common::culvert().get_program(), &binary).unwrap();
    let command = |group: u32, words: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command.uid(READERS).gid(group).args(words);
        let output = command.arg("--run-dir").arg(&running.run_dir).output();
        output.unwrap()
    };
    let reads = command(READERS, &["show", "ports"]);
    assert!(reads.status.success(), "{reads:?}");
    let changes = command(READERS, &["log-level", "debug"]);
    let said = String::from_utf8(changes.stderr).unwrap();
    assert!(said.contains("as a user of the group "), "{said}");
    let stranger = command(READERS + 1, &["show", "ports"]);
    let said = String::from_utf8(stranger.stderr).unwrap();
    assert!(said.contains("may not open"), "{said}");
}

#[test]
fn an_apply_changes_the_doors_at_once() {
    let running = Running::start(Ok(Applied::default()));
    let [socket, readers] = ["api.sock", "api-read.sock"].map(|name| running.run_dir.join(name));
    assert_eq!(mode(&socket), 0o660);
    let idle = UnixStream::connect(&socket).unwrap();
    let group = nix::unistd::getegid();
    apply(
        &running,
        &format!("{{ socket: {{ mode: 0600 }}, readers: {{ group: {group} }} }}"),
    );
    assert_eq!(mode(&socket), 0o600);
    let (status, answer) = by_socket(&running, "api-read.sock", &request("GET", "/v1/config", ""));
    assert_eq!(status, 200, "{answer}");
    // Who came in by the old rights is out.
    idle.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!((&idle).read(&mut [0]).unwrap(), 0);
    apply(&running, "{}");
    assert_eq!(mode(&socket), 0o660);
    assert!(!readers.exists());
}

#[test]
fn an_apply_that_can_have_no_doors_changes_nothing() {
    let running = Running::start(Ok(Applied::default()));
    let body = ApplyBody {
        path: "/test.yaml".into(),
        included: Vec::new(),
        text: "version: 1\nnetworks: {}\napi: { socket: { group: no-such-group } }\n".into(),
        ..ApplyBody::default()
    };
    let error = Client::new(&running.run_dir)
        .apply(&body)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("there is no group no-such-group: `groupadd"),
        "{error}"
    );
    assert!(running.applied.try_recv().is_err());
}

/// Those beyond the limit hear why, and those that close make room.
#[test]
fn a_thousand_connections_are_too_many() {
    let running = Running::start(Ok(Applied::default()));
    let socket = running.run_dir.join("api.sock");
    let open = || UnixStream::connect(&socket).unwrap();
    let all: Vec<_> = (0..1000).map(|_| open()).collect();
    let mut last = open();
    last.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("too many connections of this user"),
        "{answer}"
    );
    drop(all);
    soon("there is room again", || {
        let (status, _) = asked(&mut open(), &request("GET", "/v1/config", ""));
        status == 200
    });
}

/// A head that never ends, and one that never begins.
#[test]
fn who_says_nothing_is_let_go() {
    let running = Running::start(Ok(Applied::default()));
    for said in ["", "GET /v1/config HTTP/1.1\r\nhost: c"] {
        let mut stream = UnixStream::connect(running.run_dir.join("api.sock")).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream.set_read_timeout(Some(4 * PATIENCE)).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
    }
}

/// A CA, and what it signs.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate with these names, and its key, as PEM.
    fn sign(&self, names: &[SanType]) -> (String, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

struct Site {
    ca: Ca,
    tls: ApiTls,
    _folder: tempfile::TempDir,
}

fn write(path: &Path, text: &str) -> PathBuf {
    let mut options = std::fs::File::options();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.unwrap().write_all(text.as_bytes()).unwrap();
    path.to_owned()
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        let (certificate, key) = ca.sign(&[dns("culvert.test")]);
        let at = |name: &str| folder.path().join(name);
        // Free now, and nobody else's in this test.
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let tls = ApiTls {
            listen: Some(free),
            certificate: write(&at("own.pem"), &certificate),
            key: write(&at("own.key"), &key),
            client_ca: write(&at("ca.pem"), &ca.0.pem()),
            roles: vec![
                ("ops.test".into(), Role::Write),
                ("spiffe://test/scrape".into(), Role::Read),
                ("127.0.0.9".into(), Role::Read),
            ],
        };
        Self {
            ca,
            tls,
            _folder: folder,
        }
    }

    fn serve(&self) -> Running {
        let api = Api {
            tls: Some(self.tls.clone()),
            ..Api::default()
        };
        Running::with_doors(Ok(Applied::default()), &api)
    }

    /// What a client with this certificate is answered; status 0: it has no connection.
    fn ask(&self, identity: Option<(String, String)>, request: &str) -> (u16, String) {
        ask(self.tls.listen.unwrap(), &self.ca, identity, request)
    }
}

fn ask(
    at: SocketAddr,
    ca: &Ca,
    identity: Option<(String, String)>,
    request: &str,
) -> (u16, String) {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.0.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config
                .with_client_auth_cert(vec![certificate], key)
                .unwrap()
        }
    };
    let name = ServerName::try_from("culvert.test").unwrap();
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(at).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = rustls::Stream::new(&mut session, &mut tcp);
    if let Err(error) = stream.write_all(request.as_bytes()) {
        return (0, error.to_string());
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => return (0, error.to_string()),
        _ => {}
    }
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.unwrap_or(0), answer)
}

#[test]
fn certificates_have_roles_by_their_exact_names() {
    let site = Site::new();
    let _running = site.serve();
    let get = request("GET", "/v1/config", "");
    // An apply of this file would close the port.
    let file = serde_json::json!({ "path": "/t.yaml", "text": "version: 1\nnetworks: {}\n" });
    let body = serde_json::json!({ "from": "running", "to": { "file": file } });
    let post = request("POST", "/v1/diff", &body.to_string());
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let cases = [
        (vec![dns("ops.test")], 200, 200),
        (
            vec![dns("other.test"), uri("spiffe://test/scrape")],
            200,
            403,
        ),
        (vec![SanType::IpAddress([127, 0, 0, 9].into())], 200, 403),
        // The most that one of its names may.
        (vec![uri("spiffe://test/scrape"), dns("ops.test")], 200, 200),
        (vec![dns("x.ops.test")], 403, 403),
        (vec![dns("OPS.test")], 403, 403),
        (vec![dns("*.test")], 403, 403),
        (vec![], 403, 403),
    ];
    for (names, may_read, may_write) in cases {
        let (status, answer) = site.ask(Some(site.ca.sign(&names)), &get);
        assert_eq!(status, may_read, "{names:?}: {answer}");
        let (status, answer) = site.ask(Some(site.ca.sign(&names)), &post);
        assert_eq!(status, may_write, "{names:?}: {answer}");
    }
}

#[test]
fn who_has_no_certificate_of_the_ca_has_no_connection() {
    let site = Site::new();
    let _running = site.serve();
    let get = request("GET", "/v1/config", "");
    let (status, error) = site.ask(None, &get);
    assert_eq!(status, 0, "{error}");
    let (status, error) = site.ask(Some(Ca::new().sign(&[dns("ops.test")])), &get);
    assert_eq!(status, 0, "{error}");
    // Others are answered meanwhile and afterwards.
    assert_eq!(
        site.ask(Some(site.ca.sign(&[dns("ops.test")])), &get).0,
        200
    );
}

/// Roles and certificates change with an `apply`; what can't be read changes nothing.
#[test]
fn an_apply_changes_roles_and_certificates() {
    let site = Site::new();
    let running = site.serve();
    let get = request("GET", "/v1/config", "");
    let ops = || Some(site.ca.sign(&[dns("ops.test")]));
    assert_eq!(site.ask(ops(), &get).0, 200);
    let tls = &site.tls;
    let api = |ca: &Path| {
        format!(
            "{{ listen: \"{}\", tls: {{ certificate: {}, key: {}, client_ca: {}, roles: {{ new.test: read }} }} }}",
            tls.listen.unwrap(),
            tls.certificate.display(),
            tls.key.display(),
            ca.display(),
        )
    };
    let body = ApplyBody {
        path: "/test.yaml".into(),
        included: Vec::new(),
        text: format!(
            "version: 1\nnetworks: {{}}\napi: {}\n",
            api(Path::new("/nowhere.pem"))
        ),
        ..ApplyBody::default()
    };
    let error = Client::new(&running.run_dir)
        .apply(&body)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`client_ca` /nowhere.pem: No such file"),
        "{error}"
    );
    assert_eq!(site.ask(ops(), &get).0, 200);
    apply(&running, &api(&tls.client_ca));
    soon("roles change", || site.ask(ops(), &get).0 == 403);
    assert_eq!(
        site.ask(Some(site.ca.sign(&[dns("new.test")])), &get).0,
        200
    );
    // Another CA under the same name.
    let other = Ca::new();
    write(&tls.client_ca, &other.0.pem());
    apply(&running, &api(&tls.client_ca));
    soon("the CA changes", || {
        site.ask(Some(site.ca.sign(&[dns("new.test")])), &get).0 == 0
    });
    assert_eq!(site.ask(Some(other.sign(&[dns("new.test")])), &get).0, 200);
    apply(&running, "{}");
    soon("the port closes", || {
        TcpStream::connect(tls.listen.unwrap()).is_err()
    });
}
