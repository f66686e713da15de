//! `kube`: Services, `EndpointSlices` and this node's Node, followed at the API server, on a thread of its own: reading
//! thirty thousand objects must not keep the maps waiting, nor a long write the watches.

mod access;
mod answer;
mod body;
mod connector;
mod contact;
mod decode;
mod events;
mod failure;
mod known;
mod merge;
mod pace;
mod position;
mod watch;

use std::{sync::Arc, thread};

use anyhow::Context as _;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};

pub use self::{
    access::{Access, AccessArgs, AccessError},
    events::Reporter,
};
use self::{
    connector::Connector,
    contact::Contact,
    decode::{EndpointSlice, Manifest, Node, Service},
    events::{Rate, publish},
    merge::merge,
    pace::Pace,
    watch::Watch,
};
use super::{Feed, Update, pulse::Pulse};
use crate::model::Problem;

/// Parts that may wait to be put together.
const BACKLOG: usize = 16;
/// All that is followed.
pub const KINDS: [&str; 3] = [Service::KIND, EndpointSlice::KIND, Node::KIND];

/// A cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    access: Access,
    node_name: String,
    pace: Pace,
    events: Rate,
}

impl Cluster {
    /// The cluster that `access` leads to, for this node.
    pub fn new(access: Access, node_name: String) -> Self {
        Self {
            access,
            node_name,
            pace: Pace::default(),
            events: Rate::default(),
        }
    }

    /// Follows it. What can't be right, like a kubeconfig that is missing, is an error; a server that is not reached is
    /// tried again. It ends when the receiver is dropped.
    pub fn follow(self) -> anyhow::Result<Feed> {
        self.access.config(0, &self.pace)?;
        let runtime = runtime()?;
        // One update waits while the one before is programmed; the rest is put together.
        let (sender, updates) = mpsc::channel(1);
        let (reporter, problems) = Reporter::new();
        let pulse = Arc::new(Pulse::new(&KINDS));
        let contact = Contact::new(Arc::clone(&pulse));
        thread::Builder::new()
            .name("kube-source".to_owned())
            .spawn(move || runtime.block_on(self.run(&sender, problems, contact)))
            .context("could not start the thread of the API server's objects")?;
        Ok(Feed {
            updates,
            reporter: Some(reporter),
            pulse,
        })
    }

    /// Lists everything once.
    pub fn read(self) -> anyhow::Result<Update> {
        let connector = Connector::new(self.access, self.pace);
        let contact = Contact::new(Arc::new(Pulse::new(&KINDS)));
        let (parts, from) = mpsc::channel(KINDS.len());
        let (updates, mut to) = mpsc::channel(KINDS.len());
        let node = only(&self.node_name);
        runtime()?.block_on(async {
            let services = Watch::<Service>::new(&connector, &contact, parts.clone(), None);
            let slices = Watch::<EndpointSlice>::new(&connector, &contact, parts.clone(), None);
            let nodes = Watch::<Node>::new(&connector, &contact, parts, Some(node));
            tokio::try_join!(services.once(), slices.once(), nodes.once())
                .context("the API server can't be read")?;
            merge(from, &updates, &KINDS).await;
            drop(updates);
            let mut all = Update::default();
            while let Some(update) = to.recv().await {
                all.events.extend(update.events);
                all.problems.extend(update.problems);
            }
            Ok(all)
        })
    }

    async fn run(
        self,
        updates: &mpsc::Sender<Update>,
        problems: mpsc::Receiver<Problem>,
        contact: Contact,
    ) {
        let connector = Connector::new(self.access, self.pace);
        let (parts, from) = mpsc::channel(BACKLOG);
        let node = only(&self.node_name);
        let services = Watch::<Service>::new(&connector, &contact, parts.clone(), None);
        let slices = Watch::<EndpointSlice>::new(&connector, &contact, parts.clone(), None);
        let nodes = Watch::<Node>::new(&connector, &contact, parts, Some(node));
        tokio::select! {
            () = updates.closed() => {}
            () = merge(from, updates, &KINDS) => {}
            _ = async {
                tokio::join!(
                    services.run(),
                    slices.run(),
                    nodes.run(),
                    publish(problems, &connector, &self.node_name, self.events),
                )
            } => {}
        }
    }
}

/// A field selector for one object.
fn only(name: &str) -> String {
    format!("metadata.name={name}")
}

fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime of the API server's objects")
}

#[cfg(test)]
mod tests;
