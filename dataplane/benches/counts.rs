//! Instructions per packet, both ways, as valgrind counts them: what a change costs, whatever else the machine does.
//!
//! In: valgrind; `counts.txt` beside this file, what each case cost when it was last recorded. Out: a table, or
//! refusal when small packets cost more than they did. Never: a count that the processor or another process has a say
//! in (portable kernels; libc's plainest copies; no clock), or a comparison between compilers.
//!
//! ```text
//!   out:  a guest's driver ── ring ── vhost port ── worker ── tunnel ── memory
//!   in:   memory ── tunnel ── worker ── vhost port ── ring ── a guest's driver
//! ```
//! Counted are the worker's turns alone, from the first to the last that a burst takes, with all that they call. What
//! goes out is taken from the memory and opened; what comes in bears counters that were never seen, and every packet
//! that was accepted is delivered or lost under a name.
//!
//! Usage: cargo bench -p culvert-dataplane --bench counts -- [--check | --record] [--case TEXT] [--json]
//!
//! Without an option all cases are compared with the table. With `--check` those that may not rise are, and the program
//! fails if one did; with `--record` the table is written anew.

#![allow(
    unsafe_code,
    reason = "a benchmark: valgrind is spoken to in instructions"
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark: it displays, and stops where it fails"
)]

mod site;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use culvert_aead::{Engine, Jobs, Kernel, OpenJob, SealJob, TAILROOM};
use culvert_dataplane::{
    shared::hop::Hop,
    uplink::memory::{self, Wire},
};
use culvert_vhost::frontend::Frontend;
use site::{Peers, Scale, Site, Size, Way};

/// By how much a count that is held may rise: with the AEAD, and without.
const MARGIN: f64 = 0.03;
const BURSTS: [usize; 4] = [1, 8, 32, 128];
const PEERS: [usize; 2] = [1, 1000];
/// Frames that make a figure.
const FRAMES: usize = 64;
/// Datagrams that fit on the wire.
const WIRE: usize = 8192;
/// What the child is called with.
const INSIDE: &str = "--inside";

/// One line of the table.
#[derive(Clone, Copy)]
struct Case {
    way: Way,
    size: Size,
    burst: usize,
    peers: usize,
    /// How many VLANs the guest's frames are in, one after the other; 0: they have no tags.
    vlans: usize,
}

impl Case {
    /// Of a trunk: what its frames have to be sorted by.
    const TRUNK: Self = Self {
        way: Way::Out,
        size: Size::Packet(64),
        burst: 32,
        peers: 1,
        vlans: site::VLANS.len(),
    };

    fn all() -> impl Iterator<Item = Self> {
        let shapes = Size::ALL
            .into_iter()
            .flat_map(|size| PEERS.map(|peers| (size, peers)));
        [Way::Out, Way::In]
            .into_iter()
            .flat_map(move |way| shapes.clone().map(move |shape| (way, shape)))
            .flat_map(|(way, (size, peers))| {
                BURSTS.map(|burst| Self {
                    way,
                    size,
                    burst,
                    peers,
                    vlans: 0,
                })
            })
            .chain([Self::TRUNK])
    }

    fn name(self) -> String {
        let Self {
            size,
            burst,
            peers,
            vlans,
            ..
        } = self;
        let way = self.way.name();
        let name = format!("{way}/{}/burst-{burst}/peers-{peers}", size.name());
        match vlans {
            0 => name,
            _ => format!("{name}/vlans-{vlans}"),
        }
    }

    fn scale(self) -> Scale {
        Scale {
            vlans: self.vlans,
            ..Scale::peers(self.peers)
        }
    }

    /// Whether it may not rise: where a packet's way is all that it costs.
    fn is_held(self) -> bool {
        self.size == Size::Packet(64) && [1, 32].contains(&self.burst)
    }
}

fn main() -> ExitCode {
    let options = Options::read(env::args().skip(1));
    if options.inside {
        let cases = Case::all().filter(|&case| options.wants(case));
        count_all(cases);
        return ExitCode::SUCCESS;
    }
    let machine = Machine::found();
    let counts = counted(&options);
    if options.record {
        Table { machine, counts }.write();
        return ExitCode::SUCCESS;
    }
    let table = Table::read();
    report(&options, &counts, &table.counts);
    verdict(&options, &counts, &table, &machine)
}

/// What was asked for.
#[derive(Default)]
struct Options {
    inside: bool,
    check: bool,
    record: bool,
    json: bool,
    case: String,
}

impl Options {
    fn read(mut words: impl Iterator<Item = String>) -> Self {
        let mut options = Self::default();
        while let Some(word) = words.next() {
            match word.as_str() {
                INSIDE => options.inside = true,
                "--check" => options.check = true,
                "--record" => options.record = true,
                "--json" => options.json = true,
                "--case" => options.case = words.next().expect("--case takes a text"),
                // Cargo's own.
                "--bench" => {}
                _ => panic!("no option {word}"),
            }
        }
        options
    }

    fn wants(&self, case: Case) -> bool {
        case.name().contains(&self.case) && (!self.check || case.is_held())
    }
}

/// Instructions per packet by case.
type Counts = BTreeMap<String, f64>;

/// What counts depend on beside the code.
#[derive(Default, PartialEq, Eq)]
struct Machine {
    rustc: String,
    valgrind: String,
    libc: String,
}

impl Machine {
    fn found() -> Self {
        let first_line = |program: &str, argument| {
            let output = Command::new(program).arg(argument).output();
            let output = output.unwrap_or_else(|error| panic!("{program} {argument}: {error}"));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        };
        Self {
            rustc: first_line("rustc", "--version"),
            valgrind: first_line("valgrind", "--version"),
            libc: first_line("getconf", "GNU_LIBC_VERSION"),
        }
    }
}

impl Machine {
    /// Why counts of this machine can't be held against those of `table`'s.
    fn excuse(&self, table: &Self) -> Option<String> {
        let (rustc, flags) = (&self.rustc, "RUSTFLAGS");
        if *rustc != table.rustc {
            return Some(format!(
                "this is {rustc}, and the table was made with {}",
                table.rustc
            ));
        }
        if env::var_os(flags).is_some_and(|flags| !flags.is_empty()) {
            return Some(format!("{flags} are set, and the table was made without"));
        }
        (!sees_avx2()).then(|| "the table was made on a processor with AVX2".into())
    }
}

/// The committed table.
struct Table {
    machine: Machine,
    counts: Counts,
}

impl Table {
    const HEAD: &str = "\
# Instructions per packet, with portable kernels and an uplink in memory: CONTRIBUTING.md, \"Measure\", says how they
# are counted, what they are for, and when to record them anew:
#     cargo bench -p culvert-dataplane --bench counts -- --record
";

    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/counts.txt")
    }

    fn read() -> Self {
        let text = fs::read_to_string(Self::path()).unwrap_or_default();
        let mut table = Self {
            machine: Machine::default(),
            counts: Counts::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(": ").expect("NAME: VALUE");
            let value = value.trim();
            match name {
                "rustc" => table.machine.rustc = value.into(),
                "valgrind" => table.machine.valgrind = value.into(),
                "libc" => table.machine.libc = value.into(),
                case => {
                    let count = value.parse().expect("a number of instructions");
                    table.counts.insert(case.into(), count);
                }
            }
        }
        table
    }

    fn write(&self) {
        let Machine {
            rustc,
            valgrind,
            libc,
        } = &self.machine;
        let mut text = Self::HEAD.to_owned();
        text += &format!("rustc: {rustc}\nvalgrind: {valgrind}\nlibc: {libc}\n");
        for (name, count) in &self.counts {
            text += &format!("{:32} {count:>8.0}\n", format!("{name}:"));
        }
        fs::write(Self::path(), text).unwrap();
        println!("wrote {}", Self::path().display());
    }
}

/// Runs this program again, under valgrind, and reads what it dumped.
fn counted(options: &Options) -> Counts {
    let dir = tempfile::TempDir::new().unwrap();
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet", "--collect-atstart=no"])
        .arg(format!("--callgrind-out-file={}/out", dir.path().display()))
        // Of libc's copies the one that every processor can run.
        .env(
            "GLIBC_TUNABLES",
            "glibc.cpu.hwcaps=-AVX2,-AVX,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-SSSE3",
        )
        .arg(env::current_exe().unwrap())
        .arg(INSIDE)
        .args(["--case", &options.case]);
    if options.check {
        valgrind.arg("--check");
    }
    let status = valgrind.status();
    let status = status.unwrap_or_else(|error| panic!("valgrind: {error}; is it installed?"));
    assert!(status.success(), "valgrind: {status}");
    let mut dumps = fs::read_dir(dir.path()).unwrap();
    let mut counts = Counts::new();
    while let Some(Ok(dump)) = dumps.next() {
        counts.extend(read_dump(&fs::read_to_string(dump.path()).unwrap()));
    }
    counts
}

/// The case that a dump is of, and its instructions per packet. The last dump is of none.
fn read_dump(text: &str) -> Option<(String, f64)> {
    let line = |head| text.lines().find_map(|line| line.strip_prefix(head));
    let name = line("desc: Trigger: Client Request: ")?;
    let (name, packets) = name.split_once(' ').expect("a case and its packets");
    let total: f64 = line("summary: ")?.trim().parse().expect("a number");
    let packets: f64 = packets.parse().expect("a number of packets");
    Some((name.to_owned(), total / packets))
}

/// A case's count, and the part of it that is not the AEAD's.
#[derive(Clone, Copy)]
struct Count {
    total: f64,
    way: f64,
}

impl Count {
    fn of(counts: &Counts, case: Case) -> Option<Self> {
        let total = *counts.get(&case.name())?;
        let aead = counts.get(&aead_name(case.way, case.size))?;
        Some(Self {
            total,
            way: total - aead,
        })
    }
}

fn report(options: &Options, counts: &Counts, before: &Counts) {
    if !options.json {
        println!(
            "{:32} {:>8} {:>9} {:>9} {:>10} {:>9}",
            "instructions per packet", "all", "recorded", "", "but aead", ""
        );
    }
    for case in Case::all().filter(|&case| options.wants(case)) {
        let name = case.name();
        let now = Count::of(counts, case).expect("it was counted");
        let before = Count::of(before, case);
        if options.json {
            let reference = before.map_or(String::new(), |before| {
                format!(
                    ",\"reference\":\"recorded\",\"reference_value\":{:.0},\"ratio\":{:.3}",
                    before.total,
                    before.total / now.total
                )
            });
            println!(
                "{{\"section\":\"counts\",\"case\":\"{name}\",\"unit\":\"instructions/packet\",\
                 \"value\":{:.0}{reference},\"but_aead\":{:.0}}}",
                now.total, now.way
            );
            continue;
        }
        let (recorded, all, way) = match before {
            Some(before) => (
                format!("{:.0}", before.total),
                risen(before.total, now.total),
                risen(before.way, now.way),
            ),
            None => ("none".into(), String::new(), String::new()),
        };
        println!(
            "{name:32} {:>8.0} {recorded:>9} {all:>9} {:>10.0} {way:>9}",
            now.total, now.way
        );
    }
}

fn risen(before: f64, now: f64) -> String {
    format!("{:+.2} %", 100.0 * (now / before - 1.0))
}

/// Whether what may not rise has risen.
fn verdict(options: &Options, counts: &Counts, table: &Table, machine: &Machine) -> ExitCode {
    if !options.check {
        return ExitCode::SUCCESS;
    }
    let mut faults = String::new();
    for case in Case::all().filter(|&case| options.wants(case)) {
        let name = case.name();
        let now = Count::of(counts, case).expect("it was counted");
        let Some(before) = Count::of(&table.counts, case) else {
            faults += &format!("  {name}: none before, {:.0} now\n", now.total);
            continue;
        };
        // The portable AEAD is most of a small packet: what is not its own may rise by no larger part.
        for (what, before, now) in [
            ("all", before.total, now.total),
            ("all but the AEAD", before.way, now.way),
        ] {
            if now > before * (1.0 + MARGIN) {
                let percent = risen(before, now);
                faults +=
                    &format!("  {name}, {what}: {before:.0} before, {now:.0} now: {percent}\n");
            }
        }
    }
    if faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    let most = 100.0 * MARGIN;
    eprint!("\nInstructions per packet, more than {most} % above benches/counts.txt:\n{faults}");
    if let Some(reason) = machine.excuse(&table.machine) {
        eprintln!("This is no failure, because {reason}.");
        return ExitCode::SUCCESS;
    }
    let (was, is) = (&table.machine, machine);
    if (&was.valgrind, &was.libc) != (&is.valgrind, &is.libc) {
        eprintln!(
            "(Counted with {} and {}; the table was with {} and {}.)",
            is.valgrind, is.libc, was.valgrind, was.libc
        );
    }
    eprintln!(
        "Where do they come from? valgrind --tool=callgrind knows (CONTRIBUTING.md, \"Measure\"). If they are worth \
         their price, say why in the commit that records them:\n    \
         cargo bench -p culvert-dataplane --bench counts -- --record"
    );
    ExitCode::FAILURE
}

/// Whether the processor has what the AEAD's crates and the copies to guests use where it is there. Valgrind knows
/// nothing beyond it, so all processors that have it count alike.
fn sees_avx2() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Under valgrind: one dump per case, and per size and way one of the AEAD alone.
fn count_all(cases: impl Iterator<Item = Case>) {
    let mut alone = Vec::new();
    // The crates' first look at the processor is nobody's.
    for way in [Way::Out, Way::In] {
        count_aead(way, Size::Packet(64));
    }
    request(ZERO_STATS, 0);
    for case in cases {
        let aead = aead_name(case.way, case.size);
        if !alone.contains(&aead) {
            count_aead(case.way, case.size);
            dump(&aead, 1);
            alone.push(aead);
        }
        let mut rig = Rig::new(case);
        let packets = rig.count(case);
        dump(&case.name(), packets);
    }
}

fn aead_name(way: Way, size: Size) -> String {
    format!("aead-{}/{}", way.name(), size.packet_len())
}

/// Seals or opens one packet.
fn count_aead(way: Way, size: Size) {
    let mut engine = portable();
    let (key, len) = ([7; 32], site::padded(size.packet_len()));
    let mut text = vec![1; len + culvert_aead::TAG_LEN + TAILROOM];
    let mut jobs = Jobs::<SealJob<'_>, 1>::new();
    let job = SealJob::in_place(&key, 0, &mut text, len).unwrap();
    assert!(jobs.push(job).is_ok());
    if matches!(way, Way::Out) {
        toggle();
        engine.seal(&mut jobs);
        toggle();
        return;
    }
    engine.seal(&mut jobs);
    let mut jobs = Jobs::<OpenJob<'_>, 1>::new();
    let job = OpenJob::in_place(&key, 0, &mut text[..len + culvert_aead::TAG_LEN]).unwrap();
    assert!(jobs.push(job).is_ok());
    toggle();
    engine.open(&mut jobs);
    toggle();
    assert!(jobs[0].ok());
}

fn portable() -> Engine {
    Engine::with_kernel(Kernel::Portable).expect("the kernel of every processor")
}

/// A site in memory, and both of its ends.
struct Rig {
    site: Site,
    guest: Frontend,
    wire: Wire,
    far: Peers,
    serial: usize,
}

impl Rig {
    fn new(case: Case) -> Self {
        let (queue, wire) = memory::open(&memory::Config {
            uplink: site::UPLINK,
            tunnel: site::TUNNEL,
            address: site::ADDRESS.into(),
            datagrams: WIRE,
            longest: site::LONGEST,
        });
        let scale = case.scale();
        let site = Site::new(scale, queue, Hop::kernel(site::UPLINK), portable());
        Self {
            guest: site.guests().remove(0),
            far: Peers::new(scale),
            site,
            wire,
            serial: 0,
        }
    }

    /// Counts a case's bursts, after uncounted ones with something small from or to every peer, as they will have had
    /// in a long run; answers how many packets were counted.
    fn count(&mut self, case: Case) -> usize {
        let small = Case {
            size: Size::Packet(64),
            ..case
        };
        for _ in 0..case.peers.max(case.burst).div_ceil(case.burst) {
            self.burst(small, &|| ());
        }
        let bursts = match case.size {
            Size::Packet(_) => FRAMES.div_ceil(case.burst),
            Size::SuperFrame => 1,
        };
        for _ in 0..bursts {
            self.burst(case, &toggle);
        }
        bursts * case.burst * case.size.packets()
    }

    /// Lets one burst through; `toggle` is called before and after each of the worker's turns.
    fn burst(&mut self, case: Case, toggle: &dyn Fn()) {
        match case.way {
            Way::Out => self.outward(case, toggle),
            Way::In => self.inward(case, toggle),
        }
        assert_eq!(self.site.dropped(), 0, "nothing is lost");
    }

    fn outward(&mut self, case: Case, toggle: &dyn Fn()) {
        for _ in 0..case.burst {
            let (vnet, mut frame) = case.scale().frame(case.size, 0, self.serial);
            if case.vlans > 0 {
                site::tag(&mut frame, site::VLANS[self.serial % case.vlans]);
            }
            assert!(self.guest.send_frame(0, &vnet, &frame), "room in the ring");
            self.serial += 1;
        }
        let packets = case.burst * case.size.packets();
        let until = self.site.sent() + packets as u64;
        while self.site.sent() < until {
            toggle();
            self.site.worker.step();
            toggle();
        }
        let far = &mut self.far;
        let mut came = 0;
        while self
            .wire
            .receive(|to, datagram| far.open(to, datagram))
            .is_some()
        {
            came += 1;
        }
        assert_eq!(came, packets, "what was sent arrives");
    }

    fn inward(&mut self, case: Case, toggle: &dyn Fn()) {
        let sealed = self.far.seal(case.size, case.burst);
        for (from, datagram) in &sealed {
            assert!(self.wire.send(*from, 0, datagram), "room on the wire");
        }
        let until = self.site.accepted() + sealed.len() as u64;
        let mut delivered = 0;
        while self.site.accepted() < until {
            toggle();
            self.site.worker.step();
            toggle();
            delivered += site::collect(&mut self.guest);
        }
        assert_eq!(delivered, sealed.len() as u64, "what was accepted arrives");
    }
}

/// Requests to callgrind, as `callgrind.h` numbers them.
const ZERO_STATS: usize = 1;
/// See `ZERO_STATS`.
const TOGGLE_COLLECT: usize = 2;
/// See `ZERO_STATS`.
const DUMP_STATS_AT: usize = 3;

/// Valgrind counts from now on, or no longer.
fn toggle() {
    request(TOGGLE_COLLECT, 0);
}

/// Writes down what was counted for a case, and begins anew.
fn dump(case: &str, packets: usize) {
    let text = std::ffi::CString::new(format!("{case} {packets}")).unwrap();
    request(DUMP_STATS_AT, text.as_ptr().addr());
}

/// A request to callgrind; outside of valgrind nothing happens.
#[cfg(target_arch = "x86_64")]
fn request(number: usize, argument: usize) {
    let tool = (usize::from(b'C') << 24) | (usize::from(b'T') << 16);
    let words = [tool | number, argument, 0, 0, 0, 0];
    // SAFETY: four rotations by 128 bits in all, an exchange of a register with itself: valgrind takes them for a
    // request and reads `words` and what its argument points to.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3", "rol rdi, 13", "rol rdi, 61", "rol rdi, 51", "xchg rbx, rbx",
            inout("rdx") 0usize => _, in("rax") &raw const words, in("rdi") 0usize,
            options(nostack)
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn request(_: usize, _: usize) {
    panic!("requests to valgrind are written for x86-64");
}
