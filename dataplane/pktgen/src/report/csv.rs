//! Every trial as a line of CSV (RFC 4180).
//!
//! In: results. Out: text with a head. Never: a trial left out because it was irregular: a column says why.

use super::Results;
use crate::trial::{Irregular, Trial};

const HEAD: &str = "test,topology,size,inner_bare_bytes,outer_bare_bytes,trial,packets_per_s,duration_ns,intended,offered,sent,\
                    unsent,received,lost,duplicates,reordered,late,corrupted,foreign,loss_ratio,latency_min_ns,latency_p50_ns,\
                    latency_p99_ns,latency_p99_9_ns,latency_max_ns,irregular,own_unsent,sent_for_ns,busy_share";

/// Every trial of every test.
#[must_use]
pub fn csv(results: &Results) -> String {
    let mut out = String::from(HEAD);
    out.push_str("\r\n");
    for test in &results.tests {
        for trial in &test.trials {
            let mut fields = vec![
                quoted(&test.name),
                quoted(&test.topology),
                quoted(&test.size),
            ];
            fields.extend([test.inner_bare_bytes, test.outer_bare_bytes].map(|it| it.to_string()));
            fields.extend(of_trial(trial));
            out.push_str(&fields.join(","));
            out.push_str("\r\n");
        }
    }
    out
}

fn of_trial(trial: &Trial) -> Vec<String> {
    let (sent, received) = (trial.total.sent, trial.total.received);
    let percentile = |percent: f64| {
        let found = trial
            .latency
            .percentiles
            .iter()
            .find(|(it, _)| (*it - percent).abs() < 1e-9);
        found.map_or(String::new(), |(_, ns)| ns.to_string())
    };
    let why: Vec<String> = trial.irregular.iter().map(Irregular::words).collect();
    let mut fields = vec![
        trial.number.to_string(),
        trial.packets_per_s.to_string(),
        trial.duration_ns.to_string(),
    ];
    fields.extend(
        [
            sent.intended,
            sent.offered,
            sent.sent,
            sent.unsent,
            received.received,
            trial.total.lost,
            received.duplicates,
            received.reordered,
            received.late,
            received.corrupted,
            trial.strange.foreign,
        ]
        .map(|it| it.to_string()),
    );
    fields.push(trial.loss_ratio().to_string());
    fields.push(trial.latency.min_ns.to_string());
    fields.extend([50.0, 99.0, 99.9].map(percentile));
    fields.push(trial.latency.max_ns.to_string());
    fields.push(quoted(&why.join("; ")));
    fields.push(sent.own_unsent.to_string());
    fields.push(trial.sent_for_ns.to_string());
    fields.push(trial.busy_share.to_string());
    fields
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.into()
}
