//! A server that is not there, refuses or falls silent.

use super::*;

#[tokio::test]
async fn a_server_that_is_down_is_waited_for_and_one_that_comes_back_is_asked_what_changed() {
    let server = Server::start().await;
    let address = server.address;
    server.stop().await;
    let mut updates = cluster(&format!("http://{address}"))
        .follow()
        .unwrap()
        .updates;
    nothing(&mut updates).await;

    let mut server = Server::at(address).await;
    server.nothing_at(SLICES);
    server.nothing_at(NODES);
    let stream = server.request(SERVICES).await.stream();
    stream.added(&service("a", "10.96.0.1", "8"));
    stream.listed("10");
    assert_eq!(until_synced(&mut updates).await, ["+a 10.96.0.1", "synced"]);

    stream.cut().await;
    server.stop().await;
    nothing(&mut updates).await;
    let mut server = Server::at(address).await;
    server.nothing_at(SLICES);
    server.nothing_at(NODES);
    let again = server.request(SERVICES).await;
    assert!(again.is_watch_after("10"), "{:?}", again.query);
    let stream = again.stream();
    stream.event("DELETED", &service("a", "10.96.0.1", "11"));
    assert_eq!(short(&next(&mut updates).await), ["-a"]);
}

#[tokio::test]
async fn refusals_are_waited_out() {
    let (mut server, mut updates, first) = services_alone().await;
    first.refuse(403, "Forbidden");
    for (code, reason) in [
        (500, "InternalError"),
        (429, "TooManyRequests"),
        (401, "Unauthorized"),
        (503, "ServiceUnavailable"),
    ] {
        let again = server.request(SERVICES).await;
        assert!(again.is_listing_watch());
        again.refuse(code, reason);
    }
    let stream = server.request(SERVICES).await.stream();
    stream.listed("10");
    assert_eq!(until_synced(&mut updates).await, ["synced"]);
}

#[tokio::test]
async fn silence_ends_a_watch_and_it_goes_on_where_it_was() {
    let mut server = Server::start().await;
    server.nothing_at(SLICES);
    server.nothing_at(NODES);
    let mut cluster = cluster(&format!("http://{}", server.address));
    cluster.pace.silence = A_WHILE;
    let mut updates = cluster.follow().unwrap().updates;
    let stream = server.request(SERVICES).await.stream();
    stream.added(&service("a", "10.96.0.1", "8"));
    stream.listed("10");
    assert_eq!(until_synced(&mut updates).await, ["+a 10.96.0.1", "synced"]);
    let again = server.request(SERVICES).await;
    assert!(again.is_watch_after("10"));
    // The first one is still there, and says nothing that counts.
    stream.event("DELETED", &service("a", "10.96.0.1", "11"));
    nothing(&mut updates).await;
}

#[tokio::test]
async fn reading_once_says_why_it_failed() {
    let mut server = Server::start().await;
    let cluster = cluster(&format!("http://{}", server.address));
    let reader = tokio::task::spawn_blocking(|| cluster.read());
    server.request(SERVICES).await.refuse(403, "Forbidden");
    let error = format!("{:#}", reader.await.unwrap().unwrap_err());
    assert!(error.contains("Forbidden"), "{error}");
}
