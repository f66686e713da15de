//! All objects that were seen, by what they belong to; says which Services a change may touch.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    model::{Change, EndpointSlice, Node, Service, SliceName},
    plan::ServiceName,
};

/// The objects. Every change costs what the changed object costs.
#[derive(Debug, Default)]
pub struct Store {
    services: BTreeMap<ServiceName, Service>,
    /// By Service and the slice's name, also of Services that are not (yet) there.
    slices: BTreeMap<ServiceName, BTreeMap<String, EndpointSlice>>,
    slice_owner: BTreeMap<SliceName, ServiceName>,
    node: Option<Node>,
}

impl Store {
    /// A Service by name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    /// All Services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The slices of a Service, by name.
    pub fn slices(&self, service: &ServiceName) -> impl Iterator<Item = &EndpointSlice> + Clone {
        self.slices
            .get(service)
            .into_iter()
            .flat_map(|s| s.values())
    }

    /// All slices, by Service.
    pub fn all_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().flat_map(|s| s.values())
    }

    /// This node, if its object is known.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Takes in a Service; says whether anything changed.
    pub fn apply_service(&mut self, change: Change<Service, ServiceName>) -> bool {
        match change {
            Change::Upsert(service) => {
                if self.services.get(&service.name) == Some(&service) {
                    return false;
                }
                self.services.insert(service.name.clone(), service);
                true
            }
            Change::Delete(name) => self.services.remove(&name).is_some(),
        }
    }

    /// Takes in a slice; returns the Services whose endpoints it changed: two, if it moved to another.
    pub fn apply_slice(
        &mut self,
        change: Change<EndpointSlice, SliceName>,
    ) -> BTreeSet<ServiceName> {
        let mut touched = BTreeSet::new();
        match change {
            Change::Upsert(slice) => {
                let owner = self.slice_owner.get(&slice.name);
                if let Some(owner) = owner.filter(|owner| **owner != slice.service).cloned() {
                    self.remove_slice(&owner, &slice.name.name);
                    touched.insert(owner);
                }
                let siblings = self.slices.entry(slice.service.clone()).or_default();
                if siblings.get(&slice.name.name) != Some(&slice) {
                    touched.insert(slice.service.clone());
                    self.slice_owner
                        .insert(slice.name.clone(), slice.service.clone());
                    siblings.insert(slice.name.name.clone(), slice);
                }
            }
            Change::Delete(name) => {
                if let Some(owner) = self.slice_owner.remove(&name) {
                    self.remove_slice(&owner, &name.name);
                    touched.insert(owner);
                }
            }
        }
        touched
    }

    /// Takes in this node's object.
    pub fn set_node(&mut self, node: Option<Node>) {
        self.node = node;
    }

    fn remove_slice(&mut self, service: &ServiceName, slice: &str) {
        if let Some(siblings) = self.slices.get_mut(service) {
            siblings.remove(slice);
            if siblings.is_empty() {
                self.slices.remove(service);
            }
        }
    }
}
