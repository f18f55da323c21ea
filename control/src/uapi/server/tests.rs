use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Stream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::api;
use crate::uapi::{Change, Device};

/// A socket with an engine behind it that knows one tunnel and counts what is asked.
struct Running {
    folder: tempfile::TempDir,
    served: Option<Served>,
    _server: Server,
    sets: Arc<AtomicUsize>,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (requester, requests) = api::channel().unwrap();
        let sets = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sets);
        // Ends when the server, which has the other end, is gone.
        thread::spawn(move || {
            while let Some(request) = requests.wait(None) {
                let Request::Uapi { tunnel, ask, reply } = request else {
                    panic!("only `wg` asks here");
                };
                assert_eq!(tunnel.as_str(), "blue");
                reply.send(match ask {
                    Ask::Get(_) => {
                        let device = Device {
                            listen_port: 7,
                            ..Device::default()
                        };
                        Answer::Device(Box::new(device), None)
                    }
                    Ask::Set(changes) if changes.contains(&Change::ListenPort(1)) => {
                        Answer::Refused(Errno::ADDRINUSE)
                    }
                    Ask::Set(changes) => {
                        counted.fetch_add(changes.len(), Ordering::Relaxed);
                        Answer::Done
                    }
                });
            }
        });
        let server = Server::start(requester).unwrap();
        let directory = Directory::own(folder.path(), 0o755).unwrap();
        let socket = open(&directory, "wg7").unwrap();
        let served = server.serve(socket, Name::new("blue").unwrap()).unwrap();
        Self {
            folder,
            served: Some(served),
            _server: server,
            sets,
        }
    }

    fn connect(&self) -> Stream {
        let stream = Stream::connect(self.path()).unwrap();
        let limit = Some(Duration::from_secs(20));
        stream.set_read_timeout(limit).unwrap();
        stream.set_write_timeout(limit).unwrap();
        stream
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("wg7.sock")
    }

    /// What comes back before the server closes.
    fn say(&self, text: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    let running = Running::start();
    let text = "get=1\n\nset=1\nfwmark=3\n\nset=1\nlisten_port=1\n\nset=1\nx=1\n\nget=1\n\n";
    assert_eq!(
        running.say(text),
        "listen_port=7\nerrno=0\n\nerrno=0\n\nerrno=-98\n\nerrno=-22\n\nlisten_port=7\nerrno=0\n\n"
    );
    assert_eq!(running.sets.load(Ordering::Relaxed), 1);
}

#[test]
fn what_stands_before_a_wrong_line_reaches_the_engine() {
    let running = Running::start();
    assert_eq!(
        running.say("set=1\nfwmark=1\nfwmark=2\nfwmark=x\n\n"),
        "errno=-22\n\n"
    );
    assert_eq!(running.sets.load(Ordering::Relaxed), 2);
    // The engine's own error comes first in the request, so it is the one that is told.
    assert_eq!(
        running.say("set=1\nlisten_port=1\nfwmark=x\n\n"),
        "errno=-98\n\n"
    );
}

#[test]
fn what_is_no_request_is_answered_and_cut_off() {
    let running = Running::start();
    assert_eq!(running.say("hello\nget=1\n\n"), "errno=-71\n\n");
    assert_eq!(running.say("get=1\n"), "");
}

#[test]
fn clients_that_never_end_their_line_hold_nobody_up() {
    let running = Running::start();
    let mut hostile: Vec<Stream> = (0..50).map(|_| running.connect()).collect();
    for stream in &mut hostile {
        stream.write_all(b"set=1\nprivate_key=00").unwrap();
    }
    // One that writes without end is cut off.
    let mut flood = running.connect();
    let _ = flood.write_all(&[b'x'; codec::LINE_MAX + 10]);
    let mut answer = String::new();
    let _ = flood.read_to_string(&mut answer);
    assert_eq!(answer, "errno=-5\n\n");
    assert_eq!(running.say("get=1\n\n"), "listen_port=7\nerrno=0\n\n");
    drop(hostile);
}

#[test]
fn a_client_that_never_reads_holds_nobody_up() {
    let running = Running::start();
    let mut deaf = running.connect();
    deaf.set_nonblocking(true).unwrap();
    // Until its own buffer is full because the answers fill the other one.
    while deaf.write(&b"get=1\n\n".repeat(100)).is_ok() {}
    assert_eq!(running.say("get=1\n\n"), "listen_port=7\nerrno=0\n\n");
}

#[test]
fn a_hundred_clients_are_answered_at_once() {
    let running = Running::start();
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert_eq!(running.say("set=1\nfwmark=3\n\n"), "errno=0\n\n"));
        }
    });
    assert_eq!(running.sets.load(Ordering::Relaxed), 100);
}

#[test]
fn the_socket_is_its_owners_and_goes_with_its_server() {
    let mut running = Running::start();
    let mode = fs::metadata(running.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let names = || fs::read_dir(running.folder.path()).unwrap().count();
    assert_eq!(names(), 1, "nothing lies beside the socket");
    running.served = None;
    assert_eq!(names(), 0);
}

#[test]
fn connections_end_with_their_socket() {
    let mut running = Running::start();
    let mut client = running.connect();
    client.write_all(b"get=1\n\n").unwrap();
    let mut answer = [0; 8];
    client.read_exact(&mut answer).unwrap();
    running.served = None;
    // Not a silence, which would end by the time limit of this side.
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}
