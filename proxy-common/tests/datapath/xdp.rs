//! XDP. For every uplink packet in these tests, XDP followed by tc must give the same packets and tables as tc
//! alone ([`with_and_without`]). The tests here check which packets XDP finishes and which it leaves to tc.

use std::collections::BTreeMap;

use proxy_common::{
    abi::{
        counter::Counter,
        device::{Device, DeviceClass, LinkType, device_flags},
        frontend::FrontendKind,
        target::TargetState,
    },
    datapath::{self, Ingress, Verdict, Work},
    host::{Frame, MacPair, Segment, Service, World},
    tables::{FlowTable, Route},
};

use crate::{
    fixture::{Cast, Dump, for_each_cast},
    node::{MAC_ROUTER, MAC_UPLINK, Names, OVERLAY, SNAT_PORT, UPLINK, addr, at, node},
};

/// A second uplink.
const SECOND: u32 = 4;
const MAC_SECOND: [u8; 6] = [2, 0, 0, 0, 0, 4];
const MAC_THERE: [u8; 6] = [2, 0, 0, 0, 0, 0xfd];

fn by_tc(world: &World, frame: &mut Frame, at: Ingress) -> Verdict {
    datapath::uplink_ingress(frame, &mut &*world, &mut Work::default(), at)
}

fn by_xdp(world: &World, frame: &mut Frame, at: Ingress) -> Verdict {
    datapath::xdp_ingress(frame, &mut &*world, &mut Work::default(), at)
}

/// Passes a packet through tc alone, in a copy of the world, and through XDP followed by tc. Both must give the
/// same result.
pub fn with_and_without(world: &World, frame: &mut Frame, at: Ingress) -> Verdict {
    let other = world.clone();
    let mut expected = frame.clone();
    let verdict = by_tc(&other, &mut expected, at);

    // XDP knows neither pending checksums nor GSO.
    let mut early = Frame::new(frame.bytes().to_vec());
    let got = match by_xdp(world, &mut early, at) {
        Verdict::Pass => {
            assert_eq!(
                Dump(early.bytes()),
                Dump(frame.bytes()),
                "passed, but changed"
            );
            by_tc(world, frame, at)
        }
        sent @ (Verdict::Send { .. } | Verdict::Bounce) => {
            let ifindex = match sent {
                Verdict::Send { ifindex } => ifindex,
                _ => at.ifindex,
            };
            let device = world.devices.get(&ifindex).expect("a known device");
            assert_eq!(early.bytes()[6..12], device.mac, "source of the frame");
            // tc leaves the MAC addresses to the kernel, so they are not compared.
            let mut bytes = early.bytes().to_vec();
            bytes[..12].copy_from_slice(&frame.bytes()[..12]);
            *frame = Frame::new(bytes);
            Verdict::Forward { ifindex }
        }
        Verdict::Drop(reason) => Verdict::Drop(reason),
        other => panic!("XDP said {other:?}"),
    };
    assert_eq!(got, verdict, "with XDP (left) and without");
    if !matches!(verdict, Verdict::Drop(_)) {
        assert_eq!(
            Dump(frame.bytes()),
            Dump(expected.bytes()),
            "with XDP (left) and without: {verdict:?}"
        );
    }
    for table in [FlowTable::Confirmed, FlowTable::New, FlowTable::Claims] {
        assert_eq!(
            world.flow_table(table).entries(),
            other.flow_table(table).entries(),
            "{table:?} with XDP (left) and without: {verdict:?}"
        );
    }
    assert_eq!(of_both(world), of_both(&other), "counters");
    verdict
}

/// All counters but those that only XDP increments.
pub fn of_both(world: &World) -> Vec<(Counter, u64)> {
    let mut counters = world.counters();
    counters.retain(|(counter, _)| !matches!(counter, Counter::XdpSent | Counter::XdpPassed));
    counters
}

fn uplink(ifindex: u32) -> Ingress {
    Ingress {
        ifindex,
        link: LinkType::Ethernet,
    }
}

/// A node with a Service on a load balancer IP, and the frontend's `address:port`.
fn world(cast: &Cast, backends: &[(&str, bool)]) -> (World, String) {
    let world = node(cast.names);
    let frontend = at(cast.names.load_balancer, 80);
    let mut service = Service::new(cast.protocol).frontend(FrontendKind::LoadBalancer, &frontend);
    for (backend, local) in backends {
        let backend = at(backend, 8080);
        service = if *local {
            service.local_backend(&backend)
        } else {
            service.backend(&backend)
        };
    }
    world.add_service(&service);
    (world, frontend)
}

fn add_second_uplink(world: &World, names: &Names, flags: u32) {
    let own = addr(names.node);
    let mut device = Device {
        class: DeviceClass::Uplink as u8,
        link: LinkType::Ethernet as u8,
        mac: MAC_SECOND,
        mtu: 1500,
        flags,
        ..Device::default()
    };
    if own.is_v4() {
        device.snat_v4 = own;
    } else {
        device.snat_v6 = own;
    }
    world.devices.put(SECOND, device);
    let (far, mac) = (addr(names.far_pod), MAC_THERE);
    world.set_routes(move |query| {
        if query.dst.same(&far) {
            Route::Neighbour {
                ifindex: SECOND,
                mac,
            }
        } else {
            Route::Neighbour {
                ifindex: UPLINK,
                mac: MAC_ROUTER,
            }
        }
    });
}

const BY_ROUTER: MacPair = MacPair {
    dst: MAC_ROUTER,
    src: MAC_UPLINK,
};

#[test]
fn a_flow_to_a_backend_elsewhere_is_finished_both_ways() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (world, frontend) = world(&cast, &[(names.far_pod, false)]);
        let (client, backend) = (at(names.client, 50_000), at(names.far_pod, 8080));
        let source = at(names.node, SNAT_PORT);
        let there = |packet: Segment| packet.from(&source).to(&backend).hop_limit(63);
        let back = |packet: Segment| packet.from(&frontend).to(&client).hop_limit(63);
        let first = cast.first(&client, &frontend);
        let answer = cast.answer(&backend, &source);
        let later = cast.later(&client, &frontend);
        let packets = [
            (first.clone(), there(first)),
            (answer.clone(), back(answer)),
            (later.clone(), there(later)),
        ];
        for (packet, expected) in packets {
            let mut frame = packet.frame();
            let verdict = by_xdp(&world, &mut frame, uplink(UPLINK));
            assert_eq!(verdict, Verdict::Bounce);
            let expected = expected.macs(BY_ROUTER).bytes();
            assert_eq!(Dump(frame.bytes()), Dump(&expected));
        }
        assert_eq!(world.counted(Counter::XdpSent), 3);
        assert_eq!(world.counted(Counter::XdpPassed), 0);
        assert_eq!(world.counted(Counter::FlowCreated), 1);
        assert_eq!(world.counted(Counter::FlowConfirmed), 1);
    });
}

#[test]
fn what_a_device_does_not_take_back_is_redirected_to_it() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (world, frontend) = world(&cast, &[(names.far_pod, false)]);
        let mut device = world.devices.get(&UPLINK).expect("the uplink");
        device.flags = device_flags::XDP_NO_TX;
        world.devices.put(UPLINK, device);
        let mut frame = cast.first(&at(names.client, 50_000), &frontend).frame();
        let verdict = by_xdp(&world, &mut frame, uplink(UPLINK));
        assert_eq!(verdict, Verdict::Send { ifindex: UPLINK });
    });
}

#[test]
fn in_by_one_uplink_and_out_by_another_where_xdp_reaches_it() {
    for_each_cast(|cast| {
        let names = cast.names;
        for reaches in [true, false] {
            let (world, frontend) = world(&cast, &[(names.far_pod, false)]);
            add_second_uplink(
                &world,
                names,
                if reaches { device_flags::XDP_OUT } else { 0 },
            );
            let mut frame = cast.first(&at(names.client, 50_000), &frontend).frame();
            let verdict = by_xdp(&world, &mut frame, uplink(UPLINK));
            if reaches {
                assert_eq!(verdict, Verdict::Send { ifindex: SECOND });
                assert_eq!(frame.bytes()[..6], MAC_THERE);
                assert_eq!(frame.bytes()[6..12], MAC_SECOND);
            } else {
                assert_eq!(verdict, Verdict::Pass);
                assert_eq!(world.counted(Counter::XdpPassed), 1);
            }
        }
    });
}

/// Description, packet, change of the world, and whether `XdpPassed` is counted.
type Case = (&'static str, Segment, fn(&World), bool);

#[test]
fn what_xdp_cannot_finish_is_left_to_tc_as_it_came() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (_, frontend) = world(&cast, &[]);
        let first = cast.first(&at(names.client, 50_000), &frontend);
        let same: fn(&World) = |_| {};
        let no_neighbour: fn(&World) =
            |world| world.set_routes(|_| Route::Device { ifindex: UPLINK });
        let no_route: fn(&World) = |world| world.set_routes(|_| Route::None);
        let overlay: fn(&World) = |world| {
            world.set_routes(|_| Route::Neighbour {
                ifindex: OVERLAY,
                mac: MAC_THERE,
            });
        };
        let to_another = MacPair {
            dst: [2, 9, 9, 9, 9, 9],
            src: MAC_ROUTER,
        };
        let to_all = MacPair {
            dst: [0xff; 6],
            src: MAC_ROUTER,
        };
        let cases: [Case; 9] = [
            ("neighbour unknown", first.clone(), no_neighbour, true),
            ("no route, or no forwarding", first.clone(), no_route, false),
            ("an overlay", first.clone(), overlay, true),
            ("hop limit", first.clone().hop_limit(1), same, true),
            ("too big", first.clone().payload(&[7; 1500]), same, true),
            (
                "priority tag",
                first.clone().tagged(0x8100, 0xe000),
                same,
                true,
            ),
            ("fragment", first.clone().fragment(0, true), same, false),
            (
                "frame for another host",
                first.clone().macs(to_another),
                same,
                false,
            ),
            ("broadcast frame", first.macs(to_all), same, false),
        ];
        for (what, packet, change, counts) in cases {
            let (world, _) = world(&cast, &[(names.far_pod, false)]);
            change(&world);
            let before = packet.frame();
            let mut frame = before.clone();
            let verdict = by_xdp(&world, &mut frame, uplink(UPLINK));
            assert_eq!(verdict, Verdict::Pass, "{what}");
            assert_eq!(frame, before, "{what}");
            assert_eq!(
                world.counted(Counter::XdpPassed),
                u64::from(counts),
                "{what}"
            );
            // tc then gives the same result as without XDP.
            let (fresh, _) = self::world(&cast, &[(names.far_pod, false)]);
            change(&fresh);
            with_and_without(&fresh, &mut packet.frame(), uplink(UPLINK));
        }
    });
}

#[test]
fn a_checksum_that_is_left_to_the_device_is_left_to_tc() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (world, frontend) = world(&cast, &[(names.far_pod, false)]);
        let first = cast
            .first(&at(names.client, 50_000), &frontend)
            .payload(b"odd");
        let mut pending = Frame::new(first.pending_frame().bytes().to_vec());
        assert_eq!(by_xdp(&world, &mut pending, uplink(UPLINK)), Verdict::Pass);
        assert_eq!(pending.bytes(), first.pending_frame().bytes());
        let sent = Verdict::Bounce;
        assert_eq!(by_xdp(&world, &mut first.frame(), uplink(UPLINK)), sent);
    });
}

#[test]
fn a3_who_is_not_let_in_and_who_finds_nobody_here_is_dropped_once() {
    for_each_cast(|cast| {
        let names = cast.names;
        for (state, verdict) in [
            (
                TargetState::Drop,
                Verdict::Drop(Counter::DropNoLocalEndpoint),
            ),
            // tc sends refusals.
            (TargetState::Reject, Verdict::Pass),
        ] {
            let world = node(names);
            let frontend = at(names.load_balancer, 80);
            let service = Service::new(cast.protocol)
                .frontend(FrontendKind::LoadBalancer, &frontend)
                .state(state);
            world.add_service(&service);
            let mut frame = cast.first(&at(names.client, 50_000), &frontend).frame();
            assert_eq!(by_xdp(&world, &mut frame, uplink(UPLINK)), verdict);
            assert_eq!(
                world.counted(Counter::DropNoLocalEndpoint),
                u64::from(state == TargetState::Drop)
            );
        }
        let world = node(names);
        let frontend = at(names.load_balancer, 80);
        let placed = world.add_service(
            &Service::new(cast.protocol)
                .frontend(FrontendKind::LoadBalancer, &frontend)
                .backend(&at(names.far_pod, 8080)),
        );
        let mut target = world.targets.get(placed.target).expect("the target");
        target.ranges = placed.target;
        world.targets.set(placed.target, target);
        let mut frame = cast.first(&at(names.client, 50_000), &frontend).frame();
        let verdict = by_xdp(&world, &mut frame, uplink(UPLINK));
        assert_eq!(verdict, Verdict::Drop(Counter::DropSourceRange));
        assert_eq!(world.counted(Counter::DropSourceRange), 1);
    });
}

#[test]
fn one_backend_here_and_one_elsewhere_get_as_much() {
    for_each_cast(|cast| {
        let names = cast.names;
        let (world, frontend) = world(&cast, &[(names.pod_b, true), (names.far_pod, false)]);
        world.configure(|settings| settings.snat_ports[0].last = SNAT_PORT + 9_999);
        let mut verdicts: BTreeMap<String, u32> = BTreeMap::new();
        for port in 1..=4_000 {
            let mut frame = cast.first(&at(names.client, port), &frontend).frame();
            let verdict = match by_xdp(&world, &mut frame, uplink(UPLINK)) {
                Verdict::Pass => by_tc(&world, &mut frame, uplink(UPLINK)),
                verdict => verdict,
            };
            *verdicts.entry(format!("{verdict:?}")).or_default() += 1;
        }
        assert_eq!(verdicts.len(), 2, "{verdicts:?}");
        // 4,000 even draws have a standard deviation of 32, so this allows six.
        let even = verdicts.values().all(|n| n.abs_diff(2_000) < 190);
        assert!(even, "{verdicts:?}");
        let (sent, passed) = (
            world.counted(Counter::XdpSent),
            world.counted(Counter::XdpPassed),
        );
        assert_eq!(sent + passed, 4_000, "{sent} by XDP, {passed} by tc");
        assert_eq!(world.counted(Counter::FlowCreated), 4_000);
        assert_eq!(verdicts["Continue"], passed as u32);
    });
}
