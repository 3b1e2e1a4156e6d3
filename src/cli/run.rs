//! `run`: one message through the same runtime, no server needed; with `--server`, through that server.

use clap::Args;
use clap::builder::PossibleValuesParser;
use fleet_actors::ids::ConversationId;

use super::failure::CommandError;
use super::fleet::Fleet;
use super::screen::{Form, follow};
use super::{Effort, Reach};
use crate::api::start::NewRun;
use crate::workflow::MODES;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentic-fleet run -m \"what is a permit?\"
  agentic-fleet run -m \"and a lease?\" --conversation 0198c0de-0000-7000-8000-000000000000
  agentic-fleet run -m \"compare x and y\" --mode parallel --verbose
  agentic-fleet run -m \"hello\" --json | jq -r .result
  agentic-fleet run -m \"hello\" --server http://127.0.0.1:8000

Ctrl-C cancels the run. What scores an answer after it was sent is left to the next `serve` or `chat`. Without --server it takes the data directory for itself and exits 75 when a server has it.
Exit codes: 0 completed, 1 failed or cancelled, 2 wrong usage or settings, 74 storage failed, 75 directory in use.")]
pub(super) struct Run {
    /// The message.
    #[arg(short, long)]
    message: String,
    /// Print how it ended as one JSON object instead of streaming the text.
    #[arg(long)]
    json: bool,
    /// How much the model thinks, for this run alone.
    #[arg(long, value_enum)]
    reasoning_effort: Option<Effort>,
    /// Go on in this conversation, or begin it under this id.
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    /// Who works, and how: auto, standard, delegated, sequential, parallel, handoff, discussion or fast_path.
    #[arg(long, value_parser = PossibleValuesParser::new(MODES))]
    mode: Option<String>,
    /// Whether `checkpoints list` shows the run's checkpoints; else the settings say.
    #[arg(long, value_name = "BOOL")]
    enable_checkpointing: Option<bool>,
    /// Also tell, on standard error, of phases, routing, agents, tool calls, and what it cost.
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn run(options: &Run) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet run")?;
    let conversation = Some(options.conversation.clone().unwrap_or_else(ConversationId::generate));
    let effort = options.reasoning_effort.map(Into::into);
    let message = options.message.clone();
    let form = if options.verbose { Form::Verbose } else { Form::of(options.json) };
    let mode = options.mode.clone();
    let checkpointing = options.enable_checkpointing;
    let new = NewRun { message, conversation, effort, mode, checkpointing, ..NewRun::default() };
    follow(fleet.start(new, form.deltas()), form).await
}
