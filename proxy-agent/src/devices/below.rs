//! The devices that an uplink's packets pass before they reach the uplink.

use std::collections::BTreeSet;

use super::{classify::is_pair, observed::Observed};
use crate::dataplane::attach::Below;

/// Follows a device down to the devices by which its packets arrive: members of a bond, team or bridge, and parents of VLANs,
/// macvlans and the like. The device itself is included.
///
/// Links change while they are listed, and an ifindex may belong to another namespace. A reference to an unlisted device makes
/// the result `unknown`, and no device is visited twice.
pub(super) fn below(observed: &Observed, ifindex: u32) -> Below {
    let mut below = Below::default();
    let (mut seen, mut next) = (BTreeSet::new(), vec![ifindex]);
    while let Some(ifindex) = next.pop() {
        if !seen.insert(ifindex) {
            continue;
        }
        let Some(link) = observed.links.get(&ifindex) else {
            below.unknown = true;
            continue;
        };
        if is_pair(link) {
            below.veths.insert(ifindex);
            continue;
        }
        if link.peer_elsewhere {
            below.unknown = true;
        } else {
            next.extend(link.other);
        }
        next.extend(observed.ports_of(ifindex).map(|(member, _)| member));
    }
    below
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::devices::observed::Link;

    fn link(kind: &str, master: Option<u32>, other: Option<u32>) -> Link {
        Link {
            kind: kind.to_owned(),
            up: true,
            master,
            other,
            ..Link::default()
        }
    }

    fn network(links: impl IntoIterator<Item = (u32, Link)>) -> Observed {
        Observed {
            links: links.into_iter().collect(),
            ..Observed::default()
        }
    }

    fn veths(observed: &Observed, ifindex: u32) -> Vec<u32> {
        let below = below(observed, ifindex);
        assert!(!below.unknown, "{below:?}");
        below.veths.into_iter().collect()
    }

    #[test]
    fn veths_are_found_below_bonds_bridges_and_vlans() {
        let observed = network([
            (1, link("veth", None, Some(20))),
            (2, link("bond", None, None)),
            (3, link("", Some(2), None)),
            (4, link("veth", Some(2), Some(21))),
            (5, link("vlan", None, Some(2))),
            (6, link("bridge", None, None)),
            (7, link("vlan", Some(6), Some(2))),
            (8, link("macvlan", None, Some(6))),
            (9, link("team", None, None)),
            (10, link("", Some(9), None)),
            (11, link("vlan", None, Some(10))),
            // The other end of a pair is not below it.
            (20, link("veth", Some(9), Some(1))),
            (21, link("veth", None, Some(4))),
        ]);
        assert_eq!(veths(&observed, 1), [1]);
        for above in [2, 5, 6, 7, 8] {
            assert_eq!(veths(&observed, above), [4], "device {above}");
        }
        assert_eq!(veths(&observed, 9), [20]);
        assert!(veths(&observed, 11).is_empty(), "hardware alone");
    }

    #[test]
    fn a_member_that_joins_later_counts() {
        let mut observed = network([
            (2, link("bond", None, None)),
            (3, link("", Some(2), None)),
            (4, link("veth", None, None)),
        ]);
        assert!(veths(&observed, 2).is_empty());
        observed.links.get_mut(&4).unwrap().master = Some(2);
        assert_eq!(veths(&observed, 2), [4]);
    }

    #[test]
    fn what_is_in_another_namespace_or_not_listed_is_unknown() {
        let elsewhere = |kind, other| Link {
            peer_elsewhere: true,
            ..link(kind, None, other)
        };
        let observed = network([
            // An unrelated device of this namespace has the same ifindex.
            (1, elsewhere("macvlan", Some(2))),
            (2, link("veth", None, None)),
            (3, link("vlan", None, Some(1))),
            (4, link("vlan", None, Some(99))),
            // The other end of a pair, which is not below it.
            (5, elsewhere("veth", Some(2))),
        ]);
        for ifindex in [1, 3, 4] {
            let below = below(&observed, ifindex);
            assert!(below.unknown && below.veths.is_empty(), "{below:?}");
        }
        assert_eq!(veths(&observed, 5), [5]);
    }

    /// Devices as a hostile kernel could list them: any kind, members and parents at will, loops too.
    fn links() -> impl Strategy<Value = Vec<(usize, Option<u32>, Option<u32>, bool)>> {
        let number = || prop::option::of(0..14_u32);
        vec(
            (0..5_usize, number(), number(), prop::bool::weighted(0.1)),
            1..12,
        )
    }

    proptest! {
        /// Against the plain definition: what is below is the closure of "member of" and "sends by".
        #[test]
        fn any_tree_or_loop_is_followed_to_its_end(links in links(), from in 0..12_u32) {
            const KINDS: [&str; 5] = ["", "bond", "vlan", "veth", "bridge"];
            let observed = network((0..).zip(&links).map(|(ifindex, &(kind, master, other, elsewhere))| {
                let link = Link { peer_elsewhere: elsewhere, ..link(KINDS[kind], master, other) };
                (ifindex, link)
            }));
            let mut reached = BTreeSet::from([from]);
            for _ in 0..=links.len() {
                for &(ifindex, lower) in &edges(&observed) {
                    if reached.contains(&ifindex) {
                        reached.insert(lower);
                    }
                }
            }
            let is_veth = |ifindex: &u32| observed.links.get(ifindex).is_some_and(|link| link.kind == "veth");
            let unknown = |ifindex: &u32| {
                let link = observed.links.get(ifindex);
                link.is_none_or(|link| link.peer_elsewhere && link.kind != "veth")
            };
            let found = below(&observed, from);
            prop_assert_eq!(found.unknown, reached.iter().any(unknown));
            let veths: BTreeSet<u32> = reached.into_iter().filter(is_veth).collect();
            prop_assert_eq!(found.veths, veths);
        }
    }

    /// Pairs of a device and one that is below it. Nothing is known to be below a pair, or a device that is not listed.
    fn edges(observed: &Observed) -> Vec<(u32, u32)> {
        let mut edges = Vec::new();
        for (&ifindex, link) in &observed.links {
            edges.extend(link.master.map(|master| (master, ifindex)));
            if !link.peer_elsewhere {
                edges.extend(link.other.map(|other| (ifindex, other)));
            }
        }
        let is_listed = |upper| {
            observed
                .links
                .get(&upper)
                .is_some_and(|link| !is_pair(link))
        };
        edges.retain(|&(upper, _)| is_listed(upper));
        edges
    }
}
