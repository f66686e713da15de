//! Which Events are created, and which are not.

use serde_json::json;

use super::{super::tests::server::Server, *};
use crate::source::kube::tests::cluster;

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const NAME: u64 = 5_965_275_750_310_141_481;
const SERVICES: &str = "/api/v1/namespaces/default/services";

fn problem(name: &str, message: &str) -> Problem {
    Problem {
        object: ObjectRef::namespaced("Service", "default", name),
        message: message.to_owned(),
    }
}

fn found(uid: &str) -> serde_json::Value {
    json!({"kind": "PartialObjectMetadataList", "metadata": {}, "items": [{"metadata": {"name": "web", "uid": uid}}]})
}

fn reporter(server: &Server) -> (Reporter, crate::source::Feed) {
    let mut feed = cluster(&format!("http://{}", server.address))
        .follow()
        .unwrap();
    (feed.reporter.take().unwrap(), feed)
}

#[tokio::test]
async fn a_problem_becomes_an_event_on_its_object_once() {
    let mut server = Server::start().await;
    let (reporter, _feed) = reporter(&server);
    let wrong = problem("web", "externalIPs: \"x\" is no address; it is left out");
    // What is no object of the API is nobody's.
    reporter.report(&Problem {
        object: ObjectRef::plain("file", "web.yaml"),
        message: "broken".to_owned(),
    });
    reporter.report(&wrong);
    reporter.report(&wrong);
    let lookup = server.request(SERVICES).await;
    assert_eq!(lookup.asks("fieldSelector"), Some("metadata.name=web"));
    lookup.json(200, &found("u-1"));
    let event = server.request(EVENTS).await;
    let body = event.body.clone();
    assert_eq!(
        body["regarding"],
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "web", "uid": "u-1"})
    );
    assert_eq!(body["note"], wrong.message);
    assert_eq!(body["type"], "Warning");
    assert_eq!(body["reportingInstance"], "kube-proxy-ebpf-here");
    event.json(201, &body);
    // Another one, which another node was first to tell; and the next.
    reporter.report(&problem("web", "another"));
    server.request(SERVICES).await.json(200, &found("u-1"));
    let event = server.request(EVENTS).await;
    assert_ne!(event.body["metadata"]["name"], body["metadata"]["name"]);
    event.refuse(409, "AlreadyExists");
    reporter.report(&problem("gone", "wrong"));
    let gone = json!({"kind": "PartialObjectMetadataList", "metadata": {}, "items": []});
    server.request(SERVICES).await.json(200, &gone);
    reporter.report(&problem("web", "a third"));
    server.request(SERVICES).await.json(200, &found("u-1"));
    assert_eq!(server.request(EVENTS).await.body["note"], "a third");
}

#[tokio::test]
async fn refused_events_cost_nothing_else() {
    let mut server = Server::start().await;
    let (reporter, _feed) = reporter(&server);
    for n in 0..3 * BACKLOG {
        reporter.report(&problem("web", &format!("problem {n}")));
    }
    server.request(SERVICES).await.json(200, &found("u-1"));
    server.request(EVENTS).await.refuse(403, "Forbidden");
    server.request(SERVICES).await.json(200, &found("u-1"));
    server.request(EVENTS).await.refuse(403, "Forbidden");
}

#[tokio::test]
async fn a_server_that_fails_is_asked_again_and_one_that_refuses_is_not() {
    let mut server = Server::start().await;
    let (reporter, _feed) = reporter(&server);
    reporter.report(&problem("web", "first"));
    reporter.report(&problem("web", "second"));
    server.request(SERVICES).await.json(200, &found("u-1"));
    let event = server.request(EVENTS).await;
    assert_eq!(event.body["note"], "first");
    event.refuse(503, "ServiceUnavailable");
    server.request(SERVICES).await.json(200, &found("u-1"));
    let event = server.request(EVENTS).await;
    assert_eq!(event.body["note"], "first");
    event.refuse(403, "Forbidden");
    server.request(SERVICES).await.json(200, &found("u-1"));
    assert_eq!(server.request(EVENTS).await.body["note"], "second");
}

#[tokio::test]
async fn what_was_told_by_a_second_try_is_not_told_again() {
    let mut server = Server::start().await;
    let (reporter, _feed) = reporter(&server);
    reporter.report(&problem("web", "first"));
    server.request(SERVICES).await.json(200, &found("u-1"));
    server
        .request(EVENTS)
        .await
        .refuse(503, "ServiceUnavailable");
    server.request(SERVICES).await.json(200, &found("u-1"));
    let event = server.request(EVENTS).await;
    let body = event.body.clone();
    event.json(201, &body);
    reporter.report(&problem("web", "first"));
    reporter.report(&problem("web", "second"));
    server.request(SERVICES).await.json(200, &found("u-1"));
    assert_eq!(server.request(EVENTS).await.body["note"], "second");
}

#[test]
fn a_burst_passes_and_then_the_rate_holds() {
    let mut bucket = Bucket::new(Rate {
        burst: 3,
        each: Duration::from_secs(10),
        spread: Duration::ZERO,
    });
    for seconds in [0, 0, 0, 10, 20] {
        let wait = bucket.wait();
        let due = Duration::from_secs(seconds);
        assert!(
            wait <= due && wait + Duration::from_secs(1) >= due,
            "{wait:?}"
        );
    }
}

#[test]
fn all_nodes_give_an_event_one_name() {
    let wrong = problem("web", "wrong");
    // Of one version at least; another number here costs an Event twice while nodes are updated.
    assert_eq!(fingerprint(&wrong, "u"), NAME);
    assert_ne!(fingerprint(&wrong, "u"), fingerprint(&wrong, "v"));
    assert_ne!(
        fingerprint(&wrong, "u"),
        fingerprint(&problem("web", "other"), "u")
    );
    assert_eq!(shortened("äää", 3), "ä");
}
