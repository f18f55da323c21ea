//! Single values: text to types, each with a message that shows what would have been right.
//!
//! In: one node and what it is called. Out: the value, or a mistake in the report. Never: other
//! values of the file.

mod net;

use std::num::NonZeroU16;
use std::path::PathBuf;

pub(super) use self::net::{address, destination, endpoint, interface, listen, mac, prefix};
use super::limits;
use super::raw::{Node, Value};
use super::report::Report;
use super::schema::Form;
use super::section::{list, nearest};
use super::{Account, Name, Pmtu, Uapi};
use crate::keys::{KEY_TEXT_LEN, PublicKey};

/// What a value of that form looks like.
pub(super) fn example(form: &Form) -> String {
    match form {
        Form::Text => "…".into(),
        Form::Name | Form::Reference(_) => "NAME".into(),
        Form::Integer { min, max } if min == max => min.to_string(),
        Form::Integer { min, max } => format!("<{min} to {max}>"),
        Form::Bool => "true".into(),
        Form::Choice(words) => words.join(" | "),
        Form::Path => "/path/to/file".into(),
        Form::Key => "<44 characters of base64>".into(),
        Form::Interface => "192.0.2.10/24".into(),
        Form::Prefix => "10.1.2.0/24".into(),
        Form::Destination => "default".into(),
        Form::Address => "192.0.2.1".into(),
        Form::Endpoint => "192.0.2.11:51820".into(),
        Form::Listen => "127.0.0.1:9587".into(),
        Form::Mac => "\"52:54:00:00:00:01\"".into(),
        Form::Seconds { min, .. } => format!("{}s", 25.max(*min)),
        Form::Permissions => "0660".into(),
        Form::Account => "root".into(),
        Form::Words(words) => format!("{{ NAME: {} }}", words.join(" | ")),
        Form::Labels => "{ KEY: TEXT }".into(),
        Form::List(item) => format!("[{}]", example(item)),
        Form::Tables(_) => "[…]".into(),
        Form::Table(_) | Form::Named(_) | Form::Numbered { .. } => "{…}".into(),
        Form::Either(first, _) => example(first),
    }
}

/// Whether a character makes a text look like another one: a control character, one that has no width, one that ends a
/// line or turns the direction of others (Unicode Standard Annex 9).
pub(crate) fn is_unseen(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A single value's text.
pub(super) fn text<'n>(node: &'n Node, what: &str, report: &mut Report) -> Option<&'n str> {
    match &node.value {
        Value::Text(text) if text.is_empty() => {
            report.error(node.span, format!("{what} is empty"));
            None
        }
        Value::Text(text) if text.contains(char::is_control) => {
            report
                .error(
                    node.span,
                    format!("{what} has a line break or a control character"),
                )
                .help("expected text on one line");
            None
        }
        Value::Text(text) if text.contains(is_unseen) => {
            report
                .error(
                    node.span,
                    format!("{what} has a character that is not seen, or turns others around"),
                )
                .help("expected text that reads as it is: type it anew");
            None
        }
        Value::Text(text) => Some(text),
        other @ (Value::Null | Value::List(_) | Value::Map(_)) => {
            let message = format!("{what} is {}, expected a single value", other.form());
            report.error(node.span, message);
            None
        }
    }
}

/// An operator's name.
pub(super) fn name(node: &Node, what: &str, report: &mut Report) -> Option<Name> {
    let text = text(node, what, report)?;
    let name = Name::new(text);
    if name.is_none() {
        report.error(node.span, format!("{what} is `{text}`")).help(format!(
            "expected 1 to {} letters, digits, `.`, `_` or `-`, beginning with a letter, a digit or `_`",
            Name::MAX_LEN
        ));
    }
    name
}

/// A whole number in a range.
pub(super) fn integer(
    node: &Node,
    what: &str,
    min: u32,
    max: u32,
    report: &mut Report,
) -> Option<u32> {
    let text = text(node, what, report)?;
    let number = parse_integer(text);
    match number {
        Some(number) if (u64::from(min)..=u64::from(max)).contains(&number) => {
            // In range of two u32, so it is one.
            u32::try_from(number).ok()
        }
        _ => {
            let expected = if min == max {
                format!("expected {min}")
            } else {
                format!("expected a whole number from {min} to {max}")
            };
            report
                .error(node.span, format!("{what} is `{text}`"))
                .help(expected);
            None
        }
    }
}

/// Decimal digits, or `0x` and hexadecimal ones (fwmark is often written so).
pub(super) fn parse_integer(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix takes a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    plain
        .then(|| u64::from_str_radix(digits, radix).ok())
        .flatten()
}

/// `true` or `false`, or YAML 1.1's other words for them.
pub(super) fn boolean(node: &Node, what: &str, report: &mut Report) -> Option<bool> {
    let text = text(node, what, report)?;
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => {
            report
                .error(node.span, format!("{what} is `{text}`"))
                .help("expected `true` or `false`");
            None
        }
    }
}

/// `true`, `false`, or the name under which `wg` shall find a tunnel.
pub(super) fn uapi(node: &Node, what: &str, tunnel: &Name, report: &mut Report) -> Option<Uapi> {
    let text = text(node, what, report)?;
    let (name, meant) = match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => (tunnel.as_str(), "the tunnel's name"),
        "false" | "no" | "off" => return Some(Uapi::Off),
        _ => (text, "the name"),
    };
    if crate::uapi::is_name(name) {
        return Name::new(name).map(Uapi::Name);
    }
    report
        .error(
            node.span,
            format!("{what} is `{text}`, but `wg` can't know {meant} `{name}`"),
        )
        .help(format!(
            "expected a name of at most {} characters, as in `uapi: wg0`, or `false`",
            crate::uapi::NAME_MAX
        ));
    None
}

/// What is known of a path: `off`, `probe`, or bytes.
pub(super) fn pmtu(node: &Node, what: &str, report: &mut Report) -> Option<Pmtu> {
    let (min, max) = (limits::PMTU_MIN, limits::PMTU_MAX);
    let text = text(node, what, report)?;
    let bytes: Option<u16> = text.parse().ok();
    let bytes = bytes.filter(|bytes| (min..=max).contains(&u32::from(*bytes)));
    match text {
        "off" => Some(Pmtu::Off),
        "probe" => Some(Pmtu::Probe),
        _ if let Some(bytes) = bytes => NonZeroU16::new(bytes).map(Pmtu::Fixed),
        _ => {
            report
                .error(node.span, format!("{what} is `{text}`"))
                .help(format!("expected `off`, `probe`, or {min} to {max} bytes"));
            None
        }
    }
}

/// One of some words.
pub(super) fn choice(
    node: &Node,
    what: &str,
    words: &'static [&'static str],
    report: &mut Report,
) -> Option<&'static str> {
    let text = text(node, what, report)?;
    if let Some(word) = words.iter().find(|word| **word == text) {
        return Some(word);
    }
    let mistake = report.error(node.span, format!("{what} is `{text}`"));
    mistake.help(format!("expected one of: {}", list(words.iter().copied())));
    if let Some(near) = nearest(text, words.iter().copied()) {
        mistake.help(format!("did you mean `{near}`?"));
    }
    None
}

/// A path.
pub(super) fn path(node: &Node, what: &str, report: &mut Report) -> Option<PathBuf> {
    text(node, what, report).map(PathBuf::from)
}

/// A public key.
pub(super) fn public_key(node: &Node, what: &str, report: &mut Report) -> Option<PublicKey> {
    let text = text(node, what, report)?;
    if let Ok(key) = PublicKey::from_base64(text) {
        return Some(key);
    }
    let message = match text.chars().count() {
        KEY_TEXT_LEN => format!("{what} is no key: it is not the base64 of 32 bytes"),
        len => format!("{what} is no key: it has {len} characters of {KEY_TEXT_LEN}"),
    };
    report
        .error(node.span, message)
        .help("expected what `culvert pubkey` or `wg pubkey` printed at the far end");
    None
}

/// A duration in whole seconds, which a bare number is, too, as for `wg`; with a least of none `off` is 0.
pub(super) fn seconds(
    node: &Node,
    what: &str,
    (min, max): (u32, u32),
    report: &mut Report,
) -> Option<u32> {
    let text = text(node, what, report)?;
    if min == 0 && matches!(text, "off" | "0" | "0s") {
        return Some(0);
    }
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let total = factor
        .zip(number.parse::<u32>().ok())
        .and_then(|(factor, number)| number.checked_mul(factor));
    let least = min.max(1);
    if let Some(seconds) = total.filter(|seconds| (least..=max).contains(seconds)) {
        return Some(seconds);
    }
    let example = example(&Form::Seconds { min, max });
    let off = if min == 0 { ", or `off`" } else { "" };
    let mistake = report.error(node.span, format!("{what} is `{text}`"));
    if unit.trim() == "ms" {
        mistake.help(format!("expected whole seconds, as in `{example}`"));
    } else {
        mistake.help(format!(
            "expected `{least}s` to `{max}s`{off}; a number without a unit is seconds, `m` and `h` work too"
        ));
    }
    None
}

/// Between two packets of a session that says whether a neighbor is alive.
pub(super) fn milliseconds(node: &Node, what: &str, report: &mut Report) -> Option<u32> {
    let text = text(node, what, report)?;
    let number = |unit: &str, factor: u32| {
        let digits = text.strip_suffix(unit)?.trim_end();
        digits.parse::<u32>().ok()?.checked_mul(factor)
    };
    let millis = number("ms", 1).or_else(|| number("s", 1_000));
    let range = limits::BFD_INTERVAL_MIN..=limits::BFD_INTERVAL_MAX;
    let found = millis.filter(|millis| range.contains(millis));
    if found.is_none() {
        report
            .error(node.span, format!("{what} is `{text}`"))
            .help(format!(
                "expected `{}ms` to `{}s`, as in `300ms`",
                range.start(),
                range.end() / 1_000
            ));
    }
    found
}

/// A domain's name (RFC 1035, section 2.3.4).
pub(super) fn domain(node: &Node, what: &str, report: &mut Report) -> Option<String> {
    let text = text(node, what, report)?;
    let is_label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    let domain = text.strip_suffix('.').unwrap_or(text);
    if domain.len() > 253 || !domain.split('.').all(is_label) {
        report
            .error(node.span, format!("{what} is `{text}`"))
            .help("expected a domain's name, as in `vm.example.org`");
        return None;
    }
    Some(domain.to_owned())
}

/// Permission bits in octal.
pub(super) fn permissions(node: &Node, what: &str, report: &mut Report) -> Option<u32> {
    let text = text(node, what, report)?;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal =
        (3..=4).contains(&digits.len()) && digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    let bits = octal.then(|| u32::from_str_radix(digits, 8).ok()).flatten();
    if bits.is_none_or(|bits| bits > 0o777) {
        report
            .error(node.span, format!("{what} is `{text}`"))
            .help("expected octal digits, as in `0660`");
        return None;
    }
    bits
}

/// A user or a group.
pub(super) fn account(node: &Node, what: &str, report: &mut Report) -> Option<Account> {
    let text = text(node, what, report)?;
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        // u32::MAX means "unchanged" to chown(2).
        let id = text.parse().ok().filter(|id| *id != u32::MAX);
        if id.is_none() {
            report
                .error(node.span, format!("{what} is `{text}`"))
                .help("expected a name, or a number below 4294967295");
        }
        return id.map(Account::Id);
    }
    if text.contains([':', '/', ' ']) {
        report
            .error(node.span, format!("{what} is `{text}`"))
            .help("expected one name or number: `socket_owner` and `socket_group` are two keys");
        return None;
    }
    Some(Account::Name(text.to_owned()))
}

/// `RT_TABLE_MAIN` of the kernel.
const MAIN_TABLE: u32 = 254;

/// How a routing table is named.
pub(crate) fn table_name(table: u32) -> String {
    match table {
        MAIN_TABLE => "main".to_owned(),
        table => table.to_string(),
    }
}

/// A routing table of the kernel's.
pub(super) fn routing_table(node: &Node, what: &str, report: &mut Report) -> Option<u32> {
    const LOCAL: u32 = 255;
    let text = text(node, what, report)?;
    let table = match text {
        "main" => Some(MAIN_TABLE),
        number => number.parse().ok(),
    };
    let table = table.filter(|table| !matches!(*table, 0 | LOCAL));
    if table.is_none() {
        report
            .error(node.span, format!("{what} is `{text}`"))
            .help("expected `main`, or the number of another routing table that holds routes, as in `ip route show table 100`");
    }
    table
}

/// An interface's name (`dev_valid_name` of the kernel).
pub(super) fn interface_name(node: &Node, what: &str, report: &mut Report) -> Option<String> {
    let text = text(node, what, report)?;
    if is_interface_name(text) {
        return Some(text.to_owned());
    }
    report
        .error(node.span, format!("{what} is `{text}`"))
        .help(format!(
            "expected an interface's name: at most {} characters without spaces, `/` and `:`",
            limits::INTERFACE_NAME
        ));
    None
}

/// Whether the kernel would take that name for an interface.
pub fn is_interface_name(text: &str) -> bool {
    (1..=limits::INTERFACE_NAME).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':'))
}
