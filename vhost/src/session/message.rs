//! vhost-user messages on a socket, with their descriptors.
//!
//! In: a non-blocking stream. Out: whole messages, bounded.
//! Never: a read beyond the message (descriptors would lose theirs); a wait without a way out.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::limits;

/// Bytes of a message's header: request, flags, size.
pub(crate) const HEADER: usize = 12;
/// Header flag: this is a reply.
pub(crate) const REPLY: u32 = 4;
/// Header flag: the sender wants a reply.
pub(crate) const NEED_REPLY: u32 = 8;
/// Header flag: the protocol's version.
const VERSION: u32 = 1;

/// One whole message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) request: u32,
    pub(crate) flags: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Why no further message can be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    /// The other side closed between messages.
    #[error("the VMM closed the connection")]
    Closed,
    /// The other side closed within a message.
    #[error("the connection ended in the middle of a message")]
    Cut,
    /// A body longer than any that the protocol has.
    #[error("a message of {0} bytes")]
    TooLong(usize),
    /// More descriptors than any message has.
    #[error("more than {} descriptors with one message", limits::MESSAGE_FDS_MAX)]
    TooManyFds,
    /// The kernel's answer.
    #[error("the socket failed: {0}")]
    Socket(#[from] Errno),
}

impl Message {
    /// A request or reply with one 64-bit value.
    pub(crate) fn of_u64(request: u32, flags: u32, value: u64) -> Self {
        Self {
            request,
            flags,
            body: value.to_ne_bytes().to_vec(),
            fds: Vec::new(),
        }
    }

    /// The body as a 64-bit value.
    pub(crate) fn as_u64(&self) -> Option<u64> {
        self.body.as_slice().try_into().ok().map(u64::from_ne_bytes)
    }

    /// The reply to this message with one 64-bit value.
    pub(crate) fn reply_u64(&self, value: u64) -> Self {
        Self::of_u64(self.request, VERSION | REPLY, value)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER + self.body.len());
        bytes.extend(self.request.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        // Bodies are bounded by `MESSAGE_BODY_MAX`.
        bytes.extend(
            u32::try_from(self.body.len())
                .unwrap_or(u32::MAX)
                .to_ne_bytes(),
        );
        bytes.extend(&self.body);
        bytes
    }

    /// Writes the message to a blocking stream that has room for it.
    pub(crate) fn send(&self, stream: &UnixStream) -> Result<(), Errno> {
        send_bytes(stream, &self.encode(), &self.fds)
    }
}

/// Writes bytes with descriptors to a blocking stream.
fn send_bytes(stream: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) -> Result<(), Errno> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let mut space =
        [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(limits::MESSAGE_FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::NOSIGNAL;
    let first = [IoSlice::new(bytes)];
    let mut sent = retry_on_intr(|| rustix::net::sendmsg(stream, &first, &mut control, flags))?;
    while sent < bytes.len() {
        sent += retry_on_intr(|| rustix::net::send(stream, &bytes[sent..], flags))?;
    }
    Ok(())
}

/// Collects messages from a non-blocking stream.
#[derive(Debug, Default)]
pub(crate) struct MessageReader {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl MessageReader {
    /// Reads what is there. `None`: the message isn't whole yet.
    pub(crate) fn read(&mut self, stream: &UnixStream) -> Result<Option<Message>, MessageError> {
        loop {
            let wanted = match self.bytes.get(8..HEADER) {
                None => HEADER,
                Some(size) => {
                    let size = size.try_into().map_or(0, u32::from_ne_bytes) as usize;
                    if size > limits::MESSAGE_BODY_MAX {
                        return Err(MessageError::TooLong(size));
                    }
                    HEADER + size
                }
            };
            if self.bytes.len() >= HEADER && self.bytes.len() == wanted {
                return Ok(Some(self.take()));
            }
            if !self.receive(stream, wanted)? {
                return Ok(None);
            }
        }
    }

    /// Receives up to the byte `wanted`. False: nothing is there.
    fn receive(&mut self, stream: &UnixStream, wanted: usize) -> Result<bool, MessageError> {
        let have = self.bytes.len();
        self.bytes.resize(wanted, 0);
        let mut space =
            [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(limits::MESSAGE_FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            stream,
            &mut [IoSliceMut::new(&mut self.bytes[have..])],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        let received = match received {
            Ok(received) => received,
            Err(error) => {
                self.bytes.truncate(have);
                if error == Errno::AGAIN || error == Errno::INTR {
                    return Ok(false);
                }
                return Err(error.into());
            }
        };
        self.bytes.truncate(have + received.bytes);
        if received.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > limits::MESSAGE_FDS_MAX
        {
            return Err(MessageError::TooManyFds);
        }
        if received.bytes == 0 {
            return Err(if have == 0 {
                MessageError::Closed
            } else {
                MessageError::Cut
            });
        }
        Ok(true)
    }

    fn take(&mut self) -> Message {
        let word = |at: usize| {
            self.bytes
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_ne_bytes)
        };
        let (request, flags) = (word(0), word(4));
        let body = self.bytes.split_off(HEADER);
        self.bytes.clear();
        Message {
            request,
            flags,
            body,
            fds: std::mem::take(&mut self.fds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_whole_with_its_descriptors_however_it_is_cut() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut reader = MessageReader::default();
        assert!(reader.read(&ours).unwrap().is_none());
        let message = Message::of_u64(12, VERSION, 7);
        let bytes = message.encode();
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        send_bytes(&theirs, &bytes[..5], &[fd]).unwrap();
        assert!(reader.read(&ours).unwrap().is_none());
        send_bytes(&theirs, &bytes[5..14], &[]).unwrap();
        assert!(reader.read(&ours).unwrap().is_none());
        send_bytes(&theirs, &bytes[14..], &[]).unwrap();
        message.send(&theirs).unwrap();
        let first = reader.read(&ours).unwrap().unwrap();
        assert_eq!(
            (first.request, first.as_u64(), first.fds.len()),
            (12, Some(7), 1)
        );
        let second = reader.read(&ours).unwrap().unwrap();
        assert_eq!((second.as_u64(), second.fds.len()), (Some(7), 0));
        send_bytes(&theirs, &bytes[..3], &[]).unwrap();
        drop(theirs);
        assert!(
            reader
                .read(&ours)
                .is_err_and(|e| matches!(e, MessageError::Cut))
        );
    }

    #[test]
    fn a_body_that_is_too_long_is_refused_before_it_is_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut header = Message::of_u64(5, VERSION, 0).encode();
        header[8..12].copy_from_slice(&u32::MAX.to_ne_bytes());
        send_bytes(&theirs, &header, &[]).unwrap();
        let refused = MessageReader::default().read(&ours).unwrap_err();
        assert!(matches!(refused, MessageError::TooLong(_)), "{refused}");
    }
}
