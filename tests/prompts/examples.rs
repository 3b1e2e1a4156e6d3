//! Inputs of every signature, as a run would have them.

use agentic_fleet::prompts::signatures::*;

pub fn agents() -> Vec<AgentCard> {
    let card = |name: &str, description: &str, tools: &[&str]| AgentCard {
        name: name.to_owned(),
        description: description.to_owned(),
        tools: tools.iter().map(|tool| (*tool).to_owned()).collect(),
    };
    vec![
        card("researcher", "Finds and reads sources", &["tavily_search", "fetch_page"]),
        card("analyst", "Compares, calculates, concludes", &["python"]),
        card("writer", "Writes for people", &[]),
    ]
}

pub fn tools() -> Vec<ToolCard> {
    vec![
        ToolCard { name: "tavily_search".into(), description: "Searches the web".into() },
        ToolCard { name: "python".into(), description: "Runs Python".into() },
    ]
}

const TASK: &str = "Compare Postgres and SQLite and write a one-page brief";

pub fn analysis() -> TaskAnalysisInputs {
    TaskAnalysisInputs { task: TASK.into(), context: String::new(), tools: tools() }
}

pub fn routing() -> TaskRoutingInputs {
    let analysis = Analysis {
        complexity: Complexity::Medium,
        required_capabilities: vec!["databases".into(), "writing".into()],
        estimated_steps: 3,
        preferred_tools: vec!["tavily_search".into()],
        needs_web_search: true,
        search_query: Some("postgres sqlite comparison".into()),
        urgency: Level::Medium,
        intent: Some("compare_systems".into()),
        intent_confidence: Some(0.9),
        reasoning: "two systems".into(),
    };
    TaskRoutingInputs {
        task: TASK.into(),
        context: "user: hi\nassistant: hello".into(),
        analysis,
        agents: agents(),
        demanded_mode: None,
    }
}

pub fn merged() -> AnalysisAndRoutingInputs {
    AnalysisAndRoutingInputs {
        task: TASK.into(),
        context: String::new(),
        agents: agents(),
        tools: tools(),
        demanded_mode: Some(ExecutionMode::Parallel),
    }
}

pub fn progress() -> ProgressEvaluationInputs {
    ProgressEvaluationInputs { task: TASK.into(), result: "SQLite is a file.".into(), round: 1, rounds_max: 3 }
}

pub fn quality() -> QualityAssessmentInputs {
    QualityAssessmentInputs { task: TASK.into(), context: String::new(), answer: "SQLite is a file.".into() }
}

pub fn simple() -> SimpleResponseInputs {
    SimpleResponseInputs { task: "What is 2+2?".into(), context: String::new() }
}

pub fn speaker() -> GroupChatSpeakerSelectionInputs {
    let said = |speaker: &str, text: &str| Utterance { speaker: speaker.into(), text: text.into() };
    GroupChatSpeakerSelectionInputs {
        task: TASK.into(),
        agents: agents(),
        discussion: vec![said("researcher", "Both are free."), said("analyst", "But they scale otherwise.")],
        rounds_left: 4,
    }
}

pub fn handoff() -> HandoffDecisionInputs {
    HandoffDecisionInputs { agents: agents().split_off(1) }
}

pub fn package() -> HandoffProtocolInputs {
    HandoffProtocolInputs {
        task: TASK.into(),
        from_agent: "researcher".into(),
        to_agent: "writer".into(),
        next_task: "Write the brief".into(),
        work: "Sources are read: https://sqlite.org/whentouse.html".into(),
    }
}

pub fn narration() -> WorkflowNarrationInputs {
    WorkflowNarrationInputs {
        task: TASK.into(),
        events: vec!["researcher searched the web".into(), "writer wrote the brief".into()],
        outcome: "completed".into(),
    }
}

pub fn intent() -> IntentClassificationInputs {
    IntentClassificationInputs {
        text: "My invoice is wrong, can you fix it?".into(),
        possible_intents: vec!["complaint".into(), "question".into()],
    }
}

pub fn entities() -> EntityExtractionInputs {
    EntityExtractionInputs {
        text: "Ada Lovelace met Babbage in London".into(),
        entity_types: vec!["person".into(), "location".into()],
    }
}
