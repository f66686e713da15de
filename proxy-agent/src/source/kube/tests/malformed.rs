//! Objects that are wrong, in the first list and live: each is told as an Event on it, and the healthy Service beside is
//! as it was. An API server refuses many of them; of what other versions let pass, nobody can be sure.

use std::collections::BTreeSet;

use super::*;
use crate::{
    model::Problem,
    source::malformed::{Beside, Case, cases, healthy},
};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

/// Those that can be told by an Event, and that the watch asks for.
fn seen() -> Vec<Case> {
    let mut cases = cases();
    // Slices without the label are not asked for.
    cases.retain(|case| !case.told.starts_with("the label"));
    cases
}

fn path(kind: &str) -> &'static str {
    match kind {
        "Service" => SERVICES,
        "EndpointSlice" => SLICES,
        _ => NODES,
    }
}

/// What came, until enough problems did.
async fn until_told(updates: &mut Receiver<Update>, problems: usize, synced: bool) -> Update {
    let mut all = Update::default();
    let is_synced = |all: &Update| all.events.contains(&Event::Synced) || !synced;
    while all.problems.len() < problems || !is_synced(&all) {
        let update = next(updates).await;
        all.events.extend(update.events);
        all.problems.extend(update.problems);
    }
    all
}

fn assert_told(case: &Case, problems: &[Problem]) {
    let object = match case.kind {
        "Node" => "Node here".to_owned(),
        kind => format!("{kind} default/{}", case.name),
    };
    let told = |problem: &&Problem| {
        problem.object.to_string() == object && problem.message.contains(case.told)
    };
    assert!(
        problems.iter().any(|p| told(&p)),
        "{object}, {}: {problems:?}",
        case.told
    );
}

#[tokio::test]
async fn every_malformed_object_in_the_first_list_is_told_and_harms_no_other() {
    // One Node has one fault at a time.
    let services_and_slices = || seen().into_iter().filter(|case| case.kind != "Node");
    let mut server = Server::start().await;
    let mut updates = follow(&server);
    for kind in ["Service", "EndpointSlice", "Node"] {
        let stream = server.request(path(kind)).await.stream();
        let good = healthy()
            .into_iter()
            .filter(|object| object["kind"] == kind);
        let bad = services_and_slices()
            .filter(|case| case.kind == kind)
            .map(|case| case.object);
        bad.chain(good).for_each(|object| stream.added(&object));
        stream.listed("100");
        // The stream goes on, silently.
        std::mem::forget(stream);
    }
    let count = services_and_slices()
        .map(|case| case.name)
        .collect::<BTreeSet<_>>()
        .len();
    let update = until_told(&mut updates, count, true).await;
    for case in services_and_slices() {
        assert_told(&case, &update.problems);
    }
    let is_good = |event: &&Event| match event {
        Event::Service(Change::Upsert(service)) => service.name.name == "good",
        Event::Slice(Change::Upsert(slice)) => slice.name.name == "good-1",
        event => matches!(event, Event::Node(_)),
    };
    let good = update.events.iter().filter(is_good).cloned().collect();
    Beside::new(good).stays(update.events, "the first list");
}

#[tokio::test]
async fn every_malformed_object_that_comes_is_told_by_an_event_and_harms_no_other() {
    let mut server = Server::start().await;
    let cluster = Cluster {
        events: Rate {
            burst: 1_000,
            spread: Duration::ZERO,
            ..Rate::default()
        },
        ..cluster(&format!("http://{}", server.address))
    };
    let mut feed = cluster.follow().unwrap();
    let mut updates = feed.updates;
    let reporter = feed.reporter.take().unwrap();
    let mut streams = Vec::new();
    for kind in ["Service", "EndpointSlice", "Node"] {
        let stream = server.request(path(kind)).await.stream();
        let good = healthy()
            .into_iter()
            .filter(|object| object["kind"] == kind);
        good.for_each(|object| stream.added(&object));
        stream.listed("10");
        streams.push((kind, stream));
    }
    let mut beside = Beside::new(until_told(&mut updates, 0, true).await.events);
    for case in seen() {
        let (_, stream) = streams.iter().find(|(kind, _)| *kind == case.kind).unwrap();
        stream.event("MODIFIED", &case.object);
        let update = until_told(&mut updates, 1, false).await;
        assert_told(&case, &update.problems);
        for problem in &update.problems {
            reporter.report(problem);
        }
        beside.stays(update.events, &format!("{} {}", case.name, case.told));
        // The Event is looked for on the object.
        let lookup = match case.kind {
            "Node" => NODES.to_owned(),
            "Service" => "/api/v1/namespaces/default/services".to_owned(),
            _ => "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices".to_owned(),
        };
        let name = if case.kind == "Node" {
            "here"
        } else {
            &case.name
        };
        for problem in &update.problems {
            let lookup = server.request(&lookup).await;
            assert_eq!(
                lookup.asks("fieldSelector"),
                Some(&*format!("metadata.name={name}"))
            );
            let found = json!({"kind": "PartialObjectMetadataList", "metadata": {}, "items": [{"metadata": {"name": name, "uid": "u"}}]});
            lookup.json(200, &found);
            let event = server.request(EVENTS).await;
            assert_eq!(event.body["note"], problem.message.as_str());
            assert_eq!(event.body["regarding"]["kind"], case.kind);
            let body = event.body.clone();
            event.json(201, &body);
        }
    }
}
