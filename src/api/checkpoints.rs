//! Checkpoints: the positions of a journal behind which a step's result stands. Derived, stored nowhere.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::ids::{CheckpointId, Position, Timestamp, WorkflowId};
use fleet_actors::journal::{Positioned, Record};
use fleet_actors::ports::{WorkflowRow, WorkflowState};
use fleet_actors::supervisor::read_records;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::query::Params;

/// `GET /checkpoints?workflow_id=`, newest first.
///
/// # Errors
/// [`ApiError`].
pub async fn list(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let params = Params::of(&request)?;
    let id = params.get("workflow_id").ok_or_else(|| ApiError::invalid("workflow_id", "is required"))?;
    let id = id
        .parse()
        .map_err(|error: fleet_actors::ids::MalformedId| ApiError::invalid("workflow_id", error.to_string()))?;
    let (row, results) = load(&api, &id).await?;
    let newest = results.last().map(|entry| entry.position);
    let shown: Vec<Value> = results.iter().rev().map(|entry| shown(&row, entry, newest)).collect();
    Ok(HttpResponse::Ok().json(shown))
}

/// `GET /checkpoints/{id}`: one with the steps up to it.
///
/// # Errors
/// [`ApiError`].
pub async fn show(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: CheckpointId = id.parse().map_err(|_| ApiError::not_found("checkpoint"))?;
    let (row, results) = load(&api, &id.workflow).await?;
    let newest = results.last().map(|entry| entry.position);
    let at = id.position.or(newest);
    let found = results.iter().position(|entry| Some(entry.position) == at);
    let index = found.ok_or_else(|| ApiError::not_found("checkpoint"))?;
    let mut checkpoint = shown(&row, &results[index], newest);
    checkpoint["steps"] = results[..=index].iter().map(step).collect();
    Ok(HttpResponse::Ok().json(checkpoint))
}

/// `POST /checkpoints/{id}/fork`: a new workflow that shares the journal up to there and rests until it is resumed.
///
/// # Errors
/// [`ApiError`].
pub async fn fork(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: CheckpointId = id.parse().map_err(|_| ApiError::not_found("checkpoint"))?;
    let fork = api.sessions.fork(&id.workflow, id.position).await;
    let fork = fork.map_err(|error| api.refusal(error))?;
    Ok(HttpResponse::Created().json(json!({ "workflow_id": fork, "checkpoint_id": fork })))
}

async fn load(api: &Api, id: &WorkflowId) -> Result<(WorkflowRow, Vec<Positioned>), ApiError> {
    let store = api.sessions.store();
    let row = store.workflow(id).await?.ok_or_else(|| ApiError::not_found("workflow"))?;
    let mut records = read_records(store.as_ref(), id).await?;
    records.retain(|entry| entry.record.is_result());
    Ok((row, records))
}

fn shown(row: &WorkflowRow, entry: &Positioned, newest: Option<Position>) -> Value {
    let checkpoint = CheckpointId { workflow: row.workflow.clone(), position: Some(entry.position) };
    let over = matches!(row.state, WorkflowState::Ended(_)) && newest == Some(entry.position);
    json!({
        "checkpoint_id": checkpoint.to_string(),
        "workflow_id": row.workflow,
        "conversation_id": row.made.conversation,
        "position": entry.position,
        "step": entry.path,
        "created_at": time(&entry.record).map(|at| at.to_string()),
        "resumable": !over,
    })
}

fn step(entry: &Positioned) -> Value {
    json!({
        "position": entry.position,
        "step": entry.path,
        "kind": entry.record.kind(),
        "at": time(&entry.record).map(|at| at.to_string()),
    })
}

fn time(record: &Record) -> Option<Timestamp> {
    if let Record::StepCompleted { at, .. } | Record::StepFailed { at, .. } | Record::Answered { at, .. } = record {
        return Some(*at);
    }
    None
}
