//! A question to a human: asked under an id that is derived, open until it is answered, expires or is withdrawn.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::Turn;
use super::run::json;
use super::step::Found;
use crate::event::{Answer, Question, StepKind};
use crate::ids::RequestId;
use crate::journal::{StepState, digest};

/// What to ask a human.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HumanRequest {
    /// `tool_approval`, `user_input`, `plan_review`, ...
    pub request_type: Arc<str>,
    /// What is asked, exactly; the answer binds to it.
    pub request: Value,
    /// JSON schema of an answer; one that does not fit is refused at the door and the question stays open.
    pub answer_schema: Option<Value>,
    /// How long the question stays open, downtime included.
    pub expires_in: Duration,
}

/// How a question to a human ended.
#[derive(Clone, Debug, PartialEq)]
pub struct HumanAnswer {
    /// The question's id.
    pub request_id: RequestId,
    /// How it ended.
    pub answer: Answer,
}

impl Turn {
    /// Asks a human and waits for the answer, parked if it takes long.
    pub async fn ask_human(&mut self, name: &str, ask: HumanRequest) -> HumanAnswer {
        let path = self.path(name);
        self.ask_at(path, ask).await
    }

    pub(super) async fn ask_at(&self, path: Arc<str>, ask: HumanRequest) -> HumanAnswer {
        let input = digest(json(&ask).as_bytes());
        let run = self.run.clone();
        let question = match self.find(&path, StepKind::Question, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(StepState::Answered(question, answer))) => {
                self.replayed().await;
                return HumanAnswer { request_id: question.request_id, answer };
            }
            Some(Found::Recorded(StepState::Asked(question))) => {
                run.wait_for_answer(&path, &question, &input);
                question
            }
            Some(Found::Recorded(_) | Found::Fresh { .. } | Found::Restarted { .. }) => {
                // The id is derived, so that a question whose record was lost is asked again under the same one.
                let request_id = RequestId::from_trusted(self.key(&path));
                let expires_at = run.now().after(ask.expires_in);
                let HumanRequest { request_type, request, answer_schema, .. } = ask;
                let question = Question { request_id, request_type, request, answer_schema, expires_at };
                run.ask(&path, &question, &input);
                question
            }
        };
        let answer = run.answer(&path, &question).await;
        HumanAnswer { request_id: question.request_id, answer }
    }
}
