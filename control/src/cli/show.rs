//! `culvert show`: the state as tables, or as JSON.

use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::table::{Align, Table};
use super::{Failure, print, units, wants_color};
use crate::api::client::Client;
use crate::state::{Log, Part, State, Traffic};

use Align::{Left, Right};

pub(super) fn run(run_dir: &Path, part: Option<Part>, as_json: bool) -> Result<(), Failure> {
    let state = Client::new(run_dir).state(part)?;
    if as_json {
        let text = serde_json::to_string_pretty(&json_of(&state, part))
            .map_err(|error| Failure::Line(error.to_string()))?;
        return print(&(text + "\n"));
    }
    print(&text(&state, part, wants_color(&io::stdout())))
}

fn json_of(state: &State, part: Option<Part>) -> Value {
    match part {
        None => json!(state),
        Some(Part::Ports) => json!({ "ports": state.ports, "uplinks": state.uplinks }),
        Some(Part::Peers) => json!({ "tunnels": state.tunnels, "peers": state.peers }),
        Some(Part::Routes) => json!({ "routes": state.routes }),
        Some(Part::Neighbors) => json!({ "neighbors": state.neighbors }),
        Some(Part::Cores) => json!({ "cores": state.cores }),
        Some(Part::Drops) => json!({ "drops": state.drops }),
    }
}

fn text(state: &State, part: Option<Part>, bold: bool) -> String {
    let tables: Vec<Table> = match part {
        None => {
            let mut tables = vec![ports(state), uplinks(state)];
            tables.extend([tunnels(state), peers(state), cores(state)]);
            if !state.drops.is_empty() {
                tables.push(drops(state));
            }
            tables
        }
        Some(Part::Ports) => vec![ports(state), uplinks(state)],
        Some(Part::Peers) => vec![tunnels(state), peers(state)],
        Some(Part::Routes) => vec![routes(state)],
        Some(Part::Neighbors) => vec![neighbors(state)],
        Some(Part::Cores) => vec![cores(state)],
        Some(Part::Drops) => vec![drops(state)],
    };
    let rendered: Vec<String> = tables.iter().map(|table| table.render(bold)).collect();
    let tables = rendered.join("\n");
    if part.is_some() {
        return tables;
    }
    format!("{}\n\n{tables}", headline(state))
}

fn headline(state: &State) -> String {
    let uptime = match state.uptime_s {
        0 => "just started".into(),
        seconds => format!("up {}", units::duration(seconds)),
    };
    let log = match state.log {
        Log {
            lost: 0,
            left_out: 0,
        } => String::new(),
        Log { lost, left_out } => {
            format!("\nlog: {lost} lines could not be written, {left_out} were left out")
        }
    };
    format!(
        "{}: culvert {}, pid {}, {uptime}, {} (generation {}){log}",
        state.node, state.version, state.pid, state.config, state.generation
    )
}

fn ports(state: &State) -> Table {
    let mut table = Table::new(&[
        ("PORT", Left),
        ("NETWORK", Left),
        ("LINK", Left),
        ("QUEUES", Right),
        ("RX PACKETS", Right),
        ("RX", Right),
        ("TX PACKETS", Right),
        ("TX", Right),
        ("DROPS", Right),
        ("MTU", Right),
        ("SOCKET", Left),
    ]);
    for port in &state.ports {
        let link = match (port.connected, port.link_up) {
            (_, true) => "up",
            (true, false) => "connected",
            (false, false) => "down",
        };
        let hindrance = port.hindrance.iter().map(|what| format!(" ({what})"));
        let link = hindrance.fold(link.to_owned(), |link, what| link + &what);
        table.row(vec![
            port.name.clone(),
            port.network.clone(),
            link,
            format!("{}/{}", port.queues, port.queues_max),
            port.rx.packets.to_string(),
            units::bytes(port.rx.bytes),
            port.tx.packets.to_string(),
            units::bytes(port.tx.bytes),
            port.drops.values().sum::<u64>().to_string(),
            port.mtu.to_string(),
            port.socket.clone(),
        ]);
    }
    table
}

fn uplinks(state: &State) -> Table {
    let mut table = Table::new(&[
        ("UPLINK", Left),
        ("DRIVER", Left),
        ("LINK", Left),
        ("QUEUES", Right),
        ("RX PACKETS", Right),
        ("RX", Right),
        ("TX PACKETS", Right),
        ("TX", Right),
        ("DROPS", Right),
        ("MTU", Right),
        ("ADDRESSES", Left),
    ]);
    for uplink in &state.uplinks {
        let link = match (uplink.link_up, uplink.speed_mbps) {
            (false, _) => "down".into(),
            (true, None) => "up".into(),
            (true, Some(speed)) if speed % 1000 == 0 => format!("{}G", speed / 1000),
            (true, Some(speed)) => format!("{speed}M"),
        };
        let addresses = if uplink.addresses.is_empty() {
            "any".into()
        } else {
            uplink.addresses.join(", ")
        };
        table.row(vec![
            uplink.name.clone(),
            uplink.driver.clone(),
            link,
            uplink.queues.to_string(),
            uplink.rx.packets.to_string(),
            units::bytes(uplink.rx.bytes),
            uplink.tx.packets.to_string(),
            units::bytes(uplink.tx.bytes),
            uplink.drops.values().sum::<u64>().to_string(),
            uplink.mtu.to_string(),
            addresses,
        ]);
    }
    table
}

fn tunnels(state: &State) -> Table {
    let drifted = state.tunnels.iter().any(|tunnel| !tunnel.drift.is_empty());
    let mut columns = vec![
        ("TUNNEL", Left),
        ("UPLINK", Left),
        ("PORT", Right),
        ("FWMARK", Right),
        ("PEERS", Right),
        ("MTU", Right),
        ("WG", Left),
        ("PUBLIC KEY", Left),
    ];
    columns.extend(drifted.then_some(("DRIFT", Left)));
    let mut table = Table::new(&columns);
    for tunnel in &state.tunnels {
        let fwmark = match tunnel.fwmark {
            0 => "-".into(),
            mark => format!("{mark:#x}"),
        };
        let mut row = vec![
            tunnel.name.clone(),
            tunnel.uplink.clone(),
            tunnel.listen_port.to_string(),
            fwmark,
            tunnel.peers.to_string(),
            tunnel.mtu.to_string(),
            wg_socket(tunnel),
            tunnel.public_key.clone().unwrap_or_else(|| "-".into()),
        ];
        row.extend(drifted.then(|| tunnel.drift.join(", ")));
        table.row(row);
    }
    table
}

/// Where `wg` finds a tunnel, or why it doesn't.
fn wg_socket(tunnel: &crate::state::Tunnel) -> String {
    let hindrance = tunnel.uapi_hindrance.as_ref();
    let why = || hindrance.map_or_else(|| "-".into(), |why| format!("- ({why})"));
    tunnel.uapi.clone().unwrap_or_else(why)
}

fn peers(state: &State) -> Table {
    let drifted = state.peers.iter().any(|peer| !peer.drift.is_empty());
    let mut columns = vec![
        ("TUNNEL", Left),
        ("PEER", Left),
        ("ENDPOINT", Left),
        ("STATE", Left),
        ("LATEST HANDSHAKE", Left),
        ("KEYPAIR", Left),
        ("RX", Right),
        ("TX", Right),
        ("STAGED", Right),
        ("DROPS", Right),
        ("PUBLIC KEY", Left),
    ];
    // What `wg` changed; the file's next apply takes it back.
    columns.extend(drifted.then_some(("DRIFT", Left)));
    let mut table = Table::new(&columns);
    for peer in &state.peers {
        let endpoint = peer
            .endpoint
            .map_or_else(|| "unknown".into(), |endpoint| endpoint.to_string());
        let mut row = vec![
            peer.tunnel.clone(),
            peer.name.clone(),
            endpoint,
            peer.state.clone(),
            units::ago(peer.last_handshake_age_s),
            peer.keypair.clone(),
            traffic(peer.rx),
            traffic(peer.tx),
            peer.staged.to_string(),
            peer.drops.values().sum::<u64>().to_string(),
            peer.public_key.clone(),
        ];
        row.extend(drifted.then(|| peer.drift.join(", ")));
        table.row(row);
    }
    table
}

fn traffic(traffic: Traffic) -> String {
    units::bytes(traffic.bytes)
}

fn routes(state: &State) -> Table {
    let mut table = Table::new(&[
        ("TABLE", Left),
        ("TO", Left),
        ("NEXT HOP", Left),
        ("FROM", Left),
    ]);
    for route in &state.routes {
        table.row(vec![
            route.table.clone(),
            route.to.clone(),
            route.next_hop.clone(),
            route.source.clone(),
        ]);
    }
    table
}

fn neighbors(state: &State) -> Table {
    let mut table = Table::new(&[
        ("PLACE", Left),
        ("ADDRESS", Left),
        ("MAC", Left),
        ("STATE", Left),
        ("CONFIRMED", Left),
        ("PORT", Left),
    ]);
    for neighbor in &state.neighbors {
        table.row(vec![
            neighbor.place.clone(),
            neighbor.address.to_string(),
            neighbor.mac.clone().unwrap_or_else(|| "-".into()),
            neighbor.state.clone(),
            units::ago(neighbor.age_s),
            neighbor.port.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn cores(state: &State) -> Table {
    let mut table = Table::new(&[
        ("CORE", Left),
        ("CPU", Right),
        ("BUSY", Right),
        ("BURSTS", Right),
        ("PACKETS", Right),
        ("PER BURST", Right),
        ("SLEEPS", Right),
        ("QUEUES", Left),
    ]);
    for core in &state.cores {
        let per_burst = match core.bursts {
            0 => "-".into(),
            bursts => {
                let tenths = core.packets.saturating_mul(10) / bursts;
                format!("{}.{}", tenths / 10, tenths % 10)
            }
        };
        table.row(vec![
            core.name.clone(),
            core.cpu.map_or_else(|| "any".into(), |cpu| cpu.to_string()),
            format!("{:.0} %", core.busy.clamp(0.0, 1.0) * 100.0),
            core.bursts.to_string(),
            core.packets.to_string(),
            per_burst,
            core.sleeps.to_string(),
            core.queues.join(" "),
        ]);
    }
    table
}

fn drops(state: &State) -> Table {
    let mut table = Table::new(&[("DROPPED AT", Left), ("REASON", Left), ("PACKETS", Right)]);
    for drop in &state.drops {
        table.row(vec![
            drop.scope.clone(),
            drop.reason.clone(),
            drop.packets.to_string(),
        ]);
    }
    table
}
