//! Server-sent events, as they come.
//!
//! In: chunks of a stream. Out: events. Never: more of the stream than one event.

use axum::http::Method;
use http_body_util::BodyExt as _;

use super::{Client, ClientError};

/// The longest event; the server's have a few hundred bytes.
const LONGEST: usize = 1 << 20;

impl Client {
    /// Follows a stream until `each` has enough. It is given an event's type, which may be empty, and its data.
    ///
    /// # Errors
    ///
    /// When nobody answers, or the stream ends.
    pub fn follow(
        &self,
        path: &str,
        each: &mut dyn FnMut(&str, &str) -> bool,
    ) -> Result<(), ClientError> {
        self.block_on(async {
            let response = self.send(Method::GET, path, Vec::new()).await?;
            if !response.status().is_success() {
                let (status, body) = self.whole(response).await?;
                return Err(Self::refused(status, &body));
            }
            let mut body = response.into_body();
            let mut events = Events::default();
            while let Some(frame) = body.frame().await {
                // Cut within the stream: hyper's words for it say nothing of that.
                let Ok(frame) = frame else { break };
                if !events.take(frame.data_ref().map_or(&[], |data| data), each) {
                    return Ok(());
                }
            }
            Err(self.broken(&"the stream has ended: culvert has, or this end took too long"))
        })
    }
}

/// What has come of the next event.
#[derive(Default)]
struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// `false`: enough.
    fn take(&mut self, data: &[u8], each: &mut dyn FnMut(&str, &str) -> bool) -> bool {
        self.rest.extend_from_slice(data);
        while let Some(end) = self.rest.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.rest.drain(..end + 2).collect();
            let event = String::from_utf8_lossy(&event);
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let data = field("data: ");
            if data.is_some_and(|data| !each(field("event: ").unwrap_or_default(), data)) {
                return false;
            }
        }
        self.rest.len() <= LONGEST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_wherever_they_are_cut() {
        let stream = ": hello\n\nid: 1-2\ndata: {\"a\":1}\n\nevent: lost\ndata: {}\n\n:\n\n";
        for step in [1, 2, 7, 100] {
            let (mut events, mut told) = (Events::default(), Vec::new());
            let mut each = |kind: &str, data: &str| {
                told.push(format!("{kind}|{data}"));
                true
            };
            let mut chunks = stream.as_bytes().chunks(step);
            assert!(chunks.all(|chunk| events.take(chunk, &mut each)));
            assert_eq!(told, ["|{\"a\":1}", "lost|{}"]);
        }
    }
}
