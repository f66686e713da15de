use proptest::prelude::*;

use super::*;

const HZ: u32 = 250;
const NOW: u32 = 5_000_000;

fn half(half: Half, flags: u8, seen: u8, idle_seconds: u32) -> FlowState {
    FlowState {
        last_seen: NOW.wrapping_sub(idle_seconds * HZ),
        half: half as u8,
        flags,
        seen,
    }
}

/// A confirmed TCP connection with these `seen` bits on its two halves, both idle for the same time.
fn tcp(client: u8, backend: u8, idle_seconds: u32) -> FlowHalves {
    let flags = flow_flags::CONFIRMED;
    FlowHalves {
        protocol: protocol::TCP,
        one: half(Half::Forward, flags, client, idle_seconds),
        other: Some(half(Half::Reverse, flags, backend, idle_seconds)),
        serving: true,
    }
}

fn unconfirmed(protocol: u8, flags: u8, idle_seconds: u32) -> FlowHalves {
    FlowHalves {
        protocol,
        one: half(Half::Forward, flags, seen::SYN, idle_seconds),
        other: Some(half(Half::Reverse, flags, 0, idle_seconds)),
        serving: true,
    }
}

const OPEN: u8 = seen::SYN | seen::DATA;

/// Checks that a flow expires after `seconds` of idleness, and not before.
#[track_caller]
fn ends_after(seconds: u32, crowded: bool, reason: Reason, flow: impl Fn(u32) -> FlowHalves) {
    assert_eq!(flow(seconds).expired(NOW, HZ, crowded), None);
    assert_eq!(flow(seconds + 1).expired(NOW, HZ, crowded), Some(reason));
}

#[test]
fn tcp_ends_by_what_it_has_carried() {
    for (client, backend, stage, seconds) in [
        (seen::SYN, seen::SYN, Stage::Opening, TCP_OPENING),
        (OPEN, OPEN, Stage::Established, TCP_ESTABLISHED),
        (OPEN | seen::FIN, OPEN, Stage::Closing, TCP_CLOSING),
        (OPEN, OPEN | seen::FIN, Stage::Closing, TCP_CLOSING),
        (
            OPEN | seen::FIN,
            OPEN | seen::FIN,
            Stage::Closed,
            TCP_CLOSED,
        ),
        (OPEN, OPEN | seen::RST, Stage::Reset, TCP_RESET),
        (OPEN | seen::RST, OPEN | seen::FIN, Stage::Reset, TCP_RESET),
    ] {
        ends_after(seconds, false, Reason::Idle(stage), |idle| {
            tcp(client, backend, idle)
        });
    }
}

#[test]
fn sctp_ends_by_what_it_has_carried() {
    for (client, backend, stage, seconds) in [
        (seen::SYN, seen::SYN, Stage::Opening, SCTP_OPENING),
        (OPEN, OPEN, Stage::Established, SCTP_ESTABLISHED),
        (OPEN | seen::FIN, OPEN, Stage::Closing, SCTP_CLOSING),
        (
            OPEN | seen::FIN,
            OPEN | seen::FIN,
            Stage::Closed,
            SCTP_CLOSED,
        ),
        (OPEN | seen::RST, OPEN, Stage::Reset, SCTP_RESET),
    ] {
        ends_after(seconds, false, Reason::Idle(stage), |idle| FlowHalves {
            protocol: protocol::SCTP,
            ..tcp(client, backend, idle)
        });
    }
    let reason = Reason::Idle(Stage::Unconfirmed);
    ends_after(SCTP_UNCONFIRMED, false, reason, |idle| {
        unconfirmed(protocol::SCTP, 0, idle)
    });
}

#[test]
fn udp_ends_by_whether_it_was_answered() {
    let udp = |idle| FlowHalves {
        protocol: protocol::UDP,
        ..tcp(seen::DATA, seen::DATA, idle)
    };
    ends_after(UDP_ANSWERED, false, Reason::Idle(Stage::Established), udp);
    let reason = Reason::Idle(Stage::Unconfirmed);
    ends_after(UDP_UNCONFIRMED, false, reason, |idle| {
        unconfirmed(protocol::UDP, 0, idle)
    });
}

#[test]
fn what_is_not_answered_goes_soon_and_sooner_where_there_is_no_room() {
    let reason = Reason::Idle(Stage::Unconfirmed);
    for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        let claim = |idle| unconfirmed(protocol, flow_flags::SNAT, idle);
        ends_after(CLAIM_UNCONFIRMED, false, reason, claim);
        ends_after(CROWDED, true, reason, claim);
    }
    ends_after(TCP_UNCONFIRMED, false, reason, |idle| {
        unconfirmed(protocol::TCP, 0, idle)
    });
    ends_after(CROWDED, true, Reason::Idle(Stage::Opening), |idle| {
        tcp(seen::SYN, seen::SYN, idle)
    });
    ends_after(
        TCP_ESTABLISHED,
        true,
        Reason::Idle(Stage::Established),
        |idle| tcp(OPEN, OPEN, idle),
    );
}

#[test]
fn l3_only_connections_outlive_their_backends() {
    let gone = |protocol, seen| FlowHalves {
        serving: false,
        protocol,
        ..tcp(seen, seen, 0)
    };
    for protocol in [protocol::TCP, protocol::SCTP] {
        assert_eq!(gone(protocol, OPEN).expired(NOW, HZ, true), None);
    }
    let udp = gone(protocol::UDP, seen::DATA);
    assert_eq!(udp.expired(NOW, HZ, false), Some(Reason::BackendGone));
}

#[test]
fn the_half_that_was_used_last_counts() {
    let mut flow = tcp(OPEN | seen::FIN, OPEN | seen::FIN, TCP_CLOSED + 1);
    assert!(flow.expired(NOW, HZ, false).is_some());
    flow.one.last_seen = NOW;
    assert_eq!(flow.expired(NOW, HZ, false), None);
}

#[test]
fn half_a_flow_ends_soon() {
    ends_after(ORPHAN, false, Reason::Idle(Stage::Orphan), |idle| {
        FlowHalves {
            other: None,
            ..tcp(OPEN, OPEN, idle)
        }
    });
}

#[test]
fn what_was_seen_after_the_clock_was_read_is_not_old() {
    assert_eq!(elapsed(NOW, NOW + 1, HZ), 0);
    assert_eq!(elapsed(u32::MAX, 0, HZ), 0);
    assert_eq!(elapsed(1, u32::MAX, HZ), 2);
    assert_eq!(elapsed(NOW, NOW + 61 * HZ, HZ), u32::MAX - 61 * HZ + 1);
}

#[test]
fn without_a_frequency_nothing_is_over() {
    let udp = unconfirmed(protocol::UDP, flow_flags::SNAT, 10_000);
    assert_eq!(udp.expired(NOW, 0, true), None);
}

fn any_half(way: Half) -> impl Strategy<Value = FlowState> {
    (0..100_000 * HZ, 0..32u8, 0..16u8).prop_map(move |(idle, flags, seen)| FlowState {
        last_seen: NOW.wrapping_sub(idle),
        half: way as u8,
        flags,
        seen,
    })
}

fn any_flow() -> impl Strategy<Value = FlowHalves> {
    (
        prop::sample::select(vec![protocol::TCP, protocol::UDP, protocol::SCTP]),
        any_half(Half::Forward),
        any_half(Half::Reverse),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(protocol, one, mut other, paired, serving)| {
            // Both halves have the same flags, except that one of them may not be confirmed yet.
            other.flags = one.flags ^ (other.flags & flow_flags::CONFIRMED);
            FlowHalves {
                protocol,
                one,
                other: paired.then_some(other),
                serving,
            }
        })
}

proptest! {
    #[test]
    fn either_half_tells_the_same(flow in any_flow(), crowded: bool) {
        if let Some(other) = flow.other {
            let swapped = FlowHalves { one: other, other: Some(flow.one), ..flow };
            prop_assert_eq!(flow.expired(NOW, HZ, crowded), swapped.expired(NOW, HZ, crowded));
        }
    }

    #[test]
    fn only_differences_of_time_count(flow in any_flow(), shift: u32, crowded: bool) {
        let shifted = |mut half: FlowState| {
            half.last_seen = half.last_seen.wrapping_add(shift);
            half
        };
        let moved = FlowHalves { one: shifted(flow.one), other: flow.other.map(shifted), ..flow };
        prop_assert_eq!(
            flow.expired(NOW, HZ, crowded),
            moved.expired(NOW.wrapping_add(shift), HZ, crowded)
        );
    }

    #[test]
    fn what_is_over_stays_over(flow in any_flow(), later in 0..1_000_000u32, crowded: bool) {
        let reason = flow.expired(NOW, HZ, crowded);
        if reason.is_some() {
            prop_assert_eq!(flow.expired(NOW + later, HZ, crowded), reason);
        }
    }

    #[test]
    fn where_one_half_says_no_nothing_is_over(flow in any_flow(), crowded: bool) {
        let one = flow.one;
        if is_kept(&one, flow.protocol, flow.serving, NOW, HZ, crowded) {
            prop_assert_eq!(flow.expired(NOW, HZ, crowded), None);
        }
    }

    #[test]
    fn less_room_never_keeps_more(flow in any_flow()) {
        let reason = flow.expired(NOW, HZ, false);
        if reason.is_some() {
            prop_assert_eq!(flow.expired(NOW, HZ, true), reason);
        }
    }
}
