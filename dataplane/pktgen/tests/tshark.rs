//! Frames as Wireshark reads them: every checksum right, nothing malformed, every flow there.
//!
//! Where tshark is missing the test fails, unless `CULVERT_TEST_SKIP` has `capture` or `all`.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::collections::HashSet;
use std::fs::File;
use std::io::BufWriter;
use std::process::Command;

use culvert_pktgen::replay::Writer;
use culvert_pktgen::tree::Node;
use culvert_pktgen::{Profile, Transmit};

const PROFILE: &str = "
rate: 1kpps
duration: 1s
streams:
- { name: v4, source: 10.0.0.1+3, destination: 10.1.0.1+4/256, source_port: 5000-5004, size: imix }
- { name: v6, source: fd00::1, destination: fd00:1::1+7, size: 1280 }
- { name: tcp4, protocol: tcp, source_port: 1024+9, size: '7x74,1x1518', dscp: 46 }
- { name: tcp6, protocol: tcp, source: fd00::1, destination: fd00:1::1, size: 999 }
";

#[test]
fn wireshark_finds_no_fault_in_any_frame() {
    let allowed = std::env::var("CULVERT_TEST_SKIP").unwrap_or_default();
    if Command::new("tshark").arg("--version").output().is_err() {
        let is_allowed = allowed
            .split(',')
            .any(|word| word == "capture" || word == "all");
        assert!(
            is_allowed,
            "no tshark; run: scripts/test, which installs it (CULVERT_TEST_SKIP=capture skips it)"
        );
        return;
    }
    let profile = Profile::read(&serde_saphyr::from_str::<Node>(PROFILE).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("frames.pcap");
    let mut writer = Writer::new(BufWriter::new(File::create(&file).unwrap())).unwrap();
    let mut transmit = Transmit::new(&profile, "", &profile.packets_per_s(None).unwrap(), 1);
    let mut buffer = vec![0; transmit.longest()];
    while let Some(due) = transmit.due_ns() {
        let due = transmit.next(due).unwrap();
        let len = transmit.write(&due, &mut buffer, false);
        writer.frame(&buffer[..len], due.intended_ns()).unwrap();
    }
    writer.finish().unwrap();

    let fields = [
        "_ws.malformed",
        "ip.checksum.status",
        "udp.checksum.status",
        "tcp.checksum.status",
        "ip.addr",
        "ipv6.addr",
        "udp.port",
        "tcp.port",
        "tcp.analysis.flags",
    ];
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r"]).arg(&file).args(["-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    // What dissectors of other protocols make of our payload is no matter.
    tshark.args(["-d", "udp.port==9,data", "-d", "tcp.port==9,data"]);
    for check in ["ip", "udp", "tcp"] {
        tshark.args(["-o", &format!("{check}.check_checksum:TRUE")]);
    }
    let output = tshark.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let mut flows = HashSet::new();
    for (number, line) in text.lines().enumerate() {
        let found: Vec<&str> = line.split('\t').collect();
        assert_eq!(found[0], "", "frame {number} is malformed");
        // 1: good (Wireshark's checksum status); a column of another protocol is empty.
        let statuses: Vec<&str> = found[1..4]
            .iter()
            .copied()
            .filter(|it| !it.is_empty())
            .collect();
        assert!(
            !statuses.is_empty() && statuses.iter().all(|it| *it == "1"),
            "frame {number}: {statuses:?}"
        );
        assert_eq!(
            found.get(8).copied().unwrap_or_default(),
            "",
            "frame {number}: its sequence number does not go on"
        );
        flows.insert(found[4..8].join(" "));
    }
    assert_eq!(text.lines().count(), 1000);
    assert_eq!(flows.len(), profile.flows() as usize);
}
