//! A server that is not there, refuses or falls silent.

use std::{sync::Arc, time::Instant};

use super::*;
use crate::source::pulse::{Pulse, Restart};

/// Waits until lists or watches of Services were begun again so often for a reason.
async fn until_restarted(pulse: &Pulse, why: Restart, times: u64) {
    let deadline = Instant::now() + PATIENCE;
    let count = || {
        let of = |(kind, reason, _): &(&str, Restart, u64)| *kind == "Service" && *reason == why;
        pulse.restarts().find(of).unwrap().2
    };
    while count() < times {
        assert!(Instant::now() < deadline, "{why:?}: {}", count());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Follows a server with no slices and no Node.
async fn services_of(change: impl FnOnce(&mut Cluster)) -> (Server, Receiver<Update>, Arc<Pulse>) {
    let mut server = Server::start().await;
    server.nothing_at(SLICES);
    server.nothing_at(NODES);
    let mut cluster = cluster(&format!("http://{}", server.address));
    change(&mut cluster);
    let feed = cluster.follow().unwrap();
    (server, feed.updates, feed.pulse)
}

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

#[tokio::test]
async fn what_goes_wrong_is_counted_by_its_reason() {
    let (mut server, _updates, pulse) = services_of(|_| {}).await;
    let first = server.request(SERVICES).await;
    assert!(!pulse.is_current(Instant::now()));
    first.refuse(403, "Forbidden");
    until_restarted(&pulse, Restart::Forbidden, 1).await;
    server
        .request(SERVICES)
        .await
        .refuse(503, "ServiceUnavailable");
    until_restarted(&pulse, Restart::Unavailable, 1).await;
    for times in 1..=4 {
        let stream = server.request(SERVICES).await.stream();
        stream.listed("10");
        stream.end();
        until_restarted(&pulse, Restart::Closed, times).await;
        assert!(pulse.is_current(Instant::now()));
        server.request(SERVICES).await.refuse(410, "Expired");
        until_restarted(&pulse, Restart::Gone, times).await;
        let stream = server.request(SERVICES).await.stream();
        stream.listed("10");
        stream.raw("<html>\n");
        until_restarted(&pulse, Restart::Garbage, times).await;
    }
}

#[tokio::test]
async fn blank_lines_are_silence() {
    let (mut server, mut updates, pulse) =
        services_of(|cluster| cluster.pace.silence = A_WHILE).await;
    let stream = server.request(SERVICES).await.stream();
    stream.listed("10");
    assert_eq!(until_synced(&mut updates).await, ["synced"]);
    let blank = tokio::spawn(async move {
        loop {
            stream.raw("\n");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let again = server.request(SERVICES).await;
    assert!(again.is_watch_after("10"), "{:?}", again.query);
    until_restarted(&pulse, Restart::Timeout, 1).await;
    blank.abort();
}

#[tokio::test]
async fn a_watch_that_ends_in_its_time_is_no_trouble() {
    let (mut server, _updates, pulse) = services_of(|cluster| {
        cluster.pace.calm = Duration::ZERO;
    })
    .await;
    let stream = server.request(SERVICES).await.stream();
    stream.listed("10");
    stream.end();
    until_restarted(&pulse, Restart::Ended, 1).await;
    for times in 2..4 {
        server.request(SERVICES).await.stream().end();
        until_restarted(&pulse, Restart::Ended, times).await;
    }
    assert!(
        pulse
            .restarts()
            .all(|(_, why, count)| why == Restart::Ended || count == 0)
    );
}

/// A list whose body never ends: what is known stays, and it takes no memory.
#[tokio::test]
async fn a_list_without_end_is_refused() {
    let (mut server, mut updates, pulse) = services_of(|_| {}).await;
    server.request(SERVICES).await.refuse(422, "Invalid");
    server
        .request(SERVICES)
        .await
        .list("10", None, &[service("a", "10.96.0.1", "8")]);
    assert_eq!(until_synced(&mut updates).await, ["+a 10.96.0.1", "synced"]);
    server.request(SERVICES).await.refuse(410, "Expired");
    // One object without end.
    let stream = server.request(SERVICES).await.stream();
    stream.raw("{\"kind\":\"List\",\"metadata\":{\"resourceVersion\":\"9\"},\"items\":[{\"a\":\"");
    let x = "x".repeat(4 << 20);
    for _ in 0..10 {
        stream.raw(&x);
    }
    until_restarted(&pulse, Restart::TooLarge, 1).await;
    nothing(&mut updates).await;
}

/// White space without end, or a list that stops: no word is heard.
#[tokio::test]
async fn a_list_that_says_nothing_is_given_up() {
    let (mut server, mut updates, pulse) = services_of(|cluster| {
        cluster.pace.listing = A_WHILE;
    })
    .await;
    server.request(SERVICES).await.refuse(422, "Invalid");
    let stream = server.request(SERVICES).await.stream();
    stream.raw("{\"kind\":\"List\",\"metadata\":{\"resourceVersion\":\"9\"},\"items\":[");
    let blank = tokio::spawn(async move {
        loop {
            stream.raw(&" ".repeat(1 << 10));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    until_restarted(&pulse, Restart::Timeout, 1).await;
    blank.abort();
    server
        .request(SERVICES)
        .await
        .list("10", None, &[service("a", "10.96.0.1", "8")]);
    assert_eq!(until_synced(&mut updates).await, ["+a 10.96.0.1", "synced"]);
}

/// The body of a refusal is read as far as it may be, not to its end.
#[tokio::test]
async fn a_refusal_without_end_is_no_more_than_a_refusal() {
    let (mut server, mut updates, _pulse) = services_of(|_| {}).await;
    let stream = server.request(SERVICES).await.answer_by_stream(500);
    let x = "x".repeat(1 << 20);
    for _ in 0..3 {
        stream.raw(&x);
    }
    let again = server.request(SERVICES).await.stream();
    again.listed("10");
    assert_eq!(until_synced(&mut updates).await, ["synced"]);
    drop(stream);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_does_not_end_the_watch() {
    let (_server, mut updates, stream) = two_services().await;
    stream.raw("{\"type\":\"ADDED\"}\n{\"type\":\"MODIFIED\",\"object\":7}\n{\"type\":\"BOOKMARK\",\"object\":null}\n");
    // A number and a text that no field can hold.
    stream.raw("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"c\",\"namespace\":\"default\"},\"spec\":{\"healthCheckNodePort\":1e999}}}\n");
    stream.raw("{\"type\":\"ADDED\",\"object\":{\"metadata\":{\"name\":\"d\",\"namespace\":\"default\"},\"spec\":{\"clusterIP\":\"\\ud800\"}}}\n");
    stream.event("MODIFIED", &service("a", "10.96.0.3", "11"));
    let (mut events, mut told) = (Vec::new(), Vec::new());
    while events.is_empty() {
        let update = next(&mut updates).await;
        told.extend(update.problems.iter().map(ToString::to_string));
        events.extend(short(&update));
    }
    assert_eq!(events, ["+a 10.96.0.3"]);
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told[3].starts_with("Service default/c: "), "{told:?}");
    assert!(told[4].starts_with("Service default/d: "), "{told:?}");
}
