//! Whole: a datagram that came in fragments, as if it had come whole.
//!
//! In: the frame that the host stack made of them. Out: the datagram, for a moment. Never: a tunnel's datagram that was not
//! looked at as any other is: what lies between fragments was checked by nobody.

use std::ptr::NonNull;

use culvert_dpdk_sys::RxChecksum;
use culvert_wire::{EthernetView, MacAddr};

use super::classify::{Accepted, Checks, Verdict, classify};
use crate::{
    shared::drops::DropReason,
    uplink::{Datagram, Uplink},
};

/// Hands the datagram in `frame` to `take`.
///
/// # Errors
/// Under which name it is lost, if it is none for a tunnel.
pub(crate) fn receive_whole(
    frame: &mut [u8],
    uplink: &Uplink,
    take: impl FnOnce(&mut [Datagram]),
) -> Result<(), DropReason> {
    const UNCHECKED: Checks = Checks {
        ip: RxChecksum::Unknown,
        l4: RxChecksum::Unknown,
        partial: false,
    };
    // That the frame was to us the stack has seen.
    let mac = EthernetView::new(frame).map_or(MacAddr::ZERO, EthernetView::destination);
    let mut found = None;
    match classify(frame, UNCHECKED, mac, uplink, |it| found = Some(it)) {
        Verdict::Datagram => {}
        Verdict::Punt(_) => return Err(DropReason::NotForUs),
        Verdict::Drop(reason) => return Err(reason),
    }
    let Some(Accepted {
        payload,
        source,
        local,
        tunnel,
        ecn,
    }) = found
    else {
        return Err(DropReason::OuterMalformed);
    };
    let bytes = &mut frame[payload];
    let len = u32::try_from(bytes.len()).map_err(|_| DropReason::OuterMalformed)?;
    // SAFETY: the bytes are borrowed as ours alone until this function ends, and the datagram, of which `take` gets but a
    // loan, ends with it.
    let datagram = unsafe {
        let start = NonNull::from(bytes).cast();
        Datagram::new(start, len, source, Some(local), tunnel, ecn)
    };
    uplink.counters.received(1, u64::from(len));
    take(&mut [datagram]);
    Ok(())
}
