//! Outbound: one burst from a guest to where it goes.
//!
//! In: a burst of frames from one guest TX ring or interface. Out: frames bound for a
//! peer, for the egress; frames in other guests' rings; answers to the guest. Never: a
//! wait, an allocation, a decision on a second look at guest memory.
//!
//! Ahead of it all, the `door` takes tags off, and knows of each frame in which VLAN it was: what a guest of a trunk sends
//! is one burst all the same.
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
    shared::{
        drops::DropReason,
        ids::AttachmentIndex,
        limits::GUEST_BURST,
        punt::Punts,
        snapshot::{Attached, Port},
    },
    switch::{flood, switched::switched},
    worker::{
        queues::Sending,
        turn::{Tools, Turn},
    },
};

/// Which of a port's attachments each frame of a burst belongs to.
pub(crate) trait Homes<'s> {
    /// That of a frame, or why it is lost.
    fn of(&self, frame: usize) -> Result<Attached<'s>, DropReason>;
}

/// All frames of a guest that is in one network.
impl<'s> Homes<'s> for Attached<'s> {
    #[inline]
    fn of(&self, _: usize) -> Result<Attached<'s>, DropReason> {
        Ok(*self)
    }
}

/// Carries a burst of frames that the guest of `port` sent, as far as its credit in bytes lasts;
/// answers how many are done with, from the first on. The last of them may overdraw.
pub(crate) fn outbound<'s, F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    sending: &mut Sending<'_>,
    punts: &mut Punts,
    (port, homes): (&Port, &impl Homes<'s>),
    frames: &F,
    credit: &mut i64,
) -> usize {
    let mut verdicts = ArrayVec::<(Verdict<'_>, Option<Headers>), GUEST_BURST>::new();
    for frame in 0..frames.count().min(GUEST_BURST) {
        if *credit <= 0 {
            break;
        }
        let (verdict, headers) = match homes.of(frame) {
            Ok(guest) => classify(turn, guest, frames, frame),
            Err(reason) => (Verdict::Drop(reason), None),
        };
        *credit -= cost(homes, frames, frame, &verdict);
        verdicts.push((verdict, headers));
    }
    let bound = bound(&verdicts, Sender::Port(port.index));
    let mut notes = Notes::new();
    let rest = egress::depart(turn, tools, sending, frames, bound, &mut notes);
    let reached = rest.unwrap_or(verdicts.len());
    for (frame, (verdict, _)) in verdicts.iter().enumerate().skip(reached) {
        *credit += cost(homes, frames, frame, verdict);
    }
    settle(
        turn,
        tools,
        punts,
        (port, homes),
        frames,
        &verdicts[..reached],
        &notes,
    );
    reached
}

/// What of a burst leaves through a tunnel. Of one type, whatever the homes: the egress is made once for both.
fn bound<'v, 's>(
    verdicts: &'v [(Verdict<'s>, Option<Headers>)],
    sender: Sender,
) -> impl Iterator<Item = Bound<'v, 's>> {
    let all = verdicts.iter().enumerate();
    all.filter_map(move |(frame, (verdict, headers))| match *verdict {
        Verdict::Tunnel(peer, passage) => Some(Bound {
            frame,
            headers: headers.as_ref()?,
            sender,
            peer,
            passage,
        }),
        Verdict::Guest { .. }
        | Verdict::Flood
        | Verdict::Answer(..)
        | Verdict::Service
        | Verdict::Drop(_) => None,
    })
}

/// What a frame costs its sender in bytes: as much as there are copies made of it.
fn cost<'s>(
    homes: &impl Homes<'s>,
    frames: &impl Frames,
    frame: usize,
    verdict: &Verdict<'_>,
) -> i64 {
    let copies = match verdict {
        Verdict::Flood => homes.of(frame).map_or(1, flood::copies),
        Verdict::Tunnel(..)
        | Verdict::Guest { .. }
        | Verdict::Answer(..)
        | Verdict::Service
        | Verdict::Drop(_) => 1,
    };
    i64::try_from(frames.len(frame) * copies).unwrap_or(i64::MAX)
}

/// Step 3: everything that does not leave through a tunnel.
fn settle<'s, F: Frames>(
    turn: &Turn<'_>,
    tools: &mut Tools,
    punts: &mut Punts,
    (port, homes): (&Port, &impl Homes<'s>),
    frames: &F,
    verdicts: &[(Verdict<'_>, Option<Headers>)],
    notes: &[Note],
) {
    let books = port.books();
    let home = |frame| homes.of(frame).ok();
    let is_of = |frame, guest: Attached<'_>| {
        home(frame).is_some_and(|home| home.attachment.index == guest.attachment.index)
    };
    // Each with who sends to it: all of them are of its network, and of that a port is once.
    let mut targets = ArrayVec::<(AttachmentIndex, Attached<'_>), GUEST_BURST>::new();
    let mut flooding = ArrayVec::<Attached<'_>, GUEST_BURST>::new();
    let mut answers = false;
    for (frame, (verdict, _)) in verdicts.iter().enumerate() {
        match *verdict {
            Verdict::Tunnel(..) => {}
            Verdict::Guest { guest, .. } => {
                let is_new = targets.iter().all(|&(target, _)| target != guest);
                let sender = home(frame).filter(|_| is_new);
                targets.extend(sender.map(|sender| (guest, sender)));
            }
            Verdict::Flood => {
                let is_new = flooding.iter().all(|&guest| !is_of(frame, guest));
                flooding.extend(home(frame).filter(|_| is_new));
            }
            Verdict::Service => {
                if let Some(guest) = home(frame) {
                    service::hand_over(turn, punts, guest, frames, frame);
                }
            }
            Verdict::Answer(_, reason) => {
                answers = true;
                if let Some(reason) = reason {
                    lose(books, reason, Lost::Guest(frames, frame));
                }
            }
            Verdict::Drop(reason) => lose(books, reason, Lost::Guest(frames, frame)),
        }
    }
    for &(target, sender) in &targets {
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
        switched(turn, tools, sender, target, frames, chosen);
    }
    for &guest in &flooding {
        let flooded = verdicts
            .iter()
            .enumerate()
            .filter_map(|(frame, (verdict, headers))| match *verdict {
                Verdict::Flood if is_of(frame, guest) => Some((frame, headers.as_ref()?, false)),
                Verdict::Tunnel(..)
                | Verdict::Guest { .. }
                | Verdict::Flood
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
        for (frame, headers, question) in asked.chain(told) {
            if let Some(guest) = home(frame) {
                answer::answer(turn, guest, frames, (frame, headers), question);
            }
        }
    }
}
