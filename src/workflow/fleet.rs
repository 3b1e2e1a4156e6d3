//! What every phase, mode and agent of one run is told: the task, the conversation, the roster, the rules.
//!
//! Nothing in here changes during a run, so branches may share it.

use std::time::Duration;

use fleet_actors::event::Failure;
use fleet_actors::journal::Context;
use fleet_actors::ports::{Access, ChatMessage, FinishReason, MessageRow, Role, TaskInput, ToolOffer};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

use super::WorkflowConfig;
use super::events::FleetEvent;
use super::review::PLAN_REJECTED;
use super::rules::PipelineRules;
use crate::agents::Agent;
use crate::prompts::signatures::{AgentCard, ToolCard};
use crate::prompts::{Signature, ask};

/// Stands behind the instructions of an agent whose user is waiting.
const HURRY: &str = "The user is waiting: take no step that the answer can do without.";

/// Characters of one message of the conversation, as phases are shown it.
const CONTEXT_MESSAGE_CHARS: usize = 2_000;

/// What everybody in a run is told.
pub(super) struct Fleet<'a> {
    pub config: &'a WorkflowConfig,
    pub input: &'a TaskInput,
    /// What the conversation held before, as far as it fits.
    pub history: &'a [MessageRow],
    /// The tools that this run may use, all agents together.
    pub offers: Vec<ToolOffer>,
}

/// A text that an agent made.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Draft {
    pub text: String,
    /// Who made it.
    pub agent: String,
    pub finish_reason: FinishReason,
    /// Which model, by the provider's word.
    pub model: String,
    pub simulated: bool,
    /// Names of files that its tools made.
    pub artifacts: Vec<String>,
}

impl Draft {
    /// With the files of the draft that it replaces: its text may still speak of them.
    pub fn after(mut self, before: &Self) -> Self {
        let mut artifacts = before.artifacts.clone();
        artifacts.extend(self.artifacts.into_iter().filter(|name| !before.artifacts.contains(name)));
        self.artifacts = artifacts;
        self
    }
}

/// A round of work: what came of the one before it and what it must do about that.
#[derive(Clone, Copy, Default)]
pub(super) struct Round<'a> {
    pub before: Option<(&'a Draft, &'a str)>,
}

impl<'a> Fleet<'a> {
    pub fn rules(&self) -> &'a PipelineRules {
        &self.config.pipeline
    }

    /// The agent of this name, or the default one. A roster without either is refused at the start of the run.
    pub fn agent(&self, name: &str) -> StepResult<&'a Agent> {
        let roster = &self.config.roster;
        let found = roster.get(name).or_else(|| roster.get(&self.rules().default_agent));
        found.ok_or_else(|| Failure::new("no_agent_answered", format!("there is no agent `{name}`")))
    }

    /// What one agent may use: the offers that its settings name.
    pub fn offers_of(&self, agent: &Agent) -> Vec<&ToolOffer> {
        let named = |offer: &&ToolOffer| {
            agent.tools.iter().any(|tool| match tool.strip_prefix("mcp:") {
                Some(server) => *offer.source == *server,
                None => *tool == offer.spec.name,
            })
        };
        self.offers.iter().filter(named).collect()
    }

    /// Those of them that it can use: there, and not forbidden.
    pub fn usable_by(&self, agent: &Agent) -> impl Iterator<Item = &ToolOffer> {
        self.offers_of(agent).into_iter().filter(|offer| usable(offer))
    }

    /// Asks a phase's question, within the time of a phase.
    pub async fn phase<S: Signature>(&self, turn: &mut Turn, step: &str, inputs: &S::Inputs) -> StepResult<S::Output>
    where
        S::Inputs: Sync,
    {
        let prompts = &self.config.prompts;
        turn.timeout("phase", self.rules().phase_timeout(), async |turn| {
            Box::pin(ask::<S>(turn, step, inputs, prompts, None)).await
        })
        .await
    }

    /// Tells that the run goes on in another way than it should.
    pub fn warn(&self, turn: &mut Turn, warning: &str, message: impl Into<String>, mut data: Value) {
        data["warning"] = warning.into();
        turn.emit(&FleetEvent::Message {
            message: message.into(),
            kind: Some("progress".to_owned()),
            data: Some(data),
        });
    }

    /// Tells that a phase failed and the run goes on without it.
    pub fn degrade(&self, turn: &mut Turn, phase: &str, failure: &Failure) {
        let message = format!("{phase} failed, going on without it: {}", failure.message);
        self.warn(turn, "phase_degraded", message, json!({ "phase": phase, "code": failure.code }));
    }

    /// An agent's messages: who it is, the conversation, its part with what the client added.
    pub fn context(&self, agent: &Agent, hurried: bool, part: String) -> Context {
        let mut instructions = agent.instructions.clone();
        if hurried {
            instructions = format!("{}\n\n{HURRY}", instructions.trim_end());
        }
        let mut context = Context::default().with(ChatMessage::new(Role::System, instructions));
        for message in self.history {
            context = context.with(ChatMessage::new(message.role, message.content.clone()));
        }
        context.with(asked(self.input, part))
    }

    /// What an agent is asked to do. One that works alone on a first round gets the message as it was written.
    ///
    /// Advice stands before the task: a small model takes what stands last for what it is to write.
    pub fn part(&self, advice: &str, part: Option<&str>, material: &[(String, &str)], round: Round<'_>) -> String {
        let message = &self.input.message;
        let part = part.filter(|part| part.trim() != message.trim());
        if advice.is_empty() && part.is_none() && material.is_empty() && round.before.is_none() {
            return message.clone();
        }
        let mut text = String::new();
        if !advice.is_empty() {
            text.push_str(&format!("How to go about it:\n{advice}\n\n"));
        }
        text.push_str(&format!("The user's task:\n{message}"));
        if let Some(part) = part {
            text.push_str(&format!("\n\nYour part of it:\n{part}"));
        }
        for (title, body) in material {
            text.push_str(&format!("\n\n{title}:\n{body}"));
        }
        if let Some((draft, feedback)) = round.before {
            text.push_str(&format!("\n\nWhat was answered so far:\n{}\n\nWhat must change:\n{feedback}", draft.text));
        }
        text
    }

    /// The conversation as phases are shown it.
    pub fn conversation(&self) -> String {
        let mut text = String::new();
        for message in self.history {
            let who =
                if message.role == Role::User { "user" } else { message.author.as_deref().unwrap_or("assistant") };
            text.push_str(&format!("{who}: {}\n", clip(&message.content, CONTEXT_MESSAGE_CHARS)));
        }
        if let Some(more) = &self.input.additional_context {
            text.push_str(&format!("from the client: {}\n", clip(&more.to_string(), CONTEXT_MESSAGE_CHARS)));
        }
        text
    }

    pub fn agent_cards<'b>(&'b self, agents: impl IntoIterator<Item = &'b Agent>) -> Vec<AgentCard> {
        let card = |agent: &Agent| {
            let tools = self.usable_by(agent).map(|offer| offer.spec.name.clone()).collect();
            AgentCard { name: agent.name.clone(), description: agent.description.clone(), tools }
        };
        agents.into_iter().map(card).collect()
    }

    pub fn tool_cards(&self) -> Vec<ToolCard> {
        let card = |offer: &ToolOffer| ToolCard {
            name: offer.spec.name.clone(),
            description: clip(&offer.spec.description, 300),
        };
        self.offers.iter().filter(|offer| usable(offer)).map(card).collect()
    }
}

/// Whether a tool can be called at all.
pub(super) fn usable(offer: &ToolOffer) -> bool {
    offer.unavailable.is_none() && offer.access != Access::Deny
}

/// What a model is asked to do, and what the client added to the task. That is a user's text like the message, and no rule of
/// ours; and it is part of one message, for some models take no two of a user in a row.
pub(super) fn asked(input: &TaskInput, part: String) -> ChatMessage {
    match &input.additional_context {
        Some(more) => ChatMessage::new(Role::User, format!("{part}\n\nAdditional context from the client:\n{more}")),
        None => ChatMessage::new(Role::User, part),
    }
}

/// The failure of a run in which nobody answered: the only one there was, or all of them.
pub(super) fn nobody(failures: Vec<(String, Failure)>) -> Failure {
    match <[(String, Failure); 1]>::try_from(failures) {
        Ok([(_, only)]) => only,
        Err(failures) => {
            let texts: Vec<String> =
                failures.iter().map(|(agent, failure)| format!("{agent}: {}", failure.message)).collect();
            let mut failure = Failure::new("no_agent_answered", format!("no agent answered ({})", texts.join("; ")));
            failure.retry_after_ms = failures.iter().filter_map(|(_, failure)| failure.retry_after_ms).max();
            failure
        }
    }
}

/// Whether a failure ends the run and not only the part it happened in: a person's silence was to end it.
pub(super) fn ends_the_run(failure: &Failure) -> bool {
    matches!(&*failure.code, "approval_expired" | PLAN_REJECTED)
}

/// At most `chars` characters of a text.
pub(super) fn clip(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((cut, _)) => format!("{}…", text[..cut].trim_end()),
        None => text.to_owned(),
    }
}

/// The time a piece of work has left, waiting for people not counted.
///
/// Each part of the work runs under its own recorded deadline, so a restart takes no time twice and none that was lost.
pub(super) struct Budget {
    pub left: Duration,
}

impl Budget {
    /// Runs a part of the work, for at most what is left.
    pub async fn spend<R>(
        &mut self,
        turn: &mut Turn,
        body: impl AsyncFn(&mut Turn) -> StepResult<R> + Sync,
    ) -> StepResult<R> {
        let began = turn.lived();
        let result = turn.timeout("deadline", self.left, body).await;
        self.left = self.left.saturating_sub(turn.lived().since(began));
        result
    }
}
