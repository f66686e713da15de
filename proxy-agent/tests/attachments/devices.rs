//! Programs on devices.

use std::fs;

use proxy_agent::dataplane::{
    attach::{Direction, TcMode},
    audit::Kind,
    sys::{
        link::{self, AttachType, Order},
        object::{self, LinkInfo, ProgramInfo},
    },
    xdp::{Uplinks, XdpMode, program_on},
};
use proxy_common::abi::device::DeviceClass;

use crate::{
    fixture::{ifindex, pods, port, repairs, stranger, tc, with},
    namespace::ip,
};

/// The programs of a tcx chain.
fn chain(ifindex: u32, side: AttachType) -> Vec<u32> {
    let chain = link::tcx_chain(ifindex, side).unwrap();
    chain.iter().map(|entry| entry.program).collect()
}

fn info(link: impl std::os::fd::AsFd) -> LinkInfo {
    object::info(link).unwrap()
}

#[test]
fn tcx_links_are_put_back_whatever_became_of_them() {
    with("tcx", |fixture| {
        let ports = pods(2);
        let p0 = ifindex("p0");
        let mut attachments = fixture.attachments(TcMode::Tcx);
        assert_eq!(repairs(&attachments.reconcile(&ports)), [], "all is new");
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
        let ingress = format!("dev-{p0}-ingress");
        let before = chain(p0, AttachType::TcxIngress);
        assert_eq!(before.len(), 1);

        // Detached, while its pin stays.
        link::detach(fixture.link(&ingress)).unwrap();
        link::detach(fixture.link(&format!("dev-{p0}-egress"))).unwrap();
        assert!(chain(p0, AttachType::TcxIngress).is_empty());
        let expected = [(Kind::Tcx, "egress of p0"), (Kind::Tcx, "ingress of p0")];
        assert_eq!(repairs(&attachments.reconcile(&ports)), expected);
        assert_eq!(chain(p0, AttachType::TcxIngress), before);
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);

        // Another program in the same link.
        link::update(fixture.link(&ingress), stranger()).unwrap();
        assert_ne!(chain(p0, AttachType::TcxIngress), before);
        let findings = attachments.reconcile(&ports);
        assert_eq!(repairs(&findings), [(Kind::Tcx, "ingress of p0")]);
        assert_eq!(chain(p0, AttachType::TcxIngress), before);

        // Without its pin the link goes on, and is pinned again.
        let id = info(fixture.link(&ingress)).id;
        fs::remove_file(fixture.pins.link(&ingress)).unwrap();
        assert_eq!(chain(p0, AttachType::TcxIngress), before);
        let expected = [(Kind::LinkPin, ingress.as_str())];
        assert_eq!(repairs(&attachments.reconcile(&ports)), expected);
        assert_eq!(info(fixture.link(&ingress)).id, id);

        // Another link under that name.
        fs::remove_file(fixture.pins.link(&ingress)).unwrap();
        let q0 = ifindex("q0");
        let other = link::attach_tcx(stranger(), q0, AttachType::TcxIngress, Order::First);
        object::pin(other.unwrap(), &fixture.pins.link(&ingress)).unwrap();
        assert_eq!(repairs(&attachments.reconcile(&ports)), expected);
        assert_eq!(info(fixture.link(&ingress)).id, id);
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
    });
}

#[test]
fn a_program_that_was_put_before_ours_stays_and_is_told() {
    with("displaced", |fixture| {
        let ports = pods(1);
        let p0 = ifindex("p0");
        let mut attachments = fixture.attachments(TcMode::Tcx);
        assert!(attachments.reconcile(&ports).displaced.is_empty());
        let before = chain(p0, AttachType::TcxIngress);
        let other = link::attach_tcx(stranger(), p0, AttachType::TcxIngress, Order::First);
        let behind = link::attach_tcx(stranger(), p0, AttachType::TcxEgress, Order::Last);
        let findings = attachments.reconcile(&ports);
        assert_eq!(findings.displaced, ["egress of p0", "ingress of p0"]);
        assert_eq!(repairs(&findings), []);
        assert_eq!(chain(p0, AttachType::TcxIngress).len(), 2);
        drop((other, behind));
        assert!(attachments.reconcile(&ports).displaced.is_empty());
        assert_eq!(chain(p0, AttachType::TcxIngress), before);
    });
}

/// The kernel takes some 60 programs at a side (`BPF_MPROG_MAX`).
#[test]
fn a_device_that_got_half_of_its_programs_gets_the_rest_without_an_event() {
    with("half", |fixture| {
        let ports = pods(1);
        let p0 = ifindex("p0");
        let attach = || link::attach_tcx(stranger(), p0, AttachType::TcxIngress, Order::Last);
        let mut full: Vec<_> = std::iter::from_fn(|| attach().ok()).take(100).collect();
        assert!(full.len() < 100, "the chain has an end");
        let mut attachments = fixture.attachments(TcMode::Tcx);
        let findings = attachments.reconcile(&ports);
        let failed: Vec<_> = findings.failures.iter().map(|f| &f.what).collect();
        assert_eq!(failed, ["ingress of p0"], "{findings:?}");
        assert_eq!(chain(p0, AttachType::TcxEgress).len(), 1);

        full.pop();
        // It had not been there: nothing was repaired.
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
        assert_eq!(chain(p0, AttachType::TcxIngress).len(), full.len() + 1);
    });
}

/// Devices go at any time, and the event comes a little later.
#[test]
fn a_device_that_is_gone_is_no_failure() {
    for mode in [TcMode::Tcx, TcMode::Clsact] {
        with("gone", |fixture| {
            let mut ports = pods(2);
            let mut attachments = fixture.attachments(mode);
            assert_eq!(repairs(&attachments.reconcile(&ports)), []);
            let p0 = ifindex("p0");
            ip("link del p0");
            assert_eq!(repairs(&attachments.reconcile(&ports)), []);
            ports.remove(&p0);
            assert_eq!(repairs(&attachments.reconcile(&ports)), []);
            let names = fixture.pins.link_names().unwrap();
            let of_gone = format!("dev-{p0}-");
            assert!(
                !names.iter().any(|name| name.starts_with(&of_gone)),
                "{names:?}"
            );
        });
    }
}

/// Names and programs of the filters on a side of a device, as tc(8) shows them.
fn filters(device: &str, side: Direction) -> String {
    let arguments = ["filter", "show", "dev", device, side.label()];
    let output = std::process::Command::new("tc").args(arguments).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn filters_of_a_clsact_qdisc_are_put_back() {
    with("clsact", |fixture| {
        let ports = pods(2);
        let mut attachments = fixture.attachments(TcMode::Clsact);
        assert_eq!(repairs(&attachments.reconcile(&ports)), [], "all is new");
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
        let ours = |side| filters("p0", side).contains("kube-proxy-ebpf/");
        assert!(ours(Direction::Ingress) && ours(Direction::Egress));
        let both = [
            (Kind::Clsact, "egress of p0"),
            (Kind::Clsact, "ingress of p0"),
        ];

        tc("qdisc del dev p0 clsact");
        assert!(!ours(Direction::Ingress));
        assert_eq!(repairs(&attachments.reconcile(&ports)), both);
        assert!(ours(Direction::Ingress) && ours(Direction::Egress));

        tc("filter del dev p0 egress");
        assert_eq!(repairs(&attachments.reconcile(&ports)), both[..1]);
        assert!(ours(Direction::Egress));

        // Somebody's program under our priority and number, which is theirs then; and under our name, which is not.
        let pin = fixture.pins.base().join("stranger");
        let stranger = stranger();
        object::pin(&stranger, &pin).unwrap();
        let number = object::info::<ProgramInfo>(&stranger).unwrap().id;
        let theirs = |side| filters("p0", side).contains(&format!(" id {number} "));
        let replace = "filter replace dev p0 ingress prio 1 handle 0x6b70 bpf da pinned";
        tc(&format!("{replace} {}", pin.display()));
        assert!(!ours(Direction::Ingress));
        assert_eq!(repairs(&attachments.reconcile(&ports)), both[1..]);
        assert!(ours(Direction::Ingress) && theirs(Direction::Ingress));
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
    });
}

#[test]
fn xdp_is_put_back() {
    with("xdp", |fixture| {
        pods(1);
        let p0 = ifindex("p0");
        let ports = [(p0, port(p0, DeviceClass::Uplink))].into();
        let mut programs = fixture.programs();
        let mut uplinks = Uplinks::new(fixture.pins.clone(), XdpMode::Generic);
        assert_eq!(repairs(&uplinks.reconcile(&mut programs, &ports)), []);
        let before = program_on(p0).unwrap();
        assert!(before.is_some());
        let name = format!("xdp-{p0}-generic");

        link::detach(fixture.link(&name)).unwrap();
        assert_eq!(program_on(p0).unwrap(), None);
        let expected = [(Kind::Xdp, "p0")];
        assert_eq!(repairs(&uplinks.reconcile(&mut programs, &ports)), expected);
        assert_eq!(program_on(p0).unwrap(), before);

        fs::remove_file(fixture.pins.link(&name)).unwrap();
        assert_eq!(program_on(p0).unwrap(), before);
        let expected = [(Kind::LinkPin, name.as_str())];
        assert_eq!(repairs(&uplinks.reconcile(&mut programs, &ports)), expected);
        assert_eq!(repairs(&uplinks.reconcile(&mut programs, &ports)), []);
        // Not wanted any more, and its pin gone too: it goes.
        fs::remove_file(fixture.pins.link(&name)).unwrap();
        assert_eq!(repairs(&uplinks.reconcile(&mut programs, &[].into())), []);
        assert_eq!(program_on(p0).unwrap(), None);
    });
}
