//! `POST /api/v1/run` waits for a run's end; `POST /api/v1/runs` starts one and answers after its commit.
//!
//! The cap is looked at before the body is read. A key that has a run already joins that run and needs no place.
//!
//! Invariant: a client without a key that goes away leaves no run behind.

use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, rt};
use fleet_actors::event::RunOutcome;
use fleet_actors::ids::{MalformedId, Seq, WorkflowId};
use fleet_actors::ports::{HistoryRow, RequestKey, RunOutput, WorkflowState};
use fleet_actors::sessions::{EventStream, Sessions, StartTurn, StreamItem};
use serde_json::json;

use super::Api;
use super::body::{read_object, refuse};
use super::error::ApiError;
use super::metrics::Metrics;
use super::start::{NewRun, traceparent};
use super::wire::frames::effort;

/// Starts a run and waits for its end.
///
/// # Errors
/// [`ApiError`]; with `execution_id` once there is a run.
pub async fn run(
    api: Data<Api>,
    metrics: Data<Metrics>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    let turn = match submitted(&api, &request, payload, false).await? {
        Submitted::Refused(response) => return Ok(response),
        Submitted::Joined(workflow) => return join(&api, &workflow).await,
        Submitted::New(turn) => turn,
    };
    let guard = turn.made.request.is_none().then(|| CancelOnDrop::new(&api.sessions, &turn.workflow));
    let started = begin(&api, *turn).await;
    let answer = match started {
        Ok(stream) => finish(&api, stream).await,
        Err(error) => Err(error),
    };
    metrics.run_ended(&answer);
    if let Some(guard) = guard {
        guard.disarm();
    }
    answer
}

/// Starts a run that nobody needs to watch.
///
/// # Errors
/// [`ApiError`]; nothing runs then.
pub async fn submit(api: Data<Api>, request: HttpRequest, payload: Payload) -> Result<HttpResponse, ApiError> {
    let workflow = match submitted(&api, &request, payload, true).await? {
        Submitted::Refused(response) => return Ok(response),
        Submitted::Joined(workflow) => workflow,
        Submitted::New(turn) => begin(&api, *turn).await?.workflow().clone(),
    };
    Ok(accepted(&workflow))
}

enum Submitted {
    Refused(HttpResponse),
    Joined(WorkflowId),
    New(Box<StartTurn>),
}

async fn submitted(
    api: &Api,
    request: &HttpRequest,
    payload: Payload,
    background: bool,
) -> Result<Submitted, ApiError> {
    let limits = &api.settings.server;
    let key = idempotency_key(request)?;
    let known = match &key {
        Some(key) => api.sessions.store().request(key).await?,
        None => None,
    };
    if let (None, Err(full)) = (&known, api.sessions.admission().look()) {
        let error = api.refusal(full.into());
        return Ok(Submitted::Refused(refuse(&error, request, payload, limits).await));
    }
    let mut fields = read_object(request, payload, limits).await?;
    let message = fields.text("task");
    let mode = fields.optional_text("mode");
    let additional_context = fields.value("additional_context");
    let conversation = fields.optional_text("conversation_id").and_then(|id| match id.parse() {
        Ok(id) => Some(id),
        Err(error) => {
            fields.wrong("conversation_id", &MalformedId::to_string(&error));
            None
        }
    });
    let effort = fields.optional_text("reasoning_effort").map(|name| effort(&name));
    let checkpointing = fields.optional_flag("enable_checkpointing");
    fields.finish()?;
    let effort = effort.transpose().map_err(ApiError::in_a_body)?;
    let run = NewRun {
        message,
        mode,
        additional_context,
        conversation,
        effort,
        key,
        checkpointing,
        background,
        traceparent: traceparent(request),
        ..NewRun::default()
    };
    let turn = api.prepare(run).map_err(|error| error.where_the_message_is("task"))?;
    match (known, &turn.made.request) {
        (Some(row), Some(RequestKey { digest, .. })) if row.digest != *digest => {
            Err(ApiError::of_start(fleet_actors::sessions::StartError::KeyConflict(row.workflow), 0))
        }
        (Some(row), _) => Ok(Submitted::Joined(row.workflow)),
        (None, _) => Ok(Submitted::New(Box::new(turn))),
    }
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, ApiError> {
    let mut keys = request.headers().get_all("idempotency-key");
    let Some(key) = keys.next() else { return Ok(None) };
    if keys.next().is_some() {
        return Err(ApiError::invalid("Idempotency-Key", "must stand once"));
    }
    match key.to_str() {
        Ok(key) if (1..=255).contains(&key.len()) => Ok(Some(key.to_owned())),
        Ok(_) | Err(_) => Err(ApiError::invalid("Idempotency-Key", "must have 1 to 255 visible ASCII characters")),
    }
}

pub(super) async fn begin(api: &Api, turn: StartTurn) -> Result<EventStream, ApiError> {
    api.begin(turn).await.map(|opened| opened.stream)
}

async fn join(api: &Api, workflow: &WorkflowId) -> Result<HttpResponse, ApiError> {
    let of_start = |error| api.refusal(error);
    let row = api.row(workflow).await?;
    match row.state {
        WorkflowState::Ended(_) => return answer(output_of(api, workflow).await?, workflow),
        WorkflowState::Parked => return Ok(accepted(workflow)),
        WorkflowState::Running | WorkflowState::Resting(_) => {}
    }
    let mut stream = api.sessions.watch(workflow, Seq(0)).await.map_err(of_start)?;
    api.sessions.resume(workflow, None).await.map_err(of_start)?;
    // What was said of a run at rest is no longer so.
    api.follow_anew(&mut stream, Seq(0)).await?;
    finish(api, stream).await
}

async fn finish(api: &Api, mut stream: EventStream) -> Result<HttpResponse, ApiError> {
    let workflow = stream.workflow().clone();
    match stream.rested().await? {
        Some(StreamItem::Rests(rest, text)) => Err(about(ApiError::rests(rest, text), &workflow)),
        Some(StreamItem::End | StreamItem::Event(_)) => answer(output_at_end(api, &stream).await?, &workflow),
        None => Ok(accepted(&workflow)),
    }
}

fn answer(mut output: RunOutput, workflow: &WorkflowId) -> Result<HttpResponse, ApiError> {
    // True of this moment alone, so it stands in no entry.
    if output.quality.as_ref().is_some_and(|quality| quality.pending) {
        output.metadata["quality_pending"] = true.into();
    }
    Ok(HttpResponse::Created().json(json!({
        "result": output.text,
        "status": RunOutcome::Completed.as_str(),
        "execution_id": workflow,
        "metadata": output.metadata,
    })))
}

/// The result of a run that was followed to its end, or why it has none.
pub(super) async fn output_at_end(api: &Api, stream: &EventStream) -> Result<RunOutput, ApiError> {
    match stream.entry() {
        // What was just made durable need not be read back.
        Some(entry) => output(entry.clone()),
        None => output_of(api, stream.workflow()).await,
    }
}

/// The result of a run that is over, or why it has none.
async fn output_of(api: &Api, workflow: &WorkflowId) -> Result<RunOutput, ApiError> {
    let entry = api.sessions.store().history_entry(workflow).await?;
    output(entry.ok_or_else(|| ApiError::not_found("execution"))?)
}

fn output(entry: HistoryRow) -> Result<RunOutput, ApiError> {
    let HistoryRow { workflow_id, status, result, error, .. } = entry;
    let workflow = &workflow_id;
    match (status, result) {
        (RunOutcome::Completed, Some(output)) => Ok(output),
        (RunOutcome::Cancelled, _) => {
            let text = error.map_or_else(|| "the run was cancelled".to_owned(), |error| error.message);
            Err(about(ApiError::new(StatusCode::CONFLICT, "cancelled", text), workflow))
        }
        (RunOutcome::Completed | RunOutcome::Failed, _) => {
            let error = error.as_ref().map_or_else(
                || ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the run ended without a result"),
                ApiError::of_failure,
            );
            Err(about(error, workflow))
        }
    }
}

pub(super) fn about(mut error: ApiError, workflow: &WorkflowId) -> ApiError {
    error.execution_id = Some(workflow.to_string());
    error
}

pub(super) fn accepted(workflow: &WorkflowId) -> HttpResponse {
    let session = format!("/api/v1/sessions/{workflow}");
    HttpResponse::Accepted().insert_header(("location", session.clone())).json(json!({
        "workflow_id": workflow,
        "execution_id": workflow,
        "links": {
            "self": session,
            "events": format!("/api/v1/workflows/{workflow}/events"),
            "result": format!("/api/v1/history/{workflow}"),
            "respond": format!("/api/v1/workflows/{workflow}/respond"),
        },
    }))
}

/// Cancels a run whose client's connection is gone: actix drops the handler then.
pub(super) struct CancelOnDrop {
    run: Option<(Sessions, WorkflowId)>,
}

impl CancelOnDrop {
    pub(super) fn new(sessions: &Sessions, workflow: &WorkflowId) -> Self {
        Self { run: Some((sessions.clone(), workflow.clone())) }
    }

    pub(super) fn disarm(mut self) {
        self.run = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some((sessions, workflow)) = self.run.take() else { return };
        rt::spawn(async move {
            if let Err(error) = sessions.cancel(&workflow, "disconnected").await {
                tracing::debug!(%workflow, %error, "a run whose client left was not cancelled");
            }
        });
    }
}
