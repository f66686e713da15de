//! Slow start (semantics L1): distribution of each algorithm while a backend is new, with statistical bounds.

use std::collections::{BTreeMap, BTreeSet};

use proxy_common::{
    abi::target::{Algorithm, BackendState},
    host::{Placed, World},
};

use super::{
    LOAD_BALANCER, TCP, assert_spread, close, connect, first, loads, service, spread_in, to, weigh,
    world,
};

/// Duration of slow start in seconds. Equals 100, so that an age in seconds is a percentage.
const WINDOW: u16 = 100;
/// Number of connections by sockets, and the same number by packets.
const TIMES: u16 = 4_000;

/// A Service with slow start whose backends became ready this many seconds ago. `None`: not new.
fn placed<const N: usize>(algorithm: Algorithm, ages: [Option<u32>; N]) -> (World, Placed) {
    let world = world();
    let placed = world.add_service(&service(TCP, N).algorithm(algorithm).slow_start(WINDOW));
    for (&id, age) in placed.backends.iter().zip(ages) {
        if let Some(age) = age {
            world.begin(id, age);
        }
    }
    (world, placed)
}

/// The percentage of choices in which a backend of this age takes part.
fn percent(age: u32) -> u32 {
    age.clamp(10, 100)
}

fn assert_spread_in(world: &World, what: &str, shares: &[u32]) {
    let spread = spread_in(world, shares.len(), TIMES);
    for (by, hits) in ["sockets", "packets"].iter().zip(spread) {
        println!("{what} by {by}: {hits:?} for {shares:?}");
        assert_spread(&format!("{what} by {by}"), &hits, shares);
    }
}

#[test]
fn l1_the_share_of_a_new_backend_grows_with_its_age() {
    for algorithm in Algorithm::ALL {
        for age in [0, 10, 50, 90, 100, 101] {
            let (world, _) = placed(algorithm, [None, Some(age), None]);
            let part = percent(age);
            let shares = match algorithm {
                // If the backend takes no part, the next turn decides, so the other two keep equal shares.
                Algorithm::RoundRobin => [100, part, 100],
                _ => [300 - part, 2 * part, 300 - part],
            };
            assert_spread_in(&world, &format!("{algorithm:?} at {age} %"), &shares);
        }
    }
}

#[test]
fn l1_a_new_backend_has_its_part_of_its_weight() {
    for algorithm in [Algorithm::Random, Algorithm::RoundRobin] {
        let (world, placed) = placed(algorithm, [None, None, Some(50)]);
        weigh(&world, &placed, &[1, 2, 2]);
        // Half of its 2/5, that is 3/15. The others share the remaining 12/15 by weight.
        assert_spread_in(&world, &format!("{algorithm:?}"), &[4, 8, 3]);
    }
}

#[test]
fn l1_backends_that_are_all_new_share_evenly() {
    for algorithm in Algorithm::ALL {
        for age in [0, 30, 99] {
            let (world, _) = placed(algorithm, [Some(age); 3]);
            assert_spread_in(&world, &format!("{algorithm:?} at {age} %"), &[1; 3]);
        }
    }
}

#[test]
fn l1_two_that_are_new_have_shares_by_their_age() {
    let (world, _) = placed(Algorithm::Random, [None, Some(20), Some(60)]);
    // It takes part, and then competes with one or two others: 0.2 · (0.6 / 3 + 0.4 / 2), and 0.6 · (0.2 / 3 +
    // 0.8 / 2).
    assert_spread_in(&world, "20 % and 60 %", &[64, 8, 28]);
}

#[test]
fn l1_without_slow_start_age_does_not_matter() {
    for algorithm in Algorithm::ALL {
        let world = world();
        let placed = world.add_service(&service(TCP, 3).algorithm(algorithm));
        world.begin(placed.backends[0], 0);
        assert_spread_in(&world, &format!("{algorithm:?}"), &[1; 3]);
    }
}

#[test]
fn l1_nobody_is_refused_for_slow_start() {
    for algorithm in Algorithm::ALL {
        let (world, _) = placed(algorithm, [Some(0)]);
        let [sockets, packets] = spread_in(&world, 1, 500);
        assert_eq!((sockets[0], packets[0]), (500, 500), "{algorithm:?}");
        // The other backends stopped serving just now.
        let (world, others) = placed(algorithm, [None, Some(0), None]);
        world.set_backend_state(others.backends[0], BackendState::Gone);
        world.set_backend_state(others.backends[2], BackendState::NotServing);
        let [sockets, packets] = spread_in(&world, 3, 500);
        assert_eq!((sockets[1], packets[1]), (500, 500), "{algorithm:?}");
    }
}

#[test]
fn l1_a_new_backend_that_has_no_connections_is_not_given_all_of_them() {
    let (world, placed) = placed(Algorithm::LeastConnections, [None, Some(0), None]);
    for (n, &id) in placed.backends.iter().enumerate() {
        let count = if n == 1 { 0 } else { 1_000 };
        let generation = 1;
        let load = proxy_common::abi::load::Load { count, generation };
        world.loads.set(id, load);
    }
    assert_eq!(loads(&world, &placed), [1_000, 0, 1_000]);
    let mut hits = [0; 3];
    for cookie in 0..TIMES.into() {
        let socket = to(cookie, 7, TCP);
        hits[connect(&world, &socket)] += 1;
        close(&world, &socket);
    }
    // Two of three pairs contain the idle backend. It would win them all, but takes part in only a tenth: 2
    // of 30.
    assert_spread("the idle one", &hits, &[14, 2, 14]);
}

/// The backend of each client when backend 1 has this age, on a node with this secret.
fn clients_at(age: u32, secret: u32) -> BTreeMap<u16, usize> {
    let (world, _) = placed(Algorithm::Maglev, [None, Some(age), None, Some(age / 2)]);
    world.configure(|settings| {
        settings.hash_key = [secret; 2];
        settings.maglev_seed = 5;
    });
    (40_000..40_500)
        .map(|port| {
            let client = format!("198.51.100.9:{port}");
            (port, first(&world, TCP, &client, LOAD_BALANCER))
        })
        .collect()
}

#[test]
fn l1_maglev_moves_a_client_to_a_new_backend_once_on_every_node() {
    let mut seen: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for age in (0..=2 * u32::from(WINDOW)).step_by(5) {
        let now = clients_at(age, 1);
        assert_eq!(now, clients_at(age, 2), "nodes differ");
        for (client, backend) in now {
            let seen = seen.entry(client).or_default();
            if seen.last() != Some(&backend) {
                seen.push(backend);
            }
        }
    }
    let mut moved = 0;
    for (client, seen) in &seen {
        let places: BTreeSet<_> = seen.iter().collect();
        assert_eq!(
            places.len(),
            seen.len(),
            "{client} returned to an earlier backend: {seen:?}"
        );
        assert!(seen[1..].iter().all(|n| n % 2 == 1), "{client}: {seen:?}");
        moved += usize::from(seen.len() > 1);
    }
    // Half of the 500 clients end at one of the two new backends. About nine in ten of them moved there later.
    assert!((150..300).contains(&moved), "{moved}");
}

#[test]
fn l2_affinity_goes_before_slow_start() {
    let world = world();
    let service = service(TCP, 2).affinity(1_000).slow_start(WINDOW);
    let placed = world.add_service(&service);
    world.begin(placed.backends[1], 0);
    let choose = |namespace: u64, cookie: u64| connect(&world, &to(cookie, namespace, TCP));
    let had: Vec<usize> = (0..200).map(|namespace| choose(namespace, 1)).collect();
    assert!(had.contains(&0) && had.contains(&1), "{had:?}");
    for cookie in 2..10 {
        let has: Vec<usize> = (0..200)
            .map(|namespace| choose(namespace, cookie))
            .collect();
        assert_eq!(has, had);
        world.pass_seconds(20);
    }
}
