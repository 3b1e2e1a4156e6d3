//! SIGTERM, with clients that have nothing to do.

use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use crate::process::Place;

#[tokio::test]
async fn clients_that_only_listen_do_not_hold_up_a_server_that_stops() {
    let mut place = Place::new();
    place.set("FLEET_SERVER__DRAIN_TIMEOUT_MS", "0");
    let url = place.serve();
    let mut request = format!("{}/api/ws/chat", url.replace("http", "ws")).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "fleet.v2".parse().unwrap());
    let idle = tokio_tungstenite::connect_async(request).await.unwrap();
    let silent = tokio_tungstenite::connect_async(format!("{}/api/ws/chat", url.replace("http", "ws"))).await.unwrap();
    assert_eq!(place.stopped(), Some(0));
    drop((idle, silent));
}
