//! Who owns an (address, port, protocol) that several Services name (semantics S7).
//!
//! A ClusterIP goes before all else. Otherwise the older Service has it; of two with the same or no
//! `creationTimestamp`, the first by `namespace/name`. On an address of this node, the node port of another
//! Service goes before both.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proxy_common::abi::frontend::FrontendKind;

use crate::{
    model::service::family_of,
    plan::{FrontendAddress, Protocol, ServiceName},
};

/// What is claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimKey {
    /// Address.
    pub address: FrontendAddress,
    /// Port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Who claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The Service.
    pub service: ServiceName,
    /// When it was created, in seconds since 1970; unknown is younger than all known.
    pub created: Option<i64>,
    /// As what.
    pub kind: FrontendKind,
}

impl Claimant {
    fn rank(&self) -> (bool, bool, Option<i64>, &ServiceName) {
        (
            self.kind != FrontendKind::ClusterIp,
            self.created.is_none(),
            self.created,
            &self.service,
        )
    }
}

impl Ord for Claimant {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for Claimant {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a change of claims means to Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Those that won or lost a key.
    pub replan: BTreeSet<ServiceName>,
    /// Claims that are newly lost.
    pub lost: Vec<(ServiceName, ClaimKey)>,
}

/// All claims.
#[derive(Debug, Default)]
pub struct Claims {
    /// In order of precedence.
    by_key: BTreeMap<ClaimKey, BTreeSet<Claimant>>,
    by_service: BTreeMap<ServiceName, (Option<i64>, BTreeMap<ClaimKey, FrontendKind>)>,
    node_addresses: BTreeSet<IpAddr>,
}

impl Claims {
    /// Who has a key.
    pub fn owner(&self, key: &ClaimKey) -> Option<&Claimant> {
        let claimants = self.by_key.get(key)?;
        match self.node_port_rival(key) {
            Some(rival) => claimants
                .iter()
                .find(|c| c.kind == FrontendKind::ClusterIp || c.service == rival.service),
            None => claimants.first(),
        }
    }

    /// The claim of a Service to a key.
    pub fn claimant(&self, key: &ClaimKey, service: &ServiceName) -> Option<&Claimant> {
        self.by_key.get(key)?.iter().find(|c| c.service == *service)
    }

    /// Who goes before the given claimant of a key, if it has not got it.
    pub fn rival(&self, key: &ClaimKey, service: &ServiceName) -> Option<&Claimant> {
        match self.owner(key) {
            Some(owner) if owner.service == *service => None,
            Some(owner) => Some(owner),
            None => self.node_port_rival(key),
        }
    }

    /// All claims that are lost now, by key.
    pub fn lost(&self) -> impl Iterator<Item = (&Claimant, &ClaimKey, &Claimant)> {
        self.by_key.iter().flat_map(move |(key, claimants)| {
            claimants
                .iter()
                .filter_map(move |c| Some((c, key, self.rival(key, &c.service)?)))
        })
    }

    /// Replaces the claims of a Service; none, if it is gone.
    pub fn set(
        &mut self,
        service: &ServiceName,
        created: Option<i64>,
        claims: BTreeMap<ClaimKey, FrontendKind>,
    ) -> Outcome {
        let (old_created, old) = self.by_service.remove(service).unwrap_or_default();
        let differs = |key: &ClaimKey| old_created != created || old.get(key) != claims.get(key);
        let changed: BTreeSet<ClaimKey> = old
            .keys()
            .chain(claims.keys())
            .filter(|key| differs(key))
            .copied()
            .collect();
        let watched = self.with_dependents(&changed);
        let before = self.owners(&watched);
        for key in &changed {
            let entry = self.by_key.entry(*key).or_default();
            if let Some(kind) = old.get(key) {
                entry.remove(&claimant(service, old_created, *kind));
            }
            if let Some(kind) = claims.get(key) {
                entry.insert(claimant(service, created, *kind));
            }
            if entry.is_empty() {
                self.by_key.remove(key);
            }
        }
        if !claims.is_empty() {
            self.by_service.insert(service.clone(), (created, claims));
        }
        let mut outcome = self.compare(&before);
        outcome.replan.remove(service);
        let known: BTreeSet<ClaimKey> = outcome
            .lost
            .iter()
            .filter(|(loser, _)| loser == service)
            .map(|(_, key)| *key)
            .collect();
        let own_losses: Vec<_> = changed
            .iter()
            .filter(|key| !known.contains(key))
            .filter(|key| self.claims(service, key) && self.rival(key, service).is_some())
            .map(|key| (service.clone(), *key))
            .collect();
        outcome.lost.extend(own_losses);
        outcome
    }

    /// Replaces this node's addresses.
    pub fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> Outcome {
        let watched: BTreeSet<ClaimKey> = self
            .node_addresses
            .symmetric_difference(&addresses)
            .flat_map(|ip| self.keys_of(*ip))
            .collect();
        let before = self.owners(&watched);
        self.node_addresses = addresses;
        self.compare(&before)
    }

    fn claims(&self, service: &ServiceName, key: &ClaimKey) -> bool {
        self.by_service
            .get(service)
            .is_some_and(|(_, claims)| claims.contains_key(key))
    }

    /// The owner of the node port that a key on one of this node's addresses equals.
    fn node_port_rival(&self, key: &ClaimKey) -> Option<&Claimant> {
        let FrontendAddress::Ip(ip) = key.address else {
            return None;
        };
        if !self.node_addresses.contains(&ip) {
            return None;
        }
        let node_port = ClaimKey {
            address: FrontendAddress::Node(family_of(ip)),
            ..*key
        };
        self.by_key.get(&node_port)?.first()
    }

    /// The keys, and for node ports the same port on each of this node's addresses.
    fn with_dependents(&self, keys: &BTreeSet<ClaimKey>) -> BTreeSet<ClaimKey> {
        let mut all = keys.clone();
        for key in keys {
            if let FrontendAddress::Node(family) = key.address {
                all.extend(
                    self.node_addresses
                        .iter()
                        .filter(|ip| family_of(**ip) == family)
                        .map(|ip| ClaimKey {
                            address: FrontendAddress::Ip(*ip),
                            ..*key
                        })
                        .filter(|key| self.by_key.contains_key(key)),
                );
            }
        }
        all
    }

    fn keys_of(&self, ip: IpAddr) -> impl Iterator<Item = ClaimKey> {
        let bound = |port, protocol| ClaimKey {
            address: FrontendAddress::Ip(ip),
            port,
            protocol,
        };
        self.by_key
            .range(bound(0, Protocol::Tcp)..=bound(u16::MAX, Protocol::Sctp))
            .map(|(key, _)| *key)
    }

    fn owners(&self, keys: &BTreeSet<ClaimKey>) -> Vec<(ClaimKey, Option<ServiceName>)> {
        keys.iter()
            .map(|key| (*key, self.owner(key).map(|c| c.service.clone())))
            .collect()
    }

    fn compare(&self, before: &[(ClaimKey, Option<ServiceName>)]) -> Outcome {
        let mut outcome = Outcome::default();
        for (key, old) in before {
            let new = self.owner(key).map(|c| c.service.clone());
            if *old == new {
                continue;
            }
            if let Some(old) = old.as_ref().filter(|old| self.claims(old, key)) {
                outcome.lost.push((old.clone(), *key));
            }
            outcome.replan.extend(old.iter().cloned().chain(new));
        }
        outcome
    }
}

fn claimant(service: &ServiceName, created: Option<i64>, kind: FrontendKind) -> Claimant {
    Claimant {
        service: service.clone(),
        created,
        kind,
    }
}

#[cfg(test)]
mod tests;
