//! Pods that come and go while the lab runs.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::address::{self, MOST_PODS, Pair};
use crate::error::{LabError, Result};
use crate::host::Host;
use crate::netns::{self, Netns};
use crate::node::Node;
use crate::pod::Pod;
use crate::spec::{Cni, Overlay};
use crate::{cgroup, wiring};

/// A node as the place of pods. Separate from the lab, so that threads of any lifetime can own it.
#[derive(Debug)]
pub(crate) struct Site {
    prefix: String,
    name: String,
    index: u8,
    cni: Cni,
    overlay: Overlay,
    addresses: Pair,
    netns: Netns,
    cgroup: PathBuf,
    numbers: Mutex<Numbers>,
}

impl Site {
    /// A node of a lab, on which `residents` pods are already.
    pub(crate) fn new(prefix: &str, node: &Node, overlay: Overlay, residents: usize) -> Self {
        Self {
            prefix: prefix.to_owned(),
            name: node.name().to_owned(),
            index: node.index(),
            cni: node.cni(),
            overlay,
            addresses: node.addresses(),
            netns: node.netns().clone(),
            cgroup: node.cgroup().to_owned(),
            numbers: Mutex::new(Numbers::after(residents)),
        }
    }

    /// The node's own addresses.
    pub(crate) fn addresses(&self) -> Pair {
        self.addresses
    }

    /// Creates a pod. `device` is part of the name of its device on the node, up to 13 characters.
    pub(crate) fn make(&self, name: &str, device: &str) -> Result<Pod> {
        let number = self.numbers().take().ok_or_else(|| {
            LabError::Topology(format!("{}: at most {MOST_PODS} pods on a node", self.name))
        })?;
        let made = self.wire(name, device, address::pod(self.index, number));
        if made.is_err() {
            self.clear(name);
            self.numbers().give_back(number);
        }
        made
    }

    /// Makes a pod in the node's own network (`hostNetwork`).
    pub(crate) fn make_in_host_network(&self, name: &str) -> Result<Pod> {
        let folder = self.folder(name)?;
        let host = Host::start(name, self.addresses, self.netns.clone(), folder)?;
        Ok(self.pod(host))
    }

    /// Ends a pod: its process, then its network.
    pub(crate) fn remove(&self, pod: &Pod) -> Result<()> {
        pod.end();
        let killed = cgroup::kill(pod.cgroup()).and_then(|()| cgroup::remove(pod.cgroup()));
        if pod.netns().name() == self.netns.name() {
            return killed;
        }
        let removed = netns::remove(pod.netns().name());
        let number = address::pod_number(pod.addresses());
        self.numbers().give_back(number);
        killed.and(removed)
    }

    fn wire(&self, name: &str, device: &str, own: Pair) -> Result<Pod> {
        let folder = self.folder(name)?;
        let space = Netns::create(&format!("{}-{name}", self.prefix))?;
        space.sysctl(wiring::EVERYWHERE)?;
        let pod = (device, own);
        wiring::wire_pod(&self.netns, self.cni, self.overlay, self.index, pod, &space)?;
        Ok(self.pod(Host::start(name, own, space, folder)?))
    }

    fn pod(&self, host: Host) -> Pod {
        Pod::new(host, &self.name, true)
    }

    /// The pod's cgroup. It comes first: in a lab that is being taken down it cannot be made, and then nothing is.
    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.cgroup.join(name);
        std::fs::create_dir(&folder).map_err(LabError::file("creating", &folder))?;
        Ok(folder)
    }

    /// Removes what a pod that could not be completed left.
    fn clear(&self, name: &str) {
        let folder = self.cgroup.join(name);
        // What stays is taken down with the lab.
        let _ = cgroup::kill(&folder).and_then(|()| cgroup::remove(&folder));
        let _ = netns::remove(&format!("{}-{name}", self.prefix));
    }

    fn numbers(&self) -> std::sync::MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of a node's pods, from which their addresses follow. One that is given back is the last to be taken again.
#[derive(Debug)]
struct Numbers {
    first: u8,
    next: u8,
    taken: BTreeSet<u8>,
}

impl Numbers {
    fn after(residents: usize) -> Self {
        let first = u8::try_from(residents).unwrap_or(MOST_PODS);
        Self {
            first,
            next: first,
            taken: BTreeSet::new(),
        }
    }

    fn take(&mut self) -> Option<u8> {
        let upwards = (self.next..MOST_PODS).chain(self.first..self.next);
        let free = upwards
            .into_iter()
            .find(|number| !self.taken.contains(number))?;
        self.taken.insert(free);
        self.next = free + 1;
        Some(free)
    }

    fn give_back(&mut self, number: u8) {
        self.taken.remove(&number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reused_late_and_never_twice() {
        let mut numbers = Numbers::after(usize::from(MOST_PODS) - 3);
        let first = numbers.take().expect("is free");
        assert_eq!(first, MOST_PODS - 3);
        numbers.give_back(first);
        assert_eq!(numbers.take(), Some(MOST_PODS - 2));
        assert_eq!(numbers.take(), Some(MOST_PODS - 1));
        assert_eq!(numbers.take(), Some(first));
        assert_eq!(numbers.take(), None);
    }
}
