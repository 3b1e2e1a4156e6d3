//! A score that comes after the answer.

use serde_json::{Value, json};

use crate::process::{client, get, serve_fleet, simulate, until};

#[tokio::test(flavor = "current_thread")]
async fn an_answer_says_that_its_score_is_pending_and_its_entry_and_message_have_the_score_later() {
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 0, 0);
    let (_server, url) = serve_fleet(dir.path(), &model);
    let http = client();
    let body =
        json!({ "task": "compare tea and coffee and write a brief", "mode": "parallel", "conversation_id": "scored" });
    let response = http.post(format!("{url}/api/v1/run")).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 201);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["metadata"]["quality_pending"], true, "{answer}");

    let workflow = answer["execution_id"].as_str().unwrap();
    let judged = |entry: &Value| entry["quality"]["pending"] == false;
    let entry = until(&http, format!("{url}/api/v1/history/{workflow}"), judged).await;
    let score = entry["quality"]["score"].as_f64().unwrap();
    assert!((0.0..=10.0).contains(&score), "{entry}");
    assert_eq!(entry["metadata"].get("quality_pending"), None, "what was true of the answer is not true of the entry");
    assert_eq!(entry["metadata"]["mode"], "parallel");

    let conversation = get(&http, format!("{url}/api/v1/conversations/scored")).await;
    let messages = conversation["messages"].as_array().unwrap();
    let said = messages.iter().find(|message| message["role"] == "assistant").unwrap();
    assert_eq!((&said["quality_pending"], said["quality_score"].as_f64()), (&json!(false), Some(score)), "{said}");
}
