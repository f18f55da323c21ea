//! Outbound: one burst from a guest to where it goes.
//!
//! In: a burst of frames from one guest TX ring or interface. Out: frames bound for a
//! peer, for the egress; frames in other guests' rings; answers to the guest. Never: a
//! wait, an allocation, a decision on a second look at guest memory.
//!
//! Ahead of it all, the `door` takes tags off.
//!
//! 1. `classify` gives each frame its verdict, once, and sends nothing.
//! 2. `egress::depart` takes the tunnel's frames in order. A frame that finds no room
//!    stays in the guest's ring, and so does everything behind it.
//! 3. `settle` serves the rest of the frames that were reached: other ports, answers
//!    to the guest, drops by name.

mod classify;
pub(crate) mod door;

use arrayvec::ArrayVec;
use culvert_wire::parse::Headers;

use self::classify::{Verdict, classify};
use crate::{
    egress::{self, Note, Notes, departure::Bound, staged::Sender},
    gateway::{
        answer::{self, Question},
        service,
    },
    guest::frames::Frames,
    loss::{Lost, lose},
    shared::{ids::AttachmentIndex, limits::GUEST_BURST, punt::Punts, snapshot::Attached},
    switch::{flood, switched::switched},
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Carries a burst of frames that `guest` sent, as far as its credit in bytes lasts;
/// answers how many are done with, from the first on. The last of them may overdraw.
pub(crate) fn outbound<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    punts: &mut Punts,
    guest: Attached<'_>,
    frames: &F,
    credit: &mut i64,
) -> usize {
    let mut verdicts = ArrayVec::<(Verdict<'_>, Option<Headers>), GUEST_BURST>::new();
    for frame in 0..frames.count().min(GUEST_BURST) {
        if *credit <= 0 {
            break;
        }
        let (verdict, headers) = classify(turn, guest, frames, frame);
        *credit -= cost(guest, frames.len(frame), &verdict);
        verdicts.push((verdict, headers));
    }
    let bound =
        verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Tunnel(peer, passage) => Some(Bound {
                    frame,
                    headers: headers.as_ref()?,
                    sender: Sender::Port(guest.port.index),
                    peer,
                    passage,
                }),
                Verdict::Guest { .. }
                | Verdict::Flood
                | Verdict::Answer(..)
                | Verdict::Service
                | Verdict::Drop(_) => None,
            });
    let mut notes = Notes::new();
    let rest = egress::depart(turn, tools, sending, frames, bound, &mut notes);
    let reached = rest.unwrap_or(verdicts.len());
    for (frame, (verdict, _)) in verdicts.iter().enumerate().skip(reached) {
        *credit += cost(guest, frames.len(frame), verdict);
    }
    settle(
        turn,
        tools,
        punts,
        guest,
        frames,
        &verdicts[..reached],
        &notes,
    );
    reached
}

/// What a frame of `len` bytes costs its sender: as much as there are copies made of it.
fn cost(sender: Attached<'_>, len: usize, verdict: &Verdict<'_>) -> i64 {
    let copies = match verdict {
        Verdict::Flood => flood::copies(sender),
        Verdict::Tunnel(..)
        | Verdict::Guest { .. }
        | Verdict::Answer(..)
        | Verdict::Service
        | Verdict::Drop(_) => 1,
    };
    i64::try_from(len * copies).unwrap_or(i64::MAX)
}

/// Step 3: everything that does not leave through a tunnel.
fn settle<F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    punts: &mut Punts,
    guest: Attached<'_>,
    frames: &F,
    verdicts: &[(Verdict<'_>, Option<Headers>)],
    notes: &[Note],
) {
    let books = guest.port.books();
    let mut targets = ArrayVec::<AttachmentIndex, GUEST_BURST>::new();
    let mut floods = false;
    let mut answers = false;
    for (frame, (verdict, _)) in verdicts.iter().enumerate() {
        match *verdict {
            Verdict::Tunnel(..) => {}
            Verdict::Guest { guest, .. } => {
                if !targets.contains(&guest) {
                    targets.push(guest);
                }
            }
            Verdict::Flood => floods = true,
            Verdict::Service => service::hand_over(turn, punts, guest, frames, frame),
            Verdict::Answer(_, reason) => {
                answers = true;
                if let Some(reason) = reason {
                    lose(books, reason, Lost::Guest(frames, frame));
                }
            }
            Verdict::Drop(reason) => lose(books, reason, Lost::Guest(frames, frame)),
        }
    }
    for &target in &targets {
        let chosen = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Guest { guest, routed } if guest == target => {
                    Some((frame, headers.as_ref()?, routed))
                }
                Verdict::Tunnel(..)
                | Verdict::Guest { .. }
                | Verdict::Flood
                | Verdict::Answer(..)
                | Verdict::Service
                | Verdict::Drop(_) => None,
            });
        switched(turn, tools, guest, target, frames, chosen);
    }
    if floods {
        let flooded = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Flood => Some((frame, headers.as_ref()?, false)),
                Verdict::Tunnel(..)
                | Verdict::Guest { .. }
                | Verdict::Answer(..)
                | Verdict::Service
                | Verdict::Drop(_) => None,
            });
        flood::flood(turn, tools, guest, frames, flooded);
    }
    for note in notes {
        if let Some(reason) = note.lost {
            lose(books, reason, Lost::Guest(frames, note.frame));
        }
    }
    if answers || !notes.is_empty() {
        let asked = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Answer(question, _) => Some((frame, headers.as_ref()?, question)),
                Verdict::Tunnel(..)
                | Verdict::Guest { .. }
                | Verdict::Flood
                | Verdict::Service
                | Verdict::Drop(_) => None,
            });
        let told = notes.iter().filter_map(|note| {
            let (_, headers) = verdicts.get(note.frame)?;
            Some((note.frame, headers.as_ref()?, Question::Error(note.tell?)))
        });
        answer::answer(turn, guest, frames, asked.chain(told));
    }
}
