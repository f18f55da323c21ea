use proptest::prelude::*;

use super::*;

fn no_zone(_: &str) -> Option<u32> {
    None
}

/// All requests of a text that arrives in pieces of `size`, and what its end completes.
fn read(text: &[u8], size: usize) -> Vec<Request> {
    let mut reader = Reader::new(no_zone);
    let mut requests = Vec::new();
    for chunk in text.chunks(size) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let (read, request) = reader.read(rest);
            assert!(read > 0 && (request.is_some() || read == rest.len()));
            rest = &rest[read..];
            let broken = matches!(request, Some(Request::Broken(_)));
            requests.extend(request);
            if broken {
                return requests;
            }
        }
    }
    requests.extend(reader.end());
    requests
}

fn set(lines: &str) -> (Vec<Change>, Option<Errno>) {
    let text = format!("set=1\n{lines}\n");
    match read(text.as_bytes(), 7).pop() {
        Some(Request::Set { changes, refused }) => (changes, refused),
        other => panic!("{other:?}"),
    }
}

const KEY: &str = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";

#[test]
fn every_key_is_read() {
    let text = format!(
        "private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\n\
         listen_port=12912\nfwmark=0\nreplace_peers=true\n\
         public_key={KEY}\nupdate_only=true\nprotocol_version=1\n\
         preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52\n\
         endpoint=[abcd:23::33%2]:51820\npersistent_keepalive_interval=25\n\
         replace_allowed_ips=true\nallowed_ip=192.168.4.4/32\nallowed_ip=fd00::1/64\nallowed_ip=-10.1.2.3/8\n\
         public_key={KEY}\nremove=true\n"
    );
    let (changes, refused) = set(&text);
    assert_eq!(refused, None);
    let key = PublicKey::from_hex(KEY).unwrap();
    let tail = [
        Change::ListenPort(12912),
        Change::Fwmark(0),
        Change::ReplacePeers,
        Change::Peer(key),
        Change::UpdateOnly,
        changes[6].clone(),
        Change::Endpoint("[abcd:23::33%2]:51820".parse().unwrap()),
        Change::PersistentKeepalive(25),
        Change::ReplaceAllowedIps,
        Change::AllowedIp("192.168.4.4/32".parse().unwrap()),
        Change::AllowedIp("fd00::/64".parse().unwrap()),
        Change::DropAllowedIp("10.0.0.0/8".parse().unwrap()),
        Change::Peer(key),
        Change::Remove,
    ];
    assert!(matches!(changes[0], Change::PrivateKey(Some(_))));
    assert!(matches!(changes[6], Change::PresharedKey(Some(_))));
    assert_eq!(changes[1..], tail);
}

#[test]
fn zeros_take_keys_away() {
    let (changes, _) = set(&format!(
        "private_key={ZERO}\npublic_key={KEY}\npreshared_key={ZERO}\n"
    ));
    assert_eq!(changes[0], Change::PrivateKey(None));
    assert_eq!(changes[2], Change::PresharedKey(None));
}

#[test]
fn what_stands_before_a_wrong_line_counts_and_what_stands_behind_it_does_not() {
    let (changes, refused) = set("listen_port=1\nlisten_port=65536\nlisten_port=2\n");
    assert_eq!(changes, [Change::ListenPort(1)]);
    assert_eq!(refused, Some(Errno::INVAL));
}

#[test]
fn wrong_lines_have_their_errors() {
    let peer = format!("public_key={KEY}\n");
    let invalid = [
        "listen_port=",
        "listen_port=+1",
        "listen_port=-1",
        "listen_port= 1",
        "fwmark=0x1",
        "fwmark=4294967296",
        "replace_peers=false",
        "replace_peers=",
        "private_key=00",
        "public_key=",
        "public_key=zz",
        "nonsense=1",
        "endpoint=192.0.2.1:1",
        "remove=true",
    ];
    for line in invalid {
        assert_eq!(set(&format!("{line}\n")).1, Some(Errno::INVAL), "{line}");
    }
    let invalid_in_peer = [
        "private_key=00",
        "listen_port=1",
        "remove=1",
        "update_only=false",
        "preshared_key=",
        "protocol_version=2",
        "endpoint=192.0.2.1",
        "endpoint=192.0.2.1:65536",
        "endpoint=2001:db8::1:1",
        "endpoint=[192.0.2.1]:1",
        "endpoint=[fe80::1%eth0]:1",
        "endpoint=example.org:51820",
        "persistent_keepalive_interval=65536",
        "persistent_keepalive_interval=off",
        "replace_allowed_ips=no",
        "allowed_ip=10.0.0.1",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0/+8",
        "allowed_ip=fd00::/129",
        "allowed_ip=--10.0.0.0/8",
    ];
    for line in invalid_in_peer {
        assert_eq!(
            set(&format!("{peer}{line}\n")).1,
            Some(Errno::INVAL),
            "{line}"
        );
    }
    assert_eq!(set("listen_port\n").1, Some(Errno::PROTO));
}

#[test]
fn zones_may_have_names() {
    let mut reader = Reader::new(|name| (name == "eth7").then_some(7));
    let text = format!("set=1\npublic_key={KEY}\nendpoint=[fe80::1%eth7]:1\n\n");
    let (_, request) = reader.read(text.as_bytes());
    let Some(Request::Set { changes, .. }) = request else {
        panic!("{request:?}")
    };
    assert_eq!(
        changes[1],
        Change::Endpoint("[fe80::1%7]:1".parse().unwrap())
    );
}

#[test]
fn several_requests_follow_each_other() {
    let text = b"get=1\n\nset=1\nlisten_port=5\nbad=1\nrest=2\n\nget=1\nwhat=1\n\nset=1\n\n";
    for size in [1, 3, 1000] {
        assert_eq!(
            read(text, size),
            [
                Request::Get,
                Request::Set {
                    changes: vec![Change::ListenPort(5)],
                    refused: Some(Errno::INVAL)
                },
                Request::Refused(Errno::INVAL),
                Request::Set {
                    changes: vec![],
                    refused: None
                },
            ]
        );
    }
}

#[test]
fn the_end_of_the_stream_completes_a_set_and_no_get() {
    let done = Request::Set {
        changes: vec![Change::ListenPort(5)],
        refused: None,
    };
    assert_eq!(read(b"set=1\nlisten_port=5\n", 9), [done]);
    let unfinished = Request::Set {
        changes: vec![Change::ListenPort(5)],
        refused: None,
    };
    assert_eq!(read(b"set=1\nlisten_port=5", 9), [unfinished]);
    assert_eq!(read(b"get=1\n", 9), []);
    assert_eq!(read(b"", 9), []);
}

#[test]
fn what_is_no_request_ends_the_connection() {
    for text in ["GET / HTTP/1.1\r\n", "\n", "get=2\n", "set=1 \n"] {
        assert_eq!(
            read(text.as_bytes(), 5),
            [Request::Broken(Errno::PROTO)],
            "{text}"
        );
    }
}

#[test]
fn a_line_without_an_end_is_bounded() {
    let mut text = b"set=1\n".to_vec();
    text.extend(std::iter::repeat_n(b'x', LINE_MAX + 1));
    assert_eq!(read(&text, 1000), [Request::Broken(Errno::IO)]);
}

#[test]
fn a_request_without_an_end_is_bounded() {
    let mut reader = Reader::new(no_zone);
    reader.read(b"set=1\nwrong\n");
    let line = [&[b'a'; 1023][..], b"\n"].concat();
    let mut len = 12;
    loop {
        let (read, request) = reader.read(&line);
        len += read;
        if let Some(request) = request {
            assert_eq!(request, Request::Broken(Errno::IO));
            break;
        }
        assert!(len <= REQUEST_MAX);
    }
}

#[test]
fn a_device_is_printed_as_wg_reads_it() {
    let device = Device {
        private_key: Some(PrivateKey::from_bytes([0x48; 32])),
        listen_port: 51820,
        fwmark: 51966,
        peers: vec![Peer {
            config: Arc::new(config::Peer {
                name: config::Name::new("p").unwrap(),
                public_key: PublicKey::from_hex(KEY).unwrap(),
                preshared_key: None,
                preshared_key_file: None,
                endpoint: None,
                allowed_ips: vec!["10.0.0.0/8".parse().unwrap(), "::/0".parse().unwrap()],
                persistent_keepalive: Some(25),
                pmtu: None,
                probe: None,
                labels: config::Labels::default(),
                enabled: true,
            }),
            endpoint: Some("[2001:db8::1]:7".parse().unwrap()),
            last_handshake: Some(Duration::new(1_700_000_000, 5)),
            tx_bytes: 38333,
            rx_bytes: 2224,
        }],
    };
    let expected = format!(
        "private_key={}\nlisten_port=51820\nfwmark=51966\npublic_key={KEY}\npreshared_key={ZERO}\n\
         protocol_version=1\nendpoint=[2001:db8::1]:7\nlast_handshake_time_sec=1700000000\n\
         last_handshake_time_nsec=5\ntx_bytes=38333\nrx_bytes=2224\npersistent_keepalive_interval=25\n\
         allowed_ip=10.0.0.0/8\nallowed_ip=::/0\nerrno=0\n\n",
        "48".repeat(32)
    );
    assert_eq!(*device.print(), expected);
    assert_eq!(*Device::default().print(), "errno=0\n\n");
    assert_eq!(errno(Some(Errno::INVAL)), "errno=-22\n\n");
}

fn any_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(a, len)| IpNet::new(a.into(), len).unwrap()),
        (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(a, len)| IpNet::new(a.into(), len).unwrap()),
    ]
    .prop_map(|net| net.trunc())
}

fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<u16>()).prop_map(|(a, port)| (a, port).into()),
        (any::<[u8; 16]>(), any::<u16>(), any::<u32>())
            .prop_map(|(a, port, scope)| SocketAddrV6::new(a.into(), port, 0, scope).into()),
    ]
}

fn any_device_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|key| Change::PrivateKey(PrivateKey::new(key))),
        any::<u16>().prop_map(Change::ListenPort),
        any::<u32>().prop_map(Change::Fwmark),
        Just(Change::ReplacePeers),
    ]
}

fn any_peer_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|key| Change::Peer(PublicKey::from_bytes(key))),
        Just(Change::Remove),
        Just(Change::UpdateOnly),
        Just(Change::PresharedKey(None)),
        (any::<[u8; 32]>(), 1..=255_u8).prop_map(|(mut key, one)| {
            key[0] = one;
            Change::PresharedKey(Some(PresharedKey::from_bytes(key)))
        }),
        any_endpoint().prop_map(Change::Endpoint),
        any::<u16>().prop_map(Change::PersistentKeepalive),
        Just(Change::ReplaceAllowedIps),
        any_net().prop_map(Change::AllowedIp),
        any_net().prop_map(Change::DropAllowedIp),
    ]
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    let peers = proptest::collection::vec(any_peer_change(), 0..20);
    let device = proptest::collection::vec(any_device_change(), 0..5);
    (device, any::<[u8; 32]>(), peers).prop_map(|(mut changes, key, peers)| {
        if !peers.is_empty() {
            changes.push(Change::Peer(PublicKey::from_bytes(key)));
        }
        changes.extend(peers);
        changes
    })
}

proptest! {
    #[test]
    fn changes_come_back_as_they_were_printed(changes in any_changes(), size in 1..200_usize) {
        let text = print_set(&changes);
        let expected = Request::Set { changes, refused: None };
        prop_assert_eq!(read(text.as_bytes(), size), [expected]);
    }

    #[test]
    fn what_is_read_prints_to_what_reads_the_same(
        keys in proptest::collection::vec("(listen_port|fwmark|public_key|endpoint|allowed_ip|remove)", 0..8),
        values in proptest::collection::vec("[0-9a-f:./%\\[\\]-]{0,20}|[0-9a-f]{64}|true", 8),
    ) {
        let lines: String = keys.iter().zip(&values).map(|(key, value)| format!("{key}={value}\n")).collect();
        let (changes, _) = set(&lines);
        prop_assert_eq!(set(print_set(&changes).trim_start_matches("set=1\n").trim_end()).0, changes);
    }

    #[test]
    fn no_bytes_panic_and_pieces_make_no_difference(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        lines in proptest::collection::vec("(get=1|set=1||[a-z_]{1,12}=.{0,80}|allowed_ip=.{0,30})", 0..12),
        size in 1..50_usize,
    ) {
        let mut text = lines.join("\n").into_bytes();
        text.extend(bytes);
        prop_assert_eq!(read(&text, size), read(&text, usize::MAX));
    }
}
