//! A real approval at every door: an answer that does not fit is refused and the question stays open, one that fits wakes
//! the run although its client is gone.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::crowd::{finished, open, parked, until};
use crate::parked::{serve, serve_with};
use crate::process::{client, get, simulate};

/// What fits no form of an answer to an approval.
fn misfits() -> [Value; 12] {
    [
        json!(17),
        json!({ "decision": "maybe" }),
        json!({}),
        json!(["approve"]),
        json!({ "decision": "edit", "arguments": 1 }),
        // An edit that does not say what it changes.
        json!({ "decision": "edit" }),
        json!({ "decision": "edit", "reason": "use another page" }),
        json!("edit"),
        // What the tool itself would refuse.
        json!({ "decision": "edit", "arguments": { "url": 5 } }),
        json!({ "decision": "edit", "arguments": {} }),
        json!({ "decision": "approve", "arguments": { "url": "http://127.0.0.1/", "verb": "POST" } }),
        // A yes to something else than was asked.
        json!({ "decision": "approve", "arguments": { "url": "http://127.0.0.1/other" } }),
    ]
}

/// Who wants to change something and does not say what is told in which field it belongs.
fn says_what_is_missing(misfit: &Value, text: &Value) {
    let edits = *misfit == "edit" || misfit["decision"] == "edit";
    if edits && misfit["arguments"].is_null() {
        let text = text.as_str().unwrap();
        assert!(text.contains("arguments") && text.contains("an edit is"), "{misfit}: {text}");
    }
    if misfit["arguments"]["url"] == "http://127.0.0.1/other" {
        assert!(text.as_str().unwrap().contains(r#""decision": "edit""#), "{misfit}: {text}");
    }
}

pub type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

pub async fn socket(url: &str, protocol: Option<&'static str>) -> Socket {
    let protocol = protocol.map(|protocol| ("sec-websocket-protocol", protocol));
    socket_with(url, protocol.as_slice()).await
}

pub async fn socket_with(url: &str, headers: &[(&'static str, &str)]) -> Socket {
    let mut request = format!("{}/api/ws/chat", url.replacen("http", "ws", 1)).into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    tokio_tungstenite::connect_async(request).await.unwrap().0
}

pub async fn next(socket: &mut Socket, fits: impl Fn(&Value) -> bool) -> Value {
    let found = async {
        loop {
            let Message::Text(text) = socket.next().await.expect("an event").expect("an event") else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            if fits(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("an event in time")
}

fn is_question(event: &Value) -> bool {
    event["type"] == "orchestrator.message" && event["kind"] == "request"
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_at_any_door_wakes_a_run_whose_process_died_before_it_was_parked() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let http = client();
    let page = json!({ "url": format!("{}/admin/stats", model.trim_end_matches("/v1")) });
    let message = format!("work on it [[sim:tool name=fetch_page args={page}]]");
    let waiting = [("FLEET_SESSIONS__PARK_AFTER_MS", "3600000"), ("FLEET_SESSIONS__DISCONNECT_GRACE_MS", "0")];
    for door in ["http", "v1", "v2"] {
        let (server, url) = serve_with(dir.path(), &model, &waiting);
        let mut first = socket(&url, None).await;
        first.send(Message::text(json!({ "message": message, "conversation_id": door }).to_string())).await.unwrap();
        let asked = next(&mut first, is_question).await;
        let (workflow, id) = (asked["workflow_id"].as_str().unwrap().to_owned(), asked["data"]["request_id"].clone());
        drop(server);

        let (_server, url) = serve_with(dir.path(), &model, &waiting);
        let session = format!("{url}/api/v1/sessions/{workflow}");
        until("the run rests", async || get(&http, session.clone()).await["status"] == "interrupted").await;
        let yes = json!({ "decision": "approve" });
        let mut frame = json!({ "request_id": id, "response": yes });
        let mut talk = match door {
            "http" => {
                let path = format!("{url}/api/v1/workflows/{workflow}/respond");
                assert_eq!(http.post(path).json(&frame).send().await.unwrap().status(), 200);
                None
            }
            "v1" => {
                // Version 1 answers on the socket of its run, which coming back wakes already.
                let mut talk = socket(&url, None).await;
                let back = json!({ "type": "workflow.resume", "checkpoint_id": workflow });
                talk.send(Message::text(back.to_string())).await.unwrap();
                next(&mut talk, is_question).await;
                frame["type"] = "workflow.response".into();
                Some(talk)
            }
            _ => {
                (frame["type"], frame["workflow_id"]) = ("chat.respond".into(), workflow.as_str().into());
                Some(socket(&url, Some("fleet.v2")).await)
            }
        };
        if let Some(talk) = &mut talk {
            talk.send(Message::text(frame.to_string())).await.unwrap();
        }
        finished(&http, &url, &[workflow].into()).await;
        assert!(open(&http, &url, "").await.is_empty(), "{door}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_answer_that_does_not_fit_is_refused_at_every_door_and_the_question_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (_server, url) = serve(dir.path(), &model);
    let http = client();
    let page = json!({ "url": format!("{}/admin/stats", model.trim_end_matches("/v1")) });
    let message = format!("work on it [[sim:tool name=fetch_page args={page}]]");
    // Who repeats what was asked for has approved it.
    let yes = json!({ "decision": "approve", "arguments": page });
    let still_open = async || assert_eq!(open(&http, &url, "").await.len(), 1, "it stays open");

    for (conversation, path) in
        [(None, "/api/v1/workflows/W/respond"), (Some("talk"), "/api/chat/talk/respond?workflow_id=W")]
    {
        let mut body = json!({ "task": message });
        if let Some(conversation) = conversation {
            body["conversation_id"] = conversation.into();
        }
        let accepted: Value =
            http.post(format!("{url}/api/v1/runs")).json(&body).send().await.unwrap().json().await.unwrap();
        let workflow = accepted["workflow_id"].as_str().unwrap().to_owned();
        let question = parked(&http, &url, 1).await.remove(0);
        assert_eq!(question["request"]["arguments"], page, "{question}");
        let path = format!("{url}{}", path.replace('W', &workflow));
        let respond = async |response: &Value| {
            let body = json!({ "request_id": question["request_id"], "response": response });
            let answer = http.post(&path).json(&body).send().await.unwrap();
            (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
        };
        for misfit in misfits() {
            let (status, problem) = respond(&misfit).await;
            assert_eq!((status, &problem["code"]), (422, &json!("answer_invalid")), "{misfit}: {problem}");
            let field = problem["errors"][0]["field"].as_str().unwrap();
            assert!(field.starts_with("response"), "{problem}");
            assert!(misfit["arguments"].is_null() || field.starts_with("response/arguments"), "{misfit}: {problem}");
            says_what_is_missing(&misfit, &problem["detail"]);
            still_open().await;
        }
        assert_eq!(respond(&yes).await.0, 200);
        finished(&http, &url, &[workflow].into()).await;
        assert!(open(&http, &url, "").await.is_empty());
    }

    for protocol in [None, Some("fleet.v2")] {
        let mut talk = socket(&url, protocol).await;
        let send = if protocol.is_some() {
            json!({ "type": "chat.send", "message": message })
        } else {
            json!({ "message": message })
        };
        talk.send(Message::text(send.to_string())).await.unwrap();
        let asked = next(&mut talk, is_question).await;
        let (workflow, id) = (asked["workflow_id"].clone(), asked["data"]["request_id"].clone());
        let kind = if protocol.is_some() { "chat.respond" } else { "workflow.response" };
        let frame = |response: &Value| {
            let mut frame = json!({ "type": kind, "request_id": id, "response": response });
            if protocol.is_some() {
                frame["workflow_id"] = workflow.clone();
            }
            Message::text(frame.to_string())
        };
        for misfit in misfits() {
            talk.send(frame(&misfit)).await.unwrap();
            let refused = next(&mut talk, |event| event["type"] == "error").await;
            assert_eq!(refused["data"]["code"], "answer_invalid", "{misfit}: {refused}");
            says_what_is_missing(&misfit, &refused["error"]);
            still_open().await;
        }
        talk.send(frame(&yes)).await.unwrap();
        next(&mut talk, |event| event["type"] == "done").await;
        assert!(open(&http, &url, "").await.is_empty());
    }

    for (query, field) in [
        ("workflow_id=a%20b", "workflow_id"),
        ("conversation_id=%00", "conversation_id"),
        ("limit=0", "limit"),
        ("offset=-1", "offset"),
    ] {
        let problem = get(&http, format!("{url}/api/v1/approvals?{query}")).await;
        assert_eq!((&problem["status"], &problem["errors"][0]["field"]), (&json!(422), &json!(field)), "{problem}");
    }
}
