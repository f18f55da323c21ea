//! Why nothing came through: the first question of everybody whose trial lost all.
//!
//! In: a trial, the names and numbers of what the device dropped meanwhile, if it may be asked. Out: sentences, the most
//! probable reason first. Never: a guess without the count that it rests on.

use super::Trial;

/// What the device under test counted during the trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clue {
    /// Where: a port, a peer, an uplink.
    pub scope: String,
    /// The drop reason's name.
    pub reason: String,
    /// How often.
    pub packets: u64,
}

/// What drop reasons mean for somebody who sends test traffic.
const MEANINGS: &[(&str, &str)] = &[
    (
        "guard-",
        "the port's guard knows it otherwise: set `source_mac` and `source` to what its configuration has",
    ),
    (
        "mac-unknown",
        "no port has the hardware address: set `destination_mac` to the gateway's, or to the far guest's",
    ),
    (
        "neighbor-unknown",
        "nobody answers for the address: is the far seat there, and does it answer ARP and ND?",
    ),
    (
        "next-hop-unresolved",
        "the router on the way does not answer ARP or ND: is the uplink's other end there?",
    ),
    (
        "no-route",
        "no prefix holds `destination`: choose one of a peer's `allowed_ips`, or of a route",
    ),
    (
        "address-unroutable",
        "no such address is forwarded: choose unicast ones for `source` and `destination`",
    ),
    (
        "source-not-allowed",
        "the peer may not send from there: set `source` within its `allowed_ips`",
    ),
    (
        "no-endpoint",
        "the peer's endpoint is not known: let it send first, or configure it",
    ),
    (
        "staged-",
        "the peer has no session: look at its handshakes in `show peers`",
    ),
    (
        "receiver-unknown",
        "the session is not that of the device any more: shake hands anew",
    ),
    (
        "keypair-",
        "the session has ended: trials that last longer than its keys need handshakes on the way",
    ),
    (
        "tag-invalid",
        "packets are sealed with another key: shake hands anew",
    ),
    (
        "replayed",
        "counters were seen before: shake hands anew before each trial",
    ),
    ("ttl-exceeded", "the hop limit ends on the way: raise `ttl`"),
    (
        "too-big",
        "packets are longer than the way lets through: lower `size`, or raise the MTU",
    ),
    (
        "offload-invalid",
        "the seat did not negotiate that offload: set `checksum` to full, and no `segment`",
    ),
    (
        "checksum",
        "checksums are not right: set `checksum` to what the seat negotiated",
    ),
    (
        "not_ready",
        "the far guest's ring is not enabled: is the far seat connected?",
    ),
    (
        "uplink-down",
        "the uplink has no link: is its other end up?",
    ),
    ("full", "a queue ran over: lower the rate"),
];

/// Sentences on a trial that lost all, or nearly; none for others.
#[must_use]
pub fn explain(trial: &Trial, clues: &[Clue]) -> Vec<String> {
    let mut sentences = Vec::new();
    let (sent, received) = (trial.total.sent, trial.total.received);
    if sent.intended == 0 {
        return vec!["nothing was intended: the rate is too low for the duration".into()];
    }
    if trial.loss_ratio() < 0.999 {
        return sentences;
    }
    if sent.sent == 0 {
        sentences.push(format!(
            "the device took none of {} packets: is the seat connected, and its queue enabled?",
            sent.offered
        ));
    }
    let mut clues: Vec<&Clue> = clues.iter().filter(|clue| clue.packets > 0).collect();
    clues.sort_by_key(|clue| std::cmp::Reverse(clue.packets));
    sentences.extend(clues.iter().map(|clue| clue_in_words(clue)));
    for (count, what) in [
        (
            trial.strange.stale,
            "packets of a trial before arrived: the device queues for longer than a trial waits",
        ),
        (
            trial.strange.astray,
            "packets arrived at another seat than they were for: look at `to`, and at the far addresses",
        ),
        (
            received.corrupted,
            "packets arrived with another payload than they were sent with",
        ),
        (
            trial.strange.foreign,
            "frames without a signature arrived: ARP, or something that changes payloads",
        ),
    ] {
        if count > 0 {
            sentences.push(format!("{count} {what}"));
        }
    }
    if sentences.is_empty() {
        sentences.push("nothing arrived, and the device tells of no drops: is it the right one, and are both seats on it?".into());
    }
    sentences
}

fn clue_in_words(clue: &Clue) -> String {
    let meaning = MEANINGS.iter().find(|(part, _)| clue.reason.contains(part));
    let told = format!(
        "{} dropped {} packets as `{}`",
        clue.scope, clue.packets, clue.reason
    );
    meaning.map_or(told.clone(), |(_, meaning)| format!("{told}: {meaning}"))
}
