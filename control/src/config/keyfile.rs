//! Key files: one base64 key each, readable by their owner alone, who is root or this process's user.
//!
//! In: a path, a name in the key directory, or that of a systemd credential. Out: the key's text, or why the file is
//! refused and the command that mends it. Never: the file's contents in a message; out of the key directory by a name.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use culvert_directory::{Directory, DirectoryError};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::keys::KEY_TEXT_LEN;

/// A key with white space around it is still a key; anything longer is another file.
const MAX_LEN: usize = 256;

/// Keys of many peers: two of 44 characters a line, and some for comments.
const MAX_MANY_LEN: usize = super::limits::PEERS * 128;

/// What a path begins with that names a credential: a file that systemd has put into `$CREDENTIALS_DIRECTORY`
/// (systemd.exec(5)).
const CREDENTIAL: &str = "credential:";

/// What a path begins with that names a file of the key directory.
const KEY: &str = "key:";

/// What the path of a key file stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFile<'p> {
    /// A file of the key directory, by its name.
    Named(&'p str),
    /// A credential, by its name.
    Credential(&'p str),
    /// A path.
    Path(&'p Path),
}

impl<'p> KeyFile<'p> {
    /// What stands in a file, in words that are checked by [`KeyFile::is_name`].
    #[must_use]
    pub fn of(path: &'p Path) -> Self {
        let after = |prefix| path.to_str()?.strip_prefix(prefix);
        match (after(KEY), after(CREDENTIAL)) {
            (Some(name), _) => Self::Named(name),
            (None, Some(name)) => Self::Credential(name),
            (None, None) => Self::Path(path),
        }
    }

    /// Whether a name is that of a file, and leads nowhere else.
    pub(super) fn is_name(name: &str) -> bool {
        !matches!(name, "" | "." | "..") && !name.contains(['/', ':', '\0']) && name.len() <= 255
    }

    /// Where it lies, as somebody types it.
    pub(super) fn place(self, directory: &Path) -> PathBuf {
        match self {
            Self::Named(name) => directory.join(name),
            Self::Credential(name) => name.into(),
            Self::Path(path) => path.to_owned(),
        }
    }
}

/// Where key files are read from: the disk, or a test's own place.
pub trait KeyFiles {
    /// The file's text without white space around it.
    ///
    /// # Errors
    ///
    /// When the file is missing, can be read by others, or can't be read.
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError>;

    /// The text of a file with the keys of many.
    ///
    /// # Errors
    ///
    /// As [`KeyFiles::read`].
    fn read_many(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let _ = path;
        Err(KeyFileError::Missing)
    }

    /// The same, where names are found in that directory.
    ///
    /// # Errors
    ///
    /// As [`KeyFiles::read`].
    fn read_in(&self, directory: &Path, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        let _ = directory;
        self.read(path)
    }

    /// The text of a file with the keys of many, where names are found in that directory.
    ///
    /// # Errors
    ///
    /// As [`KeyFiles::read`].
    fn read_many_in(
        &self,
        directory: &Path,
        path: &Path,
    ) -> Result<Zeroizing<String>, KeyFileError> {
        let _ = directory;
        self.read_many(path)
    }
}

/// Why a key file is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("the file is missing")]
    Missing,
    /// It is a credential's, and nobody has handed any to this process.
    #[error("$CREDENTIALS_DIRECTORY is not set")]
    NoCredentials,
    /// Its permission bits let others read or change it.
    #[error("its permissions are {mode:04o}: others can read or change it")]
    Exposed {
        /// The permission bits.
        mode: u32,
    },
    /// Another user's, who can change it.
    #[error("it belongs to user {owner}, who can change it")]
    Foreign {
        /// Its owner.
        owner: u32,
    },
    /// Another name for a file, in the key directory.
    #[error("it is a symbolic link, and none is followed there")]
    Link,
    /// The key directory itself can't be used.
    #[error("the key directory: {0}")]
    Directory(DirectoryError),
    /// A path, of a client who may name none.
    #[error("it is a path that what runs has not, and {client} may name none")]
    Unknown {
        /// Who it is, in words.
        client: String,
    },
    /// A folder or a device.
    #[error("not a file")]
    NotAFile,
    /// Nothing is in it.
    #[error("the file is empty")]
    Empty,
    /// Longer than a key, or not text.
    #[error("the file holds something else than one key")]
    NotAKey,
    /// Anything else the system said.
    #[error("{0}")]
    Io(io::Error),
}

/// The disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl KeyFiles for Disk {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        self.read_in(Path::new(super::limits::KEY_DIRECTORY), path)
    }

    fn read_many(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        self.read_many_in(Path::new(super::limits::KEY_DIRECTORY), path)
    }

    fn read_in(&self, directory: &Path, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        read_text(&mut open(directory, path)?.0)
    }

    fn read_many_in(
        &self,
        directory: &Path,
        path: &Path,
    ) -> Result<Zeroizing<String>, KeyFileError> {
        let (mut file, len) = open(directory, path)?;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_MANY_LEN {
            let error = io::Error::other(format!("it has more than {MAX_MANY_LEN} bytes"));
            return Err(KeyFileError::Io(error));
        }
        // As long as it will be, and one more to see the end: a growing one would leave copies of the keys behind.
        let mut buffer = Zeroizing::new(vec![0; len + 1]);
        let read = fill(&mut file, &mut buffer)?;
        let changed = || KeyFileError::Io(io::Error::other("it is being written"));
        let text = buffer
            .get(..read)
            .filter(|_| read <= len)
            .ok_or_else(changed)?;
        let text = std::str::from_utf8(text).map_err(|_| KeyFileError::NotAKey)?;
        let mut keys = Zeroizing::new(String::with_capacity(text.len()));
        keys.push_str(text);
        Ok(keys)
    }
}

/// Opens a file that nobody else can read or change; its length, too.
fn open(directory: &Path, path: &Path) -> Result<(File, u64), KeyFileError> {
    let folder = || std::env::var_os("CREDENTIALS_DIRECTORY").ok_or(KeyFileError::NoCredentials);
    let key = KeyFile::of(path);
    let opened = match key {
        KeyFile::Named(name) => {
            let directory = Directory::there(directory).map_err(KeyFileError::Directory)?;
            directory.look(name)
        }
        KeyFile::Credential(name) => open_path(&PathBuf::from(folder()?).join(name)),
        KeyFile::Path(path) => open_path(path),
    };
    let file = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => KeyFileError::Missing,
        Some(Errno::ELOOP) if matches!(key, KeyFile::Named(_)) => KeyFileError::Link,
        _ => KeyFileError::Io(error),
    })?;
    // Of the open file, not of the path: nobody can exchange it in between.
    let metadata = file.metadata().map_err(KeyFileError::Io)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile);
    }
    let mode = metadata.mode() & 0o777;
    // What systemd gives to a user by an access list shows the list's mask in the group's place.
    let others = match key {
        KeyFile::Credential(_) => 0o037,
        KeyFile::Named(_) | KeyFile::Path(_) => 0o077,
    };
    if mode & others != 0 {
        return Err(KeyFileError::Exposed { mode });
    }
    let owner = metadata.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        return Err(KeyFileError::Foreign { owner });
    }
    Ok((file, metadata.len()))
}

fn open_path(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a FIFO in the key's place must not hang the reader.
    let mut options = File::options();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    options.open(path)
}

fn read_text(file: &mut File) -> Result<Zeroizing<String>, KeyFileError> {
    // A buffer of its final size: a growing one would leave copies of the key behind.
    let mut buffer = Zeroizing::new([0u8; MAX_LEN]);
    let len = fill(file, &mut *buffer)?;
    let text = std::str::from_utf8(&buffer[..len]).map_err(|_| KeyFileError::NotAKey)?;
    let text = text.trim();
    if text.is_empty() && len < MAX_LEN {
        return Err(KeyFileError::Empty);
    }
    if len == MAX_LEN || text.len() != KEY_TEXT_LEN {
        return Err(KeyFileError::NotAKey);
    }
    let mut key = Zeroizing::new(String::with_capacity(KEY_TEXT_LEN));
    key.push_str(text);
    Ok(key)
}

/// Reads as much as there is room for.
fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize, KeyFileError> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeyFileError::Io(error)),
        }
    }
    Ok(len)
}
