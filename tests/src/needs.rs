//! What a scenario needs of the machine.
//!
//! In: the parts that a scenario names. Out: go on, or skip with a printed reason.
//! Never: skips silently. A missing part fails the scenario unless `CULVERT_TEST_SKIP` (a comma-separated list of
//! part names, or `all`) allows for just that part; a skipped scenario is also noted in
//! `target/scenarios/skipped`, which `scripts/test` prints at its end.

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Something that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Root (namespaces, packet sockets).
    Root,
    /// `/dev/net/tun` (wireguard-go).
    Tun,
    /// QEMU and the guest image.
    Qemu,
    /// The image of `scripts/cloud-guest`.
    CloudGuest,
    /// Debian's wireguard-go and `wg`.
    WireguardGo,
    /// dpdk-testpmd.
    Testpmd,
    /// 192 free hugepages of 2 MiB (testpmd's memory as a guest).
    Hugepages,
    /// tcpdump and tshark.
    Capture,
    /// iperf3.
    Iperf,
    /// prometheus and promtool.
    Prometheus,
    /// nft, and a kernel with its NAT.
    Nftables,
    /// DHCP clients and perfdhcp, rdisc6.
    Dhcp,
    /// FRR.
    Frr,
    /// iputils' arping.
    Arping,
    /// OpenSSH's server and client.
    Ssh,
    /// dnsmasq, ISC's dhcpd, radvd.
    AddressServers,
    /// boringtun-cli.
    Boringtun,
    /// gotatun.
    Gotatun,
    /// schemathesis, a generic client.
    Schemathesis,
}

impl Part {
    /// Its name in `CULVERT_TEST_SKIP`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Tun => "tun",
            Self::Qemu => "qemu",
            Self::CloudGuest => "cloud-guest",
            Self::WireguardGo => "wireguard-go",
            Self::Testpmd => "testpmd",
            Self::Hugepages => "hugepages",
            Self::Capture => "capture",
            Self::Iperf => "iperf3",
            Self::Prometheus => "prometheus",
            Self::Nftables => "nftables",
            Self::Dhcp => "dhcp",
            Self::Frr => "frr",
            Self::Arping => "arping",
            Self::Ssh => "ssh",
            Self::AddressServers => "address-servers",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Schemathesis => "schemathesis",
        }
    }

    /// Why it is missing, and what would mend that.
    fn missing(self) -> Option<String> {
        let programs: &[&str] = match self {
            Self::Root => {
                return (!rustix::process::geteuid().is_root())
                    .then(|| "not root; run scripts/test, which uses sudo".to_owned());
            }
            Self::Tun => {
                return File::options()
                    .read(true)
                    .write(true)
                    .open("/dev/net/tun")
                    .err()
                    .map(|error| format!("/dev/net/tun: {error}; try: modprobe tun"));
            }
            Self::Qemu => {
                let image = guest_image();
                if !image.join("initrd").is_file() {
                    return Some(format!(
                        "no guest image in {}; run: scripts/guest-image",
                        image.display()
                    ));
                }
                &["qemu-system-x86_64"]
            }
            Self::CloudGuest => {
                let image = guest_image().join("cloud-initrd");
                return (!image.is_file())
                    .then(|| format!("no {}; run: scripts/cloud-guest", image.display()));
            }
            Self::WireguardGo => &["wireguard-go", "wg"],
            Self::Testpmd => &["dpdk-testpmd"],
            Self::Hugepages => {
                let free =
                    fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
                let free: u32 = free
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .unwrap_or(0);
                return (free < 192).then(|| {
                    format!("{free} free hugepages, 192 are wanted; try: echo 512 > /proc/sys/vm/nr_hugepages")
                });
            }
            Self::Capture => &["tcpdump", "tshark"],
            Self::Iperf => &["iperf3"],
            Self::Prometheus => &["prometheus", "promtool"],
            Self::Nftables => &["nft"],
            Self::Dhcp => &["udhcpc", "dhclient", "dhcpcd", "perfdhcp", "rdisc6"],
            Self::Frr => &["vtysh"],
            Self::Arping => &["arping"],
            Self::Ssh => &["ssh", "ssh-keygen"],
            Self::AddressServers => &["dnsmasq", "dhcpd", "radvd"],
            Self::Boringtun => return missing_crate("boringtun-cli", &boringtun()),
            Self::Gotatun => return missing_crate("gotatun-cli", &gotatun()),
            Self::Schemathesis if schemathesis().is_some() => &["socat"],
            Self::Schemathesis => {
                return Some("it is not installed; run: scripts/test, which installs it".into());
            }
        };
        programs
            .iter()
            .find(|name| !in_path(name))
            .map(|name| format!("no program '{name}'; run: scripts/test, which installs it"))
    }
}

/// Goes through the parts: `true` to go on, `false` to skip.
pub(crate) fn check(scenario: &str, parts: &[Part]) -> Result<bool> {
    let allowed = env::var("CULVERT_TEST_SKIP").unwrap_or_default();
    for part in parts {
        let Some(why) = part.missing() else { continue };
        let name = part.name();
        if !allowed.split(',').any(|word| word == name || word == "all") {
            bail!("{scenario} needs '{name}': {why} (CULVERT_TEST_SKIP={name} skips it)");
        }
        let line = format!("SKIPPED {scenario}: {name}: {why}");
        println!("{line}");
        let folder = target().join("scenarios");
        fs::create_dir_all(&folder)?;
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(folder.join("skipped"))?;
        writeln!(file, "{line}")?;
        return Ok(false);
    }
    Ok(true)
}

/// The build's output folder.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

/// boringtun-cli: on PATH, or where scripts install it.
pub(crate) fn boringtun() -> Option<PathBuf> {
    installed("boringtun-cli")
}

/// gotatun: the same.
pub(crate) fn gotatun() -> Option<PathBuf> {
    installed("gotatun")
}

/// schemathesis: on PATH, or where scripts install it.
pub fn schemathesis() -> Option<PathBuf> {
    match in_path("schemathesis") {
        true => Some("schemathesis".into()),
        false => Some(target().join("schemathesis/bin/schemathesis")).filter(|it| it.is_file()),
    }
}

/// A program on PATH, in `cargo install`'s folder, or in one under the build's.
fn installed(program: &str) -> Option<PathBuf> {
    if in_path(program) {
        return Some(program.into());
    }
    let mut roots = vec![target().join("boringtun"), target().join("peers")];
    roots.extend(env::var_os("CARGO_HOME").map(PathBuf::from));
    roots.extend(env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    roots
        .into_iter()
        .map(|root| root.join("bin").join(program))
        .find(|path| path.is_file())
}

fn missing_crate(name: &str, found: &Option<PathBuf>) -> Option<String> {
    found.is_none().then(|| {
        format!(
            "it is not installed; try: cargo install --locked {name} --root {}",
            target().join("peers").display()
        )
    })
}

/// Where scripts/guest-image leaves its image.
pub(crate) fn guest_image() -> PathBuf {
    target().join("guest")
}

fn in_path(name: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(name).is_file()))
}
