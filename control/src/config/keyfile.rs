//! Key files: one base64 key each, readable by their owner alone, who is root or this process's user.
//!
//! In: a path. Out: the key's text, or why the file is refused and the command that mends it.
//! Never: the file's contents in a message.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::keys::KEY_TEXT_LEN;

/// A key with white space around it is still a key; anything longer is another file.
const MAX_LEN: usize = 256;

/// Where key files are read from: the disk, or a test's own place.
pub trait KeyFiles {
    /// The file's text without white space around it.
    ///
    /// # Errors
    ///
    /// When the file is missing, can be read by others, or can't be read.
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError>;
}

/// Why a key file is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("the file is missing")]
    Missing,
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
    /// A folder or a device.
    #[error("not a file")]
    NotAFile,
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
        // O_NONBLOCK: a FIFO in the key's place must not hang the reader.
        let mut options = File::options();
        options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut file = options.open(path).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                KeyFileError::Missing
            } else {
                KeyFileError::Io(error)
            }
        })?;
        // Of the open file, not of the path: nobody can exchange it in between.
        let metadata = file.metadata().map_err(KeyFileError::Io)?;
        if !metadata.is_file() {
            return Err(KeyFileError::NotAFile);
        }
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Exposed { mode });
        }
        let owner = metadata.uid();
        if owner != 0 && owner != rustix::process::geteuid().as_raw() {
            return Err(KeyFileError::Foreign { owner });
        }
        read_text(&mut file)
    }
}

fn read_text(file: &mut File) -> Result<Zeroizing<String>, KeyFileError> {
    // A buffer of its final size: a growing one would leave copies of the key behind.
    let mut buffer = Zeroizing::new([0u8; MAX_LEN]);
    let mut len = 0;
    while len < MAX_LEN {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeyFileError::Io(error)),
        }
    }
    let text = std::str::from_utf8(&buffer[..len]).map_err(|_| KeyFileError::NotAKey)?;
    let text = text.trim();
    if len == MAX_LEN || text.len() != KEY_TEXT_LEN {
        return Err(KeyFileError::NotAKey);
    }
    let mut key = Zeroizing::new(String::with_capacity(KEY_TEXT_LEN));
    key.push_str(text);
    Ok(key)
}
