//! What it ran on: facts that a reader needs to compare results.
//!
//! In: `/proc`, `/sys`. Out: texts by name. Never: a name of the machine, an address, a serial number.

use std::collections::BTreeMap;
use std::fs;

use super::cores::Cores;

/// What is known of the machine.
#[must_use]
pub fn facts(cores: &Cores) -> BTreeMap<String, String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kernel = rustix::system::uname();
    let hugepages = ["HugePages_Total", "HugePages_Free", "Hugepagesize"]
        .map(|name| value(&meminfo, name).unwrap_or_else(|| "unknown".into()));
    let [total, free, size] = hugepages;
    let facts = [
        ("processor", value(&cpuinfo, "model name")),
        ("microcode", value(&cpuinfo, "microcode")),
        ("virtual", is_virtual(&cpuinfo)),
        ("processors", Some(num_processors(&cpuinfo))),
        ("memory", value(&meminfo, "MemTotal")),
        (
            "hugepages",
            Some(format!("{free} free of {total}, {size} each")),
        ),
        ("kernel", Some(kernel.release().to_string_lossy().into())),
        ("culvert", Some(env!("CARGO_PKG_VERSION").into())),
        ("build", Some(build().into())),
        ("pinning", Some(cores.words())),
        ("cores", Some(cores.distance())),
        (
            "governor",
            trimmed("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        ),
        (
            "clock",
            trimmed("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        ),
    ];
    let known = facts
        .into_iter()
        .filter_map(|(name, fact)| Some((name.to_owned(), fact?)));
    known.collect()
}

/// A quarter of the memory that is free, or that this process may have; 256 MiB where neither is told.
#[must_use]
pub fn memory_to_spare() -> usize {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = value(&meminfo, "MemAvailable").and_then(|it| {
        let kib: usize = it.split(' ').next()?.parse().ok()?;
        kib.checked_mul(1024)
    });
    let allowed = trimmed("/sys/fs/cgroup/memory.max").and_then(|it| it.parse().ok());
    let least = free.into_iter().chain(allowed).min();
    least.unwrap_or(1 << 30) / 4
}

const fn build() -> &'static str {
    if cfg!(debug_assertions) {
        "for debugging: several times slower than a release build"
    } else {
        "release"
    }
}

fn num_processors(cpuinfo: &str) -> String {
    let lines = cpuinfo.lines().filter(|it| it.starts_with("processor"));
    lines.count().to_string()
}

fn is_virtual(cpuinfo: &str) -> Option<String> {
    let flags = value(cpuinfo, "flags")?;
    let is_virtual = flags.split(' ').any(|flag| flag == "hypervisor");
    Some(if is_virtual { "yes" } else { "no" }.into())
}

fn trimmed(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
}

/// The first `name : value` of a text.
fn value(text: &str, name: &str) -> Option<String> {
    let found = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    found.filter(|it| !it.is_empty())
}
