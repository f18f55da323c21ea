//! The one way by which what runs becomes another: read, planned, written to the history, carried out.
//!
//! In: a configuration and who wants it, or a revision to go back to. Out: what changed, or why nothing did. Never: two at
//! once; a change that the history has not.

use std::sync::Arc;

use super::{ApplyError, NotApplied, Request, Requester, SendError, ask, lockout};
use crate::config::{Config, Readings, Report};
use crate::events::Event;
use crate::history::pending::{self, Due, Wanted};
use crate::history::revision::Origin;
use crate::history::{Entry, NotConfirmed, NotRestored, Order, Unkept};
use crate::layer;
use crate::plan::{Change, Diff, Layers, Proposal, diff};
use crate::process;
use crate::state::Applied;
use crate::uapi::doors;

/// Reads a file on the calling thread, and applies it as [`apply_blocking`] does. Answers what changed, and what the
/// file is warned of.
///
/// # Errors
///
/// When it has mistakes, or the engine refuses it, or another change waits for its confirmation.
pub fn read_and_apply(
    requester: &Requester,
    order: &Order,
    read: impl FnOnce(&mut Readings) -> Result<(Config, Report), Report>,
) -> Result<(Applied, Report), NotApplied> {
    let mut turn = requester.turn();
    let read = read(&mut turn).map_err(NotApplied::Mistakes);
    let applied = read.and_then(|(config, mut report)| {
        if let Some(history) = requester.history() {
            history.refuse_revoked(&config, &mut report);
        }
        if report.errors() > 0 {
            return Err(NotApplied::Mistakes(report));
        }
        let applied = plan_and_apply(requester, order, config).map_err(NotApplied::Refused)?;
        Ok((applied, report))
    });
    if let Err(error) = &applied
        && !order.dry_run
    {
        let error = error.to_string();
        Event::ConfigRefused { error }.tell();
    }
    applied
}

/// Plans the way to a configuration on the calling thread, hands it to the engine, waiting for room if need be, waits
/// for what becomes of it, and logs that. One at a time: others wait for their turn.
///
/// # Errors
///
/// When the engine refuses it, or has ended.
pub fn apply_blocking(requester: &Requester, config: Config) -> Result<Applied, ApplyError> {
    let _turn = requester.turn();
    plan_and_apply(requester, &Order::default(), config)
}

/// Goes back to a revision: an apply like any other, and a revision of its own.
///
/// # Errors
///
/// When it can't be had any more, or is refused as any apply may be.
pub fn roll_back(
    requester: &Requester,
    order: &Order,
    number: u64,
) -> Result<(Applied, Report), NotApplied> {
    let _turn = requester.turn();
    go_back(requester, order, number)
}

fn go_back(
    requester: &Requester,
    order: &Order,
    number: u64,
) -> Result<(Applied, Report), NotApplied> {
    let refused = |error| NotApplied::Refused(error);
    let history = requester
        .history()
        .ok_or(refused(ApplyError::no_history()))?;
    let restored = history.restore(number);
    drop(history);
    let restored = restored.map_err(|why| match why {
        NotRestored::Missing(why) => refused(ApplyError::Unknown(why)),
        NotRestored::Mistakes(report) => NotApplied::Mistakes(report),
    })?;
    let order = Order {
        origin: Origin::Rollback,
        restores: Some(number),
        ..order.clone()
    };
    let expected = restored.notes.is_empty().then(|| restored.config.clone());
    let mut applied = plan_and_apply(requester, &order, restored.config).map_err(refused)?;
    applied.notes.extend(restored.notes);
    if !order.dry_run {
        let verified = verify(requester, &mut applied, number, expected.as_ref());
        verified.map_err(|error| refused(error.into()))?;
    }
    Ok((applied, restored.report))
}

/// Compares what runs now with what was to run; without that it is known to be another.
fn verify(
    requester: &Requester,
    applied: &mut Applied,
    number: u64,
    expected: Option<&Config>,
) -> Result<(), SendError> {
    let running = ask(requester, |reply| Request::Desired { reply })?;
    let same = expected == Some(&**running.file());
    match same && applied.failures.is_empty() {
        true => {
            let told = format!("what runs is revision {number} again");
            applied.notes.push(told);
        }
        false => {
            let told = format!("what runs is not all of revision {number}");
            applied.failures.push(told);
        }
    }
    for failure in &applied.failures {
        tracing::warn!("rollback: {failure}");
    }
    for note in &applied.notes {
        tracing::info!("rollback: {note}");
    }
    Ok(())
}

/// Takes back what waits for its confirmation; with a dry run, says what that would change.
///
/// # Errors
///
/// When nothing of that number waits, or what ran before can't be had: it waits on then. When the order wants to be
/// confirmed itself.
pub fn cancel(
    requester: &Requester,
    order: &Order,
    number: Option<u64>,
    why: &str,
) -> Result<(Applied, Report), NotApplied> {
    let _turn = requester.turn();
    cancel_in_turn(requester, order, number, why)
}

fn cancel_in_turn(
    requester: &Requester,
    order: &Order,
    number: Option<u64>,
    why: &str,
) -> Result<(Applied, Report), NotApplied> {
    let refused = |error| NotApplied::Refused(error);
    let history = || {
        let history = requester.history();
        history.ok_or(refused(ApplyError::no_history()))
    };
    let mut before = history()?;
    let waiting = before.waiting();
    let waiting = waiting.filter(|it| number.is_none_or(|number| number == it.0));
    let Some((waiting, previous)) = waiting else {
        return Err(refused(ApplyError::Conflict(
            "nothing waits for a confirmation".into(),
        )));
    };
    if order.confirm.is_some() {
        return Err(refused(ApplyError::Invalid(format!(
            "what takes revision {waiting} back stays: it can't wait for a confirmation itself"
        ))));
    }
    before.lift();
    drop(before);
    let mut order = order.clone();
    if order.message.is_empty() {
        order.message = format!("revision {waiting} was rolled back: {why}");
    }
    // What was confirmed by nobody goes, whoever asks.
    order.uplink = None;
    let done = go_back(requester, &order, previous);
    let mut after = history()?;
    match &done {
        _ if order.dry_run => after.put_down(),
        Ok(_) => {
            tracing::warn!(
                revision = waiting,
                "rolled back to revision {previous}: {why}"
            );
            after.taken_back(why);
            let reason = format!("revision {waiting}: {why}");
            Event::ConfigRolledBack { reason }.tell();
        }
        Err(error) => after.put_back(&error.to_string()),
    }
    done
}

/// Keeps what waits for its confirmation, or takes it back, if that is due still.
pub(crate) fn end_pending(requester: &Requester, number: u64) -> Result<(), NotApplied> {
    let _turn = requester.turn();
    let due = requester.history().map(|mut it| it.due(number));
    match due {
        Some(Due::RollBack(why)) => {
            cancel_in_turn(requester, &Order::default(), Some(number), &why).map(drop)
        }
        Some(Due::Keep) => confirm_in_turn(requester, Some(number), "all checks hold")
            .map(drop)
            .map_err(NotApplied::Refused),
        None | Some(Due::Nothing | Due::Later | Due::Look(_)) => Ok(()),
    }
}

/// Keeps what waits for its confirmation; answers its number.
///
/// # Errors
///
/// When nothing waits, or another revision than that, or a start would take it back still: it waits on then.
pub fn confirm(requester: &Requester, number: Option<u64>, why: &str) -> Result<u64, ApplyError> {
    let _turn = requester.turn();
    confirm_in_turn(requester, number, why)
}

fn confirm_in_turn(
    requester: &Requester,
    number: Option<u64>,
    why: &str,
) -> Result<u64, ApplyError> {
    let mut history = requester.history().ok_or(ApplyError::no_history())?;
    let kept = history.confirm(number, why).map_err(|error| match error {
        NotConfirmed::Conflict(why) => ApplyError::Conflict(why),
        NotConfirmed::Disk(error) => ApplyError::Unkept(format!(
            "the journal of the history can't be removed ({error}), so it waits on: mend the state directory, and confirm \
             again"
        )),
    })?;
    drop(history);
    // An engine that has ended keeps nothing.
    let _ = ask(requester, |reply| Request::Confirmed { reply });
    Event::ConfigConfirmed {
        revision: kept,
        reason: why.to_owned(),
    }
    .tell();
    Ok(kept)
}

/// 1. What can be found out without the engine refuses it.
/// 2. Its revision, and the journal if it waits for a confirmation, are written to the disk.
/// 3. The engine carries it out, whole, or nothing of it.
/// 4. What became of it is written down.
fn plan_and_apply(
    requester: &Requester,
    order: &Order,
    config: Config,
) -> Result<Applied, ApplyError> {
    // No object of the API layer changes meanwhile.
    let mut books = requester.desk().lock();
    let base = ask(requester, |reply| Request::Desired { reply })?;
    doors::check_names(base.file(), &config).map_err(ApplyError::Failed)?;
    let mut wanted = wanted(requester, order, &base, &config)?;
    if order.dry_run {
        return tried(requester, &base, config);
    }
    let discarded = base.drift();
    let goal = layer::fresh(&base, &config.api.key_directory).upon(config);
    let proposal = Box::new(Proposal::to(base, goal));
    let asked_by = order.uplink.as_ref().filter(|_| order.confirm.is_none());
    lockout::refuse_file(asked_by, proposal.plan())?;
    // Likewise what the API's doors need.
    let doors = requester.doors();
    let ready = doors.as_ref().map(|it| it.prepare(&proposal.file().api));
    let ready = ready.transpose().map_err(ApplyError::Failed)?;
    // To free what was desired before, or what is refused, takes long where there are many peers.
    let keeper = proposal.keeper();
    let rests = diff::rests(&keeper.0, &keeper.1);
    let touched = wanted.as_ref().map(|_| proposal.objects());
    if let Some(wanted) = &mut wanted {
        wanted.look(requester);
    }
    let entry = enter(requester, order, keeper.1.file(), wanted.as_ref())?;
    let on_trial = wanted.is_some();
    let answer = ask(requester, |reply| Request::Apply {
        proposal,
        on_trial,
        reply,
    });
    let mut applied = match answer.map_err(ApplyError::from).flatten() {
        Ok(applied) => applied,
        Err(error) => {
            if let (Some(entry), Some(mut history)) = (entry, requester.history()) {
                history.withdraw(entry, wanted.as_ref());
            }
            pending::watch_owed(requester);
            return Err(error);
        }
    };
    process::step("after the engine");
    if let (Some(doors), Some(ready)) = (doors, ready) {
        applied.failures.extend(doors.change(ready));
    }
    applied.notes = discarded
        .into_iter()
        .map(|it| format!("what wg had set is discarded: {it}"))
        .collect();
    record(requester, order, entry, wanted.as_ref(), &mut applied);
    match (&applied.pending, touched) {
        (Some(pending), Some(touched)) => books.await_confirmation(pending.revision, touched),
        (None, Some(_)) => {
            let told = "it is what ran already: nothing waits for a confirmation";
            applied.notes.push(told.into());
        }
        (_, None) => {}
    }
    log_applied(&applied);
    for line in rests {
        tracing::warn!("{line}");
        applied.warnings += &format!("culvert: {line}\n");
    }
    Ok(applied)
}

fn wanted(
    requester: &Requester,
    order: &Order,
    base: &Layers,
    config: &Config,
) -> Result<Option<Wanted>, ApplyError> {
    let Some(confirm) = &order.confirm else {
        return Ok(None);
    };
    if requester.history().is_none() {
        return Err(ApplyError::no_history());
    }
    // What lies over the file may be checked, too.
    let all = base.upon(config.clone()).merged();
    Wanted::new(confirm, &all)
        .map(Some)
        .map_err(ApplyError::Invalid)
}

/// What an apply would do, and what is in its way now.
fn tried(requester: &Requester, base: &Layers, config: Config) -> Result<Applied, ApplyError> {
    let hindrance = requester.history().and_then(|it| it.hindrance());
    let hindrance = hindrance.map(|pending| format!("it would be refused now: {pending}"));
    let fresh = layer::fresh(base, &config.api.key_directory);
    let plan = base.way_to(&fresh.upon(config.clone()));
    let fixed: Vec<_> = plan.iter().flat_map(Change::fixed).collect();
    if !fixed.is_empty() {
        return Err(ApplyError::NeedsRestart(fixed));
    }
    Ok(Applied {
        changes: plan.iter().map(Change::line).collect(),
        diff: Some(Diff::between(base, config, false)),
        notes: hindrance.into_iter().collect(),
        ..Applied::default()
    })
}

fn enter(
    requester: &Requester,
    order: &Order,
    config: &Arc<Config>,
    wanted: Option<&Wanted>,
) -> Result<Option<Entry>, ApplyError> {
    let Some(mut history) = requester.history() else {
        return Ok(None);
    };
    let entry = history.enter(config, order, wanted);
    drop(history);
    if entry.is_err() {
        pending::watch_owed(requester);
    }
    entry.map(Some).map_err(|unkept| match unkept {
        Unkept::Pending(pending) => ApplyError::Pending(Box::new(pending)),
        Unkept::Rejected(number) => ApplyError::Conflict(format!(
            "revision {number} is the same, and was rolled back: it is not applied by itself again"
        )),
        Unkept::NoWayBack => ApplyError::Conflict(
            "what runs is in no revision, so there is nothing to go back to: apply it first, or see the log".into(),
        ),
        Unkept::Disk(error) => ApplyError::Unkept(format!(
            "its revision can't be written to the history ({error}), so nothing is changed: make room in the state \
             directory, or see `culvert history purge`"
        )),
    })
}

fn record(
    requester: &Requester,
    order: &Order,
    entry: Option<Entry>,
    wanted: Option<&Wanted>,
    applied: &mut Applied,
) {
    let (Some(entry), Some(mut history)) = (entry, requester.history()) else {
        return;
    };
    let waits = history.applied(entry, order, wanted);
    applied.revision = history.current();
    applied.pending = history.hindrance();
    drop(history);
    if let Some(number) = applied.revision.filter(|_| waits)
        && let Err(error) = pending::watch(requester.clone(), number)
    {
        applied.failures.push(format!(
            "nothing can look after the confirmation: {error}: confirm or roll back by hand"
        ));
    }
}

/// Logs what an `apply` did.
fn log_applied(applied: &Applied) {
    for failure in &applied.failures {
        tracing::error!("the configuration is applied, and this failed: {failure}");
    }
    let generation = applied.generation;
    if applied.changes.is_empty() {
        return Event::ConfigUnchanged { generation }.tell();
    }
    Event::ConfigApplied {
        generation,
        changes: applied.changes.len(),
        failures: applied.failures.len(),
    }
    .tell();
    for change in &applied.changes {
        tracing::info!("applied: {change}");
    }
    for note in &applied.notes {
        tracing::warn!("{note}");
    }
    if let Some(pending) = &applied.pending {
        Event::ConfigPending {
            revision: pending.revision,
            seconds: pending.seconds_left,
        }
        .tell();
    }
}
