//! A long answer on its way to a client that may read slowly.
//!
//! In: a reader's answer, with its turn. Out: a body in chunks. Never: the answer, or its turn, longer than until
//! [`LONGEST`] is over, whatever the client does.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// What a client has to read an answer.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes that are given to the connection at once, as copies: what it still holds at the end is no more than some of
/// these. An answer that is no longer than one has no turn on its way.
const CHUNK: usize = 256 << 10;

/// Has the turn end when the answer is with the client, the client has left, or the time is over.
pub(super) async fn with_turn(response: Response, turn: OwnedSemaphorePermit) -> Response {
    with_turn_until(response, turn, LONGEST).await
}

async fn with_turn_until(
    response: Response,
    turn: OwnedSemaphorePermit,
    longest: Duration,
) -> Response {
    let (head, body) = response.into_parts();
    // It is there already, as one piece.
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    if body.len() <= CHUNK {
        return Response::from_parts(head, body.into());
    }
    Response::from_parts(head, Body::new(Sent::new(body, turn, longest)))
}

/// What is left of an answer; nothing when the time is over.
type Rest = Arc<Mutex<Option<(Bytes, OwnedSemaphorePermit)>>>;

struct Sent {
    rest: Rest,
    /// Bytes that the client was promised still.
    left: usize,
    end: AbortHandle,
}

impl Sent {
    fn new(body: Bytes, turn: OwnedSemaphorePermit, longest: Duration) -> Self {
        let left = body.len();
        let rest: Rest = Arc::new(Mutex::new(Some((body, turn))));
        let late = Arc::clone(&rest);
        let end = tokio::spawn(async move {
            sleep(longest).await;
            drop(locked(&late).take());
        });
        Self {
            rest,
            left,
            end: end.abort_handle(),
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        drop(locked(&self.rest).take());
        self.end.abort();
    }
}

fn locked(rest: &Rest) -> MutexGuard<'_, Option<(Bytes, OwnedSemaphorePermit)>> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let chunk = {
            let mut held = locked(&self.rest);
            let Some((rest, _)) = held.as_mut() else {
                return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
            };
            let chunk = rest.split_to(rest.len().min(CHUNK));
            if rest.is_empty() {
                *held = None;
            }
            Bytes::copy_from_slice(&chunk)
        };
        self.left -= chunk.len();
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.left).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn an_answer_has_its_turn_until_it_is_read_or_the_time_is_over() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let turns = Arc::new(Semaphore::new(1));
        let turn = || Arc::clone(&turns).try_acquire_owned().unwrap();
        let long: Vec<u8> = (0..=u8::MAX).cycle().take(3 * CHUNK + 7).collect();
        runtime.block_on(async {
            let answer = || Response::new(Body::from(long.clone()));
            let sent = with_turn(answer(), turn()).await;
            assert_eq!(turns.available_permits(), 0);
            assert_eq!(sent.body().size_hint().exact(), Some(long.len() as u64));
            let read = sent.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(read, long);
            assert_eq!(turns.available_permits(), 1);
            // The client leaves.
            let mut sent = with_turn(answer(), turn()).await.into_body();
            sent.frame().await.unwrap().unwrap();
            assert_eq!(turns.available_permits(), 0);
            drop(sent);
            assert_eq!(turns.available_permits(), 1);
            // It reads a part, and then nothing.
            let soon = Duration::from_millis(5);
            let sent = with_turn_until(answer(), turn(), soon).await;
            let mut sent = sent.into_body();
            sent.frame().await.unwrap().unwrap();
            drop(turns.acquire().await.unwrap());
            assert!(sent.frame().await.unwrap().is_err());
            // What is short is with the connection at once.
            let short = with_turn(Response::new(Body::from("short")), turn()).await;
            assert_eq!(turns.available_permits(), 1);
            let read = short.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(read, "short");
        });
    }
}
