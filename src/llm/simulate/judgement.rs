//! Answers to questions that a pipeline decides by: a filled schema alone would route at random and never be content.
//!
//! Known by the schema's name and its properties, and by nothing else of ours: what is asked about stands between tags in
//! a user's message, as `<task>...</task>`. A value is laid over the filled schema only where the schema has the property
//! and allows the value.
//! Absent on purpose: understanding. Words decide, and equal questions get equal answers.

use serde_json::{Map, Value, json};

use super::fill::fill;

/// Whether schemas of this name get judgement.
pub(super) fn knows(name: &str) -> bool {
    overlay_of(name).is_some()
}

/// An answer to the question `name`, whose inputs stand in `text`.
pub(super) fn judge(name: &str, schema: &Value, text: &str, rng: &mut fastrand::Rng) -> Option<Value> {
    let overlay = overlay_of(name)?;
    let asked = Asked::new(text);
    let mut answer = fill(schema, asked.topic, rng);
    lay(&mut answer, schema, overlay(&asked, schema, rng));
    Some(answer)
}

type Overlay = fn(&Asked<'_>, &Value, &mut fastrand::Rng) -> Value;

fn overlay_of(name: &str) -> Option<Overlay> {
    Some(match name {
        "TaskAnalysis" => |asked, schema, _| analysis(asked, schema),
        "TaskRouting" => |asked, schema, _| routing(asked, schema),
        "AnalysisAndRouting" => |asked, schema, _| {
            let part = |name: &str| schema["properties"].get(name).unwrap_or(&Value::Null);
            json!({ "analysis": analysis(asked, part("analysis")), "routing": routing(asked, part("routing")) })
        },
        "ProgressEvaluation" => |asked, _, _| progress(asked),
        "QualityAssessment" => |asked, _, rng| quality(asked, rng),
        "GroupChatSpeakerSelection" => |asked, schema, _| speaker(asked, schema),
        "HandoffProtocol" => |asked, _, _| package(asked),
        "WorkflowNarration" => |asked, _, _| narration(asked),
        "IntentClassification" => |asked, schema, rng| intent(asked, schema, rng),
        "EntityExtraction" => |asked, schema, _| entities(asked, schema),
        _ => return None,
    })
}

/// What is asked about.
struct Asked<'a> {
    text: &'a str,
    topic: &'a str,
    /// The topic's, in lower case.
    words: Vec<String>,
}

impl<'a> Asked<'a> {
    fn new(text: &'a str) -> Self {
        let mut asked = Self { text, topic: text, words: Vec::new() };
        let topic = ["task", "text"].map(|name| asked.tag(name)).into_iter().find(|topic| !topic.is_empty());
        asked.topic = topic.unwrap_or(text);
        let words = asked.topic.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        asked.words = words.map(str::to_lowercase).collect();
        asked
    }

    /// What stands between the tags `name`.
    fn tag(&self, name: &str) -> &'a str {
        let inside = self.text.split_once(&format!("<{name}>")).map(|(_, rest)| rest);
        let inside = inside.and_then(|rest| rest.split_once(&format!("</{name}>")));
        inside.map_or("", |(inside, _)| inside.trim())
    }

    /// Whether the topic has a word that begins with one of these.
    fn mentions(&self, words: &[&str]) -> bool {
        self.words.iter().any(|said| words.iter().any(|word| said.starts_with(word)))
    }
}

/// A skill, the words that ask for it, who has it.
const SKILLS: [(&str, &[&str], &str); 7] = [
    (
        "web research",
        &["search", "research", "find", "latest", "news", "current", "price", "source", "compar", "today"],
        "researcher",
    ),
    ("analysis", &["compar", "analy", "evaluat", "calculat", "data", "trend", "assess"], "analyst"),
    ("planning", &["plan", "roadmap", "schedule", "strategy"], "planner"),
    (
        "programming",
        &["code", "python", "javascript", "rust", "script", "bug", "function", "program", "implement"],
        "coder",
    ),
    ("documentation", &["document", "manual", "readme"], "documentation"),
    (
        "writing",
        &["write", "brief", "report", "essay", "blog", "email", "draft", "article", "summar", "poem"],
        "writer",
    ),
    ("review", &["review", "check", "critique", "proofread", "verify"], "reviewer"),
];

fn skills(asked: &Asked<'_>) -> Vec<(&'static str, &'static str)> {
    SKILLS.iter().filter(|(_, words, _)| asked.mentions(words)).map(|(skill, _, agent)| (*skill, *agent)).collect()
}

fn needs_search(asked: &Asked<'_>) -> bool {
    asked.mentions(SKILLS[0].1)
}

fn analysis(asked: &Asked<'_>, schema: &Value) -> Value {
    let skills: Vec<&str> = skills(asked).into_iter().map(|(skill, _)| skill).collect();
    let words = asked.topic.split_whitespace().count();
    let complexity = match (skills.len(), words) {
        (0 | 1, 0..=24) => "low",
        (0..=2, 0..=80) => "medium",
        _ => "high",
    };
    let needs_search = needs_search(asked);
    let query = asked.topic.split_whitespace().take(8).collect::<Vec<_>>().join(" ");
    let tools = allowed(&property(schema, "preferred_tools")["items"]);
    json!({
        "complexity": complexity,
        "estimated_steps": skills.len().max(1),
        "required_capabilities": if skills.is_empty() { vec!["general knowledge"] } else { skills },
        "preferred_tools": helpful(asked, &tools),
        "needs_web_search": needs_search,
        "search_query": needs_search.then_some(query),
        "urgency": if asked.mentions(&["urgent", "asap", "quickly", "immediately"]) { "high" } else { "medium" },
        "intent": if asked.topic.trim_end().ends_with('?') { "ask_question" } else { "request_work" },
        "intent_confidence": 0.7,
        "reasoning": format!("Simulated: judged by its {words} words and what they mention."),
    })
}

/// The tools whose names say that they help.
fn helpful(asked: &Asked<'_>, tools: &[&str]) -> Vec<String> {
    let search = needs_search(asked);
    let code = asked.mentions(SKILLS[3].1) || asked.mentions(&["calculat"]);
    let helps = |tool: &&&str| (search && tool.contains("search")) || (code && tool.contains("python"));
    tools.iter().filter(helps).map(|tool| (*tool).to_owned()).collect()
}

fn routing(asked: &Asked<'_>, schema: &Value) -> Value {
    let agents = allowed(&property(schema, "assigned_to")["items"]);
    let named: Vec<&str> = agents.iter().copied().filter(|agent| asked.mentions(&[&agent.to_lowercase()])).collect();
    let mut chosen: Vec<&str> = if named.is_empty() {
        let wanted = skills(asked).into_iter().map(|(_, agent)| agent);
        wanted.filter_map(|wanted| agents.iter().copied().find(|agent| *agent == wanted)).collect()
    } else {
        named
    };
    chosen.truncate(3);
    if chosen.is_empty() {
        let fallback = agents.iter().copied().find(|agent| *agent == "writer").or(agents.first().copied());
        chosen.extend(fallback);
    }
    let modes = allowed(property(schema, "execution_mode"));
    let mode = mode(asked, chosen.len(), &modes);
    // A demanded mode needs its company.
    if mode != "delegated" && chosen.len() < 2 {
        let more = agents.iter().copied().find(|agent| !chosen.contains(agent));
        chosen.extend(more);
    }
    let about = asked.topic.chars().take(200).collect::<String>();
    let part = |agent: &&str| json!({ "agent": agent, "task": format!("Do the {agent}'s part of: {about}") });
    let tools = helpful(asked, &allowed(&property(schema, "tool_plan")["items"]));
    json!({
        "assigned_to": chosen,
        "execution_mode": mode,
        "subtasks": chosen.iter().map(part).collect::<Vec<_>>(),
        "tool_requirements": [],
        "tool_goals": if tools.is_empty() { "" } else { "Bring what the answer rests on." },
        "tool_plan": tools,
        "latency_budget": "medium",
        "handoff_strategy": if chosen.len() > 1 { "Each hands over what it found, with its sources." } else { "" },
        "reasoning": "Simulated: chosen by the words of the task.",
    })
}

/// How so many agents work together: as the schema demands, as the words say, else as their number does.
fn mode(asked: &Asked<'_>, agents: usize, allowed: &[&str]) -> String {
    let said = |word: &str| asked.mentions(&[word]);
    let wanted = match allowed {
        [only] => only,
        _ if said("discuss") || said("debate") => "discussion",
        _ if said("handoff") => "handoff",
        _ if agents < 2 => "delegated",
        _ if said("compar") || said("parallel") || said("both") => "parallel",
        _ => "sequential",
    };
    wanted.to_owned()
}

fn progress(asked: &Asked<'_>) -> Value {
    if asked.tag("result").is_empty() {
        return json!({ "action": "continue", "feedback": "There is no result yet; produce one.", "reasoning": "Simulated: empty." });
    }
    json!({ "action": "complete", "feedback": "", "reasoning": "Simulated: there is a result." })
}

fn quality(asked: &Asked<'_>, rng: &mut fastrand::Rng) -> Value {
    let words = asked.tag("answer").split_whitespace().count();
    if words == 0 {
        let missing = "an answer";
        return json!({ "score": 0, "missing_elements": [missing], "required_improvements": ["Answer the task."], "reasoning": "Simulated: empty." });
    }
    // 7.5 to 9, in halves.
    let score = 7.5 + f64::from(rng.u8(0..4)) / 2.0;
    let reasoning = format!("Simulated: an answer of {words} words.");
    json!({ "score": score, "missing_elements": [], "required_improvements": [], "reasoning": reasoning })
}

fn speaker(asked: &Asked<'_>, schema: &Value) -> Value {
    let choices = allowed(property(schema, "next_speaker"));
    let agents: Vec<&str> = choices.iter().copied().filter(|name| *name != "TERMINATE").collect();
    let spoken = asked.tag("discussion").matches("\"speaker\":").count();
    let next = match agents.get(spoken % agents.len().max(1)) {
        Some(agent) if spoken <= agents.len().min(3) => agent,
        _ => "TERMINATE",
    };
    json!({ "next_speaker": next, "reasoning": format!("Simulated: {spoken} have spoken.") })
}

fn package(asked: &Asked<'_>) -> Value {
    let work = asked.tag("work");
    let sources = work.split_whitespace().filter(|word| word.starts_with("http")).take(10);
    let next = Some(asked.tag("next_task")).filter(|next| !next.is_empty()).unwrap_or(asked.topic);
    json!({
        "work_completed": work.chars().take(600).collect::<String>(),
        "artifacts": sources.collect::<Vec<_>>(),
        "remaining_objectives": [next],
        "success_criteria": [format!("It answers: {}", asked.topic)],
        "checklist": ["Figures agree with their sources"],
    })
}

fn narration(asked: &Asked<'_>) -> Value {
    let events = asked.tag("events").lines().map(|line| line.trim_start_matches("- ")).take(8);
    let told = events.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let told = if told.is_empty() { "The fleet worked on the task".to_owned() } else { told };
    json!({ "narrative": format!("Simulated account: {told}.") })
}

fn intent(asked: &Asked<'_>, schema: &Value, rng: &mut fastrand::Rng) -> Value {
    let choices = allowed(property(schema, "intent"));
    let text = asked.topic;
    let named = choices.iter().copied().find(|choice| asked.mentions(&[&choice.to_lowercase()]));
    let guess = if text.trim_end().ends_with('?') { "question" } else { "request" };
    let fits = choices.is_empty() || choices.contains(&guess);
    let intent = named.or(fits.then_some(guess)).or(choices.first().copied()).unwrap_or(guess);
    json!({ "intent": intent, "confidence": 0.6 + f64::from(rng.u8(0..35)) / 100.0, "reasoning": "Simulated: by its words." })
}

fn entities(asked: &Asked<'_>, schema: &Value) -> Value {
    let kinds = allowed(property(&property(schema, "entities")["items"], "type"));
    let name = |word: &&str| word.chars().next().is_some_and(char::is_uppercase);
    let words = asked.topic.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(name).take(10);
    let entity = |word: &str| json!({ "text": word, "type": kinds.first().unwrap_or(&"thing"), "confidence": 0.7 });
    json!({ "entities": words.map(entity).collect::<Vec<_>>() })
}

fn property<'a>(schema: &'a Value, name: &str) -> &'a Value {
    schema.get("properties").and_then(|properties| properties.get(name)).unwrap_or(&Value::Null)
}

/// The texts that the schema allows, if it lists them.
fn allowed(schema: &Value) -> Vec<&str> {
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return values.iter().filter_map(Value::as_str).collect();
    }
    let parts = ["oneOf", "anyOf"].iter().find_map(|key| schema.get(*key)?.as_array()).into_iter().flatten();
    // The strict form of an optional choice is a choice between it and null.
    parts
        .flat_map(|part| part.get("const").and_then(Value::as_str).map_or_else(|| allowed(part), |text| vec![text]))
        .collect()
}

/// Lays `over` over `answer` where the schema has the property and allows the value.
fn lay(answer: &mut Value, schema: &Value, over: Value) {
    let (Value::Object(answer), Value::Object(over)) = (answer, over) else { return };
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for (name, value) in over {
        let Some(property) = properties.get(&name) else { continue };
        let refused = value.as_str().is_some_and(|text| {
            let choices = allowed(property);
            !choices.is_empty() && !choices.contains(&text)
        });
        match answer.get_mut(&name) {
            _ if refused => {}
            Some(inner @ Value::Object(_)) if value.is_object() => lay(inner, property, value),
            _ => drop(answer.insert(name, value)),
        }
    }
}
