//! What failures are called, and when another attempt is wanted.

use std::time::Duration;

use agentic_fleet::llm::{Api, BreakerPolicy, ConfigError, LlmConfig, Provider, RetryPolicy, clients, code};
use fleet_actors::ports::OutputForm;
use serde_json::json;

use super::support::{Scripted, answer, ask, code_of, config, event_stream, make, read_request, run, say};

#[tokio::test]
async fn a_rate_limit_fails_fast_and_passes_on_when_to_retry() {
    let now = ("date", "Wed, 21 Oct 2026 07:28:00 GMT");
    let cases = [
        (vec![("retry-after", "7")], Some(7_000)),
        (vec![("retry-after", "Wed, 21 Oct 2026 07:28:30 GMT"), now], Some(30_000)),
        (vec![("retry-after", "Wed, 21 Oct 2026 07:27:00 GMT"), now], Some(0)),
        (vec![("retry-after", "soon"), now], None),
        (vec![], None),
    ];
    for (headers, expected) in cases {
        let error =
            ask(Api::ChatCompletions, answer("429 Too Many Requests", &headers, b"{}")).await.expect_err("refused");
        assert_eq!((&*error.failure.code, error.failure.retry_after_ms), (code::RATE_LIMITED, expected), "{headers:?}");
        assert_eq!(error.retry_in, None, "no policy, no retry");
    }
}

#[tokio::test]
async fn every_status_has_its_code_and_no_text_holds_the_key() {
    let said = json!({"error": {"message": "bad key sk-canary-7391\u{1b}[31m\r\n", "code": "x"}}).to_string();
    for (status, expected) in [
        ("400 Bad Request", code::BAD_REQUEST),
        ("401 Unauthorized", code::AUTH),
        ("403 Forbidden", code::AUTH),
        ("404 Not Found", code::BAD_REQUEST),
        ("408 Request Timeout", code::TIMEOUT),
        ("422 Unprocessable", code::BAD_REQUEST),
        ("429 Too Many Requests", code::RATE_LIMITED),
        ("500 Internal", code::UNAVAILABLE),
        ("503 Unavailable", code::UNAVAILABLE),
    ] {
        let error = ask(Api::Responses, answer(status, &[], said.as_bytes())).await.expect_err("refused");
        assert_eq!(&*error.failure.code, expected, "{status}");
        let shown = format!("{error:?} {}", error.failure);
        assert!(!shown.contains("canary") && !shown.contains("127.0.0.1"), "{shown}");
        assert!(!error.failure.message.chars().any(char::is_control));
    }
    let long = json!({"error": {"message": "x".repeat(10_000)}}).to_string();
    let error = ask(Api::Responses, answer("400 Bad", &[], long.as_bytes())).await.expect_err("refused");
    assert!(error.failure.message.len() < 400);
}

#[tokio::test]
async fn errors_inside_a_stream_have_the_same_codes() {
    for (reported, expected) in [
        (json!({"code": "rate_limit_exceeded", "message": "m"}), code::RATE_LIMITED),
        (json!({"code": "server_error", "message": "m"}), code::UNAVAILABLE),
        (json!({"code": "invalid_prompt", "message": "m"}), code::BAD_REQUEST),
        (json!({"code": 503, "message": "m"}), code::UNAVAILABLE),
        (json!({"message": "m"}), code::UNAVAILABLE),
    ] {
        let chat = format!("data: {}\n\n", json!({ "error": reported }));
        assert_eq!(code_of(&ask(Api::ChatCompletions, event_stream(chat.as_bytes())).await), expected);
        let failed = format!(
            "data: {}\n\n",
            json!({"type": "response.failed", "response": {"status": "failed", "error": reported}})
        );
        assert_eq!(code_of(&ask(Api::Responses, event_stream(failed.as_bytes())).await), expected);
    }
    let bare = "data: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"m\"}\n\n";
    assert_eq!(code_of(&ask(Api::Responses, event_stream(bare.as_bytes())).await), code::UNAVAILABLE);
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_unavailable() {
    let outcome = run(&*make(&config(Api::Responses, "http://127.0.0.1:1/v1")).client(None), &say("hi")).await;
    assert_eq!(code_of(&outcome), code::UNAVAILABLE);
}

#[tokio::test]
async fn a_silent_provider_is_a_timeout_before_and_within_its_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        let mut open = Vec::new();
        for n in 0.. {
            let Ok((mut socket, _)) = listener.accept().await else { return };
            read_request(&mut socket).await;
            if n > 0 {
                let begun = event_stream(b"data: {\"choices\":[]}\n\n");
                let _ = tokio::io::AsyncWriteExt::write_all(&mut socket, &begun).await;
            }
            open.push(socket);
        }
    });
    let mut config = config(Api::ChatCompletions, &url);
    config.silence_timeout = Duration::from_millis(50);
    let clients = make(&config);
    for _ in 0..2 {
        assert_eq!(code_of(&run(&*clients.client(None), &say("hi")).await), code::TIMEOUT);
    }
}

#[tokio::test]
async fn with_a_policy_failures_ask_for_another_attempt_within_the_budget() {
    let refusal = answer("503 Unavailable", &[("retry-after", "2")], b"");
    let server = Scripted::start(move |_| refusal.clone()).await;
    let mut config = config(Api::ChatCompletions, &server.base_url);
    config.retry = Some(RetryPolicy::default());
    let clients = make(&config);
    let mut wanted = 0;
    for n in 0..100 {
        let error = run(&*clients.client(None), &say("hi")).await.expect_err("down");
        if let Some(delay) = error.retry_in {
            assert!((Duration::from_secs(2)..=Duration::from_millis(2_500)).contains(&delay), "{delay:?}");
            wanted += 1;
        }
        assert!(n > 0 || wanted == 1, "the first call may be tried again");
    }
    assert_eq!(wanted, 10, "a tenth, over all sessions");
}

#[tokio::test]
async fn after_five_failures_nobody_calls_the_provider() {
    let server = Scripted::start(|_| answer("500 Internal", &[], b"")).await;
    let mut config = config(Api::ChatCompletions, &server.base_url);
    config.breaker = Some(BreakerPolicy::default());
    let clients = make(&config);
    for _ in 0..5 {
        assert_eq!(code_of(&run(&*clients.client(None), &say("hi")).await), code::UNAVAILABLE);
    }
    let error = run(&*clients.client(None), &say("hi")).await.expect_err("left alone");
    assert_eq!(&*error.failure.code, code::CIRCUIT_OPEN);
    assert!(error.failure.retry_after_ms.is_some_and(|ms| ms <= 10_000));
    assert_eq!(server.requests(), 5);
}

#[tokio::test]
async fn a_schema_without_a_strict_form_is_refused_before_the_provider_is_called() {
    let server = Scripted::start(|_| Vec::new()).await;
    let mut call = say("hi");
    call.request.output = OutputForm::Json { name: "list".into(), schema: json!({"type": "array"}).into() };
    let outcome = run(&*make(&config(Api::Responses, &server.base_url)).client(None), &call).await;
    assert_eq!((code_of(&outcome).as_str(), server.requests()), (code::SCHEMA, 0));
}

#[test]
fn a_base_url_that_cannot_be_called_or_holds_credentials_is_refused_without_showing_it() {
    for url in ["localhost:8000", "ftp://x/v1", "http://user:secret@x/v1", "http://x/v1?key=secret", "http://"] {
        let config = LlmConfig { provider: Provider::OpenAi, base_url: Some(url.to_owned()), ..LlmConfig::default() };
        let error = clients(&config).err().expect("refused");
        assert!(matches!(error, ConfigError::BaseUrl(_)), "{url}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    let config = LlmConfig { provider: Provider::OpenAi, api_key: Some("line\nbreak".into()), ..LlmConfig::default() };
    assert_eq!(clients(&config).err(), Some(ConfigError::ApiKey));
}
