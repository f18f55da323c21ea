//! The environment abstraction layer: DPDK's start, once per process.
//!
//! *In*: how much memory and of which kind, whether PCI devices may be plugged later. *Out*: an [`Eal`], the
//! token that everything else in this crate asks for. *Never*: a device (they are plugged later), a signal
//! handler, a changed thread affinity, a second start.
//!
//! What EAL gets on its command line, and why:
//! - `--lcores 0@(cpus)`: one lcore that floats over all CPUs this thread may run on. `-l N` would pin the
//!   calling thread, and all threads it starts would inherit that. Workers register themselves.
//! - with hugepages `--in-memory`: no file is left in hugetlbfs and none need be mounted;
//!   without them `--no-huge -m MB --no-shconf` (22.11 refuses `--no-huge` beside `--in-memory`).
//! - `--no-pci`, or the allow-list that allows nothing, see [`Pci`].
//! - `--no-telemetry`, and a `--file-prefix` of our own: several instances live on one machine.

use std::{
    ffi::{CStr, CString},
    fmt, fs, io, mem,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    departures, ffi,
    log::{self, LogLevel, LogSink},
};

/// An address that no NIC has: the last function of the last device of the last bus of a PCI domain far
/// above any that Linux assigns.
const NO_DEVICE: &str = "fffffffe:ff:1f.7";

/// Which memory DPDK's pools come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Hugepages if enough of them are free, plain memory otherwise.
    #[default]
    Auto,
    /// Hugepages or an error that says how to get them. A physical NIC wants them.
    Required,
    /// Plain memory: any machine, any container; slower, and only for devices without DMA.
    Off,
}

/// The memory that EAL started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// Hugepages, left nowhere on a file system.
    Hugepages,
    /// Anonymous plain pages.
    Plain,
}

/// Whether PCI devices may be plugged later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pci {
    /// The bus is there and takes nothing by itself: EAL gets an allow-list whose only entry is an address
    /// that no device has. `--no-pci` would instead hide the bus for the process's whole life, and no list
    /// at all would let EAL take every NIC that is bound to a user-space driver. Plugging a device later
    /// adds it to the list.
    #[default]
    Idle,
    /// `--no-pci`: virtual devices only.
    Off,
}

/// What [`Eal::init`] wants to know.
pub struct EalConfig {
    /// Kind of memory.
    pub hugepages: Hugepages,
    /// Names this instance's files and shared memory; unique per process. Default `culvert-<pid>`.
    pub file_prefix: String,
    /// Memory to take at start, in MiB. Without hugepages it is all there will ever be.
    pub memory_mb: u32,
    /// CPUs that EAL's own threads may float over; empty: those of the calling thread.
    pub cpus: Vec<usize>,
    /// Whether PCI devices may be plugged later.
    pub pci: Pci,
    /// Receives DPDK's log lines; none: they are dropped.
    pub log: Option<LogSink>,
    /// The least severe lines that are logged.
    pub log_level: LogLevel,
    /// Keep all memory of one page size in one descriptor, as `net_virtio_user` and `net_memif` need it.
    pub single_file_segments: bool,
    /// Further EAL arguments, for the operator who knows what they do.
    pub extra: Vec<String>,
}

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            hugepages: Hugepages::Auto,
            file_prefix: format!("culvert-{}", std::process::id()),
            memory_mb: 256,
            cpus: Vec::new(),
            pci: Pci::Idle,
            log: None,
            log_level: LogLevel::Notice,
            single_file_segments: false,
            extra: Vec::new(),
        }
    }
}

/// Proof that EAL runs. It never stops running before the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Eal {
    memory: Memory,
    pci: Pci,
}

/// An errno as DPDK names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// From DPDK's negative return values.
    pub(crate) fn from_return(value: i32) -> Self {
        Self(value.saturating_abs())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: returns a static or thread-local text, copied before anything else can run here.
        let text = unsafe { CStr::from_ptr(ffi::culvert_strerror(self.0)) };
        write!(f, "{} (errno {})", text.to_string_lossy(), self.0)
    }
}

/// Why EAL did not start.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// A second start in one process: DPDK can't do that, not even after a failed one.
    #[error("DPDK was started before in this process, and it starts only once: restart culvert")]
    StartedBefore,
    /// Too few free hugepages.
    #[error(
        "DPDK was asked for {wanted_mb} MiB of hugepages, and {free_mb} MiB are free.\n\
         To reserve them: echo {pages} > {file}\n\
         To see what takes them: grep -i huge /proc/meminfo\n\
         To start without hugepages (virtual devices only): set hugepages to off or auto"
    )]
    Hugepages {
        /// MiB asked for.
        wanted_mb: u32,
        /// MiB that are free.
        free_mb: u64,
        /// Number of pages to write.
        pages: u64,
        /// Where to write it.
        file: String,
    },
    /// A configured text holds a zero byte.
    #[error("an EAL argument holds a zero byte: {0:?}")]
    Argument(String),
    /// The log stream could not be redirected.
    #[error("DPDK's log could not be redirected: {0}")]
    Log(Errno),
    /// Its memory would grow whoever asks.
    #[error("DPDK's memory can't be kept from growing while guests run: {0}")]
    Freeze(Errno),
    /// Devices that are taken away could not be heard of.
    #[error("DPDK would not tell of devices that are taken away: {0}")]
    Departures(Errno),
    /// `rte_eal_init` failed.
    #[error("DPDK did not start: {error}.\nIt was started as: {arguments}{}\n{mend}", indented(.log))]
    Init {
        /// What it returned.
        error: Errno,
        /// Its command line.
        arguments: String,
        /// What it logged.
        log: Vec<String>,
        /// What may mend it.
        mend: &'static str,
    },
}

pub(crate) fn indented(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}

/// Lets DPDK take memory for what is done here, and for that alone: who else asks for more than there is, is refused,
/// which DPDK logs once. Meanwhile SIGBUS is EAL's on this thread; other threads, which may meet a guest's truncated
/// memory, have the process's action (`sigaction` in shim.c).
pub(crate) fn growing<T>(act: impl FnOnce() -> T) -> T {
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            // SAFETY: it began on this thread.
            unsafe { ffi::culvert_memory_grow(0) };
        }
    }
    // SAFETY: it ends on this thread, whatever happens.
    unsafe { ffi::culvert_memory_grow(1) };
    let _ends = Ends;
    act()
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK without any device.
    ///
    /// The calling thread keeps its CPU affinity and its signal mask; EAL's own threads block all signals.
    ///
    /// # Errors
    ///
    /// [`EalError`], which says what was tried and what mends it. Only errors that say so can be followed by
    /// another attempt in the same process: `Hugepages` and `Argument`.
    pub fn init(config: EalConfig) -> Result<Self, EalError> {
        let memory = choose_memory(&config)?;
        let arguments = arguments(&config, memory);
        let c_arguments = arguments
            .iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| EalError::Argument(text.clone())))
            .collect::<Result<Vec<_>, _>>()?;
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::StartedBefore);
        }
        log::redirect(config.log, config.log_level)
            .map_err(|error| EalError::Log(Errno::from_return(error)))?;

        let (result, log) = log::capture(|| growing(|| guarded_init(c_arguments)));
        remove_runtime_dir(&config.file_prefix);
        if result == 0 {
            departures::listen().map_err(EalError::Departures)?;
            // SAFETY: EAL runs; what is registered lives as long as the process.
            return match unsafe { ffi::culvert_memory_freeze() } {
                0 => Ok(Self {
                    memory,
                    pci: config.pci,
                }),
                error => Err(EalError::Freeze(Errno::from_return(error))),
            };
        }
        Err(EalError::Init {
            error: Errno::from_return(result),
            arguments: arguments.join(" "),
            log,
            mend: match memory {
                Memory::Hugepages => {
                    "To reserve hugepages: echo 512 > /proc/sys/vm/nr_hugepages\n\
                     To start without them (virtual devices only): set hugepages to off"
                }
                Memory::Plain => {
                    "Is that much memory free, and may this process lock it? See free -m and ulimit -l"
                }
            },
        })
    }

    /// The kind of memory that was taken.
    #[must_use]
    pub fn memory(self) -> Memory {
        self.memory
    }

    /// Whether PCI devices can be plugged.
    #[must_use]
    pub fn pci(self) -> Pci {
        self.pci
    }

    /// The thread's lcore id, if it is registered.
    #[must_use]
    pub fn lcore(self) -> Option<u32> {
        // SAFETY: reads a thread-local.
        let lcore = unsafe { ffi::culvert_lcore_id() };
        (lcore != u32::MAX).then_some(lcore)
    }
}

/// The version of the DPDK that is linked, as it names itself.
#[must_use]
pub fn version() -> String {
    // SAFETY: returns a static text.
    unsafe { CStr::from_ptr(ffi::culvert_version()) }
        .to_string_lossy()
        .into_owned()
}

fn arguments(config: &EalConfig, memory: Memory) -> Vec<String> {
    let mut list = vec!["culvert".to_owned()];
    let mut add = |parts: &[&str]| list.extend(parts.iter().map(|&part| part.to_owned()));

    add(&["--lcores", &format!("0@({})", cpu_list(&config.cpus))]);
    add(&["--file-prefix", &config.file_prefix, "--no-telemetry"]);
    let memory_mb = config.memory_mb.to_string();
    match memory {
        Memory::Hugepages => {
            add(&["--in-memory", "-m", &memory_mb]);
            if config.single_file_segments {
                add(&["--single-file-segments"]);
            }
        }
        Memory::Plain => add(&["--no-huge", "--no-shconf", "-m", &memory_mb]),
    }
    match config.pci {
        Pci::Off => add(&["--no-pci", "--iova-mode=va"]),
        // The IOVA mode is EAL's choice here: VA behind an IOMMU, PA without one.
        Pci::Idle if memory == Memory::Hugepages => add(&["-a", NO_DEVICE]),
        // Plain memory has no physical addresses to offer.
        Pci::Idle => add(&["-a", NO_DEVICE, "--iova-mode=va"]),
    }
    list.extend(config.extra.iter().cloned());
    list
}

/// The CPUs as EAL's list syntax. EAL knows no CPU number beyond its own maximum.
fn cpu_list(cpus: &[usize]) -> String {
    let allowed = if cpus.is_empty() {
        affinity_cpus()
    } else {
        cpus.to_vec()
    };
    let known: Vec<String> = allowed
        .iter()
        .filter(|&&cpu| cpu < ffi::CULVERT_LCORES_MAX as usize)
        .map(ToString::to_string)
        .collect();
    if known.is_empty() {
        "0".to_owned()
    } else {
        known.join(",")
    }
}

fn choose_memory(config: &EalConfig) -> Result<Memory, EalError> {
    if config.hugepages == Hugepages::Off {
        return Ok(Memory::Plain);
    }
    let wanted = u64::from(config.memory_mb) << 20;
    let sizes = free_hugepages();
    // EAL takes the memory of one socket from one page size after the other.
    let free: u64 = sizes.iter().map(|size| size.free_bytes()).sum();
    if free >= wanted.max(1) {
        return Ok(Memory::Hugepages);
    }
    if config.hugepages == Hugepages::Auto {
        return Ok(Memory::Plain);
    }
    let page = sizes.iter().map(|size| size.bytes).min().unwrap_or(2 << 20);
    let total = sizes
        .iter()
        .find(|size| size.bytes == page)
        .map_or(0, |size| size.total);
    Err(EalError::Hugepages {
        wanted_mb: config.memory_mb,
        free_mb: free >> 20,
        pages: total + (wanted - free).div_ceil(page),
        file: format!(
            "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
            page >> 10
        ),
    })
}

struct PageSize {
    bytes: u64,
    free: u64,
    total: u64,
}

impl PageSize {
    fn free_bytes(&self) -> u64 {
        self.free.saturating_mul(self.bytes)
    }
}

fn free_hugepages() -> Vec<PageSize> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let number = |path: std::path::PathBuf| -> Option<u64> {
        fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            // Pages that are promised to somebody else's mapping count as free but are not.
            let free = number(entry.path().join("free_hugepages"))?;
            let promised = number(entry.path().join("resv_hugepages")).unwrap_or(0);
            Some(PageSize {
                bytes: kib << 10,
                free: free.saturating_sub(promised),
                total: number(entry.path().join("nr_hugepages")).unwrap_or(free),
            })
        })
        .collect()
}

/// Runs `rte_eal_init` and puts back what it changes on the calling thread.
///
/// 1. Block every signal that is not a fault, so that the threads EAL starts inherit that.
/// 2. Start.
/// 3. Restore the mask, and the affinity that EAL narrowed.
fn guarded_init(arguments: Vec<CString>) -> i32 {
    let affinity = affinity();
    let mut pointers: Vec<*mut libc::c_char> =
        arguments.into_iter().map(CString::into_raw).collect();
    let count = i32::try_from(pointers.len()).unwrap_or(i32::MAX);
    pointers.push(std::ptr::null_mut());
    // EAL keeps pointers into its arguments: they are given away for good.
    let pointers = pointers.leak();

    // SAFETY: `sigset_t` is plain bytes that sigfillset initialises; the calls get valid pointers to locals.
    let mask = unsafe {
        let mut block: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&raw mut block);
        for fault in [
            libc::SIGBUS,
            libc::SIGSEGV,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
        ] {
            libc::sigdelset(&raw mut block, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const block, &raw mut before);
        before
    };
    // SAFETY: `count` C strings and a null behind them, never freed.
    let result = unsafe { ffi::culvert_eal_init(count, pointers.as_mut_ptr()) };
    // SAFETY: the mask was filled in above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, std::ptr::null_mut()) };
    if let Ok(affinity) = affinity {
        // SAFETY: a filled-in set of the size given. A failure leaves the thread where EAL put it.
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const affinity) };
    }
    result
}

/// EAL makes a folder for shared files even where it was told to share none. Only an empty one is removed.
fn remove_runtime_dir(prefix: &str) {
    // SAFETY: returns a static text, empty before EAL made the folder.
    let path = unsafe { CStr::from_ptr(ffi::culvert_runtime_dir()) };
    if let Ok(path) = path.to_str()
        && path.ends_with(&format!("/{prefix}"))
    {
        // Somebody's files in it are theirs.
        let _ = fs::remove_dir(path);
    }
}

fn affinity() -> io::Result<libc::cpu_set_t> {
    // SAFETY: a cpu_set_t is a bit mask, zeros are a valid one; the call writes no more than its size.
    unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) == 0 {
            Ok(set)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn affinity_cpus() -> Vec<usize> {
    let Ok(set) = affinity() else {
        return Vec::new();
    };
    let max = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: every index is below CPU_SETSIZE.
    (0..max)
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect()
}
