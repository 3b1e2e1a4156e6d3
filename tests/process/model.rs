//! What reaches a model, by the model's own word.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::process::{ONE_AGENT, client, get, serve, simulate, start, until};

#[tokio::test(flavor = "current_thread")]
async fn two_sessions_whose_turns_interleave_a_thousand_times_each_keep_their_own_effort() {
    const TURNS: usize = 1_000;
    let dir = tempfile::tempdir().unwrap();
    // A socket may send 100 frames a second for as long as it likes, and no machine is to make more turns than that.
    let (_model, model) = simulate(dir.path(), 15, 0);
    // What is shown here does not depend on syncs, and two thousand of them take long.
    let mut environment = vec![("OPENAI_BASE_URL", model.as_str()), ("FLEET_STORAGE__DURABILITY", "process")];
    environment.extend(ONE_AGENT);
    let (_server, docs) = start(&["serve", "--port", "0"], &environment, dir.path(), "browser:");
    let url = docs.trim_end_matches("/docs");
    let admin = format!("{}/admin/requests", model.trim_end_matches("/v1"));
    let socket = url.replacen("http", "ws", 1) + "/api/ws/chat";
    // One socket each, so that both are sessions over their whole length; a turn of the one runs beside one of the other.
    let session = |effort: &'static str| {
        let socket = socket.clone();
        async move {
            let mut request =
                tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(socket).unwrap();
            request.headers_mut().insert("sec-websocket-protocol", "fleet.v2".parse().unwrap());
            let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
            for n in 0..TURNS {
                let message = format!("please work on {effort} {n} [[sim:tokens=3]]");
                let frame = json!({ "type": "chat.send", "message": message, "reasoning_effort": effort });
                socket.send(Message::text(frame.to_string())).await.unwrap();
                let mut completed = false;
                loop {
                    let message = socket.next().await.unwrap().unwrap();
                    let Message::Text(text) = message else { continue };
                    let event: Value = serde_json::from_str(&text).unwrap();
                    completed |= event["type"] == "response.completed";
                    if event["type"] == "done" {
                        break;
                    }
                }
                assert!(completed, "turn {n} of {effort}");
            }
        }
    };
    let efforts = [("minimal", "minimal"), ("maximal", "high")];
    let http = client();
    let mut seen = Vec::new();
    let both = futures_util::future::join(session(efforts[0].0), session(efforts[1].0));
    let mut both = std::pin::pin!(both);
    let mut over = false;
    let mut after = 0;
    // Read while they run: the simulator remembers only the newest.
    while !over {
        over = tokio::select! {
            _ = &mut both => true,
            () = tokio::time::sleep(Duration::from_millis(100)) => false, // allow-sleep: reads in pages meanwhile
        };
        loop {
            let page = get(&http, format!("{admin}?after={after}")).await;
            let requests = page["requests"].as_array().unwrap();
            let Some(last) = requests.last() else { break };
            after = last["n"].as_u64().unwrap();
            seen.extend(requests.iter().map(|request| (request["effort"].clone(), request["messages"].to_string())));
        }
    }
    assert_eq!(seen.len(), 2 * TURNS);
    let (mut switches, mut last) = (0, None);
    for (effort, messages) in &seen {
        let (said, sent) =
            efforts.iter().find(|(said, _)| messages.contains(&format!("please work on {said}"))).unwrap();
        assert_eq!(effort, sent, "{messages}");
        switches += u32::from(last.replace(said).is_some_and(|last| last != said));
    }
    println!("{} requests, the session changed {switches} times between one and the next", seen.len());
    assert!(switches >= 500, "they hardly interleaved: {switches}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_cancel_during_a_model_call_frees_its_place_within_100_ms_and_the_model_sees_the_connection_close() {
    const CANCELS: u64 = 11;
    let dir = tempfile::tempdir().unwrap();
    let (_model, model) = simulate(dir.path(), 60_000, 0);
    let (_server, url) = serve(dir.path(), &model);
    let http = client();
    let admin = format!("{}/admin/stats", model.trim_end_matches("/v1"));
    let socket = url.replacen("http", "ws", 1) + "/api/ws/chat";
    let mut freed = Vec::new();
    for n in 1..=CANCELS {
        let (mut socket, _) = tokio_tungstenite::connect_async(socket.as_str()).await.unwrap();
        socket.send(Message::text(r#"{"message":"work for long"}"#)).await.unwrap();
        until(&http, admin.clone(), |stats| stats["live"] == 1).await;
        let asked = Instant::now();
        socket.send(Message::text(r#"{"type":"cancel"}"#)).await.unwrap();
        // The permit, as an operator sees it; the event is one commit later.
        while !places(&http, &url).await.contains("fleet_sessions_live 0") {
            assert!(asked.elapsed() < Duration::from_secs(20), "the place did not come back");
        }
        freed.push(asked.elapsed());
        let mut events = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_close() {
                break;
            }
            let Message::Text(text) = message else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            events.push(event["type"].as_str().unwrap().to_owned());
        }
        assert_eq!(events[events.len() - 2..], ["cancelled", "done"], "{events:?}");
        let stats = until(&http, admin.clone(), |stats| stats["aborted"] == n).await;
        assert_eq!((&stats["live"], &stats["completed"]), (&0.into(), &0.into()), "{stats}");
    }
    freed.sort();
    println!("the place was free after {freed:?}");
    // The middle one: a machine that runs other tests beside this one may stop for longer than that now and then.
    assert!(freed[freed.len() / 2] < Duration::from_millis(100), "{freed:?}");
}

async fn places(http: &reqwest::Client, url: &str) -> String {
    http.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap()
}
