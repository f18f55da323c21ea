//! `culvert responder`: the far end for tests of a way, on a device of its own.
//!
//! In: a DPDK device, an address, whom to answer. Out: echo, discard and chargen over TCP and UDP, and ping, until it is
//! ended; `culvert show` sees it by its run directory. Never: a tunnel, a guest, a file that stays.

use std::path::Path;

use clap::Args;

use super::Failure;
use super::args::Place;
use crate::config::{self, Config, Disk, IpNet};
use crate::process::{self, Notify, RunDir, signals};
use crate::{api, engine};

/// What messages call the configuration that the arguments make.
const NAME: &str = "responder's arguments";

/// `culvert responder`.
#[derive(Debug, Args)]
pub(super) struct Responder {
    /// The DPDK device, as an uplink's `device` names it: `0000:3b:00.0`, `net_af_packet0,iface=eth1`
    #[arg(value_name = "DEVICE")]
    device: String,
    /// Its address, with the length of its on-link prefix; more than one may be given
    #[arg(value_name = "ADDRESS/LEN", required = true)]
    addresses: Vec<IpNet>,
    /// The router to whom is not on the link
    #[arg(long, value_name = "ADDRESS")]
    via: Option<std::net::IpAddr>,
    /// Whom it answers; may be given several times
    #[arg(long, value_name = "PREFIX", required = true)]
    allow: Vec<IpNet>,
    /// The longest IP packet on the wire, in bytes
    #[arg(long, default_value_t = 1500)]
    mtu: u16,
    #[command(flatten)]
    place: Place,
}

/// As `culvert run`, without a file and without what outlives the process.
pub(super) fn run(args: &Responder) -> Result<(), Failure> {
    process::harden()?;
    signals::block()?;
    process::log::init();
    let config = configured(args)?;
    let run_dir = RunDir::open(&std::path::absolute(&args.place.run_dir)?)?;
    let (requester, requests) = api::channel()?;
    let notify = Notify::default();
    signals::serve(None, requester.clone(), notify.clone())?;
    let server = api::server::serve_to_read(run_dir.directory(), requester.clone())?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        device = args.device,
        "starting"
    );
    let ended = engine::run(
        config,
        engine::Surroundings {
            run_dir: Some(&run_dir),
            requester,
            requests,
            notify: &notify,
            ready: Box::new(|| {}),
            lone: None,
        },
    );
    drop(server);
    ended.map_err(|error| Failure::Line(error.to_string()))?;
    tracing::info!("ended");
    Ok(())
}

/// What a file would say: its mistakes are told in the same words.
fn configured(args: &Responder) -> Result<Config, Failure> {
    let quoted = |text: String| serde_json::Value::from(text).to_string();
    let list = |nets: &[IpNet]| {
        let nets: Vec<_> = nets.iter().map(|net| quoted(net.to_string())).collect();
        nets.join(", ")
    };
    let routes = args.via.map_or_else(String::new, |via| {
        format!(
            "    routes: [{{ to: default, via: {} }}]\n",
            quoted(via.to_string())
        )
    });
    let text = format!(
        "version: 1\ncores: {{ workers: 1 }}\nmemory: {{ megabytes: 128 }}\nuplinks:\n  wan:\n    driver: dpdk\n    \
         device: {device}\n    mtu: {mtu}\n    addresses: [{addresses}]\n{routes}    \
         responder: {{ allow: [{allow}] }}\nnetworks: {{}}\n",
        device = quoted(args.device.clone()),
        mtu = args.mtu,
        addresses = list(&args.addresses),
        allow = list(&args.allow),
    );
    let read = config::parse(&text, Path::new(NAME), &Disk);
    let (config, _) = read
        .map_err(|report| Failure::Report(report.render(super::wants_color(&std::io::stderr()))))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(words: &str) -> Responder {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            responder: Responder,
        }
        let words = std::iter::once("culvert").chain(words.split(' '));
        Line::parse_from(words).responder
    }

    #[test]
    fn arguments_are_an_uplink_that_answers() {
        let words = "net_af_packet0,iface=eth1 192.0.2.7/24 2001:db8::7/64 --via 192.0.2.1 --allow 192.0.2.0/24";
        let config = configured(&arguments(words)).unwrap();
        let uplink = &config.uplinks[0];
        assert_eq!((uplink.addresses.len(), uplink.routes.len()), (2, 1));
        let allow: IpNet = "192.0.2.0/24".parse().unwrap();
        assert_eq!(uplink.serves.responder, [allow]);
        let wrong = "eth1 192.0.2.7/24 --allow 192.0.2.0/24";
        let Err(Failure::Report(told)) = configured(&arguments(wrong)) else {
            panic!("no device");
        };
        assert!(told.contains("`device`"), "{told}");
    }
}
