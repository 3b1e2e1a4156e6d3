//! Why a command did not do what it was asked: one line for people, and the exit code that says so to programs.
//!
//! The same mistake has the same code whether the command worked on the data directory or asked a server.

use fleet_actors::ports::StoreError;

use crate::api::error::ApiError;
use crate::runtime::RuntimeError;
use crate::storage::LockError;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// What was typed, or is set, is wrong: 2.
    #[error("{0}")]
    Usage(String),
    /// It could not be done: 1.
    #[error("{0}")]
    Failed(String),
    /// There is nothing to do it with: what [`RuntimeError::exit_code`] says.
    #[error("{0}")]
    Start(String, i32),
}

impl CommandError {
    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::Start(_, code) => *code,
        }
    }

    /// The same, saying which of the things that were named it is about.
    pub fn about(self, id: &impl std::fmt::Display) -> Self {
        match self {
            Self::Usage(text) => Self::Usage(format!("{id}: {text}")),
            Self::Failed(text) => Self::Failed(format!("{id}: {text}")),
            start @ Self::Start(..) => start,
        }
    }
}

/// What a status, a code, a text and a time to wait say, be they from this process or a server.
pub(super) fn told(status: u16, code: &str, detail: &str, retry_after_s: Option<u64>) -> CommandError {
    let retry = retry_after_s.map(|seconds| format!(" (try again in {seconds} s)")).unwrap_or_default();
    match status {
        422 => CommandError::Usage(detail.to_owned()),
        _ => CommandError::Failed(format!("{code}: {detail}{retry}")),
    }
}

impl From<ApiError> for CommandError {
    fn from(error: ApiError) -> Self {
        told(error.status.as_u16(), &error.code, &error.detail, error.retry_after_s)
    }
}

impl From<StoreError> for CommandError {
    fn from(error: StoreError) -> Self {
        ApiError::from(error).into()
    }
}

impl From<RuntimeError> for CommandError {
    fn from(error: RuntimeError) -> Self {
        let mut text = error.to_string();
        if let RuntimeError::Lock(LockError::Held { address, .. }) = &error
            && address.starts_with("http")
        {
            text.push_str("; to go through it: --server ");
            text.push_str(address);
        }
        Self::Start(text, error.exit_code())
    }
}
