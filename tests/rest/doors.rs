//! What holds for every route: refusals, bad bodies, ids, origins, the specification.

use fleet_actors::meter::CallEnd;
use serde_json::Value;

use crate::app::{Script, TestApp};

async fn problem(response: reqwest::Response, status: u16, code: &str) -> Value {
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["code"], code, "{body}");
    assert!(body["detail"].is_string());
    body
}

#[actix_web::test]
async fn a_full_house_is_refused_with_429_and_retry_after_before_the_body_is_read() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let permit = app.sessions.admit().unwrap();
    let refused = app.post("/api/v1/run", "{ this is not even json").await;
    for header in ["retry-after", "ratelimit", "ratelimit-policy", "x-request-id"] {
        assert!(refused.headers().contains_key(header), "{header}");
    }
    assert!(!refused.headers().contains_key("connection"), "the connection stays");
    problem(refused, 429, "session_cap_reached").await;
    let large = app.post("/api/v1/runs", "x".repeat(20_000)).await;
    assert_eq!(large.headers()["connection"], "close");
    problem(large, 429, "session_cap_reached").await;
    drop(permit);
    assert_eq!(app.post("/api/v1/run", r#"{"task":"t"}"#).await.status(), 201);
}

#[actix_web::test]
async fn every_bad_body_has_its_status_code_and_field() {
    let app = TestApp::spawn(Script::Answers("hi"), 2);
    let deep = format!(r#"{{"task":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    for (body, status, code, field) in [
        ("{".to_owned(), 400, "malformed_json", None),
        (deep, 400, "malformed_json", None),
        ("[]".to_owned(), 422, "validation_failed", Some("body")),
        ("{}".to_owned(), 422, "validation_failed", Some("task")),
        (r#"{"task":7}"#.to_owned(), 422, "validation_failed", Some("task")),
        (r#"{"task":"  "}"#.to_owned(), 422, "validation_failed", Some("task")),
        (format!(r#"{{"task":"{}"}}"#, "x".repeat(32_769)), 422, "validation_failed", Some("task")),
        (r#"{"task":"t","mode":"x"}"#.to_owned(), 422, "validation_failed", Some("mode")),
        (r#"{"task":"t","other":1}"#.to_owned(), 422, "validation_failed", Some("other")),
        (format!(r#"{{"task":"{}"}}"#, "x".repeat(1 << 20)), 413, "body_too_large", None),
    ] {
        let body = problem(app.post("/api/v1/run", body).await, status, code).await;
        assert_eq!(body["errors"][0]["field"].as_str(), field, "{body}");
    }
    let plain = app.http.post(format!("{}/api/v1/run", app.url)).body("{}").send().await.unwrap();
    problem(plain, 415, "unsupported_media_type").await;
    assert_eq!(app.model_calls(), 0);
}

#[actix_web::test]
async fn a_slow_body_is_answered_408() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = app.request("/api/v1/run", "").body(reqwest::Body::wrap_stream(never));
    problem(request.send().await.unwrap(), 408, "body_timeout").await;
}

#[actix_web::test]
async fn unknown_routes_and_methods_are_answered_as_problems() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    problem(app.get("/api/v1/nothing").await, 404, "not_found").await;
    let wrong = app.get("/api/v1/run").await;
    assert_eq!(wrong.headers()["allow"], "POST");
    problem(wrong, 405, "method_not_allowed").await;
}

#[actix_web::test]
async fn a_sane_request_id_comes_back_and_any_other_is_replaced() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    for (given, kept) in [("abc.DEF_1-2", true), ("with space", false)] {
        let request = app.http.get(format!("{}/livez", app.url)).header("x-request-id", given);
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["x-request-id"] == given, kept);
    }
}

#[actix_web::test]
async fn an_allowed_origin_gets_credentials_and_the_exposed_headers() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let get = |origin| app.http.get(format!("{}/livez", app.url)).header("origin", origin).send();
    let allowed = get("http://localhost:5173").await.unwrap();
    assert_eq!(allowed.headers()["access-control-allow-origin"], "http://localhost:5173");
    assert_eq!(allowed.headers()["access-control-allow-credentials"], "true");
    let exposed = allowed.headers()["access-control-expose-headers"].to_str().unwrap().to_lowercase();
    assert!(exposed.contains("retry-after") && exposed.contains("x-next-cursor"), "{exposed}");
    let other = get("http://localhost.evil.example").await.unwrap();
    assert!(!other.headers().contains_key("access-control-allow-origin"));
}

#[actix_web::test]
async fn a_page_of_a_foreign_origin_starts_and_changes_nothing_in_any_form() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let own = app.url.clone();
    let port = own.rsplit(':').next().unwrap();
    let rebound = format!("evil.example:{port}");
    let from = |name: &'static str, value: String| [(name, value)].to_vec();
    let foreign = [
        from("origin", "http://evil.example".to_owned()),
        from("origin", "null".to_owned()),
        from("sec-fetch-site", "cross-site".to_owned()),
        [("host", rebound.clone()), ("origin", format!("http://{rebound}"))].to_vec(),
    ];
    let ask = |method: &str, path: &str, headers: &[(&'static str, String)]| {
        let mut request = app.http.request(method.parse().unwrap(), format!("{own}{path}"));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if method == "POST" { request.json(&serde_json::json!({ "task": "hello" })) } else { request }.send()
    };
    for headers in &foreign {
        for (method, path) in
            [("POST", "/api/v1/run"), ("DELETE", "/api/v1/history"), ("GET", "/api/chat/c/stream?message=hello")]
        {
            problem(ask(method, path, headers).await.unwrap(), 403, "origin_forbidden").await;
        }
    }
    assert_eq!(app.model_calls(), 0);
    let ours = [
        Vec::new(),
        from("origin", own.clone()),
        from("origin", "http://localhost:5173".to_owned()),
        from("sec-fetch-site", "same-site".to_owned()),
    ];
    for headers in &ours {
        assert_eq!(ask("POST", "/api/v1/run", headers).await.unwrap().status(), 201, "{headers:?}");
        assert_eq!(ask("GET", "/api/chat/c/stream?message=hello", headers).await.unwrap().status(), 200, "{headers:?}");
    }
}

#[actix_web::test]
async fn a_page_from_a_name_that_was_made_to_mean_this_machine_reads_and_starts_nothing() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let port = app.url.rsplit(':').next().unwrap();
    let paths = ["/api/v1/history", "/api/v1/conversations", "/metrics", "/docs/", "/api/chat/c/stream?message=hello"];
    let ask = |path: &str, host: String| app.http.get(format!("{}{path}", app.url)).header("host", host).send();
    for path in paths {
        for name in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "notlocalhost", "a@127.0.0.1"]
        {
            problem(ask(path, format!("{name}:{port}")).await.unwrap(), 403, "origin_forbidden").await;
        }
    }
    assert_eq!(app.model_calls(), 0);
    for path in paths {
        for name in ["127.0.0.1", "localhost", "LOCALHOST", "[::1]", "fleet.localhost", "192.168.0.7"] {
            assert_eq!(ask(path, format!("{name}:{port}")).await.unwrap().status(), 200, "{name}{path}");
        }
    }
}

#[actix_web::test]
async fn the_pages_of_the_documentation_are_served() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    assert_eq!(app.get("/docs/").await.status(), 200);
    assert_eq!(app.get("/docs").await.status(), 200, "after a redirect");
}

#[actix_web::test]
async fn readiness_ends_with_the_drain_and_life_does_not() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let ready: Value = app.get("/ready").await.json().await.unwrap();
    assert_eq!(ready["status"], "ready");
    app.draining.begin();
    problem(app.get("/readyz").await, 503, "draining").await;
    assert_eq!(app.get("/ready").await.status(), 503);
    assert_eq!(app.get("/livez").await.status(), 200);
}

#[actix_web::test]
async fn metrics_move_with_what_happens() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    app.post("/api/v1/run", r#"{"task":"t"}"#).await;
    let permit = app.sessions.admit().unwrap();
    app.post("/api/v1/run", r#"{"task":"t"}"#).await;
    let page = app.get("/metrics").await.text().await.unwrap();
    for line in [
        "fleet_sessions_live 1",
        "fleet_sessions_cap 1",
        // The run's and the one that the test holds.
        "fleet_admissions_total{outcome=\"admitted\"} 2",
        "fleet_admissions_total{outcome=\"refused\"} 1",
        "fleet_runs_total{outcome=\"completed\"} 1",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
    drop(permit);
}

#[actix_web::test]
async fn metrics_tell_tool_calls_that_were_refused_from_those_that_failed() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let ends = [CallEnd::Completed, CallEnd::Failed, CallEnd::Denied, CallEnd::Rejected, CallEnd::Expired];
    for (n, end) in ends.into_iter().enumerate() {
        (0..=n).for_each(|_| app.sessions.services().meter.tool("python", end));
    }
    let page = app.get("/metrics").await.text().await.unwrap();
    for (n, outcome) in ["completed", "failed", "denied", "rejected", "expired"].iter().enumerate() {
        let line = format!("fleet_tool_calls_total{{tool=\"python\",outcome=\"{outcome}\"}} {}", n + 1);
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
}

#[actix_web::test]
async fn metrics_count_calls_tokens_of_one_kind_each_and_dollars() {
    let app = TestApp::spawn(Script::Counts, 4);
    for _ in 0..3 {
        assert_eq!(app.post("/api/v1/run", r#"{"task":"t"}"#).await.status(), 201);
    }
    let page = app.get("/metrics").await.text().await.unwrap();
    for line in [
        "fleet_model_calls_total{outcome=\"completed\"} 3",
        "fleet_model_calls_total{outcome=\"failed\"} 0",
        "fleet_model_tokens_total{kind=\"input\"} 18",
        "fleet_model_tokens_total{kind=\"cached_input\"} 12",
        "fleet_model_tokens_total{kind=\"output\"} 9",
        "fleet_model_tokens_total{kind=\"reasoning\"} 6",
        "fleet_model_cost_dollars_total 0.0045",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
    }
}
