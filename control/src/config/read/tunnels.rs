//! Tunnels, their peers, and the key files of both.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use culvert_directory::DirectoryError;
use culvert_wireguard::keys::KeyError;
use ipnet::IpNet;

use super::{Reader, narrow};
use crate::config::draft::{Peer, Tunnel};
use crate::config::keyfile::{KeyFile, KeyFileError};
use crate::config::section::{At, Section};
use crate::config::{Name, value};
use crate::keys::{PresharedKey, PrivateKey};

impl Reader<'_> {
    pub(super) fn tunnel(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Tunnel {
        let mut tunnel = Tunnel::named(name);
        let Some(section) = section else {
            return tunnel;
        };
        self.tunnel_uplinks(&section, &mut tunnel);
        tunnel.listen_port = section
            .integer("listen_port", self.report)
            .map(|at| At::new(narrow(at.value), at.span));
        tunnel.mtu = section.integer("mtu", self.report);
        tunnel.private_key_file = self.key_path(&section, "private_key_file");
        tunnel.private_key = tunnel.private_key_file.as_ref().and_then(|file| {
            self.secret(file, "the private key", "genkey", PrivateKey::from_base64)
        });
        tunnel.fwmark = section.integer("fwmark", self.report);
        tunnel.pmtu = section.get("pmtu", self.report, value::pmtu);
        let own_name = tunnel.name.value.clone();
        tunnel.uapi = section.get("uapi", self.report, |node, what, report| {
            value::uapi(node, what, &own_name, report)
        });
        let peers = section.named("peers", self.report);
        let peers = peers.into_iter();
        let peers = peers.map(|(name, section)| self.peer(name, section));
        tunnel.peers = peers.collect::<Vec<_>>().into();
        self.preshared_keys(&section, &mut tunnel);
        tunnel
    }

    /// One uplink, or several, the first choice first.
    fn tunnel_uplinks(&mut self, section: &Section<'_>, tunnel: &mut Tunnel) {
        tunnel.uplink = section.get("uplink", self.report, value::name);
        let Some(span) = section.key_span("uplinks") else {
            return self.need(section, &["uplink"], "a tunnel");
        };
        if section.key_span("uplink").is_some() {
            let title = section.title();
            self.report
                .error(span, format!("{title} has both `uplink` and `uplinks`"))
                .help("expected one of the two: the first of `uplinks` is the one that `uplink` would name");
            return;
        }
        let mut all = section
            .list("uplinks", self.report, value::name)
            .into_iter();
        tunnel.uplink = all.next();
        tunnel.backups = all.collect();
        if tunnel.uplink.is_none() && self.report.errors() == 0 {
            let title = section.title();
            self.report
                .error(span, format!("`uplinks` of {title} is empty"))
                .help("name at least one: `uplinks: [wan0, wan1]`");
        }
    }

    pub(in crate::config) fn peer(&mut self, name: At<Name>, section: Option<Section<'_>>) -> Peer {
        let mut peer = Peer::named(name);
        let Some(section) = section else { return peer };
        peer.public_key = section.get("public_key", self.report, value::public_key);
        if let Some(file) = self.key_path(&section, "preshared_key_file") {
            let what = "the preshared key";
            peer.preshared_key = self.secret(&file, what, "genpsk", PresharedKey::from_base64);
            peer.preshared_key_file = Some(file.value);
        }
        peer.endpoint = section.get("endpoint", self.report, value::endpoint);
        peer.allowed_ips = section.list("allowed_ips", self.report, value::prefix);
        let keepalive = section.seconds("persistent_keepalive", self.report);
        peer.persistent_keepalive = keepalive
            .map(|at| narrow(at.value))
            .filter(|seconds| *seconds != 0);
        peer.pmtu = section
            .get("pmtu", self.report, value::pmtu)
            .map(|at| at.value);
        peer.probe = self.probe(&section, &peer);
        peer.labels = self.labels(&section);
        peer.enabled = self.enabled(&section);
        peer
    }

    /// Who is pinged must be behind the peer, or nobody is.
    fn probe(&mut self, section: &Section<'_>, peer: &Peer) -> Option<IpAddr> {
        let at = section.get("probe", self.report, value::address)?;
        let is_there = |net: &At<IpNet>| net.value.contains(&at.value);
        if peer.allowed_ips.iter().any(is_there) {
            return Some(at.value);
        }
        let title = section.title();
        self.report
            .error(
                at.span,
                format!("`probe` of {title} is {}, which is not behind it", at.value),
            )
            .help("expected an address in its `allowed_ips` that answers pings");
        None
    }

    pub(super) fn key_path(&mut self, section: &Section<'_>, key: &str) -> Option<At<PathBuf>> {
        let at = section.get(key, self.report, value::path)?;
        // 44 characters that end in `=`: a key where its file should stand. Never print it.
        let text = at.value.to_string_lossy();
        if text.len() == crate::keys::KEY_TEXT_LEN && text.ends_with('=') {
            self.report.hide(&text);
            self.report
                .error(
                    at.span,
                    format!("`{key}` of {} holds a key itself", section.title()),
                )
                .help("expected the path of a file that holds it and that only its owner can read");
            return None;
        }
        let ([what, example], name) = match KeyFile::of(&at.value) {
            KeyFile::Named(name) => (["a file of the key directory", "key:hv-b.psk"], name),
            KeyFile::Credential(name) => (["a credential", "credential:wg0.key"], name),
            KeyFile::Path(path) => {
                let path = self.report.folder(at.span).join(path);
                return Some(At::new(path, at.span));
            }
        };
        if KeyFile::is_name(name) {
            return Some(at);
        }
        let message = format!("`{key}` of {} is `{text}`", section.title());
        let mistake = self.report.error(at.span, message);
        mistake.help(format!(
            "expected the name of {what} without `/`, as in `{example}`"
        ));
        None
    }

    fn secret<K>(
        &mut self,
        file: &At<PathBuf>,
        what: &str,
        command: &str,
        parse: impl FnOnce(&str) -> Result<K, KeyError>,
    ) -> Option<K> {
        let parsed = self
            .keys
            .read_in(&self.key_directory, &file.value)
            .and_then(|text| parse(&text).map_err(|_| KeyFileError::NotAKey));
        match parsed {
            Ok(key) => Some(key),
            Err(error) => {
                let quoted = shell_quoted(&KeyFile::of(&file.value).place(&self.key_directory));
                // What is there may be the key, with something beside it: nothing is written over it.
                let make = if matches!(error, KeyFileError::NotAKey) {
                    format!(
                        "expected one line as `culvert {command}` prints it, without a second line or a byte order mark"
                    )
                } else {
                    format!("to make a new one: (umask 077; culvert {command} > {quoted})")
                };
                self.unusable(file, what, &error, &make);
                None
            }
        }
    }

    /// Says why a key file can't be used, and what mends it.
    pub(super) fn unusable(
        &mut self,
        file: &At<PathBuf>,
        what: &str,
        error: &KeyFileError,
        make: &str,
    ) {
        let path = file.value.display();
        let mistake = self.report.error(
            file.span,
            format!("{what} in `{path}` can't be used: {error}"),
        );
        let key = KeyFile::of(&file.value);
        if let KeyFile::Credential(name) = key
            && let Some(help) = of_credential(name, error)
        {
            for line in help {
                mistake.help(line);
            }
            return;
        }
        let quoted = shell_quoted(&key.place(&self.key_directory));
        let directory = self.key_directory.display();
        match error {
            KeyFileError::Missing
            | KeyFileError::Empty
            | KeyFileError::NotAKey
            | KeyFileError::NoCredentials => mistake.help(make),
            KeyFileError::Exposed { .. } => mistake.help(format!("to mend it: chmod 600 {quoted}")),
            KeyFileError::Foreign { .. } => {
                let user = rustix::process::geteuid().as_raw();
                mistake.help(format!("to mend it: chown {user} {quoted}"))
            }
            KeyFileError::Link => {
                mistake.help("put the file itself there, readable by its owner alone")
            }
            KeyFileError::Directory(DirectoryError::Io { error, .. })
                if error.kind() == std::io::ErrorKind::NotFound =>
            {
                let quoted = shell_quoted(&self.key_directory);
                mistake.help(format!("to make it: mkdir -m 700 {quoted}"))
            }
            KeyFileError::Directory(_) => mistake.help("`key_directory` of `api` names another"),
            KeyFileError::Unknown { .. } => mistake
                .help(format!(
                    "put the key into a file of {directory}, and its name here: `key:NAME`"
                ))
                .help("or have root, or the user that runs culvert, apply the file"),
            KeyFileError::NotAFile => mistake.help("expected a file with one line of base64"),
            KeyFileError::Io(_) => mistake.help("run it as the file's owner, usually root"),
        };
    }
}

/// What mends a credential, if that is done in another way than with a file.
fn of_credential(name: &str, error: &KeyFileError) -> Option<Vec<String>> {
    Some(match error {
        KeyFileError::NoCredentials => vec![
            format!(
                "systemd hands them to the unit: add `LoadCredential={name}:/etc/culvert/{name}` to its [Service] section"
            ),
            format!(
                "to check it by hand: CREDENTIALS_DIRECTORY=/etc/culvert culvert check FILE, if `{name}` is there"
            ),
        ],
        KeyFileError::Missing => vec![format!(
            "add `LoadCredential={name}:/etc/culvert/{name}` to the unit's [Service] section, then: systemctl daemon-reload, and restart the unit"
        )],
        KeyFileError::Exposed { .. }
        | KeyFileError::Foreign { .. }
        | KeyFileError::NotAFile
        | KeyFileError::Empty
        | KeyFileError::NotAKey
        | KeyFileError::Io(_) => {
            vec!["expected what `LoadCredential=` makes of a file with the key".into()]
        }
        KeyFileError::Link | KeyFileError::Directory(_) | KeyFileError::Unknown { .. } => {
            return None;
        }
    })
}

/// A path as a shell takes it.
pub(crate) fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ':' | '@' | '%')
    };
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}
