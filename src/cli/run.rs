//! `run`: one message through the same runtime, no server needed; with `--server`, through that server.

use clap::Args;
use fleet_actors::ids::ConversationId;

use super::failure::CommandError;
use super::fleet::Fleet;
use super::screen::{Form, follow};
use super::{Effort, Reach};
use crate::api::start::NewRun;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentic-fleet run -m \"what is a permit?\"
  agentic-fleet run -m \"and a lease?\" --conversation 0198c0de-0000-7000-8000-000000000000
  agentic-fleet run -m \"hello\" --json | jq -r .result
  agentic-fleet run -m \"hello\" --server http://127.0.0.1:8000

Ctrl-C cancels the run. Without --server it takes the data directory for itself and exits 75 when a server has it.
Exit codes: 0 completed, 1 failed or cancelled, 2 wrong usage or settings, 74 storage failed, 75 directory in use.")]
pub(super) struct Run {
    /// The message.
    #[arg(short, long)]
    message: String,
    /// Print the result as one JSON object instead of streaming the text.
    #[arg(long)]
    json: bool,
    /// How much the model thinks, for this run alone.
    #[arg(long, value_enum)]
    reasoning_effort: Option<Effort>,
    /// Go on in this conversation, or begin it under this id.
    #[arg(long, value_name = "ID")]
    conversation: Option<ConversationId>,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn run(options: &Run) -> Result<i32, CommandError> {
    let fleet = Fleet::of(&options.reach, "agentic-fleet run")?;
    let conversation = Some(options.conversation.clone().unwrap_or_else(ConversationId::generate));
    let effort = options.reasoning_effort.map(Into::into);
    let message = options.message.clone();
    let form = Form::of(options.json);
    let new = NewRun { message, conversation, effort, ..NewRun::default() };
    follow(fleet.start(new, form.deltas()).await?, form).await
}
