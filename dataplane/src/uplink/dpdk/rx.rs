//! Rx: one queue of a device, receiving.
//!
//! In: bursts of frames. Out: datagrams with their tunnels, in mbufs that are held until the next burst; punts to the
//! host stack and the host's kernel; drops by name. Never: a copy of a datagram.

use std::{os::fd::BorrowedFd, ptr::NonNull};

use culvert_dpdk_sys::{MbufBurst, RxQueue};
use culvert_wire::MacAddr;
use culvert_wireguard::Instant;

use super::{
    BURSTS, awaited,
    classify::{Accepted, Checks, Verdict, classify},
    cut::divide,
    owner::{Owner, owner},
};
use crate::{
    loss::{Lost, lose},
    shared::{
        drops::DropReason,
        ids::Scope,
        limits::HOST_FRAME_MAX,
        punt::{PuntClass, Punts},
    },
    uplink::{Datagram, Uplink},
};

/// The receiving half.
pub struct Rx {
    /// What `datagrams` points into. Before the queue: see `DpdkUplink::close`.
    held: Box<[MbufBurst; BURSTS]>,
    datagrams: Vec<Datagram>,
    pub(super) queue: Option<RxQueue>,
    mac: MacAddr,
    partial: bool,
}

impl Rx {
    pub(super) fn new(queue: Option<RxQueue>, mac: MacAddr, partial: bool) -> Self {
        Self {
            held: Box::new([const { MbufBurst::new() }; BURSTS]),
            datagrams: Vec::with_capacity(BURSTS * culvert_dpdk_sys::BURST),
            queue,
            mac,
            partial,
        }
    }

    pub(in crate::uplink) fn receive(
        &mut self,
        uplink: &Uplink,
        punts: &mut Punts,
        now: Instant,
    ) -> &mut [Datagram] {
        // 1. The last burst's buffers go home, then new ones come.
        self.datagrams.clear();
        for held in self.held.iter_mut() {
            held.clear();
        }
        let Some(queue) = &mut self.queue else {
            return &mut self.datagrams;
        };
        for held in self.held.iter_mut() {
            queue.burst(held);
            if held.vacancy() > 0 {
                break;
            }
        }

        // 2. Each frame gets its verdict.
        let mut bytes = 0;
        for held in self.held.iter_mut() {
            held.iter()
                .take(4)
                .for_each(culvert_dpdk_sys::Mbuf::prefetch);
            for position in 0..held.len() {
                if let Some(ahead) = held.get(position + 4) {
                    ahead.prefetch();
                }
                let mbuf = &held[position];
                let checks = Checks {
                    ip: mbuf.rx_ip_checksum(),
                    l4: mbuf.rx_l4_checksum(),
                    partial: self.partial,
                };
                let accept = |datagram: Accepted| {
                    let Accepted {
                        payload,
                        source,
                        local,
                        tunnel,
                        ecn,
                    } = datagram;
                    let len = u32::try_from(payload.len()).unwrap_or(0);
                    bytes += u64::from(len);
                    // SAFETY: the payload lies in the bytes of an mbuf that `held` owns
                    // until the next `receive`, one datagram per mbuf.
                    self.datagrams.push(unsafe {
                        let start = NonNull::new_unchecked(mbuf.data().add(payload.start));
                        Datagram::new(start, len, source, Some(local), tunnel, ecn)
                    });
                };
                let verdict = if mbuf.segments() == 1 {
                    classify(mbuf.bytes(), checks, self.mac, uplink, accept)
                } else {
                    Verdict::Drop(DropReason::OuterMalformed)
                };
                if verdict != Verdict::Datagram
                    && let Some(ports) = &uplink.kernel
                {
                    let owner = owner(verdict, mbuf.bytes(), self.mac, ports);
                    if owner != Owner::Us
                        && let Err(reason) = punts.push_to_kernel(uplink.index, mbuf.bytes(), now)
                    {
                        lose(uplink.books(), reason, Lost::Wire(mbuf.bytes()));
                    }
                    if owner == Owner::Kernel {
                        continue;
                    }
                }
                match verdict {
                    Verdict::Datagram => {}
                    Verdict::Punt(class) => {
                        let class = awaited::class(class, mbuf.bytes(), (uplink, self.mac), now);
                        let pushed = class.and_then(|class| {
                            let scope = Scope::Uplink(uplink.index);
                            let mut push = |frame: &[u8]| punts.push(class, scope, frame, now);
                            let is_long = mbuf.bytes().len() > HOST_FRAME_MAX;
                            match class == PuntClass::Fragment && is_long {
                                true => divide(mbuf.bytes(), push),
                                false => push(mbuf.bytes()),
                            }
                        });
                        if let Err(reason) = pushed {
                            lose(uplink.books(), reason, Lost::Wire(mbuf.bytes()));
                        }
                    }
                    Verdict::Drop(reason) => {
                        lose(uplink.books(), reason, Lost::Wire(mbuf.bytes()));
                    }
                }
            }
        }
        if !self.datagrams.is_empty() {
            uplink.counters.received(self.datagrams.len() as u64, bytes);
        }
        &mut self.datagrams
    }

    pub(in crate::uplink) fn descriptors<'a>(&'a self, list: &mut Vec<BorrowedFd<'a>>) {
        list.extend(self.queue.as_ref().and_then(RxQueue::descriptor));
    }
}
