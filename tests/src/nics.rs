//! A machine with NICs on its PCI bus: a guest with two NUMA nodes and an IOMMU, in which DPDK drives them.
//!
//! ```text
//!   node 0: e1000 (00:05.0), e1000e (01:00.0)       node 1: vmxnet3 (81:00.0), virtio (82:00.0), igb (83:00.0)
//!      |        |                                       |          |               |
//!   t-e1000  t-e1000e     TAPs in a namespace       t-vmxnet3   t-virtio         t-igb
//! ```
//!
//! In: NICs' models, a namespace. Out: a booted guest with the program, DPDK and its drivers as Debian has them. Never: a
//! model that QEMU doesn't have.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::culvert::culvert_binary;
use crate::guest::Guest;
use crate::needs::guest_image;
use crate::network::Namespace;
use crate::process::{program, run};
use crate::scenario::Scenario;

const PACKING: Duration = Duration::from_secs(60);

/// A NIC that QEMU emulates and DPDK has a driver for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its short name.
    pub name: &'static str,
    /// QEMU's device, with what it needs.
    device: &'static str,
    /// The bus that it is at.
    bus: &'static str,
    /// Where the guest finds it.
    pub address: &'static str,
    /// DPDK's driver.
    pub driver: &'static str,
    /// The NUMA node that it is at, if the firmware tells.
    pub node: Option<u64>,
    /// RX queues that it gives two workers.
    pub queues: u64,
    /// Whether QEMU's spreads what comes over them.
    pub spreads: bool,
}

/// All of them. virtio's host is QEMU, with a TAP of two queues; behind the IOMMU as a NIC of metal is.
const MODELS: [Model; 5] = [
    Model {
        name: "e1000",
        device: "e1000",
        bus: "bus=pcie.0,addr=0x5",
        address: "0000:00:05.0",
        driver: "net_e1000_em",
        node: None,
        queues: 1,
        spreads: false,
    },
    Model {
        name: "e1000e",
        device: "e1000e",
        bus: "bus=rp1",
        address: "0000:01:00.0",
        driver: "net_e1000_em",
        node: None,
        queues: 1,
        spreads: false,
    },
    Model {
        name: "vmxnet3",
        device: "vmxnet3",
        bus: "bus=rp2",
        address: "0000:81:00.0",
        driver: "net_vmxnet3",
        node: Some(1),
        queues: 2,
        spreads: false,
    },
    Model {
        name: "virtio",
        device: "virtio-net-pci,disable-legacy=on,iommu_platform=on,ats=on,mq=on,vectors=6,rss=on",
        bus: "bus=rp3",
        address: "0000:82:00.0",
        driver: "net_virtio",
        node: Some(1),
        queues: 2,
        spreads: true,
    },
    Model {
        name: "igb",
        device: "igb",
        bus: "bus=rp4",
        address: "0000:83:00.0",
        driver: "net_e1000_igb",
        node: Some(1),
        queues: 2,
        spreads: true,
    },
];

/// Those that this QEMU has, and the names of those that it lacks.
pub fn offered() -> Result<(Vec<Model>, Vec<&'static str>)> {
    let mut command = Command::new("qemu-system-x86_64");
    let devices = run(command.args(["-device", "help"]), Duration::from_secs(20))?;
    let has = |model: &Model| {
        let name = model.device.split(',').next().unwrap_or_default();
        devices.contains(&format!("name \"{name}\""))
    };
    let (here, missing): (Vec<Model>, Vec<Model>) = MODELS.into_iter().partition(has);
    Ok((here, missing.iter().map(|model| model.name).collect()))
}

impl Model {
    /// The TAP at its other end.
    pub fn tap(&self) -> String {
        format!("t-{}", self.name)
    }

    /// The name by which QEMU's monitor knows it.
    pub fn id(&self) -> String {
        format!("nic-{}", self.name)
    }

    fn has_queues(&self) -> bool {
        self.device.contains("mq=on")
    }
}

/// Boots the machine with these NICs, whose cables end in TAPs of `namespace`; `files` are put into its root, each under its
/// path.
pub fn machine(
    scenario: &Scenario,
    namespace: &Namespace,
    models: &[Model],
    files: &[(&Path, &str)],
) -> Result<Guest> {
    let image = image(scenario, files)?;
    // Small pages on either node, and processors that take turns: the machine that runs this has few.
    let mut words: Vec<String> = "-accel tcg,thread=single -cpu max -machine q35 -smp 2,sockets=2 -m 1280M \
        -object memory-backend-ram,id=m0,size=640M -object memory-backend-ram,id=m1,size=640M \
        -numa node,nodeid=0,cpus=0,memdev=m0 -numa node,nodeid=1,cpus=1,memdev=m1 \
        -nodefaults -no-user-config -display none -no-reboot -device intel-iommu,intremap=on,device-iotlb=on \
        -device pxb-pcie,id=pxb1,bus_nr=128,numa_node=1,bus=pcie.0,addr=0x10 \
        -device pcie-root-port,id=rp1,bus=pcie.0,chassis=1,slot=1,addr=0x8 \
        -device pcie-root-port,id=rp2,bus=pxb1,chassis=2,slot=2,addr=0x0 \
        -device pcie-root-port,id=rp3,bus=pxb1,chassis=3,slot=3,addr=0x1 \
        -device pcie-root-port,id=rp4,bus=pxb1,chassis=4,slot=4,addr=0x2"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    for (number, model) in models.iter().enumerate() {
        let (tap, id) = (model.tap(), model.id());
        let (kind, queues) = match model.has_queues() {
            true => (" multi_queue", ",queues=2"),
            false => ("", ""),
        };
        namespace.ip(&format!("tuntap add {tap} mode tap{kind}"))?;
        namespace.sysctl(&format!("net.ipv6.conf.{tap}.accept_dad=0"))?;
        namespace.ip(&format!("link set {tap} up"))?;
        words.extend([
            "-netdev".into(),
            format!("tap,id=n{number},ifname={tap},script=no,downscript=no{queues}"),
            "-device".into(),
            format!(
                "{},netdev=n{number},id={id},mac=52:54:00:00:77:0{number},{},romfile=",
                model.device, model.bus
            ),
        ]);
    }
    words.extend([
        "-kernel".into(),
        guest_image().join("vmlinuz").display().to_string(),
        "-initrd".into(),
        image.display().to_string(),
        "-append".into(),
        "console=ttyS0 quiet panic=-1 no_timer_check intel_iommu=on".into(),
    ]);
    let mut command = program(Some(namespace.name()), "qemu-system-x86_64");
    command.args(words);
    let mut guest = Guest::launch(scenario, "machine", command)?;
    guest.wait_up()?;
    Ok(guest)
}

/// The guest's image with DPDK, and with the program and `files`: archives one behind the other.
fn image(scenario: &Scenario, files: &[(&Path, &str)]) -> Result<PathBuf> {
    let own = scenario.path("own");
    let program = own.join("usr/bin/culvert");
    fs::create_dir_all(own.join("usr/bin"))?;
    run(
        Command::new("strip")
            .arg("-o")
            .arg(&program)
            .arg(culvert_binary()?),
        PACKING,
    )?;
    for (from, to) in files {
        let to = own.join(to);
        fs::create_dir_all(to.parent().unwrap_or(&own))?;
        fs::copy(from, to)?;
    }
    let archive = scenario.path("own.cpio");
    let pack = format!(
        "cd {} && find . | cpio --quiet -o -H newc -R 0:0 >{}",
        own.display(),
        archive.display()
    );
    run(Command::new("sh").args(["-c", &pack]), PACKING)?;
    let whole = scenario.path("initrd");
    let mut out = File::create(&whole)?;
    for part in [
        guest_image().join("initrd"),
        guest_image().join("initrd-dpdk"),
        archive,
    ] {
        ensure!(
            part.is_file(),
            "no {}; run: scripts/guest-image",
            part.display()
        );
        io::copy(&mut File::open(part)?, &mut out)?;
    }
    Ok(whole)
}
