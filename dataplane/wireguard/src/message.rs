//! The four messages: layouts, sizes, typed views.
//!
//! In: datagrams as the network delivered them. Out: which message it is, its fields, nothing allocated. Never:
//! an answer on whether it is authentic.
//!
//! ```text
//! initiation    0 type 4 sender 8 ephemeral 40 static+tag 88 timestamp+tag 116 mac1 132 mac2 148
//! response      0 type 4 sender 8 receiver 12 ephemeral 44 nothing+tag 60 mac1 76 mac2 92
//! cookie reply  0 type 4 receiver 8 nonce 32 cookie+tag 64
//! data          0 type 4 receiver 8 counter 16 sealed packet … tag
//! ```

/// Bytes of an initiation.
pub const INITIATION_LEN: usize = 148;
/// Bytes of a response.
pub const RESPONSE_LEN: usize = 92;
/// Bytes of a cookie reply.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Bytes ahead of a data packet's ciphertext.
pub const DATA_HEADER_LEN: usize = 16;
/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;
/// Bytes of the smallest data packet: a keepalive.
pub const DATA_MIN_LEN: usize = DATA_HEADER_LEN + TAG_LEN;
/// Bytes of each of the two MACs that end initiations and responses.
pub const MAC_LEN: usize = 16;

const TYPE_INITIATION: u32 = 1;
const TYPE_RESPONSE: u32 = 2;
const TYPE_COOKIE_REPLY: u32 = 3;
const TYPE_DATA: u32 = 4;

/// A datagram, recognised by its type field and its exact (data: least) length.
#[derive(Clone, Copy, Debug)]
pub enum Message<'a> {
    /// The first message of a handshake.
    Initiation(Initiation<'a>),
    /// The second message of a handshake.
    Response(Response<'a>),
    /// The answer of a peer under load.
    CookieReply(CookieReply<'a>),
    /// A sealed packet.
    Data(DataHeader),
}

/// Which message a datagram looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 148 bytes of type 1.
    Initiation,
    /// 92 bytes of type 2.
    Response,
    /// 64 bytes of type 3.
    CookieReply,
    /// At least 32 bytes of type 4.
    Data,
}

impl Kind {
    /// The kind of a datagram, or `None` if it is no WireGuard message: wrong length, unknown type, or reserved
    /// bytes that aren't zero (the type is read as a little-endian 32-bit number).
    #[must_use]
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let kind = u32::from_le_bytes(*datagram.first_chunk()?);
        match (kind, datagram.len()) {
            (TYPE_DATA, DATA_MIN_LEN..) => Some(Self::Data),
            (TYPE_INITIATION, INITIATION_LEN) => Some(Self::Initiation),
            (TYPE_RESPONSE, RESPONSE_LEN) => Some(Self::Response),
            (TYPE_COOKIE_REPLY, COOKIE_REPLY_LEN) => Some(Self::CookieReply),
            _ => None,
        }
    }
}

impl<'a> Message<'a> {
    /// Recognises a datagram; `None` as in [`Kind::of`].
    #[must_use]
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        Some(match Kind::of(datagram)? {
            Kind::Initiation => Self::Initiation(Initiation {
                bytes: datagram.try_into().ok()?,
            }),
            Kind::Response => Self::Response(Response {
                bytes: datagram.try_into().ok()?,
            }),
            Kind::CookieReply => Self::CookieReply(CookieReply {
                bytes: datagram.try_into().ok()?,
            }),
            Kind::Data => Self::Data(DataHeader::parse(datagram)?),
        })
    }
}

/// A field at a constant place, inside by construction.
macro_rules! field {
    ($(#[$doc:meta])* $name:ident, $at:expr, $len:expr) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> &'a [u8; $len] {
            self.bytes[$at..].first_chunk().expect("the field lies inside the message")
        }
    };
}

/// A view of an initiation.
#[derive(Clone, Copy, Debug)]
pub struct Initiation<'a> {
    bytes: &'a [u8; INITIATION_LEN],
}

impl<'a> Initiation<'a> {
    field!(
        /// The sender's index for packets to it, little-endian.
        sender_bytes, 4, 4
    );
    field!(
        /// The sender's ephemeral public key.
        ephemeral, 8, 32
    );
    field!(
        /// The sender's static public key, sealed.
        sealed_static, 40, 48
    );
    field!(
        /// The TAI64N timestamp, sealed.
        sealed_timestamp, 88, 28
    );
    field!(
        /// The MAC under our public key.
        mac1, 116, 16
    );
    field!(
        /// The MAC under the cookie, or zeros.
        mac2, 132, 16
    );

    /// The sender's index for packets to it.
    #[must_use]
    pub fn sender(&self) -> u32 {
        u32::from_le_bytes(*self.sender_bytes())
    }

    /// The whole message.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8; INITIATION_LEN] {
        self.bytes
    }
}

/// A view of a response.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    bytes: &'a [u8; RESPONSE_LEN],
}

impl<'a> Response<'a> {
    field!(
        /// The sender's index for packets to it, little-endian.
        sender_bytes, 4, 4
    );
    field!(
        /// The index of our initiation, little-endian.
        receiver_bytes, 8, 4
    );
    field!(
        /// The sender's ephemeral public key.
        ephemeral, 12, 32
    );
    field!(
        /// The tag over nothing.
        sealed_nothing, 44, 16
    );
    field!(
        /// The MAC under our public key.
        mac1, 60, 16
    );
    field!(
        /// The MAC under the cookie, or zeros.
        mac2, 76, 16
    );

    /// The sender's index for packets to it.
    #[must_use]
    pub fn sender(&self) -> u32 {
        u32::from_le_bytes(*self.sender_bytes())
    }

    /// The index of our initiation.
    #[must_use]
    pub fn receiver(&self) -> u32 {
        u32::from_le_bytes(*self.receiver_bytes())
    }

    /// The whole message.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8; RESPONSE_LEN] {
        self.bytes
    }
}

/// A view of a cookie reply.
#[derive(Clone, Copy, Debug)]
pub struct CookieReply<'a> {
    bytes: &'a [u8; COOKIE_REPLY_LEN],
}

impl<'a> CookieReply<'a> {
    field!(
        /// The index of our message that was refused, little-endian.
        receiver_bytes, 4, 4
    );
    field!(
        /// The nonce of XChaCha20-Poly1305.
        nonce, 8, 24
    );
    field!(
        /// The cookie, sealed.
        sealed_cookie, 32, 32
    );

    /// The index of our message that was refused.
    #[must_use]
    pub fn receiver(&self) -> u32 {
        u32::from_le_bytes(*self.receiver_bytes())
    }
}

/// The 16 bytes ahead of a data packet's ciphertext.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The receiver's index of the keypair.
    pub receiver: u32,
    /// The packet's counter: its nonce.
    pub counter: u64,
}

impl DataHeader {
    /// The header of a datagram, or `None` if it isn't a data packet with at least an empty payload and its tag.
    #[must_use]
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        if datagram.len() < DATA_MIN_LEN {
            return None;
        }
        let [kind @ .., r0, r1, r2, r3, c0, c1, c2, c3, c4, c5, c6, c7] =
            datagram.first_chunk::<DATA_HEADER_LEN>()?;
        let kind: [u8; 4] = *kind;
        (u32::from_le_bytes(kind) == TYPE_DATA).then_some(Self {
            receiver: u32::from_le_bytes([*r0, *r1, *r2, *r3]),
            counter: u64::from_le_bytes([*c0, *c1, *c2, *c3, *c4, *c5, *c6, *c7]),
        })
    }

    /// Writes the header ahead of a ciphertext.
    pub fn write(&self, out: &mut [u8; DATA_HEADER_LEN]) {
        // Whole words: who reads it again right away need not wait for its parts.
        let first = u64::from(self.receiver) << 32 | u64::from(TYPE_DATA);
        out[..8].copy_from_slice(&first.to_le_bytes());
        out[8..].copy_from_slice(&self.counter.to_le_bytes());
    }
}

/// Bytes on the wire of a data packet whose padded plaintext has `padded_len` bytes.
#[must_use]
pub const fn data_len(padded_len: usize) -> usize {
    DATA_MIN_LEN + padded_len
}

/// An initiation to fill in: the type is set, all else is zero.
pub(crate) fn new_initiation() -> [u8; INITIATION_LEN] {
    with_type(TYPE_INITIATION)
}

/// A response to fill in: the type is set, all else is zero.
pub(crate) fn new_response() -> [u8; RESPONSE_LEN] {
    with_type(TYPE_RESPONSE)
}

/// A cookie reply to fill in: the type is set, all else is zero.
pub(crate) fn new_cookie_reply() -> [u8; COOKIE_REPLY_LEN] {
    with_type(TYPE_COOKIE_REPLY)
}

fn with_type<const N: usize>(kind: u32) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_need_their_exact_length() {
        for (kind, len, expected) in [
            (1, 148, Some(Kind::Initiation)),
            (1, 147, None),
            (1, 149, None),
            (2, 92, Some(Kind::Response)),
            (2, 91, None),
            (2, 148, None),
            (3, 64, Some(Kind::CookieReply)),
            (3, 65, None),
            (4, 32, Some(Kind::Data)),
            (4, 31, None),
            (4, 65_535, Some(Kind::Data)),
            (0, 148, None),
            (5, 148, None),
        ] {
            let mut datagram = vec![0; len];
            datagram[0] = kind;
            assert_eq!(Kind::of(&datagram), expected, "type {kind}, {len} bytes");
            assert_eq!(Message::parse(&datagram).is_some(), expected.is_some());
        }
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for reserved in 1..4 {
            let mut datagram = [0; INITIATION_LEN];
            datagram[0] = 1;
            datagram[reserved] = 1;
            assert_eq!(Kind::of(&datagram), None);
        }
    }

    #[test]
    fn short_and_empty_datagrams_are_nothing() {
        for len in 0..DATA_MIN_LEN {
            assert!(Message::parse(&[4, 0, 0, 0].repeat(8)[..len]).is_none());
        }
    }

    #[test]
    fn a_data_header_comes_back_as_written() {
        let header = DataHeader {
            receiver: 0x0403_0201,
            counter: 0x0c0b_0a09_0807_0605,
        };
        let mut bytes = [0; DATA_MIN_LEN];
        header.write(bytes.first_chunk_mut().unwrap());
        assert_eq!(
            bytes[..16],
            [4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
        );
        assert_eq!(DataHeader::parse(&bytes), Some(header));
    }

    #[test]
    fn fields_tile_their_messages() {
        let bytes: [u8; INITIATION_LEN] = core::array::from_fn(|i| {
            if i < 4 {
                u8::from(i == 0)
            } else {
                u8::try_from(i).unwrap()
            }
        });
        let Some(Message::Initiation(view)) = Message::parse(&bytes) else {
            panic!("not an initiation")
        };
        let tiled = [
            view.sender_bytes().as_slice(),
            view.ephemeral(),
            view.sealed_static(),
            view.sealed_timestamp(),
            view.mac1(),
            view.mac2(),
        ]
        .concat();
        assert_eq!(tiled, bytes[4..]);

        let bytes: [u8; RESPONSE_LEN] = core::array::from_fn(|i| {
            if i < 4 {
                2 * u8::from(i == 0)
            } else {
                u8::try_from(i).unwrap()
            }
        });
        let Some(Message::Response(view)) = Message::parse(&bytes) else {
            panic!("not a response")
        };
        let tiled = [
            view.sender_bytes().as_slice(),
            view.receiver_bytes(),
            view.ephemeral(),
            view.sealed_nothing(),
            view.mac1(),
            view.mac2(),
        ]
        .concat();
        assert_eq!(tiled, bytes[4..]);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(datagram in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..6) {
            let mut datagram = datagram;
            let _ = Message::parse(&datagram);
            if datagram.len() >= 4 {
                datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
                let _ = Message::parse(&datagram);
            }
        }
    }
}
