//! Metrics of an engine that runs: every family, in the formats' rules, a page of the core's at a time.

use std::{
    collections::{BTreeMap, HashSet},
    thread,
};

use super::{reads::crowd, *};
use crate::{
    metrics::{self, Form, Kind},
    report::Survey,
};

/// What is written of an engine, and how often it was looked at.
fn written(engine: &mut Engine, form: Form) -> (String, usize) {
    let (requester, requests) = api::channel().unwrap();
    let mut looks = 0;
    let text = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let survey = Survey::take(&requester).unwrap();
            let mut text = String::new();
            let mut put = |chunk: String| {
                text.push_str(&chunk);
                Ok(())
            };
            metrics::write(&survey, form, &mut put).unwrap();
            text
        });
        while !reader.is_finished() {
            if let Some(Request::Look(look)) = requests.wait(Some(Duration::from_millis(1))) {
                looks += 1;
                engine.look(look, clock::monotonic());
            }
        }
        reader.join().unwrap()
    });
    (text, looks)
}

/// Samples by family, as a strict reader has them: a family's lines stand together, behind its help and its type, and
/// no sample comes twice.
fn samples(text: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let (mut families, mut seen) = (BTreeMap::<_, Vec<_>>::new(), HashSet::new());
    let mut current = (String::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            current.0 = help.split(' ').next().unwrap().to_owned();
            assert!(families.insert(current.0.clone(), Vec::new()).is_none());
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, current.0);
            current.1 = kind.to_owned();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().unwrap();
            let of_histogram = current.1 == "histogram" && name.starts_with(&current.0);
            assert!(name == current.0 || of_histogram, "{line}");
            assert!(seen.insert(series.to_owned()), "twice: {line}");
            let family = families.get_mut(&current.0).unwrap();
            family.push((series.to_owned(), value.to_owned()));
        }
    }
    families
}

#[test]
fn every_metric_is_written_and_reads_as_the_format_says() {
    let [port] = free_ports();
    let mut site = Site::start(crowd(port, 999));
    let (text, looks) = written(&mut site.engine, Form::Prometheus);
    // Eight pages of peers, and what is few.
    assert_eq!(looks, 11);
    let families = samples(&text);
    let of_exporter = |name: &str| name.contains("wireguard_");
    for family in metrics::ALL {
        assert_eq!(
            families.contains_key(family.name),
            !of_exporter(family.name),
            "{}",
            family.name
        );
        assert_eq!(
            family.kind == Kind::Counter,
            family.name.ends_with("_total"),
            "{}",
            family.name
        );
    }
    let value = |series: &str| {
        let all = families.values().flatten();
        let found = all.into_iter().find(|(name, _)| name == series);
        found.unwrap_or_else(|| panic!("no {series}")).1.clone()
    };
    assert_eq!(
        value("culvert_peers{tunnel=\"a\",state=\"unknown\"}"),
        "1000"
    );
    assert_eq!(
        value("culvert_peer_receive_bytes_total{tunnel=\"a\",peer=\"p998\"}"),
        "0"
    );
    assert_eq!(value("culvert_ports{state=\"waiting\"}"), "1");
    assert_eq!(value("culvert_port_up{port=\"vm1\"}"), "0");
    assert_eq!(value("culvert_config_generation"), "1");
    // Nobody has called yet.
    assert!(families["culvert_peer_last_handshake_timestamp_seconds"].is_empty());
    assert!(families["culvert_dropped_packets_total"].is_empty());

    let dropped = site.engine.peers.iter().next().unwrap().1;
    let reason = culvert_dataplane::shared::drops::DropReason::Replayed;
    dropped.cell.drops.add(reason, 3);
    let name = dropped.config.name.to_string();
    site.set("a", &[Change::Peer(key("new").public_key())]);
    let (text, _) = written(&mut site.engine, Form::Prometheus);
    let series = format!(
        "culvert_dropped_packets_total{{scope=\"peer\",name=\"a/{name}\",reason=\"replayed\"}} 3\n"
    );
    assert!(text.contains(&series), "{series}");
    assert!(text.contains("culvert_config_drift{tunnel=\"a\"} 1\n"));
}

#[test]
fn the_exporters_names_are_for_those_who_want_them_and_have_few_peers() {
    let [port] = free_ports();
    let mut config = crowd(port, 2);
    config.metrics.wireguard_exporter = true;
    config.metrics.wireguard_exporter_peers = 3;
    let mut site = Site::start(config);
    let (text, _) = written(&mut site.engine, Form::OpenMetrics);
    let far = key("far").public_key().to_base64();
    let labels = format!(
        "{{interface=\"a\",public_key=\"{far}\",allowed_ips=\"10.8.0.0/16\",friendly_name=\"far\"}}"
    );
    for series in [
        "wireguard_sent_bytes_total",
        "wireguard_received_bytes_total",
        "wireguard_latest_handshake_seconds",
    ] {
        assert!(text.contains(&format!("{series}{labels} 0\n")), "{series}");
    }
    assert!(text.contains("# TYPE wireguard_sent_bytes counter\n"));
    assert!(text.ends_with("# EOF\n"));
    site.set("a", &[Change::Peer(key("new").public_key())]);
    let (text, _) = written(&mut site.engine, Form::Prometheus);
    assert!(text.contains("culvert_wireguard_exporter_left_out 4\n"));
    assert!(!text.contains("wireguard_sent_bytes"));
}
