//! Every message of the protocol by hand.
//!
//! In: requests. Out: the backend's answers. Never: a thought whether a message is right.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::session::message::{Message, MessageError, NEED_REPLY};

use super::{Frontend, FrontendReq};

/// How often is looked whether an answer is still waited for.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

impl Frontend {
    /// Sends a request with a 64-bit value and waits for the acknowledgement.
    ///
    /// # Errors
    /// The backend refuses or is gone.
    pub fn tell_u64(&mut self, request: FrontendReq, value: u64) -> io::Result<()> {
        self.tell(request, &value.to_ne_bytes(), &[])
    }

    /// Sends a request about a ring and waits for the acknowledgement.
    ///
    /// # Errors
    /// The backend refuses or is gone.
    pub fn tell_state(&mut self, request: FrontendReq, index: u32, value: u32) -> io::Result<()> {
        let mut body = index.to_ne_bytes().to_vec();
        body.extend(value.to_ne_bytes());
        self.tell(request, &body, &[])
    }

    /// Sends a ring's descriptor and waits for the acknowledgement.
    ///
    /// # Errors
    /// The backend refuses or is gone.
    pub fn tell_fd(
        &mut self,
        request: FrontendReq,
        index: u32,
        fd: BorrowedFd<'_>,
    ) -> io::Result<()> {
        self.tell(request, &u64::from(index).to_ne_bytes(), &[fd])
    }

    /// Sends a request and waits for the acknowledgement, if that is negotiated by now.
    ///
    /// # Errors
    /// The backend refuses or is gone.
    pub fn tell(
        &mut self,
        request: FrontendReq,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        // SET_PROTOCOL_FEATURES is the first message that is acknowledged.
        self.send(request as u32, 1 | NEED_REPLY, body, fds)?;
        let reply = self.receive()?;
        if request == FrontendReq::SET_LOG_BASE {
            // Answered with itself.
            return Ok(());
        }
        match reply.as_slice().try_into().map(u64::from_ne_bytes) {
            Ok(0) => Ok(()),
            Ok(_) | Err(_) => Err(io::Error::other(format!("{request:?} was refused"))),
        }
    }

    /// Sends a request and returns the 64-bit value of its reply.
    ///
    /// # Errors
    /// The backend refuses or is gone.
    pub fn ask_u64(&mut self, request: FrontendReq) -> io::Result<u64> {
        self.send(request as u32, 1, &[], &[])?;
        let reply = self.receive()?;
        let value = reply.as_slice().try_into().map(u64::from_ne_bytes);
        value.map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// Sends any message, well-formed or not.
    ///
    /// # Errors
    /// The backend is gone.
    pub fn send(
        &mut self,
        request: u32,
        flags: u32,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let fds = fds
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<io::Result<_>>()?;
        let message = Message {
            request,
            flags,
            body: body.to_vec(),
            fds,
        };
        Ok(message.send(&self.stream)?)
    }

    /// Waits for a reply and returns its body.
    ///
    /// # Errors
    /// The backend is gone, or silent for too long; or nobody wants to wait any more.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let begun = Instant::now();
        loop {
            if self.config.give_up.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let is_too_long = |it| begun.elapsed() > it;
            if self.config.answer_within.is_some_and(is_too_long) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
            rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&LOOK)))?;
            match self.reader.read(&self.stream) {
                Ok(Some(message)) => return Ok(message.body),
                Ok(None) => {}
                Err(MessageError::Closed | MessageError::Cut) => {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use vmm_sys_util::signal::{Killable as _, register_signal_handler};

    use super::*;
    use crate::frontend::FrontendConfig;

    extern "C" fn pass(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    /// DPDK's offers STATUS, and passes nothing before it is told DRIVER_OK by it.
    #[test]
    fn nothing_is_acknowledged_that_is_not_spoken() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut frontend = Frontend::attach(ours, FrontendConfig::default()).unwrap();
        let asked = thread::spawn(move || frontend.negotiate());
        let mut reader = crate::session::message::MessageReader::default();
        let mut acknowledged = None;
        while !asked.is_finished() {
            let Some(request) = reader.read(&theirs).unwrap_or(None) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let is_offer = [
                FrontendReq::GET_FEATURES as u32,
                FrontendReq::GET_PROTOCOL_FEATURES as u32,
            ]
            .contains(&request.request);
            if request.request == FrontendReq::SET_PROTOCOL_FEATURES as u32 {
                acknowledged = request.as_u64();
            }
            let reply = if is_offer { u64::MAX } else { 0 };
            request.reply_u64(reply).send(&theirs).unwrap();
        }
        asked.join().unwrap().unwrap();
        assert_eq!(acknowledged, Some(0x801f));
    }

    #[test]
    fn a_silent_backend_is_waited_for_as_long_as_somebody_wants_to() {
        let silent = |config: FrontendConfig| {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let mut frontend = Frontend::attach(ours, config).unwrap();
            let answer = frontend.ask_u64(FrontendReq::GET_FEATURES);
            answer.map_err(|error| error.kind())
        };
        let config = FrontendConfig {
            answer_within: Some(Duration::from_millis(100)),
            ..FrontendConfig::default()
        };
        assert_eq!(silent(config), Err(io::ErrorKind::TimedOut));
        let config = FrontendConfig::default();
        let give_up = std::sync::Arc::clone(&config.give_up);
        let asked = thread::spawn(move || silent(config));
        thread::sleep(Duration::from_millis(100));
        give_up.store(true, Ordering::Relaxed);
        assert_eq!(asked.join().unwrap(), Err(io::ErrorKind::Interrupted));
    }

    #[test]
    fn a_signal_ends_no_wait_for_an_answer() {
        register_signal_handler(libc::SIGUSR1, pass).unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let mut frontend = Frontend::attach(ours, FrontendConfig::default()).unwrap();
        let asked = thread::spawn(move || frontend.ask_u64(FrontendReq::GET_FEATURES));
        let mut reader = crate::session::message::MessageReader::default();
        let request = loop {
            if let Some(request) = reader.read(&theirs).unwrap() {
                break request;
            }
            thread::sleep(Duration::from_millis(1));
        };
        for _ in 0..20 {
            asked.kill(libc::SIGUSR1).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        request.reply_u64(7).send(&theirs).unwrap();
        assert_eq!(asked.join().unwrap().unwrap(), 7);
    }
}
