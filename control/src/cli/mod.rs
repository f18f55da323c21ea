//! The commands of the binary `culvert`.
//!
//! In: arguments. Out: text for people on stdout, mistakes on stderr, an exit status: 0 it worked,
//! 1 it did not, 2 the command line was wrong; of `diff` 1 something differs, 2 it did not work. Never: colour where nobody sees it (`NO_COLOR`,
//! pipes).

mod apply;
mod args;
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
mod pktgen;
mod port;
mod reference;
mod responder;
mod rollback;
mod route;
mod route_get;
mod run;
mod schema;
mod show;
mod tun;
mod units;
mod uplink;

use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::args::Reading;
use self::output::{Output, OutputArgs, folded, width};
use crate::state::Part;

/// Why a command did not work, in words for the operator.
#[derive(Debug)]
pub(crate) enum Failure {
    /// One line; printed as `culvert: …`.
    Line(String),
    /// Text that is complete in itself.
    Report(String),
    /// All was told already: what differs, or a mistake in a form for programs.
    Told,
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
  culvert check                              # every mistake of /etc/culvert/culvert.yaml
  culvert run                                # the same file; another one by -f FILE
  culvert show                               # in another terminal

Every key of the configuration: configs/README.md, or `culvert schema` for editors.";

/// A virtual switch that carries guests' packets through WireGuard.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, after_help = AFTER_HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a configuration until SIGTERM or SIGINT; SIGHUP applies the file again
    Run(run::Run),
    /// Be a WireGuard interface, as `wireguard-go INTERFACE` is: for `wg`, `wg-quick` and whatever drives it
    #[command(after_help = tun::AFTER_HELP)]
    Tun(tun::TunCommand),
    /// Answer tests of a way on a device of its own: echo, discard and chargen over TCP and UDP, and ping
    Responder(responder::Responder),
    /// Generate packets, and measure what becomes of them
    #[command(subcommand, after_help = pktgen::AFTER_HELP)]
    Pktgen(pktgen::Pktgen),
    /// Find every mistake in a configuration; needs neither devices nor a running culvert
    Check(check::Check),
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
    /// Apply a configuration for two minutes, or --confirm TIME: Enter keeps it, else it is taken back
    Try(apply::Try),
    /// Keep a change that was applied with --confirm or `culvert try`; without that its time takes it back
    Confirm(confirm::ConfirmCommand),
    /// Take back at once the change that waits for its confirmation; if none does, bring an earlier configuration back
    Rollback(rollback::Rollback),
    /// List the configurations that ran: when, who applied them, and what became of them
    History(history::History),
    /// Show what an apply would change, object by object, and what it costs whom
    #[command(after_help = diff::AFTER_HELP)]
    Diff(diff::DiffCommand),
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
    LogLevel(log_level::LogLevel),
    /// Print what happens as it happens: guests, peers, links, configurations, losses; the last ten first
    Events(events::Events),
    /// List ports; add, set and remove single ones beside the configuration: what comes and goes with guests
    #[command(subcommand)]
    Port(layer::Object),
    /// Switch an uplink on or off beside the configuration
    #[command(subcommand)]
    Uplink(uplink::Command),
    /// List peers of tunnels; add, set and remove single ones beside the configuration
    #[command(subcommand)]
    Peer(layer::Object),
    /// What `port` and `peer` added, set and removed: it lies over the configuration's file
    #[command(subcommand)]
    Layer(layer::Command),
    /// Print the version
    Version {
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print what runs, or ran, as a file that says the same, without keys that have their defaults
    Show(diff::ConfigShow),
}

#[derive(Debug, Subcommand)]
enum RouteCommand {
    #[command(flatten)]
    Laid(route::Command),
    /// Say where a packet for an address would go, and why
    Get(route_get::Get),
}

#[derive(Debug, Args)]
struct Show {
    /// One part; without it, all but routes and neighbors
    part: Option<Part>,
    /// Only what is called so, `*` standing for any text: ports also by their network, peers by tunnel, TUNNEL/PEER or key
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
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
    reading: Reading,
}

impl Show {
    fn wanted(self) -> (Reading, show::Wanted) {
        let wanted = show::Wanted {
            part: self.part,
            names: self.names,
            output: self.output.output.or(self.json.then_some(Output::Json)),
            rates: self.rates,
            watch: self.watch,
        };
        (self.reading, wanted)
    }
}

/// Parts of a second to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.strip_suffix('s').unwrap_or(text).parse::<f64>();
    let seconds = seconds.ok().filter(|it| (0.1..=3600.0).contains(it));
    seconds.ok_or_else(|| "seconds, from 0.1 to 3600: `2`, `0.5`".into())
}

/// The binary's whole life.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(tun::arguments(std::env::args_os()));
    // Of what compares, 1 means that something differs.
    let compares = matches!(cli.command, Command::Diff(_));
    let failed = ExitCode::from(if compares { 2 } else { 1 });
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let text = match failure {
                Failure::Line(line) => folded(&format!("culvert: {line}\n"), width(&io::stderr())),
                Failure::Report(text) => text,
                Failure::Told => return ExitCode::FAILURE,
            };
            // Nobody is left to tell when stderr is gone.
            let _ = io::stderr().write_all(text.as_bytes());
            failed
        }
    }
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(args) => run::run(args),
        Command::Tun(args) => tun::run(&args),
        Command::Responder(args) => responder::run(&args),
        Command::Pktgen(command) => pktgen::run(command),
        Command::Check(args) => check::run(args),
        Command::Schema { markdown: true } => print(&reference::text()),
        Command::Schema { markdown: false } => print(&schema::text()),
        Command::Genkey => keys::genkey(),
        Command::Pubkey => keys::pubkey(),
        Command::Genpsk => keys::genpsk(),
        Command::Show(show) => {
            let (reading, wanted) = show.wanted();
            show::run(&reading, &wanted)
        }
        Command::Apply(args) => apply::run(args),
        Command::Try(args) => apply::run_try(args),
        Command::Confirm(args) => confirm::run(args),
        Command::Rollback(args) => rollback::run(args),
        Command::History(args) => history::run(args),
        Command::Config {
            command: ConfigCommand::Show(args),
        } => diff::show(&args),
        Command::Diff(args) => diff::run(args),
        Command::Route {
            command: RouteCommand::Get(args),
        } => route_get::run(&args),
        Command::Route {
            command: RouteCommand::Laid(command),
        } => route::run(command),
        Command::LogLevel(args) => log_level::run(args),
        Command::Events(args) => events::run(args),
        Command::Port(command) => port::run(command),
        Command::Uplink(command) => uplink::run(command),
        Command::Peer(command) => peer::run(command),
        Command::Layer(command) => layer::run(command),
        Command::Version { output } => version(output),
    }
}

fn version(output: OutputArgs) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let value = serde_json::json!({ "version": version });
    output.print(&value, || format!("culvert {version}\n"))
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

#[cfg(test)]
mod tests;
