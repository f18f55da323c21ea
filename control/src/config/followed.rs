//! The files that texts name: of keys, and of the API's certificates.
//!
//! In: texts. Out: paths. Never: a tree of a long text made for it: whoever follows files looks often, and what is read
//! as a tree takes a hundred times the text's memory. So they are found by their letters. A value that is written in an
//! unusual way (by an alias, over several lines) is missed: it is not followed.

use std::collections::BTreeSet;
use std::iter;
use std::path::{Path, PathBuf};

use super::keyfile::KeyFile;
use super::{Texts, limits};

const KEYS: [&str; 3] = [
    "private_key_file",
    "preshared_key_file",
    "preshared_keys_file",
];

/// Of `api.tls`. Another `key` may be found where there is none: a path that nobody uses is followed in vain.
const TLS: [&str; 3] = ["certificate", "key", "client_ca"];

/// Where the files lie that these texts name.
pub(crate) fn files(texts: &Texts) -> BTreeSet<PathBuf> {
    let directory = key_directory(texts);
    let keys = found(texts, &KEYS);
    let keys = keys.filter_map(|(folder, value)| match KeyFile::of(Path::new(value)) {
        KeyFile::Named(name) => KeyFile::is_name(name).then(|| directory.join(name)),
        KeyFile::Credential(name) => {
            Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name))
        }
        KeyFile::Path(path) => Some(folder.join(path)),
    });
    let has_tls = found(texts, &TLS[2..]).next().is_some();
    let tls = found(texts, &TLS).filter(|_| has_tls);
    keys.chain(tls.map(|(folder, value)| folder.join(value)))
        .collect()
}

/// Where the key directory lies.
pub(crate) fn key_directory(texts: &Texts) -> PathBuf {
    let named = found(texts, &["key_directory"]).next();
    named.map_or(limits::KEY_DIRECTORY.into(), |(folder, value)| {
        folder.join(value)
    })
}

/// The values of keys, each with the folder of the file that it stands in.
fn found<'t>(texts: &'t Texts, keys: &'static [&str]) -> impl Iterator<Item = (&'t Path, &'t str)> {
    let own = iter::once((&texts.path, &texts.text));
    let included = texts.included.iter().flat_map(|it| &it.files);
    let all = own.chain(included.map(|file| (&file.path, &file.text)));
    all.flat_map(move |(path, text)| {
        let folder = path.parent().unwrap_or(Path::new(""));
        let values = keys.iter().flat_map(|key| values(text, key));
        values.map(move |value| (folder, value))
    })
}

/// The values of a key.
fn values<'t>(text: &'t str, key: &str) -> impl Iterator<Item = &'t str> {
    let is_part = |it: char| it.is_alphanumeric() || matches!(it, '_' | '-' | '.' | '/');
    let places = text.match_indices(key);
    let places = places.filter(move |(at, _)| !text[..*at].ends_with(is_part));
    places.map(|(at, key)| at + key.len()).filter_map(|at| {
        let rest = text[at..].trim_start_matches(['"', '\'']).trim_start();
        let value = rest.strip_prefix(':')?;
        // `key:NAME` is a value itself.
        let is_one = value.starts_with(|it: char| it.is_whitespace() || matches!(it, '"' | '\''));
        let value = is_one.then_some(value)?.trim_start();
        let quote = value.chars().next().filter(|it| matches!(it, '"' | '\''));
        let value = match quote {
            Some(quote) => value[1..].split(quote).next()?,
            None => {
                let value = value.split(['\n', ',', '}']).next()?;
                value.split(" #").next()?.trim_end()
            }
        };
        (!value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Included, SourceText};

    #[test]
    fn files_are_found_in_all_texts() {
        let text = "version: 1\ntunnels:\n  a:\n    private_key_file: a.key  # its own\n    preshared_keys_file: '/k/many psk'\n    \
                    peers: {b: {preshared_key_file: key:b.psk}, c: {\"preshared_key_file\": \"key:../x\"}}\n";
        let mut texts = Texts::alone(Path::new("/e/c.yaml"), text.into());
        texts.included.push(Included {
            path: "/e/d".into(),
            files: vec![SourceText {
                path: "/e/d/x.yaml".into(),
                text: "api:\n  key_directory: ../keys\n  tls: {certificate: c.pem, key: \"../c.key\", client_ca: /ca.pem}\n\
                       tunnels: {b: {private_key_file: b.key}}"
                    .into(),
            }],
            hindrance: None,
        });
        let found: Vec<_> = files(&texts).into_iter().collect();
        let wanted = [
            "/ca.pem",
            "/e/a.key",
            "/e/d/../c.key",
            "/e/d/../keys/b.psk",
            "/e/d/b.key",
            "/e/d/c.pem",
            "/k/many psk",
        ];
        assert_eq!(found, wanted.map(PathBuf::from));
        assert_eq!(key_directory(&texts), Path::new("/e/d/../keys"));
        texts.included.clear();
        assert_eq!(key_directory(&texts), Path::new(limits::KEY_DIRECTORY));
        assert_eq!(
            files(&texts).len(),
            3,
            "a `key` without `client_ca` is none of TLS"
        );
    }
}
