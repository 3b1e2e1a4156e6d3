//! Finished executions, newest first. `before` is the way to page; offsets are for version 1 clients.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::event::Usage;
use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::{HistoryRow, PageFrom, Store, StoreWrite, Written};
use fleet_actors::spend::AgentSpend;
use serde_json::{Map, Value, json};

use super::Api;
use super::error::ApiError;
use super::query::Params;

/// `GET /history`
///
/// # Errors
/// [`ApiError`].
pub async fn list(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let params = Params::of(&request)?;
    let limit = params.limit(&api.settings.server)?;
    let from = match (params.get("before"), params.get("offset")) {
        (Some(_), Some(_)) => return Err(ApiError::invalid("before", "cannot stand beside offset")),
        (Some(before), None) => PageFrom::Before(cursor(before).map_err(|wrong| ApiError::invalid("before", wrong))?),
        (None, _) => PageFrom::Offset(params.offset()?),
    };
    let (rows, next) = page(api.sessions.store().as_ref(), from, limit).await?;
    let mut response = HttpResponse::Ok();
    if let Some(next) = next {
        response.insert_header(("x-next-cursor", next.as_str()));
    }
    Ok(response.json(rows))
}

/// The cursor of a page: a run's id, which is a UUID. Another text would be a page of its own choosing.
pub(crate) fn cursor(text: &str) -> Result<WorkflowId, &'static str> {
    text.parse().ok().filter(|_| uuid::Uuid::try_parse(text).is_ok()).ok_or("is no cursor of this list")
}

/// A page as clients see it, and the cursor of the next one if there is one.
pub(crate) async fn page(
    store: &dyn Store,
    from: PageFrom,
    limit: u32,
) -> Result<(Vec<Value>, Option<WorkflowId>), ApiError> {
    // One more than asked tells whether there is a next page.
    let mut rows = store.history(from, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|last| last.workflow_id.clone());
    Ok((rows.iter().map(shown).collect(), next))
}

/// `GET /history/{workflow_id}`
///
/// # Errors
/// [`ApiError`].
pub async fn show(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: WorkflowId = id.parse().map_err(|_| ApiError::not_found("execution"))?;
    Ok(HttpResponse::Ok().json(entry(api.sessions.store().as_ref(), &id).await?))
}

/// One entry as clients see it.
pub(crate) async fn entry(store: &dyn Store, id: &WorkflowId) -> Result<Value, ApiError> {
    let row = store.history_entry(id).await?;
    row.as_ref().map(shown).ok_or_else(|| ApiError::not_found("execution"))
}

/// `DELETE /history/{workflow_id}`
///
/// # Errors
/// [`ApiError`].
pub async fn delete(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found("execution"))?;
    remove(&api, id).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Forgets one execution that is over.
pub(crate) async fn remove(api: &Api, id: WorkflowId) -> Result<(), ApiError> {
    match api.write(StoreWrite::DeleteHistory(id.clone())).await? {
        Written::NotFound => Err(ApiError::not_found("execution")),
        Written::Conflict => Err(ApiError::in_use("the run is not over: cancel it first")),
        Written::Done | Written::Posted(_) | Written::Removed(_) => {
            api.sessions.forget(|session| session.workflow == id);
            super::artifacts::sweep_soon(api);
            Ok(())
        }
    }
}

/// `DELETE /history`
///
/// # Errors
/// [`ApiError`].
pub async fn clear(api: Data<Api>) -> Result<HttpResponse, ApiError> {
    api.write(StoreWrite::ClearHistory).await?;
    api.sessions.forget(|session| session.completed_at.is_some());
    super::artifacts::sweep_soon(&api);
    Ok(HttpResponse::NoContent().finish())
}

fn spent(part: &AgentSpend) -> Value {
    json!({
        "model_calls": part.model_calls,
        "tool_calls": part.tool_calls,
        "usage": Usage { cost_nanousd: None, ..part.usage },
        "cost": part.usage.cost_usd(),
    })
}

fn shown(row: &HistoryRow) -> Value {
    json!({
        "workflow_id": row.workflow_id,
        "conversation_id": row.conversation_id,
        "task": row.task,
        "status": row.status.as_str(),
        "result": row.result.as_ref().map(|output| &output.text),
        "metadata": row.result.as_ref().map(|output| &output.metadata),
        "error": row.error.as_ref().map(|error| json!({ "code": error.code, "message": error.message })),
        "reasoning_effort": row.reasoning_effort,
        "created_at": row.created_at.to_string(),
        "completed_at": row.completed_at.to_string(),
        "runtime_ms": row.runtime_ms,
        "model_calls": row.model_calls,
        "tool_calls": row.tool_calls,
        "usage": Usage { cost_nanousd: None, ..row.usage },
        "cost": row.usage.cost_usd(),
        "by_agent": row.by_agent.iter().map(|(agent, part)| (agent.to_string(), spent(part))).collect::<Map<_, _>>(),
        "quality": row.quality,
    })
}
