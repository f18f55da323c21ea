//! The key files that texts name.
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

/// Where the key files lie that these texts name.
pub(crate) fn key_files(texts: &Texts) -> BTreeSet<PathBuf> {
    let own = iter::once((&texts.path, &texts.text));
    let included = texts.included.iter().flat_map(|it| &it.files);
    let all: Vec<_> = own
        .chain(included.map(|file| (&file.path, &file.text)))
        .collect();
    let found = |keys: &'static [&str]| {
        all.iter().flat_map(move |(path, text)| {
            let folder = path.parent().unwrap_or(Path::new(""));
            let values = keys.iter().flat_map(|key| values(text, key));
            values.map(move |value| (folder, value))
        })
    };
    let directory = found(&["key_directory"]).next();
    let directory = directory.map_or(limits::KEY_DIRECTORY.into(), |(folder, value)| {
        folder.join(value)
    });
    let files = found(&KEYS).filter_map(|(folder, value)| match KeyFile::of(Path::new(value)) {
        KeyFile::Named(name) => KeyFile::is_name(name).then(|| directory.join(name)),
        KeyFile::Credential(name) => {
            Some(PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name))
        }
        KeyFile::Path(path) => Some(folder.join(path)),
    });
    files.collect()
}

/// The values of a key.
fn values<'t>(text: &'t str, key: &str) -> impl Iterator<Item = &'t str> {
    let places = text.match_indices(key).map(|(at, key)| at + key.len());
    places.filter_map(|at| {
        let rest = text[at..].trim_start_matches(['"', '\'']).trim_start();
        let value = rest.strip_prefix(':')?.trim_start();
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
    fn key_files_are_found_in_all_texts() {
        let text = "version: 1\ntunnels:\n  a:\n    private_key_file: a.key  # its own\n    preshared_keys_file: '/k/many psk'\n    \
                    peers: {b: {preshared_key_file: key:b.psk}, c: {\"preshared_key_file\": \"key:../x\"}}\n";
        let mut texts = Texts::alone(Path::new("/e/c.yaml"), text.into());
        texts.included.push(Included {
            path: "/e/d".into(),
            files: vec![SourceText {
                path: "/e/d/x.yaml".into(),
                text: "api: {key_directory: ../keys}\ntunnels: {b: {private_key_file: b.key}}"
                    .into(),
            }],
            hindrance: None,
        });
        let found: Vec<_> = key_files(&texts).into_iter().collect();
        let wanted = [
            "/e/a.key",
            "/e/d/../keys/b.psk",
            "/e/d/b.key",
            "/k/many psk",
        ];
        assert_eq!(found, wanted.map(PathBuf::from));
    }
}
