//! All signatures, as people and programs see them.

use std::sync::Arc;

use serde_json::Value;

use super::form::schema_of;
use super::{Signature, signatures as s};

/// A signature without its types.
#[derive(Clone, Copy, Debug)]
pub struct SignatureInfo {
    /// Its name.
    pub name: &'static str,
    /// Its default instruction.
    pub instruction: &'static str,
    inputs: fn() -> Arc<Value>,
    output: fn() -> Arc<Value>,
}

/// A named input.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldInfo {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub description: String,
}

impl SignatureInfo {
    const fn of<S: Signature>() -> Self {
        Self {
            name: S::NAME,
            instruction: S::INSTRUCTION,
            inputs: schema_of::<S::Inputs>,
            output: schema_of::<S::Output>,
        }
    }

    /// Its named inputs, by name.
    #[must_use]
    pub fn inputs(&self) -> Vec<FieldInfo> {
        let schema = (self.inputs)();
        let fields = schema["properties"].as_object().into_iter().flatten();
        let field = |(name, field): (&String, &Value)| FieldInfo {
            name: name.clone(),
            description: field["description"].as_str().unwrap_or_default().to_owned(),
        };
        fields.map(field).collect()
    }

    /// The schema of its output, not narrowed to any call.
    #[must_use]
    pub fn output_schema(&self) -> Arc<Value> {
        (self.output)()
    }
}

const CATALOG: &[SignatureInfo] = &[
    SignatureInfo::of::<s::TaskAnalysis>(),
    SignatureInfo::of::<s::TaskRouting>(),
    SignatureInfo::of::<s::AnalysisAndRouting>(),
    SignatureInfo::of::<s::ProgressEvaluation>(),
    SignatureInfo::of::<s::QualityAssessment>(),
    SignatureInfo::of::<s::SimpleResponse>(),
    SignatureInfo::of::<s::GroupChatSpeakerSelection>(),
    SignatureInfo::of::<s::HandoffDecision>(),
    SignatureInfo::of::<s::HandoffProtocol>(),
    SignatureInfo::of::<s::WorkflowNarration>(),
    SignatureInfo::of::<s::IntentClassification>(),
    SignatureInfo::of::<s::EntityExtraction>(),
];

/// Every signature, in the order of the pipeline.
#[must_use]
pub fn catalog() -> &'static [SignatureInfo] {
    CATALOG
}
