//! What llama.cpp's server says, recorded by `scripts/try-real-model` and shortened; the calls of tools are as its source
//! writes them, since the small model makes none.

use agentic_fleet::llm::Api;
use fleet_actors::event::Usage;
use fleet_actors::ports::{FinishReason, Role};
use serde_json::json;

use super::support::{Scripted, answer, ask, call, config, event_stream, make, run};

/// It opens with a `content` of null, and the usage follows the end in a chunk of its own.
const CHAT: &str = concat!(
    "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":null}}],\"created\":1795524248,\"id\":\"chatcmpl-X\",\"model\":\"smollm2-135m\",\"system_fingerprint\":\"b0-unknown\",\"object\":\"chat.completion.chunk\"}\n\n",
    "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\"Hello\"}}],\"model\":\"smollm2-135m\"}\n\n",
    "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{\"content\":\" there\"}}],\"model\":\"smollm2-135m\"}\n\n",
    "data: {\"choices\":[{\"finish_reason\":\"length\",\"index\":0,\"delta\":{}}],\"model\":\"smollm2-135m\"}\n\n",
    "data: {\"choices\":[],\"model\":\"smollm2-135m\",\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":32,\"total_tokens\":34,\"prompt_tokens_details\":{\"cached_tokens\":31}},\"timings\":{\"cache_n\":31,\"prompt_n\":1,\"predicted_n\":2}}\n\n",
    "data: [DONE]\n\n",
);

/// No event has a number, and an answer that the limit of tokens cut off is called completed.
const RESPONSES: &str = concat!(
    "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_0\",\"object\":\"response\",\"status\":\"in_progress\"}}\n\n",
    "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"item\":{\"content\":[],\"id\":\"msg_D\",\"role\":\"assistant\",\"status\":\"in_progress\",\"type\":\"message\"}}\n\n",
    "event: response.content_part.added\ndata: {\"type\":\"response.content_part.added\",\"item_id\":\"msg_D\",\"part\":{\"type\":\"output_text\",\"text\":\"\"}}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_D\",\"delta\":\"Hello\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_D\",\"delta\":\" there\"}\n\n",
    "event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"item_id\":\"msg_D\",\"text\":\"Hello there\"}\n\n",
    "event: response.output_item.done\ndata: {\"type\":\"response.output_item.done\",\"item\":{\"type\":\"message\",\"status\":\"completed\",\"id\":\"msg_D\",\"content\":[{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[],\"text\":\"Hello there\"}],\"role\":\"assistant\"}}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_0\",\"status\":\"completed\",\"model\":\"smollm2-135m\",\"output\":[{\"type\":\"message\",\"id\":\"msg_D\",\"content\":[{\"type\":\"output_text\",\"text\":\"Hello there\"}],\"role\":\"assistant\"}],\"usage\":{\"input_tokens\":32,\"output_tokens\":2,\"total_tokens\":34,\"input_tokens_details\":{\"cached_tokens\":31}}}}\n\n",
);

/// Text and two calls in one answer: what belongs together is told by `item_id` alone.
const CALLS: &str = concat!(
    "data: {\"type\":\"response.output_item.added\",\"item\":{\"content\":[],\"id\":\"msg_D\",\"role\":\"assistant\",\"type\":\"message\"}}\n\n",
    "data: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_D\",\"delta\":\"Looking.\"}\n\n",
    "data: {\"type\":\"response.output_item.added\",\"item\":{\"id\":\"fc_a\",\"arguments\":\"\",\"call_id\":\"call_a\",\"name\":\"find\",\"type\":\"function_call\",\"status\":\"in_progress\"}}\n\n",
    "data: {\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{\\\"q\\\":\",\"item_id\":\"fc_a\"}\n\n",
    "data: {\"type\":\"response.function_call_arguments.delta\",\"delta\":\"\\\"sea\\\"}\",\"item_id\":\"fc_a\"}\n\n",
    "data: {\"type\":\"response.output_item.added\",\"item\":{\"id\":\"fc_b\",\"arguments\":\"\",\"call_id\":\"call_b\",\"name\":\"find\",\"type\":\"function_call\",\"status\":\"in_progress\"}}\n\n",
    "data: {\"type\":\"response.function_call_arguments.delta\",\"delta\":\"{\\\"q\\\":\\\"boat\\\"}\",\"item_id\":\"fc_b\"}\n\n",
    "data: {\"type\":\"response.completed\",\"response\":{\"status\":\"completed\",\"model\":\"m\",\"output\":[]}}\n\n",
);

#[tokio::test]
async fn a_text_of_llama_cpp_is_read_once_with_its_usage_by_either_interface() {
    let usage = Usage { input_tokens: 32, output_tokens: 2, cached_tokens: 31, ..Usage::default() };
    for (api, body, end) in
        [(Api::ChatCompletions, CHAT, FinishReason::Length), (Api::Responses, RESPONSES, FinishReason::Stop)]
    {
        let reply = ask(api, event_stream(body.as_bytes())).await.expect("whole");
        assert_eq!(
            (reply.text.as_str(), reply.usage, reply.finish_reason),
            ("Hello there", Some(usage), end),
            "{api:?}"
        );
        assert_eq!((reply.model.as_str(), reply.simulated), ("smollm2-135m", false));
    }
}

#[tokio::test]
async fn calls_that_a_server_does_not_number_are_told_apart_by_their_ids() {
    let reply = ask(Api::Responses, event_stream(CALLS.as_bytes())).await.expect("whole");
    let calls: Vec<_> = reply.tool_calls.iter().map(|call| (call.id.as_str(), call.arguments.clone())).collect();
    assert_eq!(reply.text, "Looking.");
    assert_eq!(calls, [("call_a", json!({"q": "sea"})), ("call_b", json!({"q": "boat"}))]);
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_with_the_servers_own_words() {
    let body = br#"{"error":{"code":400,"message":"request (9031 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":9031,"n_ctx":8192}}"#;
    let refused = answer("400 Bad Request", &[("Content-Type", "application/json")], body);
    let failure = ask(Api::ChatCompletions, refused).await.expect_err("refused").failure;
    assert_eq!(&*failure.code, "provider_bad_request");
    assert!(failure.message.contains("exceeds the available context size (8192 tokens)"), "{}", failure.message);
}

#[tokio::test]
async fn what_an_assistant_said_is_sent_as_llama_cpp_and_openai_both_take_it() {
    let server = Scripted::start(|_| event_stream(RESPONSES.as_bytes())).await;
    let client = make(&config(Api::Responses, &server.base_url)).client(None);
    run(&*client, &call(&[(Role::User, "hi"), (Role::Assistant, "Hello."), (Role::User, "again")]))
        .await
        .expect("whole");
    // With a plain text as content it said 400 "Cannot determine type of 'item'".
    assert_eq!(
        server.request().body["input"],
        json!([
            {"role": "user", "content": "hi"},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]},
            {"role": "user", "content": "again"}])
    );
}
