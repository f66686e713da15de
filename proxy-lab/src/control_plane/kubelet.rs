//! What stands in for kubelets and the scheduler: pods of the API become pods of the lab.
//!
//! A pod without a node gets one. A pod with a node of the lab gets a network namespace there, serves on its containers'
//! ports under its own name (TCP and UDP; HTTP GET is answered too), and is reported as running and ready. One that is
//! deleted goes on serving for its grace period, as a program does that finishes its work; then it ends, and its object is
//! removed. Images, commands, volumes and probes mean nothing here.

mod life;
mod place;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::Client;
use kube::api::{Api as Resource, Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::json;
use tokio::sync::watch;

pub use status::{EXITS_AFTER, READY};

use super::api::{Api, failed};
use crate::address::Pair;
use crate::error::{LabError, Result};
use crate::pod::Pod;
use crate::protocol::{Protocol, Serve};
use crate::site::Site;
use life::Life;

/// Time until a watch that failed is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// The stand-in. It works on the API client's threads.
#[derive(Debug)]
pub(super) struct Kubelet {
    shared: Arc<Shared>,
}

/// What all pods have in common.
#[derive(Debug)]
struct Shared {
    sites: BTreeMap<String, Site>,
    residents: Mutex<HashMap<String, Resident>>,
    /// Node and owner of each pod that has a node.
    placed: Mutex<HashMap<String, (String, String)>>,
    /// Pods that must not be started again, even if their objects do not show the failure yet.
    failed: Mutex<HashSet<String>>,
    next: AtomicU32,
    log: PathBuf,
}

/// A pod of the lab that stands for one of the API.
#[derive(Debug, Clone)]
struct Resident {
    namespace: String,
    name: String,
    pod: Arc<Pod>,
}

impl Kubelet {
    pub(super) fn start(
        api: &Api,
        sites: impl Iterator<Item = (String, Site)>,
        log: PathBuf,
    ) -> Self {
        let shared = Arc::new(Shared {
            sites: sites.collect(),
            residents: Mutex::default(),
            placed: Mutex::default(),
            failed: Mutex::default(),
            next: AtomicU32::new(1),
            log,
        });
        let followed = Arc::clone(&shared);
        api.spawn(move |client| follow(followed, client));
        Self { shared }
    }

    /// The lab's pod for one of the API, while it runs.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let residents = locked(&self.shared.residents);
        let mut residents = residents.values();
        let found =
            residents.find(|resident| resident.namespace == namespace && resident.name == name);
        found.map(|resident| Arc::clone(&resident.pod))
    }

    /// All of them.
    pub(super) fn pods(&self) -> Vec<Arc<Pod>> {
        let residents = locked(&self.shared.residents);
        residents
            .values()
            .map(|resident| Arc::clone(&resident.pod))
            .collect()
    }

    /// Kills a pod's processes without a word; then the API hears that it failed.
    pub(super) fn fail(&self, api: &Api, namespace: &str, name: &str) -> Result<()> {
        let uid = {
            let residents = locked(&self.shared.residents);
            let mut residents = residents.iter();
            let found = residents
                .find(|(_, resident)| resident.namespace == namespace && resident.name == name);
            found.map(|(uid, _)| uid.clone())
        };
        let unknown = || LabError::Topology(format!("no pod {namespace}/{name} runs"));
        let uid = uid.ok_or_else(unknown)?;
        locked(&self.shared.failed).insert(uid.clone());
        self.shared.remove(&uid)?;
        let (space, pod) = (namespace.to_owned(), name.to_owned());
        api.run(move |client| async move {
            let pods: Resource<Object> = Resource::namespaced(client, &space);
            let patch = Patch::Merge(json!({"status": status::failed()}));
            pods.patch_status(&pod, &PatchParams::default(), &patch)
                .await
                .map(drop)
        })
        .map_err(failed(format!("reporting that {namespace}/{name} failed")))
    }

    /// Lets pods live on after the lab's owner, as they are.
    pub(super) fn keep(&self) -> Result<()> {
        self.pods().iter().try_for_each(|pod| pod.detach())
    }
}

impl Shared {
    /// The pod's addresses; it is made and serves if it does not yet.
    fn ensure(&self, uid: &str, object: &Object, node: &str) -> Result<Pair> {
        if let Some(resident) = locked(&self.residents).get(uid) {
            return Ok(resident.pod.addresses());
        }
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let host = match namespace.as_str() {
            "default" => name.clone(),
            _ => format!("{name}.{namespace}"),
        };
        let site = &self.sites[node];
        let spec = object.spec.as_ref();
        let pod = if spec.and_then(|spec| spec.host_network).unwrap_or(false) {
            site.make_in_host_network(&host)?
        } else {
            let device = format!("k8s-{}", self.next.fetch_add(1, Ordering::Relaxed));
            site.make(&host, &device)?
        };
        if let Err(error) = serve(&pod, &name, object) {
            // The next attempt creates it again.
            site.remove(&pod)?;
            return Err(error);
        }
        let addresses = pod.addresses();
        let owner = owner(object);
        locked(&self.placed).insert(uid.to_owned(), (node.to_owned(), owner));
        let resident = Resident {
            namespace,
            name,
            pod: Arc::new(pod),
        };
        locked(&self.residents).insert(uid.to_owned(), resident);
        Ok(addresses)
    }

    fn has(&self, uid: &str) -> bool {
        locked(&self.residents).contains_key(uid)
    }

    /// Ends the pod, if it runs.
    fn remove(&self, uid: &str) -> Result<()> {
        let resident = locked(&self.residents).remove(uid);
        resident.map_or(Ok(()), |resident| {
            self.sites[resident.pod.node()].remove(&resident.pod)
        })
    }

    fn has_failed(&self, uid: &str) -> bool {
        locked(&self.failed).contains(uid)
    }

    fn forget(&self, uid: &str) {
        locked(&self.failed).remove(uid);
        locked(&self.placed).remove(uid);
    }

    /// One of the nodes, which then counts it as its own.
    fn choose<'a>(
        &self,
        object: &Object,
        uid: &str,
        nodes: impl Iterator<Item = &'a str>,
    ) -> Option<&'a str> {
        let owner = owner(object);
        let mut placed = locked(&self.placed);
        placed.remove(uid);
        let load = |node: &str| {
            let here = placed.values().filter(|(place, _)| place == node);
            let (all, siblings) = here.fold((0, 0), |(all, siblings), (_, other)| {
                (all + 1, siblings + usize::from(*other == owner))
            });
            (siblings, all)
        };
        let chosen = nodes
            .filter(|node| self.sites.contains_key(*node))
            .min_by_key(|node| load(node))?;
        placed.insert(uid.to_owned(), (chosen.to_owned(), owner));
        Some(chosen)
    }

    /// Writes a line into the log.
    fn note(&self, line: &str) {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.log);
        // A log that cannot be written is no reason to stop.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}

/// Serves every port of every container.
fn serve(pod: &Pod, name: &str, object: &Object) -> Result<()> {
    let containers = object.spec.iter().flat_map(|spec| &spec.containers);
    for port in containers.flat_map(|container| container.ports.iter().flatten()) {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => Protocol::Udp,
            None | Some("TCP") => Protocol::Tcp,
            // Nothing here speaks SCTP.
            Some(_) => continue,
        };
        let Ok(number) = u16::try_from(port.container_port) else {
            continue;
        };
        for any in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
            pod.serve_as(Serve {
                name: name.to_owned(),
                protocol,
                address: SocketAddr::new(any, number),
                delay: Duration::ZERO,
                silent: false,
            })?;
        }
    }
    Ok(())
}

/// A pod's owner, such as its `ReplicaSet`.
fn owner(object: &Object) -> String {
    let owners = object.metadata.owner_references.iter().flatten();
    owners.map(|owner| owner.uid.as_str()).collect()
}

/// Watches all pods, and runs one task for each.
async fn follow(shared: Arc<Shared>, client: Client) {
    let pods: Resource<Object> = Resource::all(client.clone());
    let mut events = pin!(watcher(pods, watcher::Config::default()));
    let mut lives: HashMap<String, watch::Sender<Option<Arc<Object>>>> = HashMap::new();
    let mut listed = HashSet::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                tell(&mut lives, &shared, &client, pod);
            }
            Ok(Event::InitDone) => lives.retain(|uid, life| {
                // Gone while the watch was cut.
                listed.contains(uid) || life.send(None).is_ok_and(|()| false)
            }),
            Ok(Event::Apply(pod)) => tell(&mut lives, &shared, &client, pod),
            Ok(Event::Delete(pod)) => {
                if let Some(life) = pod.metadata.uid.and_then(|uid| lives.remove(&uid)) {
                    // Its task may have ended by itself.
                    let _ = life.send(None);
                }
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn tell(
    lives: &mut HashMap<String, watch::Sender<Option<Arc<Object>>>>,
    shared: &Arc<Shared>,
    client: &Client,
    pod: Object,
) {
    let Some(uid) = pod.metadata.uid.clone() else {
        return;
    };
    let pod = Some(Arc::new(pod));
    if let Some(life) = lives.get(&uid) {
        // One that has ended needs no news.
        let _ = life.send(pod);
        return;
    }
    let (sender, receiver) = watch::channel(pod);
    let life = Life::new(Arc::clone(shared), client.clone(), uid.clone());
    tokio::spawn(life.live(receiver));
    lives.insert(uid, sender);
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
