//! What reaches a model, by the model's own word.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::process::{client, get, serve, simulate, until};

#[tokio::test(flavor = "current_thread")]
async fn every_request_carries_its_own_sessions_effort_when_sessions_interleave() {
    const CHATS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 2, 0);
    let (_server, url) = serve(dir.path(), &model);
    let http = client();
    let efforts = [("minimal", "minimal"), ("medium", "medium"), ("maximal", "high")];
    for first in (0..CHATS).step_by(20) {
        let chats = (first..first + 20).map(|n| {
            let (effort, _) = efforts[n % 3];
            let url = format!("{url}/api/chat/e{n}/stream?message=please+work+on+{effort}&reasoning_effort={effort}");
            let http = http.clone();
            async move { http.get(url).send().await.unwrap().text().await.unwrap() }
        });
        for text in futures_util::future::join_all(chats).await {
            assert!(text.contains(r#""type":"response.completed""#), "{text}");
        }
    }
    let seen = get(&http, format!("{}/admin/requests?after=0", model.trim_end_matches("/v1"))).await;
    let text = seen.to_string();
    let requests = seen["requests"].as_array().unwrap_or_else(|| panic!("{text}"));
    assert_eq!(requests.len(), CHATS, "{text}");
    for request in requests {
        let whole = request.to_string();
        let (_, sent) = efforts.iter().find(|(said, _)| whole.contains(&format!("please work on {said}"))).unwrap();
        assert_eq!(request["effort"], *sent, "{whole}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_cancel_during_a_model_call_frees_the_place_and_the_model_sees_the_connection_close() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 60_000, 0);
    let (_server, url) = serve(dir.path(), &model);
    let http = client();
    let admin = format!("{}/admin/stats", model.trim_end_matches("/v1"));
    let mut stream = http.get(format!("{url}/api/chat/c/stream?message=work+for+long")).send().await.unwrap();
    until(&http, admin.clone(), |stats| stats["live"] == 1).await;
    let sessions = get(&http, format!("{url}/api/v1/sessions")).await;
    let workflow = sessions[0]["workflow_id"].as_str().unwrap().to_owned();
    let asked = Instant::now();
    let cancelled = http.delete(format!("{url}/api/v1/sessions/{workflow}")).send().await.unwrap();
    assert_eq!(cancelled.status(), 204);
    let took = asked.elapsed();
    assert!(took < Duration::from_millis(500), "the cancel, its commit included, took {took:?}");
    let mut text = String::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    let order: Vec<_> = ["\"type\":\"cancelled\"", "\"type\":\"done\""].iter().map(|kind| text.find(kind)).collect();
    assert!(order[0].is_some() && order[0] < order[1], "{text}");
    let stats: Value = until(&http, admin, |stats| stats["aborted"] == 1).await;
    assert_eq!((&stats["live"], &stats["completed"]), (&0.into(), &0.into()), "{stats}");
}
