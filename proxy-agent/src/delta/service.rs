//! What is programmed for one Service.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use proxy_common::{
    abi::{
        frontend::{FrontendKey, FrontendValue},
        meta::BackendMeta,
        target::{Algorithm, TargetWord},
    },
    addr::Family,
};

use super::{
    extents::Extent,
    tables::{List, Table, distinct},
};
use crate::plan::{BackendPlan, Protocol, ServicePlan, TargetKey};

/// A Service port, as far as its endpoints are concerned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortKey {
    pub port_name: String,
    pub protocol: Protocol,
    pub family: Family,
}

impl From<&TargetKey> for PortKey {
    fn from(key: &TargetKey) -> Self {
        Self {
            port_name: key.port_name.clone(),
            protocol: key.protocol,
            family: key.family,
        }
    }
}

/// Identity of a backend within its Service. A backend is never shared between Services, so that what happens to one
/// touches no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BackendKey {
    /// Id of the Service port.
    pub owner: u32,
    pub address: IpAddr,
    pub port: u16,
    pub local: bool,
}

impl BackendKey {
    /// The same endpoint, found to be on another node than it was, or not to be.
    pub const fn elsewhere(self) -> Self {
        Self {
            local: !self.local,
            ..self
        }
    }

    pub fn new(owner: u32, plan: &BackendPlan) -> Self {
        Self {
            owner,
            address: plan.address,
            port: plan.port,
            local: plan.local,
        }
    }
}

/// A backend as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend {
    pub id: u32,
    pub generation: u32,
    pub weight: u32,
    /// Whether it serves.
    pub serving: bool,
    /// [`backend_lists`](proxy_common::abi::target::backend_lists).
    pub lists: u8,
    /// [`Backend::since`](proxy_common::abi::target::Backend::since).
    pub since: u64,
    pub meta: BackendMeta,
}

/// A target as it is written.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub id: u32,
    pub word: TargetWord,
    /// Backend ids, slot by slot; `None` if what stands there is not to be trusted.
    pub slots: Option<Vec<u32>>,
    /// The Maglev table that the slots were made of, if they were and it is known.
    pub table: Option<Arc<Table>>,
    /// The slots that are this target's own.
    pub extent: Option<Extent>,
    pub affinity_seconds: u32,
    /// Seconds; 0: none.
    pub slow_start: u16,
    /// Set of source ranges; 0: none.
    pub ranges: u32,
    /// [`Target::flags`](proxy_common::abi::target::Target::flags).
    pub flags: u8,
}

/// All that is written for a Service.
#[derive(Clone, Debug, Default)]
pub(super) struct Service {
    pub ports: BTreeMap<PortKey, u32>,
    pub targets: BTreeMap<TargetKey, Target>,
    pub backends: BTreeMap<BackendKey, Backend>,
    pub sets: BTreeMap<Vec<IpNet>, u32>,
    pub frontends: BTreeMap<FrontendKey, FrontendValue>,
}

impl Service {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.ports.is_empty() && self.frontends.is_empty()
    }

    /// The Maglev table of a target, if it is that of these backends.
    pub fn table_of(&self, key: &TargetKey, backends: &[&BackendPlan]) -> Option<Arc<Table>> {
        let table = self.targets.get(key)?.table.as_ref()?;
        table.is_of(backends).then(|| Arc::clone(table))
    }

    /// The lists of a plan that need a Maglev table that they have not got, each once.
    pub fn without_table(&self, plan: &ServicePlan) -> HashSet<List> {
        let lists = self.lists_without_table(plan);
        lists.map(|(_, list)| list).collect()
    }

    /// Those of them that need new slots. After a start or a review no table is known, but most stand in slots already:
    /// a target whose slots are as many as the table's entries probably has it.
    pub fn without_slots(&self, plan: &ServicePlan) -> HashSet<List> {
        let has_slots = |key: &TargetKey, list: &List| {
            let target = self.targets.get(key).filter(|old| old.table.is_none());
            let slots = target.and_then(|old| old.slots.as_ref());
            slots.is_some_and(|slots| Some(slots.len()) == list.entries())
        };
        let lists = self.lists_without_table(plan);
        lists
            .filter_map(|(key, list)| (!has_slots(key, &list)).then_some(list))
            .collect()
    }

    fn lists_without_table<'a>(
        &'a self,
        plan: &'a ServicePlan,
    ) -> impl Iterator<Item = (&'a TargetKey, List)> {
        let maglev = plan
            .targets
            .iter()
            .filter(|(_, target)| target.algorithm == Algorithm::Maglev);
        maglev.filter_map(|(key, target)| {
            let listed = distinct(&target.backends);
            let is_known = listed.len() < 2 || self.table_of(key, &listed).is_some();
            (!is_known).then(|| (key, List::new(&listed)))
        })
    }
}
