//! What a task needs, and who does it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::language::check_confidence;
use super::roster::{self, AgentCard, ToolCard};
use crate::prompts::{Choices, Signature, Unsaid};

/// Of an analysis and of a routing. A subtask that names no agent is for the first who has none.
const UNSAID: Unsaid =
    &[("urgency", "medium"), ("latency_budget", "medium"), ("tool_goals", ""), ("handoff_strategy", ""), ("agent", "")];

/// What does the task need?
pub struct TaskAnalysis;

/// What an analysis looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct TaskAnalysisInputs {
    /// What the user asked for.
    pub task: String,
    /// The conversation before it, oldest first; empty in a first turn.
    pub context: String,
    /// The tools that exist in this installation.
    pub tools: Vec<ToolCard>,
}

/// How much work a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Complexity {
    /// One competent answer, from one skill.
    Low,
    /// A few steps, or two skills.
    #[default]
    Medium,
    /// Many steps that depend on each other, or several skills.
    High,
}

/// How much of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Little.
    Low,
    /// The usual.
    #[default]
    Medium,
    /// Much.
    High,
}

/// What a task needs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Analysis {
    /// How much work it is.
    pub complexity: Complexity,
    /// Skills it takes, as short nouns, such as "web research" or "python"; only those it really takes.
    #[schemars(length(max = 12))]
    pub required_capabilities: Vec<String>,
    /// How many steps a competent person would take, 1 to 30.
    #[schemars(range(min = 1, max = 30))]
    pub estimated_steps: u32,
    /// Names of tools that would help, the most useful first; empty when none does.
    #[schemars(length(max = 12))]
    pub preferred_tools: Vec<String>,
    /// Whether a good answer depends on facts that are recent, local or easily wrong from memory.
    pub needs_web_search: bool,
    /// What to type into a search engine, when a search is needed.
    pub search_query: Option<String>,
    /// How soon the user needs it, by their own words.
    pub urgency: Level,
    /// What the user wants to happen, one or two lower-case words in snake case, a verb first.
    pub intent: Option<String>,
    /// How sure that is, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub intent_confidence: Option<f64>,
    /// Why, in at most three sentences.
    pub reasoning: String,
}

impl Signature for TaskAnalysis {
    const NAME: &'static str = "TaskAnalysis";
    const INSTRUCTION: &'static str = "\
You are the analyst of a team of AI agents. Say what the task needs, so that the right agents and tools can be chosen. \
Do not do the task.

Read the task as its author means it; the context says what words like \"it\" or \"the second one\" stand for.
- complexity: low when one competent answer settles it, high only when several skills or many dependent steps are needed. \
A long message is not a complex one.
- required_capabilities: what somebody must be able to do. Two that are needed beat six that might help.
- preferred_tools: only names from the tools input. None, when the task can be done by thinking and writing.
- needs_web_search: true for news, prices, versions, laws, schedules, living people and sources that must be cited; false \
for arithmetic, code, definitions, translation and work on text that was given. When true, search_query holds the key terms \
alone, without filler, in the language in which the best sources are written.
- urgency: medium unless the user says otherwise.";
    const UNSAID: Unsaid = UNSAID;
    type Inputs = TaskAnalysisInputs;
    type Output = Analysis;

    fn choices(inputs: &Self::Inputs) -> Choices<'_> {
        Choices::default().only("/properties/preferred_tools/items", roster::tool_names(&inputs.tools))
    }

    fn check(output: &Self::Output, _inputs: &Self::Inputs) -> Result<(), String> {
        check_analysis(output)
    }
}

fn check_analysis(analysis: &Analysis) -> Result<(), String> {
    if let Some(confidence) = analysis.intent_confidence {
        check_confidence("intent_confidence", confidence)?;
    }
    match analysis.estimated_steps {
        1..=30 => Ok(()),
        steps => Err(format!("estimated_steps must be 1 to 30, not {steps}")),
    }
}

/// Who does the task, and how?
pub struct TaskRouting;

/// What a routing looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct TaskRoutingInputs {
    /// What the user asked for.
    pub task: String,
    /// The conversation before it, oldest first; empty in a first turn.
    pub context: String,
    /// What the task needs.
    pub analysis: Analysis,
    /// The agents to choose from.
    pub agents: Vec<AgentCard>,
    /// The mode that the user demands, if any.
    pub demanded_mode: Option<ExecutionMode>,
}

/// How agents work together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecutionMode {
    /// One agent does it all.
    #[default]
    Delegated,
    /// Agents in the order given; each works on what the one before it made.
    Sequential,
    /// Agents work at the same time on independent subtasks; their results are merged.
    Parallel,
    /// The first agent begins and passes control on when it sees who should go on.
    Handoff,
    /// The agents talk with each other until they agree.
    Discussion,
}

impl ExecutionMode {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delegated => "delegated",
            Self::Sequential => "sequential",
            Self::Parallel => "parallel",
            Self::Handoff => "handoff",
            Self::Discussion => "discussion",
        }
    }
}

/// One agent's part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subtask {
    /// The agent that does it.
    pub agent: String,
    /// What it is to do and to hand in, understandable without the rest of the plan.
    pub task: String,
}

/// Who does a task, and how.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Routing {
    /// Names of the agents, in the order they act; as few as can do it well.
    #[schemars(length(min = 1, max = 12))]
    pub assigned_to: Vec<String>,
    /// How they work together.
    pub execution_mode: ExecutionMode,
    /// What each assigned agent does; one entry an agent.
    #[schemars(length(max = 12))]
    pub subtasks: Vec<Subtask>,
    /// Names of tools without which the task cannot be done.
    #[schemars(length(max = 12))]
    pub tool_requirements: Vec<String>,
    /// Names of tools in the order of their use.
    #[schemars(length(max = 12))]
    pub tool_plan: Vec<String>,
    /// What the tools are to bring, in one sentence; empty without tools.
    pub tool_goals: String,
    /// How long the user will gladly wait: low means seconds.
    pub latency_budget: Level,
    /// What is handed from agent to agent and when, in one sentence; empty for one agent.
    pub handoff_strategy: String,
    /// Why these agents and this mode, in at most three sentences.
    pub reasoning: String,
}

impl Signature for TaskRouting {
    const NAME: &'static str = "TaskRouting";
    const INSTRUCTION: &'static str = "\
You lead a team of AI agents. Decide who does the task and how they work together. Do not do the task yourself.

- assigned_to: names from the agents input and no others, the fewest that can do it well. One good agent beats two; each more \
costs the user time and money. An agent whose work nobody will use is not assigned.
- execution_mode: delegated for one agent. Sequential when one needs what another makes (research, then writing, then review). \
Parallel only when the parts are independent and can be merged (two companies to compare, three documents to read). Handoff \
when only the work itself will show who should go on. Discussion when different views must be weighed against each other. A \
demanded mode is followed.
- subtasks: one for each assigned agent. Each says what to do, with which material, and what to hand in, so that its agent \
needs to see nothing else; together they cover the whole task, and no two do the same.
- tool_requirements and tool_plan: only tools that the assigned agents have. Empty when thinking and writing are enough.
- latency_budget: low for a quick question, high only when thoroughness was asked for.

The analysis is advice: where it is wrong about the task, follow the task.";
    const UNSAID: Unsaid = UNSAID;
    type Inputs = TaskRoutingInputs;
    type Output = Routing;

    fn choices(inputs: &Self::Inputs) -> Choices<'_> {
        routing_choices(Choices::default(), "", &inputs.agents, inputs.demanded_mode)
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        check_routing(output, &inputs.agents)
    }
}

fn routing_choices<'a>(
    mut choices: Choices<'a>,
    at: &str,
    agents: &'a [AgentCard],
    mode: Option<ExecutionMode>,
) -> Choices<'a> {
    for pointer in ["assigned_to/items", "subtasks/items/properties/agent"] {
        choices = choices.only(format!("{at}/properties/{pointer}"), roster::names(agents));
    }
    let mut tools: Vec<&str> = agents.iter().flat_map(|agent| &agent.tools).map(String::as_str).collect();
    tools.sort_unstable();
    tools.dedup();
    for field in ["tool_requirements", "tool_plan"] {
        choices = choices.only(format!("{at}/properties/{field}/items"), tools.iter().copied());
    }
    choices.only(format!("{at}/properties/execution_mode"), mode.map(ExecutionMode::as_str))
}

/// One agent that exists is enough: the pipeline drops the others, which costs the user no second call.
fn check_routing(routing: &Routing, agents: &[AgentCard]) -> Result<(), String> {
    match routing.assigned_to.first() {
        None => Err("assigned_to is empty; assign at least one agent".to_owned()),
        Some(first) if !routing.assigned_to.iter().any(|name| roster::known(agents, name)) => {
            Err(roster::unknown(agents, first))
        }
        Some(_) => Ok(()),
    }
}

/// What does the task need, and who does it? Two questions in one call.
pub struct AnalysisAndRouting;

/// What an analysis with a routing looks at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct AnalysisAndRoutingInputs {
    /// What the user asked for.
    pub task: String,
    /// The conversation before it, oldest first; empty in a first turn.
    pub context: String,
    /// The agents to choose from.
    pub agents: Vec<AgentCard>,
    /// The tools that exist in this installation.
    pub tools: Vec<ToolCard>,
    /// The mode that the user demands, if any.
    pub demanded_mode: Option<ExecutionMode>,
}

/// What a task needs, and who does it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnalysisWithRouting {
    /// What the task needs.
    pub analysis: Analysis,
    /// Who does it, and how.
    pub routing: Routing,
}

impl Signature for AnalysisAndRouting {
    const NAME: &'static str = "AnalysisAndRouting";
    const INSTRUCTION: &'static str = "\
You lead a team of AI agents. First say what the task needs, then decide who does it and how they work together. Do not do \
the task yourself. Read the task as its author means it; the context says what words like \"it\" stand for.

The analysis:
- complexity: low when one competent answer settles it, high only when several skills or many dependent steps are needed.
- required_capabilities: what somebody must be able to do, and nothing that only might help.
- needs_web_search: true for news, prices, versions, laws, living people and sources that must be cited; false for \
arithmetic, code, definitions and work on text that was given. When true, search_query holds the key terms alone.

The routing follows from it:
- assigned_to: names from the agents input and no others, the fewest that can do it well. One good agent beats two; each more \
costs the user time and money.
- execution_mode: delegated for one agent. Sequential when one needs what another makes. Parallel only when the parts are \
independent and can be merged. Handoff when only the work itself will show who should go on. Discussion when different views \
must be weighed against each other. A demanded mode is followed.
- subtasks: one for each assigned agent. Each says what to do, with which material, and what to hand in, so that its agent \
needs to see nothing else; together they cover the whole task, and no two do the same.
- tool_requirements and tool_plan: only tools that the assigned agents have. Empty when thinking and writing are enough.";
    const UNSAID: Unsaid = UNSAID;
    type Inputs = AnalysisAndRoutingInputs;
    type Output = AnalysisWithRouting;

    fn choices(inputs: &Self::Inputs) -> Choices<'_> {
        let tools = "/properties/analysis/properties/preferred_tools/items";
        let choices = Choices::default().only(tools, roster::tool_names(&inputs.tools));
        routing_choices(choices, "/properties/routing", &inputs.agents, inputs.demanded_mode)
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        check_analysis(&output.analysis)?;
        check_routing(&output.routing, &inputs.agents)
    }
}
