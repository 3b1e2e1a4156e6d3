//! `approvals`: the questions that runs wait on, over all runs, listed and answered whoever asked first.
//!
//! An answer is a line in the store: it is durable when the command ends, and the run goes on where runs are served.
//!
//! Absent on purpose: a prompt for a decision. A chat asks in place; here a script must be able to say it.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use fleet_actors::ids::{ConversationId, RequestId, WorkflowId};
use fleet_actors::ports::QuestionFilter;
use serde_json::{Value, json};

use super::failure::CommandError;
use super::fleet::{Fleet, GoesOn};
use super::terminal::{complain, preview, say, table, text};
use super::{Reach, page_limit};

/// Characters of a question in a list.
const REQUEST_CHARS: usize = 80;
/// What questions are about.
const TYPES: [&str; 3] = ["tool_approval", "user_input", "plan_review"];

#[derive(Debug, Subcommand)]
pub(super) enum Approvals {
    /// List open questions of all runs, the longest waiting first.
    #[command(after_help = "Examples:
  agentic-fleet approvals list
  agentic-fleet approvals list --type tool_approval --conversation my-talk
  agentic-fleet approvals list --request 547e592e05bbc6e22cb47c33b1c8daca --json | jq '.approvals[0].answer_schema'

Works beside a running server. A question that expired or is answered is no longer listed.")]
    List(List),
    /// Answer a question: approve, reject, edit what is asked for, or say something.
    #[command(after_help = "Examples:
  agentic-fleet approvals answer 547e592e05bbc6e22cb47c33b1c8daca --approve
  agentic-fleet approvals answer 547e592e05bbc6e22cb47c33b1c8daca --reject \"not on production\"
  agentic-fleet approvals answer 547e592e05bbc6e22cb47c33b1c8daca --edit '{\"code\": \"print(1)\"}'
  agentic-fleet approvals answer 547e592e05bbc6e22cb47c33b1c8daca --text \"the blue one\" --server http://127.0.0.1:8000

The first answer wins. An approval is for the exact arguments that were asked for, or for those of --edit, all of them.
Through a server the run goes on at once. In the data directory the answer is written, and what is printed says how the
run goes on: under the next `agentic-fleet serve`, or with `agentic-fleet checkpoints resume`.
Exit codes: 0 answered, 1 no such open question or answered before, 2 an answer that does not fit or wrong usage, 75 a
server has the data directory.")]
    Answer(Answer),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Only those of this run.
    #[arg(long, value_name = "ID")]
    workflow: Option<WorkflowId>,
    /// Only those of this conversation's runs.
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Only this one.
    #[arg(long, value_name = "ID")]
    request: Option<RequestId>,
    /// Only those of this type.
    #[arg(long = "type", value_parser = PossibleValuesParser::new(TYPES))]
    request_type: Option<String>,
    /// Entries of the page, 1 to 100.
    #[arg(long, default_value_t = 20, value_parser = page_limit())]
    limit: u32,
    /// Pass over so many.
    #[arg(long, default_value_t = 0)]
    offset: u32,
    /// Print one JSON object, with each question in full.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(super) struct Answer {
    /// The question's id.
    request: RequestId,
    /// The run that asks. Without it the question is looked for among all that are open.
    #[arg(long, value_name = "ID")]
    workflow: Option<WorkflowId>,
    #[command(flatten)]
    word: Word,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// What is answered; one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Word {
    /// Yes, exactly as it is asked for.
    #[arg(long)]
    approve: bool,
    /// No; a reason is told to the agent.
    #[arg(long, value_name = "REASON", num_args = 0..=1, default_missing_value = "")]
    reject: Option<String>,
    /// Yes, with these arguments or this plan instead.
    #[arg(long, value_name = "JSON", value_parser = object)]
    edit: Option<Value>,
    /// What an agent asked the user.
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// The answer as it stands, for a question whose answer_schema wants something else.
    #[arg(long, value_name = "JSON", value_parser = any)]
    value: Option<Value>,
}

impl Word {
    /// What it says to a question of this type; the type is empty when it is not known.
    fn to(&self, kind: &str) -> Result<Value, CommandError> {
        let wants = |what: &str| Err(CommandError::Usage(format!("this is a {kind}: answer it with {what}")));
        let Self { approve, reject, edit, text, value } = self;
        match kind {
            // Words that are no yes would be taken as a no, and a decision as what the user said.
            "tool_approval" | "plan_review" if text.is_some() => wants("--approve, --reject or --edit"),
            "user_input" if *approve || reject.is_some() || edit.is_some() => wants("--text or --value"),
            _ => Ok(match (reject, edit, text, value) {
                (Some(reason), ..) => rejected(reason),
                (_, Some(changed), ..) => edited(kind, changed),
                (_, _, Some(words), _) => json!(words),
                (.., Some(value)) => value.clone(),
                (None, None, None, None) => approved(),
            }),
        }
    }
}

fn any(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))
}

fn object(text: &str) -> Result<Value, String> {
    any(text).and_then(|value| if value.is_object() { Ok(value) } else { Err("expected a JSON object".to_owned()) })
}

pub(super) async fn run(command: &Approvals) -> Result<i32, CommandError> {
    match command {
        Approvals::List(options) => list(options).await,
        Approvals::Answer(options) => answer(options).await,
    }
}

async fn list(options: &List) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet approvals list")?;
    let filter = QuestionFilter {
        workflow: options.workflow.clone(),
        conversation: options.conversation.clone(),
        request: options.request.clone(),
        request_type: options.request_type.as_deref().map(Into::into),
        offset: options.offset.into(),
        limit: options.limit,
    };
    let rows = fleet.approvals(filter).await?;
    // A full page may be the last one; then the next is empty.
    let next = (rows.len() == options.limit as usize).then(|| u64::from(options.offset) + u64::from(options.limit));
    if options.json {
        say(&json!({ "approvals": rows, "next_offset": next }).to_string());
        return Ok(0);
    }
    let cells = |row: &Value| {
        let what = [text(row, "request_id"), text(row, "request_type"), text(row, "workflow_id")];
        let asked = preview(&asked(row), REQUEST_CHARS);
        what.into_iter().chain([text(row, "expires_at"), asked]).collect()
    };
    table(&["REQUEST", "TYPE", "RUN", "EXPIRES", "WHAT"], &rows.iter().map(cells).collect::<Vec<_>>());
    if let Some(next) = next {
        complain(&format!("later ones: --offset {next}"));
    }
    Ok(0)
}

/// A question in few words.
fn asked(row: &Value) -> String {
    let request = &row["request"];
    match row["request_type"].as_str() {
        Some("tool_approval") => {
            format!("{} wants {} {}", text(request, "agent"), text(request, "tool"), request["arguments"])
        }
        Some("user_input") => text(request, "question"),
        _ => request.to_string(),
    }
}

async fn answer(options: &Answer) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet approvals answer")?;
    let request = &options.request;
    let (workflow, kind) = match &options.workflow {
        // One that is not open is told what it is by the store.
        Some(workflow) => {
            let (of, only) = (Some(workflow.clone()), Some(request.clone()));
            let filter = QuestionFilter { workflow: of, request: only, limit: 1, ..QuestionFilter::default() };
            let open = fleet.approvals(filter).await?.into_iter().next();
            (workflow.clone(), open.map_or(String::new(), |row| text(&row, "request_type")))
        }
        None => {
            let open = fleet.question(request).await.map_err(|error| error.about(request))?;
            let workflow = text(&open, "workflow_id").parse();
            let nobodys = |_| CommandError::Failed("the question does not say whose it is".to_owned());
            (workflow.map_err(nobodys)?, text(&open, "request_type"))
        }
    };
    let response = options.word.to(&kind).map_err(|error| error.about(request))?;
    let goes_on = fleet.answer(&workflow, request, response).await.map_err(|error| error.about(request))?;
    if options.json {
        say(&json!({ "request_id": request, "workflow_id": workflow, "status": "ok" }).to_string());
        return Ok(0);
    }
    say(&format!("answered {request} of run {workflow}"));
    let resume = format!("agentic-fleet checkpoints resume {workflow}");
    match goes_on {
        GoesOn::Now => {}
        GoesOn::Served => {
            complain(&format!("the run goes on under the next `agentic-fleet serve`; to watch it now: {resume}"));
        }
        GoesOn::Resumed => complain(&format!("the run was left by its client; to go on: {resume}")),
    }
    Ok(0)
}

/// A yes, as every door takes it.
pub(super) fn approved() -> Value {
    json!({ "decision": "approve" })
}

/// A no.
pub(super) fn rejected(reason: &str) -> Value {
    match reason.trim() {
        "" => json!({ "decision": "reject" }),
        reason => json!({ "decision": "reject", "reason": reason }),
    }
}

/// A yes with something changed.
pub(super) fn edited(request_type: &str, changed: &Value) -> Value {
    let field = if request_type == "plan_review" { "plan" } else { "arguments" };
    json!({ "decision": "edit", field: changed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(kind: &str, set: impl FnOnce(&mut Word)) -> Result<Value, String> {
        let mut word = Word { approve: false, reject: None, edit: None, text: None, value: None };
        set(&mut word);
        word.to(kind).map_err(|error| error.to_string())
    }

    #[test]
    fn a_word_becomes_the_answer_that_its_question_reads_and_one_that_would_be_misread_is_refused() {
        let changed = || Some(json!({ "mode": "parallel" }));
        assert_eq!(word("tool_approval", |word| word.approve = true), Ok(json!({ "decision": "approve" })));
        assert_eq!(word("", |word| word.reject = Some(" ".into())), Ok(json!({ "decision": "reject" })));
        let refused = json!({ "decision": "reject", "reason": "no" });
        assert_eq!(word("plan_review", |word| word.reject = Some("no".into())), Ok(refused));
        let plan = json!({ "decision": "edit", "plan": { "mode": "parallel" } });
        assert_eq!(word("plan_review", |word| word.edit = changed()), Ok(plan));
        let arguments = json!({ "decision": "edit", "arguments": { "mode": "parallel" } });
        assert_eq!(word("tool_approval", |word| word.edit = changed()), Ok(arguments));
        assert_eq!(word("user_input", |word| word.text = Some("Paris".into())), Ok(json!("Paris")));
        assert_eq!(word("user_input", |word| word.value = Some(json!([1]))), Ok(json!([1])));
        for kind in ["tool_approval", "plan_review"] {
            let refused = word(kind, |word| word.text = Some("sure".into())).unwrap_err();
            assert!(refused.contains("--approve, --reject or --edit"), "{refused}");
        }
        let refused = word("user_input", |word| word.reject = Some(String::new())).unwrap_err();
        assert!(refused.contains("--text or --value"), "{refused}");
    }
}
