//! What happens to unfinished workflows: at start, when a question is answered, when a timer passes.
//!
//! At start, a run that nobody needs to watch goes on; one whose client may come back waits its grace for it and then
//! rests as `interrupted`, resumable. Parked runs that are due wait as rows in the store, oldest first, ahead of new
//! work, and are taken one permit at a time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::failpoint::{FailPoint, reach};
use crate::ids::WorkflowId;
use crate::ports::{OnDisconnect, Rest, StoreWrite, WorkflowState, Written};
use crate::sessions::{Sessions, StartError};
use crate::supervisor::{Place, is_cancelled};
use crate::trouble::Trouble;

/// Rows taken from the store at a time.
const PAGE: u32 = 1_024;
/// Children looked for at a time. A house that ends more runs a second than it has places for children has thousands waiting.
const CHILDREN_PAGE: usize = 64;
/// The queue looks again after this long when nothing wakes it: another process may have committed a command.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The longest that a run which did not go on at a start waits for its next try.
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(40);
/// At most this many runs that did not go on are left alone while others are tried.
const FAILED_MAX: usize = 64;
/// The queue looks for others that often while some are left alone and nothing wakes it.
const LOOK_PAST_FAILED: Duration = Duration::from_millis(250);

/// Takes up what ran when the last process died. Call it once, before new work is admitted; then run [`wake_queue`].
///
/// Answers with the runs that wait for their client.
pub async fn adopt_at_start(sessions: &Sessions) -> Result<Vec<WorkflowId>, crate::ports::StoreError> {
    let now = sessions.services().clock.now();
    let mut waiting = Vec::new();
    for row in sessions.store().adopt(now, u32::MAX).await? {
        reach(FailPoint::Adopt);
        if row.state != WorkflowState::Running {
            continue;
        }
        match row.made.on_disconnect {
            OnDisconnect::Continue => {
                let (sessions, workflow) = (sessions.clone(), row.workflow);
                tokio::task::spawn_local(async move { take_up(&sessions, &workflow).await });
            }
            OnDisconnect::Cancel => waiting.push(row.workflow),
        }
    }
    Ok(waiting)
}

/// Goes on with a run that nobody needs to watch, as soon as the store has and takes it.
async fn take_up(sessions: &Sessions, workflow: &WorkflowId) {
    // There may be thousands of them behind one full disk.
    let (mut wait, mut trouble) = (LOOK_AGAIN, Trouble::default());
    while let Err(error) = go_on(sessions, workflow).await {
        if error == StartError::Draining {
            return;
        }
        if trouble.shows(&error) {
            tracing::warn!(%workflow, %error, "a workflow did not go on");
        }
        if !passes(&error) {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (2 * wait).min(LOOK_AGAIN_MAX);
    }
}

/// Whether a run did not go on for a trouble that is not its own, and that passes.
fn passes(error: &StartError) -> bool {
    use crate::ports::StoreError::{Full, Unavailable, Unwritable};
    matches!(
        error,
        StartError::Store(Full | Unavailable(_) | Unwritable(_))
            | StartError::Rests(Rest::StorageUnavailable, _)
            | StartError::Busy(_)
    )
}

/// Puts runs whose client did not come back within the grace to rest; those that were cancelled while the last process
/// stopped wait for nobody. What the store does not give or take is tried again.
pub async fn rest_unclaimed(sessions: &Sessions, waiting: Vec<WorkflowId>) {
    let grace = Instant::now() + sessions.services().limits.disconnect_grace;
    let (mut unread, mut unclaimed) = (VecDeque::from(waiting), VecDeque::new());
    let mut trouble = Trouble::default();
    loop {
        let ended = look_for_cancels(sessions, &mut unread, &mut unclaimed).await;
        let is_over = Instant::now() >= grace;
        let rested = if is_over { rest_all(sessions, &mut unclaimed).await } else { Ok(()) };
        match ended.and(rested) {
            Err(StartError::Draining) => return,
            Err(error) if trouble.shows(&error) => {
                let runs = unread.len() + unclaimed.len();
                tracing::warn!(%error, runs, "runs of the last process are neither ended nor put to rest yet");
            }
            Err(_) => {}
            Ok(()) if unread.is_empty() && unclaimed.is_empty() => return,
            Ok(()) => {}
        }
        let now = Instant::now();
        let next = if unread.is_empty() && now < grace { grace } else { now + LOOK_AGAIN };
        tokio::time::sleep_until(next).await;
    }
}

/// Ends those that were cancelled, and moves the others on.
///
/// # Errors
/// The first trouble that passes; that run is the last then, so it keeps nobody from his turn.
async fn look_for_cancels(
    sessions: &Sessions,
    unread: &mut VecDeque<WorkflowId>,
    unclaimed: &mut VecDeque<WorkflowId>,
) -> Result<(), StartError> {
    while let Some(workflow) = unread.pop_front() {
        match end_if_cancelled(sessions, &workflow).await {
            Ok(true) => {}
            Ok(false) => unclaimed.push_back(workflow),
            Err(StartError::Draining) => return Err(StartError::Draining),
            Err(error) if passes(&error) => {
                unread.push_back(workflow);
                return Err(error);
            }
            Err(error) => tracing::warn!(%workflow, %error, "a workflow that may be cancelled is left as it is"),
        }
    }
    Ok(())
}

/// Puts all of them to rest.
///
/// # Errors
/// As those of [`look_for_cancels`].
async fn rest_all(sessions: &Sessions, unclaimed: &mut VecDeque<WorkflowId>) -> Result<(), StartError> {
    while let Some(workflow) = unclaimed.pop_front() {
        match rest(sessions, &workflow).await {
            Ok(()) => {}
            Err(error) if passes(&error) => {
                unclaimed.push_back(workflow);
                return Err(error);
            }
            Err(error) => tracing::warn!(%workflow, %error, "an interrupted workflow was not put to rest"),
        }
    }
    Ok(())
}

/// Ends a run that was cancelled; false when it was not. An inbox that cannot be read is not an empty one.
async fn end_if_cancelled(sessions: &Sessions, workflow: &WorkflowId) -> Result<bool, StartError> {
    let cancelled = is_cancelled(sessions.store().as_ref(), workflow).await?;
    if cancelled {
        // Without a permit it does nothing but end.
        sessions.resume_with(workflow, None, None, true).await?;
    }
    Ok(cancelled)
}

/// Puts a run to rest that its client did not come back to.
async fn rest(sessions: &Sessions, workflow: &WorkflowId) -> Result<(), StartError> {
    if sessions.is_live(workflow).await? {
        return Ok(());
    }
    let Some(row) = sessions.store().workflow(workflow).await? else { return Ok(()) };
    if row.state != WorkflowState::Running {
        // It went on and was parked, or rests for another reason.
        return Ok(());
    }
    let write = StoreWrite::Rest { workflow: workflow.clone(), epoch: row.epoch, rest: Rest::Interrupted };
    match sessions.services().checkpoints.write(write).await? {
        Written::Done => {
            tracing::info!(%workflow, "its client did not come back after the restart, it rests as interrupted");
            // Who watches it did not make it go on, and must not wait for what nobody does.
            if let Some(log) = sessions.services().logs.find(workflow) {
                log.put_to_rest(Rest::Interrupted);
            }
        }
        // It went on meanwhile, or is over, or was removed.
        Written::Conflict | Written::NotFound | Written::Posted(_) | Written::Removed(_) => {}
    }
    Ok(())
}

/// Serves parked runs that are due, until the process stops.
///
/// One that does not go on waits before it is tried again, and keeps none of the others waiting.
pub async fn wake_queue(sessions: &Sessions) {
    let mut failed = Failed::default();
    loop {
        reach(FailPoint::WakeQueue);
        failed.forget_past();
        let now = sessions.services().clock.now();
        let due = sessions.store().adopt(now, PAGE).await.unwrap_or_default();
        let mut went_on = false;
        // Those that ran when the last process died are served by `adopt_at_start`.
        for row in due.into_iter().filter(|row| row.state == WorkflowState::Parked) {
            if failed.are_many() {
                break;
            }
            if failed.0.contains_key(&row.workflow) || sessions.is_live(&row.workflow).await.unwrap_or(true) {
                continue;
            }
            match go_on(sessions, &row.workflow).await {
                Ok(()) => went_on = true,
                Err(StartError::Draining) => {
                    sessions.admission().set_waiting(false);
                    return;
                }
                Err(error) => {
                    tracing::warn!(workflow = %row.workflow, %error, "a workflow did not go on");
                    failed.insert(row.workflow);
                }
            }
        }
        sessions.admission().set_waiting(false);
        if went_on {
            continue;
        }
        let next = sessions.store().next_wake().await.ok().flatten().map(|at| at.since(now));
        // The next one that is due may be one that has just failed.
        let least = if failed.0.is_empty() { Duration::from_millis(5) } else { LOOK_PAST_FAILED };
        let wait = next.unwrap_or(LOOK_AGAIN).clamp(least, LOOK_AGAIN);
        tokio::select! {
            () = sessions.wake.runs.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Serves the children of ended runs, at most [`children_max`](crate::limits::RunLimits::children_max) at a time, for
/// ever. They hold no permit of the house, so they keep nobody out.
///
/// One that does not go on waits before it is tried again, and keeps none of the others waiting.
pub async fn child_queue(sessions: &Sessions) {
    let (mut found, mut failed) = (VecDeque::new(), Failed::default());
    loop {
        let Ok(place) = sessions.children.clone().acquire_owned().await else { return };
        failed.forget_past();
        match next_child(sessions, &mut found, &failed).await {
            Some(workflow) => match sessions.resume_with(&workflow, None, Some(Place::Child(place)), true).await {
                // It may be over since it was found, or removed with its parent.
                Ok(()) | Err(StartError::Unknown) => {}
                Err(StartError::Draining) => return,
                Err(error) => {
                    tracing::warn!(%workflow, %error, "a child did not go on");
                    failed.insert(workflow);
                }
            },
            None => {
                drop(place);
                let again = failed.0.values().min().copied().unwrap_or_else(|| Instant::now() + LOOK_AGAIN);
                tokio::select! {
                    () = sessions.wake.children.notified() => {}
                    () = tokio::time::sleep_until(again) => {}
                }
            }
        }
    }
}

/// Runs that did not go on, and until when each of them is left alone.
#[derive(Default)]
struct Failed(BTreeMap<WorkflowId, Instant>);

impl Failed {
    fn insert(&mut self, workflow: WorkflowId) {
        self.0.insert(workflow, Instant::now() + LOOK_AGAIN);
    }

    /// So many do not fail by themselves: the store does, and none is tried before the first of them is due again.
    fn are_many(&self) -> bool {
        self.0.len() >= FAILED_MAX
    }

    fn forget_past(&mut self) {
        let now = Instant::now();
        self.0.retain(|_, until| *until > now);
    }
}

/// The next of those that were found; looks for more when there are none.
async fn next_child(sessions: &Sessions, found: &mut VecDeque<WorkflowId>, failed: &Failed) -> Option<WorkflowId> {
    if failed.are_many() {
        return None;
    }
    if found.is_empty() {
        let now = sessions.services().clock.now();
        let page = u32::try_from(CHILDREN_PAGE + failed.0.len()).unwrap_or(PAGE);
        let rows = sessions.store().adopt_children(now, page).await.ok()?;
        found.extend(rows.into_iter().map(|row| row.workflow));
    }
    while let Some(workflow) = found.pop_front() {
        if !failed.0.contains_key(&workflow) && !sessions.is_live(&workflow).await.unwrap_or(true) {
            return Some(workflow);
        }
    }
    None
}

/// Waits for a permit and goes on with a run that nobody needs to watch.
async fn go_on(sessions: &Sessions, workflow: &WorkflowId) -> Result<(), StartError> {
    let (mut kept, patience) = (None, sessions.services().limits.new_work_patience);
    let permit = loop {
        if let Ok(permit) = sessions.admission().take_woken(&mut kept, patience) {
            break permit;
        }
        sessions.admission().set_waiting(true);
        // Taken again before waiting: a place may have come free between the two.
        if let Ok(permit) = sessions.admission().take_woken(&mut kept, patience) {
            break permit;
        }
        tokio::select! {
            () = sessions.admission().released() => {}
            () = tokio::time::sleep(Duration::from_millis(250)) => {}
        }
    };
    sessions.resume_with(workflow, None, Some(Place::House(permit)), true).await
}

#[cfg(test)]
mod tests;
