//! `culvert genkey | pubkey | genpsk`: the same text in and out as `wg`'s.

use std::io::{self, Read as _, Write as _};

use rustix::fs::{FileType, fstat};
use zeroize::Zeroizing;

use super::Failure;
use crate::keys::{KEY_TEXT_LEN, PrivateKey, generate_preshared, generate_private};

pub(super) fn genkey() -> Result<(), Failure> {
    warn_if_exposed();
    write(&generate_private()?.to_base64())
}

pub(super) fn genpsk() -> Result<(), Failure> {
    warn_if_exposed();
    write(&generate_preshared()?.to_base64())
}

pub(super) fn pubkey() -> Result<(), Failure> {
    // Room for a key and the white space around it; anything longer is something else.
    let mut buffer = Zeroizing::new([0u8; 2 * KEY_TEXT_LEN]);
    let mut len = 0;
    let mut input = io::stdin().lock();
    while len < buffer.len() {
        match input.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Failure::Line(format!("can't read standard input: {error}"))),
        }
    }
    let text = std::str::from_utf8(&buffer[..len])
        .unwrap_or_default()
        .trim();
    let key = PrivateKey::from_base64(text).map_err(|_| {
        Failure::Line(format!("standard input is no private key: expected {KEY_TEXT_LEN} characters of base64, as `culvert genkey` prints"))
    })?;
    write(&key.public_key().to_base64())
}

fn write(key: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out
        .write_all(key.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    written.map_err(|error| Failure::Line(format!("can't write the key: {error}")))
}

/// As `wg` warns: a key in a file that anybody can read is no secret.
fn warn_if_exposed() {
    let stdout = io::stdout();
    let Ok(stat) = fstat(&stdout) else { return };
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & 0o007 != 0 {
        let _ = io::stderr().write_all(
            b"culvert: warning: others can read the file that the key goes to; use (umask 077; culvert genkey > FILE)\n",
        );
    }
}
