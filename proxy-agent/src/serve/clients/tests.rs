//! Which connection is closed for a new one.

use super::*;

const LIMITS: Limits = Limits {
    elsewhere: 6,
    client: 3,
    own: 2,
    listeners: 1,
    longest: LONGEST,
};

/// A table in which each connection is a second older than the next; by the last octet of addresses.
struct World {
    table: Table,
    start: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            table: Table::default(),
            start: Instant::now(),
        }
    }

    /// Admits a connection. Returns the connection that was closed for it.
    fn open(&mut self, client: Client) -> Option<u64> {
        let victim = self.table.victim(client, &LIMITS);
        if let Some(victim) = victim {
            self.table.open.remove(&victim);
        }
        let id = self.table.next;
        self.table.next += 1;
        let since = self.start + Duration::from_secs(id);
        let connection = Connection {
            client,
            since,
            task: None,
        };
        self.table.open.insert(id, connection);
        victim
    }

    fn requests(&mut self, id: u64) {
        let connection = self.table.open.get_mut(&id).unwrap();
        connection.since = self.start + Duration::from_secs(1000 + id);
    }
}

fn node(ip: &str) -> Client {
    Client::Node(ip.parse().unwrap())
}

fn v4(last: u8) -> Client {
    Client::V4(Ipv4Addr::new(192, 0, 2, last))
}

#[test]
fn a_client_beyond_its_share_closes_its_own_oldest() {
    let mut world = World::new();
    for _ in 0..LIMITS.client {
        assert_eq!(world.open(v4(1)), None);
    }
    assert_eq!(world.open(v4(2)), None);
    world.requests(0);
    assert_eq!(world.open(v4(1)), Some(1), "0 has made a request since");
    assert_eq!(world.open(v4(2)), None);
}

#[test]
fn when_all_are_taken_the_client_with_most_gives_way() {
    let mut world = World::new();
    for client in [1, 2, 2, 3, 3, 3].map(v4) {
        assert_eq!(world.open(client), None);
    }
    assert_eq!(world.open(v4(4)), Some(3), "the oldest of 3's");
    // Now clients 2 and 3 have two connections each. The oldest of these is closed.
    assert_eq!(world.open(v4(5)), Some(1));
}

#[test]
fn of_the_nodes_own_addresses_the_one_with_most_gives_way() {
    let mut world = World::new();
    let (kubelet, other) = (node("192.0.2.1"), node("127.0.0.2"));
    assert_eq!(world.open(kubelet), None);
    assert_eq!(world.open(other), None);
    assert_eq!(world.open(other), Some(0), "of equal ones the oldest");
    for oldest in 1..20 {
        assert_eq!(world.open(other), Some(oldest));
    }
    assert_eq!(world.open(kubelet), Some(20));
}

#[test]
fn nobody_elsewhere_takes_what_is_set_apart_for_the_node_and_vice_versa() {
    let mut world = World::new();
    for last in 0..200 {
        world.open(v4(last));
    }
    assert_eq!(world.table.open.len(), LIMITS.elsewhere);
    for client in [node("127.0.0.1"), Client::Local] {
        let oldest = world.table.next;
        for _ in 0..LIMITS.own {
            assert_eq!(world.open(client), None);
        }
        assert_eq!(world.open(client), Some(oldest));
    }
    let of_all = LIMITS.elsewhere + 2 * LIMITS.own;
    assert_eq!(world.table.open.len(), of_all);
}

#[test]
fn clients_are_told_apart_by_address_and_by_64_bits_of_it() {
    let of = |peer: &str, local: &str| Client::of(peer.parse().unwrap(), local.parse().unwrap());
    for (peer, local) in [
        ("127.0.0.1", "127.0.0.1"),
        ("127.9.9.9", "192.0.2.1"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ] {
        assert_eq!(of(peer, local).group(), Group::Node, "{peer} to {local}");
    }
    let here = "2001:db8:9::1";
    assert_eq!(of("::ffff:192.0.2.7", "::ffff:192.0.2.1"), v4(7));
    assert_eq!(of("2001:db8::1", here), of("2001:db8::2:0:0:0", here));
    assert_ne!(of("2001:db8::1", here), of("2001:db8:0:1::1", here));
}

#[test]
fn at_least_half_of_the_descriptors_is_left_for_the_agents_work() {
    for descriptors in [256, 1024, 4096, 1 << 20] {
        let limits = Limits::of(descriptors);
        let all = limits.elsewhere + 2 * limits.own + limits.listeners;
        assert!(all <= descriptors / 2, "{limits:?}");
        assert!(limits.client > 0 && limits.client < limits.elsewhere);
    }
    assert_eq!(Limits::of(usize::MAX).elsewhere, 512);
}
