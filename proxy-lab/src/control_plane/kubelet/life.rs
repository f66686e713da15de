//! One pod from its binding to its end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Client;
use kube::api::{
    Api as Resource, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions,
};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::status::{self, annotation};
use super::{Shared, place};
use crate::control_plane::api::{has_code, is_not_found};
use crate::error::{LabError, Result};

/// Time until a step that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What a pod waits for.
enum Next {
    /// The pod's object changed.
    Change,
    /// A change, or this time.
    Until(Instant),
    /// Nothing any more.
    End,
}

/// A pod's life.
pub(super) struct Life {
    shared: Arc<Shared>,
    client: Client,
    uid: String,
    /// When one that was asked to end does.
    ends: Option<Instant>,
}

impl Life {
    pub(super) fn new(shared: Arc<Shared>, client: Client, uid: String) -> Self {
        Self {
            shared,
            client,
            uid,
            ends: None,
        }
    }

    /// Brings the pod in line with its object after each change, until the object is deleted.
    pub(super) async fn live(mut self, mut object: watch::Receiver<Option<Arc<Pod>>>) {
        loop {
            let now = object.borrow_and_update().clone();
            let Some(pod) = now else { break };
            let next = match self.step(&pod).await {
                Ok(next) => next,
                Err(error) => {
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    self.shared.note(&format!("pod {name}: {}", error.chain()));
                    Next::Until(Instant::now() + PAUSE)
                }
            };
            let changed = match next {
                Next::End => break,
                Next::Change => object.changed().await,
                Next::Until(time) => tokio::select! {
                    changed = object.changed() => changed,
                    () = sleep_until(time) => Ok(()),
                },
            };
            if changed.is_err() {
                break;
            }
        }
        if let Err(error) = self.remove().await {
            self.shared
                .note(&format!("a pod that ended: {}", error.chain()));
        }
        self.shared.forget(&self.uid);
    }

    async fn step(&mut self, pod: &Pod) -> Result<Next> {
        if pod.metadata.deletion_timestamp.is_some() {
            return self.end(pod).await;
        }
        if status::is_over(pod) || self.shared.has_failed(&self.uid) {
            self.remove().await?;
            return Ok(Next::Change);
        }
        match pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
            None => self.bind(pod).await,
            Some(node) if self.shared.sites.contains_key(node) => self.run(pod, node).await,
            // Of a node that is but an object.
            Some(_) => Ok(Next::Change),
        }
    }

    /// Binds the pod to a node: among those that fit, the one with the fewest pods of the same owner,
    /// then the fewest pods in total.
    async fn bind(&self, pod: &Pod) -> Result<Next> {
        let nodes: Resource<Node> = Resource::all(self.client.clone());
        let listed = nodes
            .list(&ListParams::default())
            .await
            .map_err(failed("listing nodes"))?;
        let fitting = listed.items.iter().filter(|node| place::fits(pod, node));
        let names = fitting.filter_map(|node| node.metadata.name.as_deref());
        let Some(node) = self.shared.choose(pod, &self.uid, names) else {
            return Ok(Next::Until(Instant::now() + PAUSE));
        };
        let name = pod.metadata.name.clone().unwrap_or_default();
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name}, "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let bound: kube::Result<Value> = self
            .pods(pod)
            .create_subresource("binding", &name, &PostParams::default(), &binding)
            .await;
        match bound {
            // The pod is bound already, and the watch will report it.
            Err(error) if has_code(&error, 409) => Ok(Next::Change),
            other => other.map(|_| Next::Change).map_err(failed("binding a pod")),
        }
    }

    /// Creates the pod if it does not exist, and reports its status.
    async fn run(&self, pod: &Pod, node: &str) -> Result<Next> {
        let shared = Arc::clone(&self.shared);
        let (uid, object, place) = (self.uid.clone(), pod.clone(), node.to_owned());
        let own = blocking(move || shared.ensure(&uid, &object, &place)).await?;
        let wanted = status::running(pod, own, self.shared.sites[node].addresses());
        if status::differs(pod, &wanted) {
            self.say(pod, &wanted).await?;
        }
        Ok(Next::Change)
    }

    /// Lets it serve until its time is over, then removes it, then its object.
    async fn end(&mut self, pod: &Pod) -> Result<Next> {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let exits = annotation(pod, status::EXITS_AFTER).and_then(|text| text.parse().ok());
        let exits = exits.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let ends = *self
            .ends
            .get_or_insert_with(|| Instant::now() + exits.unwrap_or(grace).min(grace));
        if self.shared.has(&self.uid) && Instant::now() < ends {
            // Meanwhile it is probed like any other.
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) {
                self.run(pod, node).await?;
            }
            return Ok(Next::Until(ends));
        }
        self.remove().await?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default().grace_period(0)
        };
        match self.pods(pod).delete(name, &parameters).await {
            Err(error) if !is_not_found(&error) && !has_code(&error, 409) => {
                Err(failed("removing a pod's object")(error))
            }
            _ => Ok(Next::End),
        }
    }

    async fn say(&self, pod: &Pod, status: &Value) -> Result<()> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let patch = Patch::Merge(json!({"metadata": {"uid": self.uid}, "status": status}));
        let said = self
            .pods(pod)
            .patch_status(name, &PatchParams::default(), &patch)
            .await;
        said.map(drop).map_err(failed("writing a pod's status"))
    }

    async fn remove(&self) -> Result<()> {
        let (shared, uid) = (Arc::clone(&self.shared), self.uid.clone());
        blocking(move || shared.remove(&uid)).await
    }

    fn pods(&self, pod: &Pod) -> Resource<Pod> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        Resource::namespaced(self.client.clone(), namespace)
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| {
        Err(LabError::kernel("working on a pod")(std::io::Error::other(
            error,
        )))
    })
}

fn failed(action: &'static str) -> impl FnOnce(kube::Error) -> LabError {
    crate::control_plane::api::failed(action)
}
