//! Pages that tell what the code has in tables.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::fs;
use std::path::Path;

use culvert_pktgen::profile::table;

#[test]
fn every_key_of_a_profile_is_explained() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/pktgen.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- keys -->\n").unwrap();
    let (_, after) = rest.split_once("<!-- /keys -->").unwrap();
    let wanted = format!("{before}<!-- keys -->\n{}<!-- /keys -->{after}", table());
    if page != wanted {
        let beside = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pktgen.md");
        fs::write(&beside, wanted).unwrap();
        panic!(
            "docs/pktgen.md is not what the code has: cp {} {}",
            beside.display(),
            path.display()
        );
    }
}
