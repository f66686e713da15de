//! `sessionAffinity: ClientIP` (semantics L2).

use super::*;

fn with_affinity(protocol: u8) -> (World, Placed) {
    let world = world();
    let placed = world.add_service(&service(protocol, 10).affinity(TIMEOUT));
    (world, placed)
}

/// The backends of further connections of a client, alternately to two frontends.
fn comes_back(world: &World, client: &str, ports: std::ops::Range<u16>) -> Vec<usize> {
    let (node_port, frontends) = (node_port(), [CLUSTER_IP, LOAD_BALANCER]);
    ports
        .map(|port| {
            let from = format!("{client}:{port}");
            let to = match port % 2 {
                0 => frontends[1],
                _ => &node_port,
            };
            first(world, UDP, &from, to)
        })
        .collect()
}

#[test]
fn l2_an_address_keeps_its_backend_over_all_frontends() {
    let (world, _) = with_affinity(UDP);
    let mut all = Vec::new();
    for n in 1..=20 {
        let client = format!("198.51.100.{n}");
        let backends = comes_back(&world, &client, 40_000..40_010);
        assert!(backends.iter().all(|b| *b == backends[0]), "{backends:?}");
        all.push(backends[0]);
    }
    all.sort_unstable();
    all.dedup();
    assert!(all.len() > 4, "clients are spread: {all:?}");
}

#[test]
fn l2_a_network_namespace_keeps_its_backend_and_others_have_theirs() {
    let (world, _) = with_affinity(TCP);
    let mut all = Vec::new();
    for netns in 1..=20 {
        let one = connect(&world, &to(netns * 100, netns, TCP));
        for n in 1..10 {
            assert_eq!(connect(&world, &to(netns * 100 + n, netns, TCP)), one);
        }
        all.push(one);
    }
    all.sort_unstable();
    all.dedup();
    assert!(all.len() > 4, "clients are spread: {all:?}");
}

#[test]
fn l2_unconnected_sockets_have_affinity_too() {
    let (world, _) = with_affinity(UDP);
    let sent = |cookie| match socket::send(&mut &world, &to(cookie, 7, UDP)) {
        Decision::Use { addr, .. } => number(&addr),
        other => panic!("{other:?}"),
    };
    let one = sent(1);
    assert!((2..12).all(|cookie| sent(cookie) == one));
    assert_eq!(connect(&world, &to(20, 7, UDP)), one);
}

#[test]
fn l2_the_timer_restarts_with_each_new_connection() {
    let (world, _) = with_affinity(TCP);
    let one = connect(&world, &to(1, 7, TCP));
    for cookie in 2..12 {
        world.pass_seconds(TIMEOUT - 1);
        assert_eq!(connect(&world, &to(cookie, 7, TCP)), one);
    }
    // Of clients that return too late, nine in ten should get another backend.
    let late = (100..120).filter(|&netns| {
        let before = connect(&world, &to(netns, netns, TCP));
        world.pass_seconds(TIMEOUT + 1);
        connect(&world, &to(netns + 1_000, netns, TCP)) != before
    });
    assert!(late.count() >= 12);
}

#[test]
fn l2_a_backend_that_went_away_is_replaced_and_the_new_one_kept() {
    let (world, placed) = with_affinity(TCP);
    let one = connect(&world, &to(1, 7, TCP));
    world.set_backend_state(placed.backends[one], BackendState::Gone);
    let other = connect(&world, &to(2, 7, TCP));
    assert_ne!(other, one);
    world.set_backend_state(placed.backends[one], BackendState::Serving);
    assert_eq!(connect(&world, &to(3, 7, TCP)), other);
}

#[test]
fn l2_l4_a_backend_that_serves_but_is_in_no_list_is_replaced() {
    let (world, placed) = with_affinity(TCP);
    let one = connect(&world, &to(1, 7, TCP));
    let rest: Vec<u32> = placed.backends.clone();
    let without: Vec<u32> = rest
        .iter()
        .filter(|id| **id != placed.backends[one])
        .copied()
        .collect();
    world.point(placed.target, &without, TargetState::Serve);
    assert_ne!(connect(&world, &to(2, 7, TCP)), one);
}

#[test]
fn l2_another_list_of_backends_keeps_who_is_still_in_it() {
    let (world, placed) = with_affinity(TCP);
    let one = connect(&world, &to(1, 7, TCP));
    // An endpoint is added, and all others change slots.
    let new = world.add_backend("10.1.0.200:8080".parse().unwrap(), TCP, true);
    let mut turned = placed.backends.clone();
    turned.rotate_left(3);
    turned.insert(0, new);
    world.point(placed.target, &turned, TargetState::Serve);
    assert!((2..20).all(|cookie| connect(&world, &to(cookie, 7, TCP)) == one));
}

#[test]
fn b4_l2_affinity_does_not_lead_out_of_the_local_list() {
    let (world, placed) = with_affinity(UDP);
    let client = "198.51.100.9";
    let one = first(&world, UDP, &format!("{client}:40000"), LOAD_BALANCER);
    // The backend becomes a member of the cluster list only, and the target that of the local list.
    let local = backend_lists::bit(List::Local);
    for (n, id) in placed.backends.iter().enumerate() {
        let mut backend = world.backends.get(*id).unwrap();
        let lists = if n == one {
            backend_lists::bit(List::Cluster)
        } else {
            backend_lists::ALL
        };
        backend.word = backend.word.in_lists(lists);
        world.backends.set(*id, backend);
    }
    let mut target = world.targets.get(placed.target).unwrap();
    target.flags = local;
    world.targets.set(placed.target, target);
    let rest: Vec<_> = (0..10).filter(|n| *n != one).collect();
    let slots = world.slots.written();
    for (index, slot) in (0..).zip(slots) {
        if slot.backend == placed.backends[one] {
            let generation = slot.generation;
            let backend = placed.backends[rest[0]];
            world.slots.set(
                index,
                Slot {
                    backend,
                    generation,
                },
            );
        }
    }
    let other = first(&world, UDP, &format!("{client}:40001"), LOAD_BALANCER);
    assert_ne!(other, one);
}

#[test]
fn l2_affinity_is_switched_on_and_off_in_place() {
    let (world, placed) = with_affinity(TCP);
    let set = |seconds| {
        let mut target = world.targets.get(placed.target).unwrap();
        target.affinity_seconds = seconds;
        world.targets.set(placed.target, target);
    };
    let chosen = |cookies: std::ops::Range<u64>| {
        let mut all: Vec<_> = cookies
            .map(|cookie| connect(&world, &to(cookie, 7, TCP)))
            .collect();
        all.sort_unstable();
        all.dedup();
        all.len()
    };
    assert_eq!(chosen(0..20), 1);
    set(0);
    assert!(chosen(20..60) > 4);
    set(TIMEOUT);
    assert_eq!(chosen(60..80), 1);
}

#[test]
fn l2_a_client_keeps_its_backend_though_its_tuple_there_is_held() {
    let (world, _) = with_affinity(UDP);
    // The client uses one port for two frontends of one Service, so the backend sees two source ports.
    for port in 40_000..40_010 {
        let from = format!("198.51.100.9:{port}");
        let one = first(&world, UDP, &from, LOAD_BALANCER);
        assert_eq!(first(&world, UDP, &from, &node_port()), one);
        let flow = world.new_flows.get(&key(UDP, &from, &node_port())).unwrap();
        assert_ne!(flow.out.src_port.get(), port);
    }
}

#[test]
fn l2_affinity_goes_before_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let world = world();
        world.add_service(&service(TCP, 10).affinity(TIMEOUT).algorithm(algorithm));
        let one = connect(&world, &to(1, 7, TCP));
        assert!((2..20).all(|cookie| connect(&world, &to(cookie, 7, TCP)) == one));
    }
}
