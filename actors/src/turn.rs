//! What a workflow sees of the world.

use crate::event::Failure;

/// What a step gives.
pub type StepResult<T> = Result<T, Failure>;

/// One run as its workflow sees it.
pub struct Turn {}
