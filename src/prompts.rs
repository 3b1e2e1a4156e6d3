//! Typed prompts: what a workflow asks a model, as Rust types.
//!
//! A [`Signature`] is named inputs, a typed output and an instruction. [`render`] makes messages of it, [`parse`] reads the
//! answer, and [`ask`] does both over a [`Turn`], with one repair call that shows the model what was wrong. Two are asked in
//! another way: one whose answer the user reads as it is written ([`render_spoken`]), and one that an agent answers by calling
//! a tool ([`render_tool`]). An [`Artifact`] replaces the words of all. [`signatures`] has them, [`catalog`] lists them.
//!
//! Invariant: what is rendered depends on the signature, its inputs and the pinned [`PromptConfig`] alone, so a replay asks
//! with the same words.
//! Absent on purpose: a clock, chance and I/O; a retry of a call that failed (the model port's policy); a second repair.

mod catalog;
mod coerce;
mod form;
mod lenient;
mod parse;
mod render;
pub mod signatures;

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet_actors::event::{Audience, Failure};
use fleet_actors::journal::Context;
use fleet_actors::ports::{ChatMessage, FinishReason, ModelReply, ModelRequest, OutputForm, Role};
use fleet_actors::turn::{StepResult, Turn};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use catalog::{FieldInfo, SignatureInfo, catalog};
pub use form::{Choices, schema};
pub use parse::{ParseError, parse};
pub use render::{SIGNATURE_MARK, render, render_spoken, render_tool};

/// A question that a model can be asked, and the shape of its answer.
pub trait Signature: 'static {
    /// `TaskAnalysis`: also the schema's name, as it is sent to the model.
    const NAME: &'static str;
    /// What the model is to do, and how well.
    const INSTRUCTION: &'static str;
    /// Named inputs; doc comments are their descriptions.
    type Inputs: Serialize + JsonSchema + 'static;
    /// The answer; doc comments become the descriptions of its fields.
    type Output: Serialize + DeserializeOwned + JsonSchema + 'static;
    /// Fields that an answer may leave out, wherever they stand in it, and the one thing that this can mean. The schema
    /// that the model is shown asks for them all the same.
    const UNSAID: Unsaid = &[];
    /// What this call may answer at places of the schema, e.g. the agents that exist.
    fn choices(_inputs: &Self::Inputs) -> Choices<'_> {
        Choices::default()
    }
    /// Bounds that a schema cannot say; the text is shown to the model in the repair call.
    ///
    /// # Errors
    /// What is wrong with the answer, as one sentence.
    fn check(_output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        Ok(())
    }
}

/// Names of fields, each with what its absence means.
pub type Unsaid = &'static [(&'static str, &'static str)];

/// A question whose answer is a text for people.
pub trait Spoken: Signature {
    /// The input that holds what is to be answered.
    const SAID: &'static str;
    /// The field of the output that holds the answer.
    const ANSWER: &'static str;
}

/// How prompts are asked; part of the pinned configuration of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PromptConfig {
    /// Which model, by the provider's name.
    pub model: String,
    /// Sampling temperature, where the model takes one.
    pub temperature: Option<f32>,
    /// At most this many tokens of answer.
    pub output_tokens_max: Option<u32>,
    /// How the form of the answer is asked for.
    #[serde(default)]
    pub form: OutputStyle,
    /// Compiled prompts, by the signature's name; they replace the default rendering.
    #[serde(default)]
    pub artifacts: BTreeMap<String, Artifact>,
}

/// How the form of an answer is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStyle {
    /// As a JSON schema, which the provider enforces.
    #[default]
    Schema,
    /// As fenced JSON, described in the prompt; for providers without structured output.
    Fenced,
    /// As a schema; a question that the provider refuses is asked again as fenced JSON.
    Auto,
}

/// A compiled prompt: what an optimiser found to work better than the default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Stands in the place of [`Signature::INSTRUCTION`].
    pub instruction: String,
    /// Examples that are shown before the question.
    #[serde(default)]
    pub demos: Vec<Demo>,
}

/// An example of a good answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Demo {
    /// The named inputs, an object.
    pub inputs: Value,
    /// The answer, an object.
    pub output: Value,
}

/// The public code of an answer that could not be used, not even after the repair call.
pub const PROMPT_OUTPUT_INVALID: &str = "prompt_output_invalid";

/// Codes of failures that a provider without structured output, or with less of it than we ask for, answers a schema with.
const REFUSALS: [&str; 2] = [crate::llm::code::BAD_REQUEST, crate::llm::code::SCHEMA];

/// At most this many characters of an unusable answer are shown to the model again.
const SHOWN_CHARS: usize = 4_000;

/// Asks a model: renders, calls, parses, checks. An answer that cannot be used gets one repair call that shows the error.
///
/// The steps are `step`; with [`OutputStyle::Auto`] `{step}_fenced` if the provider refused the schema; and, if the answer
/// could not be used, `{step}_repair`. `agent` is on whose behalf it is asked.
///
/// # Errors
/// The call's own failure, or [`PROMPT_OUTPUT_INVALID`] when the second answer could not be used either.
pub async fn ask<S: Signature>(
    turn: &mut Turn,
    step: &str,
    inputs: &S::Inputs,
    config: &PromptConfig,
    agent: Option<&str>,
) -> StepResult<S::Output> {
    let mut request = request::<S>(inputs, config, agent);
    let reply = match turn.model(step, request.clone()).await {
        // A wrong name of a model is refused too; then the second call says so as well.
        Err(failure) if config.form == OutputStyle::Auto && REFUSALS.contains(&&*failure.code) => {
            let fenced = PromptConfig { form: OutputStyle::Fenced, ..config.clone() };
            request = self::request::<S>(inputs, &fenced, agent);
            turn.model(&format!("{step}_fenced"), request.clone()).await?
        }
        reply => reply?,
    };
    let error = match read::<S>(&reply, inputs) {
        Ok(output) => return Ok(output),
        Err(error) => error,
    };
    // Some servers take a schema and ignore it; then the model has not seen one yet. An answer that was cut off shows it.
    let unseen = config.form == OutputStyle::Auto
        && request.output != OutputForm::Text
        && !(error == ParseError::Cut && parse::keeps_to::<S>(&reply.text, inputs));
    let unseen = unseen.then(|| schema::<S>(inputs));
    let context = request.context.with(shown(&reply)).with(render::repair(&error, unseen.as_deref()));
    let reply = turn.model(&format!("{step}_repair"), ModelRequest { context, ..request }).await?;
    read::<S>(&reply, inputs)
        .map_err(|error| Failure::new(PROMPT_OUTPUT_INVALID, format!("{} got no usable answer: {error}", S::NAME)))
}

fn request<S: Signature>(inputs: &S::Inputs, config: &PromptConfig, agent: Option<&str>) -> ModelRequest {
    let output = match config.form {
        OutputStyle::Schema | OutputStyle::Auto => {
            OutputForm::Json { name: S::NAME.to_owned(), schema: schema::<S>(inputs) }
        }
        OutputStyle::Fenced => OutputForm::Text,
    };
    ModelRequest {
        model: config.model.as_str().into(),
        agent: agent.map(Arc::from),
        audience: Audience::Workflow,
        context: Context::of(render::<S>(inputs, config)),
        tools: Arc::from([]),
        output,
        temperature: config.temperature,
        max_output_tokens: config.output_tokens_max,
    }
}

/// The answer of a reply. Of one that the limit of tokens cut off, what was finished is the answer if it has every decision:
/// a model that repeats itself up to the limit does so again when it is asked again.
fn read<S: Signature>(reply: &ModelReply, inputs: &S::Inputs) -> Result<S::Output, ParseError> {
    parse::<S>(&reply.text, inputs).or_else(|error| match reply.finish_reason {
        FinishReason::Length => parse::parse_cut::<S>(&reply.text, inputs).map_err(|_| ParseError::Cut),
        FinishReason::ContentFilter => Err(ParseError::Filtered),
        FinishReason::Stop | FinishReason::ToolCalls => Err(error),
    })
}

/// The unusable answer, as the model sees it again. Providers refuse messages without text.
fn shown(reply: &ModelReply) -> ChatMessage {
    let text = match reply.text.char_indices().nth(SHOWN_CHARS) {
        Some((cut, _)) => format!("{} [cut here]", &reply.text[..cut]),
        None if reply.text.trim().is_empty() => "(no answer)".to_owned(),
        None => reply.text.clone(),
    };
    ChatMessage::new(Role::Assistant, text)
}
