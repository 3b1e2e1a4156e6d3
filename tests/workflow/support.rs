//! A fleet of five, a model that answers by what it is asked, three tools.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentic_fleet::agents::{Agent, Roster};
use agentic_fleet::workflow::{FleetWorkflows, PipelineRules, SUPERVISOR_VERSION, SUPERVISOR_WORKFLOW, WorkflowConfig};
use fleet_actors::event::Failure;
use fleet_actors::ports::{
    Access, EffectPolicy, ModelCall, ModelReply, OutputForm, Role, ToolCall, ToolOffer, ToolOutput, ToolRequest,
    ToolSpec, WorkflowFn, Workflows as _,
};
use fleet_actors::testing::script::{Ran, Reply, Script};
use serde_json::{Value, json};

pub const TASK: &str = "Compare X and Y and write a one-page brief";

/// What a model is asked, in a test's terms.
pub struct Asked<'a> {
    pub call: &'a ModelCall,
    /// The signature, empty for an agent's own call.
    pub name: &'a str,
    pub agent: &'a str,
    /// The last thing a user said in it.
    pub text: String,
    /// Results of tools that it holds.
    pub results: Vec<String>,
}

impl<'a> Asked<'a> {
    pub fn of(call: &'a ModelCall) -> Self {
        let name = match &call.request.output {
            OutputForm::Json { name, .. } => name.as_str(),
            OutputForm::Text => "",
        };
        let messages = call.request.context.messages();
        let text = messages.iter().rev().find(|message| message.role == Role::User);
        let results = messages.iter().filter(|message| message.role == Role::Tool);
        Self {
            call,
            name,
            agent: call.request.agent.as_deref().unwrap_or_default(),
            text: text.map(|message| message.content.clone()).unwrap_or_default(),
            results: results.map(|message| message.content.clone()).collect(),
        }
    }

    /// Whether any message of it has this text.
    pub fn holds(&self, text: &str) -> bool {
        self.call.request.context.messages().iter().any(|message| message.content.contains(text))
    }

    pub fn offers(&self, tool: &str) -> bool {
        self.call.request.tools.iter().any(|spec| spec.name == tool)
    }

    /// What a sensible fleet would answer; `routing` is the plan.
    pub fn sensible(&self, routing: &Value) -> Reply {
        match self.name {
            "TaskAnalysis" => analysis().to_string().into(),
            "TaskRouting" => routing.to_string().into(),
            "AnalysisAndRouting" => json!({ "analysis": analysis(), "routing": routing }).to_string().into(),
            "ProgressEvaluation" => progress("complete", "").into(),
            "QualityAssessment" => quality(8.0).into(),
            "HandoffProtocol" => json!({
                "work_completed": "the facts", "artifacts": ["https://x.example"],
                "remaining_objectives": ["write"], "success_criteria": ["one page"], "checklist": ["sources"]
            })
            .to_string()
            .into(),
            "GroupChatSpeakerSelection" => speaker(&self.text).into(),
            "WorkflowNarration" => r#"{"narrative":"The team worked and answered."}"#.into(),
            "" => format!("{} says its part.", self.agent).into(),
            other => panic!("nobody expected {other}"),
        }
    }
}

fn analysis() -> Value {
    json!({
        "complexity": "medium", "required_capabilities": ["research"], "estimated_steps": 3, "preferred_tools": [],
        "needs_web_search": true, "search_query": "X Y", "urgency": "medium", "intent": "compare_things",
        "intent_confidence": 0.9, "reasoning": "two things to compare"
    })
}

pub fn progress(action: &str, feedback: &str) -> String {
    json!({ "action": action, "feedback": feedback, "reasoning": "looked at it" }).to_string()
}

pub fn quality(score: f64) -> String {
    let missing: &[&str] = if score < 7.0 { &["the price of Y"] } else { &[] };
    json!({ "score": score, "missing_elements": missing, "required_improvements": [], "reasoning": "read it" })
        .to_string()
}

/// First the analyst, then the reviewer, then it is over.
fn speaker(asked: &str) -> String {
    let next = match (asked.contains("analyst says"), asked.contains("reviewer says")) {
        (false, _) => "analyst",
        (true, false) => "reviewer",
        (true, true) => "TERMINATE",
    };
    json!({ "next_speaker": next, "reasoning": "it is their field" }).to_string()
}

pub fn routing(mode: &str, parts: &[(&str, &str)]) -> Value {
    let agents: Vec<&str> = parts.iter().map(|(agent, _)| *agent).collect();
    let subtasks: Vec<Value> = parts.iter().map(|(agent, task)| json!({ "agent": agent, "task": task })).collect();
    json!({
        "assigned_to": agents, "execution_mode": mode, "subtasks": subtasks, "tool_requirements": [], "tool_plan": [],
        "tool_goals": "", "latency_budget": "medium", "handoff_strategy": "", "reasoning": "they can"
    })
}

/// The plan that the tests of a mode follow.
pub fn plan(mode: &str) -> Value {
    match mode {
        "delegated" => routing(mode, &[("researcher", "Find out all about X and Y")]),
        "discussion" => routing(mode, &[("analyst", "Argue"), ("reviewer", "Object")]),
        "handoff" => routing(mode, &[("researcher", "Find out"), ("writer", "Write it up")]),
        _ => routing(mode, &[("researcher", "Find out"), ("analyst", "Compare"), ("writer", "Write it up")]),
    }
}

pub const MODES: [&str; 5] = ["delegated", "sequential", "parallel", "handoff", "discussion"];

pub fn config() -> WorkflowConfig {
    let mut config = WorkflowConfig::of_one(Agent::new("assistant", "m", "You assist."));
    let mut agents: Vec<Agent> = ["assistant", "researcher", "analyst", "writer", "reviewer"]
        .map(|name| Agent::new(name, "m", format!("You are the {name}.")))
        .into();
    agents[1].tools = ["search", "python", "forbidden"].map(str::to_owned).into();
    agents[1].timeout_ms = 20_000;
    config.roster = Roster::from_iter(agents);
    config.pipeline = PipelineRules {
        analysis: true,
        routing: true,
        progress: true,
        quality: true,
        quality_in_background: false,
        refinement: true,
        synthesis_agent: "writer".to_owned(),
        ..PipelineRules::none("assistant")
    };
    config
}

pub fn offer(name: &str, access: Access) -> ToolOffer {
    ToolOffer {
        spec: ToolSpec {
            name: name.to_owned(),
            description: format!("what {name} does"),
            parameters: json!({ "type": "object" }),
        }
        .into(),
        effect: if access == Access::Allow { EffectPolicy::SafeToRepeat } else { EffectPolicy::SameKey },
        access,
        source: "builtin".into(),
        schema_digest: format!("digest of {name}").as_str().into(),
        unavailable: None,
    }
}

pub fn offers() -> Vec<ToolOffer> {
    vec![offer("search", Access::Allow), offer("python", Access::Ask), offer("forbidden", Access::Deny)]
}

pub fn wants(calls: &[(&str, Value)]) -> Reply {
    let call = |(n, (name, arguments)): (usize, &(&str, Value))| ToolRequest {
        id: format!("call_{n}"),
        name: (*name).to_owned(),
        arguments: arguments.clone(),
    };
    let tool_calls = calls.iter().enumerate().map(call).collect();
    ModelReply { tool_calls, ..ModelReply::default() }.into()
}

pub fn supervisor() -> WorkflowFn {
    FleetWorkflows.find(SUPERVISOR_WORKFLOW, SUPERVISOR_VERSION).unwrap()
}

pub fn script(config: &WorkflowConfig) -> Script {
    Script::new(supervisor(), TASK, serde_json::to_value(config).unwrap()).tools(
        offers(),
        Duration::from_millis(5),
        |call| Ok(ToolOutput::text(result_of(call))),
    )
}

pub fn result_of(call: &ToolCall) -> String {
    format!("{} gave a result for {}", call.name, call.arguments)
}

/// A run of `mode` in which everybody behaves; the researcher searches, and runs code that a person approves.
pub fn with_tools(mode: &'static str, config: &WorkflowConfig) -> Script {
    script(config)
        .model(move |call| {
            let asked = Asked::of(call);
            match (asked.name, asked.agent, asked.results.len()) {
                ("", "researcher", 0) if asked.offers("search") => {
                    wants(&[("search", json!({ "query": "X Y" })), ("python", json!({ "code": "1 + 1" }))])
                }
                ("", "researcher", 2) if mode == "handoff" && asked.offers("handoff") => wants(&[(
                    "handoff",
                    json!({ "to_agent": "writer", "reason": "facts are there", "work_completed": "X is 1, Y is 2" }),
                )]),
                ("", "analyst", 0) if mode == "discussion" && asked.offers("search") => {
                    wants(&[("search", json!({ "query": "X Y" })), ("python", json!({ "code": "1 + 1" }))])
                }
                _ => asked.sensible(&plan(mode)),
            }
        })
        .human(|_| Some(json!({ "decision": "approve" })))
}

/// The configuration for [`with_tools`]: in a discussion the analyst has the tools.
pub fn config_with_tools() -> WorkflowConfig {
    let mut config = config();
    config.roster = config
        .roster
        .iter()
        .cloned()
        .map(|mut agent| {
            if agent.name == "analyst" {
                agent.tools = vec!["search".to_owned(), "python".to_owned()];
            }
            agent
        })
        .collect();
    config
}

/// What the run told with this field.
pub fn told<'a>(ran: &'a Ran, field: &str) -> Vec<&'a str> {
    let data = ran.emitted().filter_map(|event| event.get("data"));
    data.filter_map(|data| data.get(field)?.as_str()).collect()
}

pub fn down(code: &str) -> Reply {
    Failure::new(code, "it is down").into()
}

/// What this thread logs, as text for people.
pub struct Log {
    lines: Arc<Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Log {
    pub fn capture() -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Sink(lines.clone());
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || sink.clone()).finish();
        Self { lines, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.lines.lock().unwrap().clone()).unwrap()
    }
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
