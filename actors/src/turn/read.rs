//! What a workflow reads: values that were made or found once and are the same in every replay.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Turn;
use super::run::{Run, json};
use super::step::Found;
use crate::event::StepKind;
use crate::ids::Timestamp;
use crate::journal::{Record, StepState, digest};
use crate::ports::{MessageRow, ToolOffer};
use crate::spend::Spend;

impl Turn {
    /// The tools of these names that exist for this run, recorded; `mcp:SERVER` stands for all of that server.
    pub async fn tools(&mut self, names: &[String]) -> Vec<ToolOffer> {
        let path = self.path("tools");
        let input = digest(json(&names).as_bytes());
        self.read(&path, input, async |run| run.ports.tools.offers(names).await).await
    }

    /// The newest `limit` messages of the run's conversation, oldest first, those of this run left out; recorded.
    pub async fn conversation(&mut self, limit: u32) -> Vec<MessageRow> {
        let path = self.path("conversation");
        let input = self.run.past.input.as_ref();
        // Nothing is read, so nothing is recorded: no replay may look for it.
        let Some(conversation) = input.and_then(|input| input.conversation.clone()) else { return Vec::new() };
        let input = digest(json(&limit).as_bytes());
        let messages = async |run: &Run| loop {
            match run.ports.store.messages(&conversation, limit, Some(run.workflow.clone())).await {
                Ok(messages) => break messages,
                // The life's own limits end this; a function must not see a broken store.
                Err(error) => {
                    tracing::warn!(workflow = %run.workflow, %error, "reading the conversation failed, trying again");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        };
        self.read(&path, input, messages).await
    }

    /// What the run has spent so far, recorded.
    pub fn spent(&mut self) -> Spend {
        self.value("spent", "", Run::spend)
    }

    /// What an earlier run left under `key`, recorded.
    pub fn cached(&mut self, key: &str) -> Option<Value> {
        let input = digest(key.as_bytes());
        self.value("cached", &input, |run| run.ports.cache.get(key))
    }

    /// Leaves `value` under `key` for other runs, for at most `ttl`. A replay leaves nothing.
    pub fn cache(&mut self, key: &str, value: &Value, ttl: Duration) {
        let input = digest(json(&(key, value, ttl)).as_bytes());
        self.value("cache", &input, |run| run.ports.cache.put(key, value.clone(), ttl));
    }

    /// The time, recorded.
    pub fn now(&mut self) -> Timestamp {
        self.value("now", "", |run| run.now())
    }

    /// The time without what the run lost to ends of its process, recorded: the difference of two is what lies between
    /// them of the run's life. A run's journal cannot tell it from [`now`](Self::now).
    pub fn lived(&mut self) -> Timestamp {
        self.value("now", "", |run| run.now().before(run.lost))
    }

    /// A random number, recorded.
    pub fn random(&mut self) -> u64 {
        self.value("random", "", |run| run.ports.clock.random())
    }

    /// Does something that leaves the run as it is, as writing a line of a log: once, and not again when it is replayed.
    pub fn note(&mut self, name: &str, act: impl FnOnce()) {
        self.value(name, "", |_| act());
    }

    /// Reads what may take its time.
    async fn read<T>(&self, path: &Arc<str>, input: Arc<str>, find: impl AsyncFnOnce(&Run) -> T) -> T
    where
        T: Serialize + DeserializeOwned,
    {
        match self.find(path, StepKind::Read, &input) {
            None => return self.halted().await,
            Some(Found::Recorded(state)) => match self.recorded(path, state).await {
                Ok(value) => return value,
                Err(failure) => return self.misfit(path, failure.message).await,
            },
            Some(Found::Fresh { .. } | Found::Restarted { .. }) => {}
        }
        let _working = self.run.effect();
        let value = find(&self.run).await;
        self.run.push(path, Record::Read { input }, Some(json(&value)));
        value
    }

    /// Reads what is there at once.
    fn value<T>(&mut self, name: &str, input: &str, make: impl FnOnce(&Run) -> T) -> T
    where
        T: Serialize + DeserializeOwned,
    {
        let path = self.path(name);
        if let Some(Found::Recorded(StepState::Done(body))) = self.find(&path, StepKind::Read, input) {
            match serde_json::from_str(&body) {
                Ok(value) => return value,
                Err(error) => self.run.diverge(&path, format!("its recorded value does not fit: {error}")),
            }
        }
        let value = make(&self.run);
        if self.run.halted().is_none() {
            self.run.push(&path, Record::Read { input: input.into() }, Some(json(&value)));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{LocalFuture, Role, RunOutput, TaskInput};
    use crate::testing::script::Script;
    use crate::turn::StepResult;

    fn reads<'a>(turn: &'a mut Turn, _: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
        Box::pin(async move {
            let limit = Duration::from_secs(1);
            let said = turn.timeout("in time", limit, async |turn| Ok(turn.conversation(8).await.len())).await?;
            Ok(RunOutput { text: said.to_string(), ..RunOutput::default() })
        })
    }

    #[test]
    fn a_branch_that_found_no_conversation_is_replayed_like_one_that_found_some() {
        let alone = Script::new(reads, "q", Value::Null).run();
        assert_eq!(alone.result().text, "0");
        alone.replay();
        let spoken = Script::new(reads, "q", Value::Null).said(Role::User, "hello").run();
        assert_eq!(spoken.result().text, "1");
        spoken.replay();
    }
}
