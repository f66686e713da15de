//! A real control plane in the lab: etcd, the API server and the controllers, in the control-plane node's namespace.
//!
//! There is no kubelet and no scheduler: [`kubelet`] stands in for both, so that a Deployment's pods are pods of the lab that
//! serve.

mod api;
pub(crate) mod binaries;
mod component;
mod etcd;
mod identity;
mod kubectl;
pub mod kubelet;
mod nodes;
mod pki;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

pub use api::Api;
pub use component::Component;
pub use identity::Identity;

use crate::daemon::{Daemon, log_tail};
use crate::error::{LabError, Result};
use crate::host::Host;
use crate::memory::Memory;
use crate::netns::Netns;
use crate::node::Node;
use crate::pod::Pod;
use crate::site::Site;
use component::Setting;
use kubelet::Kubelet;
use pki::Pki;

/// How long a program may take to come up, on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// How the control plane shall be.
#[derive(Debug, Clone)]
pub struct ControlPlaneOptions {
    zones: BTreeMap<String, String>,
    watch_cache: bool,
    controllers: bool,
    extra: Vec<String>,
}

impl Default for ControlPlaneOptions {
    fn default() -> Self {
        Self {
            zones: BTreeMap::new(),
            watch_cache: true,
            controllers: true,
            extra: Vec::new(),
        }
    }
}

impl ControlPlaneOptions {
    /// A node's zone (`topology.kubernetes.io/zone`).
    #[must_use]
    pub fn zone(mut self, node: &str, zone: &str) -> Self {
        self.zones.insert(node.to_owned(), zone.to_owned());
        self
    }

    /// Watches are served by etcd itself: one that begins at a compacted revision gets 410. (With the cache, only a
    /// revision from before the API server's start does.)
    #[must_use]
    pub fn without_watch_cache(self) -> Self {
        Self {
            watch_cache: false,
            ..self
        }
    }

    /// No controller manager: EndpointSlices are the test's own, and Deployments have no pods.
    #[must_use]
    pub fn without_controllers(self) -> Self {
        Self {
            controllers: false,
            ..self
        }
    }

    /// A further argument of the API server.
    #[must_use]
    pub fn api_server_argument(mut self, argument: &str) -> Self {
        self.extra.push(argument.to_owned());
        self
    }
}

/// A running control plane. It belongs to its lab and goes before it.
#[derive(Debug)]
pub struct ControlPlane {
    api: Api,
    address: SocketAddr,
    netns: Netns,
    cgroup: PathBuf,
    folder: PathBuf,
    pki: Pki,
    setting: Setting,
    kubelet: Kubelet,
    admin: PathBuf,
    running: Mutex<BTreeMap<Component, Daemon>>,
}

impl ControlPlane {
    /// Starts all programs on the first of `nodes`, and registers all of them. `sites` is where pods can run; `folder` is for
    /// logs, keys and etcd's data.
    pub(crate) fn start(
        nodes: &[Node],
        sites: impl Iterator<Item = (String, Site)>,
        folder: &Path,
        options: &ControlPlaneOptions,
    ) -> Result<Self> {
        let host: &Host = &nodes[0];
        let pki = Pki::create(&folder.join("pki"))?;
        let address = host.at(crate::Family::V4, component::PORT);
        let admin = Identity::Admin.certificate(&pki)?;
        let controllers = Identity::ControllerManager.certificate(&pki)?;
        let server = format!("https://{address}");
        let kubeconfig = pki.kubeconfig(&Identity::Admin.name(), &server, &admin.user())?;
        let setting = Setting {
            address: host.addresses(),
            data: folder.join("etcd"),
            authority: pki.authority(),
            server: component::server_certificate(&pki, host)?,
            admin,
            tokens: pki.signing_keys("tokens")?,
            controllers: pki.kubeconfig(
                &Identity::ControllerManager.name(),
                &server,
                &controllers.user(),
            )?,
            watch_cache: options.watch_cache,
            extra: options.extra.clone(),
        };
        let api = Api::open(host.netns(), &kubeconfig)?;
        let control_plane = Self {
            kubelet: Kubelet::start(&api, sites, folder.join("kubelet.log")),
            api,
            address,
            netns: host.netns().clone(),
            cgroup: host.cgroup().to_owned(),
            folder: folder.to_owned(),
            pki,
            setting,
            admin: kubeconfig,
            running: Mutex::default(),
        };
        control_plane.start_component(Component::Etcd)?;
        control_plane.start_component(Component::ApiServer)?;
        if options.controllers {
            control_plane.start_component(Component::ControllerManager)?;
        }
        nodes::register(&control_plane.api, nodes, &options.zones)?;
        Ok(control_plane)
    }

    /// The API server, for requests.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The API server's address, as the nodes reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig with this identity.
    pub fn kubeconfig(&self, identity: &Identity) -> Result<PathBuf> {
        let user = identity.user(&self.pki, &self.api)?;
        self.pki.kubeconfig(
            &identity.name(),
            &format!("https://{}", self.address),
            &user,
        )
    }

    /// The lab's pod that stands for a pod of the API, while it runs.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.kubelet.pod(namespace, name)
    }

    /// All of them, in no order.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.kubelet.pods()
    }

    /// Kills a pod's processes without a word; then the API hears that it failed, and a `ReplicaSet` makes another.
    pub fn fail_pod(&self, namespace: &str, name: &str) -> Result<()> {
        self.kubelet.fail(&self.api, namespace, name)
    }

    /// Runs `kubectl` with these arguments as the cluster's admin, and returns what it wrote to stdout.
    pub fn kubectl<I, S>(&self, arguments: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        kubectl::run(self, arguments, None)
    }

    /// The same with an input, as for `kubectl apply -f -`.
    pub fn kubectl_with<I, S>(&self, input: &str, arguments: I) -> Result<String>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<std::ffi::OsStr>,
    {
        kubectl::run(self, arguments, Some(input))
    }

    /// `kubectl apply` of YAML documents.
    pub fn apply(&self, documents: &str) -> Result<String> {
        self.kubectl_with(documents, ["apply", "-f", "-"])
    }

    /// Starts a program that was ended, and waits until it is ready.
    pub fn start_component(&self, component: Component) -> Result<()> {
        let mut running = self.running();
        if running.contains_key(&component) {
            let text = format!("{} runs already", component.program());
            return Err(LabError::Topology(text));
        }
        let mut daemon = Daemon::spawn(
            component.program(),
            (&self.netns, &self.cgroup),
            &binaries::program(component.program())?,
            self.setting.arguments(component),
            &[],
            &self.log(component),
        )?;
        daemon.wait_until_ready(PATIENCE, || self.is_ready(component))?;
        running.insert(component, daemon);
        Ok(())
    }

    /// Kills a program, as a crash does.
    pub fn kill_component(&self, component: Component) -> Result<()> {
        self.take(component)?.kill9()
    }

    /// Asks a program to end, and waits for that.
    pub fn stop_component(&self, component: Component) -> Result<()> {
        self.take(component)?.terminate().map(drop)
    }

    /// Stops a program's threads: connections stay, answers do not come.
    pub fn freeze_component(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn thaw_component(&self, component: Component) -> Result<()> {
        self.signal(component, Signal::SIGCONT)
    }

    /// Has etcd forget all revisions but the newest, which is returned. Who asks for an older one gets 410, once it is not in
    /// the API server's watch cache either: see [`ControlPlaneOptions::without_watch_cache`].
    pub fn compact(&self) -> Result<u64> {
        self.netns.run(etcd::compact)
    }

    /// The log of a program.
    pub fn log(&self, component: Component) -> PathBuf {
        self.folder.join(format!("{}.log", component.program()))
    }

    /// The memory of a program; `None` if it does not run.
    pub fn memory(&self, component: Component) -> Option<Memory> {
        self.running().get(&component).and_then(Daemon::memory)
    }

    /// Lets everything live on after the lab's owner.
    pub(crate) fn keep(&self) -> Result<()> {
        self.running().values_mut().for_each(Daemon::keep);
        self.kubelet.keep()
    }

    /// Where [`Self::kubeconfig`] was written before.
    fn admin_kubeconfig(&self) -> &Path {
        &self.admin
    }

    pub(crate) fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn is_ready(&self, component: Component) -> bool {
        match component {
            Component::Etcd => {
                let listening = self
                    .netns
                    .run(|| Ok(component::listens(component::ETCD_CLIENTS)));
                listening.unwrap_or(false)
            }
            Component::ApiServer => nodes::api_is_ready(&self.api),
            // Nobody has to wait for it.
            Component::ControllerManager => true,
        }
    }

    fn signal(&self, component: Component, signal: Signal) -> Result<()> {
        let running = self.running();
        running
            .get(&component)
            .ok_or_else(|| not_running(component))?
            .signal(signal)
    }

    fn take(&self, component: Component) -> Result<Daemon> {
        self.running()
            .remove(&component)
            .ok_or_else(|| not_running(component))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<Component, Daemon>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of each program's log, for a test that fails.
    pub(crate) fn print_logs(&self) {
        let kubelet = self.folder.join("kubelet.log");
        for log in Component::ALL
            .map(|component| self.log(component))
            .iter()
            .chain([&kubelet])
        {
            if log.exists() {
                eprintln!("--- the end of {}:\n{}", log.display(), log_tail(log));
            }
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // First who would react to the others' end.
        self.api.shut_down();
    }
}

fn not_running(component: Component) -> LabError {
    LabError::Topology(format!("{} does not run", component.program()))
}

/// Says whether a test must end because no control plane can run here, and prints why.
pub fn skipped() -> bool {
    if crate::skipped() {
        return true;
    }
    let missing = binaries::program("kube-apiserver").err();
    if let Some(error) = &missing {
        eprintln!("skipped: {error}");
    }
    missing.is_some()
}
