//! Device: where smoltcp finds a packet, and leaves those that it sends.
//!
//! In: a packet that came. Out: frames whose packets are written, with room for a link header ahead. Never: a packet that
//! waits here; more frames than there is room for.

use culvert_wire::ether;
use smoltcp::{
    phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

/// One look of smoltcp's at the wire.
pub(super) struct Wire<'a> {
    pub(super) incoming: Option<&'a [u8]>,
    pub(super) outgoing: &'a mut Vec<Vec<u8>>,
    /// How many frames may lie there.
    pub(super) room: usize,
    /// The longest packet.
    pub(super) mtu: u16,
}

impl Device for Wire<'_> {
    type RxToken<'t>
        = Incoming<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Outgoing<'t>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing(self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < self.room).then_some(Outgoing(self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut checksum = ChecksumCapabilities::default();
        // Those of packets that come were looked at: by the worker, or where fragments were put together.
        (checksum.ipv4, checksum.tcp) = (Checksum::Tx, Checksum::Tx);
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu.into();
        capabilities.checksum = checksum;
        capabilities
    }
}

/// A packet that came.
pub(super) struct Incoming<'t>(&'t [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The place of one that is sent.
pub(super) struct Outgoing<'t>(&'t mut Vec<Vec<u8>>);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; ether::HEADER_LEN + len];
        let result = f(&mut frame[ether::HEADER_LEN..]);
        self.0.push(frame);
        result
    }
}
