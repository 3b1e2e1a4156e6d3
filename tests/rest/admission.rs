//! The cap is exact whoever comes, and every end gives the place back.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use fleet_actors::ports::WorkflowState;

use crate::app::{Script, TestApp, until};

#[actix_web::test]
async fn of_ten_times_as_many_clients_over_http_and_sse_exactly_the_cap_is_admitted_each_round() {
    const CAP: u32 = 4;
    const ROUNDS: u32 = 50;
    let app = Rc::new(TestApp::spawn(Script::Hangs, CAP));
    for round in 0..ROUNDS {
        let clients = CAP + 1 + round % (9 * CAP);
        let refused = Rc::new(AtomicU32::new(0));
        let tasks: Vec<_> = (0..clients)
            .map(|n| {
                let (app, refused) = (app.clone(), refused.clone());
                actix_web::rt::spawn(async move {
                    let response = if n % 2 == 0 {
                        app.post("/api/v1/run", r#"{"task":"wait"}"#).await
                    } else {
                        app.get(&format!("/api/chat/r{round}-{n}/stream?message=wait")).await
                    };
                    let status = response.status().as_u16();
                    if status == 429 {
                        assert!(response.headers().contains_key("retry-after"));
                        refused.fetch_add(1, Ordering::SeqCst);
                    } else {
                        // An admitted stream ends when its run does.
                        let _ = response.text().await;
                    }
                    status
                })
            })
            .collect();
        until("the refusals", || refused.load(Ordering::SeqCst) == clients - CAP).await;
        until("the admitted", || app.sessions.admission().live() == CAP).await;
        until("the model calls", || app.model_calls() == (round + 1) * CAP).await;
        for session in app.sessions.list().await.unwrap() {
            if session.state == WorkflowState::Running {
                app.sessions.cancel(&session.workflow, "client").await.unwrap();
            }
        }
        let mut admitted = 0;
        for task in tasks {
            admitted += u32::from(task.await.unwrap() != 429);
        }
        assert_eq!(admitted, CAP, "round {round}");
        until("the places", || app.sessions.admission().live() == 0).await;
    }
    assert_eq!(app.model_calls(), ROUNDS * CAP);
}

#[actix_web::test]
async fn runs_that_finish_fail_or_lose_their_client_all_give_their_place_back() {
    let ends = [(Script::Answers("yes"), 201), (Script::Fails("provider_unavailable"), 502)];
    for (script, status) in ends {
        let app = TestApp::spawn(script, 8);
        for _ in 0..300 {
            assert_eq!(app.post("/api/v1/run", r#"{"task":"go"}"#).await.status(), status);
        }
        until("the places", || app.sessions.admission().live() == 0).await;
        assert_eq!(app.model_calls(), 300);
    }
    let app = TestApp::spawn(Script::Hangs, 8);
    for n in 1..=50 {
        let request = app.request("/api/v1/run", r#"{"task":"go"}"#).send();
        let left = async { until("the call", || app.model_calls() == n).await };
        tokio::select! {
            _ = request => panic!("a hanging model answered"),
            () = left => {}
        }
    }
    until("the places of those who left", || app.sessions.admission().live() == 0).await;
}
