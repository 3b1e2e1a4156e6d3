//! Sessions: what runs, waits or ended lately, and how to stop it.

use actix_web::HttpResponse;
use actix_web::web::{Data, Path};
use fleet_actors::event::RunOutcome;
use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::{Posted, Rest, Store, StoreError, WorkflowFilter, WorkflowRow, WorkflowState};
use fleet_actors::session_manager::{SessionInfo, preview};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;

/// Unfinished runs without an owner in this process that a list holds.
const UNFINISHED_MAX: u32 = 100;

/// `GET /sessions`
///
/// # Errors
/// [`ApiError`].
pub async fn list(api: Data<Api>) -> Result<HttpResponse, ApiError> {
    let mut sessions = api.sessions.list().await.map_err(|error| ApiError::of_start(error.into(), 1))?;
    for row in unfinished_rows(api.sessions.store().as_ref()).await? {
        if !sessions.iter().any(|session| session.workflow == row.workflow) {
            sessions.push(of_row(&row));
        }
    }
    sessions.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.workflow.cmp(&a.workflow)));
    Ok(HttpResponse::Ok().json(sessions.iter().map(shown).collect::<Vec<_>>()))
}

async fn unfinished_rows(store: &dyn Store) -> Result<Vec<WorkflowRow>, StoreError> {
    let filter = WorkflowFilter { unfinished: true, limit: UNFINISHED_MAX, ..WorkflowFilter::default() };
    store.workflows(filter).await
}

/// What is not over, newest first, as `GET /sessions` shows it. Where no process `serves` the store, what the store has as
/// running was left by one that died: it is interrupted.
pub(crate) async fn unfinished(store: &dyn Store, serves: impl FnOnce() -> bool) -> Result<Vec<Value>, ApiError> {
    let rows = unfinished_rows(store).await?;
    // After the rows, so that what a process that starts meanwhile takes up is not called interrupted.
    let served = serves();
    let told = |row: &WorkflowRow| {
        let mut session = of_row(row);
        if !served && session.state == WorkflowState::Running {
            session.state = WorkflowState::Resting(Rest::Interrupted);
        }
        shown(&session)
    };
    Ok(rows.iter().map(told).collect())
}

/// `GET /sessions/{id}`
///
/// # Errors
/// [`ApiError`].
pub async fn show(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: WorkflowId = id.parse().map_err(|_| ApiError::not_found("session"))?;
    let sessions = api.sessions.list().await.map_err(|error| ApiError::of_start(error.into(), 1))?;
    if let Some(session) = sessions.iter().find(|session| session.workflow == id) {
        return Ok(HttpResponse::Ok().json(shown(session)));
    }
    let row = api.sessions.store().workflow(&id).await?.ok_or_else(|| ApiError::not_found("session"))?;
    Ok(HttpResponse::Ok().json(shown(&of_row(&row))))
}

/// `DELETE /sessions/{id}`: answers when the end is durable, or the cancel is that the next owner does; one that is over
/// has nothing left to stop.
///
/// # Errors
/// [`ApiError`].
pub async fn cancel(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: WorkflowId = id.parse().map_err(|_| ApiError::not_found("session"))?;
    let posted = api.sessions.cancel(&id, "client").await;
    match posted.map_err(|error| api.refusal(error))? {
        Posted::Accepted | Posted::Closed | Posted::NotYet => Ok(HttpResponse::NoContent().finish()),
        Posted::Unknown => Err(ApiError::not_found("session")),
    }
}

fn of_row(row: &WorkflowRow) -> SessionInfo {
    SessionInfo {
        workflow: row.workflow.clone(),
        conversation: row.made.conversation.clone(),
        task: preview(&row.made.task),
        state: row.state,
        created_at: row.made.created_at,
        started_at: row.made.created_at,
        completed_at: matches!(row.state, WorkflowState::Ended(_)).then_some(row.updated_at),
        child: row.made.child_of.is_some(),
        effort: row.made.effort,
    }
}

fn shown(session: &SessionInfo) -> Value {
    json!({
        "workflow_id": session.workflow,
        "task": session.task,
        "status": status(session.state),
        "created_at": session.created_at.to_string(),
        "started_at": session.started_at.to_string(),
        "completed_at": session.completed_at.map(|at| at.to_string()),
        "reasoning_effort": session.effort,
    })
}

/// Version 1 knows no waiting: what goes on by itself counts as running. What nobody takes up does not.
fn status(state: WorkflowState) -> &'static str {
    match state {
        WorkflowState::Running | WorkflowState::Parked => "running",
        WorkflowState::Resting(rest) if Rest::FAILURES.contains(&rest) => "failed",
        WorkflowState::Resting(rest) => rest.code(),
        WorkflowState::Ended(outcome @ (RunOutcome::Completed | RunOutcome::Failed | RunOutcome::Cancelled)) => {
            outcome.as_str()
        }
    }
}
