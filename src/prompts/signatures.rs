//! What the fleet asks models: one signature per question, grouped by what it is about.
//!
//! A signature's type only names it; its inputs and its answer are types of their own.
//! Absent on purpose: questions that no workflow asks. `docs/decisions/0054` says which of them another one answers.

mod answers;
mod handoff;
mod judging;
mod language;
mod roster;
mod talk;
mod tasks;

pub use answers::{
    Narration, SimpleAnswer, SimpleResponse, SimpleResponseInputs, WorkflowNarration, WorkflowNarrationInputs,
};
pub use handoff::{
    Handoff, HandoffDecision, HandoffDecisionInputs, HandoffPackage, HandoffProtocol, HandoffProtocolInputs,
};
pub use judging::{
    Progress, ProgressAction, ProgressEvaluation, ProgressEvaluationInputs, Quality, QualityAssessment,
    QualityAssessmentInputs,
};
pub use language::{
    Entities, Entity, EntityExtraction, EntityExtractionInputs, Intent, IntentClassification,
    IntentClassificationInputs,
};
pub use roster::{AgentCard, ToolCard};
pub use talk::{GroupChatSpeakerSelection, GroupChatSpeakerSelectionInputs, Speaker, TERMINATE, Utterance};
pub use tasks::{
    Analysis, AnalysisAndRouting, AnalysisAndRoutingInputs, AnalysisWithRouting, Complexity, ExecutionMode, Level,
    Routing, Subtask, TaskAnalysis, TaskAnalysisInputs, TaskRouting, TaskRoutingInputs,
};
