//! `api`.

use std::path::PathBuf;

use super::Reader;
use crate::config::draft::{Api, ApiSocket, ApiTls};
use crate::config::limits::EXPORTER_PORT;
use crate::config::raw::{Node, Value};
use crate::config::section::{At, Section};
use crate::config::{Role, value};

impl Reader<'_> {
    pub(super) fn api(&mut self, file: &Section<'_>) -> Api {
        let Some(section) = file.table("api", self.report) else {
            return Api::default();
        };
        let readers = section.table("readers", self.report);
        let readers = readers.and_then(|it| it.get("group", self.report, value::account));
        let api = Api {
            socket: self.api_socket(&section),
            readers: readers.map(|at| at.value),
            listen: section.get("listen", self.report, value::listen),
            tls: self.api_tls(&section),
            tls_alone: section.key_span("tls").filter(|_| section.lacks("listen")),
            body_megabytes: section
                .integer("body_megabytes", self.report)
                .map(|at| at.value),
            key_directory: self.key_directory(&section),
        };
        if let Some(at) = (api.listen.as_ref()).filter(|at| at.value.port() == EXPORTER_PORT) {
            self.report
                .warning(at.span, format!("`listen` of `api` has port {EXPORTER_PORT}"))
                .help("that is WireGuard's exporter's, which may run beside this program: another one keeps out of its way");
        }
        if section.key_span("listen").is_some() && section.lacks("tls") {
            self.need(&section, &["tls"], "`listen`");
        }
        api
    }

    fn key_directory(&mut self, section: &Section<'_>) -> Option<PathBuf> {
        let at = section.get("key_directory", self.report, value::path)?;
        let path = self.report.folder(at.span).join(at.value);
        self.key_directory.clone_from(&path);
        Some(path)
    }

    fn api_socket(&mut self, section: &Section<'_>) -> ApiSocket {
        let Some(socket) = section.table("socket", self.report) else {
            return ApiSocket::default();
        };
        let mut account = |key| socket.get(key, self.report, value::account);
        let (owner, group) = (account("owner"), account("group"));
        let permissions = socket.get("mode", self.report, value::permissions);
        ApiSocket {
            owner: owner.map(|at| at.value),
            group: group.map(|at| at.value),
            permissions: permissions.map(|at| at.value),
        }
    }

    fn api_tls(&mut self, section: &Section<'_>) -> Option<ApiTls> {
        let tls = section.table("tls", self.report)?;
        let mut path = |key| {
            let at = tls.get(key, self.report, value::path)?;
            let path = self.report.folder(at.span).join(at.value);
            Some(At::new(path, at.span))
        };
        let [certificate, key, client_ca] = ["certificate", "key", "client_ca"].map(&mut path);
        let roles = tls.words("roles", self.report);
        let is_empty = |node: &Node| matches!(&node.value, Value::Map(map) if map.is_empty());
        if tls.node("roles").is_some_and(is_empty) {
            self.report
                .warning(
                    tls.span,
                    "`roles` of `tls` is empty: nobody may do anything",
                )
                .help("expected `roles: { NAME-IN-A-CERTIFICATE: read }`");
        }
        let role = |word| {
            if word == "write" {
                Role::Write
            } else {
                Role::Read
            }
        };
        let roles = roles.into_iter().map(|(name, word)| (name, role(word)));
        Some(ApiTls {
            certificate: certificate?,
            key: key?,
            client_ca: client_ca?,
            roles: roles.collect(),
        })
    }
}
