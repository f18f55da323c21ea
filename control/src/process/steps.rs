//! Places at which a test ends the process, one after another, or has it hang.
//!
//! In: the number of a step, or its name, in the environment, of a build for tests. Out: SIGKILL there, or no end of it.
//! Never: anything in a release.

/// A step that may be the process's last. What comes after it is not done then, and what was done before it is.
#[cfg(debug_assertions)]
pub(crate) fn step(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The number of the step at which the process ends, and those so far.
    static LAST: LazyLock<Option<u64>> = LazyLock::new(|| {
        let number = std::env::var("CULVERT_TEST_DIES_AT_STEP").ok()?;
        number.parse().ok()
    });
    static STEPS: AtomicU64 = AtomicU64::new(0);
    while std::env::var("CULVERT_TEST_HANGS_AT_STEP").is_ok_and(|it| it == name) {
        std::thread::park();
    }
    let Some(last) = *LAST else { return };
    if STEPS.fetch_add(1, Ordering::SeqCst) + 1 == last {
        eprintln!("dies at step {last}: {name}");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn step(_name: &str) {}
