//! What options mean, over all commands.

use clap::{Arg, CommandFactory as _};

use super::*;

/// Commands that print nothing, or what other programs have fixed: keys as `wg` prints them, a schema.
const WITHOUT_FORM: [&str; 7] = [
    "run",
    "responder",
    "tun",
    "schema",
    "genkey",
    "pubkey",
    "genpsk",
];

/// Commands that take a configuration's file.
const WITH_FILE: [&str; 5] = ["run", "check", "apply", "try", "diff"];

/// All commands that do something, by what has to be typed.
fn commands() -> Vec<(String, clap::Command)> {
    fn add(words: &str, command: &clap::Command, all: &mut Vec<(String, clap::Command)>) {
        let below = command.get_subcommands();
        let below: Vec<_> = below.filter(|it| it.get_name() != "help").collect();
        for it in &below {
            let words = format!("{words} {}", it.get_name());
            add(words.trim_start(), it, all);
        }
        if below.is_empty() || words == "history" {
            all.push((words.to_owned(), command.clone()));
        }
    }
    let mut all = Vec::new();
    let mut cli = Cli::command();
    cli.build();
    add("", &cli, &mut all);
    assert!(all.len() > 25, "{}", all.len());
    all
}

fn option(command: &clap::Command, letter: char) -> Option<&Arg> {
    command
        .get_arguments()
        .find(|it| it.get_short() == Some(letter))
}

fn help(arg: &Arg) -> String {
    arg.get_help().map(ToString::to_string).unwrap_or_default()
}

#[test]
fn every_command_that_prints_takes_the_same_forms() {
    let commands = commands();
    let told = |it: &str| WITHOUT_FORM.contains(&it);
    for (words, command) in commands.iter().filter(|(words, _)| !told(words)) {
        let form = option(command, 'o').unwrap_or_else(|| panic!("{words} has no -o"));
        assert_eq!(form.get_long(), Some("output"), "{words}");
        let forms: Vec<_> = form.get_possible_values();
        let forms: Vec<_> = forms.iter().map(|it| it.get_name()).collect();
        assert_eq!(forms, ["json", "yaml", "wide"], "{words}");
        assert_eq!(
            help(form),
            help(option(&commands[0].1, 'o').unwrap_or(form)),
            "{words}"
        );
    }
    for words in WITHOUT_FORM {
        let (_, command) = commands.iter().find(|(it, _)| it == words).unwrap();
        assert!(option(command, 'o').is_none(), "{words}");
    }
}

#[test]
fn f_names_a_file_everywhere() {
    for (words, command) in commands() {
        let file = option(&command, 'f');
        if let Some(file) = file {
            assert_eq!(file.get_long(), Some("file"), "{words}");
            let value: Vec<_> = file.get_value_names().into_iter().flatten().collect();
            assert_eq!(value, ["FILE"], "{words}");
        }
        let takes = WITH_FILE.contains(&&*words);
        assert!(file.is_some() || !takes, "{words} takes no -f");
        let mut named = command
            .get_arguments()
            .filter(|it| it.get_short() != Some('f'));
        let has_place = named.any(|it| it.get_value_names().is_some_and(|it| it == ["FILE"]));
        assert!(
            file.is_some() || !has_place,
            "{words} takes FILE, and no -f"
        );
        if takes {
            let args = command.get_arguments();
            let says = |it: &Arg| {
                let default = it
                    .get_default_values()
                    .iter()
                    .any(|it| it == args::DEFAULT_FILE);
                default || help(it).contains(args::DEFAULT_FILE)
            };
            assert!(
                args.into_iter().any(says),
                "{words} does not say its default"
            );
        }
    }
}

/// A letter that is one option's at one command is not another one's at the next, as far as it is told apart by its
/// long name.
#[test]
fn letters_have_one_meaning() {
    let mut meanings = std::collections::BTreeMap::new();
    for (words, command) in commands() {
        let letters = command.get_arguments();
        let letters = letters.filter_map(|it| Some((it.get_short()?, it.get_long()?.to_owned())));
        // Who generates packets has TRex's letter for a rate in the fingers.
        let is_known = |long: &String| words.starts_with("pktgen ") && long == "rate";
        for (letter, long) in letters.filter(|(_, long)| !is_known(long)) {
            let first = meanings.entry(letter).or_insert_with(|| long.clone());
            assert_eq!(*first, long, "-{letter} of {words}");
        }
    }
}
