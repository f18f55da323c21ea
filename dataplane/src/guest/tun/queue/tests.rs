//! A queue whose other end is a socket instead of the kernel's interface: one message is
//! one frame, as with the real one.

use std::os::fd::OwnedFd;

use culvert_vhost::Offloads;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::*;
use crate::{
    loss::Whose,
    shared::{drops::Drops, ids::PortIndex},
};

const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PORT: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A TCP super-frame's metadata as the kernel gives it for a packet.
const PACKET: VnetHeader = VnetHeader {
    flags: VnetHeader::NEEDS_CSUM,
    gso_type: VnetHeader::GSO_TCPV4,
    hdr_len: 52,
    gso_size: 1368,
    csum_start: 20,
    csum_offset: 16,
    num_buffers: 0,
};

/// A port's books.
fn books(drops: &Drops) -> Books<'_> {
    Books::new(Whose::Port(PortIndex(0)), drops)
}

fn read_into(layer: Layer, vnet: &VnetHeader, body: &[u8]) -> Vec<u8> {
    let mut room = vec![0xee; SLOT];
    room[VNET..BODY].copy_from_slice(&vnet.write());
    room[BODY..BODY + body.len()].copy_from_slice(body);
    let adopted = adopt(layer, &mut room, body.len(), (GATEWAY, PORT));
    let (vnet, len) = adopted.unwrap();
    let incoming = TunFrames {
        layer,
        memory: &room,
        frames: &[Frame { vnet, slot: 0, len }],
    };
    assert_eq!((incoming.count(), incoming.len(0)), (1, len));
    incoming.whole(0).to_vec()
}

#[test]
fn packets_become_frames_from_the_port_to_the_gateway() {
    for (first, ether_type) in [(0x45, EtherType::IPV4), (0x60, EtherType::IPV6)] {
        let mut packet = vec![7; 60];
        packet[0] = first;
        let frame = read_into(Layer::Ip, &PACKET, &packet);
        assert_eq!(frame[..ETHERNET], ether::header(GATEWAY, PORT, ether_type));
        assert_eq!(frame[ETHERNET..], packet);
    }
}

#[test]
fn frames_of_a_tap_stay_as_they_are() {
    let frame = vec![9; 100];
    assert_eq!(read_into(Layer::Ethernet, &PACKET, &frame), frame);
}

#[test]
fn what_is_no_packet_and_what_is_too_long_has_a_name() {
    let mut room = vec![0; SLOT];
    let mut read = |layer, body| adopt(layer, &mut room, body, (GATEWAY, PORT)).unwrap_err();
    assert_eq!(read(Layer::Ip, 60), DropReason::EtherTypeUnknown);
    assert_eq!(read(Layer::Ethernet, 14), DropReason::FrameMalformed);
    assert_eq!(
        read(Layer::Ethernet, FRAME_MAX + 1),
        DropReason::FrameTooLarge
    );
    room[BODY] = 0x45;
    let mut read = |body| adopt(Layer::Ip, &mut room, body, (GATEWAY, PORT));
    assert_eq!(read(0).unwrap_err(), DropReason::FrameMalformed);
    assert_eq!(
        read(FRAME_MAX - ETHERNET + 1).unwrap_err(),
        DropReason::FrameTooLarge
    );
    assert_eq!(read(FRAME_MAX - ETHERNET).unwrap().1, FRAME_MAX);
}

/// An interface of one queue, and the host's end of it.
fn tun(layer: Layer) -> (Tun, OwnedFd) {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (ours, host) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    let tun = Tun::from_descriptors("t0".into(), layer, Offloads::all(), vec![ours]);
    (tun, host)
}

fn send(host: &OwnedFd, vnet: &VnetHeader, body: &[u8]) {
    let message = [&vnet.write()[..], body].concat();
    assert_eq!(rustix::io::write(host, &message).unwrap(), message.len());
}

fn receive(host: &OwnedFd) -> Option<(VnetHeader, Vec<u8>)> {
    let mut bytes = vec![0; 70_000];
    match read(host, &mut bytes) {
        Ok(len) => {
            let (vnet, body) = bytes[..len].split_first_chunk().unwrap();
            Some((VnetHeader::read(vnet), body.to_vec()))
        }
        Err(Errno::AGAIN) => None,
        Err(error) => panic!("{error}"),
    }
}

/// An IPv4 packet as far as anyone here looks.
fn packet(number: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![number; len];
    packet[0] = 0x45;
    packet
}

#[test]
fn what_is_held_back_comes_again_in_order_and_before_anything_new() {
    let (tun, host) = tun(Layer::Ip);
    let drops = Drops::default();
    let fetch = |burst: &mut TunBurst<'_>| burst.fetch((GATEWAY, PORT), i64::MAX, books(&drops));
    for number in 0..5 {
        send(&host, &VnetHeader::default(), &packet(number, 100));
    }
    let mut burst = tun.try_lock(0).unwrap();
    assert!(tun.try_lock(0).is_none(), "one reader at a time");
    assert_eq!(fetch(&mut burst), 5);
    burst.complete(2);
    drop(burst);
    assert!(tun.holds(0) && tun.readable_fd(0).is_none());

    send(&host, &VnetHeader::default(), &packet(5, 100));
    let mut burst = tun.try_lock(0).unwrap();
    assert_eq!(fetch(&mut burst), 3, "the rest, and nothing new yet");
    let numbers: Vec<_> = (0..3).map(|i| burst.frames(3).whole(i)[50]).collect();
    assert_eq!(numbers, [2, 3, 4]);
    burst.complete(3);
    assert_eq!(fetch(&mut burst), 1);
    assert_eq!(burst.frames(1).whole(0)[50], 5);
    burst.complete(1);
    assert_eq!(fetch(&mut burst), 0);
    drop(burst);
    assert!(!tun.holds(0) && tun.readable_fd(0).is_some());
    let (from_host, to_host) = tun.traffic(0).unwrap();
    assert_eq!((from_host.frames(), from_host.bytes()), (6, 6 * 114));
    assert_eq!(to_host.frames(), 0);
    assert_eq!(drops.total(), 0);
}

#[test]
fn a_burst_ends_with_its_credit_or_when_it_is_full() {
    let (tun, host) = tun(Layer::Ethernet);
    let drops = Drops::default();
    for number in 0..40 {
        send(&host, &VnetHeader::default(), &packet(number, 1_000));
    }
    let mut burst = tun.try_lock(0).unwrap();
    assert_eq!(burst.fetch((GATEWAY, PORT), 2_500, books(&drops)), 3);
    burst.complete(3);
    assert_eq!(
        burst.fetch((GATEWAY, PORT), i64::MAX, books(&drops)),
        GUEST_BURST
    );
    burst.complete(GUEST_BURST);
    assert_eq!(burst.fetch((GATEWAY, PORT), 0, books(&drops)), 0);
}

#[test]
fn junk_between_frames_is_named_and_passed_over() {
    let (tun, host) = tun(Layer::Ip);
    let drops = Drops::default();
    send(&host, &VnetHeader::default(), &packet(1, 100));
    send(&host, &VnetHeader::default(), &[0; 100]);
    send(&host, &VnetHeader::default(), &packet(2, 100));
    let mut burst = tun.try_lock(0).unwrap();
    assert_eq!(burst.fetch((GATEWAY, PORT), i64::MAX, books(&drops)), 2);
    assert_eq!(burst.frames(2).whole(1)[50], 2);
    assert_eq!(drops.count(DropReason::EtherTypeUnknown), 1);
}

#[test]
fn endless_junk_is_read_a_burst_at_a_time() {
    let (tun, host) = tun(Layer::Ip);
    let drops = Drops::default();
    let named = || drops.count(DropReason::EtherTypeUnknown);
    for _ in 0..3 * GUEST_BURST {
        send(&host, &VnetHeader::default(), &[0; 100]);
    }
    let mut burst = tun.try_lock(0).unwrap();
    assert_eq!(burst.fetch((GATEWAY, PORT), i64::MAX, books(&drops)), 0);
    assert_eq!(named(), GUEST_BURST as u64);
    assert_eq!(burst.fetch((GATEWAY, PORT), 1_000, books(&drops)), 0);
    assert_eq!(
        named(),
        GUEST_BURST as u64 + 10,
        "as many as the credit pays"
    );
}

#[test]
fn frames_are_written_without_their_ethernet_header_from_any_pieces() {
    let (tun, host) = tun(Layer::Ip);
    let drops = Drops::default();
    let body = packet(7, 3_000);
    let header = ether::header(PORT, GATEWAY, EtherType::IPV4);
    let whole = [&header[..], &body].concat();
    {
        let mut writer = Writer::new(&tun, 0, books(&drops)).unwrap();
        writer.deliver(
            &PACKET.moved_on(SHIFT),
            &[&header, &body[..54], &body[54..]],
        );
        writer.deliver(&VnetHeader::default(), &[&whole]);
        writer.deliver(&VnetHeader::default(), &[&whole[..20], &[], &whole[20..]]);
        // ARP is nothing to it.
        let arp = ether::header(PORT, GATEWAY, EtherType::ARP);
        writer.deliver(&VnetHeader::default(), &[&arp, &[0; 28]]);
    }
    assert_eq!(receive(&host), Some((PACKET, body.clone())));
    for _ in 0..2 {
        assert_eq!(receive(&host), Some((VnetHeader::default(), body.clone())));
    }
    assert_eq!(receive(&host), None);
    assert_eq!(drops.count(DropReason::InterfaceNotIp), 1);
    let (_, to_host) = tun.traffic(0).unwrap();
    assert_eq!((to_host.frames(), to_host.bytes()), (3, 3 * 3_014));
}

#[test]
fn a_tap_is_written_whole_frames_of_any_kind() {
    let (tun, host) = tun(Layer::Ethernet);
    let drops = Drops::default();
    let header = ether::header(PORT, GATEWAY, EtherType::ARP);
    Writer::new(&tun, 0, books(&drops))
        .unwrap()
        .deliver(&VnetHeader::default(), &[&header, &[1; 28]]);
    let frame = [&header[..], &[1; 28]].concat();
    assert_eq!(receive(&host), Some((VnetHeader::default(), frame)));
}

#[test]
fn a_full_interface_loses_by_name_and_never_waits() {
    let (tun, _host) = tun(Layer::Ethernet);
    let drops = Drops::default();
    let frame = [
        &ether::header(PORT, GATEWAY, EtherType::IPV4)[..],
        &[0; 50_000],
    ]
    .concat();
    let mut writer = Writer::new(&tun, 0, books(&drops)).unwrap();
    for _ in 0..100 {
        writer.deliver(&VnetHeader::default(), &[&frame]);
    }
    drop(writer);
    let lost = drops.count(DropReason::InterfaceFull);
    assert!((1..100).contains(&lost), "{lost} lost");
    let (_, to_host) = tun.traffic(0).unwrap();
    assert_eq!(to_host.frames() + lost, 100);
}
