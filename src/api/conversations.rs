//! Conversations: made, listed with their last message, shown with their newest messages, deleted with all that is theirs.

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::ids::ConversationId;
use fleet_actors::ports::{ConversationRow, MessageRow, StoreError, StoreWrite, WorkflowFilter, Written};
use fleet_actors::sessions::StartError;
use serde_json::{Value, json};

use super::Api;
use super::body::read_object;
use super::error::ApiError;
use super::query::Params;

/// Messages of one conversation that are shown, the newest.
const MESSAGES_MAX: u32 = 1_000;
/// Characters of a title.
const TITLE_CHARS_MAX: usize = 200;
/// Live runs of one conversation that are looked for at a time.
const RUNS_PAGE: u32 = 100;

/// `POST /conversations`
///
/// # Errors
/// [`ApiError`].
pub async fn create(api: Data<Api>, request: HttpRequest, payload: Payload) -> Result<HttpResponse, ApiError> {
    let mut fields = read_object(&request, payload, &api.settings.server).await?;
    let title = fields.optional_text("title");
    if title.as_ref().is_some_and(|title| title.chars().count() > TITLE_CHARS_MAX) {
        fields.wrong("title", "has more than 200 characters");
    }
    fields.finish()?;
    let conversation = ConversationId::generate();
    let at = api.sessions.services().clock.now();
    api.write(StoreWrite::CreateConversation { conversation: conversation.clone(), title, at }).await?;
    let row = find(&api, &conversation).await?;
    let location = format!("/api/v1/conversations/{conversation}");
    Ok(HttpResponse::Created().insert_header(("location", location)).json(shown(&row, &[])))
}

/// `GET /conversations`
///
/// # Errors
/// [`ApiError`].
pub async fn list(api: Data<Api>, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let params = Params::of(&request)?;
    let (limit, offset) = (params.limit(&api.settings.server)?, params.offset()?);
    let rows = api.sessions.store().conversations(limit, offset).await?;
    let shown: Vec<Value> = rows.iter().map(|row| shown(row, row.last.as_slice())).collect();
    Ok(HttpResponse::Ok().json(shown))
}

/// `GET /conversations/{id}`
///
/// # Errors
/// [`ApiError`].
pub async fn show(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found("conversation"))?;
    let row = find(&api, &id).await?;
    let messages = api.sessions.store().messages(&id, MESSAGES_MAX, None).await?;
    Ok(HttpResponse::Ok().json(shown(&row, &messages)))
}

/// `DELETE /conversations/{id}`: its live runs are cancelled first. One whose end a full disk has no room for ends when it finds
/// itself removed.
///
/// # Errors
/// [`ApiError`].
pub async fn delete(api: Data<Api>, id: Path<String>) -> Result<HttpResponse, ApiError> {
    let id: ConversationId = id.parse().map_err(|_| ApiError::not_found("conversation"))?;
    find(&api, &id).await?;
    cancel_runs(&api, &id).await?;
    match api.write(StoreWrite::DeleteConversation(id.clone())).await? {
        Written::NotFound => Err(ApiError::not_found("conversation")),
        Written::Conflict => Err(ApiError::in_use("a run of the conversation is not over, or was just started")),
        Written::Done | Written::Posted(_) | Written::Removed(_) => {
            api.sessions.forget(|session| session.conversation.as_ref() == Some(&id));
            super::artifacts::sweep_soon(&api);
            Ok(HttpResponse::NoContent().finish())
        }
    }
}

async fn cancel_runs(api: &Api, id: &ConversationId) -> Result<(), ApiError> {
    let mut newest = None;
    loop {
        let filter = WorkflowFilter { conversation: Some(id.clone()), unfinished: true, limit: RUNS_PAGE };
        let rows = api.sessions.store().workflows(filter).await?;
        // A process that stops leaves the end of what it cancelled to the next one: the same page would come for ever.
        let first = rows.first().map(|row| row.workflow.clone());
        if first.is_some() && first == newest {
            return Err(ApiError::in_use("runs of the conversation are being stopped").retry_after(5));
        }
        newest = first;
        // All at once: on a full disk each of them may wait for an end that is not written.
        let cancels = rows.iter().map(|row| api.sessions.cancel(&row.workflow, "client"));
        let mut is_full = false;
        for cancelled in futures_util::future::join_all(cancels).await {
            match cancelled {
                Ok(_) => {}
                // What is removed makes the room that is wanted.
                Err(StartError::Store(StoreError::Full)) => is_full = true,
                Err(error) => return Err(api.refusal(error)),
            }
        }
        if is_full || rows.len() < RUNS_PAGE as usize {
            return Ok(());
        }
    }
}

async fn find(api: &Api, id: &ConversationId) -> Result<ConversationRow, ApiError> {
    api.sessions.store().conversation(id).await?.ok_or_else(|| ApiError::not_found("conversation"))
}

fn shown(row: &ConversationRow, messages: &[MessageRow]) -> Value {
    json!({
        "conversation_id": row.conversation,
        "id": row.conversation,
        "title": row.title,
        "created_at": row.created_at.to_string(),
        "updated_at": row.updated_at.to_string(),
        "messages": messages.iter().map(message).collect::<Vec<_>>(),
    })
}

fn message(row: &MessageRow) -> Value {
    let mut shown = json!({
        "id": row.id,
        "role": row.role,
        "content": row.content,
        "created_at": row.created_at.to_string(),
        "quality_pending": row.quality.as_ref().is_some_and(|quality| quality.pending),
    });
    let optional = [
        ("author", row.author.as_ref().map(|author| json!(author))),
        ("agent_id", row.agent_id.as_ref().map(|agent| json!(agent))),
        ("workflow_id", row.workflow.as_ref().map(|workflow| json!(workflow))),
        ("finish_reason", row.finish_reason.map(|reason| json!(reason))),
        ("quality_score", row.quality.as_ref().and_then(|quality| quality.score).map(|score| json!(score))),
        ("quality_flag", row.quality.as_ref().and_then(|quality| quality.flag.as_ref()).map(|flag| json!(flag))),
        (
            "quality_details",
            row.quality.as_ref().map(|quality| quality.details.clone()).filter(|details| !details.is_null()),
        ),
        ("truncated", row.finish_reason.filter(|reason| reason.truncates()).map(|_| json!(true))),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            shown[name] = value;
        }
    }
    shown
}
