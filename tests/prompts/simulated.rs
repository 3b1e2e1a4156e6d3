//! The simulated model is a model that the pipeline can go on with: what it answers to every signature is read, and decides
//! as a sensible person might.

use std::borrow::Cow;
use std::collections::BTreeMap;

use agentic_fleet::llm::schema::strict;
use agentic_fleet::llm::simulate::{SimulatedRequest, Simulation};
use agentic_fleet::prompts::signatures::*;
use agentic_fleet::prompts::{OutputStyle, PromptConfig, Signature, parse, render, schema};
use fleet_actors::event::Channel;

use super::examples as given;

/// What the model says, asked with a schema, with its strict form as a provider would get it, and without one.
fn answers<S: Signature>(inputs: &S::Inputs, seed: u64) -> [S::Output; 3] {
    let plain = &*schema::<S>(inputs);
    let strict = &strict(plain).unwrap();
    let simulation = Simulation { seed, ..Simulation::default() };
    [(OutputStyle::Schema, Some(plain)), (OutputStyle::Schema, Some(strict)), (OutputStyle::Fenced, None)].map(
        |(form, schema)| {
            let config = PromptConfig { form, ..PromptConfig::default() };
            let messages = render::<S>(inputs, &config);
            let request = SimulatedRequest {
                model: "simulated",
                messages: messages
                    .iter()
                    .map(|message| (message.role, Cow::Borrowed(message.content.as_str())))
                    .collect(),
                schema,
                schema_name: if schema.is_some() { S::NAME } else { "" },
                attempt: 1,
                ..SimulatedRequest::default()
            };
            let said = simulation.simulate(&request, 1);
            assert_eq!(said, simulation.simulate(&request, 1), "the same question gets the same answer");
            let text = said.whole(Channel::Text);
            parse::<S>(&text, inputs).unwrap_or_else(|error| panic!("{} seed {seed}: {error}: {text}", S::NAME))
        },
    )
}

fn answer<S: Signature>(inputs: &S::Inputs) -> S::Output {
    let [first, ..] = answers::<S>(inputs, 1);
    first
}

#[test]
fn every_question_that_is_a_call_of_its_own_gets_an_answer_that_is_read_whatever_the_seed() {
    for seed in 0..50 {
        answers::<TaskAnalysis>(&given::analysis(), seed);
        answers::<TaskRouting>(&given::routing(), seed);
        answers::<AnalysisAndRouting>(&given::merged(), seed);
        answers::<ProgressEvaluation>(&given::progress(), seed);
        answers::<QualityAssessment>(&given::quality(), seed);
        answers::<GroupChatSpeakerSelection>(&given::speaker(), seed);
        answers::<HandoffProtocol>(&given::package(), seed);
        answers::<WorkflowNarration>(&given::narration(), seed);
        answers::<IntentClassification>(&given::intent(), seed);
        answers::<EntityExtraction>(&given::entities(), seed);
    }
}

fn route(task: &str, demanded_mode: Option<ExecutionMode>) -> (ExecutionMode, Vec<String>) {
    let inputs = TaskRoutingInputs { task: task.into(), demanded_mode, ..given::routing() };
    let routing = answer::<TaskRouting>(&inputs);
    let parts: Vec<_> = routing.subtasks.iter().map(|part| part.agent.clone()).collect();
    assert_eq!(parts, routing.assigned_to, "each agent has its part");
    (routing.execution_mode, routing.assigned_to)
}

#[test]
fn routing_fits_the_words_of_the_task() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let compare = "Compare Postgres and SQLite and write a one-page brief";
    assert_eq!(route(compare, None), (ExecutionMode::Parallel, names(&["researcher", "analyst", "writer"])));
    assert_eq!(route("Write a haiku", None), (ExecutionMode::Delegated, names(&["writer"])));
    assert_eq!(route("Find the latest news and write a summary", None).0, ExecutionMode::Sequential);
    assert_eq!(route("Discuss whether to analyse or to write", None).0, ExecutionMode::Discussion);
    assert_eq!(route("Let the analyst do it", None), (ExecutionMode::Delegated, names(&["analyst"])));
    let (mode, agents) = route("Hello there", Some(ExecutionMode::Parallel));
    assert_eq!((mode, agents.len()), (ExecutionMode::Parallel, 2), "a demanded mode is followed, with company");
    let analysis = answer::<TaskAnalysis>(&TaskAnalysisInputs { task: compare.into(), ..given::analysis() });
    assert!(analysis.needs_web_search && analysis.preferred_tools == ["tavily_search"], "{analysis:?}");
    let small = answer::<TaskAnalysis>(&TaskAnalysisInputs { task: "Say hi".into(), ..given::analysis() });
    assert_eq!((small.complexity, small.needs_web_search, small.search_query), (Complexity::Low, false, None));
}

#[test]
fn judges_are_content_with_work_and_not_with_nothing() {
    let mut scores = BTreeMap::new();
    for seed in 0..50 {
        for quality in answers::<QualityAssessment>(&given::quality(), seed) {
            assert!((7.5..=9.0).contains(&quality.score), "{}", quality.score);
            *scores.entry(quality.score.to_string()).or_insert(0) += 1;
        }
    }
    assert_eq!(scores.len(), 4, "scores vary: {scores:?}");
    let nothing = QualityAssessmentInputs { answer: String::new(), ..given::quality() };
    assert!(answer::<QualityAssessment>(&nothing).score < 1.0);
    assert_eq!(answer::<ProgressEvaluation>(&given::progress()).action, ProgressAction::Complete);
    let nothing = ProgressEvaluationInputs { result: String::new(), ..given::progress() };
    assert_eq!(answer::<ProgressEvaluation>(&nothing).action, ProgressAction::Continue);
}

#[test]
fn a_discussion_hears_everybody_and_ends() {
    let mut inputs = GroupChatSpeakerSelectionInputs { discussion: Vec::new(), ..given::speaker() };
    let mut heard = Vec::new();
    while heard.len() < 20 {
        let next = answer::<GroupChatSpeakerSelection>(&inputs);
        if next.terminates() {
            break;
        }
        heard.push(next.next_speaker.clone());
        inputs.discussion.push(Utterance { speaker: next.next_speaker, text: "I agree.".into() });
    }
    assert_eq!(heard, ["researcher", "analyst", "writer", "researcher"]);
}

#[test]
fn what_a_message_orders_the_answer_to_be_does_not_spoil_the_decisions_on_the_way() {
    let task = "Write a poem [[sim:say=exactly this]] [[sim:tokens=3]]";
    let (mode, agents) = route(task, None);
    assert_eq!((mode, agents), (ExecutionMode::Delegated, vec!["writer".to_owned()]));
}
