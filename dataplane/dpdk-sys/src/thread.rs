//! A worker thread's registration with EAL.
//!
//! *In*: the thread that calls. *Out*: a guard. *Never*: the thread's affinity, which is its owner's.

use std::marker::PhantomData;

use crate::{
    eal::{Eal, Errno},
    ffi,
};

/// While this lives, its thread has an lcore id and with it the mempools' per-thread caches: allocating and
/// freeing an mbuf costs a few nanoseconds instead of some 150. Nothing depends on it but speed.
#[derive(Debug)]
pub struct Registration {
    // Bound to its thread.
    _thread: PhantomData<*mut ()>,
}

impl Registration {
    /// Registers the calling thread.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when all lcore ids are taken, `EEXIST` when the thread is registered already.
    pub fn new(eal: Eal) -> Result<Self, Errno> {
        if eal.lcore().is_some() {
            return Err(Errno(libc::EEXIST));
        }
        // SAFETY: EAL runs, as `eal` proves.
        match unsafe { ffi::culvert_thread_register() } {
            0 => Ok(Self {
                _thread: PhantomData,
            }),
            error => Err(Errno::from_return(error)),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: this thread was registered by `new` and the guard can't leave it.
        unsafe { ffi::culvert_thread_unregister() };
    }
}
