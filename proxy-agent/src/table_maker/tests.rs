//! Requests for tables, and the tables that the thread returns.

use std::{net::Ipv4Addr, sync::mpsc::channel, time::Instant};

use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta,
        target::Algorithm,
    },
    addr::Family,
};

use super::*;
use crate::{
    delta::refusal::Capacities,
    maps::memory::MemoryMaps,
    plan::{
        BackendPlan, FrontendAddress, FrontendPlan, Protocol, ServiceName, ServicePlan, TargetKey,
        TargetPlan,
    },
    programmer::Programmer,
};

fn name(service: u8) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: format!("s{service}"),
    }
}

/// A Service with some ports, each with a list of its own.
fn plan(service: u8, ports: u16) -> ServicePlan {
    let mut plan = ServicePlan::default();
    for port in 1..=ports {
        let target = TargetKey {
            port_name: port.to_string(),
            protocol: Protocol::Tcp,
            family: Family::V4,
            list: meta::List::Cluster,
        };
        plan.frontends.push(FrontendPlan {
            address: FrontendAddress::Ip(Ipv4Addr::new(10, 96, 0, service).into()),
            port,
            protocol: Protocol::Tcp,
            scope: Scope::Cluster,
            kind: FrontendKind::ClusterIp,
            target: target.clone(),
        });
        let backends = (1..=3).map(|last| BackendPlan {
            address: Ipv4Addr::new(10, 1, service, last).into(),
            port,
            local: false,
            node: None,
            zone: None,
            weight: 1,
            terminating: false,
        });
        let target_plan = TargetPlan {
            backends: backends.collect(),
            empty: None,
            algorithm: Algorithm::Maglev,
            affinity_seconds: None,
            slow_start_seconds: None,
            sources: None,
        };
        plan.targets.insert(target, target_plan);
    }
    plan
}

fn programmer() -> Programmer<MemoryMaps> {
    let mut programmer = Programmer::open(MemoryMaps::default(), Capacities::default()).unwrap();
    programmer.make_tables_elsewhere(0);
    programmer
}

/// Runs jobs that are all queued before the work begins. Returns them in order of completion, with their numbers of tables.
fn results(jobs: Vec<TableJob>) -> Vec<Made> {
    let (todo, from) = channel();
    let (done, mut made) = mpsc::unbounded_channel();
    for job in jobs {
        todo.send(job).unwrap();
    }
    drop(todo);
    work(&from, &done);
    std::iter::from_fn(|| made.try_recv().ok()).collect()
}

#[test]
fn a_job_with_many_tables_does_not_hold_up_the_others() {
    let (mut programmer, now) = (programmer(), Instant::now());
    programmer.sync([(name(1), plan(1, 20)), (name(2), plan(2, 1))], now);
    let jobs = programmer.take_table_jobs();
    assert_eq!(jobs[0].lists.len(), 20);
    let made = results(jobs);
    let counts: Vec<_> = made.iter().map(|made| made.tables.len()).collect();
    assert_eq!(
        counts,
        [1, 20],
        "the small one, which came last, is done first"
    );
    for made in made {
        programmer.tables_made(&made.ticket, made.tables, now);
    }
    assert_eq!(programmer.pending().count(), 0);
}

#[test]
fn a_job_that_nobody_waits_for_is_dropped() {
    let (mut programmer, now) = (programmer(), Instant::now());
    programmer.sync([(name(1), plan(1, 2))], now);
    let jobs = programmer.take_table_jobs();
    programmer.sync([(name(1), ServicePlan::default())], now);
    assert_eq!(results(jobs).len(), 0);
}

#[tokio::test]
async fn tables_come_from_the_thread() {
    let (mut programmer, now) = (programmer(), Instant::now());
    let mut maker = TableMaker::start().unwrap();
    programmer.sync([(name(1), plan(1, 2))], now);
    maker.make(programmer.take_table_jobs());
    let made = maker.made().await;
    let outcome = programmer.tables_made(&made.ticket, made.tables, now);
    assert_eq!(outcome.programmed, [name(1)].into());
}
