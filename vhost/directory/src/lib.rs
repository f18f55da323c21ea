//! A directory held by descriptor: whatever is made in it is made in that very directory, and through no link.
//!
//! In: a directory's path, once; names in it. Out: files, locks and listening sockets that are ours. Never: a second
//! look at the directory's path, a symbolic link that is followed, a file of another user's that is opened, rights
//! given to anything but what was made here.
//!
//! Who may write to a directory may plant links in it, and exchange what lies there at any moment. So a directory that
//! must be ours is refused unless it is ([`Directory::own`]), and in one that need not be, as a VMM's, things are made
//! in a folder that nobody else can enter ([`Listener`]).

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test fails by panicking"))]

mod lock;
mod socket;

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, fstat, mkdirat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

pub use lock::{Lock, LockError};
pub use socket::{Access, ListenError, Listener, Place, remove_all, sweep, vacant};

/// Who else may write: group and others. An access list's mask shows in the group's bits.
const WRITERS: u32 = 0o022;

/// A directory; clones are the same one.
#[derive(Clone, Debug)]
pub struct Directory {
    fd: Arc<OwnedFd>,
    path: Arc<Path>,
}

/// Why a directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Something else has its name.
    #[error("{} is not a directory, or a link to one: name the directory itself", .0.display())]
    NotADirectory(PathBuf),
    /// Others could put files (or links) into it.
    #[error("others may write to {path} (mode {mode:04o}): chmod {mended:04o} {path}", path = .path.display(), mended = .mode & !WRITERS)]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another user's, who could exchange what lies there.
    #[error("{path} belongs to user {owner}: chown {own} {path}, or run as that user", path = .path.display(), own = own())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The system refused.
    #[error("can't open {path}: {error}", path = .path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// The user that this process acts as.
fn own() -> u32 {
    rustix::process::geteuid().as_raw()
}

impl Directory {
    /// A directory that nobody else may write to but root; it is made with that mode unless it is there.
    ///
    /// # Errors
    ///
    /// When it is another user's, others may write to it, or its last name is a link.
    pub fn own(path: &Path, mode: u32) -> Result<Self, DirectoryError> {
        let failed = |error| DirectoryError::Io {
            path: path.to_owned(),
            error,
        };
        let path = &std::path::absolute(path).map_err(failed)?;
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists {
                return DirectoryError::NotADirectory(path.clone());
            }
            failed(error)
        })?;
        Self::there(path)
    }

    /// A directory that is there, and that nobody else may write to but root.
    ///
    /// # Errors
    ///
    /// As [`Directory::own`], and when there is none.
    pub fn there(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |error| DirectoryError::Io {
            path: path.to_owned(),
            error,
        };
        let path = &std::path::absolute(path).map_err(failed)?;
        let directory = Self::hold(path, OFlags::NOFOLLOW).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => DirectoryError::NotADirectory(path.clone()),
            error => failed(error.into()),
        })?;
        directory.check().map(|()| directory)
    }

    /// A directory, whoever's it is.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn any(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        Ok(Self::hold(&path, OFlags::empty())?)
    }

    /// The directory that a path's last name lies in, and that name.
    ///
    /// # Errors
    ///
    /// When there is no such directory, or the path has no name.
    pub fn of(path: &Path) -> io::Result<(Self, &OsStr)> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        Ok((Self::any(parent.unwrap_or(Path::new(".")))?, name))
    }

    /// A directory in this one, as [`Directory::own`] wants it.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn within(&self, name: impl AsRef<OsStr>, mode: u32) -> Result<Self, DirectoryError> {
        let name = name.as_ref();
        let path = self.path.join(name);
        let failed = |error: io::Error| DirectoryError::Io {
            path: path.clone(),
            error,
        };
        let name = plain(name).map_err(failed)?;
        match mkdirat(self, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(self, name, flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR | Errno::LOOP => DirectoryError::NotADirectory(path.clone()),
            error => failed(error.into()),
        })?;
        let directory = Self {
            fd: Arc::new(fd),
            path: path.into(),
        };
        directory.check().map(|()| directory)
    }

    fn hold(path: &Path, flags: OFlags) -> Result<Self, Errno> {
        let flags = flags | OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = openat(CWD, path, flags, Mode::empty())?;
        Ok(Self {
            fd: Arc::new(fd),
            path: path.into(),
        })
    }

    fn check(&self) -> Result<(), DirectoryError> {
        let path = self.path.to_path_buf();
        let found = match fstat(&*self.fd) {
            Ok(found) => found,
            Err(error) => {
                let error = error.into();
                return Err(DirectoryError::Io { path, error });
            }
        };
        if found.st_uid != 0 && found.st_uid != own() {
            let owner = found.st_uid;
            return Err(DirectoryError::Foreign { path, owner });
        }
        let mode = found.st_mode & 0o7777;
        if mode & WRITERS != 0 {
            return Err(DirectoryError::Exposed { path, mode });
        }
        Ok(())
    }

    /// Where it was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of our own to read and write; it is made, for us alone, unless it is there.
    ///
    /// # Errors
    ///
    /// When a link or something else than a file has its name, or a file that others own or may write to.
    pub fn file(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        self.open(name.as_ref(), OFlags::RDWR | OFlags::CREATE)
    }

    /// A file's contents.
    ///
    /// # Errors
    ///
    /// As [`Directory::file`], and when there is none.
    pub fn read(&self, name: impl AsRef<OsStr>) -> io::Result<Vec<u8>> {
        let mut contents = Vec::new();
        let mut file = self.open(name.as_ref(), OFlags::RDONLY)?;
        file.read_to_end(&mut contents)?;
        Ok(contents)
    }

    /// What has a name, open to be read, whoever's it is: what it is and who else may have it is the caller's to look at.
    ///
    /// # Errors
    ///
    /// When there is none, it is a link, or the system refuses.
    pub fn look(&self, name: impl AsRef<OsStr>) -> io::Result<File> {
        Ok(self.careful(plain(name.as_ref())?, OFlags::RDONLY)?.into())
    }

    /// How many bytes a file has.
    ///
    /// # Errors
    ///
    /// When there is none, or the system refuses.
    pub fn size(&self, name: impl AsRef<OsStr>) -> io::Result<u64> {
        let found = statat(self, plain(name.as_ref())?, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(found.st_size.unsigned_abs())
    }

    /// Puts a file with these contents in the place of whatever has its name, at once.
    ///
    /// # Errors
    ///
    /// When the system refuses; what was there is there still.
    pub fn replace(&self, name: impl AsRef<OsStr>, contents: &[u8]) -> io::Result<()> {
        self.exchange(name.as_ref(), contents, |_| Ok(()))
    }

    /// The same, and it is on the disk when this returns.
    ///
    /// # Errors
    ///
    /// As [`Directory::replace`]; when the directory can't be written, the new contents may be there already.
    pub fn replace_durably(&self, name: impl AsRef<OsStr>, contents: &[u8]) -> io::Result<()> {
        self.exchange(name.as_ref(), contents, |file| file.sync_all())?;
        self.sync()
    }

    fn exchange(
        &self,
        name: &OsStr,
        contents: &[u8],
        written: impl Fn(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let name = plain(name)?;
        let mut new = name.to_owned();
        new.push(".new");
        // Left by a process that was killed, or planted: nothing is written through it.
        self.remove(&new)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let write = || -> io::Result<()> {
            let mut file = self.open(&new, flags)?;
            file.write_all(contents)?;
            written(&file)?;
            Ok(renameat(self, &new, self, name)?)
        };
        write().inspect_err(|_| drop(self.remove(&new)))
    }

    /// Waits until names that came and went are on the disk.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.readable()?)?)
    }

    /// Gives what has a name another one, in the place of whatever has that.
    ///
    /// # Errors
    ///
    /// When there is none, or the system refuses.
    pub fn rename(&self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> io::Result<()> {
        let (from, to) = (plain(from.as_ref())?, plain(to.as_ref())?);
        Ok(renameat(self, from, self, to)?)
    }

    /// The names in it, in no order.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = Dir::new(self.readable()?)?;
        let names = entries.map(|entry| {
            let name = entry?.file_name().to_bytes().to_owned();
            Ok(OsString::from_vec(name))
        });
        let names: io::Result<Vec<_>> = names.collect();
        Ok(names?.into_iter().filter(|it| plain(it).is_ok()).collect())
    }

    /// Itself, open for more than a place to begin at.
    fn readable(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat(self, c".", flags, Mode::empty())?)
    }

    /// Removes a name, unless there is none.
    ///
    /// # Errors
    ///
    /// When it is a directory's, or the system refuses.
    pub fn remove(&self, name: impl AsRef<OsStr>) -> io::Result<()> {
        match unlinkat(self, plain(name.as_ref())?, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn open(&self, name: &OsStr, flags: OFlags) -> io::Result<File> {
        let opened = self.careful(plain(name)?, flags);
        let refused = |why: String| {
            let text = format!("{} {why}", self.path.join(name).display());
            io::Error::new(io::ErrorKind::PermissionDenied, text)
        };
        let file = File::from(opened.map_err(|error| match error {
            Errno::LOOP => refused("is a symbolic link: remove it".into()),
            error => error.into(),
        })?);
        match stranger(&file)? {
            Some(why) => Err(refused(why)),
            None => Ok(file),
        }
    }

    fn careful(&self, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        // O_NONBLOCK: a FIFO in the file's place must not hang us.
        let care = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat(self, name, flags | care, Mode::RUSR | Mode::WUSR)
    }

    /// What has a name: device and inode.
    fn node(&self, name: &OsStr) -> Option<(u64, u64)> {
        let found = statat(self, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((found.st_dev, found.st_ino))
    }

    /// A path for calls that take no descriptor. It leads to this directory wherever that is by now, and is short.
    fn by_descriptor(&self, name: &OsStr) -> PathBuf {
        through(self).join(name)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The path that leads to what is open there.
fn through(fd: impl AsFd) -> PathBuf {
    use std::os::fd::AsRawFd as _;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// A name that leads nowhere else.
fn plain(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
        return Err(Errno::INVAL.into());
    }
    Ok(name)
}

/// Why a file is not ours alone to change, if it is not.
fn stranger(file: &File) -> io::Result<Option<String>> {
    let found = file.metadata()?;
    let why = if !found.is_file() {
        "is no file: remove it".into()
    } else if found.uid() != own() {
        format!("belongs to user {}: remove it", found.uid())
    } else if found.nlink() > 1 {
        "has another name, too: remove one of them".into()
    } else if found.mode() & WRITERS != 0 {
        "may be written to by others: chmod 600 it if they have not".into()
    } else {
        return Ok(None);
    };
    Ok(Some(why))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn folder() -> (tempfile::TempDir, Directory) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::own(folder.path(), 0o750).unwrap();
        (folder, directory)
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, fine) in [
            (0o750, true),
            (0o755, true),
            (0o770, false),
            (0o1777, false),
        ] {
            let inside = folder.path().join(format!("{mode:o}"));
            fs::create_dir(&inside).unwrap();
            fs::set_permissions(&inside, Permissions::from_mode(mode)).unwrap();
            let opened = Directory::own(&inside, 0o750);
            assert_eq!(opened.is_ok(), fine, "{mode:o}");
        }
        let error = Directory::own(&folder.path().join("770"), 0o750).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("mode 0770"), "{text}");
        assert!(text.contains("chmod 0750 "), "{text}");
    }

    #[test]
    fn a_link_is_no_directory() {
        let (folder, _) = folder();
        let link = folder.path().join("link");
        fs::create_dir(folder.path().join("real")).unwrap();
        symlink(folder.path().join("real"), &link).unwrap();
        let error = Directory::own(&link, 0o750).unwrap_err();
        assert!(matches!(error, DirectoryError::NotADirectory(_)), "{error}");
        assert!(Directory::any(&link).is_ok());
    }

    #[test]
    fn a_foreign_directory_is_refused() {
        if own() != 0 {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
        let error = Directory::own(folder.path(), 0o750).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("belongs to user 12345"), "{text}");
    }

    #[test]
    fn what_is_made_lies_where_the_directory_is_now() {
        let (folder, _) = folder();
        let (old, new) = (folder.path().join("old"), folder.path().join("new"));
        let directory = Directory::own(&old, 0o750).unwrap();
        fs::rename(&old, &new).unwrap();
        fs::create_dir(&old).unwrap();
        directory.replace("file", b"1").unwrap();
        let listener = Listener::open(&directory, "a.sock", Access::OWNER).unwrap();
        assert_eq!(fs::read_dir(&old).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&new).unwrap().count(), 2);
        drop(listener);
        assert_eq!(fs::read_dir(&new).unwrap().count(), 1);
    }

    #[test]
    fn nothing_is_written_or_read_through_a_link() {
        let (folder, directory) = folder();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let plant = |name: &str| symlink(&victim, folder.path().join(name)).unwrap();

        plant("file");
        let text = directory.file("file").unwrap_err().to_string();
        assert!(text.contains("symbolic link: remove it"), "{text}");
        assert!(directory.read("file").is_err());
        // A dangling one would be made anew behind it.
        symlink(folder.path().join("none"), folder.path().join("dangling")).unwrap();
        assert!(directory.file("dangling").is_err());
        assert!(!folder.path().join("none").exists());

        plant("kept.new");
        plant("kept");
        directory.replace("kept", b"new").unwrap();
        assert_eq!(directory.read("kept").unwrap(), b"new");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");

        let error = directory.lock("file", false).unwrap_err();
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_file_with_another_name_or_of_others_is_refused() {
        let (folder, directory) = folder();
        let victim = folder.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        fs::hard_link(&victim, folder.path().join("hard")).unwrap();
        assert!(directory.file("hard").is_err());
        directory.file("shared").unwrap();
        let shared = folder.path().join("shared");
        fs::set_permissions(&shared, Permissions::from_mode(0o660)).unwrap();
        let text = directory.file("shared").unwrap_err().to_string();
        assert!(text.contains("by others: chmod 600"), "{text}");
        fs::set_permissions(&shared, Permissions::from_mode(0o600)).unwrap();
        directory.file("shared").unwrap();
        if own() == 0 {
            std::os::unix::fs::chown(&shared, Some(12_345), None).unwrap();
            assert!(directory.read("shared").is_err());
        }
    }

    #[test]
    fn a_directory_within_is_ours_and_lists_its_names() {
        let (folder, directory) = folder();
        let inner = directory.within("inner", 0o700).unwrap();
        inner.replace_durably("b", b"1").unwrap();
        inner.replace_durably("b", b"2").unwrap();
        inner.rename("b", "a").unwrap();
        inner.sync().unwrap();
        assert_eq!(
            directory.within("inner", 0o700).unwrap().read("a").unwrap(),
            b"2"
        );
        assert_eq!(inner.names().unwrap(), ["a"]);
        assert_eq!(
            fs::metadata(folder.path().join("inner/a")).unwrap().mode() & 0o777,
            0o600
        );
        symlink("inner", folder.path().join("link")).unwrap();
        assert!(directory.within("link", 0o700).is_err());
        fs::set_permissions(inner.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(directory.within("inner", 0o700).is_err());
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let (_folder, directory) = folder();
        for name in ["", ".", "..", "../x", "/etc/passwd", "a/b"] {
            assert!(directory.file(name).is_err(), "{name}");
            assert!(directory.replace(name, b"").is_err(), "{name}");
            assert!(directory.remove(name).is_err(), "{name}");
        }
    }
}
