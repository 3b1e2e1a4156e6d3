//! The specification says what the doors do: the routes that are served, and what they really answer.

use std::collections::BTreeSet;

use agentic_fleet::api::openapi::URLS;
use serde_json::{Value, json};

use crate::app::{Script, TestApp};

async fn specification(app: &TestApp) -> Value {
    app.get("/openapi.json").await.json().await.unwrap()
}

/// Every `at("path", "METHODS")` of the sources: the only way a resource is made.
fn served() -> BTreeSet<(String, String)> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut served = BTreeSet::new();
    let mut sources = vec![std::fs::read_to_string(root.join("api.rs")).unwrap()];
    for entry in std::fs::read_dir(root.join("api")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(std::fs::read_to_string(path).unwrap());
        }
    }
    for source in sources {
        for banned in [".route(\"", "web::resource(\"", "web::scope(", "#[get(", "#[post("] {
            assert!(!source.contains(banned), "a route that is made with `{banned}` escapes the table");
        }
        for call in source.split("at(\"/").skip(1) {
            let mut texts = call.split('"');
            let (path, methods) = (texts.next().unwrap(), texts.nth(1).unwrap());
            served.extend(methods.split(", ").map(|method| (method.to_owned(), format!("/{path}"))));
        }
    }
    served
}

#[actix_web::test]
async fn the_routes_that_are_served_and_those_that_are_specified_are_the_same() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let table: BTreeSet<_> = URLS.iter().map(|url| (url.method.to_owned(), url.path.to_owned())).collect();
    assert_eq!(table, served());
    assert!(table.len() >= 28, "{}", table.len());
    let specification = specification(&app).await;
    let mut specified = BTreeSet::new();
    for (path, item) in specification["paths"].as_object().unwrap() {
        specified.extend(item.as_object().unwrap().keys().map(|method| (method.to_uppercase(), path.clone())));
    }
    assert_eq!(specified, table);
    for url in URLS {
        // Another method is told which ones there are: so the resource is really there.
        let path =
            url.path.replace("{id}", "none").replace("{workflow_id}", "none").replace("{conversation_id}", "none");
        let other = app.http.patch(format!("{}{path}", app.url)).send().await.unwrap();
        assert_eq!(other.status(), 405, "{path}");
        let allowed = other.headers()["allow"].to_str().unwrap().to_owned();
        assert!(allowed.split(", ").any(|method| method == url.method), "{path}: {allowed}");
        assert_eq!(other.json::<Value>().await.unwrap()["code"], "method_not_allowed");
        // And what it answers to a request without anything is specified.
        let method = reqwest::Method::from_bytes(url.method.as_bytes()).unwrap();
        let response = app.http.request(method, format!("{}{path}", app.url)).send().await.unwrap();
        let status = response.status().as_u16();
        assert!(url.statuses().any(|known| known == status), "{} {path} {status}", url.method);
    }
}

#[actix_web::test]
async fn every_operation_has_its_parameters_bodies_answers_and_problems_with_schemas_that_exist() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let specification = specification(&app).await;
    jsonschema::meta::validate(&json!({ "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$defs": specification["components"]["schemas"] }))
    .unwrap();
    let mut ids = BTreeSet::new();
    for url in URLS {
        let operation = &specification["paths"][url.path][url.method.to_lowercase()];
        let what = format!("{} {}", url.method, url.path);
        assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
        let names: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
        for name in url.path.split('{').skip(1).map(|part| part.split('}').next().unwrap()) {
            assert!(names.iter().any(|param| param["name"] == name && param["required"] == true), "{what} {name}");
        }
        assert!(names.iter().all(|param| param["schema"]["type"].is_string()), "{what}");
        assert_eq!(operation["requestBody"]["required"] == true, url.body.is_some(), "{what}");
        for status in url.statuses() {
            let response = &operation["responses"][status.to_string()];
            assert!(response["description"].is_string(), "{what} {status}");
            let content = response["content"].as_object();
            assert_eq!(content.is_none(), [101, 204].contains(&status), "{what} {status}: {response}");
            if url.refuses.contains(&status) {
                let problem = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(problem, "#/components/schemas/Problem", "{what} {status}");
            }
        }
    }
    let text = specification.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(specification["components"]["schemas"][name].is_object(), "there is no schema {name}");
    }
}

/// What does not fit in an answer, by what the specification says of it.
fn misfits(
    specification: &Value,
    (method, path): (&str, &str),
    status: u16,
    kind: &str,
    answer: &Value,
) -> Vec<String> {
    let response = &specification["paths"][path][method]["responses"][status.to_string()];
    let mut schema = response["content"][kind]["schema"].clone();
    assert!(schema.is_object(), "{method} {path} {status} {kind} is not specified");
    schema["components"] = specification["components"].clone();
    let validator = jsonschema::validator_for(&schema).unwrap();
    validator.iter_errors(answer).map(|error| format!("{error} at {}", error.instance_path())).collect()
}

#[actix_web::test]
async fn what_the_doors_really_answer_fits_the_specification() {
    let app = TestApp::spawn(Script::Answers("four"), 2);
    let specification = specification(&app).await;
    let mut checked = BTreeSet::new();
    let mut hold = |method: &'static str, path: &str, status: u16, kind: &str, answer: &Value| {
        let misfits = misfits(&specification, (method, path), status, kind, answer);
        assert!(misfits.is_empty(), "{method} {path} {status}: {misfits:#?} in {answer:#}");
        checked.insert((method, path.to_owned(), status));
    };
    let (json, problem) = ("application/json", "application/problem+json");
    let task = r#"{"task":"two and two?","additional_context":{"a":[1]}}"#;
    let run: Value = app.post("/api/v1/run", task).await.json().await.unwrap();
    hold("post", "/api/v1/run", 201, json, &run);
    let workflow = run["execution_id"].as_str().unwrap().to_owned();
    let submitted: Value = app.post("/api/v1/runs", task).await.json().await.unwrap();
    hold("post", "/api/v1/runs", 202, json, &submitted);
    let chat = app.get("/api/chat/talk/stream?message=hello&reasoning_effort=medium").await.text().await.unwrap();
    for event in chat.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event = serde_json::from_str(event).unwrap();
        hold("get", "/api/chat/{conversation_id}/stream", 200, "text/event-stream", &event);
    }
    let made: Value = app.post("/api/v1/conversations", r#"{"title":"Plans"}"#).await.json().await.unwrap();
    hold("post", "/api/v1/conversations", 201, json, &made);
    let newest: Value = app.get(&format!("/api/v1/checkpoints?workflow_id={workflow}")).await.json().await.unwrap();
    let checkpoint = newest[0]["checkpoint_id"].as_str().unwrap();
    let forked = app.post(&format!("/api/v1/checkpoints/{checkpoint}/fork"), "").await;
    assert_eq!(forked.status(), 201);
    hold("post", "/api/v1/checkpoints/{id}/fork", 201, json, &forked.json().await.unwrap());
    let pages = [
        ("/api/v1/types", String::new()),
        ("/api/v1/agents", String::new()),
        ("/api/v1/conversations", String::new()),
        ("/api/v1/conversations/{id}", "/api/v1/conversations/talk".to_owned()),
        ("/api/v1/sessions", String::new()),
        ("/api/v1/sessions/{id}", format!("/api/v1/sessions/{workflow}")),
        ("/api/v1/history", String::new()),
        ("/api/v1/history/{id}", format!("/api/v1/history/{workflow}")),
        ("/api/v1/checkpoints", format!("/api/v1/checkpoints?workflow_id={workflow}")),
        ("/api/v1/checkpoints/{id}", format!("/api/v1/checkpoints/{checkpoint}")),
        ("/api/v1/workflows/{workflow_id}/events", format!("/api/v1/workflows/{workflow}/events?limit=3")),
        ("/health", String::new()),
        ("/ready", String::new()),
        ("/livez", String::new()),
        ("/readyz", String::new()),
    ];
    for (path, asked) in &pages {
        let asked = if asked.is_empty() { *path } else { asked.as_str() };
        let request = app.http.get(format!("{}{asked}", app.url)).header("accept", json);
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        hold("get", path, 200, json, &answer);
        if let Some(list) = answer.as_array() {
            assert!(!list.is_empty(), "an empty list proves nothing: {path}");
        }
    }
    let wrong = [
        ("post", "/api/v1/run", app.post("/api/v1/run", "{").await),
        ("post", "/api/v1/run", app.post("/api/v1/run", r#"{"task":" ","x":1}"#).await),
        ("post", "/api/v1/conversations", app.post("/api/v1/conversations", r#"{"title":1}"#).await),
        ("get", "/api/v1/history", app.get("/api/v1/history?limit=0").await),
        ("get", "/api/v1/history/{id}", app.get("/api/v1/history/none").await),
        ("get", "/api/v1/workflows/{workflow_id}/events", app.get("/api/v1/workflows/none/events").await),
        ("get", "/api/ws/chat", app.get("/api/ws/chat").await),
        ("get", "/api/chat/{conversation_id}/stream", app.get("/api/chat/talk/stream?message=").await),
        ("post", "/api/chat/{conversation_id}/respond", app.post("/api/chat/talk/respond", "{}").await),
        ("post", "/api/chat/{conversation_id}/cancel", app.post("/api/chat/talk/cancel?workflow_id=none", "").await),
        (
            "post",
            "/api/chat/{conversation_id}/cancel",
            app.post(&format!("/api/chat/talk/cancel?workflow_id={}", of_talk(&app).await), "").await,
        ),
    ];
    for (method, path, response) in wrong {
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], problem, "{path} {status}");
        hold(method, path, status, problem, &response.json().await.unwrap());
    }
    let held: Vec<_> = (0..2).map(|_| app.sessions.admit().unwrap()).collect();
    let full = app.post("/api/v1/run", task).await;
    assert!(full.headers().contains_key("retry-after"));
    hold("post", "/api/v1/run", 429, problem, &full.json().await.unwrap());
    drop(held);
    assert!(checked.len() >= 30, "{} answers were held against the specification", checked.len());
}

/// A run of the conversation `talk`, which is over.
async fn of_talk(app: &TestApp) -> String {
    let talk: Value = app.get("/api/v1/conversations/talk").await.json().await.unwrap();
    talk["messages"][0]["workflow_id"].as_str().unwrap().to_owned()
}

#[actix_web::test]
async fn a_schema_that_does_not_fit_is_noticed() {
    let app = TestApp::spawn(Script::Answers("hi"), 1);
    let specification = specification(&app).await;
    let agents: Value = app.get("/api/v1/agents").await.json().await.unwrap();
    let misfits =
        |answer: &Value| misfits(&specification, ("get", "/api/v1/agents"), 200, "application/json", answer).len();
    assert_eq!(misfits(&agents), 0);
    let (mut more, mut less) = (agents.clone(), agents);
    more[0]["surprise"] = json!(1);
    less[0].as_object_mut().unwrap().remove("type");
    assert_eq!((misfits(&more), misfits(&less)), (1, 1));
}
