//! No text, and no set of texts that include each other, harms who reads it; what is taken is a configuration that can be
//! written and is the same when read again.
#![no_main]

use std::path::Path;

use culvert::config::{self, Included, KeyFileError, KeyFiles, SourceText, Texts};
use libfuzzer_sys::fuzz_target;
use zeroize::Zeroizing;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

/// Every file holds a key, or is the text's own.
struct Keys<'t>(&'t str);

impl KeyFiles for Keys<'_> {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(KEY.into()))
    }

    fn read_many(&self, _: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        Ok(Zeroizing::new(self.0.into()))
    }
}

// The file, those that it may include as a, b, …, and a file of preshared keys, with NULs between them.
fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut parts = text.split('\0');
    let main = parts.next().unwrap_or_default();
    let keys = Keys(parts.next_back().unwrap_or_default());
    let mut texts = Texts::alone(Path::new("/c.yaml"), main.to_owned());
    texts.included = ('a'..='z')
        .zip(parts)
        .map(|(name, text)| {
            let path = Path::new("/").join(name.to_string());
            Included {
                files: vec![SourceText {
                    path: path.clone(),
                    text: text.to_owned(),
                }],
                path,
                hindrance: None,
            }
        })
        .collect();
    match config::parse_texts(&texts, &keys) {
        Ok((config, _)) => {
            let yaml = config::to_yaml(&config);
            let again = config::parse(&yaml, Path::new("/c.yaml"), &keys);
            let (again, _) = again.unwrap_or_else(|report| panic!("{}\n{yaml}", report.render(false)));
            assert_eq!(again, config, "{yaml}");
        }
        Err(report) => assert!(report.errors() > 0 && !report.render(true).is_empty()),
    }
});
