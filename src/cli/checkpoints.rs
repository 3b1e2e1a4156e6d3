//! `checkpoints`: the positions of runs, to look at, to go on from and to fork.

use clap::{Args, Subcommand};
use fleet_actors::ids::{CheckpointId, Position, WorkflowId};
use serde_json::{Value, json};

use super::failure::CommandError;
use super::fleet::Fleet;
use super::screen::{Form, follow};
use super::terminal::{complain, preview, say, table, text};
use super::{Effort, Reach, page_limit};

/// Characters of a task in a list.
const TASK_CHARS: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum Checkpoints {
    /// List the checkpoints of a run, newest first; without a run, the runs that are not over.
    #[command(after_help = "Examples:
  agentic-fleet checkpoints list
  agentic-fleet checkpoints list 0198c0de-0000-7000-8000-000000000000 --limit 5
  agentic-fleet checkpoints list 0198c0de-0000-7000-8000-000000000000 --json | jq -r '.checkpoints[0].checkpoint_id'

Works beside a running server. A checkpoint is written WORKFLOW:POSITION; the workflow alone means its newest one.
A run that was started with --enable-checkpointing false lists none; the other commands take it all the same.")]
    List(List),
    /// Show a checkpoint with the steps up to it.
    #[command(after_help = "Examples:
  agentic-fleet checkpoints show 0198c0de-0000-7000-8000-000000000000
  agentic-fleet checkpoints show 0198c0de-0000-7000-8000-000000000000:6 --json | jq '.steps | length'")]
    Show(Show),
    /// Go on from a checkpoint and stream it as `run` does: finished steps are not done again.
    #[command(after_help = "Examples:
  agentic-fleet checkpoints resume 0198c0de-0000-7000-8000-000000000000
  agentic-fleet checkpoints resume 0198c0de-0000-7000-8000-000000000000:6 --server http://127.0.0.1:8000

The newest checkpoint of a run that is over shows it again and calls no model. One that has results behind it becomes a
fork. The log is shown from its beginning. Ctrl-C cancels the run. Exit codes are those of `run`.")]
    Resume(Resume),
    /// Make a new run that shares another's steps up to a checkpoint; it waits until it is resumed.
    #[command(after_help = "Examples:
  agentic-fleet checkpoints fork 0198c0de-0000-7000-8000-000000000000:6
  agentic-fleet checkpoints resume $(agentic-fleet checkpoints fork 0198c0de-0000-7000-8000-000000000000:6)")]
    Fork(Fork),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// The run.
    workflow: Option<WorkflowId>,
    /// Entries of the page, 1 to 100.
    #[arg(long, default_value_t = 20, value_parser = page_limit())]
    limit: u32,
    /// Only checkpoints at positions before this one.
    #[arg(long, value_name = "POSITION", requires = "workflow")]
    before: Option<u64>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The checkpoint.
    id: CheckpointId,
    /// Print it as one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(super) struct Resume {
    /// The checkpoint.
    id: CheckpointId,
    /// How much the model thinks from here on.
    #[arg(long, value_enum)]
    reasoning_effort: Option<Effort>,
    /// Print how it ended as one JSON object instead of streaming the text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Debug, Args)]
pub(super) struct Fork {
    /// The checkpoint.
    id: CheckpointId,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn run(command: &Checkpoints) -> Result<i32, CommandError> {
    match command {
        Checkpoints::List(options) => match &options.workflow {
            Some(workflow) => list(options, workflow).await,
            None => list_unfinished(options).await,
        },
        Checkpoints::Show(options) => show(options).await,
        Checkpoints::Resume(options) => resume(options).await,
        Checkpoints::Fork(options) => fork(options).await,
    }
}

async fn list(options: &List, workflow: &WorkflowId) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet checkpoints list")?;
    let page = fleet.checkpoints(workflow, options.before.map(Position), options.limit).await;
    let (rows, next) = page.map_err(|error| error.about(workflow))?;
    if options.json {
        say(&json!({ "checkpoints": rows, "next_before": next }).to_string());
        return Ok(0);
    }
    let cells = |row: &Value| {
        let resumable = if row["resumable"] == true { "yes" } else { "no" };
        vec![text(row, "checkpoint_id"), resumable.to_owned(), text(row, "created_at"), text(row, "step")]
    };
    table(&["CHECKPOINT", "RESUMABLE", "CREATED", "STEP"], &rows.iter().map(cells).collect::<Vec<_>>());
    if let Some(next) = next {
        complain(&format!("older ones: --before {next}"));
    }
    Ok(0)
}

async fn list_unfinished(options: &List) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet checkpoints list")?;
    let mut rows = fleet.unfinished().await?;
    rows.truncate(options.limit as usize);
    if options.json {
        say(&json!({ "unfinished": rows }).to_string());
        return Ok(0);
    }
    let cells = |row: &Value| {
        let task = preview(row["task"].as_str().unwrap_or_default(), TASK_CHARS);
        vec![text(row, "workflow_id"), text(row, "status"), text(row, "created_at"), task]
    };
    table(&["NOT OVER", "STATUS", "CREATED", "TASK"], &rows.iter().map(cells).collect::<Vec<_>>());
    Ok(0)
}

async fn show(options: &Show) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet checkpoints show")?;
    let checkpoint = fleet.checkpoint(&options.id).await.map_err(|error| error.about(&options.id))?;
    if options.json {
        say(&checkpoint.to_string());
        return Ok(0);
    }
    for field in ["checkpoint_id", "workflow_id", "conversation_id", "step", "created_at", "resumable"] {
        say(format!("{field:<17}{}", text(&checkpoint, field)).trim_end());
    }
    say("");
    let cells = |step: &Value| vec![text(step, "position"), text(step, "kind"), text(step, "at"), text(step, "step")];
    let steps = checkpoint["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    table(&["POSITION", "KIND", "AT", "STEP"], &steps.iter().map(cells).collect::<Vec<_>>());
    Ok(0)
}

async fn resume(options: &Resume) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet checkpoints resume")?;
    let form = Form::of(options.json);
    let effort = options.reasoning_effort.map(Into::into);
    let run =
        async { fleet.resume(&options.id, effort, form.deltas()).await.map_err(|error| error.about(&options.id)) };
    follow(run, form).await
}

async fn fork(options: &Fork) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet checkpoints fork")?;
    let fork = fleet.fork(&options.id).await.map_err(|error| error.about(&options.id))?;
    say(&if options.json { fork.to_string() } else { text(&fork, "workflow_id") });
    Ok(0)
}
