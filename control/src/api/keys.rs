//! Files that a client's text names, and who may name which.
//!
//! In: a text, and who sends it. Out: its configuration. Never: a path opened that a client names, unless it is the
//! user's that runs this process, or root's; a word on whether another one is there.
//!
//! Others name keys: a file of the key directory, a credential. A path that the configuration has which runs stands for
//! the key that runs, so what `config show` prints can be edited and applied by them, too.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use zeroize::Zeroizing;

use super::server::caller::Caller;
use super::{Request, Requester, SendError, ask};
use crate::config::{
    Config, Disk, KeyFile, KeyFileError, KeyFiles, Report, Span, Texts, UplinkDriver,
};
use crate::keys::{KEY_TEXT_LEN, PresharedKey, PrivateKey};
use crate::plan::Layers;

/// What a client may name.
pub(super) struct May {
    /// Who it is, and what runs; nothing: it may name whatever it wants.
    by_name: Option<(String, Layers)>,
}

impl May {
    /// Looks at who it is, and at what runs.
    ///
    /// # Errors
    ///
    /// When the engine does not say what runs.
    pub(super) fn of(requester: &Requester, caller: Option<&Caller>) -> Result<Self, SendError> {
        if caller.is_some_and(Caller::opens_files) {
            return Ok(Self { by_name: None });
        }
        let client = caller.map_or_else(|| "nobody".into(), Caller::short);
        let desired = ask(requester, |reply| Request::Desired { reply })?;
        let by_name = Some((client, desired));
        Ok(Self { by_name })
    }

    /// Has its text read.
    ///
    /// # Errors
    ///
    /// Every mistake in it, files among them that the client may not name.
    pub(super) fn read(
        &self,
        texts: &Texts,
        parse: impl FnOnce(&Texts, &dyn KeyFiles) -> Result<(Config, Report), Report>,
    ) -> Result<(Config, Report), Report> {
        let Some((client, desired)) = &self.by_name else {
            return parse(texts, &Disk);
        };
        let running = desired.file();
        let keys = ByName {
            running,
            client,
            known: OnceCell::new(),
        };
        let (config, report) = parse(texts, &keys)?;
        let Some(what) = foreign(&config, running) else {
            return Ok((config, report));
        };
        let what =
            format!("{what} is another than that of what runs, and {client} may name no files");
        let mut report = Report::new(&texts.path, "");
        report
            .error(Span::default(), what)
            .help("have root, or the user that runs culvert, apply the file");
        Err(report)
    }
}

/// A file beside those of keys that is not one of what runs.
fn foreign(config: &Config, running: &Config) -> Option<String> {
    let api = &config.api;
    if api.key_directory != running.api.key_directory {
        return Some("`key_directory` of `api`".into());
    }
    if let Some(tls) = &api.tls {
        let known = running.api.tls.as_ref();
        let files = [
            (
                "certificate",
                &tls.certificate,
                known.map(|it| &it.certificate),
            ),
            ("key", &tls.key, known.map(|it| &it.key)),
            ("client_ca", &tls.client_ca, known.map(|it| &it.client_ca)),
        ];
        let mut files = files.into_iter();
        if let Some((key, ..)) = files.find(|(_, path, known)| Some(*path) != *known) {
            return Some(format!("`{key}` of `api.tls`"));
        }
    }
    // Arguments of DPDK's drivers may be paths.
    let known: HashSet<_> = devices(running).map(|(_, device)| device).collect();
    let mut devices = devices(config).filter(|(_, device)| device.contains('/'));
    let (uplink, _) = devices.find(|(_, device)| !known.contains(device))?;
    Some(format!("`device` of uplink `{uplink}`"))
}

fn devices(config: &Config) -> impl Iterator<Item = (&str, String)> {
    config
        .uplinks
        .iter()
        .filter_map(|uplink| match &uplink.driver {
            UplinkDriver::Dpdk(dpdk) => Some((uplink.name.as_str(), dpdk)),
            UplinkDriver::Udp(_) => None,
        })
        .flat_map(|(name, dpdk)| dpdk.devices().map(move |device| (name, device.devargs())))
}

/// A key that runs.
enum Known<'r> {
    Private(&'r PrivateKey),
    Preshared(&'r PresharedKey),
}

/// Keys by their names, and those that run by their paths.
struct ByName<'r> {
    running: &'r Config,
    client: &'r str,
    known: OnceCell<HashMap<&'r Path, Known<'r>>>,
}

impl ByName<'_> {
    fn unknown(&self) -> KeyFileError {
        let client = self.client.to_owned();
        KeyFileError::Unknown { client }
    }

    fn one(&self, path: &Path) -> Option<Zeroizing<String>> {
        let known = self.known.get_or_init(|| known(self.running));
        Some(match known.get(path)? {
            Known::Private(key) => key.to_base64(),
            Known::Preshared(key) => key.to_base64(),
        })
    }

    /// A file of many keys, with the lines that matter to what runs.
    fn many(&self, path: &Path) -> Option<Zeroizing<String>> {
        let tunnels = self.running.tunnels.iter();
        let tunnels: Vec<_> = tunnels
            .filter(|it| it.preshared_keys_file.as_deref() == Some(path))
            .collect();
        tunnels.first()?;
        let mut peers = HashMap::new();
        for peer in tunnels.iter().flat_map(|it| &it.peers) {
            match peer.preshared_key_file.as_deref() {
                Some(own) if own != path => {}
                _ => drop(peers.insert(peer.public_key, peer.preshared_key.as_ref())),
            }
        }
        // Of its final size: one that grows leaves copies of keys behind.
        let mut text = Zeroizing::new(String::with_capacity(peers.len() * (2 * KEY_TEXT_LEN + 2)));
        for (public, key) in peers {
            *text += &public.to_base64();
            *text += "\t";
            match key {
                Some(key) => *text += &key.to_base64(),
                None => *text += "(none)",
            }
            *text += "\n";
        }
        Some(text)
    }
}

fn known(running: &Config) -> HashMap<&Path, Known<'_>> {
    let mut known = HashMap::new();
    for tunnel in &running.tunnels {
        if let Some(key) = &tunnel.private_key {
            known.insert(&*tunnel.private_key_file, Known::Private(key));
        }
        let many = tunnel.preshared_keys_file.as_deref();
        for peer in &tunnel.peers {
            let path = peer.preshared_key_file.as_deref();
            if let Some((path, key)) = path.zip(peer.preshared_key.as_ref())
                && Some(path) != many
            {
                known.insert(path, Known::Preshared(key));
            }
        }
    }
    // It stands for a key that `wg` set.
    known.remove(Path::new(""));
    known
}

impl KeyFiles for ByName<'_> {
    fn read(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        match KeyFile::of(path) {
            KeyFile::Named(_) | KeyFile::Credential(_) => {
                Disk.read_in(&self.running.api.key_directory, path)
            }
            KeyFile::Path(path) => self.one(path).ok_or_else(|| self.unknown()),
        }
    }

    fn read_many(&self, path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
        match KeyFile::of(path) {
            KeyFile::Named(_) | KeyFile::Credential(_) => {
                Disk.read_many_in(&self.running.api.key_directory, path)
            }
            KeyFile::Path(path) => self.many(path).ok_or_else(|| self.unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::sync::Arc;

    use super::*;
    use crate::api::server::caller::Who;
    use crate::config::{Role, parse_texts};

    fn key(number: u8) -> Zeroizing<String> {
        PrivateKey::from_bytes([number; 32]).to_base64()
    }

    fn write(path: &Path, number: u8) {
        fs::write(path, &*key(number)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }

    /// A machine with a key directory, and a configuration that runs.
    struct Site {
        folder: tempfile::TempDir,
        requester: Requester,
    }

    impl Site {
        fn new() -> Self {
            Self::of("t.key", "preshared_key_file: psk")
        }

        fn of(key: &str, peer: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let keys = folder.path().join("keys");
            fs::create_dir(&keys).unwrap();
            for path in [
                folder.path().join("t.key"),
                keys.join("named"),
                folder.path().join("psk"),
            ] {
                write(&path, 7);
            }
            let (requester, requests) = crate::api::channel().unwrap();
            let site = Self { folder, requester };
            let texts = site.texts(key, peer, "");
            let (config, _) = parse_texts(&texts, &Disk)
                .map_err(|it| it.render(false))
                .unwrap();
            let layers = Layers::new(Arc::new(config));
            std::thread::spawn(move || {
                while let Some(Request::Desired { reply }) = requests.wait(None) {
                    reply.send(layers.clone());
                }
            });
            site
        }

        fn texts(&self, key: &str, peer: &str, more: &str) -> Texts {
            let public = PrivateKey::from_bytes([9; 32]).public_key().to_base64();
            let api = match more.contains("key_directory") {
                true => String::new(),
                false => format!(
                    "key_directory: {}",
                    self.folder.path().join("keys").display()
                ),
            };
            let text = format!(
                "version: 1\napi: {{{api}{more}}}\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\n\
                 networks: {{}}\ntunnels:\n  t:\n    uplink: u\n    listen_port: 1\n    private_key_file: {key}\n    \
                 peers: {{p: {{public_key: \"{public}\", {peer}}}}}\n"
            );
            Texts::alone(&self.folder.path().join("c.yaml"), text)
        }

        fn read(&self, who: Who, texts: &Texts) -> Result<Config, String> {
            let caller = Caller {
                who,
                role: Some(Role::Write),
                uplink: None,
            };
            let may = May::of(&self.requester, Some(&caller)).unwrap();
            let read = may.read(texts, parse_texts);
            read.map(|(config, _)| config)
                .map_err(|it| it.render(false))
        }
    }

    fn member() -> Who {
        Who::Local {
            uid: 4711,
            pid: None,
        }
    }

    #[test]
    fn who_is_not_root_names_keys_and_what_runs_already() {
        let site = Site::new();
        let own = rustix::process::geteuid().as_raw();
        let local = |uid| Who::Local { uid, pid: None };
        let fresh = site.folder.path().join("fresh.key");
        write(&fresh, 8);
        for who in [local(0), local(own)] {
            let texts = site.texts("fresh.key", "preshared_key_file: key:named", "");
            site.read(who, &texts).unwrap();
        }
        for who in [member(), Who::Certificate("ops".into())] {
            // As `config show` prints it.
            let known = site.folder.path().join("t.key");
            let texts = site.texts(known.to_str().unwrap(), "preshared_key_file: key:named", "");
            let config = site.read(who.clone(), &texts).unwrap();
            assert_eq!(
                config.tunnels[0].private_key.as_ref().unwrap().to_base64(),
                key(7)
            );
            assert!(config.tunnels[0].peers[0].preshared_key.is_some());
            // The key that runs, whatever lies there by now.
            write(&known, 8);
            let config = site.read(who.clone(), &texts).unwrap();
            assert_eq!(
                config.tunnels[0].private_key.as_ref().unwrap().to_base64(),
                key(7)
            );
            let error = site
                .read(who, &site.texts("fresh.key", "", ""))
                .unwrap_err();
            assert!(
                error.contains("may name none") && error.contains("`key:NAME`"),
                "{error}"
            );
        }
    }

    /// Whatever lies at a path, the answer is the same, and no FIFO keeps anybody waiting.
    #[test]
    fn a_path_of_theirs_is_not_looked_at() {
        let site = Site::new();
        let at = |name: &str| site.folder.path().join(name);
        write(&at("present"), 8);
        fs::write(at("exposed"), "x").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink("/etc/shadow", at("link")).unwrap();
        let fifo = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("fifo"),
            rustix::fs::FileType::Fifo,
            fifo,
            0,
        )
        .unwrap();
        let told = |peer: &str, name: &str| {
            let texts = site.texts("t.key", &peer.replace("NAME", name), "");
            site.read(member(), &texts)
                .unwrap_err()
                .replace(name, "NAME")
        };
        for peer in [
            "preshared_key_file: NAME",
            "preshared_key_file: ./keys/../NAME",
        ] {
            let missing = told(peer, "missing");
            for name in ["present", "exposed", "folder", "link", "fifo"] {
                let found = told(peer, name);
                let plain = |text: &str| text.replace(['^', ' '], "");
                assert_eq!(plain(&found), plain(&missing), "{name}");
            }
        }
        let many = |name: &str| {
            let texts = site.texts("t.key", "", "");
            let key = format!("    preshared_keys_file: {name}\n    peers");
            let text = texts.text.replace("    peers", &key);
            let texts = Texts::alone(&texts.path, text);
            site.read(member(), &texts)
                .unwrap_err()
                .replace(name, "NAME")
        };
        assert_eq!(many("fifos").len(), many("missi").len());
        for who in ["fifos", "missi"] {
            assert!(many(who).contains("may name none"));
        }
    }

    #[test]
    fn a_file_of_many_keys_that_runs_stands_for_them() {
        let folder = tempfile::tempdir().unwrap();
        let many = folder.path().join("many");
        let public = PrivateKey::from_bytes([9; 32]).public_key().to_base64();
        fs::write(&many, format!("{public} {}\n", &*key(5))).unwrap();
        fs::set_permissions(&many, Permissions::from_mode(0o600)).unwrap();
        let lines = format!("t.key\n    preshared_keys_file: {}", many.display());
        let site = Site::of(&lines, "");
        fs::remove_file(&many).unwrap();
        let config = site.read(member(), &site.texts(&lines, "", "")).unwrap();
        let peer = &config.tunnels[0].peers[0];
        assert_eq!(peer.preshared_key.as_ref().unwrap().to_base64(), key(5));
    }

    #[test]
    fn they_change_no_other_file_either() {
        let site = Site::new();
        let refused = |more: &str, what: &str| {
            let error = site
                .read(member(), &site.texts("t.key", "", more))
                .unwrap_err();
            assert!(error.contains(what), "{error}");
            assert!(error.contains("user 4711 may name no files"), "{error}");
        };
        refused("key_directory: /etc", "`key_directory` of `api`");
        refused(
            ", listen: \"127.0.0.1:1\", tls: {certificate: /etc/shadow, key: /etc/shadow, client_ca: /etc/shadow, roles: {a: read}}",
            "`certificate` of `api.tls`",
        );
        let device = "d: {driver: dpdk, device: \"net_pcap0,rx_pcap=/etc/shadow\", addresses: [10.9.0.1/24]}";
        let texts = site.texts("t.key", "", "");
        let text = texts
            .text
            .replace("uplinks: {", &format!("uplinks: {{{device}, "));
        let error = site.read(member(), &Texts::alone(&texts.path, text));
        let error = error.unwrap_err();
        assert!(
            error.contains("`device` of uplink `d` is another"),
            "{error}"
        );
        // A name of theirs is found where what runs says.
        let texts = site.texts("key:shadow", "", "key_directory: /etc");
        let error = site.read(member(), &texts).unwrap_err();
        assert!(
            error.contains("`key:shadow` can't be used: the file is missing"),
            "{error}"
        );
    }
}
