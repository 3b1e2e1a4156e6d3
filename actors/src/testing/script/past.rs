//! What a scripted run finds in its store: the conversation before it, and what an earlier process left of its journal.

use std::sync::Arc;

use super::{Script, made, run_id};
use crate::ids::{Epoch, Position, Timestamp, WorkflowId};
use crate::journal::{Positioned, Record, encode};
use crate::ports::{Append, Claim, MessageRow, Outcome, Store};
use crate::testing::{MemoryStore, plain};

impl Script {
    /// What was said before the run, as an earlier run of the same conversation that is not over.
    pub(super) async fn write_history(&self, store: &MemoryStore, at: Timestamp) {
        let Some(conversation) = self.input.conversation.clone().filter(|_| !self.said.is_empty()) else { return };
        let workflow = WorkflowId::from_trusted("earlier-run");
        let messages = self.said.iter().enumerate().map(|(n, (role, text))| MessageRow {
            id: format!("said-{n}").into(),
            conversation: conversation.clone(),
            role: *role,
            content: text.clone(),
            created_at: at,
            author: None,
            agent_id: None,
            workflow: Some(workflow.clone()),
            finish_reason: None,
            quality: None,
        });
        let began = Positioned {
            position: Position(1),
            epoch: Epoch(0),
            seq: None,
            path: Arc::from(""),
            record: Record::Began { at, owner: 0 },
            body: None,
        };
        let claim = Claim { workflow: workflow.clone(), epoch: Epoch(0) };
        let append = self.append(claim, Position(0), &[began], at);
        commit(store, Append { messages: messages.collect(), ..append }).await;
    }

    /// What an earlier process left of the run, life by life.
    pub(super) async fn write_journal(&self, store: &MemoryStore, records: &[Positioned], at: Timestamp) {
        let mut after = Position(0);
        for life in records.chunk_by(|one, next| one.epoch == next.epoch) {
            let (Some(first), Some(last)) = (life.first(), life.last()) else { continue };
            let claim = Claim { workflow: run_id(), epoch: first.epoch };
            commit(store, self.append(claim, after, life, at)).await;
            after = last.position;
        }
    }

    fn append(&self, claim: Claim, after: Position, records: &[Positioned], at: Timestamp) -> Append {
        let create = (after == Position(0)).then(|| Box::new(made(&self.input, at)));
        Append { create, ..plain::append(claim, after, records.iter().map(encode).collect()) }
    }
}

async fn commit(store: &MemoryStore, append: Append) {
    let outcomes = store.commit(vec![append.into()]).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(matches!(outcomes[..], [Outcome::Done { .. }]), "{outcomes:?}");
}
