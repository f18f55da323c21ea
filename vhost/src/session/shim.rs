//! The message shim: between the socket and the `vhost` crate.
//!
//! In: whole messages from the VMM. Out: messages that the crate understands, its replies.
//! Never: a message that the crate would wait for; a feature that we didn't offer.
//!
//! The crate reads from one end of a socket pair that nobody else knows; we write a message to
//! the other end, let the crate handle exactly that one, and pass its replies on. So one thread
//! is enough, and every message passes here, where what frontends do and the crate doesn't
//! expect is put right:
//!
//! - QEMU enables rings before it has set features, which the crate takes as an error: a
//!   SET_FEATURES with nothing but the protocol bit goes ahead, and the bit stays set.
//! - NET_SET_MTU, SEND_RARP, SET_STATUS and GET_STATUS end the crate's session: answered here.
//! - Protocol features that we didn't offer are masked.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_wire::MacAddr;
use rustix::net::RecvFlags;
use vhost::vhost_user::BackendReqHandler;
use vhost::vhost_user::message::FrontendReq;

use crate::config::PROTOCOL_FEATURES;
use crate::event::PortEvent;
use crate::limits;

use super::message::{HEADER, Message, NEED_REPLY, REPLY};
use super::protocol::{self, Protocol};

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
#[error("{request}: {reason}")]
pub(super) struct Refusal {
    request: String,
    reason: String,
}

/// One session's shim.
pub(super) struct Shim {
    inner: UnixStream,
    handler: BackendReqHandler<Mutex<Protocol>>,
    protocol: Arc<Mutex<Protocol>>,
    /// Features that the crate believes acknowledged.
    features: u64,
    /// The frontend enables rings one by one.
    enables: bool,
    status: u64,
}

impl Shim {
    pub(super) fn new(protocol: Protocol) -> io::Result<Self> {
        let (inner, outer) = UnixStream::pair()?;
        let protocol = Arc::new(Mutex::new(protocol));
        Ok(Self {
            inner,
            handler: BackendReqHandler::from_stream(outer, Arc::clone(&protocol)),
            protocol,
            features: 0,
            enables: false,
            status: 0,
        })
    }

    /// Runs `body` on the protocol's state.
    pub(super) fn with<T>(&self, body: impl FnOnce(&mut Protocol) -> T) -> T {
        body(&mut self.protocol.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Handles one message; what goes to `replies` must be sent even if the session ends.
    pub(super) fn handle(
        &mut self,
        mut message: Message,
        replies: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let request = FrontendReq::try_from(message.request).ok();
        if let Some(FrontendReq::SET_FEATURES) = request {
            if let Some(value) = message.as_u64() {
                let value = if self.enables {
                    value | PROTOCOL_FEATURES
                } else {
                    value
                };
                self.features = value;
                message.body = value.to_ne_bytes().to_vec();
            }
        } else if let Some(FrontendReq::SET_PROTOCOL_FEATURES) = request {
            if let Some(value) = message.as_u64() {
                // Whoever knows protocol features enables rings by message.
                self.enables = true;
                message.body = (value & protocol::offered_protocol_features().bits())
                    .to_ne_bytes()
                    .to_vec();
            }
        } else if let Some(FrontendReq::SET_VRING_ENABLE) = request {
            self.enables = true;
            if self.features & PROTOCOL_FEATURES == 0 {
                self.features |= PROTOCOL_FEATURES;
                let ahead = Message::of_u64(FrontendReq::SET_FEATURES as u32, 1, self.features);
                self.pass(&ahead, replies)?;
            }
        } else if self.answer(request, &message, replies) {
            return Ok(());
        }
        self.pass(&message, replies)
    }

    /// Answers what the crate doesn't know. False if it is none of that.
    fn answer(
        &mut self,
        request: Option<FrontendReq>,
        message: &Message,
        replies: &mut Vec<u8>,
    ) -> bool {
        let value = message.as_u64();
        match request {
            Some(FrontendReq::GET_STATUS) => {
                push_reply(&message.reply_u64(self.status), replies);
                return true;
            }
            // The status is information: what QEMU resets with it, GET_VRING_BASE has stopped.
            Some(FrontendReq::SET_STATUS) => self.status = value.unwrap_or(0) & 0xff,
            Some(FrontendReq::NET_SET_MTU) => {
                if let Some(mtu) = value.and_then(|value| u16::try_from(value).ok()) {
                    self.with(|protocol| protocol.tell(PortEvent::MtuSet { mtu }));
                }
            }
            Some(FrontendReq::SEND_RARP) => {
                if let Some(bytes) = value.map(u64::to_ne_bytes) {
                    let mac = MacAddr([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]]);
                    self.with(|protocol| protocol.tell(PortEvent::Announce { mac }));
                }
            }
            // Where errors of the log would go: nowhere.
            Some(FrontendReq::SET_LOG_FD) => {}
            Some(_) | None => return false,
        }
        if message.flags & NEED_REPLY != 0 {
            push_reply(&message.reply_u64(0), replies);
        }
        true
    }

    /// Lets the crate handle one message.
    fn pass(&mut self, message: &Message, replies: &mut Vec<u8>) -> Result<(), Refusal> {
        let refusal = |reason: String| Refusal {
            request: FrontendReq::try_from(message.request).map_or_else(
                |_| format!("request {}", message.request),
                |r| format!("{r:?}"),
            ),
            reason,
        };
        if message.flags & REPLY != 0 {
            return Err(refusal("a reply where a request was expected".into()));
        }
        message
            .send(&self.inner)
            .map_err(|error| refusal(error.to_string()))?;
        let before = replies.len();
        let handled = self.handler.handle_request();
        self.drain(replies)
            .map_err(|error| refusal(error.to_string()))?;
        let is_answered = replies.len() > before;
        let reason = self.with(Protocol::take_reason);
        let Err(error) = handled else {
            return Ok(());
        };
        let refusal = refusal(reason.unwrap_or_else(|| error.to_string()));
        if !is_answered {
            return Err(refusal);
        }
        // Nothing was changed, and the VMM knows: what comes of it is its affair.
        self.with(|protocol| protocol.tell_refused(refusal.to_string()));
        Ok(())
    }

    /// Takes what the crate has written.
    fn drain(&self, replies: &mut Vec<u8>) -> Result<(), rustix::io::Errno> {
        let mut buffer = [0u8; HEADER + limits::MESSAGE_BODY_MAX];
        loop {
            match rustix::net::recv(&self.inner, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Ok((length, _)) => replies.extend(&buffer[..length]),
                Err(error) => return Err(error),
            }
        }
    }
}

fn push_reply(reply: &Message, replies: &mut Vec<u8>) {
    replies.extend(reply.encode());
}
