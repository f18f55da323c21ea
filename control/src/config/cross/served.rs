//! What uplinks serve by themselves: one port for each, and certificates for the API.
//!
//! In, out, never: as [`super`].

use crate::config::RESPONDER_PORTS;
use crate::config::draft::{File, Uplink};
use crate::config::report::Report;

pub(super) fn check(file: &File, report: &mut Report) {
    let serves_api = file
        .uplinks
        .iter()
        .any(|uplink| uplink.serves.api.is_some());
    if let Some(span) = file.api.tls_alone.filter(|_| !serves_api) {
        report
            .error(span, "`api` has `tls`, and needs `listen` with it")
            .help("expected `listen: 0.0.0.0:9443`, for instance, or `api` at an uplink, which serves it there");
    }
    for uplink in &file.uplinks {
        if let Some(api) = &uplink.serves.api
            && file.api.tls.is_none()
        {
            let name = &uplink.name.value;
            report
                .error(api.span, format!("uplink `{name}` serves the API, and `api` has no `tls`"))
                .help("expected certificates and roles there: `api: { tls: { certificate: …, key: …, client_ca: …, roles: … } }`");
        }
        ports(uplink, report);
    }
}

fn ports(uplink: &Uplink, report: &mut Report) {
    let served = &uplink.serves;
    let doors = [("api", &served.api), ("metrics", &served.metrics)];
    let responder = RESPONDER_PORTS.iter().map(|&port| ("responder", port));
    let mut taken: Vec<_> = responder.filter(|_| served.responder.is_some()).collect();
    for (key, door) in doors {
        let Some(door) = door else { continue };
        let port = door.value.port;
        match taken.iter().find(|&&(_, it)| it == port) {
            Some((other, _)) => {
                let name = &uplink.name.value;
                report
                    .error(
                        door.span,
                        format!(
                            "`{key}` of uplink `{name}` has port {port}, which its `{other}` has"
                        ),
                    )
                    .help("expected a port for each");
            }
            None => taken.push((key, port)),
        }
    }
}
