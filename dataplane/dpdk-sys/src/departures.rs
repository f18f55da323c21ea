//! Devices that the kernel wants back: unbound from vfio-pci, or pulled out. It waits until they are closed.
//!
//! *In*: names, from EAL's interrupt thread, as often as the kernel asks. *Out*: whether a device's is among them.
//! *Never*: a call into DPDK from there: a device can't be closed by who tells of it.

use std::{
    ffi::{CStr, c_char},
    panic::catch_unwind,
    sync::{Mutex, PoisonError},
};

use crate::{eal::Errno, ffi};

/// Those asked for that are not closed yet: no more than there are devices.
static WANTED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Listens from now on.
pub(crate) fn listen() -> Result<(), Errno> {
    // SAFETY: EAL runs; `note` lives as long as the process and catches its own panics.
    match unsafe { ffi::culvert_departures(Some(note)) } {
        0 => Ok(()),
        error => Err(Errno::from_return(error)),
    }
}

/// Whether the kernel waits for this device.
pub(crate) fn is_wanted(device: &str) -> bool {
    let wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    wanted.iter().any(|it| it == device)
}

/// The device is closed.
pub(crate) fn forget(device: &str) {
    let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    wanted.retain(|it| it != device);
}

unsafe extern "C" fn note(device: *const c_char) {
    // SAFETY: EAL hands a C string that lives for this call.
    let device = unsafe { CStr::from_ptr(device) }.to_string_lossy();
    // A panic may not unwind into C.
    let _ = catch_unwind(|| {
        let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted.iter().all(|it| *it != device) {
            wanted.push(device.into_owned());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_wanted_until_it_is_closed() {
        let (first, other) = (c"0000:01:00.0", "0000:02:00.0");
        for _ in 0..3 {
            // SAFETY: a C string.
            unsafe { note(first.as_ptr()) };
        }
        assert!(is_wanted("0000:01:00.0") && !is_wanted(other));
        assert_eq!(WANTED.lock().unwrap().len(), 1);
        forget("0000:01:00.0");
        assert!(!is_wanted("0000:01:00.0"));
    }
}
