//! Clients that read nothing.

use std::time::{Duration, Instant};

use agentic_fleet::settings::units::Millis;
use serde_json::json;

use crate::app::{TestApp, until};

#[actix_web::test]
async fn a_client_that_never_reads_is_closed_and_anothers_latency_stays() {
    let app = TestApp::with(|s| s.server.send_timeout_ms = Millis::new(300).expect("in range")).await;
    let mut deaf = app.ws().await;
    deaf.send(json!({"message": "flood"})).await;
    until("the flood is on its way", || app.calls() == 1).await;
    let mut served = 0;
    while app.api.connections.open() > 0 || served == 0 {
        let mut other = app.ws().await;
        let start = Instant::now();
        other.send(json!({"message": "hello"})).await;
        assert_eq!(other.rest().await.1, 1000);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        served += 1;
        assert!(served < 10_000, "the deaf client was never closed");
        if app.api.connections.open() <= 1 {
            drop(other);
            actix_web::rt::task::yield_now().await;
        }
    }
    // What the kernel still holds may be read; then the connection is at its end.
    let (_, code) = deaf.rest().await;
    assert!([1006, 4408].contains(&code), "{code}");
}
