#!/usr/bin/env python3
"""Makes handshake.json: whole WireGuard handshakes, computed without this crate.

Written from the whitepaper's section 5.4 with hashlib (BLAKE2s), hmac, `cryptography` (X25519, ChaCha20-Poly1305) and
PyNaCl (XChaCha20-Poly1305). Run it to see that the file is what it makes: `./handshake.py | diff - handshake.json`.
"""

import hashlib
import hmac
import json
import struct
from ipaddress import ip_address

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt as xseal


def blake2s(data):
    return hashlib.blake2s(data).digest()


def mac(key, data):
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def kdf(n, key, data):
    secret = hmac.new(key, data, hashlib.blake2s).digest()
    outputs, last = [], b""
    for label in range(1, n + 1):
        last = hmac.new(secret, last + bytes([label]), hashlib.blake2s).digest()
        outputs.append(last)
    return outputs


def seal(key, counter, plaintext, aad):
    return ChaCha20Poly1305(key).encrypt(struct.pack("<IQ", 0, counter), plaintext, aad)


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def dh(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def tai64n(seconds, nanoseconds):
    return struct.pack(">QI", 0x400000000000000A + seconds, nanoseconds // 2**24 * 2**24)


def with_macs(message, receiver, cookie):
    message += mac(blake2s(b"mac1----" + receiver), message)
    return message + (mac(cookie, message) if cookie else bytes(16))


def case(name, psk, seconds, nanoseconds, source=None):
    def bytes_for(label, n=32):
        return hashlib.sha256(f"{name}/{label}".encode()).digest()[:n]

    si, sr, ei, er = (bytes_for(label) for label in ("si", "sr", "ei", "er"))
    index_i, index_r = bytes_for("index i", 4), bytes_for("index r", 4)
    psk = bytes_for("psk") if psk else bytes(32)
    secret, nonce = bytes_for("cookie secret"), bytes_for("nonce", 24)

    def initiation(ei, index_i, timestamp, cookie):
        c = blake2s(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        h = blake2s(blake2s(c + b"WireGuard v1 zx2c4 Jason@zx2c4.com") + public(sr))
        (c,) = kdf(1, c, public(ei))
        h = blake2s(h + public(ei))
        c, k = kdf(2, c, dh(ei, public(sr)))
        static = seal(k, 0, public(si), h)
        h = blake2s(h + static)
        c, k = kdf(2, c, dh(si, public(sr)))
        stamp = seal(k, 0, timestamp, h)
        h = blake2s(h + stamp)
        message = b"\1\0\0\0" + index_i + public(ei) + static + stamp
        return with_macs(message, public(sr), cookie), c, h

    message1, c, h = initiation(ei, index_i, tai64n(seconds, nanoseconds), None)
    cookie_case = None
    if source:
        address, port = source
        cookie = mac(secret, ip_address(address).packed + struct.pack(">H", port))
        sealed = xseal(cookie, message1[116:132], nonce, blake2s(b"cookie--" + public(sr)))
        ei2, index_i2 = bytes_for("ei again"), bytes_for("index i again", 4)
        again, _, _ = initiation(ei2, index_i2, tai64n(seconds + 6, nanoseconds), cookie)
        cookie_case = {
            "source": f"[{address}]:{port}" if ":" in address else f"{address}:{port}",
            "secret": secret.hex(),
            "nonce": nonce.hex(),
            "reply": (b"\3\0\0\0" + index_i + nonce + sealed).hex(),
            "initiator_ephemeral": ei2.hex(),
            "initiator_index": index_i2.hex(),
            "initiation": again.hex(),
        }

    (c,) = kdf(1, c, public(er))
    h = blake2s(h + public(er))
    (c,) = kdf(1, c, dh(er, public(ei)))
    (c,) = kdf(1, c, dh(er, public(si)))
    c, t, k = kdf(3, c, psk)
    h = blake2s(h + t)
    message2 = b"\2\0\0\0" + index_r + index_i + public(er) + seal(k, 0, b"", h)
    message2 = with_macs(message2, public(si), None)
    to_responder, to_initiator = kdf(2, c, b"")

    return {
        "name": name,
        "initiator_private": si.hex(),
        "responder_private": sr.hex(),
        "initiator_public": public(si).hex(),
        "responder_public": public(sr).hex(),
        "initiator_ephemeral": ei.hex(),
        "responder_ephemeral": er.hex(),
        "initiator_index": index_i.hex(),
        "responder_index": index_r.hex(),
        "preshared_key": psk.hex(),
        "unix_seconds": seconds,
        "unix_nanoseconds": nanoseconds,
        "initiation": message1.hex(),
        "response": message2.hex(),
        "key_to_responder": to_responder.hex(),
        "key_to_initiator": to_initiator.hex(),
        "first_keepalive": (b"\4\0\0\0" + index_r + bytes(8) + seal(to_responder, 0, b"", b"")).hex(),
        "cookie": cookie_case,
    }


print(
    json.dumps(
        [
            case("no preshared key", False, 1_700_000_000, 0),
            case("preshared key", True, 1_700_000_000, 999_999_999),
            case("epoch", True, 0, 16_777_215),
            case("far future", False, 2**32 + 5, 123_456_789),
            case("cookie over IPv4", True, 1_700_000_000, 5, ("192.0.2.7", 51820)),
            case("cookie over IPv6", False, 1_700_000_000, 5, ("2001:db8::7", 1)),
        ],
        indent=1,
    )
)
