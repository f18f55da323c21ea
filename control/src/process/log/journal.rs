//! journald's own socket, which takes fields beside the text
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL>).
//!
//! In: an entry as text. Out: one datagram. Never: a wait for journald: its socket does not block.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// No name of a field may be longer (systemd.journal-fields(7)).
const NAME_MAX: usize = 64;

/// The way to journald.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    pub(super) fn connect() -> io::Result<Self> {
        Self::connect_to(Path::new(SOCKET))
    }

    fn connect_to(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self(socket))
    }
}

impl Write for &Journal {
    fn write(&mut self, entry: &[u8]) -> io::Result<usize> {
        match self.0.send(entry) {
            // journald was started anew: its socket is another one of the same name.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.0.connect(SOCKET)?;
                self.0.send(entry)
            }
            sent => sent,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether what is written to stderr goes to journald: `JOURNAL_STREAM` names its device and inode (systemd.exec(5)).
pub(super) fn reads_stderr() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stat = rustix::fs::fstat(io::stderr());
    stat.is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// An entry: the text, then `CULVERT_NAME=value` for each field. No value has a second line.
pub(super) fn entry<'f>(
    priority: u8,
    text: &str,
    fields: impl Iterator<Item = (&'f str, String)>,
) -> String {
    let pid = std::process::id();
    let message = one_line(text);
    let mut entry = format!(
        "MESSAGE={message}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER=culvert\nSYSLOG_PID={pid}\n"
    );
    for (name, value) in fields {
        let upper = name.chars().map(|it| match it.to_ascii_uppercase() {
            it @ ('A'..='Z' | '0'..='9') => it,
            _ => '_',
        });
        let name: String = "CULVERT_".chars().chain(upper).take(NAME_MAX).collect();
        entry += &format!("{name}={}\n", one_line(&value));
    }
    entry
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r', '\0'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_a_line_for_each_field() {
        let fields = [
            ("port", "vm1".to_owned()),
            ("what.is", "a\nFAKE=b".to_owned()),
        ];
        let text = entry(4, "link up port=vm1", fields.into_iter());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..2], ["MESSAGE=link up port=vm1", "PRIORITY=4"]);
        assert_eq!(lines[4..], ["CULVERT_PORT=vm1", "CULVERT_WHAT_IS=a FAKE=b"]);
    }

    #[test]
    fn an_entry_is_one_datagram() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let journald = UnixDatagram::bind(&path).unwrap();
        let journal = Journal::connect_to(&path).unwrap();
        (&journal).write_all(b"MESSAGE=x\n").unwrap();
        let mut entry = [0; 100];
        let length = journald.recv(&mut entry).unwrap();
        assert_eq!(&entry[..length], b"MESSAGE=x\n");
        // A journald that reads nothing keeps nobody waiting.
        let full = (0..100_000).find_map(|_| (&journal).write(&[b'x'; 4096]).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
    }
}
