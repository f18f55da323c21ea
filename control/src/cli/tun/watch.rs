//! The watch over the socket: who removes it wants the process to end.
//!
//! In: the socket's path. Out: a request to drain. Never: the socket itself.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::api::{Request, Requester};

/// Asks the engine to drain once the file is not there any more.
pub(super) fn until_removed(path: PathBuf, requester: Requester) {
    let watch = match watch(&path) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "can't watch the socket: its removal is not noticed");
            return;
        }
    };
    let run = move || {
        let mut room = [MaybeUninit::uninit(); 512];
        let mut news = Reader::new(&watch, &mut room);
        // The look comes first: it may be gone already.
        while path.symlink_metadata().is_ok() {
            if news.next().is_err() {
                return;
            }
        }
        tracing::debug!("the socket was removed");
        // An engine that is too busy to be asked has other requests that end it.
        let _ = requester.send(Request::Drain);
    };
    if let Err(error) = thread::Builder::new().name("watch".into()).spawn(run) {
        tracing::warn!(%error, "no thread is left to watch the socket");
    }
}

fn watch(path: &Path) -> rustix::io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC)?;
    // The last link's removal changes the file's attributes; the file itself lives as long as it is open.
    let flags = WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
    inotify::add_watch(&watch, path, flags)?;
    Ok(watch)
}
