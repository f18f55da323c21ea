//! DPDK devices by their devargs.
//!
//! In: one node and what it is called. Out: the device, or a mistake in the report. Never: the
//! device itself: it need not be there.

use super::raw::Node;
use super::report::Report;
use super::section::nearest;
use super::value::{is_interface_name, text};
use super::{DpdkBus, DpdkDevice};

/// Drivers of virtual devices that EAL knows by prefix.
const VDEVS: [&str; 12] = [
    "net_af_packet",
    "net_af_xdp",
    "net_tap",
    "net_pcap",
    "net_ring",
    "net_null",
    "net_memif",
    "net_vhost",
    "net_virtio_user",
    "net_bonding",
    "net_failsafe",
    "net_vdev_netvsc",
];

/// A DPDK device: `name[,key=value…]`.
pub(super) fn dpdk_device(node: &Node, what: &str, report: &mut Report) -> Option<DpdkDevice> {
    let text = text(node, what, report)?;
    let (name, args) = text.split_once(',').unwrap_or((text, ""));
    let (name, args) = (name.trim(), args.trim());
    if let Some(arg) = args
        .split(',')
        .find(|arg| !args.is_empty() && !is_devarg(arg))
    {
        report
            .error(
                node.span,
                format!("{what} has the argument `{}`", arg.trim()),
            )
            .help("expected `NAME,KEY=VALUE,…` without spaces, as in `net_af_packet0,iface=eth1`");
        return None;
    }
    let device = |bus, name: String| DpdkDevice {
        bus,
        name,
        args: args.to_owned(),
    };
    if let Some(address) = pci_address(name) {
        return Some(device(DpdkBus::Pci, address));
    }
    let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if VDEVS.contains(&driver) && driver.len() < name.len() {
        if driver == "net_af_packet" && !args.split(',').any(|arg| arg.starts_with("iface=")) {
            report
                .error(node.span, format!("{what} names no interface"))
                .help(format!("`{driver}` needs one: `{name},iface=eth1`"));
            return None;
        }
        return Some(device(DpdkBus::Vdev, name.to_owned()));
    }
    if let Some((bus, rest)) = name.split_once(':')
        && matches!(bus, "auxiliary" | "vmbus" | "fslmc" | "dpaa_bus")
        && !rest.is_empty()
    {
        return Some(device(DpdkBus::Other, name.to_owned()));
    }
    let mistake = report.error(node.span, format!("{what} is `{text}`"));
    if VDEVS.contains(&driver) {
        mistake.help(format!(
            "a virtual device's name ends in a number: `{name}0`"
        ));
    } else if let Some(near) = nearest(driver, VDEVS.iter().copied()) {
        mistake.help(format!("did you mean `{near}0`?"));
    } else if is_interface_name(name) && args.is_empty() && !name.contains('.') {
        mistake.help(format!(
            "an interface of the kernel is reached through a virtual device: `net_af_packet0,iface={name}`"
        ));
    } else {
        mistake.help("expected a PCI address, as in `0000:3b:00.0`, or a virtual device, as in `net_af_packet0,iface=eth1`");
    }
    None
}

/// `key=value`, or a bare word, without spaces.
fn is_devarg(arg: &str) -> bool {
    !arg.is_empty() && !arg.starts_with('=') && !arg.contains(char::is_whitespace)
}

/// A PCI address in full and in lower case.
fn pci_address(text: &str) -> Option<String> {
    let hex =
        |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let full = match text.matches(':').count() {
        1 => format!("0000:{text}"),
        2 => text.to_owned(),
        _ => return None,
    };
    let (domain, rest) = full.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let function_fits = matches!(function.as_bytes(), [b'0'..=b'7']);
    let well_formed = hex(domain, 4) && hex(bus, 2) && hex(device, 2) && function_fits;
    well_formed.then(|| full.to_ascii_lowercase())
}
