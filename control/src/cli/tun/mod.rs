//! `culvert tun INTERFACE`: a WireGuard interface without a file, as `wireguard-go INTERFACE` makes one.
//!
//! In: an interface's name, wireguard-go's environment variables. Out: the interface, a socket that `wg` finds it by;
//! a folder that `culvert show` finds it by; a process in the background, unless it is told otherwise. Never: hugepages, a
//! device of DPDK's, a change by another way than `wg`'s.
//!
//! It ends when the interface is deleted, when the socket is removed, and on SIGTERM, SIGINT and SIGHUP.

mod config;
mod watch;

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use culvert_dataplane::guest::tun::Tun;
use culvert_directory::{ListenError, Listener};

use super::Failure;
use crate::api::Requester;
use crate::api::server::Server;
use crate::config::is_interface_name;
use crate::engine::Lone;
use crate::netlink::index_of;
use crate::process::{self, Notify, Ready, TunDir, handed, in_background, signals};
use crate::uapi::server::{self, OpenError};
use crate::{api, engine};

/// What the links that `wg-quick` needs are called.
const LINK: &CStr = c"culvert-tun";
/// How long a process that ends may take to give its socket's name free.
const SUCCESSION: Duration = Duration::from_secs(3);

/// `culvert tun`.
#[derive(Debug, Args)]
pub(super) struct TunCommand {
    /// Stay in the foreground
    #[arg(long)]
    foreground: bool,
    /// The interface, which is made; `%d` in it becomes a number
    #[arg(value_name = "INTERFACE")]
    interface: String,
}

pub(super) const AFTER_HELP: &str = "\
Environment, as of wireguard-go:
  LOG_LEVEL              verbose or debug, error (the default), silent
  WG_PROCESS_FOREGROUND  1: stay in the foreground
  WG_TUN_FD              the interface, as a descriptor of it that is open already
  WG_UAPI_FD             a socket that listens for wg already

With wg-quick:
  ln -s \"$(command -v culvert)\" /usr/local/bin/culvert-tun
  WG_QUICK_USERSPACE_IMPLEMENTATION=culvert-tun wg-quick up wg0";

/// The command line: a program that is called `culvert-tun` is `culvert tun`, with wireguard-go's `-f`, which names a
/// file everywhere else.
pub(super) fn arguments(all: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut all: Vec<OsString> = all.collect();
    let name = all.first().and_then(|first| Path::new(first).file_name());
    if name.is_some_and(|name| name.as_bytes() == LINK.to_bytes()) {
        let foreground = all.iter_mut().skip(1).filter(|word| *word == "-f");
        foreground.for_each(|word| *word = "--foreground".into());
        all.insert(1, "tun".into());
    }
    all
}

/// 1. The background is another process, which comes here again and stays in the foreground.
/// 2. Nothing secret is in memory yet: shut the process's memory off; signals are blocked before the first thread.
/// 3. The socket: who has its name has the interface's.
/// 4. The folder, for those who want to see into it.
/// 5. The engine makes the interface, and takes the calling thread; whoever waits is told that it is ready.
pub(super) fn run(args: &TunCommand) -> Result<(), Failure> {
    let tun = handed_tun()?;
    // What was handed over has a name.
    let interface = &match &tun {
        Some(tun) => tun.interface().to_owned(),
        None => numbered(&args.interface)?,
    };
    let set = |variable: &str| std::env::var_os(variable).is_some_and(|value| value == "1");
    if !args.foreground && !set("WG_PROCESS_FOREGROUND") {
        return match in_background(LINK, &["--foreground", interface])? {
            true => Ok(()),
            false => Err(Failure::Report(String::new())),
        };
    }
    process::harden()?;
    signals::block()?;
    let level = std::env::var("LOG_LEVEL").unwrap_or_default();
    process::log::init_with(match level.as_str() {
        "verbose" | "debug" => "debug",
        "silent" => "off",
        _ => "error",
    });
    let parent = Ready::from_parent(LINK)?;
    let socket = socket(interface)?;
    let path = socket.path().to_owned();
    let (requester, requests) = api::channel()?;
    let notify = Notify::default();
    signals::serve(None, requester.clone(), notify.clone())?;
    let shown = Shown::open(interface, &requester);
    let watched = requester.clone();
    // Whoever asked for a level wants to see the lines.
    let quiet = level.is_empty() || level == "silent";
    tracing::debug!(interface, version = env!("CARGO_PKG_VERSION"), "starting");
    let ended = engine::run(
        config::lone(interface, tun.is_some()),
        engine::Surroundings {
            run_dir: None,
            requester,
            requests,
            notify: &notify,
            ready: Box::new(move || {
                watch::until_removed(path, watched);
                parent.say(quiet);
            }),
            lone: Some(Lone { socket, tun }),
        },
    );
    drop(shown);
    ended.map_err(|error| Failure::Line(format!("{interface}: {error}")))
}

/// Where it can be looked at. The socket goes ahead of its folder.
struct Shown {
    _server: Server,
    _folder: TunDir,
}

impl Shown {
    /// `None`: nobody sees into it, and it does its work all the same.
    fn open(interface: &str, requester: &Requester) -> Option<Self> {
        let folder = TunDir::open(interface).map_err(|error| error.to_string());
        let shown = folder.and_then(|folder| {
            let server = api::server::serve_to_read(folder.directory(), requester.clone());
            let server = server.map_err(|error| error.to_string())?;
            Ok(Self {
                _server: server,
                _folder: folder,
            })
        });
        let report = |error| tracing::warn!(interface, %error, "`culvert show` will not find it");
        shown.map_err(report).ok()
    }
}

/// The interface's name; the first number that is free in the place of `%d`, as the kernel chooses it.
fn numbered(interface: &str) -> Result<String, Failure> {
    let taken = |name: &str| index_of(name).is_some();
    let name = match interface.split_once("%d") {
        Some((before, behind)) => (0..100)
            .map(|number| format!("{before}{number}{behind}"))
            .find(|name| !taken(name))
            .unwrap_or_default(),
        None => interface.to_owned(),
    };
    if is_interface_name(&name) {
        return Ok(name);
    }
    Err(Failure::Line(format!(
        "`{interface}` can't be an interface's name: at most 15 characters without spaces, `/` and `:`"
    )))
}

/// The interface, if somebody made it for us.
fn handed_tun() -> Result<Option<Tun>, Failure> {
    let Some(descriptor) = handed("WG_TUN_FD")? else {
        return Ok(None);
    };
    Tun::adopt(descriptor)
        .map(Some)
        .map_err(|error| Failure::Line(format!("WG_TUN_FD: {error}")))
}

/// The socket for `wg`: one that was handed over, or a new one. An interface that was deleted a moment ago may have
/// its socket still.
fn socket(interface: &str) -> Result<Listener, Failure> {
    let directory = server::directory()?;
    if let Some(fd) = handed("WG_UAPI_FD")? {
        let name = server::file_name(interface);
        return Ok(Listener::adopt(fd, &directory, name));
    }
    let end = Instant::now() + SUCCESSION;
    loop {
        match server::open(&directory, interface) {
            Err(OpenError::Socket(ListenError::InUse { .. })) if Instant::now() < end => {
                thread::sleep(Duration::from_millis(20));
            }
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_is_the_command() {
        let of = |words: &[&str]| arguments(words.iter().map(OsString::from));
        assert_eq!(
            of(&["/usr/bin/culvert-tun", "-f", "wg0"]),
            ["/usr/bin/culvert-tun", "tun", "--foreground", "wg0"]
        );
        assert_eq!(of(&["culvert", "tun", "wg0"]), ["culvert", "tun", "wg0"]);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn interfaces_may_be_numbered() {
        assert_eq!(numbered("wg0").ok().as_deref(), Some("wg0"));
        assert_eq!(numbered("cvnone%d").ok().as_deref(), Some("cvnone0"));
        assert!(numbered("a/b").is_err());
        assert!(numbered("sixteen-letters-").is_err());
    }
}
