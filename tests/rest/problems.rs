//! Every refusal is a problem body, whoever made it; each wrong field is named.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::app::{Script, TestApp};

async fn problem(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json", "{status}");
    assert!(response.headers().contains_key("x-request-id"));
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["status"], status, "{body}");
    for field in ["type", "title", "detail", "code"] {
        assert!(body[field].is_string(), "{field}: {body}");
    }
    for wrong in body["errors"].as_array().into_iter().flatten() {
        assert!(wrong["field"].is_string() && wrong["message"].is_string(), "{body}");
    }
    (status, body)
}

fn fields(body: &Value) -> Vec<&str> {
    let errors = body["errors"].as_array().into_iter().flatten();
    errors.map(|error| error["field"].as_str().unwrap()).collect()
}

/// A run that is over, in the conversation `talk`.
async fn of_talk(app: &TestApp) -> String {
    app.get("/api/chat/talk/stream?message=hello").await.text().await.unwrap();
    let talk: Value = app.get("/api/v1/conversations/talk").await.json().await.unwrap();
    talk["messages"][0]["workflow_id"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn every_route_that_takes_a_body_refuses_bad_ones_alike() {
    let app = TestApp::spawn(Script::Answers("hi"), 4);
    let workflow = of_talk(&app).await;
    let calls = app.model_calls();
    let routes = [
        "/api/v1/run".to_owned(),
        "/api/v1/runs".to_owned(),
        "/api/v1/conversations".to_owned(),
        format!("/api/chat/talk/respond?workflow_id={workflow}"),
        format!("/api/v1/workflows/{workflow}/respond"),
    ];
    for path in &routes {
        let deep = |open: &str, close: &str| format!("{{\"task\":{}{}}}", open.repeat(10_000), close.repeat(10_000));
        let table = [
            (String::new(), 400, "malformed_json"),
            ("{".to_owned(), 400, "malformed_json"),
            ("{}x".to_owned(), 400, "malformed_json"),
            ("\u{feff}{}".to_owned(), 400, "malformed_json"),
            (deep("[", "]"), 400, "malformed_json"),
            (deep("{\"a\":", "}"), 400, "malformed_json"),
            ("[]".to_owned(), 422, "validation_failed"),
            ("null".to_owned(), 422, "validation_failed"),
            (r#"{"surprise":1}"#.to_owned(), 422, "validation_failed"),
            (format!("\"{}\"", "x".repeat(1 << 20)), 413, "body_too_large"),
        ];
        for (body, status, code) in table {
            let start: String = body.chars().take(20).collect();
            let (got, answer) = problem(app.post(path, body).await).await;
            assert_eq!((got, &answer["code"]), (status, &json!(code)), "{path} {start}");
        }
        for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
            let request = app.http.post(format!("{}{path}", app.url)).header("content-type", kind).body("{}");
            let (got, answer) = problem(request.send().await.unwrap()).await;
            assert_eq!((got, &answer["code"]), (415, &json!("unsupported_media_type")), "{path} `{kind}`");
        }
        for kinds in [["application/json", "text/plain"], ["text/plain", "application/json"]] {
            let request = app.http.post(format!("{}{path}", app.url)).body("{}");
            let request = kinds.iter().fold(request, |request, kind| request.header("content-type", *kind));
            let (got, answer) = problem(request.send().await.unwrap()).await;
            assert_eq!((got, &answer["code"]), (415, &json!("unsupported_media_type")), "{path} {kinds:?}");
        }
        // A chunked body has no length to be refused by.
        let chunks = (0..20).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10]));
        let stream = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
        let (got, _) = problem(app.request(path, "").body(stream).send().await.unwrap()).await;
        assert_eq!(got, 413, "{path}");
    }
    assert_eq!(app.model_calls(), calls);
}

#[actix_web::test]
async fn every_wrong_field_of_a_body_is_named_once() {
    let app = TestApp::spawn(Script::Answers("hi"), 4);
    let workflow = of_talk(&app).await;
    let respond = format!("/api/v1/workflows/{workflow}/respond");
    let long = "x".repeat(32_769);
    let title = "x".repeat(201);
    let table: Vec<(&str, Value, &[&str])> = vec![
        ("/api/v1/run", json!({}), &["task"]),
        ("/api/v1/run", json!({ "task": null }), &["task"]),
        ("/api/v1/run", json!({ "task": "" }), &["task"]),
        ("/api/v1/run", json!({ "task": " \n\t\u{a0}" }), &["task"]),
        ("/api/v1/run", json!({ "task": long }), &["task"]),
        ("/api/v1/run", json!({ "task": 7, "mode": 7 }), &["task", "mode"]),
        ("/api/v1/run", json!({ "task": "t", "mode": "dance" }), &["mode"]),
        ("/api/v1/run", json!({ "task": 7, "mode": [], "a": 1, "b": 2 }), &["task", "mode", "a", "b"]),
        ("/api/v1/runs", json!({ "task": "  " }), &["task"]),
        ("/api/v1/runs", json!({ "message": "t" }), &["task", "message"]),
        ("/api/v1/conversations", json!({ "title": 7 }), &["title"]),
        ("/api/v1/conversations", json!({ "title": title }), &["title"]),
        ("/api/v1/conversations", json!({ "name": "n" }), &["name"]),
        (&respond, json!({}), &["request_id", "response"]),
        (&respond, json!({ "request_id": "a b", "response": null }), &["request_id"]),
        (&respond, json!({ "request_id": 7, "response": 1, "x": 1 }), &["request_id", "x"]),
    ];
    for (path, body, wrong) in table {
        let (status, answer) = problem(app.post(path, body.to_string()).await).await;
        assert_eq!((status, &answer["code"]), (422, &json!("validation_failed")), "{body}");
        assert_eq!(fields(&answer), wrong, "{answer}");
        assert!(answer["detail"].as_str().unwrap().starts_with(wrong[0]), "{answer}");
    }
}

#[actix_web::test]
async fn wrong_paths_queries_and_headers_are_problems_that_name_what_is_wrong() {
    let app = TestApp::spawn(Script::Answers("hi"), 4);
    let long = format!("/api/chat/talk/stream?message={}", "x".repeat(8_193));
    let table: Vec<(&str, u16, &[&str])> = vec![
        ("/nothing", 404, &[]),
        ("/docs/nothing", 404, &[]),
        ("/api/v1/sessions/a%20b", 404, &[]),
        ("/api/v1/sessions/%ff", 404, &[]),
        ("/api/v1/history/%00", 404, &[]),
        ("/api/v1/conversations/..", 404, &[]),
        ("/api/v1/checkpoints/x:y", 404, &[]),
        ("/api/v1/checkpoints/x:%2B1", 404, &[]),
        ("/api/v1/checkpoints?workflow_id=w&before=%2B5", 422, &["before"]),
        ("/api/v1/checkpoints?workflow_id=%ff", 422, &["workflow_id"]),
        ("/api/v1/checkpoints", 422, &["workflow_id"]),
        ("/api/v1/workflows/a%20b/events", 404, &[]),
        ("/api/v1/history?limit=0", 422, &["limit"]),
        ("/api/v1/history?limit=101", 422, &["limit"]),
        ("/api/v1/history?limit=%2B5", 422, &["limit"]),
        ("/api/v1/history?offset=-1", 422, &["offset"]),
        ("/api/v1/history?offset=%2B5", 422, &["offset"]),
        ("/api/v1/history?before=%20", 422, &["before"]),
        ("/api/v1/history?before=a&offset=1", 422, &["before"]),
        ("/api/v1/history?before=zzz", 422, &["before"]),
        ("/api/v1/conversations?limit=many", 422, &["limit"]),
        ("/api/v1/conversations?offset=99999999999999999999", 422, &["offset"]),
        ("/api/chat/talk/stream", 422, &["message"]),
        ("/api/chat/talk/stream?message=%20", 422, &["message"]),
        (&long, 422, &["message"]),
        ("/api/chat/a%20b/stream?message=m", 422, &["conversation_id"]),
        ("/api/chat/%ff/stream?message=m", 422, &["conversation_id"]),
        ("/api/chat/talk/stream?message=m&reasoning_effort=huge", 422, &["reasoning_effort"]),
        ("/api/chat/talk/stream?message=m&version=3", 422, &["version"]),
        ("/api/chat/talk/stream?message=m&stream=maybe", 422, &["stream"]),
        ("/api/chat/talk/stream?message=m&enable_checkpointing=2", 422, &["enable_checkpointing"]),
        ("/api/chat/talk/stream?message=m&client_message_id=", 422, &["client_message_id"]),
    ];
    for (path, status, wrong) in table {
        let (got, answer) = problem(app.get(path).await).await;
        assert_eq!((got, fields(&answer)), (status, wrong.to_vec()), "{path}: {answer}");
    }
    let table: [(&str, &str, &str); 3] = [
        ("/api/chat/talk/stream?message=m", "last-event-id", "minus one"),
        ("/api/chat/talk/stream?message=m", "last-event-id", "-1"),
        ("/api/chat/talk/stream?message=m", "last-event-id", "+1"),
    ];
    for (path, name, value) in table {
        let request = app.http.get(format!("{}{path}", app.url)).header(name, value);
        let (status, answer) = problem(request.send().await.unwrap()).await;
        assert_eq!((status, fields(&answer)), (422, vec!["Last-Event-ID"]), "{answer}");
    }
    let request = app.request("/api/v1/run", r#"{"task":"t"}"#).header("idempotency-key", "x".repeat(256));
    let (status, answer) = problem(request.send().await.unwrap()).await;
    assert_eq!((status, fields(&answer)), (422, vec!["Idempotency-Key"]), "{answer}");
    let twice = app.request("/api/v1/run", r#"{"task":"t"}"#).header("idempotency-key", "a");
    let (status, answer) = problem(twice.header("idempotency-key", "b").send().await.unwrap()).await;
    assert_eq!((status, fields(&answer)), (422, vec!["Idempotency-Key"]), "{answer}");
    assert_eq!(app.model_calls(), 0);
}

#[actix_web::test]
async fn what_a_middleware_refuses_is_a_problem_too() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    // A preflight that does not say which method it is for.
    let request = app.http.request(reqwest::Method::OPTIONS, format!("{}/api/v1/run", app.url));
    let response = request.header("origin", "http://localhost:5173").send().await.unwrap();
    let (status, answer) = problem(response).await;
    assert!([400, 405].contains(&status), "{answer}");
    let request = app.http.request(reqwest::Method::OPTIONS, format!("{}/api/v1/run", app.url));
    let request = request.header("origin", "http://localhost:5173").header("access-control-request-method", "PATCH");
    let (status, answer) = problem(request.send().await.unwrap()).await;
    assert_eq!((status, &answer["code"]), (400, &json!("bad_request")));
}

/// What the parser answers before there is a request: documented in the runbook, as it cannot be given a body.
#[actix_web::test]
async fn what_is_no_request_is_answered_with_a_status_alone_and_the_connection_closes() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    for bytes in ["NONSENSE\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n", "GET / HTTP/9.9\r\n\r\n"] {
        let mut stream = tokio::net::TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "an empty body: {answer}");
    }
    let runbook = include_str!("../../docs/runbook.md");
    assert!(runbook.contains("an empty body and a closed connection"));
}
