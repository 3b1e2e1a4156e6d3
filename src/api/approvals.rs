//! Open questions to humans, over all runs: listed, and answered whether or not the run's first client is still there.
//!
//! Every door answers through [`Api::respond`], so an answer that does not fit its question's schema, or that approves something
//! else than was asked, is refused everywhere and the question stays open, and one that was taken wakes a run whose client is
//! gone. The first committed answer wins.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, rt};
use fleet_actors::ids::{MalformedId, RequestId, WorkflowId};
use fleet_actors::ports::{QuestionFilter, QuestionRow, Rest, Store, WorkflowState};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::open::{answered, closed, unknown};
use super::query::Params;
use crate::arguments;
use crate::workflow::approves_other;

/// `GET /approvals`: the longest waiting first; `workflow_id`, `conversation_id`, `request_id`, `request_type`, `limit`, `offset`.
///
/// # Errors
/// [`ApiError`].
pub async fn list(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let params = Params::of(&request)?;
    let id = |name: &'static str| params.get(name).filter(|text| !text.is_empty()).map(|text| (name, text));
    let malformed = |name: &'static str| move |error: MalformedId| ApiError::invalid(name, error.to_string());
    let filter = QuestionFilter {
        workflow: id("workflow_id").map(|(name, id)| id.parse().map_err(malformed(name))).transpose()?,
        conversation: id("conversation_id").map(|(name, id)| id.parse().map_err(malformed(name))).transpose()?,
        request: id("request_id").map(|(name, id)| id.parse().map_err(malformed(name))).transpose()?,
        request_type: id("request_type").map(|(_, name)| Arc::from(name)),
        offset: params.offset()?,
        limit: params.limit(&api.settings.server)?,
    };
    Ok(HttpResponse::Ok().json(page(api.sessions.store().as_ref(), filter).await?))
}

/// `GET /approvals/{request_id}`: the question, while it is open.
///
/// # Errors
/// 404 `request_unknown`, 409 `request_closed` with the run that asked.
pub async fn show(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: RequestId = id.parse().map_err(|_| unknown())?;
    Ok(HttpResponse::Ok().json(question(api.sessions.store().as_ref(), &id).await?))
}

/// An open question by its id alone.
pub(crate) async fn question(store: &dyn Store, id: &RequestId) -> Result<Value, ApiError> {
    let open = QuestionFilter { request: Some(id.clone()), limit: 1, ..QuestionFilter::default() };
    if let Some(row) = store.questions(open).await?.first() {
        return Ok(shown(row));
    }
    let askers = store.askers(id).await?;
    let asker = askers.first().ok_or_else(unknown)?;
    let text = format!("the request of run {asker} is answered or expired");
    Err(ApiError { execution_id: Some(asker.to_string()), ..closed(text) })
}

/// Open questions as `GET /approvals` shows them.
pub(crate) async fn page(store: &dyn Store, filter: QuestionFilter) -> Result<Vec<Value>, ApiError> {
    Ok(store.questions(filter).await?.iter().map(shown).collect())
}

impl Api {
    /// Answers a question of a run, and lets the run go on.
    ///
    /// # Errors
    /// As [`answer`](Self::answer).
    pub async fn respond(&self, workflow: &WorkflowId, request: &RequestId, response: Value) -> Result<(), ApiError> {
        self.answer(workflow, request, response).await?;
        self.wake_answered(workflow).await;
        Ok(())
    }

    /// Answers a question of a run, live or not. A parked run goes on by itself where runs are served.
    ///
    /// # Errors
    /// 404 `request_unknown`, 409 `request_closed`, 422 `answer_invalid` when it does not fit the question.
    pub async fn answer(&self, workflow: &WorkflowId, request: &RequestId, response: Value) -> Result<(), ApiError> {
        let (workflow_filter, request_filter) = (Some(workflow.clone()), Some(request.clone()));
        let filter = QuestionFilter {
            workflow: workflow_filter,
            request: request_filter,
            limit: 1,
            ..QuestionFilter::default()
        };
        let asked = self.sessions.store().questions(filter).await?;
        // One that is not open any more is told so by the writer, which alone knows.
        if let Some(QuestionRow { question, .. }) = asked.first() {
            question.answer_schema.as_ref().map_or(Ok(()), |schema| fits(schema, &response))?;
            if let Some(field) = approves_other(&question.request_type, &question.request, &response) {
                let text = format!(
                    "an approval is for exactly what was asked; to have it otherwise, answer with \
                     {{\"decision\": \"edit\", \"{field}\": ...}}"
                );
                return Err(misfit(format!("response/{field}"), text));
            }
        }
        let posted = self.sessions.answer(workflow, request, response).await;
        posted.map_err(|error| self.refusal(error)).and_then(answered)
    }

    /// Lets a run go on whose client is gone, be it in its grace after a restart or at rest: its question was answered, so somebody
    /// wants it. A parked one is woken by the store, a live one reads its answer.
    ///
    /// Absent on purpose: a failure. The answer is durable, and the run can be resumed.
    async fn wake_answered(&self, workflow: &WorkflowId) {
        let row = self.sessions.store().workflow(workflow).await;
        let left = row.is_ok_and(|row| {
            row.is_some_and(|row| {
                matches!(row.state, WorkflowState::Running | WorkflowState::Resting(Rest::Interrupted))
            })
        });
        if !left || self.sessions.is_live(workflow).await.unwrap_or(true) {
            return;
        }
        let (sessions, workflow) = (self.sessions.clone(), workflow.clone());
        // Not awaited: in a full house it waits for a place.
        rt::spawn(async move {
            if let Err(error) = sessions.resume_detached(&workflow, None).await {
                tracing::warn!(%workflow, %error, "an answered workflow did not go on");
            }
        });
    }
}

fn fits(schema: &Value, response: &Value) -> Result<(), ApiError> {
    // A tool's schema may stand in it, so it is as little trusted as that.
    let Some(validator) = arguments::validator(schema) else {
        tracing::error!("a question's answer schema is no JSON schema, its answer is taken as it is");
        return Ok(());
    };
    match validator.validate(response) {
        Ok(()) => Ok(()),
        Err(error) => {
            let place = error.instance_path().to_string();
            let field = if place.is_empty() { "response".to_owned() } else { format!("response{place}") };
            let text = match hint(schema, error.schema_path().as_str()) {
                Some(hint) => format!("{error}: {hint}"),
                None => error.to_string(),
            };
            Err(misfit(field, arguments::mistake(&text)))
        }
    }
}

fn misfit(field: String, text: String) -> ApiError {
    let mut refusal = ApiError::invalid(field, text);
    refusal.status = StatusCode::UNPROCESSABLE_ENTITY;
    refusal.code = "answer_invalid".into();
    refusal
}

/// What the branch of a question's schema that an answer failed says about itself.
fn hint<'a>(schema: &'a Value, failed: &str) -> Option<&'a str> {
    let (branch, _) = failed.rsplit_once('/')?;
    schema.pointer(branch.strip_suffix("/then").map(|_| branch)?)?.get("description")?.as_str()
}

fn shown(row: &QuestionRow) -> Value {
    let question = &row.question;
    let mut shown = json!({
        "request_id": question.request_id,
        "request_type": question.request_type,
        "request": question.request,
        "workflow_id": row.workflow,
        "conversation_id": row.conversation,
        "task": fleet_actors::session_manager::preview(&row.task),
        "asked_at": row.asked_at.to_string(),
        "expires_at": question.expires_at.to_string(),
        "links": { "respond": format!("/api/v1/workflows/{}/respond", row.workflow) },
    });
    if let Some(schema) = &question.answer_schema {
        shown["answer_schema"] = schema.clone();
    }
    shown
}
