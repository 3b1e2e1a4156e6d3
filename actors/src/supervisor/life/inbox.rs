//! The commands that were committed for a run: its life reads them when it is told of one, and when it takes a run over.

use std::time::Duration;

use super::Life;
use crate::ports::{Command, LocalFuture, StoreError};

pub(super) type Commands = LocalFuture<'static, Result<Vec<Command>, StoreError>>;

impl Life {
    pub(super) fn read_inbox(&self) -> Commands {
        let (store, workflow) = (self.run.ports.store.clone(), self.run.workflow.clone());
        Box::pin(async move { store.inbox(&workflow).await })
    }

    fn read_inbox_later(&self) -> Commands {
        let read = self.read_inbox();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            read.await
        })
    }

    /// Does what was read, or reads again later.
    pub(super) fn take_inbox(&mut self, read: Result<Vec<Command>, StoreError>) {
        self.inbox = None;
        match read {
            Ok(commands) => self.take_commands(commands),
            Err(error) => {
                tracing::warn!(workflow = %self.run.workflow, %error, "reading the inbox failed");
                self.inbox = Some(self.read_inbox_later());
            }
        }
    }

    fn take_commands(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Answer { request_id, answer } => self.run.deliver(&request_id, answer),
                Command::Cancel { reason } => self.cancel(reason),
            }
        }
    }
}
