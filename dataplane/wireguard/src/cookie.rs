//! mac1, mac2 and cookies: what makes a handshake message cheap to refuse.
//!
//! In: handshake datagrams, source addresses, the time, randomness. Out: whether a MAC holds; cookie replies;
//! messages with their MACs filled in. Never: an answer to a message without a valid mac1; X25519.
//!
//! [`Mac1`] is free of state and may be used by workers, ahead of any queue. The rest belongs to the device.

use core::net::{IpAddr, SocketAddr};

use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::{self, Secret};
use crate::keys::PublicKey;
use crate::limits::{COOKIE_SECRET_MAX_AGE, COOKIE_USED_FOR};
use crate::message::{
    self, COOKIE_REPLY_LEN, CookieReply, INITIATION_LEN, Kind, MAC_LEN, RESPONSE_LEN,
};
use crate::time::Instant;

const MAC1_LABEL: &[u8] = b"mac1----";
const COOKIE_LABEL: &[u8] = b"cookie--";

/// The check of mac1 for messages to one identity.
#[derive(Clone, Debug)]
pub struct Mac1 {
    // Made of a public key alone: no secret.
    key: [u8; 32],
}

impl Mac1 {
    /// The check for messages to the owner of this key.
    #[must_use]
    pub fn new(receiver: &PublicKey) -> Self {
        Self {
            key: crypto::hash(&[MAC1_LABEL, receiver.as_bytes()]),
        }
    }

    /// Whether a datagram may go on to the control core: an initiation or response with a valid mac1, or a cookie
    /// reply (which has none). Costs one BLAKE2s.
    #[must_use]
    pub fn admits(&self, datagram: &[u8]) -> bool {
        match Kind::of(datagram) {
            Some(Kind::Initiation | Kind::Response) => self.verify(datagram),
            Some(Kind::CookieReply) => true,
            Some(Kind::Data) | None => false,
        }
    }

    /// Fills in the mac1 of an initiation or response. Anyone can: it proves only that the sender knows whom it
    /// calls. False if the length is neither's.
    pub fn fill(&self, datagram: &mut [u8]) -> bool {
        let Some((body, _)) = split(datagram) else {
            return false;
        };
        let (at, mac1) = (body.len(), self.of(body));
        datagram[at..at + MAC_LEN].copy_from_slice(&mac1);
        true
    }

    /// Whether the mac1 of an initiation or response is valid.
    pub(crate) fn verify(&self, datagram: &[u8]) -> bool {
        let Some((body, [mac1, _])) = split(datagram) else {
            return false;
        };
        crypto::mac(&self.key, &[body]).ct_eq(mac1).into()
    }

    fn of(&self, body: &[u8]) -> [u8; MAC_LEN] {
        crypto::mac(&self.key, &[body])
    }
}

/// Whether an initiation or response carries a mac2, valid or not: who was given no cookie leaves it zero. False for
/// anything else.
#[must_use]
pub fn carries_mac2(datagram: &[u8]) -> bool {
    split(datagram).is_some_and(|(_, [_, mac2])| *mac2 != [0; MAC_LEN])
}

/// An initiation or response as body, mac1, mac2.
fn split(datagram: &[u8]) -> Option<(&[u8], [&[u8; MAC_LEN]; 2])> {
    if !matches!(datagram.len(), INITIATION_LEN | RESPONSE_LEN) {
        return None;
    }
    let (rest, mac2) = datagram.split_last_chunk()?;
    let (body, mac1) = rest.split_last_chunk()?;
    Some((body, [mac1, mac2]))
}

/// The responder's side: makes cookies and checks mac2.
pub(crate) struct Checker {
    mac1: Mac1,
    reply_key: [u8; 32],
    secret: Option<(Secret, Instant)>,
}

impl Checker {
    pub(crate) fn new(identity: &PublicKey) -> Self {
        Self {
            mac1: Mac1::new(identity),
            reply_key: reply_key(identity),
            secret: None,
        }
    }

    pub(crate) fn verify_mac1(&self, datagram: &[u8]) -> bool {
        self.mac1.verify(datagram)
    }

    /// Whether mac2 was made with the cookie of this source.
    pub(crate) fn verify_mac2(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> bool {
        let Some((body, [mac1, mac2])) = split(datagram) else {
            return false;
        };
        // All zeros claim nothing: that is refused without the two hashes.
        if *mac2 == [0; MAC_LEN] {
            return false;
        }
        let cookie = self.cookie(source, now, rng);
        crypto::mac(cookie.as_slice(), &[body, mac1])
            .ct_eq(mac2)
            .into()
    }

    /// The reply to a message from this source: its cookie, sealed for whoever saw the message.
    pub(crate) fn reply(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Option<[u8; COOKIE_REPLY_LEN]> {
        let (_, [mac1, _]) = split(datagram)?;
        let cookie = self.cookie(source, now, rng);
        let mut reply = message::new_cookie_reply();
        reply[4..8].copy_from_slice(&datagram[4..8]);
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        reply[8..32].copy_from_slice(&nonce);
        crypto::xseal(
            &self.reply_key,
            &nonce,
            mac1,
            cookie.as_slice(),
            &mut reply[32..],
        );
        Some(reply)
    }

    /// The cookie of a source address and port, under a secret that changes every two minutes.
    fn cookie(
        &mut self,
        source: SocketAddr,
        now: Instant,
        rng: &mut dyn CryptoRng,
    ) -> Zeroizing<[u8; MAC_LEN]> {
        let (secret, _) = match self.secret.take() {
            Some((secret, born)) if !born.is_older_than(COOKIE_SECRET_MAX_AGE, now) => {
                self.secret.insert((secret, born))
            }
            _ => {
                let mut secret = Zeroizing::new([0; 32]);
                rng.fill_bytes(secret.as_mut_slice());
                self.secret.insert((secret, now))
            }
        };
        let port = source.port().to_be_bytes();
        // An IPv4 source seen through an IPv6 socket is still that IPv4 source.
        Zeroizing::new(match source.ip().to_canonical() {
            IpAddr::V4(address) => crypto::mac(secret.as_slice(), &[&address.octets(), &port]),
            IpAddr::V6(address) => crypto::mac(secret.as_slice(), &[&address.octets(), &port]),
        })
    }
}

fn reply_key(identity: &PublicKey) -> [u8; 32] {
    crypto::hash(&[COOKIE_LABEL, identity.as_bytes()])
}

/// The initiator's side, one per peer: the cookie that the peer gave us.
#[derive(Default)]
pub(crate) struct Jar {
    /// The mac1 of the last message we sent, while a cookie reply to it may come.
    last_mac1: Option<[u8; MAC_LEN]>,
    cookie: Option<([u8; MAC_LEN], Instant)>,
}

/// Why a cookie reply is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieRefusal {
    /// We sent nothing that it could answer.
    Unexpected,
    /// The tag doesn't match.
    Undecryptable,
}

impl Jar {
    /// Fills in both MACs of an initiation or response to `receiver`.
    pub(crate) fn add_macs(&mut self, message: &mut [u8], receiver: &PublicKey, now: Instant) {
        let mac2_at = message.len() - MAC_LEN;
        let mac1_at = mac2_at - MAC_LEN;
        let mac1 = Mac1::new(receiver).of(&message[..mac1_at]);
        message[mac1_at..mac2_at].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        if let Some((cookie, received)) = &self.cookie
            && !received.is_older_than(COOKIE_USED_FOR, now)
        {
            let mac2 = crypto::mac(cookie, &[&message[..mac2_at]]);
            message[mac2_at..].copy_from_slice(&mac2);
        }
    }

    /// Takes the cookie out of a reply from `sender`. One reply is taken per message of ours.
    pub(crate) fn take(
        &mut self,
        reply: &CookieReply<'_>,
        sender: &PublicKey,
        now: Instant,
    ) -> Result<(), CookieRefusal> {
        let mac1 = self.last_mac1.ok_or(CookieRefusal::Unexpected)?;
        let mut cookie = [0; MAC_LEN];
        crypto::xopen(
            &reply_key(sender),
            reply.nonce(),
            &mac1,
            reply.sealed_cookie(),
            &mut cookie,
        )
        .ok_or(CookieRefusal::Undecryptable)?;
        self.cookie = Some((cookie, now));
        self.last_mac1 = None;
        Ok(())
    }
}

impl Drop for Jar {
    fn drop(&mut self) {
        if let Some((cookie, _)) = &mut self.cookie {
            cookie.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use chacha20::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    use super::*;
    use crate::message::Message;

    struct Scene {
        rng: ChaCha20Rng,
        checker: Checker,
        receiver: PublicKey,
        source: SocketAddr,
    }

    fn scene() -> Scene {
        let receiver = PublicKey::from_bytes([9; 32]);
        Scene {
            rng: ChaCha20Rng::from_seed([1; 32]),
            checker: Checker::new(&receiver),
            receiver,
            source: "192.0.2.1:51820".parse().unwrap(),
        }
    }

    fn seconds(seconds: u64) -> Instant {
        Instant(0) + Duration::from_secs(seconds)
    }

    fn initiation(jar: &mut Jar, receiver: &PublicKey, now: Instant) -> [u8; INITIATION_LEN] {
        let mut message = message::new_initiation();
        message[4..8].copy_from_slice(&[1, 2, 3, 4]);
        jar.add_macs(&mut message, receiver, now);
        message
    }

    fn take(
        jar: &mut Jar,
        reply: &[u8],
        sender: &PublicKey,
        now: Instant,
    ) -> Result<(), CookieRefusal> {
        let Some(Message::CookieReply(view)) = Message::parse(reply) else {
            panic!("no cookie reply")
        };
        jar.take(&view, sender, now)
    }

    #[test]
    fn mac1_binds_every_byte_and_the_receiver() {
        let Scene {
            checker, receiver, ..
        } = scene();
        let message = initiation(&mut Jar::default(), &receiver, seconds(0));
        assert!(checker.verify_mac1(&message) && Mac1::new(&receiver).admits(&message));
        assert!(!Mac1::new(&PublicKey::from_bytes([8; 32])).admits(&message));
        for at in 0..INITIATION_LEN - MAC_LEN {
            let mut forged = message;
            forged[at] ^= 1;
            assert!(!Mac1::new(&receiver).admits(&forged), "byte {at}");
        }
        for len in [0, 1, 32, 64, 91, 93, 147, 149] {
            assert!(!checker.verify_mac1(&vec![0; len]));
            assert!(!Mac1::new(&receiver).fill(&mut vec![0; len]));
        }
        let mut junk = message::new_response();
        assert!(Mac1::new(&receiver).fill(&mut junk));
        assert!(checker.verify_mac1(&junk));
    }

    #[test]
    fn a_cookie_makes_mac2_valid() {
        let Scene {
            mut rng,
            mut checker,
            receiver,
            source,
        } = scene();
        let mut jar = Jar::default();
        let first = initiation(&mut jar, &receiver, seconds(0));
        assert_eq!(first[132..], [0; 16], "no cookie, no mac2");
        assert!(!checker.verify_mac2(&first, source, seconds(0), &mut rng));
        let reply = checker.reply(&first, source, seconds(0), &mut rng).unwrap();
        assert_eq!(
            reply[..8],
            [3, 0, 0, 0, 1, 2, 3, 4],
            "the reply names the sender's index"
        );
        assert_eq!(take(&mut jar, &reply, &receiver, seconds(0)), Ok(()));
        let second = initiation(&mut jar, &receiver, seconds(5));
        assert!(checker.verify_mac2(&second, source, seconds(5), &mut rng));
        let mut forged = second;
        forged[147] ^= 1;
        assert!(!checker.verify_mac2(&forged, source, seconds(5), &mut rng));
    }

    #[test]
    fn a_cookie_is_bound_to_address_and_port() {
        let Scene {
            mut rng,
            mut checker,
            receiver,
            source,
        } = scene();
        let mut jar = Jar::default();
        let first = initiation(&mut jar, &receiver, seconds(0));
        let reply = checker.reply(&first, source, seconds(0), &mut rng).unwrap();
        take(&mut jar, &reply, &receiver, seconds(0)).unwrap();
        let second = initiation(&mut jar, &receiver, seconds(5));
        for other in ["192.0.2.1:51821", "192.0.2.2:51820", "[2001:db8::1]:51820"] {
            assert!(
                !checker.verify_mac2(&second, other.parse().unwrap(), seconds(5), &mut rng),
                "{other}"
            );
        }
        let mapped = "[::ffff:192.0.2.1]:51820".parse().unwrap();
        assert!(checker.verify_mac2(&second, mapped, seconds(5), &mut rng));
    }

    #[test]
    fn the_secret_changes_after_two_minutes_and_cookies_retire_before() {
        let Scene {
            mut rng,
            mut checker,
            receiver,
            source,
        } = scene();
        let mut jar = Jar::default();
        let first = initiation(&mut jar, &receiver, seconds(0));
        let reply = checker.reply(&first, source, seconds(0), &mut rng).unwrap();
        take(&mut jar, &reply, &receiver, seconds(0)).unwrap();
        let last = initiation(&mut jar, &receiver, seconds(114));
        assert!(checker.verify_mac2(&last, source, seconds(119), &mut rng));
        assert!(!checker.verify_mac2(&last, source, seconds(120), &mut rng));
        let retired = initiation(&mut jar, &receiver, seconds(115));
        assert_eq!(retired[132..], [0; 16]);
    }

    #[test]
    fn a_reply_is_taken_once_and_only_for_our_message() {
        let Scene {
            mut rng,
            mut checker,
            receiver,
            source,
        } = scene();
        let mut jar = Jar::default();
        let first = initiation(&mut jar, &receiver, seconds(0));
        let reply = checker.reply(&first, source, seconds(0), &mut rng).unwrap();
        assert_eq!(
            take(&mut Jar::default(), &reply, &receiver, seconds(0)),
            Err(CookieRefusal::Unexpected)
        );
        let mut other = Jar::default();
        let mut message = message::new_response();
        other.add_macs(&mut message, &receiver, seconds(0));
        assert_eq!(
            take(&mut other, &reply, &receiver, seconds(0)),
            Err(CookieRefusal::Undecryptable)
        );
        let stranger = PublicKey::from_bytes([8; 32]);
        assert_eq!(
            take(&mut jar, &reply, &stranger, seconds(0)),
            Err(CookieRefusal::Undecryptable)
        );
        assert_eq!(take(&mut jar, &reply, &receiver, seconds(0)), Ok(()));
        assert_eq!(
            take(&mut jar, &reply, &receiver, seconds(0)),
            Err(CookieRefusal::Unexpected)
        );
    }

    #[test]
    fn replies_never_repeat_a_nonce() {
        let Scene {
            mut rng,
            mut checker,
            receiver,
            source,
        } = scene();
        let first = initiation(&mut Jar::default(), &receiver, seconds(0));
        let a = checker.reply(&first, source, seconds(0), &mut rng).unwrap();
        let b = checker.reply(&first, source, seconds(0), &mut rng).unwrap();
        assert_ne!(a[8..32], b[8..32]);
    }
}
