//! Backends: what is written of each, and since when it serves.

use proxy_common::{
    abi::{
        meta::{BackendMeta, backend_meta_flags},
        target::{self as abi, BackendState, BackendWord, backend_flags},
    },
    addr::Addr,
};

use super::{Drafting, names_of};
use crate::{
    delta::{
        refusal::Reason,
        service::{Backend, BackendKey},
    },
    maps::Op,
    plan::{BackendPlan, Protocol, TargetKey},
};

impl Drafting<'_> {
    pub(super) fn backend(
        &mut self,
        key: &TargetKey,
        plan: &BackendPlan,
        serving: bool,
    ) -> Result<(), Reason> {
        let owner = self.owner(key);
        let protocol = key.protocol;
        let key = BackendKey::new(owner, plan);
        if self.next.backends.contains_key(&key) {
            return Ok(());
        }
        let lists = self.lists.get(&key).copied().unwrap_or(0);
        let old = self.old.backends.get(&key).copied();
        let since = self.since(key, serving);
        let described = old.filter(|old| self.describes(&old.meta, plan));
        let meta = match described {
            Some(old) => old.meta,
            None => BackendMeta {
                node: self.name(plan.node.as_deref())?,
                zone: self.name(plan.zone.as_deref())?,
                flags: flags(plan),
                owner,
            },
        };
        let (id, generation) = if let Some(old) = old {
            let id = old.id;
            if described.is_none() {
                self.ops.push(Op::SetBackendMeta { id, meta });
                self.retired.names.extend(names_of(&old.meta));
            }
            if old.weight != plan.weight {
                let weight = plan.weight;
                self.ops.push(Op::SetWeight { id, weight });
            }
            if old.since != since {
                self.ops.push(Op::SetSince { id, since });
            }
            let word = word(old.generation, serving, lists);
            if old.serving != serving {
                self.ops.push(Op::FlipBackend { id, word });
            } else if old.lists != lists {
                self.ops.push(Op::SetLists { id, word });
            }
            (id, old.generation)
        } else {
            let (id, generation) = self.resources.take_backend()?;
            self.taken.backends.push((id, generation));
            let word = word(generation, serving, lists);
            let value = value(protocol, plan, word, since);
            self.ops.push(Op::PutBackend { id, value, meta });
            (id, generation)
        };
        let backend = Backend {
            id,
            generation,
            weight: plan.weight,
            serving,
            lists,
            since,
            meta,
        };
        self.next.backends.insert(key, backend);
        Ok(())
    }

    /// Since when a backend serves, if it does. Those that came with their Service port are as old as it is, all of
    /// them: so a fresh start takes nobody for new. One that moved is the same one.
    fn since(&self, key: BackendKey, serving: bool) -> u64 {
        let known = [key, key.elsewhere()];
        let mut known = known.iter().filter_map(|key| self.old.backends.get(key));
        match known.next() {
            Some(old) if old.serving || !serving => old.since,
            None if !self.old_owners.contains_key(&key.owner) => 0,
            _ => self.now.max(1),
        }
    }

    /// Whether what is written says the same as the plan.
    fn describes(&self, meta: &BackendMeta, plan: &BackendPlan) -> bool {
        let text = |id| self.resources.names.text(id);
        let given = |name: &'_ Option<String>| name.clone().filter(|name| !name.is_empty());
        text(meta.node) == given(&plan.node).as_deref()
            && text(meta.zone) == given(&plan.zone).as_deref()
            && meta.flags == flags(plan)
    }
}

fn flags(plan: &BackendPlan) -> u32 {
    if plan.terminating {
        backend_meta_flags::TERMINATING
    } else {
        0
    }
}

const fn word(generation: u32, serving: bool, lists: u8) -> BackendWord {
    let state = if serving {
        BackendState::Serving
    } else {
        BackendState::NotServing
    };
    BackendWord::new(generation, state).in_lists(lists)
}

fn value(protocol: Protocol, plan: &BackendPlan, word: BackendWord, since: u64) -> abi::Backend {
    abi::Backend {
        addr: Addr::from(plan.address),
        port: plan.port.into(),
        protocol: protocol as u8,
        flags: if plan.local { backend_flags::LOCAL } else { 0 },
        weight: plan.weight,
        word,
        since,
    }
}
