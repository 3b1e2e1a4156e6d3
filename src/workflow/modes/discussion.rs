//! Discussion: agents talk, each turn's speaker is chosen, until it is settled; then one answer is written of what was said.
//!
//! It ends with TERMINATE (of the one who chooses, or as a speaker's last word), after `max_rounds` turns, or when more than
//! `max_stalls` turns in a row brought nothing: a failure, a repetition, or nobody chosen.

use fleet_actors::event::Audience;
use fleet_actors::turn::{StepResult, Turn};
use serde_json::json;

use super::{crew, lost, synthesis};
use crate::agents::Agent;
use crate::prompts::signatures::{GroupChatSpeakerSelection, GroupChatSpeakerSelectionInputs, TERMINATE, Utterance};
use crate::workflow::agent::{Job, answer};
use crate::workflow::events::FleetEvent;
use crate::workflow::fleet::{Draft, Fleet, Round, ends_the_run, nobody};
use crate::workflow::routing::Plan;

pub(super) async fn run(turn: &mut Turn, fleet: &Fleet<'_>, plan: &Plan, round: Round<'_>) -> StepResult<Draft> {
    let crew = crew(fleet, plan)?;
    let rules = fleet.rules();
    let mut said: Vec<Utterance> = Vec::new();
    let (mut failures, mut artifacts) = (Vec::new(), Vec::new());
    let mut stalls = 0;
    for spoken in 0..rules.max_rounds {
        let chosen =
            turn.scope("turn", async |turn| choose(turn, fleet, &crew, &said, rules.max_rounds - spoken).await).await?;
        let next = match chosen {
            Choice::Over if !said.is_empty() => break,
            // Nobody has said anything yet, so there is nothing to end.
            Choice::Over => 0,
            Choice::Speaker(at) => at,
            Choice::Nobody => {
                stalls += 1;
                spoken as usize % crew.len()
            }
        };
        let (agent, task) = crew[next];
        let mut heard: Vec<(String, &str)> =
            said.iter().map(|one| (format!("{} said", one.speaker), one.text.as_str())).collect();
        if heard.is_empty() {
            heard.push(("You speak first".to_owned(), "nobody has said anything yet"));
        }
        let part = format!(
            "{task}\n\nYou take part in a discussion. Add what is missing or wrong so far, briefly; do not repeat \
                            what was said. If the task is settled, say so and end with the word {TERMINATE}."
        );
        let job = Job::new(fleet, agent, Audience::Workflow, fleet.part(Some(&part), &heard, round));
        match turn.scope("speech", async |turn| answer(turn, fleet, job).await).await {
            Ok(draft) => {
                artifacts.extend(draft.artifacts.iter().cloned());
                let words = draft.text.trim();
                let (text, settled) = match words.strip_suffix(TERMINATE) {
                    Some(before) => (before.trim(), true),
                    None => (words, false),
                };
                if said.iter().any(|one| one.text == text) {
                    stalls += 1;
                } else {
                    stalls = if matches!(chosen, Choice::Nobody) { stalls } else { 0 };
                    if !text.is_empty() {
                        said.push(Utterance { speaker: agent.name.clone(), text: text.to_owned() });
                    }
                }
                if settled && !said.is_empty() {
                    break;
                }
            }
            Err(failure) if ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                lost(turn, fleet, &agent.name, &failure);
                failures.push((agent.name.clone(), failure));
                stalls += 1;
            }
        }
        if stalls > rules.max_stalls {
            let message = format!("the discussion ends: {stalls} turns brought nothing new");
            fleet.warn(turn, "discussion_stalled", message, json!({ "stalls": stalls }));
            break;
        }
    }
    if said.is_empty() {
        return Err(nobody(failures));
    }
    let material: Vec<_> = said.iter().map(|one| (format!("{} said", one.speaker), one.text.as_str())).collect();
    let draft = synthesis(turn, fleet, round, &material).await?;
    Ok(Draft { artifacts, ..draft })
}

#[derive(Clone, Copy)]
enum Choice {
    Speaker(usize),
    /// The discussion is over.
    Over,
    /// Choosing failed.
    Nobody,
}

async fn choose(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    crew: &[(&Agent, &str)],
    said: &[Utterance],
    rounds_left: u32,
) -> StepResult<Choice> {
    let inputs = GroupChatSpeakerSelectionInputs {
        task: fleet.input.message.clone(),
        agents: fleet.agent_cards(crew.iter().map(|(agent, _)| *agent)),
        discussion: said.to_vec(),
        rounds_left,
    };
    match fleet.phase::<GroupChatSpeakerSelection>(turn, "speaker", &inputs).await {
        Ok(speaker) => {
            turn.emit(&FleetEvent::Thought {
                message: format!("next: {}", speaker.next_speaker),
                kind: "progress".to_owned(),
                data: json!({
                    "action": "speak",
                    "feedback": speaker.reasoning,
                    "next_speaker": speaker.next_speaker,
                }),
            });
            if speaker.terminates() {
                return Ok(Choice::Over);
            }
            let at = crew.iter().position(|(agent, _)| agent.name == speaker.next_speaker);
            Ok(at.map_or(Choice::Nobody, Choice::Speaker))
        }
        Err(failure) => {
            fleet.degrade(turn, "speaker selection", &failure);
            Ok(Choice::Nobody)
        }
    }
}
