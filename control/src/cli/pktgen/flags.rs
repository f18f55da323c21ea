//! Keys of a profile as flags: one for each key of the generator's table, with its meaning and its default.
//!
//! In: the table. Out: flags, and the tree of what was given. Never: a key that is written down a second time; what a key
//! means.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};
use culvert_pktgen::profile::KEYS;
use culvert_pktgen::tree::Node;

/// As TRex has them.
const LETTERS: [(&str, char); 2] = [("rate", 'm'), ("duration", 'd')];
/// It has no flag: it is what a file is for.
const OF_FILES: &str = "streams";

/// The keys that were given.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(Vec<(&'static str, String)>);

impl Flags {
    /// What they say.
    pub(super) fn tree(&self) -> Node {
        Node::of_flags(self.0.iter().map(|(key, value)| (*key, value.as_str())))
    }

    /// The flag that a mistake's path means; `None`: it is of a file.
    pub(super) fn name(&self, path: &str) -> Option<String> {
        let key = path.strip_prefix("streams[0].").unwrap_or(path);
        let given = self.0.iter().any(|(it, _)| *it == key);
        given.then(|| format!("--{}", key.replace('_', "-")))
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let keys = KEYS.iter().filter(|key| key.name != OF_FILES);
        keys.fold(command, |command, key| {
            let letter = LETTERS.iter().find(|(name, _)| *name == key.name);
            let arg = Arg::new(key.name)
                .long(key.name.replace('_', "-"))
                .value_name("VALUE")
                .help(format!("{} [without it: {}]", key.meaning, key.default))
                .help_heading("What is sent");
            command.arg(match letter {
                Some((_, letter)) => arg.short(*letter),
                None => arg,
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = KEYS.iter().filter(|key| key.name != OF_FILES);
        let given = given.filter_map(|key| {
            let value = matches.get_one::<String>(key.name)?;
            Some((key.name, value.clone()))
        });
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
