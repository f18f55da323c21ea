//! Long answers on their way to clients that may read slowly.
//!
//! In: an answer, with its turn. Out: a body in chunks; the turn is free. Never: a turn that a client holds; more
//! bytes on their way than [`ROOM`] for each of two kinds, or one answer; an answer longer than until [`LONGEST`] is
//! over, whatever its client does.
//!
//! An answer is laid on the shelf. When there is no room it waits, with its turn: for others to be read. Those whose
//! clients read less than [`PACE`] are thrown away then, and their connections break off.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::plain;

/// What a client has to read an answer.
const LONGEST: Duration = Duration::from_secs(60);

/// Bytes that are given to the connection at once, as copies: what it still holds at the end is no more than some of
/// these. An answer that is no longer than one does not lie on the shelf.
const CHUNK: usize = 256 << 10;

/// An answer of at most so many bytes is a page. Pages have room of their own: one state of all peers keeps nobody's list
/// waiting.
const PAGE: usize = 2 << 20;

/// Bytes of pages on their way, and those of what is larger; one answer has room however large it is.
const ROOM: usize = 32 << 20;

/// How long a client may read nothing while others wait for room.
const GRACE: Duration = Duration::from_secs(1);

/// From then on it has read so many bytes each second.
const PACE: u32 = 4 << 20;

/// How often who waits for room looks for clients that have fallen behind.
const LOOK: Duration = Duration::from_millis(100);

/// Answers on their way.
#[derive(Debug)]
pub(super) struct Shelf {
    laid: Mutex<Vec<Arc<Laid>>>,
    /// Rings when one leaves.
    left: Notify,
    room: usize,
    longest: Duration,
}

/// One answer.
#[derive(Debug)]
struct Laid {
    since: Instant,
    len: usize,
    /// Nothing when it was thrown away.
    rest: Mutex<Option<Bytes>>,
}

impl Laid {
    fn rest(&self) -> MutexGuard<'_, Option<Bytes>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_page(len: usize) -> bool {
        len <= PAGE
    }

    fn is_behind(&self, now: Instant) -> bool {
        let time = now.duration_since(self.since).saturating_sub(GRACE);
        let left = self.rest().as_ref().map_or(0, Bytes::len);
        let due = time.as_secs_f64() * f64::from(PACE);
        !time.is_zero() && ((self.len - left) as f64) < due
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            laid: Mutex::default(),
            left: Notify::new(),
            room: ROOM,
            longest: LONGEST,
        }
    }
}

impl Shelf {
    /// Has the turn end when there is room for the answer, until `end`.
    pub(super) async fn send(
        self: &Arc<Self>,
        response: Response,
        turn: impl Send,
        end: Instant,
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
        let sent = loop {
            match self.lay(&body) {
                Some(sent) => break sent,
                None if Instant::now() >= end => {
                    let error = "others read their answers, and take long: try again";
                    return plain(StatusCode::SERVICE_UNAVAILABLE, error);
                }
                None => drop(timeout(LOOK, self.left.notified()).await),
            }
        };
        drop(turn);
        Response::from_parts(head, Body::new(sent))
    }

    fn lay(self: &Arc<Self>, body: &Bytes) -> Option<Sent> {
        let mut places = self.laid();
        if !self.has_room(&places, body.len()) {
            let now = Instant::now();
            places.retain(|it| !it.is_behind(now) || it.rest().take().is_none());
        }
        if !self.has_room(&places, body.len()) {
            return None;
        }
        let laid = Arc::new(Laid {
            since: Instant::now(),
            len: body.len(),
            rest: Mutex::new(Some(body.clone())),
        });
        places.push(Arc::clone(&laid));
        Some(Sent::new(Arc::clone(self), laid))
    }

    fn has_room(&self, places: &[Arc<Laid>], len: usize) -> bool {
        let alike = places.iter().map(|it| it.len);
        let alike = alike.filter(|&other| Laid::is_page(other) == Laid::is_page(len));
        let taken: usize = alike.sum();
        taken == 0 || taken + len <= self.room
    }

    fn leave(&self, laid: &Arc<Laid>) {
        drop(laid.rest().take());
        self.laid().retain(|it| !Arc::ptr_eq(it, laid));
        self.left.notify_waiters();
    }

    fn laid(&self) -> MutexGuard<'_, Vec<Arc<Laid>>> {
        self.laid.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An answer's body.
struct Sent {
    shelf: Arc<Shelf>,
    laid: Arc<Laid>,
    /// Bytes that the client was promised still.
    left: usize,
    end: AbortHandle,
}

impl Sent {
    fn new(shelf: Arc<Shelf>, laid: Arc<Laid>) -> Self {
        let end = laid.since + shelf.longest;
        let late = (Arc::clone(&shelf), Arc::clone(&laid));
        let end = tokio::spawn(async move {
            sleep_until(end).await;
            late.0.leave(&late.1);
        });
        Self {
            left: laid.len,
            shelf,
            laid,
            end: end.abort_handle(),
        }
    }

    /// Takes the next bytes; nothing when the answer was thrown away.
    fn chunk(&mut self) -> Option<Bytes> {
        let mut held = self.laid.rest();
        let rest = held.as_mut()?;
        let chunk = rest.split_to(rest.len().min(CHUNK));
        Some(Bytes::copy_from_slice(&chunk))
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.shelf.leave(&self.laid);
        self.end.abort();
    }
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
        let Some(chunk) = self.chunk() else {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        };
        self.left -= chunk.len();
        if self.left == 0 {
            self.shelf.leave(&self.laid);
        }
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
    use tokio::sync::{OwnedSemaphorePermit, Semaphore};

    use super::*;

    /// A turn, a shelf of so much room, and a time that no test waits for.
    fn turns() -> (Arc<Semaphore>, impl Fn() -> OwnedSemaphorePermit, Instant) {
        let turns = Arc::new(Semaphore::new(1));
        let all = Arc::clone(&turns);
        let turn = move || Arc::clone(&all).try_acquire_owned().unwrap();
        (turns, turn, Instant::now() + Duration::from_secs(600))
    }

    fn answer(len: usize) -> (Response, Vec<u8>) {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        (Response::new(Body::from(bytes.clone())), bytes)
    }

    fn shelf(room: usize) -> Arc<Shelf> {
        Arc::new(Shelf {
            room,
            ..Shelf::default()
        })
    }

    async fn begun(response: Response) -> Body {
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        body
    }

    #[test]
    fn an_answer_that_is_not_read_holds_no_turn_and_no_room_that_others_wait_for() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (turns, turn, end) = turns();
            let long = 3 * CHUNK + 7;
            let shelf = shelf(2 * long);
            let mut slow = Vec::new();
            for _ in 0..2 {
                slow.push(begun(shelf.send(answer(long).0, turn(), end).await).await);
                assert_eq!(turns.available_permits(), 1);
            }
            // Something large has room beside them, and what is short needs none.
            let (large, bytes) = answer(PAGE + 1);
            let large = shelf.send(large, turn(), end).await;
            assert_eq!(large.body().size_hint().exact(), Some(bytes.len() as u64));
            let short = shelf.send(answer(CHUNK).0, turn(), end).await;
            assert_eq!(turns.available_permits(), 1);
            // The third waits for the slow ones, no longer than they are given.
            let (third, bytes) = answer(long);
            let third = shelf.send(third, turn(), end).await;
            assert_eq!(turns.available_permits(), 1);
            assert_eq!(third.into_body().collect().await.unwrap().to_bytes(), bytes);
            assert!(slow[0].frame().await.unwrap().is_err(), "it is not whole");
            drop((large, short, slow));
            assert!(shelf.laid().is_empty());
        });
    }

    #[test]
    fn who_reads_or_leaves_gives_room() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_turns, turn, end) = turns();
            let long = 3 * CHUNK;
            let shelf = shelf(long);
            let first = begun(shelf.send(answer(long).0, turn(), end).await).await;
            let waiting = turn();
            let late = shelf.send(answer(long).0, waiting, Instant::now()).await;
            assert_eq!(late.status(), StatusCode::SERVICE_UNAVAILABLE);
            first.collect().await.unwrap();
            assert!(shelf.laid().is_empty());
            let second = shelf.send(answer(long).0, turn(), Instant::now()).await;
            assert_eq!(second.status(), StatusCode::OK);
            drop(second);
            let third = shelf.send(answer(long).0, turn(), Instant::now()).await;
            assert_eq!(third.status(), StatusCode::OK);
        });
    }

    #[test]
    fn no_answer_lies_there_for_ever() {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_turns, turn, end) = turns();
            let shelf = Arc::new(Shelf {
                longest: Duration::from_millis(5),
                ..Shelf::default()
            });
            let mut body = begun(shelf.send(answer(2 * CHUNK).0, turn(), end).await).await;
            shelf.left.notified().await;
            assert!(shelf.laid().is_empty());
            assert!(body.frame().await.unwrap().is_err());
        });
    }
}
