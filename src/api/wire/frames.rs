//! What clients may send over a socket, parsed field by field so that every refusal names its field.
//!
//! First frames and version 2 frames may hold nothing unknown. Later version 1 frames may: existing clients add fields
//! of their own to them.

use std::str::FromStr;

use actix_web::http::StatusCode;
use fleet_actors::ids::{CheckpointId, ConversationId, RequestId, Seq, WorkflowId};
use fleet_actors::ports::{OnDisconnect, ReasoningEffort};
use serde_json::{Map, Value};

use super::Deltas;
use crate::api::error::{ApiError, FieldError};
use crate::api::start::NewRun;

/// The first frame of a version 1 socket.
#[derive(Clone, Debug)]
pub enum FirstFrame {
    /// A new run.
    Run(RunFrame),
    /// An earlier one goes on.
    Resume(ResumeFrame),
}

/// A new run, as a frame asks for it.
#[derive(Clone, Debug)]
pub struct RunFrame {
    /// The run.
    pub run: NewRun,
    /// Whether text is shown as it comes.
    pub deltas: Deltas,
    /// A checkpoint id stood beside the message; it is ignored, but the run's positions are listed.
    pub stray_checkpoint: bool,
}

/// An earlier run, as a frame asks for it.
#[derive(Clone, Debug)]
pub struct ResumeFrame {
    /// From where.
    pub checkpoint: CheckpointId,
    /// The conversation it must belong to.
    pub conversation: Option<ConversationId>,
    /// Whether text is shown as it comes.
    pub deltas: Deltas,
    /// The effort from here on.
    pub effort: Option<ReasoningEffort>,
    /// The events after this number.
    pub after: Seq,
}

/// A later frame of a version 1 socket.
#[derive(Clone, Debug, PartialEq)]
pub enum LaterFrame {
    /// Stop.
    Cancel,
    /// The answer to a question.
    Respond(RequestId, Value),
}

/// A frame of a version 2 socket.
#[derive(Clone, Debug)]
pub enum V2Frame {
    /// A new run, or the first one of its `client_message_id`.
    Send(Box<RunFrame>),
    /// Stop.
    Cancel(WorkflowId),
    /// The answer to a question.
    Respond(WorkflowId, RequestId, Value),
    /// An earlier run goes on, and is watched.
    Resume(Box<ResumeFrame>),
    /// A run is watched.
    Watch {
        /// Which.
        workflow: WorkflowId,
        /// The events after this number.
        after: Seq,
        /// Whether text is shown as it comes.
        deltas: Deltas,
    },
    /// A sign of life.
    Ping,
}

impl FirstFrame {
    /// Reads a first frame.
    ///
    /// # Errors
    /// [`ApiError`] `invalid_frame` that names the field.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text)?;
        match fields.text("type")?.as_deref() {
            None => {
                let frame = fields.run()?;
                fields.end()?;
                Ok(Self::Run(frame))
            }
            Some("workflow.resume") => {
                let frame = fields.resume()?;
                fields.end()?;
                Ok(Self::Resume(frame))
            }
            Some(other) => Err(wrong("type", format!("`{other}` cannot be the first frame"))),
        }
    }
}

impl LaterFrame {
    /// Reads a later frame.
    ///
    /// # Errors
    /// [`ApiError`] `invalid_frame` that names the field.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(text)?;
        match fields.text("type")?.as_deref() {
            Some("cancel") => Ok(Self::Cancel),
            Some("workflow.response" | "workflow_response" | "response") => {
                Ok(Self::Respond(fields.required("request_id")?, fields.any("response")?))
            }
            Some(other) => Err(wrong("type", format!("`{other}` is not one of cancel, workflow.response"))),
            None => Err(wrong("type", "is missing: one workflow a socket")),
        }
    }
}

impl V2Frame {
    /// Reads a frame; beside the failure stands the `client_message_id`, for the client to know which frame failed.
    ///
    /// # Errors
    /// [`ApiError`] `invalid_frame` that names the field.
    pub fn parse(text: &str) -> Result<Self, (ApiError, Option<String>)> {
        let mut fields = Fields::parse(text).map_err(|error| (error, None))?;
        let key = fields.0.get("client_message_id").and_then(Value::as_str).map(str::to_owned);
        fields.v2().and_then(|frame| fields.end().map(|()| frame)).map_err(|error| (error, key))
    }
}

fn wrong(field: &str, message: impl Into<String>) -> ApiError {
    let message = message.into();
    let mut error = ApiError::new(StatusCode::BAD_REQUEST, "invalid_frame", format!("{field}: {message}"));
    error.errors.push(FieldError { field: field.to_owned().into(), message });
    error
}

/// The fields of a frame; each is taken once, and what is left at the end is unknown.
struct Fields(Map<String, Value>);

impl Fields {
    fn parse(text: &str) -> Result<Self, ApiError> {
        match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_frame", "the frame is not a JSON object")),
            Err(error) => {
                let detail = format!("the frame is not JSON: {error}");
                Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_frame", detail))
            }
        }
    }

    /// The value of a field; null counts as absent.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }

    fn text(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(field, "must be a string")),
        }
    }

    fn flag(&mut self, field: &str) -> Result<Option<bool>, ApiError> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(wrong(field, "must be true or false")),
        }
    }

    fn any(&mut self, field: &str) -> Result<Value, ApiError> {
        self.0.remove(field).ok_or_else(|| wrong(field, "is missing"))
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &str) -> Result<Option<T>, ApiError> {
        let text = self.text(field)?;
        text.map(|text| text.parse().map_err(|error| wrong(field, format!("{error}")))).transpose()
    }

    fn required<T: FromStr<Err: std::fmt::Display>>(&mut self, field: &str) -> Result<T, ApiError> {
        self.parsed(field)?.ok_or_else(|| wrong(field, "is missing"))
    }

    fn deltas(&mut self) -> Result<Deltas, ApiError> {
        Ok(if self.flag("stream")?.unwrap_or(true) { Deltas::Shown } else { Deltas::Hidden })
    }

    fn effort(&mut self) -> Result<Option<ReasoningEffort>, ApiError> {
        self.text("reasoning_effort")?.map(|name| effort(&name)).transpose()
    }

    fn after(&mut self) -> Result<Seq, ApiError> {
        match self.take("after_seq") {
            None => Ok(Seq(0)),
            Some(value) => value.as_u64().map(Seq).ok_or_else(|| wrong("after_seq", "must be a whole number from 0")),
        }
    }

    fn run(&mut self) -> Result<RunFrame, ApiError> {
        let message = self.text("message")?.ok_or_else(|| wrong("message", "is missing"))?;
        let (conversation, effort) = (self.parsed("conversation_id")?, self.effort()?);
        let stray_checkpoint = self.text("checkpoint_id")?.is_some();
        let checkpointing = self.flag("enable_checkpointing")?;
        let checkpointing = if stray_checkpoint { Some(true) } else { checkpointing };
        let run = NewRun { message, conversation, effort, checkpointing, ..NewRun::default() };
        Ok(RunFrame { run, deltas: self.deltas()?, stray_checkpoint })
    }

    fn resume(&mut self) -> Result<ResumeFrame, ApiError> {
        Ok(ResumeFrame {
            checkpoint: self.required("checkpoint_id")?,
            conversation: self.parsed("conversation_id")?,
            deltas: self.deltas()?,
            effort: self.effort()?,
            after: Seq(0),
        })
    }

    fn v2(&mut self) -> Result<V2Frame, ApiError> {
        match self.text("type")?.as_deref() {
            Some("chat.send") => self.send().map(|frame| V2Frame::Send(Box::new(frame))),
            Some("chat.cancel") => Ok(V2Frame::Cancel(self.required("workflow_id")?)),
            Some("chat.respond") => {
                Ok(V2Frame::Respond(self.required("workflow_id")?, self.required("request_id")?, self.any("response")?))
            }
            Some("chat.resume") => self.resume_v2().map(|frame| V2Frame::Resume(Box::new(frame))),
            Some("chat.watch") => Ok(V2Frame::Watch {
                workflow: self.required("workflow_id")?,
                after: self.after()?,
                deltas: self.deltas()?,
            }),
            Some("ping") => Ok(V2Frame::Ping),
            Some(other) => Err(wrong("type", format!("`{other}` is no frame of fleet.v2"))),
            None => Err(wrong("type", "is missing")),
        }
    }

    fn send(&mut self) -> Result<RunFrame, ApiError> {
        let mut frame = self.run()?;
        frame.run.key = self.text("client_message_id")?;
        frame.run.mode = self.text("mode")?;
        frame.run.additional_context = self.take("additional_context");
        frame.run.on_disconnect = match self.text("on_disconnect")?.as_deref() {
            None => None,
            Some("cancel") => Some(OnDisconnect::Cancel),
            Some("continue") => Some(OnDisconnect::Continue),
            Some(other) => return Err(wrong("on_disconnect", format!("`{other}` is not one of cancel, continue"))),
        };
        Ok(frame)
    }

    fn resume_v2(&mut self) -> Result<ResumeFrame, ApiError> {
        let after = self.after()?;
        if let Some(workflow) = self.0.remove("workflow_id") {
            self.0.insert("checkpoint_id".to_owned(), workflow);
        }
        Ok(ResumeFrame { after, ..self.resume()? })
    }

    fn end(&self) -> Result<(), ApiError> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(mode) if mode == "mode" => Err(wrong(
                mode,
                "is not a field of this frame; `chat.send` of fleet.v2 has it, and so has POST /api/v1/run",
            )),
            Some(unknown) => Err(wrong(unknown, "is not a field of this frame")),
        }
    }
}

/// The effort of this name.
///
/// # Errors
/// [`ApiError`] that names the field `reasoning_effort`.
pub fn effort(name: &str) -> Result<ReasoningEffort, ApiError> {
    let all = [ReasoningEffort::Minimal, ReasoningEffort::Medium, ReasoningEffort::Maximal];
    all.into_iter()
        .find(|effort| effort.as_str() == name)
        .ok_or_else(|| wrong("reasoning_effort", format!("`{name}` is not one of minimal, medium, maximal")))
}
