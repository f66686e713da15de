//! What goes where, without a kernel.

use proxy_common::abi::device::{Device, DeviceClass, LinkType};

use super::*;

fn device(class: DeviceClass, link: LinkType) -> Device {
    Device {
        class: class as u8,
        link: link as u8,
        ..Device::default()
    }
}

#[test]
fn a_bridge_has_no_program_and_its_ports_have_the_pods() {
    let bridge = device(DeviceClass::Bridge, LinkType::Ethernet);
    let port = device(DeviceClass::Pod, LinkType::Ethernet);
    assert_eq!(program_for(&bridge, Direction::Ingress), None);
    assert_eq!(program_for(&bridge, Direction::Egress), None);
    assert_eq!(
        program_for(&port, Direction::Ingress),
        Some(PacketProgram::PodIngress)
    );
    assert_eq!(
        program_for(&port, Direction::Egress),
        Some(PacketProgram::Egress)
    );
}

#[test]
fn a_tunnel_without_ethernet_has_programs_that_expect_none() {
    let wireguard = device(DeviceClass::Overlay, LinkType::RawIp);
    assert_eq!(
        program_for(&wireguard, Direction::Ingress),
        Some(PacketProgram::UplinkIngressL3)
    );
    assert_eq!(
        program_for(&wireguard, Direction::Egress),
        Some(PacketProgram::EgressL3)
    );
}

#[test]
fn names_of_links_come_back() {
    for side in Direction::ALL {
        assert_eq!(parse_device_link(&device_link(42, side)), Some((42, side)));
    }
    assert_eq!(parse_device_link("cgroup-connect4"), None);
    assert_eq!(parse_device_link("dev-x-ingress"), None);
}

#[test]
fn a_link_that_cannot_be_detached_keeps_its_pin_unless_it_attaches_nothing_without() {
    let ends = |code| ends_with_its_pin(&io::Error::from_raw_os_error(code));
    assert!(ends(libc::ENOLINK) && ends(libc::EINVAL) && ends(libc::EOPNOTSUPP));
    assert!(!ends(libc::EPERM) && !ends(libc::ENOMEM) && !ends(libc::EBUSY));
}
