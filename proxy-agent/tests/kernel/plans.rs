//! Plans of plain Services.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use proxy_agent::plan::{
    BackendPlan, FrontendAddress, FrontendPlan, Protocol, ServiceName, ServicePlan, TargetKey,
    TargetPlan,
};
use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::Algorithm,
    },
    addr::Family,
};

/// Services with a ClusterIP 10.96.0.n and a backend 10.244.0.n each.
pub fn plans(count: u8) -> BTreeMap<ServiceName, ServicePlan> {
    (1..=count)
        .map(|number| {
            let name = ServiceName {
                namespace: "default".to_owned(),
                name: format!("service-{number:03}"),
            };
            (name, plan(number))
        })
        .collect()
}

fn plan(number: u8) -> ServicePlan {
    let key = TargetKey {
        port_name: String::new(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    };
    let ip = |second| IpAddr::from(Ipv4Addr::new(10, second, 0, number));
    let target = TargetPlan {
        backends: vec![BackendPlan {
            address: ip(244),
            port: 8080,
            local: false,
            node: None,
            zone: None,
            weight: 1,
            terminating: false,
        }],
        empty: None,
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        slow_start_seconds: None,
        sources: None,
    };
    ServicePlan {
        frontends: vec![FrontendPlan {
            address: FrontendAddress::Ip(ip(96)),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::Cluster,
            kind: FrontendKind::ClusterIp,
            target: key.clone(),
        }],
        targets: [(key, target)].into(),
        ..ServicePlan::default()
    }
}
