//! What is sent, and what answers become.

use agentic_fleet::llm::{Api, LlmConfig, LlmIdentity, ModelRule, Price, Provider};
use fleet_actors::event::Usage;
use fleet_actors::ports::{
    ChatMessage, FinishReason, ModelReply, OutputForm, ReasoningEffort, Role, ToolRequest, ToolSpec,
};
use serde_json::json;

use super::support::{Scripted, answer, ask, call, config, event_stream, json_answer, make, run, say};

/// A chat stream with everything in it: comments, unknown events and fields, reasoning, two tools, usage.
pub const CHAT: &str = concat!(
    ": keep-alive\n\n",
    "data: {\"id\":\"c1\",\"model\":\"gpt-x-2026\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"novel\":{\"a\":[1]}}\n\n",
    "event: surprise\ndata: {\"object\":\"something.new\"}\n\n",
    "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"Hm. \"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"content\":\"Hé\"}}]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"another choice\"}},{\"index\":0,\"delta\":{\"content\":\"llo 👋\"}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"t0\",\"type\":\"function\",\"function\":{\"name\":\"find\",\"arguments\":\"\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"q\\\":\"}},{\"index\":1,\"id\":\"t1\",\"function\":{\"name\":\"now\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":5,\"completion_tokens_details\":{\"reasoning_tokens\":2},\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n",
    "data: [DONE]\n\n",
);

/// The same answer by Responses.
pub const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"r\",\"status\":\"in_progress\"}}\n\n",
    "data: {\"type\":\"response.output_item.added\",\"output_index\":0,\"item\":{\"type\":\"reasoning\",\"id\":\"rs\"}}\n\n",
    "data: {\"type\":\"response.reasoning_summary_text.delta\",\"output_index\":0,\"delta\":\"Hm. \"}\n\n",
    "data: {\"type\":\"response.novelty.delta\",\"delta\":\"skip me\"}\n\n",
    "data: {\"type\":\"response.output_text.delta\",\"output_index\":1,\"content_index\":0,\"delta\":\"Hé\"}\n\n",
    "data: {\"type\":\"response.output_text.delta\",\"output_index\":1,\"content_index\":0,\"delta\":\"llo 👋\",\"logprobs\":[]}\n\n",
    "data: {\"type\":\"response.output_text.done\",\"output_index\":1,\"content_index\":0,\"text\":\"Héllo 👋\"}\n\n",
    "data: {\"type\":\"response.output_item.added\",\"output_index\":2,\"item\":{\"type\":\"function_call\",\"id\":\"fc\",\"call_id\":\"t0\",\"name\":\"find\",\"arguments\":\"\"}}\n\n",
    "data: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":2,\"item_id\":\"fc\",\"delta\":\"{\\\"q\\\"\"}\n\n",
    "data: {\"type\":\"response.function_call_arguments.done\",\"output_index\":2,\"item_id\":\"fc\",\"arguments\":\"{\\\"q\\\":1}\"}\n\n",
    "data: {\"type\":\"response.output_item.done\",\"output_index\":3,\"item\":{\"type\":\"function_call\",\"call_id\":\"t1\",\"name\":\"now\",\"arguments\":\"\"}}\n\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"model\":\"gpt-x-2026\",\"output\":[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"Héllo 👋\"}]}],\"usage\":{\"input_tokens\":9,\"output_tokens\":5,\"output_tokens_details\":{\"reasoning_tokens\":2},\"input_tokens_details\":{\"cached_tokens\":4}}}}\n\n",
);

pub fn expected() -> ModelReply {
    let tool = |id: &str, name: &str, arguments| ToolRequest { id: id.to_owned(), name: name.to_owned(), arguments };
    ModelReply {
        text: "Héllo 👋".to_owned(),
        reasoning: "Hm. ".to_owned(),
        tool_calls: vec![tool("t0", "find", json!({"q": 1})), tool("t1", "now", json!({}))],
        usage: Some(Usage {
            input_tokens: 9,
            output_tokens: 5,
            reasoning_tokens: 2,
            cached_tokens: 4,
            cost_nanousd: None,
        }),
        finish_reason: FinishReason::ToolCalls,
        model: "gpt-x-2026".to_owned(),
        simulated: false,
    }
}

#[tokio::test]
async fn both_protocols_give_the_same_reply_and_skip_what_they_do_not_know() {
    assert_eq!(ask(Api::ChatCompletions, event_stream(CHAT.as_bytes())).await.expect("whole"), expected());
    assert_eq!(ask(Api::Responses, event_stream(RESPONSES.as_bytes())).await.expect("whole"), expected());
}

#[tokio::test]
async fn every_client_says_what_a_call_cost_when_the_model_asked_for_has_a_price() {
    let price = Some(Price::per_million(2.0, 0.5, 8.0));
    let models = vec![ModelRule { price, ..ModelRule::plain("simul*") }];
    // 5 tokens of prompt at 2,000 billionths, 4 cached ones at 500, 5 of answer at 8,000.
    for (api, body) in [(Api::ChatCompletions, CHAT), (Api::Responses, RESPONSES)] {
        let server = Scripted::start(move |_| event_stream(body.as_bytes())).await;
        let config = LlmConfig { models: models.clone(), ..config(api, &server.base_url) };
        let reply = run(&*make(&config).client(None), &say("hi")).await.expect("whole");
        assert_eq!(reply.usage.and_then(|usage| usage.cost_nanousd), Some(52_000), "{api:?}");
    }
    let simulated = LlmConfig { provider: Provider::Simulated, models, ..LlmConfig::default() };
    let reply = run(&*make(&simulated).client(None), &say("hi")).await.expect("whole");
    let usage = reply.usage.expect("it counts");
    assert_eq!(usage.cost_nanousd, Some(usage.input_tokens * 2_000 + usage.output_tokens * 8_000));
    let unpriced = LlmConfig { models: Vec::new(), ..simulated };
    let reply = run(&*make(&unpriced).client(None), &say("hi")).await.expect("whole");
    assert_eq!(reply.usage.and_then(|usage| usage.cost_nanousd), None);
}

#[tokio::test]
async fn a_provider_that_ignores_streaming_is_understood() {
    let chat = json!({"model": "gpt-x-2026", "choices": [{"message": {"content": "Héllo 👋", "reasoning": "Hm. ",
        "tool_calls": [{"id": "t0", "function": {"name": "find", "arguments": "{\"q\":1}"}}, {"id": "t1", "function": {"name": "now"}}]},
        "finish_reason": "tool_calls"}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 2},
                  "prompt_tokens_details": {"cached_tokens": 4}}});
    assert_eq!(ask(Api::ChatCompletions, json_answer(&chat)).await.expect("whole"), expected());
    let responses = json!({"model": "gpt-x-2026", "status": "completed", "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm. "}]},
        {"type": "message", "content": [{"type": "output_text", "text": "Héllo 👋"}]},
        {"type": "function_call", "call_id": "t0", "name": "find", "arguments": "{\"q\":1}"},
        {"type": "function_call", "call_id": "t1", "name": "now", "arguments": "{}"}],
        "usage": {"input_tokens": 9, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2},
                  "input_tokens_details": {"cached_tokens": 4}}});
    assert_eq!(ask(Api::Responses, json_answer(&responses)).await.expect("whole"), expected());
}

#[tokio::test]
async fn an_answer_that_hits_its_limit_or_a_filter_says_so_and_keeps_its_text() {
    for (word, reason) in [("length", FinishReason::Length), ("content_filter", FinishReason::ContentFilter)] {
        let body =
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"half\"}},\"finish_reason\":\"{word}\"}}]}}\n\n");
        let reply = ask(Api::ChatCompletions, event_stream(body.as_bytes())).await.expect("an end of its own");
        assert_eq!((reply.text.as_str(), reply.finish_reason), ("half", reason));
        let word = if word == "length" { "max_output_tokens" } else { word };
        let body = format!(
            "data: {{\"type\":\"response.incomplete\",\"response\":{{\"status\":\"incomplete\",\
             \"incomplete_details\":{{\"reason\":\"{word}\"}},\"output\":[{{\"type\":\"message\",\"content\":[{{\"type\":\"output_text\",\"text\":\"half\"}}]}}]}}}}\n\n"
        );
        let reply = ask(Api::Responses, event_stream(body.as_bytes())).await.expect("an end of its own");
        assert_eq!((reply.text.as_str(), reply.finish_reason), ("half", reason));
    }
}

#[tokio::test]
async fn a_stream_without_a_content_type_is_still_a_stream() {
    let reply = ask(Api::ChatCompletions, answer("200 OK", &[], CHAT.as_bytes())).await.expect("whole");
    assert_eq!(reply, expected());
}

fn full_call() -> fleet_actors::ports::ModelCall {
    let mut call = call(&[(Role::System, "Be brief."), (Role::User, "Find it.")]);
    let mut asked = ChatMessage::new(Role::Assistant, "");
    asked.tool_calls = vec![ToolRequest { id: "t0".into(), name: "find".into(), arguments: json!({"q": 1}) }];
    let mut found = ChatMessage::new(Role::Tool, "42");
    found.tool_call_id = Some("t0".into());
    call.request.context = call.request.context.with(asked).with(found);
    call.request.tools =
        [ToolSpec { name: "find".into(), description: "Finds.".into(), parameters: json!({"type": "object"}) }.into()]
            .into();
    call.request.output = OutputForm::Json {
        name: "verdict".into(),
        schema: json!({"type": "object", "properties": {"ok": {"type": "boolean"}, "why": {"type": "string"}}, "required": ["ok"]}).into(),
    };
    call.request.temperature = Some(0.5);
    call.request.max_output_tokens = Some(64);
    call
}

fn strict_schema() -> serde_json::Value {
    json!({"type": "object", "properties": {"ok": {"type": "boolean"}, "why": {"type": ["string", "null"]}},
        "required": ["ok", "why"], "additionalProperties": false})
}

#[tokio::test]
async fn a_chat_request_carries_everything_a_call_has() {
    let server = Scripted::start(|_| event_stream(CHAT.as_bytes())).await;
    let client = make(&config(Api::ChatCompletions, &server.base_url)).client(Some(ReasoningEffort::Maximal));
    run(&*client, &full_call()).await.expect("whole");
    let request = server.request();
    assert!(request.head.starts_with("post /v1/chat/completions http/1.1"), "{}", request.head);
    assert!(request.head.contains("authorization: bearer sk-canary-7391"));
    assert!(request.head.contains("idempotency-key: run-1/step-1"));
    assert_eq!(
        request.body,
        json!({
            "model": "simulated", "stream": true, "stream_options": {"include_usage": true},
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Find it."},
                {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "t0", "type": "function", "function": {"name": "find", "arguments": "{\"q\":1}"}}]},
                {"role": "tool", "content": "42", "tool_call_id": "t0"}],
            "tools": [{"type": "function", "function": {"name": "find", "description": "Finds.", "parameters": {"type": "object"}}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "strict": true, "schema": strict_schema()}},
            "reasoning_effort": "high", "temperature": 0.5, "max_tokens": 64,
        })
    );
}

#[tokio::test]
async fn a_responses_request_carries_everything_a_call_has() {
    let server = Scripted::start(|_| event_stream(RESPONSES.as_bytes())).await;
    let client = make(&config(Api::Responses, &server.base_url)).client(Some(ReasoningEffort::Minimal));
    run(&*client, &full_call()).await.expect("whole");
    let request = server.request();
    assert!(request.head.starts_with("post /v1/responses http/1.1"), "{}", request.head);
    assert_eq!(
        request.body,
        json!({
            "model": "simulated", "stream": true, "store": false,
            "input": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Find it."},
                {"type": "function_call", "call_id": "t0", "name": "find", "arguments": "{\"q\":1}"},
                {"type": "function_call_output", "call_id": "t0", "output": "42"}],
            "tools": [{"type": "function", "name": "find", "description": "Finds.", "parameters": {"type": "object"}, "strict": false}],
            "text": {"format": {"type": "json_schema", "name": "verdict", "strict": true, "schema": strict_schema()}},
            "reasoning": {"effort": "minimal"}, "temperature": 0.5, "max_output_tokens": 64,
        })
    );
}

#[tokio::test]
async fn effort_and_temperature_are_sent_only_to_models_that_take_them() {
    for (model, effort, temperature) in [
        ("gpt-4o", json!(null), json!(0.5)),
        ("gpt-5-mini", json!("minimal"), json!(null)),
        ("o3", json!("low"), json!(null)),
    ] {
        let server = Scripted::start(|_| event_stream(CHAT.as_bytes())).await;
        let client = make(&config(Api::ChatCompletions, &server.base_url)).client(Some(ReasoningEffort::Minimal));
        let mut call = say("hi");
        call.request.model = model.into();
        call.request.temperature = Some(0.5);
        run(&*client, &call).await.expect("whole");
        let body = server.request().body;
        assert_eq!((&body["reasoning_effort"], &body["temperature"]), (&effort, &temperature), "{model}");
    }
}

#[test]
fn who_answers_follows_from_key_and_base_url() {
    let of = |provider, key: Option<&str>, url: Option<&str>| {
        LlmIdentity::of(&LlmConfig {
            provider,
            api_key: key.map(Into::into),
            base_url: url.map(str::to_owned),
            ..LlmConfig::default()
        })
    };
    assert!(of(Provider::Auto, None, None).is_simulated());
    assert!(of(Provider::Auto, Some(""), Some(" ")).is_simulated(), "empty variables are unset");
    assert!(of(Provider::Simulated, Some("k"), None).is_simulated());
    let shown = |identity: LlmIdentity| identity.to_string();
    assert_eq!(shown(of(Provider::Auto, Some("k"), None)), "gpt-4.1-mini at https://api.openai.com/v1 (responses)");
    assert_eq!(
        shown(of(Provider::Auto, None, Some("http://u:secret@localhost:1/v1/?key=secret"))),
        "gpt-4.1-mini at http://localhost:1/v1/ (chat_completions, without a key)"
    );
}
