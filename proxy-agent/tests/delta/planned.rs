//! What plans come to, for who looks a frontend up.

use std::{collections::HashMap, rc::Rc};

use ipnet::IpNet;
use proxy_agent::{
    maps::{Snapshot, codec},
    plan::{Empty, ServiceName, TargetKey, TargetPlan},
};
use proxy_common::{
    abi::{
        frontend::FrontendKey,
        target::{Algorithm, Target},
    },
    addr::Addr,
};

use super::reader::Plans;

/// What a lookup leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Version {
    NotOurs,
    Reject,
    Drop,
    /// Backends, sorted, and how one of them is chosen.
    Serve(Vec<(Addr, u16)>, Algorithm),
}

/// What else a lookup goes by.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub affinity_seconds: u32,
    /// Seconds.
    pub slow_start: u16,
    /// Sorted; `None`: everyone is let in.
    pub ranges: Option<Vec<IpNet>>,
}

impl Terms {
    pub fn of(target: &TargetPlan) -> Self {
        let sources = target.sources.as_ref();
        Self {
            affinity_seconds: target.affinity_seconds.unwrap_or(0),
            slow_start: target.slow_start_seconds.unwrap_or(0),
            ranges: sources.map(|sources| codec::canonical_ranges(&sources.ranges)),
        }
    }

    pub fn written(target: &Target, maps: &Snapshot) -> Self {
        let mut ranges: Vec<_> = maps
            .ranges
            .iter()
            .filter(|key| key.set == target.ranges)
            .filter_map(codec::range)
            .collect();
        ranges.sort_unstable();
        Self {
            affinity_seconds: target.affinity_seconds,
            slow_start: target.slow_start,
            ranges: (target.ranges != 0).then_some(ranges),
        }
    }
}

impl Version {
    pub fn of(target: &TargetPlan) -> Self {
        match target.empty {
            None => Self::serve(
                target
                    .backends
                    .iter()
                    .map(|b| (Addr::from(b.address), b.port))
                    .collect(),
                target.algorithm,
            ),
            Some(Empty::Reject) => Self::Reject,
            Some(Empty::Drop) => Self::Drop,
        }
    }

    pub fn serve(mut backends: Vec<(Addr, u16)>, algorithm: Algorithm) -> Self {
        backends.sort_unstable();
        backends.dedup();
        Self::Serve(backends, algorithm)
    }
}

/// A target, by name.
pub type Place = Rc<(ServiceName, TargetKey)>;

/// What plans come to.
#[derive(Debug, Default)]
pub struct Planned {
    pub frontends: HashMap<FrontendKey, Place>,
    pub targets: HashMap<Place, Rc<Version>>,
    terms: HashMap<Place, Terms>,
}

impl Planned {
    pub fn new(plans: &Plans) -> Self {
        let mut planned = Self::default();
        for (service, plan) in plans {
            let mut places = HashMap::new();
            for (key, target) in &plan.targets {
                let place = Rc::new((service.clone(), key.clone()));
                planned
                    .targets
                    .insert(place.clone(), Rc::new(Version::of(target)));
                planned.terms.insert(place.clone(), Terms::of(target));
                places.insert(key, place);
            }
            let frontends = plan
                .frontends
                .iter()
                .map(|f| (codec::frontend_key(f), places[&f.target].clone()));
            planned.frontends.extend(frontends);
        }
        planned
    }

    /// What a frontend leads to.
    pub fn of(&self, key: &FrontendKey) -> (&Version, Option<&Terms>) {
        let place = self.frontends.get(key);
        place.map_or((&Version::NotOurs, None), |place| self.at(place))
    }

    pub fn at(&self, place: &Place) -> (&Version, Option<&Terms>) {
        let version = self.targets.get(place);
        let version = version.map_or(&Version::NotOurs, |version| &**version);
        (version, self.terms.get(place))
    }
}
