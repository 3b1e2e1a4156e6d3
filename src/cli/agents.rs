//! `list-agents`: whoever there is to work.

use clap::Args;
use serde_json::Value;

use super::Reach;
use super::failure::CommandError;
use super::fleet::Fleet;
use super::terminal::{say, table, text};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  agentic-fleet list-agents
  agentic-fleet list-agents --json | jq -r '.[].name'
  agentic-fleet list-agents --server http://127.0.0.1:8000

Adding an agent is editing YAML: a name of your own under `agents`, see `agentic-fleet config check`.")]
pub(super) struct ListAgents {
    /// Print them as one JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) async fn run(options: &ListAgents) -> Result<i32, CommandError> {
    let agents = Fleet::of(&options.reach, "agentic-fleet list-agents")?.agents().await?;
    if options.json {
        say(&Value::Array(agents).to_string());
    } else {
        let row = |agent: &Value| vec![text(agent, "name"), text(agent, "description")];
        table(&["NAME", "DESCRIPTION"], &agents.iter().map(row).collect::<Vec<_>>());
    }
    Ok(0)
}
