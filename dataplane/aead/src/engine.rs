//! The engine: one kernel, chosen once, and its scratch memory.
//!
//! **In**: a burst of jobs. **Out**: sealed packets, opened packets, verdicts.
//! **Never**: a choice of kernel per packet, an allocation after [`Engine::new`].

#![allow(unsafe_code, reason = "calls kernels that need processor features")]

#[cfg(target_arch = "x86_64")]
use crate::batch::Scratch;
use crate::job::{DecryptJob, OpenJob, SealJob, Sealed};
use crate::{PayloadSum, portable};
#[cfg(target_arch = "x86_64")]
use crate::{avx2, avx512};

/// A way to compute, bound to what the processor can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512 with IFMA: sixteen ChaCha20 blocks and eight Poly1305 packets side by side.
    Avx512,
    /// AVX2: eight ChaCha20 blocks and four Poly1305 packets side by side.
    Avx2,
    /// The `chacha20` and `poly1305` crates, packet by packet, on any processor.
    Portable,
}

impl Kernel {
    /// Every kernel, fastest first.
    pub const ALL: [Self; 3] = [Self::Avx512, Self::Avx2, Self::Portable];

    /// The fastest kernel that this processor can run.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL
            .into_iter()
            .find(|kernel| kernel.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Whether this processor can run it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => avx512::is_available(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => avx2::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }
}

/// Seals and opens bursts. A worker makes one and keeps it.
pub struct Engine {
    /// Never one that the processor can't run.
    kernel: Kernel,
    #[cfg(target_arch = "x86_64")]
    scratch: Box<Scratch>,
}

// SAFETY: the pointers in the scratch's lanes are left over from a call that has returned; nothing
// follows them.
unsafe impl Send for Engine {}

impl Engine {
    /// An engine with the fastest kernel of this processor.
    #[must_use]
    pub fn new() -> Self {
        Self::of(Kernel::best())
    }

    /// An engine with this kernel; `None` when the processor can't run it.
    #[must_use]
    pub fn with_kernel(kernel: Kernel) -> Option<Self> {
        kernel.is_available().then(|| Self::of(kernel))
    }

    fn of(kernel: Kernel) -> Self {
        Self {
            kernel,
            #[cfg(target_arch = "x86_64")]
            scratch: Box::new(Scratch::new()),
        }
    }

    /// The kernel in use.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Whether seals from now on say the sums of ciphertext and tag: see [`SealJob::sealed_sum`].
    pub fn sum_sealed(&mut self, wanted: bool) {
        #[cfg(target_arch = "x86_64")]
        {
            self.scratch.sums_sealed = wanted;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = wanted;
    }

    /// Seals every job that wasn't sealed before. Any number of jobs; batches of 16 and more are
    /// the fastest, and sizes and keys may be mixed.
    pub fn seal(&mut self, jobs: &mut [SealJob<'_>]) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx512 => unsafe { avx512::seal(&mut self.scratch, jobs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx2 => unsafe { avx2::seal(&mut self.scratch, jobs) },
            _ => portable::seal(jobs, &mut None::<fn(usize, PayloadSum, &mut [u8])>),
        }
    }

    /// Seals payloads first and heads last, so that a checksum in the head costs no second pass.
    ///
    /// When a job's payload has been read, `finish` gets the job's index, the sum of its payload
    /// and its head as plaintext to complete; then the head is sealed.
    pub fn seal_with(
        &mut self,
        jobs: &mut [SealJob<'_>],
        mut finish: impl FnMut(usize, PayloadSum, &mut [u8]),
    ) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx512 => unsafe { avx512::seal_with(&mut self.scratch, jobs, &mut finish) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx2 => unsafe { avx2::seal_with(&mut self.scratch, jobs, &mut finish) },
            _ => portable::seal(jobs, &mut Some(&mut finish)),
        }
    }

    /// Verifies every job that wasn't looked at before and decrypts those that verify, in place.
    /// The buffer of a packet that doesn't verify is left as it is.
    pub fn open(&mut self, jobs: &mut [OpenJob<'_>]) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx512 => unsafe { avx512::open(&mut self.scratch, jobs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx2 => unsafe { avx2::open(&mut self.scratch, jobs) },
            _ => portable::open(jobs),
        }
    }

    /// Verifies, and writes nothing.
    pub fn verify(&mut self, jobs: &mut [Sealed<'_>]) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx512 => unsafe { avx512::verify(&mut self.scratch, jobs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx2 => unsafe { avx2::verify(&mut self.scratch, jobs) },
            _ => portable::verify(jobs),
        }
    }

    /// Decrypts ranges of verified packets to their destinations.
    pub fn decrypt(&mut self, jobs: &mut [DecryptJob<'_>]) {
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx512 => unsafe { avx512::decrypt(&mut self.scratch, jobs) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: an engine's kernel is available.
            Kernel::Avx2 => unsafe { avx2::decrypt(&mut self.scratch, jobs) },
            _ => portable::decrypt(jobs),
        }
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::{Engine, Kernel};
    use crate::batch::Line;
    use crate::{Jobs, OpenJob, SealJob, Sealed, TAG_LEN, TAILROOM};

    /// Every line of keys, keystream and states in the scratch is zero.
    fn wiped(engine: &Engine) -> bool {
        let secret = &engine.scratch.secret;
        let zero = |line: &Line| line.0 == [0; 8];
        secret.poly_keys.iter().all(zero)
            && secret.keystream.iter().all(zero)
            && secret.ahead.iter().all(zero)
            && secret.side.is_wiped()
    }

    #[test]
    fn every_call_wipes_its_secrets() {
        let kernels = Kernel::ALL.into_iter().filter_map(Engine::with_kernel);
        for mut engine in kernels {
            let kernel = engine.kernel();
            for batch in [1, 2, 3, 5, 8, 17, 64] {
                for len in [
                    0, 1, 63, 64, 65, 300, 383, 384, 512, 700, 961, 1100, 1420, 5000,
                ] {
                    let key = [7; 32];
                    let mut buffers = vec![vec![1; len + TAG_LEN + TAILROOM]; batch];
                    let mut jobs = Jobs::<_, 64>::new();
                    for buffer in &mut buffers {
                        let job = SealJob::in_place(&key, 3, buffer, len).expect("room");
                        assert!(jobs.push(job).is_ok());
                    }
                    if batch % 2 == 0 {
                        engine.seal_with(&mut jobs, |_, _, _| ());
                    } else {
                        engine.seal(&mut jobs);
                    }
                    assert!(wiped(&engine), "{kernel:?}: seal {batch} of {len}");

                    // One packet of the burst is broken.
                    buffers[batch / 2][len] ^= 1;
                    let mut jobs = Jobs::<_, 64>::new();
                    for buffer in &buffers {
                        let job = Sealed::new(&key, 3, &buffer[..len + TAG_LEN]).expect("a tag");
                        assert!(jobs.push(job).is_ok());
                    }
                    engine.verify(&mut jobs);
                    assert!(wiped(&engine), "{kernel:?}: verify {batch} of {len}");

                    let mut jobs = Jobs::<_, 64>::new();
                    for buffer in &mut buffers {
                        let sealed = &mut buffer[..len + TAG_LEN];
                        let job = OpenJob::in_place(&key, 3, sealed).expect("a tag");
                        assert!(jobs.push(job).is_ok());
                    }
                    engine.open(&mut jobs);
                    for (i, job) in jobs.iter().enumerate() {
                        assert_eq!(job.ok(), i != batch / 2, "{kernel:?}: {batch} of {len}");
                    }
                    assert!(wiped(&engine), "{kernel:?}: open {batch} of {len}");
                }
            }
        }
    }
}
