//! Where a command reads, writes and runs: in the data directory, or through a running server. Both give the JSON of the
//! HTTP API, so that a command does not know which it is.
//!
//! Reading opens the database to read, beside whoever writes it. Writing and running take the directory's lock; running takes
//! the whole runtime: a run is the same run as under `serve`, without the doors.

mod run;

use std::cell::{Cell, OnceCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::Arc;

use fleet_actors::ids::{CheckpointId, ConversationId, Position, RequestId, Seq, WorkflowId};
use fleet_actors::ports::{PageFrom, QuestionFilter, ReasoningEffort, StoreWrite, WorkflowState};
use fleet_actors::recovery;
use serde_json::{Value, json};

use super::client::Client;
use super::failure::CommandError;
use super::serve::until_exported;
use super::terminal::complain;
use super::{Reach, sources};
use crate::api::connections::Connections;
use crate::api::error::ApiError;
use crate::api::start::NewRun;
use crate::api::wire::Deltas;
use crate::api::{Api, approvals, checkpoints, history, sessions, types};
use crate::runtime::{Purpose, Runtime, SystemClock};
use crate::settings::Settings;
use crate::storage::{DataDirLock, LockError, SqliteOptions, SqliteStore};

pub(super) use self::run::{Run, Seen};

/// How long the end of a command waits for the history file; what is left is written by the next process.
const EXPORT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Where a command works.
pub(super) enum Fleet {
    /// In the data directory.
    Here(Box<Local>),
    /// Through a running server.
    There(Client),
}

/// A data directory; its runtime is opened by the first thing that needs it.
pub(super) struct Local {
    settings: Arc<Settings>,
    /// What the lock's owner is called.
    command: &'static str,
    /// It stays for several runs: parked ones go on, and answers are scored, as under `serve`.
    stays: bool,
    writer: OnceCell<Rc<Writer>>,
}

impl Local {
    /// To change what is stored.
    fn writer(&self) -> Result<Rc<Writer>, CommandError> {
        self.open(Purpose::Store)
    }

    /// To run. A command that runs does so before it changes anything else.
    fn runner(&self) -> Result<Rc<Writer>, CommandError> {
        self.open(Purpose::Runs)
    }

    fn open(&self, purpose: Purpose) -> Result<Rc<Writer>, CommandError> {
        if let Some(writer) = self.writer.get() {
            return Ok(writer.clone());
        }
        let writer = Rc::new(Writer::open(&self.settings, self.command, purpose)?);
        if self.stays {
            writer.serve_what_waits();
        }
        Ok(self.writer.get_or_init(|| writer).clone())
    }
}

/// When a run that was answered goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GoesOn {
    /// At once.
    Now,
    /// Under the next server: it is parked.
    Served,
    /// When somebody resumes it: its process or its client went away before it was parked.
    Resumed,
}

/// A page and the cursor of the next one if there is one.
pub(super) type Page = (Vec<Value>, Option<String>);

impl Fleet {
    /// # Errors
    /// The settings or the server's address are wrong.
    pub fn of(reach: &Reach, command: &'static str) -> Result<Self, CommandError> {
        if let Some(url) = &reach.server {
            return Ok(Self::There(Client::new(url)?));
        }
        let effective =
            Settings::load(&sources(&reach.from.flags())).map_err(|error| CommandError::Usage(error.to_string()))?;
        crate::telemetry::start(&effective.settings);
        let (settings, writer) = (Arc::new(effective.settings), OnceCell::new());
        Ok(Self::Here(Box::new(Local { settings, command, stays: false, writer })))
    }

    /// The same for a command that stays for several runs.
    pub fn that_stays(mut self) -> Self {
        if let Self::Here(local) = &mut self {
            local.stays = true;
        }
        self
    }

    /// Whoever there is to work, as `GET /agents` shows it.
    pub async fn agents(&self) -> Result<Vec<Value>, CommandError> {
        match self {
            Self::Here(local) => Ok(types::roster(&local.settings)),
            Self::There(client) => Ok(list((client.get("/api/v1/agents").await?, None))?.0),
        }
    }

    pub async fn history(&self, from: &PageFrom, limit: u32) -> Result<Page, CommandError> {
        match self {
            Self::Here(local) => {
                let (rows, next) = history::page(&reader(&local.settings).await?, from.clone(), limit).await?;
                Ok((rows, next.map(|next| next.to_string())))
            }
            Self::There(client) => {
                let from = match from {
                    PageFrom::Offset(offset) => format!("offset={offset}"),
                    PageFrom::Before(before) => format!("before={before}"),
                };
                list(client.get_page(&format!("/api/v1/history?limit={limit}&{from}")).await?)
            }
        }
    }

    pub async fn execution(&self, id: &WorkflowId) -> Result<Value, CommandError> {
        match self {
            Self::Here(local) => Ok(history::entry(&reader(&local.settings).await?, id).await?),
            Self::There(client) => client.get(&format!("/api/v1/history/{id}")).await,
        }
    }

    /// Forgets executions, each with what became of it; all of them without ids.
    pub async fn forget(&self, ids: &[WorkflowId]) -> Result<Vec<Result<(), CommandError>>, CommandError> {
        let mut done = Vec::new();
        match self {
            Self::Here(local) => {
                let writer = local.writer()?;
                if ids.is_empty() {
                    done.push(writer.api.write(StoreWrite::ClearHistory).await.map(drop).map_err(CommandError::from));
                }
                for id in ids {
                    done.push(history::remove(&writer.api, id.clone()).await.map_err(CommandError::from));
                }
                writer.close().await;
            }
            Self::There(client) => {
                if ids.is_empty() {
                    done.push(client.delete("/api/v1/history").await);
                }
                for id in ids {
                    done.push(client.delete(&format!("/api/v1/history/{id}")).await);
                }
            }
        }
        Ok(done)
    }

    /// Runs that are not over, as sessions are shown.
    pub async fn unfinished(&self) -> Result<Vec<Value>, CommandError> {
        match self {
            Self::Here(local) => {
                let serves = || DataDirLock::is_database_held(&local.settings.storage);
                Ok(sessions::unfinished(&reader(&local.settings).await?, serves).await?)
            }
            Self::There(client) => {
                let (mut rows, _) = list(client.get_page("/api/v1/sessions").await?)?;
                rows.retain(|row| row["completed_at"].is_null());
                Ok(rows)
            }
        }
    }

    /// Open questions, as `GET /approvals` shows them.
    pub async fn approvals(&self, filter: QuestionFilter) -> Result<Vec<Value>, CommandError> {
        match self {
            Self::Here(local) => Ok(approvals::page(&reader(&local.settings).await?, filter).await?),
            Self::There(client) => {
                let mut path = format!("/api/v1/approvals?limit={}&offset={}", filter.limit, filter.offset);
                let ids = [
                    ("workflow_id", filter.workflow.as_ref().map(WorkflowId::as_str)),
                    ("conversation_id", filter.conversation.as_ref().map(ConversationId::as_str)),
                    ("request_id", filter.request.as_ref().map(RequestId::as_str)),
                    ("request_type", filter.request_type.as_deref()),
                ];
                for (name, value) in ids {
                    path.extend(value.map(|value| format!("&{name}={value}")));
                }
                Ok(list(client.get_page(&path).await?)?.0)
            }
        }
    }

    /// An open question by its id alone, likewise.
    pub async fn question(&self, id: &RequestId) -> Result<Value, CommandError> {
        match self {
            Self::Here(local) => Ok(approvals::question(&reader(&local.settings).await?, id).await?),
            Self::There(client) => client.get(&format!("/api/v1/approvals/{id}")).await,
        }
    }

    /// Answers a question; the answer is durable then.
    pub async fn answer(
        &self,
        workflow: &WorkflowId,
        request: &RequestId,
        response: Value,
    ) -> Result<GoesOn, CommandError> {
        match self {
            Self::Here(local) => {
                let writer = local.writer()?;
                let row = writer.api.sessions.store().workflow(workflow).await?;
                let goes_on = match &row {
                    Some(row) if row.state == WorkflowState::Parked => GoesOn::Served,
                    Some(_) | None => GoesOn::Resumed,
                };
                let answered = match row {
                    Some(_) => writer.api.answer(workflow, request, response).await,
                    None => Err(ApiError::not_found("workflow")),
                };
                writer.close().await;
                answered?;
                Ok(goes_on)
            }
            Self::There(client) => {
                let body = json!({ "request_id": request, "response": response });
                client.post(&format!("/api/v1/workflows/{workflow}/respond"), &body).await?;
                Ok(GoesOn::Now)
            }
        }
    }

    pub async fn checkpoints(
        &self,
        id: &WorkflowId,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Page, CommandError> {
        match self {
            Self::Here(local) => {
                let (rows, next) = checkpoints::page(&reader(&local.settings).await?, id, before, Some(limit)).await?;
                Ok((rows, next.map(|next| next.0.to_string())))
            }
            Self::There(client) => {
                let before = before.map(|before| format!("&before={}", before.0)).unwrap_or_default();
                list(client.get_page(&format!("/api/v1/checkpoints?workflow_id={id}&limit={limit}{before}")).await?)
            }
        }
    }

    pub async fn checkpoint(&self, id: &CheckpointId) -> Result<Value, CommandError> {
        match self {
            Self::Here(local) => Ok(checkpoints::checkpoint(&reader(&local.settings).await?, id).await?),
            Self::There(client) => client.get(&format!("/api/v1/checkpoints/{id}")).await,
        }
    }

    pub async fn fork(&self, id: &CheckpointId) -> Result<Value, CommandError> {
        match self {
            Self::Here(local) => {
                let writer = local.writer()?;
                let forked = checkpoints::fork_at(&writer.api, id).await?;
                writer.close().await;
                Ok(forked)
            }
            Self::There(client) => client.post(&format!("/api/v1/checkpoints/{id}/fork"), &json!({})).await,
        }
    }

    /// Starts a run.
    pub async fn start(&self, new: NewRun, deltas: Deltas) -> Result<Run, CommandError> {
        let conversation = new.conversation.clone();
        match self {
            Self::Here(local) => {
                let writer = local.runner()?;
                writer.say_who_answers();
                let turn = writer.api.prepare(new)?;
                let started = writer.api.begin(turn).await?;
                Ok(Run::here(writer, started.stream, conversation, deltas, local.stays).await?)
            }
            Self::There(client) => {
                let body = json!({
                    "task": new.message,
                    "mode": new.mode,
                    "conversation_id": conversation,
                    "reasoning_effort": new.effort,
                    "enable_checkpointing": new.checkpointing,
                });
                Run::there(client, &client.post("/api/v1/runs", &body).await?, conversation, deltas).await
            }
        }
    }

    /// Goes on from a checkpoint.
    pub async fn resume(
        &self,
        id: &CheckpointId,
        effort: Option<ReasoningEffort>,
        deltas: Deltas,
    ) -> Result<Run, CommandError> {
        match self {
            Self::Here(local) => {
                let writer = local.runner()?;
                writer.say_who_answers();
                let workflow = checkpoints::go_on(&writer.api, id, effort).await?;
                let watched = writer.api.sessions.watch(&workflow, Seq(0)).await;
                let stream = watched.map_err(|error| writer.api.refusal(error))?;
                Ok(Run::here(writer, stream, None, deltas, local.stays).await?)
            }
            Self::There(client) => {
                let body = json!({ "reasoning_effort": effort });
                let resumed = client.post(&format!("/api/v1/checkpoints/{id}/resume"), &body).await?;
                Run::there(client, &resumed, None, deltas).await
            }
        }
    }
}

fn list((page, next): (Value, Option<String>)) -> Result<Page, CommandError> {
    let Value::Array(rows) = page else {
        return Err(CommandError::Failed("the server answers, but not as an agentic-fleet server does".to_owned()));
    };
    Ok((rows, next))
}

/// The store, to read.
async fn reader(settings: &Settings) -> Result<SqliteStore, CommandError> {
    let file = settings.storage.database_file();
    if let Err(error) = file.metadata() {
        let why = if error.kind() == ErrorKind::NotFound {
            "there is no such database; nothing ran in this data directory yet".to_owned()
        } else {
            format!("{error}; correct the path, or let this user read there")
        };
        return Err(CommandError::Failed(format!("{}: {why}", file.display())));
    }
    let options = SqliteOptions::from(&settings.storage);
    let open = || SqliteStore::open_read_only(&options).map_err(|error| CommandError::Failed(error.to_string()));
    let store = open()?;
    if !store.is_behind(&options).await? {
        return Ok(store);
    }
    let behind = |error: &dyn std::fmt::Display| {
        complain(&format!("what the last server acknowledged last cannot be shown: {error}"));
    };
    let _lock = match DataDirLock::acquire_with_database(&settings.storage, "a command that reads") {
        Ok(lock) => lock,
        // A server is about to do it itself.
        Err(LockError::Held { .. }) => return Ok(store),
        Err(error) => {
            behind(&error);
            return Ok(store);
        }
    };
    drop(store);
    match SqliteStore::open(&options, Arc::new(SystemClock)) {
        Ok(written) => drop(written),
        Err(error) => behind(&error),
    }
    open()
}

/// The runtime, to write or to run. Holds the directory's lock.
struct Writer {
    api: Api,
    runtime: Runtime,
    /// Who answers was said.
    said: Cell<bool>,
}

impl Writer {
    fn open(settings: &Arc<Settings>, command: &str, purpose: Purpose) -> Result<Self, CommandError> {
        let runtime = Runtime::start(settings, command, purpose)?;
        let (sessions, workflow_config) = (runtime.sessions.clone(), runtime.workflow_config.clone());
        let api = Api { sessions, settings: settings.clone(), workflow_config, connections: Connections::new(1) };
        Ok(Self { api, runtime, said: Cell::new(false) })
    }

    /// Lets parked runs that are answered go on, and scores answers.
    fn serve_what_waits(&self) {
        let (woken, children) = (self.api.sessions.clone(), self.api.sessions.clone());
        actix_web::rt::spawn(async move { recovery::wake_queue(&woken).await });
        actix_web::rt::spawn(async move { recovery::child_queue(&children).await });
    }

    /// Once, however many runs it starts.
    fn say_who_answers(&self) {
        if self.runtime.model.is_simulated() && !self.said.replace(true) {
            complain("note: the simulated model answers; set OPENAI_API_KEY or OPENAI_BASE_URL for a real one");
        }
    }

    /// Waits until the history file says what the store does.
    async fn close(&self) {
        until_exported(&self.api.sessions, EXPORT_PATIENCE).await;
    }
}
