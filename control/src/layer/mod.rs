//! The API layer: single objects that come and go beside the configuration.
//!
//! In: wishes: add, set, delete. Out: the typed change that each comes to, carried out by the control core, and kept:
//! when it is acknowledged it is written. Never: the control core's time for reading, comparing or writing; a wish
//! carried out that could not be kept; a revision: what comes and goes with guests has no history.
//!
//! One wish at a time, and none while a file takes the running one's place: the desk is locked. Its order: read the
//! object and compare it, write it, have it carried out; what the core refuses is taken off the journal again.

mod books;
mod journal;
pub mod secrets;
pub mod told;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_directory::Directory;
use serde_json::Value as Json;

pub use self::books::Books;
use self::books::Notice;
use self::journal::Journal;
use self::secrets::Secrets;
use crate::{
    api::{self, ApplyError, Request, Requester, SendError, lockout},
    config::{
        Config, Disk, KeyFile, KeyFileError, KeyFiles as _, Name, Report,
        object::{self, Keys},
    },
    keys::{PresharedKey, PublicKey},
    plan::{
        Change, Laid, Layers,
        api::{Given, Object, Said, Unfit},
    },
    state::Applied,
};

/// What the control core is to carry out.
#[derive(Debug)]
pub struct Step {
    /// The change, if what runs differs by it.
    pub plan: Vec<Change>,
    /// The layer from then on.
    pub api: Arc<Laid>,
}

/// What is to become of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It comes.
    Add {
        /// One that is there already is given the keys.
        may_exist: bool,
    },
    /// It is what the keys say, whatever it was.
    Put,
    /// The keys are laid over it.
    Set {
        /// It need not be there.
        if_exists: bool,
    },
    /// It goes.
    Delete {
        /// It need not be there.
        if_exists: bool,
    },
    /// The layer says nothing of it any more: the file counts alone.
    Forget,
}

/// What somebody wants of an object.
#[derive(Debug)]
pub struct Wish {
    /// Which.
    pub object: Object,
    /// What is to become of it.
    pub act: Act,
    /// The keys that are said.
    pub keys: Keys,
    /// The preshared key among them.
    pub preshared_key: Option<PresharedKey>,
    /// The uplink by whose own stack it is asked for.
    pub uplink: Option<Name>,
}

/// Why a wish was not fulfilled. Nothing has changed then.
#[derive(Debug)]
pub enum Refused {
    /// The object has mistakes.
    Mistakes(Report),
    /// There is none.
    Missing(String),
    /// There is one, or others have what it wants.
    Conflict(String),
    /// It could not be kept.
    NotKept(String),
    /// The control core refused it.
    Engine(ApplyError),
}

impl From<SendError> for Refused {
    fn from(error: SendError) -> Self {
        Self::Engine(ApplyError::Unanswered(error))
    }
}

impl From<Unfit> for Refused {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Mistakes(report) => Self::Mistakes(report),
            Unfit::Both | Unfit::Nothing | Unfit::Nowhere(_) | Unfit::Taken(_) => {
                Self::Conflict(unfit.to_string())
            }
        }
    }
}

/// Why a peer of the layer rests whose key is revoked.
const REVOKED: &str = "its public key is revoked";

/// Where wishes are worked off, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Desk {
    books: Arc<Mutex<Books>>,
    notice: Notice,
}

impl Desk {
    /// Has what is laid down kept in a directory. Peers whose keys are revoked rest. Nothing there keeps from starting:
    /// what can't be read or written takes no change, and [`Desk::notice`] says so.
    pub fn open(
        &self,
        directory: &Directory,
        key_directory: &Path,
        is_revoked: impl Fn(&PublicKey) -> bool,
    ) {
        let (journal, mut said, damage) = Journal::open(directory);
        let secrets = Secrets::new(directory);
        // Whoever mends a journal needs them all.
        if damage.is_none() && journal.hindrance().is_none() {
            secrets.forget_others(said.iter().map(|(object, said)| (object, said)));
        }
        for (object, said) in &mut said {
            find_key(&secrets, key_directory, object, said);
            if public_key(said).is_some_and(|key| is_revoked(&key)) {
                said.hindrance = Some(REVOKED.into());
            }
        }
        let mut books = self.lock();
        books.laid = Laid::new(said);
        books.journal = Some(journal);
        books.secrets = Some(secrets);
        books.notice = self.notice.clone();
        books.look_at_journal();
    }

    /// What an operator has to know of the layer: it takes no change, and why.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        self.notice.lock().clone()
    }

    /// That file may be looked into for the places of things. Others are what a client says of itself.
    pub fn look_into(&self, path: &Path) {
        self.lock().own_file = Some(path.to_owned());
    }

    /// What was kept when the process started.
    #[must_use]
    pub fn laid(&self) -> Laid {
        self.lock().laid.clone()
    }

    /// Waits for its turn.
    pub fn lock(&self) -> MutexGuard<'_, Books> {
        // Whoever had it before has left nothing half done.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fulfils a wish, on the calling thread, which waits for the disk and for the control core.
///
/// # Errors
///
/// When nothing has changed, and why.
pub fn fulfil(requester: &Requester, wish: &Wish) -> Result<Applied, Refused> {
    let mut books = requester.desk().lock();
    let now = api::ask(requester, |reply| Request::Desired { reply })?;
    if let Some(hindrance) = books.hindrance(requester, &wish.object) {
        return Err(Refused::Conflict(hindrance));
    }
    let Some(mut said) = said(&now, wish, books.own_file.as_deref())? else {
        return Ok(Applied::default());
    };
    if let Some(said) = &mut said {
        refuse_revoked(requester, &wish.object, said)?;
        books.give(&now, wish, said)?;
    }
    if said.as_ref() == now.api().said(&wish.object).map(|it| &**it) {
        return Ok(Applied::default());
    }
    let (step, warnings) = books.plan(&now, &wish.object, said.as_ref())?;
    let refused = lockout::refuse_object(wish.uplink.as_ref(), &step.plan);
    refused.map_err(Refused::Engine)?;
    let before = now.api().said(&wish.object).cloned();
    let before = before.as_deref().and_then(|it| it.preshared_key.as_ref());
    let after = said.as_ref().and_then(|it| it.preshared_key.as_ref());
    let after = after.filter(|after| before.is_none_or(|before| before.number != after.number));
    books.keep(&wish.object, said.as_ref(), after)?;
    let edits: Vec<_> = step.plan.iter().filter_map(Change::port).cloned().collect();
    let layer = Arc::clone(&step.api);
    let step = Box::new(step);
    let is_gone = said.is_none();
    match api::ask(requester, |reply| Request::Layer { step, reply })? {
        Ok(mut applied) => {
            books.carried_out(&edits, &layer);
            let is_other = said.is_none_or(|it| it.preshared_key.as_ref() != before);
            books.forget(&wish.object, before.filter(|_| is_other));
            let object = &wish.object;
            if is_gone && now.api().rests(object).is_some() {
                let told = format!("{object}, which rested, forgotten by the API layer");
                applied.changes.insert(0, told);
            }
            applied.warnings = warnings.render(false);
            Ok(applied)
        }
        Err(error) => {
            books.take_back();
            books.forget(&wish.object, after);
            Err(Refused::Engine(error))
        }
    }
}

/// What the layer says of an object then; the outer `None`: what it says already, or what the file says.
fn said(
    now: &Layers,
    wish: &Wish,
    own_file: Option<&Path>,
) -> Result<Option<Option<Said>>, Refused> {
    let Wish {
        object, act, keys, ..
    } = wish;
    let of_file = is_in_file(now.file(), object);
    let laid = now.api().said(object);
    let own = laid.map_or(!of_file, |said| said.own && !of_file);
    // Its preshared key is given to it later.
    let with = |keys| Said {
        own,
        keys,
        preshared_key: None,
        hindrance: None,
    };
    let given = || with(plain(keys, own));
    let added = || {
        let mut all = laid.map_or_else(Keys::new, |said| said.keys.clone());
        match own {
            true => object::lay(&mut all, keys),
            // That the default counts, and not what the file says, is said, too.
            false => object::say(&mut all, keys),
        }
        with(all)
    };
    let new = match act {
        Act::Forget => None,
        Act::Delete { if_exists } => match (of_file, laid) {
            (false, Some(_)) => None,
            (true, _) => {
                return Err(Refused::Conflict(in_file(now.file(), object, own_file)));
            }
            (false, None) if *if_exists => None,
            (false, None) => return Err(Refused::Missing(format!("there is no {object}"))),
        },
        Act::Set { if_exists } if !of_file && laid.is_none() => {
            if *if_exists {
                return Ok(None);
            }
            // Nobody adds something to switch it.
            let switched = keys.keys().all(|key| key == "enabled");
            let how = if switched { "" } else { ": add it" };
            return Err(Refused::Missing(format!("there is no {object}{how}")));
        }
        Act::Put => Some(given()),
        // A route has one next hop: it is another then.
        Act::Set { .. } | Act::Add { may_exist: true } if matches!(object, Object::Route(..)) => {
            Some(given())
        }
        Act::Set { .. } | Act::Add { may_exist: true } => beside(now.file(), object, added()),
        Act::Add { may_exist: false } if of_file || laid.is_some() => {
            if is_as_said(now, wish) {
                return Ok(None);
            }
            let error = format!(
                "there is {object} already, and it is another: set what differs, or say --may-exist"
            );
            return Err(Refused::Conflict(error));
        }
        Act::Add { may_exist: false } => Some(given()),
    };
    Ok((new.is_some() || laid.is_some()).then_some(new))
}

/// Finds the key of a peer that was kept, or whose file is named.
fn find_key(secrets: &Secrets, directory: &Path, object: &Object, said: &mut Said) {
    let given = said.preshared_key.take();
    if let Some(file) = object::key_file(&said.keys) {
        match read_named(directory, file) {
            Ok(given) => said.preshared_key = Some(given),
            Err(why) => said.hindrance = Some(why.into()),
        }
        return;
    }
    if !has_secret(said) {
        return;
    }
    said.preshared_key = given.and_then(|Given { number, .. }| {
        let key = secrets.read(object, number?)?;
        Some(Given { key, number })
    });
    if said.preshared_key.is_none() {
        said.hindrance = Some("its preshared key is lost: give it again".into());
    }
}

/// Whether a client gave it a preshared key.
fn has_secret(said: &Said) -> bool {
    said.keys
        .get(object::PRESHARED_KEY)
        .is_some_and(Json::is_string)
}

fn read_named(directory: &Path, file: &str) -> Result<Given, String> {
    let text = Disk.read_in(directory, Path::new(file));
    let key =
        text.and_then(|text| PresharedKey::from_base64(&text).map_err(|_| KeyFileError::NotAKey));
    let given = key.map(|key| Given { key, number: None });
    given.map_err(|error| format!("the preshared key in `{file}` can't be used: {error}"))
}

/// The layer with the keys that its peers' files have now. What can't be read by now stays as it was.
#[must_use]
pub fn fresh(now: &Layers, directory: &Path) -> Layers {
    let mut api = Laid::clone(now.api());
    let mut is_other = false;
    for told in now.api().told() {
        let said = &told.said;
        let Some(file) = object::key_file(&said.keys) else {
            continue;
        };
        if said.hindrance.as_deref() == Some(REVOKED) {
            continue;
        }
        match read_named(directory, file) {
            Ok(given) if said.preshared_key.as_ref() != Some(&given) => {
                is_other = true;
                api.say(
                    &told.object,
                    Said {
                        preshared_key: Some(given),
                        hindrance: None,
                        ..Said::clone(said)
                    },
                );
            }
            Ok(_) => {}
            Err(why) => tracing::warn!("{}: {why}: what it had stays", told.object),
        }
    }
    let mut then = now.clone();
    if is_other {
        then.lay(Arc::new(api), &[]);
    }
    then
}

/// The files of the key directory that the layer names.
#[must_use]
pub fn named_keys(requester: &Requester) -> BTreeSet<PathBuf> {
    let Ok(now) = api::ask(requester, |reply| Request::Desired { reply }) else {
        return BTreeSet::new();
    };
    let told = now.api().told();
    let files = told.iter().filter_map(|it| object::key_file(&it.said.keys));
    let names = files.filter_map(|file| match KeyFile::of(Path::new(file)) {
        KeyFile::Named(name) => Some(now.file().api.key_directory.join(name)),
        KeyFile::Credential(_) | KeyFile::Path(_) => None,
    });
    names.collect()
}

/// The public key that is said of a peer.
fn public_key(said: &Said) -> Option<PublicKey> {
    let text = said.keys.get("public_key")?.as_str()?;
    PublicKey::from_base64(text).ok()
}

fn refuse_revoked(requester: &Requester, object: &Object, said: &Said) -> Result<(), Refused> {
    let key = public_key(said);
    let history = requester.history();
    match key.zip(history.as_ref()) {
        Some((key, history)) if history.is_revoked(&key) => {
            let error = format!("{object} can't be so: its public key is revoked");
            Err(Refused::Conflict(error))
        }
        _ => Ok(()),
    }
}

/// What is said beside the file: not that something is enabled which the file enables.
fn beside(file: &Config, object: &Object, mut said: Said) -> Option<Said> {
    let enabled = said.keys.get("enabled");
    let is_true = enabled.is_some_and(|it| *it == true || *it == "true");
    if is_true && !said.own && is_enabled(file, object) {
        said.keys.remove("enabled");
    }
    (said.own || !said.keys.is_empty()).then_some(said)
}

fn is_enabled(file: &Config, object: &Object) -> bool {
    match object {
        Object::Port(name) => file.port(name).is_some_and(|port| port.enabled),
        Object::Peer(tunnel, name) => file.peer(tunnel, name).is_some_and(|peer| peer.enabled),
        Object::Route(..) => false,
        Object::Uplink(name) => file.uplink(name).is_some_and(|uplink| uplink.enabled),
    }
}

/// Of an object of the layer's own what has no value is not said.
fn plain(keys: &Keys, own: bool) -> Keys {
    let mut plain = Keys::new();
    match own {
        true => object::lay(&mut plain, keys),
        false => plain.clone_from(keys),
    }
    plain
}

fn is_in_file(file: &Config, object: &Object) -> bool {
    match object {
        Object::Port(name) => file.port(name).is_some(),
        Object::Uplink(name) => file.uplink(name).is_some(),
        Object::Peer(tunnel, name) => file.peer(tunnel, name).is_some(),
        Object::Route(network, to) => {
            let network = file.network(network);
            network.is_some_and(|it| it.routes.iter().any(|route| route.to == *to))
        }
    }
}

/// Whether an object that there is is what the keys make of one.
fn is_as_said(now: &Layers, wish: &Wish) -> bool {
    let Wish { object, keys, .. } = wish;
    match object {
        Object::Port(name) => object::port(now.file(), name, &plain(keys, true))
            .is_ok_and(|(port, _)| now.port(name) == Some(&port)),
        Object::Peer(of, name) => now.file().tunnel(of).is_some_and(|tunnel| {
            let mut keys = plain(keys, true);
            let (says_key, file) = (
                keys.contains_key(object::PRESHARED_KEY),
                object::key_file(&keys).map(PathBuf::from),
            );
            object::take_secret(&mut keys);
            let there = now.laid_peer(of, name);
            object::peer(now.file(), tunnel, name, &keys).is_ok_and(|(mut peer, _)| {
                // That there is a key, or a file, says who does not say which key.
                let kept = there.and_then(|it| it.preshared_key.clone());
                let kept = kept.filter(|_| says_key || file.is_some());
                let new = Arc::make_mut(&mut peer);
                new.preshared_key = wish.preshared_key.clone().or(kept);
                new.preshared_key_file = file;
                there == Some(&peer)
            })
        }),
        // Nobody adds one.
        Object::Uplink(_) => false,
        Object::Route(of, to) => now.file().network(of).is_some_and(|network| {
            object::route(now.file(), network, to, keys)
                .is_ok_and(|route| now.route(of, to) == Some(&route))
        }),
    }
}

/// That an object is not the layer's to remove.
fn in_file(file: &Config, object: &Object, own_file: Option<&Path>) -> String {
    let keys = match object {
        Object::Port(name) => vec!["ports", name.as_str()],
        Object::Uplink(name) => vec!["uplinks", name.as_str()],
        Object::Peer(tunnel, name) => vec!["tunnels", tunnel.as_str(), "peers", name.as_str()],
        Object::Route(network, _) => vec!["networks", network.as_str(), "routes"],
    };
    // It may be another by now.
    let own = own_file.filter(|own| *own == file.source);
    let at = match own.and_then(|path| object::place(path, &keys)) {
        Some((path, line)) => format!("{}, line {line}", path.display()),
        None => file.source.display().to_string(),
    };
    format!("{object} is in {at}: remove it there, and apply the file")
}

#[cfg(test)]
mod tests;
