//! The API server as tests use it: objects written and read at once, and any request by the `kube` crate.

use std::path::Path;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use kube::api::{Api as Resource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::error::{LabError, Result};
use crate::netns::Netns;

/// Who owns the fields that [`Api::put`] writes.
const MANAGER: &str = "proxy-lab";
/// How long a request may take that is no watch.
const LONGEST: Duration = Duration::from_secs(15);
/// Requests under way in [`Api::create_all`].
const PARALLEL: usize = 48;

/// A client of the API server, inside a network namespace.
pub struct Api {
    /// `None` once it is shut down.
    runtime: Mutex<Option<Runtime>>,
    handle: tokio::runtime::Handle,
    client: Client,
}

impl Api {
    /// A client with the user of a kubeconfig. It connects when it is asked.
    pub(super) fn open(netns: &Netns, kubeconfig: &Path) -> Result<Self> {
        let runtime = runtime_in(netns)?;
        let handle = runtime.handle().clone();
        let file = kubeconfig.to_owned();
        let client = wait(&handle, async move {
            let kubeconfig = Kubeconfig::read_from(file).map_err(kube::Error::from)?;
            let options = KubeConfigOptions::default();
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
            config.connect_timeout = Some(Duration::from_secs(2));
            Client::try_from(config)
        });
        Ok(Self {
            runtime: Mutex::new(Some(runtime)),
            handle,
            client: client.map_err(failed("making a client of the API server"))?,
        })
    }

    /// Runs `work` with a client, on threads that are in the control plane's network namespace, and waits for its end.
    pub fn run<T, W, F>(&self, work: W) -> T
    where
        T: Send + 'static,
        W: FnOnce(Client) -> F,
        F: Future<Output = T> + Send + 'static,
    {
        wait(&self.handle, work(self.client.clone()))
    }

    /// Runs one request; no answer is an error too.
    fn request<T, W, F>(&self, what: String, work: W) -> Result<T>
    where
        T: Send + 'static,
        W: FnOnce(Client) -> F,
        F: Future<Output = kube::Result<T>> + Send + 'static,
    {
        self.run(move |client| in_time(work(client)))
            .map_err(failed(what))
    }

    /// Runs `work` beside everything else, until it ends or the control plane does.
    pub(crate) fn spawn<W, F>(&self, work: W)
    where
        W: FnOnce(Client) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        self.handle.spawn(work(self.client.clone()));
    }

    /// Creates an object, or makes its fields as given (server-side apply); its status too, if it has one.
    pub fn put(&self, object: impl Into<Value>) -> Result<()> {
        let object = object.into();
        let what = format!("writing {}", describe(&object));
        self.request(what, move |client| put(client, object))
    }

    /// Writes several objects, in order.
    pub fn put_all<O: Into<Value>>(&self, objects: impl IntoIterator<Item = O>) -> Result<()> {
        objects.into_iter().try_for_each(|object| self.put(object))
    }

    /// Creates many new objects, 48 at a time, in any order. Their `status` is not written.
    pub fn create_all<O: Into<Value>>(&self, objects: impl IntoIterator<Item = O>) -> Result<()> {
        let objects: Vec<Value> = objects.into_iter().map(Into::into).collect();
        let what = format!("creating {} objects", objects.len());
        self.run(move |client| async move {
            let requests = objects
                .into_iter()
                .map(|object| in_time(create(client.clone(), object)));
            let requests = futures_util::stream::iter(requests);
            requests
                .buffer_unordered(PARALLEL)
                .try_for_each(|()| async { Ok(()) })
                .await
        })
        .map_err(failed(what))
    }

    /// Changes an object as `kubectl patch --type merge` does (RFC 7386); only kind, namespace and name of `object` count.
    pub fn patch(&self, object: impl Into<Value>, patch: impl Into<Value>) -> Result<()> {
        let (object, patch) = (object.into(), patch.into());
        let what = format!("changing {}", describe(&object));
        self.request(what, move |client| async move {
            let (api, object) = resource(&client, object)?;
            let name = object.metadata.name.unwrap_or_default();
            let parameters = PatchParams::default();
            api.patch(&name, &parameters, &Patch::Merge(&patch)).await
        })
        .map(drop)
    }

    /// Makes the fields of an object's status as given (RFC 7386); what else `object` has does not count.
    pub fn patch_status(&self, object: impl Into<Value>) -> Result<()> {
        let object = object.into();
        let what = format!("changing the status of {}", describe(&object));
        self.request(what, move |client| async move {
            let patch = Patch::Merge(json!({"status": object["status"]}));
            let (api, object) = resource(&client, object)?;
            let name = object.metadata.name.unwrap_or_default();
            let parameters = PatchParams::default();
            api.patch_status(&name, &parameters, &patch).await
        })
        .map(drop)
    }

    /// Deletes an object; only its kind, namespace and name count. That it is not there is fine.
    pub fn delete(&self, object: impl Into<Value>) -> Result<()> {
        self.delete_with(object.into(), DeleteParams::default())
    }

    /// The same without a grace period.
    pub fn delete_now(&self, object: impl Into<Value>) -> Result<()> {
        self.delete_with(object.into(), DeleteParams::default().grace_period(0))
    }

    fn delete_with(&self, object: Value, parameters: DeleteParams) -> Result<()> {
        let what = format!("deleting {}", describe(&object));
        self.request(what, move |client| async move {
            let (api, object) = resource(&client, object)?;
            let name = object.metadata.name.unwrap_or_default();
            match api.delete(&name, &parameters).await {
                Err(error) if !is_not_found(&error) => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// An object as it is now, if it is there; only kind, namespace and name of `object` count.
    pub fn get(&self, object: impl Into<Value>) -> Result<Option<Value>> {
        let object = object.into();
        let what = format!("reading {}", describe(&object));
        self.request(what, move |client| async move {
            let (api, object) = resource(&client, object)?;
            let found = api
                .get_opt(&object.metadata.name.unwrap_or_default())
                .await?;
            found
                .map(|object| serde_json::to_value(object).map_err(kube::Error::SerdeError))
                .transpose()
        })
    }

    /// Ends all work that runs on the client's threads.
    pub(super) fn shut_down(&self) {
        let runtime = self
            .runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(runtime) = runtime {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// A runtime whose threads, and thus sockets, are in a network namespace.
fn runtime_in(netns: &Netns) -> Result<Runtime> {
    let path = netns.path().to_owned();
    let enter = move || {
        let file = std::fs::File::open(&path);
        let entered = file.and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?));
        // Panics: otherwise the requests would go to hosts outside of the lab that have these
        // addresses.
        entered.unwrap_or_else(|error| panic!("entering {}: {error}", path.display()));
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("lab api")
        .on_thread_start(enter)
        .enable_all()
        .build()
        .map_err(LabError::kernel("starting the threads of an API client"))
}

/// Runs a future on a runtime's threads, never on the caller's.
fn wait<T: Send + 'static>(
    handle: &tokio::runtime::Handle,
    future: impl Future<Output = T> + Send + 'static,
) -> T {
    let (sender, receiver) = mpsc::sync_channel(1);
    handle.spawn(async move {
        // Who does not wait any more needs no answer.
        let _ = sender.send(future.await);
    });
    receiver
        .recv()
        .expect("the API client's threads live as long as it does, and no request panics")
}

/// The result of a request, or that there was none in time.
pub(super) async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    let ended = tokio::time::timeout(LONGEST, request).await;
    ended.unwrap_or_else(|_| {
        let problem = format!("no answer in {} s", LONGEST.as_secs());
        Err(kube::Error::Service(problem.into()))
    })
}

async fn put(client: Client, mut object: Value) -> kube::Result<()> {
    // The API server has a separate subresource for the status.
    let status = object
        .as_object_mut()
        .and_then(|fields| fields.remove("status"));
    let (api, object) = resource(&client, object)?;
    let name = object.metadata.name.clone().unwrap_or_default();
    let apply = PatchParams::apply(MANAGER).force();
    api.patch(&name, &apply, &Patch::Apply(&object)).await?;
    if let Some(status) = status {
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&name, &PatchParams::default(), &patch)
            .await?;
    }
    Ok(())
}

async fn create(client: Client, object: Value) -> kube::Result<()> {
    let (api, object) = resource(&client, object)?;
    api.create(&PostParams::default(), &object).await.map(drop)
}

/// Where an object belongs. (The plural is guessed from the kind, which is right for all of Kubernetes' own.)
fn resource(
    client: &Client,
    object: Value,
) -> kube::Result<(Resource<DynamicObject>, DynamicObject)> {
    let object: DynamicObject = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let types = object.types.clone().unwrap_or_default();
    let kind = GroupVersionKind::try_from(types).map_err(|error| {
        kube::Error::SerdeError(serde::de::Error::custom(format!(
            "no apiVersion and kind: {error}"
        )))
    })?;
    let resource = ApiResource::from_gvk(&kind);
    let api = match &object.metadata.namespace {
        Some(namespace) => Resource::namespaced_with(client.clone(), namespace, &resource),
        None => Resource::all_with(client.clone(), &resource),
    };
    Ok((api, object))
}

pub(crate) fn is_not_found(error: &kube::Error) -> bool {
    has_code(error, 404)
}

pub(crate) fn has_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn describe(object: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let metadata = &object["metadata"];
    let namespace = metadata["namespace"]
        .as_str()
        .map(|name| format!("{name}/"));
    format!(
        "{} {}{}",
        word(&object["kind"]),
        namespace.unwrap_or_default(),
        word(&metadata["name"])
    )
}

pub(super) fn failed(action: impl Into<String>) -> impl FnOnce(kube::Error) -> LabError {
    let action = action.into();
    move |source| LabError::Api {
        action,
        source: Box::new(source),
    }
}
