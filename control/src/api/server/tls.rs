//! Mutual TLS: files to a configuration, a certificate to its role.
//!
//! In: PEM files; the certificate of a client that the CA has vouched for. Out: what handshakes are done with; who
//! asks. Never: a connection without a client's certificate; a name that is no subject alternative name, or is only
//! like one of the configuration.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::OFlag;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
use zeroize::Zeroizing;

use super::caller::{Caller, Who};
use crate::config::{ApiTls, Role};

/// The longest file that is read.
const MAX_LEN: u64 = 1 << 20;

/// What was read of the TCP port's files.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Arc<ServerConfig>,
    /// Own certificates and the CA's.
    certificates: Vec<CertificateDer<'static>>,
}

impl Loaded {
    /// Whether both are made of the same certificates. A new key comes with a new certificate.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.certificates == other.certificates
    }
}

/// A file that can't be used, and how to mend that.
#[derive(Debug, thiserror::Error)]
#[error("api.tls: `{key}` {}: {error}", path.display())]
pub(crate) struct Unusable {
    /// The key of `api.tls` that names it.
    pub(crate) key: &'static str,
    path: PathBuf,
    error: String,
}

impl Unusable {
    /// What would have been right.
    pub(crate) fn expected(&self) -> &'static str {
        match self.key {
            "key" => {
                "expected the private key of `certificate`, as PEM in a file that its owner alone can read"
            }
            "client_ca" => "expected the certificate of the CA that vouches for clients, as PEM",
            _ => {
                "expected a certificate of this machine's, as PEM, and behind it those that lead to its CA"
            }
        }
    }
}

/// Reads the files of the TCP port.
pub(super) fn load(tls: &ApiTls) -> Result<Loaded, Unusable> {
    let own = certificates(&tls.certificate, "certificate")?;
    let mut all = own.clone();
    let key = private_key(&tls.key)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&tls.client_ca, "client_ca")? {
        all.push(certificate.clone());
        let failed = |error| wrong("client_ca", &tls.client_ca, &error);
        roots.add(certificate).map_err(failed)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let clients = clients
        .build()
        .map_err(|error| wrong("client_ca", &tls.client_ca, &error))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong("certificate", &tls.certificate, &error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(own, key)
        .map_err(|error| unfit(tls, &error))?;
    Ok(Loaded {
        config: Arc::new(config),
        certificates: all,
    })
}

/// A certificate that can't be used, or another one's key.
fn unfit(tls: &ApiTls, error: &rustls::Error) -> Unusable {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        let of = tls.certificate.display();
        let error = format!("it is not the key of the certificate in {of}");
        return wrong("key", &tls.key, &error);
    }
    wrong("certificate", &tls.certificate, error)
}

/// Whether the files of the TCP port can be used, and fit together.
pub(crate) fn check(tls: &ApiTls) -> Result<(), Unusable> {
    load(tls).map(drop)
}

fn wrong(key: &'static str, path: &Path, error: &dyn std::fmt::Display) -> Unusable {
    Unusable {
        key,
        path: path.to_owned(),
        error: error.to_string(),
    }
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let (text, _) = read(path, key)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(wrong(key, path, &"there is no certificate in it")),
        Ok(all) => Ok(all),
        Err(error) => Err(wrong(key, path, &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Unusable> {
    let (text, mode) = read(path, "key")?;
    if mode & 0o077 != 0 {
        let error = format!(
            "its permissions are {:04o}: others can read or change it: `chmod 600` mends that",
            mode & 0o777
        );
        return Err(wrong("key", path, &error));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| wrong("key", path, &error))
}

/// A file's text, and its permission bits.
fn read(path: &Path, key: &'static str) -> Result<(Zeroizing<Vec<u8>>, u32), Unusable> {
    let failed = |error: std::io::Error| wrong(key, path, &error);
    // O_NONBLOCK: a FIFO in its place must not hang the reader.
    let mut options = File::options();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_LEN {
        return Err(wrong(key, path, &"this is no file of certificates or keys"));
    }
    // Of its final size: a growing one would leave copies of a key behind.
    let room = usize::try_from(metadata.len()).unwrap_or(0) + 1;
    let mut text = Zeroizing::new(Vec::with_capacity(room));
    file.take(MAX_LEN).read_to_end(&mut text).map_err(failed)?;
    Ok((text, metadata.mode()))
}

/// Whose certificate this is, and what it may by its names.
pub(super) fn caller(certificate: &CertificateDer<'_>, roles: &[(String, Role)]) -> Caller {
    let names = names(certificate);
    let role = |name: &String| {
        roles
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, role)| *role)
    };
    let best = names
        .iter()
        .filter_map(|name| Some((role(name)?, name)))
        .max();
    match best {
        Some((role, name)) => Caller {
            who: Who::Certificate(name.clone()),
            role: Some(role),
            uplink: None,
        },
        None => Caller {
            who: Who::Certificate(
                names
                    .into_iter()
                    .next()
                    .unwrap_or_else(|| "without a name".into()),
            ),
            role: None,
            uplink: None,
        },
    }
}

/// The subject alternative names: DNS names, addresses, URIs, mail addresses.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    extension
        .value
        .general_names
        .iter()
        .filter_map(name)
        .collect()
}

/// Kinds of names. A role is for one that is of the kind that its text looks like: of two that read alike one may be given
/// by a CA to whom the other is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Address,
    Uri,
    Mail,
    Dns,
}

impl Kind {
    fn of(text: &str) -> Self {
        match text {
            _ if text.parse::<IpAddr>().is_ok() => Self::Address,
            _ if text.contains(':') => Self::Uri,
            _ if text.contains('@') => Self::Mail,
            _ => Self::Dns,
        }
    }
}

/// A name's text, if it looks like what it is.
fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::IPAddress(bytes) = name {
        let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
        let any = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
        return any.ok().map(|address| address.to_string());
    }
    let (kind, text) = if let GeneralName::DNSName(text) = name {
        (Kind::Dns, *text)
    } else if let GeneralName::URI(text) = name {
        (Kind::Uri, *text)
    } else if let GeneralName::RFC822Name(text) = name {
        (Kind::Mail, *text)
    } else {
        return None;
    };
    (Kind::of(text) == kind).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_of_the_kind_that_it_looks_like() {
        let text = |it: GeneralName<'_>| name(&it).is_some();
        assert!(text(GeneralName::DNSName("ops.example.net")));
        assert!(text(GeneralName::URI("spiffe://example.net/scrape")));
        assert!(text(GeneralName::RFC822Name("ops@example.net")));
        assert!(text(GeneralName::IPAddress(&[192, 0, 2, 1])));
        assert!(!text(GeneralName::RFC822Name("ops.example.net")));
        assert!(!text(GeneralName::URI("ops.example.net")));
        assert!(!text(GeneralName::DNSName("192.0.2.1")));
        assert!(!text(GeneralName::DNSName("spiffe://example.net/scrape")));
        assert!(!text(GeneralName::DNSName("ops@example.net")));
        assert!(!text(GeneralName::RFC822Name("spiffe://a@b")));
    }
}
