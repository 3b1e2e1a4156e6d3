//! The human of a script, who is shown the questions of one life as soon as they are visible.

use std::time::Duration;

use tokio::sync::mpsc;

use super::ports::Ports;
use crate::event::{Answer, EventBody, Question};
use crate::ids::WorkflowId;
use crate::ports::{Command, Posted, Store, StoreWrite, Written};
use crate::stream::{Seen, Watcher};
use crate::supervisor::Signal;
use crate::testing::MemoryStore;

pub(super) struct Human {
    pub ports: Ports,
    pub store: MemoryStore,
    pub run: WorkflowId,
    pub signals: mpsc::Sender<Signal>,
}

impl Human {
    /// Answers what the life asks, for as long as it lasts.
    pub async fn listen(self, mut watcher: Watcher) {
        while let Seen::Events(events) = watcher.next().await {
            for event in events {
                if let EventBody::Asked { question, .. } = &event.body {
                    self.hear(question);
                }
            }
        }
        // A life whose every signal is gone would spin on a closed channel.
        std::future::pending::<()>().await;
    }

    /// Answers the question after a while, if the script has an answer.
    pub fn hear(&self, question: &Question) {
        let Some(answer) = (self.ports.human)(question) else { return };
        let (store, run, signals) = (self.store.clone(), self.run.clone(), self.signals.clone());
        let (request_id, after) = (question.request_id.clone(), self.ports.human_after);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(after).await;
            let command = Command::Answer { request_id, answer: Answer::Given(answer) };
            // A life that takes an open question over opens it again with its first append.
            for _ in 0..100 {
                let post = StoreWrite::Post { workflow: run.clone(), command: command.clone() };
                match store.write(post).await {
                    Ok(Written::Posted(Posted::Unknown) | Written::NotFound) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    _ => break,
                }
            }
            let _ = signals.send(Signal::Inbox).await;
        });
    }
}
