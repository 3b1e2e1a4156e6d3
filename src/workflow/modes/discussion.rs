//! Discussion: agents talk, each turn's speaker is chosen, until it is settled; then one answer is written of what was said.
//!
//! It ends with TERMINATE (of the one who chooses, or as a speaker's last word), after `max_rounds` turns, or when more than
//! `max_stalls` turns in a row brought nothing: a failure, a repetition, or nobody chosen.

use fleet_actors::event::{Audience, Failure};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::json;

use super::{Member, crew, lost, synthesis};
use crate::prompts::signatures::{GroupChatSpeakerSelection, GroupChatSpeakerSelectionInputs, TERMINATE, Utterance};
use crate::workflow::agent::answer;
use crate::workflow::events::FleetEvent;
use crate::workflow::fleet::{Draft, Fleet, Round, ends_the_run, nobody};
use crate::workflow::plan::Plan;

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
            Choice::Nobody => spoken as usize % crew.len(),
        };
        let agent = crew[next].agent;
        let mut settled = false;
        let mut brought = false;
        match turn.scope("speech", async |turn| speech(turn, fleet, &crew[next], &said, round).await).await {
            Ok(draft) => {
                artifacts.extend(draft.artifacts);
                let (text, last) = last_word(&draft.text);
                settled = last;
                if text.is_empty() {
                    let nothing = Failure::new("no_agent_answered", format!("{} said nothing", agent.name));
                    failures.push((agent.name.clone(), nothing));
                } else if !said.iter().any(|one| one.text == text) {
                    brought = true;
                    said.push(Utterance { speaker: agent.name.clone(), text: text.to_owned() });
                }
            }
            Err(failure) if ends_the_run(&failure) => return Err(failure),
            Err(failure) => {
                lost(turn, fleet, &agent.name, &failure);
                failures.push((agent.name.clone(), failure));
            }
        }
        if settled && !said.is_empty() {
            break;
        }
        stalls = if brought && !matches!(chosen, Choice::Nobody) { 0 } else { stalls + 1 };
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

/// What one of them says to what was said.
async fn speech(
    turn: &mut Turn,
    fleet: &Fleet<'_>,
    member: &Member<'_>,
    said: &[Utterance],
    round: Round<'_>,
) -> StepResult<Draft> {
    let mut heard: Vec<(String, &str)> =
        said.iter().map(|one| (format!("{} said", one.speaker), one.text.as_str())).collect();
    if heard.is_empty() {
        heard.push(("You speak first".to_owned(), "nobody has said anything yet"));
    }
    let part = format!(
        "{}\n\nYou take part in a discussion. Add what is missing or wrong so far, briefly; do not repeat what was said. \
         If the task is settled, say so and end with the word {TERMINATE}.",
        member.task
    );
    answer(turn, fleet, member.job(fleet, Audience::Workflow, &part, &heard, round)).await
}

/// A speech without the word that ends the discussion, and whether that was its last, whatever marks stand around it.
fn last_word(text: &str) -> (&str, bool) {
    let words = text.trim_end_matches(|c: char| !c.is_alphanumeric());
    match words.strip_suffix(TERMINATE) {
        Some(before) if !before.ends_with(char::is_alphanumeric) => {
            (before.trim_end_matches(|c: char| c.is_whitespace() || "*_`\"'([".contains(c)).trim(), true)
        }
        Some(_) | None => (text.trim(), false),
    }
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
    crew: &[Member<'_>],
    said: &[Utterance],
    rounds_left: u32,
) -> StepResult<Choice> {
    let inputs = GroupChatSpeakerSelectionInputs {
        task: fleet.input.message.clone(),
        agents: fleet.agent_cards(crew.iter().map(|member| member.agent)),
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
            let at = crew.iter().position(|member| member.agent.name == speaker.next_speaker);
            Ok(at.map_or(Choice::Nobody, Choice::Speaker))
        }
        Err(failure) => {
            fleet.degrade(turn, "speaker selection", &failure);
            Ok(Choice::Nobody)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_that_ends_a_discussion_is_heard_whatever_marks_stand_around_it() {
        for (text, said) in [
            ("It is X.\nTERMINATE", ("It is X.", true)),
            ("It is X. **TERMINATE**.\n", ("It is X.", true)),
            ("TERMINATE", ("", true)),
            (" \"TERMINATE\" ", ("", true)),
            ("They cry EXTERMINATE", ("They cry EXTERMINATE", false)),
            ("TERMINATE is too early to say.", ("TERMINATE is too early to say.", false)),
            ("  ", ("", false)),
        ] {
            assert_eq!(last_word(text), said, "{text:?}");
        }
    }
}
