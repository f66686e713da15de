//! What comes out, for what an API server says, refuses and breaks off.

mod malformed;
mod outages;
mod quiet;
pub mod server;

use std::time::Duration;

use serde_json::json;
use tokio::{sync::mpsc::Receiver, time::timeout};

use self::server::{
    Exchange, NODES, PATIENCE, SERVICES, SLICES, Server, Stream, node, service, slice,
};
use super::*;
use crate::model::{Change, Event};

/// Long enough for what must not happen, to happen.
const A_WHILE: Duration = Duration::from_millis(300);

fn follow(server: &Server) -> Receiver<Update> {
    cluster(&format!("http://{}", server.address))
        .follow()
        .unwrap()
        .updates
}

pub fn cluster(address: &str) -> Cluster {
    let args = AccessArgs {
        api_server: Some(address.parse().unwrap()),
        ..AccessArgs::default()
    };
    Cluster {
        events: Rate {
            spread: Duration::ZERO,
            ..Rate::default()
        },
        pace: Pace {
            retry: (Duration::from_millis(5), Duration::from_millis(50)),
            ..Pace::default()
        },
        ..Cluster::new(args.into(), "here".to_owned())
    }
}

/// A server with no slices and no Node, its follower, and the first request for Services.
async fn services_alone() -> (Server, Receiver<Update>, Exchange) {
    let mut server = Server::start().await;
    server.nothing_at(SLICES);
    server.nothing_at(NODES);
    let updates = follow(&server);
    let first = server.request(SERVICES).await;
    (server, updates, first)
}

/// The same, with Services `a` and `b` told, at version 10, by a stream that goes on.
async fn two_services() -> (Server, Receiver<Update>, Stream) {
    let (server, mut updates, first) = services_alone().await;
    let stream = first.stream();
    stream.added(&service("a", "10.96.0.1", "8"));
    stream.added(&service("b", "10.96.0.2", "9"));
    stream.listed("10");
    assert_eq!(
        until_synced(&mut updates).await,
        ["+a 10.96.0.1", "+b 10.96.0.2", "synced"]
    );
    (server, updates, stream)
}

async fn next(updates: &mut Receiver<Update>) -> Update {
    timeout(PATIENCE, updates.recv())
        .await
        .expect("no update comes")
        .expect("the source goes on")
}

async fn nothing(updates: &mut Receiver<Update>) {
    if let Ok(update) = timeout(A_WHILE, updates.recv()).await {
        panic!("{update:?} came too soon");
    }
}

/// The events in short: `+web 10.96.0.1`, `-web`, `+slice web-x`, `synced`.
fn short(update: &Update) -> Vec<String> {
    update
        .events
        .iter()
        .map(|event| match event {
            Event::Service(Change::Upsert(service)) => {
                assert_eq!(service.name.namespace, "default");
                format!("+{} {}", service.name.name, service.cluster_ips[0])
            }
            Event::Service(Change::Delete(name)) => format!("-{}", name.name),
            Event::Slice(Change::Upsert(slice)) => format!("+slice {}", slice.name.name),
            Event::Slice(Change::Delete(name)) => format!("-slice {}", name.name),
            Event::Node(Change::Upsert(node)) => format!("+node {}", node.name),
            Event::Node(Change::Delete(name)) => format!("-node {name}"),
            Event::Synced => "synced".to_owned(),
        })
        .collect()
}

async fn until_synced(updates: &mut Receiver<Update>) -> Vec<String> {
    let mut all = Vec::new();
    while all.last().is_none_or(|last| last != "synced") {
        all.extend(short(&next(updates).await));
    }
    all
}

#[tokio::test]
async fn synced_comes_when_all_kinds_are_listed() {
    let mut server = Server::start().await;
    let mut updates = follow(&server);
    let (services, slices, nodes) = (
        server.request(SERVICES).await,
        server.request(SLICES).await,
        server.request(NODES).await,
    );
    assert!(services.is_listing_watch());
    assert_eq!(services.asks("resourceVersionMatch"), Some("NotOlderThan"));
    assert_eq!(services.asks("labelSelector"), None);
    assert_eq!(
        slices.asks("labelSelector"),
        Some("kubernetes.io/service-name,!service.kubernetes.io/headless")
    );
    assert_eq!(nodes.asks("fieldSelector"), Some("metadata.name=here"));

    let services = services.stream();
    services.added(&service("a", "10.96.0.1", "8"));
    // Nothing counts before the list is complete.
    nothing(&mut updates).await;
    services.listed("10");
    assert_eq!(short(&next(&mut updates).await), ["+a 10.96.0.1"]);
    let slices = slices.stream();
    slices.added(&slice("a-1", "a", "10.244.0.1", "9"));
    slices.listed("10");
    assert_eq!(short(&next(&mut updates).await), ["+slice a-1"]);
    // A change before the others are listed.
    services.event("MODIFIED", &service("a", "10.96.0.9", "11"));
    assert_eq!(short(&next(&mut updates).await), ["+a 10.96.0.9"]);
    let nodes = nodes.stream();
    nodes.added(&node("here", "172.30.0.11", "7"));
    nodes.listed("10");
    assert_eq!(short(&next(&mut updates).await), ["+node here", "synced"]);
}

#[tokio::test]
async fn a_server_that_does_not_begin_watches_with_a_list_is_asked_for_one() {
    for refusal in [400, 422] {
        let (mut server, mut updates, first) = services_alone().await;
        first.refuse(refusal, "Invalid");
        let list = server.request(SERVICES).await;
        assert_eq!(list.asks("watch"), None);
        assert_eq!(list.asks("resourceVersion"), Some("0"));
        list.list("10", None, &[service("a", "10.96.0.1", "8")]);
        assert_eq!(until_synced(&mut updates).await, ["+a 10.96.0.1", "synced"]);
        let watch = server.request(SERVICES).await;
        assert!(watch.is_watch_after("10"));
        // Later on it is not asked again.
        watch.refuse(410, "Expired");
        let list = server.request(SERVICES).await;
        assert_eq!(list.asks("resourceVersion"), Some("10"));
        assert_eq!(list.asks("resourceVersionMatch"), Some("NotOlderThan"));
    }
}

#[tokio::test]
async fn changes_are_told_as_they_come() {
    let (_server, mut updates, stream) = two_services().await;
    stream.event("MODIFIED", &service("a", "10.96.0.3", "11"));
    assert_eq!(short(&next(&mut updates).await), ["+a 10.96.0.3"]);
    stream.event("DELETED", &service("b", "10.96.0.2", "12"));
    assert_eq!(short(&next(&mut updates).await), ["-b"]);
    // What was never told need not be taken back.
    stream.event("DELETED", &service("c", "10.96.0.2", "13"));
    stream.added(&service("b", "10.96.0.4", "14"));
    assert_eq!(short(&next(&mut updates).await), ["+b 10.96.0.4"]);
}

#[tokio::test]
async fn what_arrives_together_is_told_together() {
    let (_server, mut updates, stream) = two_services().await;
    let lines: Vec<String> = (0..50)
        .map(|n| {
            let object = service(&format!("s{n}"), "10.96.1.1", &format!("{}", 20 + n));
            json!({"type": "ADDED", "object": object}).to_string()
        })
        .collect();
    stream.raw(&(lines.join("\n") + "\n"));
    let mut counts = Vec::new();
    while counts.iter().sum::<usize>() < 50 {
        counts.push(next(&mut updates).await.events.len());
    }
    assert!(counts.len() <= 3, "{counts:?}");
}

#[tokio::test]
async fn a_watch_that_ends_or_is_cut_goes_on_where_it_was() {
    let (mut server, mut updates, stream) = two_services().await;
    stream.event("MODIFIED", &service("a", "10.96.0.3", "11"));
    assert_eq!(short(&next(&mut updates).await), ["+a 10.96.0.3"]);
    stream.end();
    let again = server.request(SERVICES).await;
    assert!(again.is_watch_after("11"), "{:?}", again.query);
    let stream = again.stream();
    stream.bookmark("15");
    stream.cut().await;
    let again = server.request(SERVICES).await;
    assert!(again.is_watch_after("15"), "{:?}", again.query);
    let stream = again.stream();
    stream.event("DELETED", &service("b", "10.96.0.2", "16"));
    assert_eq!(short(&next(&mut updates).await), ["-b"]);
    // In the middle of a line: it comes again.
    stream.raw(r#"{"type":"ADDED","object":{"metad"#);
    stream.cut().await;
    let again = server.request(SERVICES).await;
    assert!(again.is_watch_after("16"), "{:?}", again.query);
    nothing(&mut updates).await;
}

/// How a server says that a version is too old.
enum Expiry {
    Refusal,
    Event,
    Nonsense,
}

#[tokio::test]
async fn what_is_compacted_is_listed_anew_and_the_difference_is_told() {
    for expiry in [Expiry::Refusal, Expiry::Event, Expiry::Nonsense] {
        let (mut server, mut updates, stream) = two_services().await;
        match expiry {
            Expiry::Refusal => {
                stream.end();
                server.request(SERVICES).await.refuse(410, "Expired");
            }
            Expiry::Event => stream.event("ERROR", &server::status(410, "Expired")),
            Expiry::Nonsense => stream.raw("<html>\n"),
        }
        let list = server.request(SERVICES).await;
        assert!(list.is_listing_watch(), "{:?}", list.query);
        let list = list.stream();
        // a is as it was, b is gone, c is new.
        list.added(&service("a", "10.96.0.1", "8"));
        list.added(&service("c", "10.96.0.3", "20"));
        nothing(&mut updates).await;
        list.listed("21");
        assert_eq!(short(&next(&mut updates).await), ["+c 10.96.0.3", "-b"]);
        list.event("DELETED", &service("a", "10.96.0.1", "22"));
        assert_eq!(short(&next(&mut updates).await), ["-a"]);
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_takes_nothing_away() {
    let (mut server, mut updates, stream) = two_services().await;
    stream.event("ERROR", &server::status(410, "Expired"));
    let list = server.request(SERVICES).await.stream();
    list.added(&service("c", "10.96.0.3", "20"));
    list.added(&json!({"metadata": {"name": "a", "namespace": "default"}, "spec": 7}));
    list.cut().await;
    let list = server.request(SERVICES).await;
    assert!(list.is_listing_watch());
    nothing(&mut updates).await;
    let list = list.stream();
    list.added(&service("b", "10.96.0.2", "9"));
    list.added(&service("d", "10.96.0.4", "20"));
    // One that goes before the list is complete.
    list.event("DELETED", &service("d", "10.96.0.4", "21"));
    list.listed("21");
    let update = next(&mut updates).await;
    assert_eq!(short(&update), ["+d 10.96.0.4", "-d", "-a"]);
    // What was wrong with an object is told all the same.
    assert_eq!(update.problems.len(), 1, "{:?}", update.problems);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_costs_itself_alone() {
    let (mut server, mut updates, stream) = two_services().await;
    let mut wrong = service("a", "10.96.0.1", "11");
    wrong["spec"]["ports"] = json!("none");
    stream.event("MODIFIED", &wrong);
    let update = next(&mut updates).await;
    assert_eq!(short(&update), [""; 0]);
    assert_eq!(update.problems[0].object.to_string(), "Service default/a");
    assert!(
        update.problems[0].message.contains("stays"),
        "{:?}",
        update.problems
    );
    // One without a name.
    stream.added(&json!({"metadata": {"name": 7}}));
    let update = next(&mut updates).await;
    assert_eq!(
        update.problems[0].object.to_string(),
        "Service without a name"
    );
    stream.event("MODIFIED", &service("b", "10.96.0.3", "12"));
    assert_eq!(short(&next(&mut updates).await), ["+b 10.96.0.3"]);

    // In a list, too; it was told already, so it is not told again.
    stream.event("ERROR", &server::status(410, "Expired"));
    let list = server.request(SERVICES).await.stream();
    list.added(&wrong);
    list.listed("20");
    let update = next(&mut updates).await;
    assert_eq!(short(&update), ["-b"]);
    assert_eq!(update.problems, []);
    // Right again.
    list.event("MODIFIED", &service("a", "10.96.0.5", "21"));
    assert_eq!(short(&next(&mut updates).await), ["+a 10.96.0.5"]);
}

#[tokio::test]
async fn chunks_may_end_anywhere() {
    let (_server, mut updates, stream) = two_services().await;
    let line = format!(
        "{}\n",
        json!({"type": "ADDED", "object": service("c", "10.96.0.3", "11")})
    );
    for piece in line.as_bytes().chunks(97) {
        stream.raw(std::str::from_utf8(piece).unwrap());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(short(&next(&mut updates).await), ["+c 10.96.0.3"]);
}

#[tokio::test]
async fn everything_can_be_read_once_in_parts() {
    let mut server = Server::start().await;
    let cluster = cluster(&format!("http://{}", server.address));
    let reader = tokio::task::spawn_blocking(|| cluster.read());
    let first = server.request(SERVICES).await;
    assert_eq!(first.asks("limit"), Some("500"));
    assert_eq!(first.asks("resourceVersion"), None);
    let mut wrong = service("w", "10.96.0.9", "11");
    wrong["spec"] = json!(7);
    first.list("10", Some("more"), &[service("a", "10.96.0.1", "8"), wrong]);
    let second = server.request(SERVICES).await;
    assert_eq!(second.asks("continue"), Some("more"));
    second.list("10", None, &[service("b", "10.96.0.2", "9")]);
    server.request(SLICES).await.list("10", None, &[]);
    let nodes = server.request(NODES).await;
    assert_eq!(nodes.asks("fieldSelector"), Some("metadata.name=here"));
    nodes.list("10", None, &[node("here", "172.30.0.11", "7")]);
    let update = reader.await.unwrap().unwrap();
    let mut events = short(&update);
    events.sort();
    assert_eq!(
        events,
        ["+a 10.96.0.1", "+b 10.96.0.2", "+node here", "synced"]
    );
    assert_eq!(update.problems[0].object.to_string(), "Service default/w");
}

#[tokio::test]
async fn a_kubeconfig_that_is_replaced_is_read_again() {
    let mut server = Server::start().await;
    server.nothing_at(SLICES);
    server.nothing_at(NODES);
    let path = std::env::temp_dir().join(format!("kube-source-{}.yaml", std::process::id()));
    let address = server.address;
    let write = |token: &str| {
        let text = format!(
            "clusters: [{{name: c, cluster: {{server: 'http://{address}'}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
current-context: c
"
        );
        std::fs::write(&path, text).unwrap();
    };
    write("old");
    let args = AccessArgs {
        kubeconfig: Some(path.clone()),
        ..AccessArgs::default()
    };
    let feed = Cluster {
        access: args.into(),
        ..cluster("http://unused")
    }
    .follow()
    .unwrap();
    let first = server.request(SERVICES).await;
    assert_eq!(first.token.as_deref(), Some("Bearer old"));
    write("new");
    first.refuse(401, "Unauthorized");
    let second = server.request(SERVICES).await;
    assert_eq!(second.token.as_deref(), Some("Bearer new"));
    let _ = std::fs::remove_file(path);
    drop(feed);
}
