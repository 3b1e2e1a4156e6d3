//! The span of a life: what it says of its run, and how it ends.
//!
//! It ends before the end of the run can be seen, so who flushes after that has it.

use std::rc::Rc;

use super::{Life, LifeEnd};
use crate::event::{Failure, RunOutcome};
use crate::ids::{Epoch, WorkflowId};
use crate::ports::{NewWorkflow, Next, Role, RunOutput, TaskInput};
use crate::trace::{OpenSpan, messages};
use crate::turn::RunPorts;

/// Begins the span of a life.
pub(super) fn begin(
    ports: &RunPorts,
    workflow: &WorkflowId,
    made: &NewWorkflow,
    epoch: Epoch,
    input: &TaskInput,
) -> Option<Rc<OpenSpan>> {
    // Whoever starts a child is no client: its trace is its parent's.
    let of = made.child_of.as_ref().unwrap_or(workflow);
    let name = format!("invoke_workflow {}", made.name);
    let span = OpenSpan::life(ports.tracer.as_ref(), &ports.clock, of, input.traceparent.as_ref(), name)?;
    span.set("gen_ai.operation.name", "invoke_workflow");
    span.set("gen_ai.workflow.name", &*made.name);
    span.set("fleet.workflow.id", workflow.as_str());
    span.set("fleet.workflow.version", made.version);
    span.set("fleet.life", epoch.0);
    span.set("gen_ai.conversation.id", made.conversation.as_ref().map(|id| id.as_str()));
    span.set_text("gen_ai.input.messages", || messages([(Role::User, input.message.as_str())]));
    Some(span)
}

impl Life {
    /// Ends the span as the last append of the life says.
    pub(super) fn end_span(&self) {
        if let Some((span, closing)) = self.span.as_ref().zip(self.closing.as_ref()) {
            let failure = match &closing.next {
                Next::Ended(history) => history.error.as_ref(),
                Next::Running | Next::Parked { .. } | Next::Resting(_) => None,
            };
            end(span, &closing.end, failure);
        }
    }

    /// What the run said at its end.
    pub(super) fn say_output(&self, output: Option<&RunOutput>) {
        let Some(span) = &self.span else { return };
        if let Some(output) = output {
            span.set("fleet.mode", output.metadata.get("mode").cloned().unwrap_or_default());
            span.set_text("gen_ai.output.messages", || messages([(Role::Assistant, output.text.as_str())]));
        }
    }
}

/// Ends the span of a life as the life ended. A second end changes nothing.
pub(super) fn end(span: &OpenSpan, end: &LifeEnd, failure: Option<&Failure>) {
    let fails = |code: &str| span.end(code, Some(&Failure::new(code, "")));
    match end {
        LifeEnd::Ended(RunOutcome::Completed) => span.end(RunOutcome::Completed.as_str(), None),
        LifeEnd::Ended(outcome) => span.end(outcome.as_str(), failure),
        LifeEnd::Parked => span.end("parked", None),
        LifeEnd::Drained => span.end("drained", None),
        LifeEnd::Rested(rest, _) => fails(rest.code()),
        LifeEnd::Fenced => fails("fenced"),
        LifeEnd::Panicked(_) => fails("panicked"),
        // There was no life: the key has another run.
        LifeEnd::Duplicate => span.forget(),
    }
}
