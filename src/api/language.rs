//! `POST /api/v1/classify_intent` and `/extract_entities`: one model call about one text, as a small run of its own. It counts
//! against the cap, is journaled, and stands in the history; it belongs to no conversation.

use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use fleet_actors::sessions::StreamItem;
use serde_json::{Value, json};

use super::Api;
use super::body::{read_object, refuse};
use super::error::ApiError;
use super::run::{CancelOnDrop, about, begin, output_at_end};
use super::start::NewRun;
use crate::workflow::{ENTITY_WORKFLOW, INTENT_WORKFLOW, LANGUAGE_VERSION};

/// Choices that a text may be asked about at most.
const CHOICES_MAX: usize = 100;
/// Characters of one of them.
const CHOICE_CHARS_MAX: usize = 100;

/// `POST /classify_intent {text, possible_intents}`
///
/// # Errors
/// [`ApiError`]; with `execution_id` once there is a run.
///
/// # Cancel safety
/// A client that goes away cancels the run.
pub async fn classify_intent(api: Data<Api>, request: HttpRequest, payload: Payload) -> Result<HttpResponse, ApiError> {
    asked(&api, &request, payload, INTENT_WORKFLOW, "possible_intents").await
}

/// `POST /extract_entities {text, entity_types}`
///
/// # Errors
/// [`ApiError`]; with `execution_id` once there is a run.
///
/// # Cancel safety
/// A client that goes away cancels the run.
pub async fn extract_entities(
    api: Data<Api>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, ApiError> {
    asked(&api, &request, payload, ENTITY_WORKFLOW, "entity_types").await
}

async fn asked(
    api: &Api,
    request: &HttpRequest,
    payload: Payload,
    workflow: &'static str,
    choices: &'static str,
) -> Result<HttpResponse, ApiError> {
    if let Err(full) = api.sessions.admission().look() {
        return Ok(refuse(&api.refusal(full.into()), request, payload, &api.settings.server).await);
    }
    let mut fields = read_object(request, payload, &api.settings.server).await?;
    let message = fields.text("text");
    let choose_from = match fields.value(choices).map_or(Ok(Vec::new()), |value| words(&value)) {
        Ok(words) => words,
        Err(wrong) => {
            fields.wrong(choices, &wrong);
            Vec::new()
        }
    };
    fields.finish()?;
    let more = Some(json!({ "choose_from": choose_from }));
    let run =
        NewRun { message, additional_context: more, workflow: Some((workflow, LANGUAGE_VERSION)), ..NewRun::default() };
    let turn = api.prepare(run).map_err(|error| error.where_the_message_is("text"))?;
    let guard = CancelOnDrop::new(&api.sessions, &turn.workflow);
    let answer = ended(api, begin(api, turn).await).await;
    guard.disarm();
    answer.map(|answer| HttpResponse::Ok().json(answer))
}

async fn ended(api: &Api, started: Result<fleet_actors::sessions::EventStream, ApiError>) -> Result<Value, ApiError> {
    let mut stream = started?;
    let workflow = stream.workflow().clone();
    loop {
        match stream.next().await? {
            StreamItem::Event(_) => {}
            StreamItem::End => break,
            StreamItem::Rests(rest, text) => return Err(about(ApiError::rests(rest, text), &workflow)),
        }
    }
    Ok(output_at_end(api, &stream).await?.metadata["answer"].take())
}

fn words(value: &Value) -> Result<Vec<String>, String> {
    let expected = || format!("expected a list of at most {CHOICES_MAX} texts of 1 to {CHOICE_CHARS_MAX} characters");
    let list = value.as_array().filter(|list| list.len() <= CHOICES_MAX).ok_or_else(expected)?;
    let word = |word: &Value| {
        let fits = |word: &&str| (1..=CHOICE_CHARS_MAX).contains(&word.trim().chars().count());
        word.as_str().filter(fits).map(str::to_owned)
    };
    list.iter().map(word).collect::<Option<Vec<_>>>().ok_or_else(expected)
}
