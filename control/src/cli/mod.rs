//! The commands of the binary `culvert`.
//!
//! In: arguments. Out: text for people on stdout, mistakes on stderr, an exit status: 0 it worked,
//! 1 it did not, 2 the command line was wrong; of `diff` 1 something differs, 2 it did not work. Never: colour where nobody sees it (`NO_COLOR`,
//! pipes).

mod apply;
mod check;
mod confirm;
mod diff;
mod events;
mod history;
mod keys;
mod layer;
mod log_level;
mod output;
mod peer;
mod port;
mod reference;
mod rollback;
mod route_get;
mod run;
mod schema;
mod show;
mod tun;
mod units;

use std::io::{self, IsTerminal, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::output::Output;
use crate::api::client::Client;
use crate::process::DEFAULT_RUN_DIR;
use crate::state::Part;

/// Why a command did not work, in words for the operator.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One line; printed as `culvert: …`.
    Line(String),
    /// Text that is complete in itself.
    Report(String),
    /// All was told: two things that were compared differ.
    Differs,
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Line(error.to_string())
    }
}

const AFTER_HELP: &str = "\
Start here:
  (umask 077; culvert genkey > /etc/culvert/wg0.key)
  culvert pubkey < /etc/culvert/wg0.key      # what the far end's configuration needs
  culvert check /etc/culvert/culvert.yaml    # every mistake with its line
  culvert run -c /etc/culvert/culvert.yaml
  culvert show                               # in another terminal

Every key of the configuration: configs/README.md, or `culvert schema` for editors.";

/// A virtual switch that carries guests' packets through WireGuard.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, about, after_help = AFTER_HELP, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a configuration until SIGTERM or SIGINT; SIGHUP applies the file again
    Run {
        /// The configuration
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Apply it whenever it, or what it includes, changes on the disk; key files are not followed
        #[arg(short, long)]
        watch: bool,
        /// The directory of what outlives a restart of the machine [default: /var/lib/culvert with the default run
        /// directory, else DIR/state in that]
        #[arg(long, value_name = "DIR", env = "CULVERT_STATE_DIR")]
        state_dir: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
    /// Be a WireGuard interface, as `wireguard-go INTERFACE` is: for `wg`, `wg-quick` and whatever drives it
    #[command(after_help = tun::AFTER_HELP)]
    Tun {
        /// Stay in the foreground
        #[arg(short, long)]
        foreground: bool,
        /// The interface, which is made; `%d` in it becomes a number
        #[arg(value_name = "INTERFACE")]
        interface: String,
    },
    /// Find every mistake in a configuration; needs neither devices nor a running culvert
    Check {
        /// The configuration
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Print the configuration's JSON schema, for editors
    Schema {
        /// Print the reference of all keys for people, in Markdown
        #[arg(long)]
        markdown: bool,
    },
    /// Print a new private key, as `wg genkey` does
    Genkey,
    /// Read a private key from standard input and print its public key, as `wg pubkey` does
    Pubkey,
    /// Print a new preshared key, as `wg genpsk` does
    Genpsk,
    /// Show what a running culvert does
    Show(Show),
    /// Apply a configuration to a running culvert; what did not change is not disturbed
    Apply(apply::Apply),
    /// Apply it for two minutes: Enter alone keeps it, any other line takes it back, and so does time
    Try(apply::Try),
    /// Keep what was applied with --confirm
    Confirm {
        /// The revision that is meant
        #[arg(value_name = "REV")]
        revision: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Bring an earlier configuration back, or take back what waits for its confirmation
    Rollback(rollback::Rollback),
    /// Show what ran, who applied it and what became of it
    History(history::History),
    /// Show what an apply would change, object by object, and what it costs whom
    #[command(
        after_help = "Exit status: 0 nothing differs, 1 something does, 2 it could not be found out."
    )]
    Diff {
        /// What was: a file, a revision's number, or `running`, which is what runs at present, with what `wg` set
        /// [default: running]
        #[arg(value_name = "FROM")]
        from: Option<PathBuf>,
        /// What comes: likewise [default: the file of the running culvert, at last /etc/culvert/culvert.yaml]
        #[arg(value_name = "TO")]
        to: Option<PathBuf>,
        /// Print the lines that differ, as `diff -u` does, of both as `culvert config show` prints them
        #[arg(long, conflicts_with = "output")]
        text: bool,
        /// Print it for programs, or with all there is
        #[arg(short, long, value_name = "FORM")]
        output: Option<Output>,
        #[command(flatten)]
        place: Place,
    },
    /// The configuration of a running culvert
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Routes of the networks
    Route {
        #[command(subcommand)]
        command: RouteCommand,
    },
    /// Print what a running culvert logs, or have it log something else until it ends
    LogLevel {
        /// error, warn, info, debug, trace or off; or for some parts, as `info,culvert::engine=debug`
        #[arg(value_name = "LEVEL")]
        filter: Option<String>,
        #[command(flatten)]
        place: Place,
    },
    /// Print what happens as it happens: guests, peers, links, configurations, losses; the last ten first
    Events {
        /// Begin behind the event of this number; 0: with all that are kept
        #[arg(long, value_name = "NUMBER")]
        since: Option<u64>,
        /// Print a line of JSON each, or YAML
        #[arg(short, long, value_name = "FORM")]
        output: Option<Output>,
        #[command(flatten)]
        place: Place,
    },
    /// Add, set and remove single ports beside the configuration: what comes and goes with guests
    #[command(subcommand)]
    Port(layer::Object),
    /// The same with single peers of tunnels
    #[command(subcommand)]
    Peer(layer::Object),
    /// What was added, set and removed so, which lies over the file of the configuration
    #[command(subcommand)]
    Layer(layer::Command),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print it as a file that says the same, without what holds anyway
    Show {
        /// One of `culvert history`, in the place of what runs
        #[arg(value_name = "REV")]
        revision: Option<u64>,
        /// With what `wg` set over it
        #[arg(long, conflicts_with = "revision")]
        drift: bool,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Show {
    /// One part; without it, all but routes and neighbors
    part: Option<Part>,
    /// Only what is called so, `*` standing for any text: ports also by their network, peers by tunnel, TUNNEL/PEER or key
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print it for programs, or with all columns
    #[arg(short, long, value_name = "FORM")]
    output: Option<Output>,
    /// The same as `-o json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// What passes in a second, measured for one, in the place of what passed since the start
    #[arg(short, long)]
    rates: bool,
    /// Show it again every so many seconds, with rates
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true, value_parser = seconds)]
    watch: Option<f64>,
    #[command(flatten)]
    place: Place,
}

impl Show {
    fn wanted(self) -> (Place, show::Wanted) {
        let wanted = show::Wanted {
            part: self.part,
            names: self.names,
            output: self.output.or(self.json.then_some(Output::Json)),
            rates: self.rates,
            watch: self.watch,
        };
        (self.place, wanted)
    }
}

/// Parts of a second to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    let seconds = seconds.ok().filter(|it| (0.1..=3600.0).contains(it));
    seconds.ok_or_else(|| "seconds, from 0.1 to 3600: `2`, `0.5`".into())
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    /// Say where a packet for an address would go, and why
    Get {
        /// The address that the packet is for
        #[arg(value_name = "ADDRESS")]
        to: IpAddr,
        /// `from PORT`: the port that it comes from; without it each network is told of
        #[arg(value_name = "from PORT", num_args = 0..=2)]
        from: Vec<String>,
        /// Print it for programs, or with all there is
        #[arg(short, long, value_name = "FORM")]
        output: Option<Output>,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// The directory of sockets, locks and persistent state: one per running culvert
    #[arg(long, value_name = "DIR", default_value = DEFAULT_RUN_DIR, env = "CULVERT_RUN_DIR")]
    run_dir: PathBuf,
}

/// The binary's whole life.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(tun::arguments(std::env::args_os()));
    // Of what compares, 1 means that something differs.
    let compares = matches!(cli.command, Command::Diff { .. });
    let failed = ExitCode::from(if compares { 2 } else { 1 });
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = match failure {
                Failure::Line(line) => format!("culvert: {line}\n"),
                Failure::Report(text) => text,
                Failure::Differs => return ExitCode::FAILURE,
            };
            // Nobody is left to tell when stderr is gone.
            let _ = io::stderr().write_all(text.as_bytes());
            failed
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run {
            config,
            watch,
            state_dir,
            place,
        } => run::run(&config, watch, &place.run_dir, state_dir),
        Command::Tun {
            foreground,
            interface,
        } => tun::run(&interface, foreground),
        Command::Check { config } => check::run(&config),
        Command::Schema { markdown: true } => print(&reference::text()),
        Command::Schema { markdown: false } => print(&schema::text()),
        Command::Genkey => keys::genkey(),
        Command::Pubkey => keys::pubkey(),
        Command::Genpsk => keys::genpsk(),
        Command::Show(show) => {
            let (place, wanted) = show.wanted();
            show::run(&place.run_dir, &wanted)
        }
        Command::Apply(args) => apply::run(args),
        Command::Try(args) => apply::run_try(args),
        Command::Confirm { revision, place } => {
            confirm::run(&Client::new(&place.run_dir), revision)
        }
        Command::Rollback(args) => rollback::run(args),
        Command::History(args) => history::run(args),
        Command::Config {
            command:
                ConfigCommand::Show {
                    revision,
                    drift,
                    place,
                },
        } => diff::show(&place.run_dir, revision, drift),
        Command::Diff {
            from,
            to,
            text,
            output,
            place,
        } => {
            let form = match (text, output) {
                (true, _) => diff::Form::Lines,
                (false, Some(output)) => diff::Form::Output(output),
                (false, None) => diff::Form::Objects,
            };
            diff::run(from.as_deref(), to.as_deref(), &place.run_dir, form)
        }
        Command::Route {
            command:
                RouteCommand::Get {
                    to,
                    from,
                    output,
                    place,
                },
        } => route_get::run(&Client::new(&place.run_dir), to, &from, output),
        Command::LogLevel { filter, place } => log_level::run(&Client::new(&place.run_dir), filter),
        Command::Events {
            since,
            output,
            place,
        } => events::run(&Client::new(&place.run_dir), since, output),
        Command::Port(command) => port::run(command),
        Command::Peer(command) => peer::run(command),
        Command::Layer(command) => layer::run(command),
        Command::Version => print(&format!("culvert {}\n", env!("CARGO_PKG_VERSION"))),
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    write(text).map(drop)
}

/// As [`print`]; `false`: nobody reads any more.
fn write(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::Line(format!("can't write: {error}"))),
        Ok(()) => Ok(true),
    }
}

/// Whether a stream's reader wants colours (<https://no-color.org>).
fn wants_color(stream: &impl IsTerminal) -> bool {
    let unset = |name| std::env::var_os(name).is_none_or(|value| value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && unset("NO_COLOR") && !dumb
}
