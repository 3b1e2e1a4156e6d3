//! `history`: finished executions, to look at and to forget.

use clap::{Args, Subcommand};
use fleet_actors::ids::WorkflowId;
use fleet_actors::ports::PageFrom;
use serde_json::{Value, json};

use super::failure::CommandError;
use super::fleet::Fleet;
use super::terminal::{complain, preview, say, table, text};
use super::{Reach, page_limit};
use crate::api::history::cursor;

/// Characters of a task in a list.
const TASK_CHARS: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum History {
    /// List finished executions, newest first.
    #[command(after_help = "Examples:
  agentic-fleet history list
  agentic-fleet history list --limit 100 --before 0198c0de-0000-7000-8000-000000000000
  agentic-fleet history list --json | jq -r '.executions[].workflow_id'

Works beside a running server. --before takes the cursor that the page before this one printed.")]
    List(List),
    /// Show one execution with its result.
    #[command(after_help = "Examples:
  agentic-fleet history show 0198c0de-0000-7000-8000-000000000000
  agentic-fleet history show 0198c0de-0000-7000-8000-000000000000 --json | jq .usage")]
    Show(Show),
    /// Forget executions: their entries, their journals and their lines in the history file.
    #[command(after_help = "Examples:
  agentic-fleet history delete 0198c0de-0000-7000-8000-000000000000
  agentic-fleet history delete --all --server http://127.0.0.1:8000

Conversations keep their messages. Without --server it takes the data directory for itself and exits 75 when a server
has it.")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Entries of the page, 1 to 100.
    #[arg(long, default_value_t = 20, value_parser = page_limit())]
    limit: u32,
    /// Pass over so many entries.
    #[arg(long, conflicts_with = "before")]
    offset: Option<u32>,
    /// Only what is older than this execution.
    #[arg(long, value_name = "ID", value_parser = cursor)]
    before: Option<WorkflowId>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The execution.
    id: WorkflowId,
    /// Print it as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// The executions.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<WorkflowId>,
    /// Forget every finished execution.
    #[arg(long)]
    all: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn run(command: &History) -> Result<i32, CommandError> {
    match command {
        History::List(options) => list(options).await,
        History::Show(options) => show(options).await,
        History::Delete(options) => delete(options).await,
    }
}

async fn list(options: &List) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet history list")?;
    let from = match &options.before {
        Some(before) => PageFrom::Before(before.clone()),
        None => PageFrom::Offset(options.offset.unwrap_or(0).into()),
    };
    let (rows, next) = fleet.history(&from, options.limit).await?;
    if options.json {
        say(&json!({ "executions": rows, "next_before": next }).to_string());
        return Ok(0);
    }
    let cells = |row: &Value| {
        let task = preview(row["task"].as_str().unwrap_or_default(), TASK_CHARS);
        let runtime = format!("{} ms", row["runtime_ms"]);
        vec![text(row, "workflow_id"), text(row, "status"), text(row, "completed_at"), runtime, task]
    };
    table(&["EXECUTION", "STATUS", "COMPLETED", "RUNTIME", "TASK"], &rows.iter().map(cells).collect::<Vec<_>>());
    if let Some(next) = next {
        complain(&format!("older ones: --before {next}"));
    }
    Ok(0)
}

async fn show(options: &Show) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet history show")?;
    let entry = fleet.execution(&options.id).await.map_err(|error| error.about(&options.id))?;
    if options.json {
        say(&entry.to_string());
        return Ok(0);
    }
    let fields = ["workflow_id", "conversation_id", "status", "reasoning_effort", "created_at", "completed_at"];
    for field in fields.into_iter().chain(["runtime_ms", "model_calls", "usage", "metadata", "error"]) {
        let value = text(&entry, field);
        if !value.is_empty() {
            say(&format!("{field:<17}{value}"));
        }
    }
    say(&format!("\ntask\n{}", text(&entry, "task")));
    if !entry["result"].is_null() {
        say(&format!("\nresult\n{}", text(&entry, "result")));
    }
    Ok(0)
}

async fn delete(options: &Delete) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet history delete")?;
    let done = fleet.forget(&options.ids).await?;
    if options.all {
        done.into_iter().collect::<Result<Vec<()>, _>>()?;
        say(&if options.json { json!({ "deleted": "all" }).to_string() } else { "deleted all".to_owned() });
        return Ok(0);
    }
    let (mut deleted, mut code) = (Vec::new(), 0);
    for (id, done) in options.ids.iter().zip(done) {
        match done.map_err(|error| error.about(id)) {
            Ok(()) => deleted.push(id),
            Err(error) => {
                complain(&error.to_string());
                code = error.exit_code();
            }
        }
    }
    if options.json {
        say(&json!({ "deleted": deleted }).to_string());
    } else {
        deleted.iter().for_each(|id| say(&format!("deleted {id}")));
    }
    Ok(code)
}
