//! Who may ask this process and change it.
//!
//! In: nothing; [`super::super::build`] makes these. Out: what the API's doors are made from. Never: a certificate, a
//! key: files are read when the doors are made.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::Account;

/// The API's doors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The socket of those who may change everything.
    pub socket: ApiSocket,
    /// The group that may read by a socket of its own.
    pub readers: Option<Account>,
    /// A TCP port for clients with certificates.
    pub tls: Option<ApiTls>,
    /// The largest body of a request, in MiB.
    pub body_megabytes: u32,
    /// Where keys lie that have a name (`key:NAME`).
    pub key_directory: PathBuf,
}

/// Whose the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSocket {
    /// Another owner.
    pub owner: Option<Account>,
    /// Another group.
    pub group: Option<Account>,
    /// Permission bits.
    pub permissions: u32,
}

/// The TCP port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiTls {
    /// Where it is; uplinks may serve the API, too, or alone.
    pub listen: Option<SocketAddr>,
    /// Own certificates, as PEM.
    pub certificate: PathBuf,
    /// Their private key.
    pub key: PathBuf,
    /// The CA of clients.
    pub client_ca: PathBuf,
    /// What each subject alternative name may.
    pub roles: Vec<(String, Role)>,
}

/// What a client may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Read,
    /// Change everything, too.
    Write,
}

impl Role {
    /// As the file has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

impl Default for Api {
    fn default() -> Self {
        Self {
            socket: ApiSocket {
                owner: None,
                group: None,
                permissions: super::super::limits::PERMISSIONS_DEFAULT,
            },
            readers: None,
            tls: None,
            body_megabytes: super::super::limits::BODY_MEGABYTES_DEFAULT,
            key_directory: super::super::limits::KEY_DIRECTORY.into(),
        }
    }
}
