//! One question about one text: what its author wants, or what it names. A run like any other, of one phase.

use fleet_actors::event::Failure;
use fleet_actors::ports::{FinishReason, LocalFuture, RunOutput, TaskInput};
use fleet_actors::turn::{StepResult, Turn};
use serde::Deserialize;
use serde_json::json;

use super::WorkflowConfig;
use super::events::FleetEvent;
use super::fleet::Fleet;
use crate::prompts::Signature;
use crate::prompts::signatures::{
    EntityExtraction, EntityExtractionInputs, IntentClassification, IntentClassificationInputs,
};

/// What the text is asked about: the intents or entity types that there may be. Empty leaves it to the model.
#[derive(Clone, Debug, Default, Deserialize)]
struct Choice {
    #[serde(default)]
    choose_from: Vec<String>,
}

pub(super) fn classify_intent<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let inputs =
            IntentClassificationInputs { text: input.message.clone(), possible_intents: choice(input)?.choose_from };
        Box::pin(asked::<IntentClassification>(turn, input, "intent", &inputs)).await
    })
}

pub(super) fn extract_entities<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let inputs = EntityExtractionInputs { text: input.message.clone(), entity_types: choice(input)?.choose_from };
        Box::pin(asked::<EntityExtraction>(turn, input, "entities", &inputs)).await
    })
}

fn choice(input: &TaskInput) -> StepResult<Choice> {
    let Some(more) = &input.additional_context else { return Ok(Choice::default()) };
    Choice::deserialize(more).map_err(|error| Failure::new("internal", format!("the choice does not parse: {error}")))
}

async fn asked<S: Signature>(
    turn: &mut Turn,
    input: &TaskInput,
    step: &str,
    inputs: &S::Inputs,
) -> StepResult<RunOutput>
where
    S::Inputs: Sync,
{
    let config = turn.pinned::<WorkflowConfig>()?;
    let fleet = Fleet { config: &config, input, history: &[], offers: Vec::new() };
    let answer = json!(fleet.phase::<S>(turn, step, inputs).await?);
    let spend = turn.spent();
    let text = answer.to_string();
    turn.emit(&FleetEvent::plain_answer(text.clone(), FinishReason::Stop, &spend));
    let metadata = json!({ "answer": answer, "model_calls": spend.model_calls, "usage": spend.usage });
    Ok(RunOutput { text, metadata, ..RunOutput::default() })
}
