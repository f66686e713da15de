//! What an update costs, by example. `tests/delta/` shows the order of operations.

use std::net::{IpAddr, Ipv4Addr};

use proxy_common::{
    abi::{
        frontend::{FrontendKind, Scope},
        meta::List,
        target::{Algorithm, Backend, BackendState, BackendWord},
    },
    addr::Family,
};

use super::*;
use crate::{
    maps::{Maps, OpKind, memory::MemoryMaps},
    plan::{BackendPlan, Empty, FrontendAddress, FrontendPlan, Protocol, TargetKey, TargetPlan},
};

fn name(name: &str) -> ServiceName {
    ServiceName {
        namespace: "default".into(),
        name: name.into(),
    }
}

fn key() -> TargetKey {
    TargetKey {
        port_name: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
        list: List::Cluster,
    }
}

fn backend(last: u8) -> BackendPlan {
    BackendPlan {
        address: IpAddr::V4(Ipv4Addr::new(10, 1, 0, last)),
        port: 8080,
        local: false,
        node: Some("node-a".into()),
        zone: None,
        weight: 1,
        terminating: false,
    }
}

/// One ClusterIP with these endpoints.
fn plan(vip: u8, endpoints: &[u8]) -> ServicePlan {
    let target = TargetPlan {
        backends: endpoints.iter().map(|&last| backend(last)).collect(),
        empty: endpoints.is_empty().then_some(Empty::Reject),
        algorithm: Algorithm::Random,
        affinity_seconds: None,
        slow_start_seconds: None,
        sources: None,
    };
    ServicePlan {
        frontends: vec![FrontendPlan {
            address: FrontendAddress::Ip(IpAddr::V4(Ipv4Addr::new(10, 96, 0, vip))),
            port: 80,
            protocol: Protocol::Tcp,
            scope: Scope::Cluster,
            kind: FrontendKind::ClusterIp,
            target: key(),
        }],
        targets: [(key(), target)].into(),
        ..ServicePlan::default()
    }
}

/// Applies a plan and says which kinds of operations that took.
fn set(
    delta: &mut Delta,
    maps: &mut MemoryMaps,
    service: &ServiceName,
    plan: &ServicePlan,
) -> Vec<OpKind> {
    let staged = delta.stage([(service, plan)], maps.now());
    assert_eq!(staged.refused, []);
    let names = delta.name_writes();
    maps.apply(&names).unwrap();
    let mut kinds: Vec<_> = names.iter().map(Op::kind).collect();
    delta.names_written(&names);
    for group in staged.groups {
        maps.apply(&group.ops).unwrap();
        kinds.extend(group.ops.iter().map(Op::kind));
        delta.commit(group);
    }
    kinds
}

fn reclaim(delta: &mut Delta, maps: &mut MemoryMaps) -> Vec<OpKind> {
    let reclaim = delta.reclaim();
    maps.apply(&reclaim.ops).unwrap();
    let kinds = reclaim.ops.iter().map(Op::kind).collect();
    delta.reclaimed(reclaim);
    kinds
}

#[test]
fn b6_an_update_writes_the_difference_in_a_safe_order() {
    use OpKind::*;
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    assert_eq!(
        set(&mut delta, &mut maps, &web, &plan(1, &[1, 2])),
        [
            PutName,
            PutBackend,
            PutBackend,
            WriteSlots,
            PutTarget,
            PutFrontend
        ]
    );
    assert_eq!(set(&mut delta, &mut maps, &web, &plan(1, &[1, 2])), []);
    assert_eq!(
        set(&mut delta, &mut maps, &web, &plan(1, &[1, 3])),
        [PutBackend, WriteSlots, FlipTarget, FlipBackend]
    );
    assert_eq!(reclaim(&mut delta, &mut maps), [AwaitReaders, ClearBackend]);
    assert_eq!(reclaim(&mut delta, &mut maps), []);
    assert_eq!(
        set(&mut delta, &mut maps, &web, &plan(1, &[])),
        [FlipTarget, FlipBackend, FlipBackend]
    );
    assert_eq!(
        set(&mut delta, &mut maps, &web, &ServicePlan::default()),
        [DeleteFrontend]
    );
    assert_eq!(
        reclaim(&mut delta, &mut maps),
        [
            AwaitReaders,
            ClearTarget,
            ClearBackend,
            ClearBackend,
            DeleteName
        ]
    );
    assert!(maps.contents.frontends.is_empty() && maps.contents.meta_backends.is_empty());
    assert_eq!(delta.reclaimable(), 0);
}

#[test]
fn l4_a_draining_backend_keeps_its_id_and_serves() {
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    set(&mut delta, &mut maps, &web, &plan(1, &[1, 2]));
    let before = maps.contents.backend(2);
    let mut draining = plan(1, &[1]);
    draining.draining.insert(
        key(),
        vec![BackendPlan {
            terminating: true,
            ..backend(2)
        }],
    );
    assert_eq!(
        set(&mut delta, &mut maps, &web, &draining),
        [
            OpKind::SetBackendMeta,
            OpKind::WriteSlots,
            OpKind::SetLists,
            OpKind::FlipTarget
        ]
    );
    let expected = Backend {
        word: before.word.in_lists(0),
        ..before
    };
    assert_eq!(maps.contents.backend(2), expected);
}

#[test]
fn l4_a_backend_that_does_not_serve_keeps_its_id_until_it_is_deleted() {
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    set(&mut delta, &mut maps, &web, &plan(1, &[1, 2]));
    let before = maps.contents.backend(2);
    let mut not_serving = plan(1, &[1]);
    not_serving.not_serving.insert(key(), vec![backend(2)]);
    // Its word is last on the way down, and first on the way up.
    assert_eq!(
        set(&mut delta, &mut maps, &web, &not_serving),
        [OpKind::WriteSlots, OpKind::FlipTarget, OpKind::FlipBackend]
    );
    let expected = Backend {
        word: BackendWord::new(before.word.generation(), BackendState::NotServing),
        ..before
    };
    assert_eq!(maps.contents.backend(2), expected);
    assert_eq!(
        set(&mut delta, &mut maps, &web, &plan(1, &[1, 2])),
        [
            OpKind::SetSince,
            OpKind::FlipBackend,
            OpKind::WriteSlots,
            OpKind::FlipTarget
        ]
    );
    let since = maps.contents.backend(2).since;
    assert_eq!(maps.contents.backend(2), Backend { since, ..before });

    set(&mut delta, &mut maps, &web, &not_serving);
    let deleted = delta.stage([(&web, &plan(1, &[1]))], 0);
    let gone: Vec<_> = deleted
        .groups
        .iter()
        .flat_map(|group| &group.gone)
        .collect();
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert_eq!(gone[0].address, backend(2).address);
    let mut ops = deleted.groups.iter().flat_map(|group| &group.ops);
    let word = BackendWord::new(before.word.generation(), BackendState::Gone);
    assert!(ops.all(|op| *op == Op::FlipBackend { id: 2, word }));
}

#[test]
fn l1_an_algorithm_changes_in_place() {
    use OpKind::*;
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    let by = |algorithm| {
        let mut plan = plan(1, &[1, 2, 3]);
        for target in plan.targets.values_mut() {
            target.algorithm = algorithm;
        }
        plan
    };
    set(&mut delta, &mut maps, &web, &by(Algorithm::Random));
    for (algorithm, expected, slots) in [
        (Algorithm::RoundRobin, vec![FlipTarget], 3),
        (Algorithm::Maglev, vec![WriteSlots, FlipTarget], 1_021),
        (Algorithm::Maglev, vec![], 1_021),
        (Algorithm::LeastConnections, vec![WriteSlots, FlipTarget], 3),
    ] {
        assert_eq!(set(&mut delta, &mut maps, &web, &by(algorithm)), expected);
        let word = maps.contents.target(1).word;
        assert_eq!((word.algorithm(), word.count()), (algorithm, slots));
        let shown = crate::view::report(&maps.contents);
        assert_eq!(shown.frontends[0].algorithm, algorithm.into());
        assert_eq!(shown.frontends[0].backends.len(), 3);
    }
}

#[test]
fn l1_a_maglev_table_outlives_the_agent() {
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    let mut maglev = plan(1, &[1, 2, 3]);
    for target in maglev.targets.values_mut() {
        target.algorithm = Algorithm::Maglev;
    }
    set(&mut delta, &mut maps, &web, &maglev);
    let (mut restored, sweep) = Delta::restore(Capacities::default(), &maps.contents);
    assert!(sweep.is_empty(), "{sweep:?}");
    assert_eq!(set(&mut restored, &mut maps, &web, &maglev), []);
}

#[test]
fn l3_a_reused_backend_id_has_a_new_generation() {
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    for endpoint in 1..5 {
        set(&mut delta, &mut maps, &web, &plan(1, &[endpoint]));
        reclaim(&mut delta, &mut maps);
    }
    // Ids 1 and 2 take turns: while one is in use the other is being freed.
    let generations: Vec<_> = maps
        .contents
        .backends
        .iter()
        .map(|b| b.word.generation())
        .collect();
    assert_eq!(generations, [0, 2, 2]);
}

#[test]
fn s7_a_frontend_that_changes_hands_is_never_missing() {
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let (old, new) = (name("old"), name("new"));
    set(&mut delta, &mut maps, &old, &plan(1, &[1]));
    let (gone, taken) = (ServicePlan::default(), plan(1, &[9]));
    let staged = delta.stage([(&old, &gone), (&new, &taken)], 0);
    let [group] = &staged.groups[..] else {
        panic!("one group expected: {staged:?}");
    };
    assert!(
        !group
            .ops
            .iter()
            .any(|op| op.kind() == OpKind::DeleteFrontend)
    );
}

#[test]
fn a_service_without_room_is_refused_and_keeps_what_it_has() {
    let capacities = Capacities {
        backends: 4,
        ..Capacities::default()
    };
    let (mut delta, mut maps) = (Delta::new(capacities), MemoryMaps::default());
    let (web, api) = (name("web"), name("api"));
    set(&mut delta, &mut maps, &web, &plan(1, &[1, 2]));
    let before = maps.clone();
    let (too_much, fits) = (plan(1, &[3, 4]), plan(2, &[5]));
    let staged = delta.stage([(&web, &too_much), (&api, &fits)], 0);
    assert_eq!(
        staged
            .refused
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["default/web is not programmed, and stays as it was before: the map BACKENDS is full"]
    );
    assert_eq!(staged.groups.len(), 1, "the rest goes on");
    assert_eq!(maps, before);
}

#[test]
fn l3_backends_that_are_gone_are_told_but_not_those_that_moved() {
    let (mut delta, mut maps) = (Delta::new(Capacities::default()), MemoryMaps::default());
    let web = name("web");
    set(&mut delta, &mut maps, &web, &plan(1, &[1, 2]));
    // Endpoint 1 is known to be on this node now: another backend, the same endpoint.
    let mut next = plan(1, &[1]);
    for target in next.targets.values_mut() {
        target.backends[0].local = true;
    }
    let staged = delta.stage([(&web, &next)], 0);
    let gone: Vec<_> = staged.groups.iter().flat_map(|group| &group.gone).collect();
    assert_eq!(gone.len(), 1);
    assert_eq!(
        (gone[0].address, gone[0].port, gone[0].protocol),
        (backend(2).address, 8080, Protocol::Tcp)
    );
}
