//! Captures contain what was on the wire, and their checksums are checked correctly.

use proxy_lab::{Captured, Checksum, Family, Lab, Offload, Protocol};

const PORT: u16 = 8080;

#[test]
fn checksums_are_partial_until_a_device_has_to_compute_them() {
    if proxy_lab::skipped() {
        return;
    }
    let lab = Lab::builder("capture")
        .node("worker-1")
        .node("worker-2")
        .pods("worker-1", ["a1"])
        .pods("worker-2", ["b1"])
        .up()
        .expect("comes up");
    lab.pod("b1").serve(PORT).expect("serves");

    // All veth: the sender's checksum is never computed.
    let captured = exchange(&lab);
    let partial = captured
        .frames
        .iter()
        .filter(|frame| frame.checksum == Checksum::Partial);
    assert!(partial.clone().count() > 0);
    assert!(
        partial.clone().all(|frame| frame.check_sums().is_err()),
        "they are unfinished, and seen to be"
    );

    // The sender's node has to: what arrives is finished and right.
    lab.node("worker-1")
        .offload("eth0", Offload::TxChecksum, false)
        .expect("is a veth");
    let captured = exchange(&lab);
    let incoming: Vec<_> = captured
        .frames
        .iter()
        .filter(|frame| !frame.outgoing)
        .collect();
    assert!(
        incoming
            .iter()
            .all(|frame| frame.checksum != Checksum::Partial)
    );
    assert!(captured.flawed().is_empty(), "{:?}", captured.flawed());
    for family in Family::ALL {
        let count = incoming
            .iter()
            .filter(|frame| {
                frame
                    .packet()
                    .is_some_and(|p| Family::of(p.source) == family)
            })
            .count();
        // SYN, ACK, question, FIN, ACK; and one datagram.
        assert!(count >= 5, "{family}: {count}");
    }
}

/// One exchange of each protocol and family from `a1` to `b1`, seen on `b1`'s node.
fn exchange(lab: &Lab) -> Captured {
    let (client, server) = (lab.pod("a1"), lab.pod("b1"));
    let capture = lab
        .node("worker-2")
        .capture("eth0", &[PORT])
        .expect("captures");
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            let answer = client
                .request(protocol, server.at(family, PORT))
                .expect("the client lives");
            answer.outcome.expect("the server answers");
        }
    }
    let captured = capture.stop().expect("ends");
    assert_eq!(captured.missed, 0);
    captured
}
