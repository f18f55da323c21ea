//! Who asks by an uplink's own stack does not change that uplink beside the file.

use super::{
    uplink_changes::{AT_1, AT_2, file},
    *,
};
use crate::{
    api::ApplyError,
    config::{Name, object},
    layer::{self, Act, Refused, Wish},
    plan::api::Object,
    state::Applied,
};

const SET: Act = Act::Set { if_exists: false };

impl Site {
    /// What somebody wishes of `u`, who comes by an uplink or by a socket.
    fn wish(&mut self, by: Option<&str>, act: Act, keys: &str) -> Result<Applied, Refused> {
        let wish = Wish {
            object: Object::Uplink(Name::new("u").unwrap()),
            act,
            keys: object::keys(keys, "uplink u").ok().unwrap(),
            preshared_key: None,
            uplink: by.and_then(Name::new),
        };
        self.serve_until(|requester| layer::fulfil(requester, &wish))
    }

    fn is_refused(&mut self, by: &str, act: Act, keys: &str) -> bool {
        let answer = self.wish(Some(by), act, keys);
        matches!(&answer, Err(Refused::Engine(ApplyError::Conflict(it))) if it.contains("by another way"))
    }
}

#[test]
fn who_asks_by_an_uplink_changes_it_neither_with_an_object_nor_without_one() {
    let [port] = free_ports();
    let mut site = Site::start(file(&[("u", AT_1), ("v", AT_2)], &[("a", "u", port)]));
    assert!(site.is_refused("u", SET, "enabled: false"));
    assert!(site.answers("a", port));
    // It is as it was: nothing changes.
    assert!(site.wish(Some("u"), SET, "enabled: true").is_ok());
    assert!(site.wish(Some("u"), Act::Forget, "{}").is_ok());
    // Another's, or by a socket.
    for by in [Some("v"), None] {
        site.wish(by, SET, "enabled: false").unwrap();
        assert!(site.is_refused("u", Act::Forget, "{}"));
        site.wish(by, Act::Forget, "{}").unwrap();
    }
    assert!(site.answers("a", port));
}
