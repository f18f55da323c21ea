//! Preshared keys that clients gave for peers of the API layer.
//!
//! In: keys, with the peers that they are for. Out: a file for each (0600) in `keys` of the state directory; the keys
//! again, after a restart. Never: a key in the journal or in what is told of the layer; a key that stays behind when its
//! peer goes.
//!
//! The file is `TUNNEL:PEER:NUMBER`. Another key is another file, ahead of the journal's line that names it: until that
//! is written, the old one counts. What no line names is removed at a start.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;

use culvert_directory::Directory;
use zeroize::Zeroizing;

use crate::config::object::{Keys, PRESHARED_KEY};
use crate::config::{Report, Span};
use crate::keys::{KEY_TEXT_LEN, PresharedKey};
use crate::plan::api::{Given, HIDDEN, Object, Said};

/// Its folder in the state directory.
const FOLDER: &str = "keys";

/// What stands in a text for a key that was taken out of it: as long, and no key.
const TAKEN: &str = "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk";

/// Where the keys lie.
#[derive(Debug)]
pub(super) struct Secrets {
    state_dir: Directory,
    next: u64,
}

impl Secrets {
    pub(super) fn new(state_dir: &Directory) -> Self {
        let mut new = Self {
            state_dir: state_dir.clone(),
            next: 1,
        };
        let last = new.names().iter().filter_map(|name| number(name)).max();
        new.next = last.map_or(1, |last| last.saturating_add(1));
        new
    }

    /// The folder; it is made unless it is there.
    fn directory(&self) -> io::Result<Directory> {
        let directory = self.state_dir.within(FOLDER, 0o700);
        directory.map_err(|error| io::Error::other(error.to_string()))
    }

    fn names(&self) -> Vec<OsString> {
        let names = self.directory().and_then(|directory| directory.names());
        names.unwrap_or_default()
    }

    /// The number of the next one.
    pub(super) fn next(&mut self) -> u64 {
        self.next = self.next.saturating_add(1);
        self.next - 1
    }

    /// Has a key be on the disk when it returns.
    pub(super) fn keep(&self, object: &Object, given: &Given) -> io::Result<()> {
        let Some(number) = given.number else {
            return Ok(());
        };
        let name = file(object, number);
        let key = given.key.to_base64();
        self.directory()?.replace_durably(name, key.as_bytes())
    }

    /// A key that was kept.
    pub(super) fn read(&self, object: &Object, number: u64) -> Option<PresharedKey> {
        let bytes = self.directory().ok()?.read(file(object, number)).ok()?;
        let bytes = Zeroizing::new(bytes);
        PresharedKey::from_base64(str::from_utf8(&bytes).ok()?).ok()
    }

    /// Forgets a key.
    pub(super) fn forget(&self, object: &Object, given: &Given) {
        let Some(number) = given.number else {
            return;
        };
        let name = file(object, number);
        let removed = self.directory().and_then(|directory| {
            directory.remove(&name)?;
            directory.sync()
        });
        if let Err(error) = removed {
            let path = self.state_dir.path().join(FOLDER).join(name);
            let path = path.display().to_string();
            tracing::error!(path, %error, "a key that nobody needs any more can't be removed");
        }
    }

    /// Forgets all keys but these.
    pub(super) fn forget_others<'s>(&self, all: impl Iterator<Item = (&'s Object, &'s Said)>) {
        let named = all.filter_map(|(object, said)| {
            let number = said.preshared_key.as_ref()?.number?;
            Some(file(object, number))
        });
        let named: HashSet<_> = named.collect();
        let Ok(directory) = self.directory() else {
            return;
        };
        for name in directory.names().unwrap_or_default() {
            if name.to_str().is_none_or(|name| !named.contains(name)) {
                let _ = directory.remove(&name);
            }
        }
    }
}

fn file(object: &Object, number: u64) -> String {
    match object {
        Object::Port(name) => format!("{name}:{number}"),
        Object::Peer(tunnel, peer) => format!("{tunnel}:{peer}:{number}"),
        // These have no key.
        Object::Uplink(name) => format!("{name}:uplink:{number}"),
        Object::Route(network, _) => format!("{network}:route:{number}"),
    }
}

fn number(name: &OsStr) -> Option<u64> {
    name.to_str()?.rsplit(':').next()?.parse().ok()
}

/// Takes a preshared key out of a body, before anybody copies parts of that. What is written in another way than the
/// usual ones is found later, by [`given`].
pub fn take(text: &mut [u8]) -> Option<Zeroizing<String>> {
    let place = place(text)?;
    let token = text.get_mut(place..place + KEY_TEXT_LEN)?;
    // Of its final size: one that grows leaves copies behind.
    let mut key = Zeroizing::new(String::with_capacity(KEY_TEXT_LEN));
    key.push_str(str::from_utf8(token).ok()?);
    token.copy_from_slice(TAKEN.as_bytes());
    Some(key)
}

/// Where the value of a preshared key begins that is written as one word, in quotes or without.
fn place(text: &[u8]) -> Option<usize> {
    let name = PRESHARED_KEY.as_bytes();
    let begin = text.windows(name.len()).position(|it| it == name)? + name.len();
    let skip = |at: usize, skipped: &[u8]| {
        let rest = text.get(at..).unwrap_or_default();
        at + rest
            .iter()
            .take_while(|byte| skipped.contains(byte))
            .count()
    };
    let at = skip(begin, b"\"' \t");
    let at = (text.get(at) == Some(&b':')).then_some(at + 1)?;
    let at = skip(at, b" \t\r\n");
    let at = skip(at, b"\"'");
    let token = text.get(at..at + KEY_TEXT_LEN)?;
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    token.iter().all(is_base64).then_some(at)
}

/// The preshared key among an object's keys, which it leaves: there it is said that there is one.
///
/// # Errors
///
/// When what stands there is none.
pub fn given(
    keys: &mut Keys,
    taken: Option<Zeroizing<String>>,
    object: &Object,
) -> Result<Option<PresharedKey>, Report> {
    let Some(value) = keys.get_mut(PRESHARED_KEY).filter(|it| !it.is_null()) else {
        return Ok(None);
    };
    let serde_json::Value::String(text) = std::mem::replace(value, HIDDEN.into()) else {
        return Err(no_key(object));
    };
    let text = Zeroizing::new(text);
    let text = match (&**text, taken) {
        (HIDDEN, _) => return Ok(None),
        (TAKEN, Some(taken)) => taken,
        _ => text,
    };
    let key = PresharedKey::from_base64(&text).map_err(|_| no_key(object))?;
    if key.is_none() {
        *value = serde_json::Value::Null;
        return Ok(None);
    }
    Ok(Some(key))
}

fn no_key(object: &Object) -> Report {
    let mut report = Report::new(Path::new(""), "");
    let what = format!("`{PRESHARED_KEY}` of {object} is no key");
    report
        .error(Span::default(), what)
        .help("expected 44 characters of base64, as `culvert genpsk` prints them");
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Name, object};

    const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

    fn peer() -> Object {
        let name = |text| Name::new(text).unwrap();
        Object::Peer(name("wg0"), name("b"))
    }

    fn read(text: &str) -> Result<(Keys, Option<PresharedKey>), Report> {
        let mut text = text.to_owned().into_bytes();
        let taken = take(&mut text);
        let text = String::from_utf8(text).unwrap();
        let mut keys = object::keys(&text, "peer")?;
        let key = given(&mut keys, taken, &peer())?;
        Ok((keys, key))
    }

    #[test]
    fn a_key_is_found_however_it_is_written() {
        for text in [
            format!("preshared_key: {KEY}\n"),
            format!("public_key: x\npreshared_key: \"{KEY}\"\nendpoint: y"),
            format!("{{\"preshared_key\":\"{KEY}\"}}"),
            format!("{{'preshared_key' :\n '{KEY}', a: b}}"),
            format!("preshared_key: >-\n  {KEY}\n"),
            format!("preshared_key: # {KEY}\n  {KEY}\n"),
            format!("# preshared_key: {KEY}\npreshared_key: {KEY}\n"),
        ] {
            let (keys, key) = read(&text).unwrap();
            assert_eq!(key.unwrap().to_base64().as_str(), KEY, "{text}");
            assert_eq!(keys[PRESHARED_KEY], HIDDEN, "{text}");
        }
        for (text, value) in [
            ("preshared_key: null", None),
            ("preshared_key: (hidden)", Some(HIDDEN)),
        ] {
            let (keys, key) = read(text).unwrap();
            assert_eq!((key, keys[PRESHARED_KEY].as_str()), (None, value));
        }
        let none = PresharedKey::default().to_base64();
        let (keys, key) = read(&format!("preshared_key: {}", &*none)).unwrap();
        assert!(key.is_none() && keys[PRESHARED_KEY].is_null());
        assert!(read("public_key: x").unwrap().1.is_none());
    }

    #[test]
    fn what_is_no_key_is_told_without_it() {
        for text in [
            &format!("preshared_key: {}\n", &KEY[1..]),
            &format!("{{preshared_key: [{KEY}]}}"),
            &format!("preshared_key: '{KEY}\n: ]\n"),
            &format!("preshared_key: {KEY}\npreshared_key: {KEY}\n"),
        ] {
            let report = read(text).unwrap_err().render(false);
            assert!(!report.contains(&KEY[2..20]), "{report}");
        }
    }

    #[test]
    fn keys_are_files_of_ours_alone_and_go() {
        use std::os::unix::fs::MetadataExt as _;
        let folder = tempfile::tempdir().unwrap();
        let state_dir = Directory::own(folder.path(), 0o700).unwrap();
        let mut secrets = Secrets::new(&state_dir);
        let key = PresharedKey::from_base64(KEY).unwrap();
        let number = secrets.next();
        let given = Given {
            key,
            number: Some(number),
        };
        secrets.keep(&peer(), &given).unwrap();
        let path = folder.path().join("keys").join(format!("wg0:b:{number}"));
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        let mut secrets = Secrets::new(&state_dir);
        assert_eq!(secrets.read(&peer(), number).as_ref(), Some(&given.key));
        assert_eq!(secrets.next(), number + 1);
        let said = Said {
            own: true,
            keys: Keys::new(),
            preshared_key: Some(given.clone()),
            hindrance: None,
        };
        secrets.forget_others([(&peer(), &said)].into_iter());
        assert!(path.exists());
        secrets.forget(&peer(), &given);
        assert!(!path.exists() && secrets.read(&peer(), number).is_none());
    }
}
