//! A run that asks: the steps it makes, the repair call, the typed error, and that a replay asks nobody.

use agentic_fleet::prompts::signatures::{QualityAssessment, QualityAssessmentInputs};
use agentic_fleet::prompts::{OutputStyle, PromptConfig, ask};
use fleet_actors::event::{Failure, RunOutcome};
use fleet_actors::ports::{
    ChatMessage, FinishReason, LocalFuture, ModelCall, ModelReply, OutputForm, Role, RunOutput, TaskInput,
};
use fleet_actors::testing::script::{Reply, Script};
use fleet_actors::turn::{StepResult, Turn};
use serde_json::{Value, json};

const GOOD: &str = r#"{"score": 8, "missing_elements": [], "required_improvements": [], "reasoning": "fine"}"#;

fn judge<'a>(turn: &'a mut Turn, input: &'a TaskInput) -> LocalFuture<'a, StepResult<RunOutput>> {
    Box::pin(async move {
        let config = turn.pinned::<PromptConfig>()?;
        let inputs =
            QualityAssessmentInputs { task: input.message.clone(), context: String::new(), answer: "42".to_owned() };
        let quality = ask::<QualityAssessment>(turn, "quality", &inputs, &config, Some("judge")).await?;
        turn.emit(&json!({ "score": quality.score }));
        Ok(RunOutput { text: format!("{}", quality.score), ..RunOutput::default() })
    })
}

fn config(form: OutputStyle) -> Value {
    let config = PromptConfig {
        model: "m".into(),
        temperature: Some(0.5),
        output_tokens_max: Some(500),
        form,
        ..PromptConfig::default()
    };
    serde_json::to_value(config).unwrap()
}

fn messages(call: &ModelCall) -> Vec<ChatMessage> {
    call.request.context.messages().into_iter().cloned().collect()
}

fn cut_off(text: &str) -> ModelReply {
    ModelReply { text: text.to_owned(), finish_reason: FinishReason::Length, ..ModelReply::default() }
}

fn script() -> Script {
    Script::new(judge, "What is the answer?", config(OutputStyle::Schema))
}

#[test]
fn a_good_answer_is_one_call_and_a_replay_makes_none() {
    let ran = script().model(|_| GOOD).run();
    assert_eq!(ran.result().text, "8");
    assert_eq!(ran.model_steps(), ["quality#0"]);
    let request = &ran.model_calls[0].request;
    assert!(matches!(&request.output, OutputForm::Json { name, .. } if name == "QualityAssessment"));
    assert_eq!(
        (request.agent.as_deref(), request.temperature, request.max_output_tokens),
        (Some("judge"), Some(0.5), Some(500))
    );
    assert_eq!(ran.emitted().collect::<Vec<_>>(), [&json!({ "score": 8.0 })]);
    ran.replay();
}

#[test]
fn an_unusable_answer_gets_one_repair_call_that_shows_the_error() {
    let ran =
        script()
            .model(|call| {
                if call.request.context.messages().len() == 2 { r#"{"score": 80, "reasoning": "great"}"# } else { GOOD }
            })
            .run();
    assert_eq!(ran.result().text, "8");
    assert_eq!(ran.model_steps(), ["quality#0", "quality_repair#0"]);
    let [first, second] = &ran.model_calls[..] else { panic!("{} calls", ran.model_calls.len()) };
    let (before, after) = (first.request.context.messages(), second.request.context.messages());
    assert_eq!(after[..2], before[..], "the repair goes on from what was asked");
    assert_eq!((after[2].role, after[2].content.contains("80")), (Role::Assistant, true));
    assert!(after[3].content.contains("score must be 0 to 10, not 80"), "{}", after[3].content);
    assert_eq!(second.request.output, first.request.output);
    ran.replay();
    // Whenever the process dies, what has a result is not paid for again.
    for records in 0..=ran.records.len() {
        let paid = ran.records[..records].iter().filter(|entry| entry.record.kind() == "step_completed").count();
        let again = ran.crashed_after(records);
        assert_eq!(again.model_calls.len(), 2 - paid, "died after {records} records");
        assert_eq!(again.history.result, ran.history.result);
    }
}

#[test]
fn two_unusable_answers_are_a_typed_error_that_says_why() {
    for (said, why) in
        [("", "it is empty"), ("no idea", "it has no JSON object"), ("{\"score\": null}", "invalid type: null")]
    {
        let ran = script().model(move |_| said).run();
        assert_eq!((ran.outcome(), ran.model_calls.len()), (RunOutcome::Failed, 2), "{said:?}");
        let error = ran.history.error.clone().unwrap();
        assert_eq!(&*error.code, "prompt_output_invalid");
        assert!(error.message.starts_with("QualityAssessment") && error.message.contains(why), "{}", error.message);
        ran.replay();
    }
}

#[test]
fn an_answer_that_the_token_limit_cut_before_its_decision_is_asked_for_again_shorter() {
    // The number may have been the beginning of a longer one.
    for cut in ["{\"score\"", "{\"score\": 8"] {
        let ran = script()
            .model(move |call| match call.request.context.messages().len() {
                2 => cut_off(cut),
                _ => ModelReply { text: GOOD.to_owned(), ..ModelReply::default() },
            })
            .run();
        assert_eq!(ran.result().text, "8");
        assert!(ran.model_calls[1].request.context.messages()[3].content.contains("be shorter"));
        ran.replay();
    }
}

#[test]
fn an_answer_that_the_token_limit_cut_behind_its_decision_costs_no_repair_call() {
    let again = r#"{"missing_elements": ["a source"], "score": 3, "reasoning": "the sea, the sea, the sea, the"#;
    let ran = script().model(move |_| cut_off(again)).run();
    assert_eq!((ran.result().text.as_str(), ran.model_calls.len()), ("3", 1));
    ran.replay();
    // A model that stops by itself in the middle has not said that it would have gone on like this.
    let ran = script().model(move |_| Reply::from(again)).run();
    assert_eq!((&*ran.history.error.as_ref().unwrap().code, ran.model_calls.len()), ("prompt_output_invalid", 2));
}

#[test]
fn a_call_that_failed_is_not_repaired() {
    let ran = script().model(|_| Reply::from(Failure::new("provider_unavailable", "down"))).run();
    assert_eq!(ran.model_calls.len(), 1);
    assert_eq!(&*ran.history.error.as_ref().unwrap().code, "provider_unavailable");
    ran.replay();
}

#[test]
fn a_schema_that_the_provider_refuses_is_asked_for_in_fenced_form_and_repaired_there() {
    let ran = Script::new(judge, "q", config(OutputStyle::Auto))
        .model(|call| match (&call.request.output, call.request.context.messages().len()) {
            (OutputForm::Json { .. }, _) => {
                Reply::from(Failure::new("provider_bad_request", "no response_format here"))
            }
            (OutputForm::Text, 2) => Reply::from("an eight"),
            (OutputForm::Text, _) => Reply::from(format!("```json\n{GOOD}\n```")),
        })
        .run();
    assert_eq!(ran.result().text, "8");
    assert_eq!(ran.model_steps(), ["quality#0", "quality_fenced#0", "quality_repair#0"]);
    assert!(ran.model_calls[1].request.context.messages()[0].content.contains("in a ```json fence"));
    ran.replay();
}

#[test]
fn a_server_that_takes_a_schema_and_ignores_it_gets_the_schema_in_words_with_the_repair() {
    let asked = |form| {
        let good = |call: &_| if messages(call).len() == 2 { "The sea is a beautiful place." } else { GOOD };
        let ran = Script::new(judge, "q", config(form)).model(good).run();
        assert_eq!((ran.result().text.as_str(), ran.model_calls.len()), ("8", 2));
        ran.replay();
        messages(&ran.model_calls[1])[3].content.clone()
    };
    let auto = asked(OutputStyle::Auto);
    assert!(auto.contains("fit this JSON schema:\n{") && auto.contains("required_improvements"), "{auto}");
    // Who says that the schema is enforced, or has it in the prompt, pays for no second copy.
    for form in [OutputStyle::Schema, OutputStyle::Fenced] {
        assert!(!asked(form).contains("schema:"), "{form:?}");
    }
}

#[test]
fn an_answer_that_was_cut_in_the_form_of_the_schema_is_asked_for_again_without_a_second_copy_of_it() {
    for (said, copied) in [
        ("{\"missing_elements\": [\"the sea\"], \"reasoning\": \"The", false),
        ("{\"answer\": \"The sea\", \"a", true),
        ("The sea is a", true),
    ] {
        let answer = move |call: &ModelCall| match messages(call).len() {
            2 => cut_off(said),
            _ => ModelReply { text: GOOD.to_owned(), ..ModelReply::default() },
        };
        let ran = Script::new(judge, "q", config(OutputStyle::Auto)).model(answer).run();
        assert_eq!((ran.result().text.as_str(), ran.model_calls.len()), ("8", 2));
        let repair = messages(&ran.model_calls[1])[3].content.clone();
        assert_eq!(repair.contains("JSON schema:"), copied, "{repair}");
        ran.replay();
    }
}

#[test]
fn auto_is_one_call_with_a_schema_and_another_failure_is_not_asked_again() {
    let ran = Script::new(judge, "q", config(OutputStyle::Auto)).model(|_| GOOD).run();
    assert_eq!(ran.model_steps(), ["quality#0"]);
    assert!(matches!(ran.model_calls[0].request.output, OutputForm::Json { .. }));
    let down = |_: &_| Reply::from(Failure::new("provider_unavailable", "down"));
    let ran = Script::new(judge, "q", config(OutputStyle::Auto)).model(down).run();
    assert_eq!((ran.model_calls.len(), &*ran.history.error.as_ref().unwrap().code), (1, "provider_unavailable"));
    let ran = Script::new(judge, "q", config(OutputStyle::Schema))
        .model(|_| Reply::from(Failure::new("provider_bad_request", "no")))
        .run();
    assert_eq!((ran.model_calls.len(), &*ran.history.error.as_ref().unwrap().code), (1, "provider_bad_request"));
}

#[test]
fn fenced_form_asks_for_text_and_names_the_signature_in_the_first_line() {
    let ran =
        Script::new(judge, "q", config(OutputStyle::Fenced)).model(|_| format!("Gladly:\n```json\n{GOOD}\n```")).run();
    assert_eq!(ran.result().text, "8");
    let request = &ran.model_calls[0].request;
    assert_eq!(request.output, OutputForm::Text);
    assert!(request.context.messages()[0].content.starts_with("# QualityAssessment\n"));
}
