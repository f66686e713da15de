//! What is wrong with objects, told to their owners: as Kubernetes Events on the objects, where `kubectl describe` shows
//! them.
//!
//! All nodes find the same faults. So an Event's name is made of what it says: the first node creates it, the others find it
//! there. The API server forgets it after its time (an hour by default).

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    api::{ListParams, PostParams},
    core::Request,
};
use serde::Deserialize;
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    time::{sleep, timeout},
};

use super::{
    answer,
    connector::{ConnectError, Connector},
    decode::{EndpointSlice, Manifest, Node, Service},
    failure::CONFLICT,
};
use crate::{
    model::{ObjectRef, Problem},
    telemetry::chain,
    text,
};

/// Who tells.
const CONTROLLER: &str = "kube-proxy-ebpf";
/// Problems that may wait; more are in the log alone.
const BACKLOG: usize = 256;
/// As long as a problem is not told again: the time that an API server keeps an Event.
const REMEMBERED: Duration = Duration::from_hours(1);
/// Problems that are remembered.
const MEMORY: usize = 1024;
/// How often a problem is told to an API server that can't take it just now.
const TRIES: u32 = 3;
/// The longest that the fields may be, in bytes.
const LONGEST_NOTE: usize = 1000;
const LONGEST_INSTANCE: usize = 128;
const LONGEST_NAME: usize = 200;

/// Takes problems, and is never in the way.
#[derive(Clone, Debug)]
pub struct Reporter(mpsc::Sender<Problem>);

impl Reporter {
    pub(super) fn new() -> (Self, mpsc::Receiver<Problem>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        (Self(sender), receiver)
    }

    /// Tells a problem, if it is one of an object and there is room.
    pub fn report(&self, problem: &Problem) {
        if Resource::of(&problem.object).is_none() {
            return;
        }
        if let Err(TrySendError::Full(problem)) = self.0.try_send(problem.clone()) {
            tracing::debug!(object = %problem.object, "too many problems: no Event for this one");
        }
    }
}

/// How often Events are created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// That many at once,
    pub burst: u32,
    /// and then one each time.
    pub each: Duration,
    /// Waits before each, at random up to this, so that not all nodes come at once.
    pub spread: Duration,
}

impl Default for Rate {
    fn default() -> Self {
        Self {
            burst: 20,
            each: Duration::from_secs(10),
            spread: Duration::from_secs(5),
        }
    }
}

/// Creates Events for what comes in.
pub(super) async fn publish(
    mut problems: mpsc::Receiver<Problem>,
    connector: &Connector,
    node_name: &str,
    rate: Rate,
) {
    let mut recorder = Recorder {
        connector,
        instance: shortened(&format!("{CONTROLLER}-{node_name}"), LONGEST_INSTANCE),
        told: HashMap::new(),
        refused: None,
    };
    let mut bucket = Bucket::new(rate);
    while let Some(problem) = problems.recv().await {
        if recorder.is_new(&problem) && !recorder.has_told(&problem, &mut bucket).await {
            // When it comes up again, it is new.
            recorder.told.remove(&fingerprint(&problem, ""));
        }
    }
}

/// Tokens that are refilled with time.
struct Bucket {
    rate: Rate,
    /// When it would be full.
    full: Instant,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            full: Instant::now(),
        }
    }

    /// Takes one; returns how long to wait for it.
    fn wait(&mut self) -> Duration {
        let now = Instant::now();
        self.full = self.full.max(now) + self.rate.each;
        let burst = self.rate.each * self.rate.burst;
        let due = self
            .full
            .saturating_duration_since(now)
            .saturating_sub(burst);
        due + self.rate.spread.mul_f64(fastrand::f64())
    }
}

struct Recorder<'a> {
    connector: &'a Connector,
    instance: String,
    told: HashMap<u64, Instant>,
    /// Why Events were refused, so that it is told once.
    refused: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the request can't be made")]
    Request(#[from] kube::core::request::Error),
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer in time")]
    NoAnswer,
}

impl Refusal {
    /// Whether the same request may be answered later.
    const fn may_pass(&self) -> bool {
        match self {
            Self::Request(_) => false,
            Self::Api(kube::Error::Api(status)) => status.code == 429 || status.code >= 500,
            Self::Connect(_) | Self::NoAnswer | Self::Api(_) => true,
        }
    }
}

impl Recorder<'_> {
    fn is_new(&mut self, problem: &Problem) -> bool {
        let now = Instant::now();
        if self.told.len() >= MEMORY {
            self.told
                .retain(|_, at| now.duration_since(*at) < REMEMBERED);
        }
        if self.told.len() >= MEMORY {
            return false;
        }
        let before = self.told.insert(fingerprint(problem, ""), now);
        before.is_none_or(|at| now.duration_since(at) >= REMEMBERED)
    }

    /// Creates the Event, with more tries where these may help; says whether it is there.
    async fn has_told(&mut self, problem: &Problem, bucket: &mut Bucket) -> bool {
        for _ in 0..TRIES {
            sleep(bucket.wait()).await;
            match self.tell(problem).await {
                Ok(()) => return true,
                Err(refusal) if refusal.may_pass() => {}
                Err(_) => return false,
            }
        }
        false
    }

    async fn tell(&mut self, problem: &Problem) -> Result<(), Refusal> {
        let limit = self.connector.pace().answer;
        let result = timeout(limit, self.create(problem))
            .await
            .unwrap_or(Err(Refusal::NoAnswer));
        match &result {
            Ok(()) => self.refused = None,
            Err(refusal) => {
                let reason = chain(refusal);
                tracing::debug!(object = %problem.object, reason, "no Event");
                if self.refused.is_none() {
                    tracing::warn!(
                        reason,
                        "Events can't be created; problems of objects are in the log alone"
                    );
                    self.refused = Some(reason);
                }
            }
        }
        result
    }

    async fn create(&self, problem: &Problem) -> Result<(), Refusal> {
        let Some(resource) = Resource::of(&problem.object) else {
            return Ok(());
        };
        let client = self.connector.connection()?.client;
        let lookup = Request::new(resource.path()).list_metadata(
            &ListParams::default().fields(&format!("metadata.name={}", problem.object.name)),
        )?;
        let found = answer::whole(&client, lookup).await?;
        let found: Found = serde_json::from_slice(&found).map_err(kube::Error::SerdeError)?;
        let Some(uid) = found.items.into_iter().find_map(|item| item.metadata.uid) else {
            // It is gone, and its problem with it.
            return Ok(());
        };
        let event = self.event(problem, &resource, uid);
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let create = Request::new(path).create(&PostParams::default(), body)?;
        match answer::whole(&client, create).await {
            // Another node was first.
            Err(kube::Error::Api(status)) if status.code == CONFLICT => Ok(()),
            result => result.map(|_| ()).map_err(Refusal::from),
        }
    }

    fn event(&self, problem: &Problem, resource: &Resource<'_>, uid: String) -> Event {
        let object = &problem.object;
        // Events on what has no namespace are in this one.
        let namespace = object.namespace.as_deref().unwrap_or("default");
        let name = format!(
            "{}.{:016x}",
            shortened(&object.name, LONGEST_NAME),
            fingerprint(problem, &uid)
        );
        Event {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some("LeftOut".to_owned()),
            action: Some("Programming".to_owned()),
            note: Some(text::plain(&problem.message, LONGEST_NOTE).into_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(ObjectReference {
                api_version: Some(resource.api_version.to_owned()),
                kind: Some(object.kind.clone()),
                namespace: object.namespace.clone(),
                name: Some(object.name.clone()),
                uid: Some(uid),
                ..ObjectReference::default()
            }),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

#[derive(Deserialize)]
struct Found {
    items: Vec<FoundItem>,
}

#[derive(Deserialize)]
struct FoundItem {
    metadata: FoundMetadata,
}

#[derive(Deserialize)]
struct FoundMetadata {
    uid: Option<String>,
}

/// Where the API has an object.
struct Resource<'a> {
    api_version: &'static str,
    /// Of all objects of the kind.
    path: &'static str,
    namespace: Option<&'a str>,
}

impl<'a> Resource<'a> {
    /// `None`: it is no object of the API.
    fn of(object: &'a ObjectRef) -> Option<Self> {
        let namespace = object.namespace.as_deref().filter(|n| !n.is_empty());
        let (api_version, path) = match (&*object.kind, namespace) {
            (Service::KIND, Some(_)) => ("v1", Service::PATH),
            (EndpointSlice::KIND, Some(_)) => ("discovery.k8s.io/v1", EndpointSlice::PATH),
            (Node::KIND, None) => ("v1", Node::PATH),
            _ => return None,
        };
        Some(Self {
            api_version,
            path,
            namespace,
        })
    }

    fn path(&self) -> String {
        match (self.namespace, self.path.rsplit_once('/')) {
            (Some(namespace), Some((group, plural))) => {
                format!("{group}/namespaces/{namespace}/{plural}")
            }
            _ => self.path.to_owned(),
        }
    }
}

/// The same on every node of one version.
fn fingerprint(problem: &Problem, uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (problem, uid).hash(&mut hasher);
    hasher.finish()
}

fn shortened(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests;
