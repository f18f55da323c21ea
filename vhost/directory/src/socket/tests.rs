use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;

use super::*;

fn folder() -> (tempfile::TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::any(folder.path()).unwrap();
    (folder, directory)
}

fn names(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn a_socket_appears_with_its_rights_and_goes_with_its_owner() {
    let (folder, directory) = folder();
    let path = folder.path().join("a.sock");
    for mode in [0o600, 0o660, 0o666, 0o640] {
        let listener = Listener::open(&directory, "a.sock", Access::mode(mode)).unwrap();
        assert_eq!(listener.path(), path);
        let found = fs::symlink_metadata(&path).unwrap();
        // Whatever the process's umask is.
        assert_eq!(found.permissions().mode() & 0o777, mode);
        assert_eq!(names(folder.path()), 1, "nothing lies beside it");
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert_eq!(names(folder.path()), 0);
    }
}

#[test]
fn a_socket_is_whose_it_shall_be() {
    if own() != 0 {
        return;
    }
    let (folder, directory) = folder();
    let access = Access {
        owner: Some(12_345),
        group: Some(12_346),
        ..Access::mode(0o660)
    };
    let _listener = Listener::open(&directory, "a.sock", access).unwrap();
    let found = fs::symlink_metadata(folder.path().join("a.sock")).unwrap();
    assert_eq!((found.uid(), found.gid()), (12_345, 12_346));
    assert_eq!(found.mode() & 0o777, 0o660);
}

#[test]
fn a_stale_socket_is_taken_over_and_a_live_one_refused() {
    let (folder, directory) = folder();
    let path = folder.path().join("a.sock");
    let live = UnixListener::bind(&path).unwrap();
    let refused = Listener::open(&directory, "a.sock", Access::OWNER).unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, ListenError::InUse { .. }), "{text}");
    let own = format!("pid {}", std::process::id());
    assert!(text.contains(&own) && text.contains("a.sock"), "{text}");
    assert!(vacant(&directory, "a.sock").is_err());
    // A killed process leaves the file behind.
    drop(live);
    assert!(path.exists());
    assert!(vacant(&directory, "a.sock").is_ok());
    let _listener = Listener::open(&directory, "a.sock", Access::OWNER).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn a_socket_with_a_full_queue_is_in_use_and_nobody_waits_for_it() {
    let (folder, directory) = folder();
    let _listener = Listener::open(&directory, "a.sock", Access::OWNER).unwrap();
    let address = SocketAddrUnix::new(folder.path().join("a.sock")).unwrap();
    let waiting: Vec<_> = std::iter::from_fn(|| {
        let socket = stream().unwrap();
        connect(&socket, &address).is_ok().then_some(socket)
    })
    .collect();
    assert!(waiting.len() >= usize::try_from(BACKLOG).unwrap());
    let refused = Listener::open(&directory, "a.sock", Access::OWNER).unwrap_err();
    assert!(matches!(refused, ListenError::InUse { .. }), "{refused}");
}

#[test]
fn what_is_no_socket_stays() {
    let (folder, directory) = folder();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    fs::set_permissions(&victim, Permissions::from_mode(0o604)).unwrap();
    fs::copy(&victim, folder.path().join("file")).unwrap();
    symlink(&victim, folder.path().join("link")).unwrap();
    let live = UnixListener::bind(folder.path().join("live")).unwrap();
    symlink(folder.path().join("live"), folder.path().join("to-live")).unwrap();
    for name in ["file", "link", "to-live"] {
        let refused = Listener::open(&directory, name, Access::mode(0o666)).unwrap_err();
        assert!(matches!(refused, ListenError::NotASocket(_)), "{refused}");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o777, 0o604);
    drop(live);
}

#[test]
fn a_planted_lock_is_refused_and_left_alone() {
    let (folder, directory) = folder();
    let victim = folder.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, folder.path().join(".a.sock.lock")).unwrap();
    let refused = Listener::open(&directory, "a.sock", Access::OWNER).unwrap_err();
    assert!(refused.to_string().contains("symbolic link"), "{refused}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn a_folder_that_another_put_in_the_place_of_ours_is_not_used() {
    let (folder, directory) = folder();
    let others = folder.path().join("others");
    fs::create_dir(&others).unwrap();
    fs::set_permissions(&others, Permissions::from_mode(0o777)).unwrap();
    assert!(enter(&directory, "others").is_err());
    symlink(&others, folder.path().join("link")).unwrap();
    assert!(enter(&directory, "link").is_err());
}

#[test]
fn a_successors_socket_is_left_alone() {
    let (folder, directory) = folder();
    let path = folder.path().join("a.sock");
    let first = Listener::open(&directory, "a.sock", Access::OWNER).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = Listener::open(&directory, "a.sock", Access::OWNER).unwrap();
    drop(first);
    assert!(path.exists());
}

#[test]
fn a_socket_is_handed_over_with_its_name() {
    let (folder, directory) = folder();
    let path = folder.path().join("a.sock");
    let listener = Listener::open(&directory, "a.sock", Access::OWNER).unwrap();
    let (socket, place) = listener.into_parts();
    place.leave();
    assert!(path.exists());
    let again = Listener::adopt(socket.into(), &directory, "a.sock");
    UnixStream::connect(&path).unwrap();
    drop(again);
    assert!(!path.exists());
}

#[test]
fn of_many_that_begin_at_once_one_has_the_name() {
    let (folder, directory) = folder();
    drop(UnixListener::bind(folder.path().join("a.sock")).unwrap());
    let opened: Vec<_> = thread::scope(|scope| {
        let each: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Listener::open(&directory, "a.sock", Access::OWNER).ok()))
            .collect();
        each.into_iter()
            .filter_map(|one| one.join().unwrap())
            .collect()
    });
    assert_eq!(opened.len(), 1);
    assert_eq!(names(folder.path()), 1);
}

/// Who ends the process removes them; their owners then remove nothing that is another's.
#[test]
fn all_sockets_of_a_process_go_at_once() {
    let (folder, directory) = folder();
    let open = |name: &str| Listener::open(&directory, name, Access::OWNER).unwrap();
    let [first, second, left] = ["a.sock", "b.sock", "c.sock"].map(open);
    left.into_parts().1.leave();
    fs::remove_file(folder.path().join("b.sock")).unwrap();
    fs::write(folder.path().join("b.sock"), "precious").unwrap();
    remove_all();
    assert!(!folder.path().join("a.sock").exists());
    assert!(folder.path().join("b.sock").is_file());
    assert!(folder.path().join("c.sock").exists());
    let other = open("a.sock");
    drop((first, second));
    UnixStream::connect(other.path()).unwrap();
}

#[test]
fn what_a_dead_process_left_is_swept_and_nothing_else() {
    let (folder, directory) = folder();
    let path = |name: &str| folder.path().join(name);
    let own = Listener::open(&directory, "own.sock", Access::OWNER).unwrap();
    // Nobody accepts there, and no socket of ours is looked at by connecting to it.
    let other = UnixListener::bind(path("other.sock")).unwrap();
    drop(UnixListener::bind(path("dead.sock")).unwrap());
    fs::write(path("file.sock"), "precious").unwrap();
    symlink(path("dead.sock"), path("link.sock")).unwrap();
    for name in [
        "own.sock",
        "other.sock",
        "file.sock",
        "link.sock",
        "none.sock",
    ] {
        assert!(!sweep(&directory, name), "{name}");
    }
    assert!(sweep(&directory, "dead.sock"));
    assert!(!path("dead.sock").exists() && path("own.sock").exists());
    own.socket().set_nonblocking(true).unwrap();
    let nobody = own.socket().accept().unwrap_err();
    assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
    drop(other);
}
