//! DPDK's log lines, on their way to whoever configured a sink.
//!
//! *In*: lines from any thread that runs DPDK code. *Out*: the sink given to `Eal::init`, and, while
//! [`capture`] runs, the caller's error message. *Never*: standard output or error, a panic across C.

use std::{
    cell::RefCell,
    ffi::c_char,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::OnceLock,
};

use crate::ffi;

/// Severity of a DPDK log line, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// The process can't go on (DPDK's emergency, alert and critical).
    Critical,
    /// Something failed.
    Error,
    /// Something may be wrong.
    Warning,
    /// Worth knowing.
    Notice,
    /// Progress.
    Info,
    /// For DPDK's developers.
    Debug,
}

impl LogLevel {
    fn from_dpdk(level: u32) -> Self {
        match level {
            0..=3 => Self::Critical,
            4 => Self::Error,
            5 => Self::Warning,
            6 => Self::Notice,
            7 => Self::Info,
            _ => Self::Debug,
        }
    }

    pub(crate) fn to_dpdk(self) -> u32 {
        match self {
            Self::Critical => 3,
            Self::Error => 4,
            Self::Warning => 5,
            Self::Notice => 6,
            Self::Info => 7,
            Self::Debug => 8,
        }
    }
}

/// Receives each line without its line end, on the thread that wrote it. It must not call into DPDK.
pub type LogSink = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

static SINK: OnceLock<LogSink> = OnceLock::new();

/// Lines kept for one error message: the first ones name the cause.
const CAPTURED_MAX: usize = 8;

thread_local! {
    static CAPTURE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Redirects DPDK's log stream. Called once, before EAL starts.
pub(crate) fn redirect(sink: Option<LogSink>, level: LogLevel) -> Result<(), i32> {
    if let Some(sink) = sink {
        // The caller's once-guard makes a second call impossible.
        let _ = SINK.set(sink);
    }
    // SAFETY: `receive` lives as long as the process and catches its own panics.
    let result = unsafe { ffi::culvert_log_redirect(Some(receive)) };
    // SAFETY: a plain setter.
    unsafe { ffi::culvert_log_level(level.to_dpdk()) };
    if result == 0 { Ok(()) } else { Err(result) }
}

/// Runs `call` and returns what DPDK complained about meanwhile on this thread.
pub(crate) fn capture<T>(call: impl FnOnce() -> T) -> (T, Vec<String>) {
    CAPTURE.with_borrow_mut(|lines| *lines = Some(Vec::new()));
    let result = call();
    let lines = CAPTURE.with_borrow_mut(Option::take).unwrap_or_default();
    (result, lines)
}

unsafe extern "C" fn receive(level: u32, line: *const c_char, len: usize) {
    // SAFETY: stdio hands a buffer of `len` bytes that lives for this call.
    let bytes = unsafe { std::slice::from_raw_parts(line.cast::<u8>(), len) };
    // A panic may not unwind into C. What the sink left half done is the sink's.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let level = LogLevel::from_dpdk(level);
        for line in String::from_utf8_lossy(bytes).lines() {
            let line = line.trim_end();
            if !line.is_empty() {
                deliver(level, line);
            }
        }
    }));
}

fn deliver(level: LogLevel, line: &str) {
    if level <= LogLevel::Warning {
        // A thread that is going down has no storage any more, and no capture either.
        let _ = CAPTURE.try_with(|lines| {
            if let Ok(mut lines) = lines.try_borrow_mut()
                && let Some(lines) = lines.as_mut()
                && lines.len() < CAPTURED_MAX
            {
                lines.push(line.to_owned());
            }
        });
    }
    if let Some(sink) = SINK.get() {
        sink(level, line);
    }
}
