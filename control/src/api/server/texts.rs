//! Long texts of clients, from their first byte until they are worked off.
//!
//! In: bodies that may come slowly. Out: whole [`Text`]s. Never: more bytes than there is room for; all of the room for
//! one user; room for what was only announced.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use http_body_util::{BodyExt as _, Limited};

use super::answer::plain;
use super::crowd::Whose;
use super::desk::{broken_off, spill};

/// The largest texts that there is room for.
const TEXTS: usize = 4;

/// Of them, those of one user.
const SHARE: usize = 3;

/// Room for texts.
#[derive(Clone, Debug, Default)]
pub(super) struct Room(Arc<Mutex<HashMap<Whose, usize>>>);

/// A whole text, with its room.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    _held: Held,
}

/// Room that somebody has.
#[derive(Debug)]
struct Held {
    room: Room,
    whose: Whose,
    bytes: usize,
}

impl Room {
    /// Reads a body of at most `max` bytes.
    pub(super) async fn text(
        &self,
        body: Body,
        whose: Whose,
        max: &AtomicUsize,
    ) -> Result<Text, Response> {
        let max = max.load(Ordering::Relaxed);
        let mut held = Held {
            room: self.clone(),
            whose,
            bytes: 0,
        };
        let mut body = Limited::new(body, max);
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broken_off(&*error, max))?;
            let Ok(part) = frame.into_data() else {
                continue;
            };
            if !held.grow(part.len(), max) {
                drop((held, bytes));
                spill(Body::new(body)).await;
                let error = "other files are on their way, with as much text as there is room for: try again";
                return Err(plain(StatusCode::SERVICE_UNAVAILABLE, error));
            }
            bytes.extend_from_slice(&part);
        }
        Ok(Text { bytes, _held: held })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Whose, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Has room for so many more, if there is some.
    fn grow(&mut self, more: usize, max: usize) -> bool {
        let mut taken = self.room.taken();
        let all: usize = taken.values().sum();
        let own = taken.get(&self.whose).copied().unwrap_or(0);
        if all + more > TEXTS * max || own + more > SHARE * max {
            return false;
        }
        taken.insert(self.whose.clone(), own + more);
        self.bytes += more;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        if let Some(own) = taken.get_mut(&self.whose) {
            *own -= self.bytes;
            if *own == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_has_no_room_of_others() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (room, max) = (Room::default(), AtomicUsize::new(10));
            let read = async |user, len| {
                let body = Body::from(vec![b' '; len]);
                room.text(body, Whose::User(user), &max).await
            };
            let mut held = Vec::new();
            for _ in 0..SHARE {
                held.push(read(7, 10).await.unwrap());
            }
            let refused = read(7, 1).await.unwrap_err();
            assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(read(0, 10).await.unwrap().bytes.len(), 10);
            let refused = read(0, 11).await.unwrap_err();
            assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
            drop(held);
            assert!(room.taken().is_empty());
        });
    }
}
