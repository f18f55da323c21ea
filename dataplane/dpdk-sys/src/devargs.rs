//! What a devargs text says about a device before DPDK has seen it, and what `net_af_packet` needs added.
//!
//! *In*: the operator's text (`net_af_packet0,iface=eth1`, `0000:3b:00.0`). *Out*: the device's name and
//! driver, kernel interface, the completed text. *Never*: a change of what the operator wrote.

/// Ethernet header.
const ETHERNET: u32 = 14;

/// What the kernel puts ahead of a received frame in an AF_PACKET ring of version 2 (the frame header, then
/// the alignment of the network header): the frame's bytes begin 66 bytes into the slot.
const PACKET_RING_OVERHEAD: u32 = 66;

/// `framesz` of net_af_packet when nothing is said.
const FRAME_SIZE_DEFAULT: u32 = 2048;

/// The ring's blocks are multiples of a page, and the driver wants whole frames in a block.
const PAGE: u32 = 4096;

/// A parsed devargs text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Devargs<'a> {
    text: &'a str,
    name: &'a str,
}

impl<'a> Devargs<'a> {
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let text = text.trim();
        let name = text.split(',').next().filter(|name| !name.is_empty())?;
        // A bus prefix ("pci:", "vdev:") is EAL's; the device is named by what follows.
        let name = name
            .strip_prefix("pci:")
            .or(name.strip_prefix("vdev:"))
            .unwrap_or(name);
        Some(Self { text, name })
    }

    /// The name that DPDK gives the device; a PCI address in its long form.
    pub(crate) fn device_name(&self) -> String {
        match pci_parts(self.name) {
            Some(2) => format!("0000:{}", self.name.to_ascii_lowercase()),
            Some(_) => self.name.to_ascii_lowercase(),
            None => self.name.to_owned(),
        }
    }

    pub(crate) fn is_pci(&self) -> bool {
        pci_parts(self.name).is_some()
    }

    pub(crate) fn is_af_packet(&self) -> bool {
        self.name.starts_with("net_af_packet") || self.name.starts_with("eth_af_packet")
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a str> {
        self.text
            .split(',')
            .skip(1)
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }

    /// Whether it is made of others.
    pub(crate) fn is_bond(&self) -> bool {
        self.name.starts_with("net_bonding") || self.name.starts_with("eth_bond")
    }

    /// The kernel interface that a virtual device stands on.
    pub(crate) fn interface(&self) -> Option<&'a str> {
        self.value("iface")
    }

    /// Queue pairs that `net_af_packet` was told to have. It spreads packets over all of them.
    pub(crate) fn queue_pairs(&self) -> Option<u16> {
        if !self.is_af_packet() {
            return None;
        }
        self.value("qpairs")?.parse().ok()
    }

    /// The text with what `net_af_packet` needs for `queues` queue pairs and the interface's MTU, where the
    /// operator did not say: `qpairs`, and ring slots that a whole frame fits.
    pub(crate) fn completed(&self, queues: u16, kernel_mtu: Option<u32>) -> String {
        let mut text = self.text.to_owned();
        if !self.is_af_packet() {
            return text;
        }
        if queues > 1 && self.value("qpairs").is_none() {
            text.push_str(&format!(",qpairs={queues}"));
        }
        if let Some(mtu) = kernel_mtu
            && self.value("framesz").is_none()
            && self.value("blocksz").is_none()
        {
            let slot = mtu.saturating_add(ETHERNET + PACKET_RING_OVERHEAD);
            if slot > FRAME_SIZE_DEFAULT {
                // One frame per block: the driver needs blocks that whole frames fill.
                let size = slot.next_multiple_of(PAGE);
                text.push_str(&format!(",framesz={size},blocksz={size}"));
            }
        }
        text
    }

    /// The longest frame of a kernel device, without FCS: what its MTU and the ring's slots allow.
    pub(crate) fn frame_limit(&self, kernel_mtu: u32) -> u32 {
        let by_mtu = kernel_mtu.saturating_add(ETHERNET);
        if !self.is_af_packet() {
            return by_mtu;
        }
        by_mtu.min(self.frame_size() - PACKET_RING_OVERHEAD.min(self.frame_size()))
    }

    /// Bytes that `net_af_packet` demands of an mbuf after its headroom.
    pub(crate) fn af_packet_room(&self) -> u32 {
        // The slot without its header (TPACKET2_HDRLEN − sizeof(sockaddr_ll)).
        self.frame_size().saturating_sub(32)
    }

    fn frame_size(&self) -> u32 {
        self.value("framesz")
            .and_then(|value| value.parse().ok())
            .unwrap_or(FRAME_SIZE_DEFAULT)
    }
}

/// How many parts a PCI address has before its function: 2 for `3b:00.0`, 3 for `0000:3b:00.0`.
fn pci_parts(name: &str) -> Option<usize> {
    let (address, function) = name.split_once('.')?;
    let hex = |text: &str| {
        !text.is_empty() && text.len() <= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let parts = address.split(':').count();
    (hex(function) && matches!(parts, 2 | 3) && address.split(':').all(hex)).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Devargs<'_> {
        Devargs::parse(text).unwrap()
    }

    #[test]
    fn devices_have_names() {
        assert_eq!(
            parse("net_af_packet0,iface=eth1").device_name(),
            "net_af_packet0"
        );
        assert_eq!(parse("0000:3B:00.0").device_name(), "0000:3b:00.0");
        assert_eq!(parse("3b:00.1,representor=0").device_name(), "0000:3b:00.1");
        assert_eq!(parse("pci:0000:3b:00.0").device_name(), "0000:3b:00.0");
        assert!(parse("3b:00.1").is_pci() && !parse("net_null0").is_pci());
        assert_eq!(Devargs::parse(" "), None);
        assert_eq!(Devargs::parse(",iface=eth1"), None);
    }

    #[test]
    fn af_packet_is_given_what_it_lacks() {
        let plain = parse("net_af_packet0,iface=eth1");
        assert_eq!(plain.completed(1, Some(1500)), "net_af_packet0,iface=eth1");
        assert_eq!(
            plain.completed(2, Some(1968)),
            "net_af_packet0,iface=eth1,qpairs=2"
        );
        assert_eq!(
            plain.completed(1, Some(1969)),
            "net_af_packet0,iface=eth1,framesz=4096,blocksz=4096"
        );
        assert_eq!(
            plain.completed(1, Some(9000)),
            "net_af_packet0,iface=eth1,framesz=12288,blocksz=12288"
        );
        let chosen = parse("net_af_packet0,iface=eth1,qpairs=1,framesz=4096,blocksz=8192");
        assert_eq!(chosen.completed(4, Some(9000)), chosen.text);
        let other = parse("net_null0");
        assert_eq!(other.completed(4, None), "net_null0");
    }

    #[test]
    fn frames_are_limited_by_mtu_and_slot() {
        assert_eq!(parse("net_af_packet0,iface=eth1").frame_limit(1500), 1514);
        assert_eq!(parse("net_af_packet0,iface=eth1").frame_limit(9000), 1982);
        assert_eq!(
            parse("net_af_packet0,iface=eth1,framesz=12288,blocksz=12288").frame_limit(9000),
            9014
        );
        assert_eq!(parse("net_tap0,iface=tap0").frame_limit(9000), 9014);
        assert_eq!(
            parse("net_af_packet0,iface=eth1,framesz=16").frame_limit(1500),
            0
        );
    }
}
