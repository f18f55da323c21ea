//! Who changes the way by which it asks may never be heard again.
//!
//! In: the uplink by whose own stack somebody asks, what is to change. Out: whether that way changes. Never: a way of
//! changing things that does not ask here: a file, a revision, a single object.

use super::ApplyError;
use crate::config::{Api, ApiTls, Name};
use crate::plan::Change;

/// What is refused who applies a file or goes back to a revision.
const ON_TRIAL: &str = "ask with `--confirm` (`confirm` in a request's body), and it is taken back unless you confirm it";

/// What is refused who changes a single object.
const BY_FILE: &str = "ask by another way, or apply a file that says so with `--confirm` (`confirm` in a request's body), \
                       which is taken back unless you confirm it";

/// Refuses a file that changes the way by which it came.
pub(super) fn refuse_file(by: Option<&Name>, plan: &[Change]) -> Result<(), ApplyError> {
    refuse(by, plan, ON_TRIAL)
}

/// Refuses a change of a single object that changes the way by which it came.
pub(crate) fn refuse_object(by: Option<&Name>, plan: &[Change]) -> Result<(), ApplyError> {
    refuse(by, plan, BY_FILE)
}

fn refuse(by: Option<&Name>, plan: &[Change], remedy: &str) -> Result<(), ApplyError> {
    let Some(by) = by else { return Ok(()) };
    let what = plan.iter().find_map(|change| changed(by, change));
    what.map_or(Ok(()), |what| {
        Err(ApplyError::Conflict(format!(
            "{what}, by which this was asked for, and might answer nobody then: {remedy}"
        )))
    })
}

/// What of the way changes: the uplink with what it serves, or who is let in by it.
fn changed(by: &Name, change: &Change) -> Option<String> {
    if let Change::Api { old, new } = change {
        return (of_callers(old) != of_callers(new)).then(|| "`api.tls` changes".into());
    }
    let uplink = change.uplink()?;
    (uplink.any().name == *by).then(|| format!("uplink {by} changes"))
}

/// What says who is let in; where the kernel listens is another way.
fn of_callers(api: &Api) -> Option<ApiTls> {
    let tls = api.tls.clone()?;
    Some(ApiTls {
        listen: None,
        ..tls
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Disk, parse};
    use crate::plan::Layers;

    const FILE: &str = "version: 1\napi: { tls: { certificate: a, key: b, client_ca: c, roles: { ops: write } } }\n\
         uplinks:\n  wan0: { driver: dpdk, device: net_null0, addresses: [192.0.2.7/24], api: { allow: [192.0.2.0/24] } }\n  \
         wan1: { driver: dpdk, device: net_null1, addresses: [198.51.100.7/24] }\n\
         tunnels: {}\nnetworks: {}\nports: {}\n";

    fn file(from: &str, to: &str) -> Config {
        let read = parse(&FILE.replace(from, to), Path::new("t.yaml"), &Disk);
        read.map_err(|report| report.render(false)).unwrap().0
    }

    #[test]
    fn the_way_by_which_somebody_asks_is_changed_on_trial_alone() {
        let now = Layers::new(file("", "").into());
        let wan0 = Name::new("wan0").unwrap();
        for (from, to, is_refused) in [
            ("wan1: { driver", "wan1: { enabled: false, driver", false),
            (
                "version: 1",
                "version: 1\nmetrics: { labels: [rack] }",
                false,
            ),
            ("api: { tls", "api: { body_megabytes: 9, tls", false),
            ("api: { tls", "api: { listen: 127.0.0.1:9, tls", false),
            ("wan0: { driver", "wan0: { enabled: false, driver", true),
            ("allow: [192.0.2.0/24]", "allow: [192.0.2.0/25]", true),
            ("wan0", "wan2", true),
            ("ops: write", "ops: read", true),
            ("client_ca: c", "client_ca: d", true),
        ] {
            let plan = now.plan(&file(from, to));
            let refused = refuse_file(Some(&wan0), &plan).err();
            assert_eq!(refused.is_some(), is_refused, "{to}: {refused:?}");
            assert!(refuse_object(None, &plan).is_ok());
        }
        let plan = now.plan(&file("", ""));
        assert!(refuse_object(Some(&wan0), &plan).is_ok());
    }
}
