//! Users and groups by their names.
//!
//! In: an account of the configuration. Out: its number, or the command that makes it. Never: a guess.

use crate::config::Account;

/// A user's number.
///
/// # Errors
///
/// In words, when there is no such user.
pub(crate) fn user(account: &Account) -> Result<u32, String> {
    number(account, Kind::User)
}

/// A group's number.
///
/// # Errors
///
/// In words, when there is no such group.
pub(crate) fn group(account: &Account) -> Result<u32, String> {
    number(account, Kind::Group)
}

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// A user.
    User,
    /// A group.
    Group,
}

/// An account's number.
///
/// # Errors
///
/// In words, when there is no such account.
pub(crate) fn number(account: &Account, kind: Kind) -> Result<u32, String> {
    let name = match account {
        Account::Id(id) => return Ok(*id),
        Account::Name(name) => name,
    };
    let found = match kind {
        Kind::User => nix::unistd::User::from_name(name).map(|u| u.map(|u| u.uid.as_raw())),
        Kind::Group => nix::unistd::Group::from_name(name).map(|g| g.map(|g| g.gid.as_raw())),
    };
    let (kind, command) = match kind {
        Kind::User => ("user", "useradd --system"),
        Kind::Group => ("group", "groupadd --system"),
    };
    match found {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!(
            "there is no {kind} {name}: `{command} {name}` makes it"
        )),
        Err(error) => Err(format!("can't look up the {kind} {name}: {error}")),
    }
}
