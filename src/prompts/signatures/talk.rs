//! Who speaks next in a discussion.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::roster::{self, AgentCard};
use crate::prompts::{Choices, Signature};

/// The word that ends a discussion.
pub const TERMINATE: &str = "TERMINATE";

/// Who speaks next?
pub struct GroupChatSpeakerSelection;

/// What a moderator sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct GroupChatSpeakerSelectionInputs {
    /// What is discussed.
    pub task: String,
    /// Who takes part.
    pub agents: Vec<AgentCard>,
    /// What was said, oldest first.
    pub discussion: Vec<Utterance>,
    /// How many more may speak.
    pub rounds_left: u32,
}

/// What somebody said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Utterance {
    /// Who.
    pub speaker: String,
    /// What.
    pub text: String,
}

/// Who speaks next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Speaker {
    /// The agent's name, or TERMINATE when the discussion is over.
    pub next_speaker: String,
    /// Why, and what they should add, in at most two sentences.
    pub reasoning: String,
}

impl Speaker {
    /// Whether the discussion is over.
    #[must_use]
    pub fn terminates(&self) -> bool {
        self.next_speaker == TERMINATE
    }
}

impl Signature for GroupChatSpeakerSelection {
    const NAME: &'static str = "GroupChatSpeakerSelection";
    const INSTRUCTION: &'static str = "\
You moderate a discussion between AI agents about the task. Choose who speaks next, or end it with TERMINATE. You do not take \
part.

Nobody has spoken yet: begin with the one whose knowledge the others need. After that, choose whoever can best answer the open \
question, fill the largest gap or challenge the weakest claim; nobody speaks twice in a row unless they were asked something. \
TERMINATE as soon as the task is answered and nobody objects, when the last contributions repeat each other, or when nobody here \
can bring what is missing. With one round left, choose who should sum up.";
    type Inputs = GroupChatSpeakerSelectionInputs;
    type Output = Speaker;

    fn choices(inputs: &Self::Inputs) -> Choices<'_> {
        Choices::default().only("/properties/next_speaker", roster::names(&inputs.agents).chain([TERMINATE]))
    }

    fn check(output: &Self::Output, inputs: &Self::Inputs) -> Result<(), String> {
        match output.next_speaker.as_str() {
            TERMINATE => Ok(()),
            name if roster::known(&inputs.agents, name) => Ok(()),
            name => Err(format!("{}, or TERMINATE", roster::unknown(&inputs.agents, name))),
        }
    }
}
