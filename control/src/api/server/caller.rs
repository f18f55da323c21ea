//! Who asks.
//!
//! In: the credentials of a socket's other end, or the names in a client's certificate. Out: a [`Caller`], which every
//! handler finds among a request's extensions. Never: what a client says of itself in a request.

use std::fmt;

use crate::config::{Name, Role};

/// Who asks, and what it may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub who: Who,
    /// What it may; nothing without one.
    pub role: Option<Role>,
    /// The uplink by whose own stack it comes.
    pub uplink: Option<Name>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A process of this machine, by the kernel's word.
    Local {
        /// Its user.
        uid: u32,
        /// Its number, if it is of this PID namespace.
        pid: Option<i32>,
    },
    /// The holder of a certificate of the clients' CA, by the subject alternative name that gave it its role, or by
    /// its first.
    Certificate(String),
}

impl Caller {
    /// The process at the other end of a socket, as the kernel knows it.
    pub(super) fn local(uid: u32, pid: Option<i32>, role: Role) -> Self {
        Self {
            who: Who::Local { uid, pid },
            role: Some(role),
            uplink: None,
        }
    }

    /// Whether files are opened that it names: it is the user that runs this process, or root.
    #[must_use]
    pub fn opens_files(&self) -> bool {
        match self.who {
            Who::Local { uid, .. } => uid == 0 || uid == rustix::process::geteuid().as_raw(),
            Who::Certificate(_) => false,
        }
    }

    /// Who it is, in some words.
    #[must_use]
    pub fn short(&self) -> String {
        match &self.who {
            Who::Local { uid, .. } => format!("user {uid}"),
            Who::Certificate(_) => self.to_string(),
        }
    }

    /// The name of its user, or its certificate's. It may ask a directory service: for a thread that may wait.
    #[must_use]
    pub fn user(&self) -> String {
        match &self.who {
            Who::Local { uid, .. } => {
                let user = nix::unistd::User::from_uid((*uid).into()).ok().flatten();
                user.map_or_else(|| uid.to_string(), |user| user.name)
            }
            Who::Certificate(name) => name.clone(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Local { uid, pid: None } => write!(f, "user {uid}"),
            Who::Local {
                uid,
                pid: Some(pid),
            } => write!(f, "user {uid}, process {pid}"),
            Who::Certificate(name) => write!(f, "certificate {name}"),
        }
    }
}
