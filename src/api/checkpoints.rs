//! Checkpoints: the positions of a journal behind which a step's result stands. Derived, stored nowhere.
//!
//! A run whose client declined them (`enable_checkpointing: false`) has them all the same; only its list is empty. Whoever
//! knows a position, or names the run alone, can look at it, go on from it and fork it.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::ids::{CheckpointId, Position, Timestamp, WorkflowId};
use fleet_actors::journal::{Positioned, Record};
use fleet_actors::ports::{ReasoningEffort, Store, StoreError, TaskInput, WorkflowRow, WorkflowState};
use fleet_actors::sessions::StartError;
use fleet_actors::supervisor::read_records;
use serde_json::{Value, json};

use super::Api;
use super::body::read_optional_object;
use super::error::ApiError;
use super::query::{Params, whole_number};
use super::run::accepted;
use super::wire::frames::effort;

/// `GET /checkpoints?workflow_id=`, newest first; with `limit`, a page, and `before` a position.
///
/// # Errors
/// [`ApiError`].
pub async fn list(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let params = Params::of(&request)?;
    let id = params.get("workflow_id").ok_or_else(|| ApiError::invalid("workflow_id", "is required"))?;
    let id = id
        .parse()
        .map_err(|error: fleet_actors::ids::MalformedId| ApiError::invalid("workflow_id", error.to_string()))?;
    // Existing clients give no limit and expect all of them.
    let limit = params.get("limit").map(|_| params.limit(&api.settings.server)).transpose()?;
    let misfit = || ApiError::invalid("before", "expected a position of the workflow");
    let before = params.get("before").map(|text| whole_number(text).map(Position).ok_or_else(misfit)).transpose()?;
    let (shown, next) = page(api.sessions.store().as_ref(), &id, before, limit).await?;
    let mut response = HttpResponse::Ok();
    if let Some(next) = next {
        response.insert_header(("x-next-cursor", next.0.to_string()));
    }
    Ok(response.json(shown))
}

/// Checkpoints of a workflow as clients see them, newest first, and the cursor of the next page if there is one.
pub(crate) async fn page(
    store: &dyn Store,
    id: &WorkflowId,
    before: Option<Position>,
    limit: Option<u32>,
) -> Result<(Vec<Value>, Option<Position>), ApiError> {
    let (row, listed, results) = load(store, id).await?;
    if !listed {
        return Ok((Vec::new(), None));
    }
    let newest = results.last().map(|entry| entry.position);
    let (older, next) = older(&results, |entry| entry.position, before, limit);
    Ok((older.into_iter().map(|entry| shown(&row, entry, newest)).collect(), next))
}

/// What is before a position, newest first, and the cursor of what is left out.
fn older<T>(
    entries: &[T],
    position: impl Fn(&T) -> Position,
    before: Option<Position>,
    limit: Option<u32>,
) -> (Vec<&T>, Option<Position>) {
    let older = entries.iter().rev().filter(|entry| before.is_none_or(|before| position(entry) < before));
    let mut older: Vec<&T> = older.collect();
    let max = limit.map_or(usize::MAX, |limit| limit as usize);
    let more = older.len() > max;
    older.truncate(max);
    let next = older.last().filter(|_| more).map(|last| position(last));
    (older, next)
}

/// `GET /checkpoints/{id}`: one with the steps up to it.
///
/// # Errors
/// [`ApiError`].
pub async fn show(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: CheckpointId = id.parse().map_err(|_| ApiError::not_found("checkpoint"))?;
    Ok(HttpResponse::Ok().json(checkpoint(api.sessions.store().as_ref(), &id).await?))
}

/// One checkpoint as clients see it, with its steps.
pub(crate) async fn checkpoint(store: &dyn Store, id: &CheckpointId) -> Result<Value, ApiError> {
    let (row, _, results) = load(store, &id.workflow).await?;
    let newest = results.last().map(|entry| entry.position);
    let at = id.position.or(newest);
    let found = results.iter().position(|entry| Some(entry.position) == at);
    let index = found.ok_or_else(|| ApiError::not_found("checkpoint"))?;
    let mut checkpoint = shown(&row, &results[index], newest);
    checkpoint["steps"] = results[..=index].iter().map(step).collect();
    Ok(checkpoint)
}

/// `POST /checkpoints/{id}/fork`: a new workflow that shares the journal up to there and rests until it is resumed.
///
/// # Errors
/// [`ApiError`].
pub async fn fork(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: CheckpointId = id.parse().map_err(|_| ApiError::not_found("checkpoint"))?;
    Ok(HttpResponse::Created().json(fork_at(&api, &id).await?))
}

/// Forks there; what clients are told of it.
pub(crate) async fn fork_at(api: &Api, id: &CheckpointId) -> Result<Value, ApiError> {
    let fork = match api.sessions.fork(&id.workflow, id.position).await {
        Err(StartError::Unknown) => return Err(ApiError::not_found("checkpoint")),
        fork => fork.map_err(|error| api.refusal(error))?,
    };
    Ok(json!({ "workflow_id": fork, "checkpoint_id": fork }))
}

/// `POST /checkpoints/{id}/resume`: goes on with the run, or with a fork of it when results stand behind the position,
/// whether or not anybody watches. Answers when it goes on; a run that is over is answered at once.
///
/// # Errors
/// [`ApiError`].
///
/// # Cancel safety
/// A client that leaves before the answer may find the run resumed.
pub async fn resume(
    api: Data<Api>,
    request: HttpRequest,
    id: Path<String>,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let id: CheckpointId = id.parse().map_err(|_| ApiError::not_found("checkpoint"))?;
    let mut fields = read_optional_object(&request, payload, &api.settings.server).await?;
    let effort = fields.optional_text("reasoning_effort").map(|name| effort(&name));
    fields.finish()?;
    let effort = effort.transpose().map_err(ApiError::in_a_body)?;
    Ok(accepted(&go_on(&api, &id, effort).await?))
}

/// Goes on from a checkpoint, as a woken run does when the house is full; the workflow that it is.
pub(crate) async fn go_on(
    api: &Api,
    id: &CheckpointId,
    effort: Option<ReasoningEffort>,
) -> Result<WorkflowId, ApiError> {
    let workflow = match api.sessions.at_checkpoint(id).await {
        Err(StartError::Unknown) => return Err(ApiError::not_found("checkpoint")),
        at => at.map_err(|error| api.refusal(error))?,
    };
    api.sessions.resume_detached(&workflow, effort).await.map_err(|error| api.refusal(error))?;
    Ok(workflow)
}

/// A run, whether its positions are listed, and its results.
async fn load(store: &dyn Store, id: &WorkflowId) -> Result<(WorkflowRow, bool, Vec<Positioned>), ApiError> {
    let row = store.workflow(id).await?.ok_or_else(|| ApiError::not_found("workflow"))?;
    let mut records = read_records(store, id).await?;
    let input = records.iter().find(|entry| entry.record == Record::Input);
    let listed = is_listed(input.and_then(|entry| entry.body.as_deref()).unwrap_or_default().as_bytes());
    records.retain(|entry| entry.record.is_result());
    Ok((row, listed, records))
}

/// Whether a run's positions are listed. Reads no further than to what the run was given, which stands at the beginning.
pub(super) async fn are_listed(store: &dyn Store, id: &WorkflowId) -> Result<bool, StoreError> {
    const PAGE_BYTES: usize = 4 << 10;
    let mut after = Position(0);
    loop {
        let rows = store.read(id, after, PAGE_BYTES).await?;
        let Some(last) = rows.last() else { return Ok(true) };
        after = last.position;
        if let Some(input) = rows.iter().find(|row| *row.kind == *Record::Input.kind()) {
            return Ok(is_listed(input.body.as_ref().map(|body| &*body.bytes).unwrap_or_default()));
        }
    }
}

fn is_listed(input: &[u8]) -> bool {
    serde_json::from_slice::<TaskInput>(input).map_or(true, |input| input.checkpoints_listed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_a_gap_and_the_last_has_no_cursor() {
        let entries: Vec<u64> = (1..=7).map(|n| n * 3).collect();
        let page = |before: Option<Position>, limit| {
            let (page, next) = older(&entries, |entry| Position(*entry), before, limit);
            (page.into_iter().copied().collect::<Vec<_>>(), next)
        };
        assert_eq!(page(None, None), (vec![21, 18, 15, 12, 9, 6, 3], None));
        assert_eq!(page(None, Some(3)), (vec![21, 18, 15], Some(Position(15))));
        assert_eq!(page(Some(Position(15)), Some(3)), (vec![12, 9, 6], Some(Position(6))));
        assert_eq!(page(Some(Position(6)), Some(3)), (vec![3], None));
        assert_eq!(page(Some(Position(3)), Some(3)), (vec![], None));
        assert_eq!(page(Some(Position(16)), Some(1)), (vec![15], Some(Position(15))));
    }
}
