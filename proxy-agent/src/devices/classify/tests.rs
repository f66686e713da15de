//! The rule on the shapes of networks that are met.

mod shape;

use self::shape::Shape;
use super::{DeviceConfig, DeviceConfigError, DeviceProblem};

/// Nothing is named, and nothing is wrong.
fn auto(table: &str) {
    assert_eq!(Shape::new(table).check(&[]).problems, []);
}

#[test]
fn every_device_with_an_address_is_an_uplink() {
    auto(
        "lo    loopback  127.0.0.1/8 10.9.9.9/32   -> nothing
         eth0  hardware  192.0.2.1/24 default      -> uplink
         eth1  hardware  198.51.100.1/24           -> uplink
         eth2  hardware  2001:db8::1/64            -> uplink
         eth3  hardware                            -> nothing
         eth4  hardware  default                   -> uplink
         dummy dummy     169.254.20.10/32          -> uplink
         host  veth      10.0.0.1/32               -> uplink
         net   veth                                -> nothing",
    );
}

/// Pods by routes to their veths, which have the gateway's address (kindnet, ptp) or none (Calico).
#[test]
fn pods_of_kindnet_and_calico() {
    auto(
        "lo      loopback                              -> nothing
         eth0    hardware 192.0.2.1/24 default         -> uplink
         veth1   veth far 10.244.0.1/32                -> pod
         veth2   veth far 10.244.0.1/32 fd00::1/128    -> pod
         cali1   veth far                              -> pod
         cali2   veth far down                         -> nothing
         lxc1    netkit far                            -> pod
         tap1    tap                                   -> pod
         tunl0   ipip down                             -> nothing",
    );
}

/// A kind node is a container itself: its own uplink is a veth with the other end elsewhere.
#[test]
fn a_kind_nodes_uplink_is_a_veth() {
    auto(
        "lo      loopback                              -> nothing
         eth0    veth far 172.18.0.2/16 default        -> uplink
         eth1    veth far 172.19.0.2/16                -> uplink
         eth2    veth far 10.0.0.2/32 default6         -> uplink
         veth1   veth far 10.244.0.1/32                -> pod",
    );
}

/// The gateway's address with the subnet of all pods, on every pod's veth.
#[test]
fn pods_behind_veths_with_a_subnet() {
    auto(
        "eth0    hardware 192.0.2.1/24 default         -> uplink
         eth1    veth far 172.19.0.2/16                -> uplink
         veth1   veth far 10.244.0.1/24 hosts          -> pod
         tap1    tap 10.245.0.1/30 hosts               -> pod",
    );
    auto(
        "eth0    veth far 172.18.0.2/16 default hosts  -> uplink
         eth1    hardware 10.9.0.1/24                  -> uplink
         eth2    veth far 10.9.0.1/24                  -> uplink
         veth1   veth far 10.244.0.1/24                -> pod
         veth2   veth far fd00::1/64 10.244.0.1/24     -> pod",
    );
}

#[test]
fn bridges_of_pods_and_containers() {
    auto(
        "eth0    hardware 192.0.2.1/24 default         -> uplink
         cni0    bridge   10.244.0.1/24                -> bridge
         veth1   veth far in=cni0                      -> pod of cni0
         veth2   veth far in=cni0 down                 -> nothing
         vm1     tap in=cni0                           -> pod of cni0
         veth3   veth in=cni0                          -> pod of cni0
         docker0 bridge   172.17.0.1/16                -> bridge
         br-kind bridge   172.18.0.1/16 down           -> nothing
         virbr0  bridge                                -> bridge",
    );
}

#[test]
fn a_bridge_that_leads_out_is_an_uplink_and_its_ports_are_left_to_it() {
    auto(
        "br0     bridge   192.0.2.1/24 default         -> uplink
         eth0    hardware in=br0                       -> nothing
         vm1     tap in=br0                            -> nothing
         veth1   veth far in=br0                       -> nothing
         br1     bridge                                -> nothing
         eth1    hardware in=br1                       -> nothing
         br2     bridge   198.51.100.1/24              -> uplink
         eth2    hardware in=br2 down                  -> nothing
         br3     bridge   10.0.1.1/24                  -> uplink
         vx0     vxlan    in=br3                       -> nothing
         veth2   veth far in=br3                       -> nothing",
    );
    // By its route, although its ports look like pods.
    auto(
        "br0     bridge   172.18.0.2/16 default        -> uplink
         veth1   veth far in=br0                       -> nothing",
    );
}

#[test]
fn flannel_over_vxlan() {
    auto(
        "eth0      hardware 192.0.2.1/24 default       -> uplink
         flannel.1 vxlan    10.244.1.0/32              -> overlay
         cni0      bridge   10.244.1.1/24              -> bridge
         veth1     veth far in=cni0                    -> pod of cni0",
    );
}

#[test]
fn tunnels_are_overlays_with_an_ethernet_header_or_without() {
    auto(
        "genev_sys geneve                              -> overlay
         gretap0   gretap    10.0.0.1/24               -> overlay
         wg0       wireguard 10.1.0.1/24               -> overlay, raw
         tun0      tun       10.8.0.2/24               -> overlay, raw
         tun1      tun                                 -> overlay, raw
         tunl0     ipip      10.244.1.0/32             -> overlay, raw
         sit0      sit                                 -> overlay, raw
         gre0      gre                                 -> overlay, raw
         tap0      tap       10.9.0.2/24               -> uplink
         ppp0      ppp       203.0.113.9/32 default    -> uplink, raw",
    );
}

#[test]
fn members_are_left_to_their_bond_or_team_but_not_to_a_vrf() {
    auto(
        "bond0     bond      192.0.2.1/24 default      -> uplink
         eth0      hardware  in=bond0                  -> nothing
         eth1      hardware  in=bond0 198.51.100.1/24  -> nothing
         team0     team      203.0.113.1/24            -> uplink
         eth2      hardware  in=team0                  -> nothing
         red       vrf       10.3.0.1/32               -> nothing
         eth3      hardware  in=red 10.3.1.1/24        -> uplink
         ovs       openvswitch                         -> nothing
         eth4      hardware  in=ovs                    -> nothing
         br-ex     openvswitch 10.4.0.1/24             -> uplink
         veth1     veth far  in=ovs                    -> pod",
    );
}

#[test]
fn a_vlan_is_a_device_of_its_own() {
    auto(
        "eth0      hardware                            -> nothing
         eth0.10   vlan      192.0.2.1/24 default      -> uplink
         eth1      hardware  198.51.100.1/24           -> uplink
         eth1.20   vlan      203.0.113.1/24            -> uplink
         bond0     bond                                -> nothing
         eth2      hardware  in=bond0                  -> nothing
         bond0.30  vlan      10.30.0.1/24              -> uplink
         eth1.40   vlan                                -> nothing
         br40      bridge    10.40.0.1/24              -> uplink
         eth1.41   vlan      in=br40                   -> nothing
         mac0      macvlan   198.51.100.2/24           -> uplink",
    );
}

#[test]
fn nothing_is_done_to_what_is_down() {
    auto(
        "eth0      hardware  192.0.2.1/24 default down -> nothing
         cni0      bridge    10.244.0.1/24 down        -> nothing
         flannel.1 vxlan     10.244.1.0/32 down        -> nothing
         cali1     veth far  down                      -> nothing",
    );
}

#[test]
fn a_link_layer_that_is_unknown_is_told() {
    let shape = Shape::new(
        "ib0       hardware  192.0.2.1/24 default arphrd=32  -> nothing
         ib1       hardware  arphrd=32                       -> nothing
         rmnet0    hardware  10.0.0.1/30 arphrd=519          -> uplink, raw",
    );
    let problem = DeviceProblem::LinkLayer {
        name: "ib0".to_owned(),
        layer: 32,
    };
    assert_eq!(shape.check(&[]).problems, [problem]);
}

#[test]
fn named_devices_are_the_only_uplinks_and_pods_and_overlays_stay() {
    let shape = Shape::new(
        "lo        loopback                            -> nothing
         eth0      veth far  172.18.0.2/16 default     -> nothing
         eth1      hardware  192.0.2.1/24              -> nothing
         eth2      hardware                            -> uplink
         wg0       wireguard 10.1.0.1/24               -> uplink, raw
         bond0     bond      198.51.100.1/24           -> nothing
         eth3      hardware  in=bond0                  -> uplink
         flannel.1 vxlan     10.244.1.0/32             -> overlay
         cni0      bridge    10.244.1.1/24             -> bridge
         veth1     veth far  in=cni0                   -> pod of cni0
         cali1     veth far                            -> pod
         cali2     veth far                            -> uplink",
    );
    let classes = shape.check(&["eth2", "wg0", "eth3", "cali2"]);
    assert_eq!(classes.problems, []);
}

#[test]
fn naming_a_bridge_or_a_port_of_it_says_that_it_leads_out() {
    let table = |bridge, port| {
        let table = format!(
            "cni0  bridge   10.244.1.1/24 -> {bridge}
             veth1 veth far in=cni0       -> {port}
             veth2 veth far in=cni0       -> nothing"
        );
        Shape::new(&table)
    };
    table("uplink", "nothing").check(&["cni0"]);
    table("nothing", "uplink").check(&["veth1"]);
}

#[test]
fn names_that_cannot_be_served_are_told_once() {
    let shape = Shape::new(
        "lo    loopback                            -> nothing
         eth0  hardware 192.0.2.1/24 default down  -> nothing
         eth1  hardware 192.0.2.2/24               -> uplink",
    );
    let classes = shape.check(&["lo", "eth9", "eth0", "eth9", "eth1"]);
    let problems = [
        DeviceProblem::Missing("eth9".to_owned()),
        DeviceProblem::Down("eth0".to_owned()),
        DeviceProblem::Loopback("lo".to_owned()),
    ];
    assert_eq!(classes.problems, problems);
}

#[test]
fn values_of_the_flag() {
    let parse = |values: &[&str]| {
        let values: Vec<_> = values.iter().map(|&value| value.to_owned()).collect();
        DeviceConfig::parse(&values)
    };
    assert_eq!(parse(&[]), Ok(DeviceConfig::default()));
    assert_eq!(parse(&["auto"]), Ok(DeviceConfig::default()));
    let names = Some(vec!["eth0".to_owned(), "eth1".to_owned()]);
    assert_eq!(
        parse(&["eth0", " eth1"]),
        Ok(DeviceConfig { uplinks: names })
    );
    assert_eq!(parse(&["eth0", "auto"]), Err(DeviceConfigError::Mixed));
    for name in ["", "a/b", "sixteen-letters-"] {
        let error = DeviceConfigError::Name(name.to_owned());
        assert_eq!(parse(&[name]), Err(error));
    }
}

/// Compares source addresses, all devices of the shape in the order of their names.
fn sources(table: &str, expected: &[(&str, &str, &str)]) {
    let found = Shape::new(table).sources();
    let found: Vec<_> = found
        .iter()
        .map(|(name, (v4, v6))| (name.as_str(), v4.as_str(), v6.as_str()))
        .collect();
    assert_eq!(found, expected);
}

/// The first of a subnet, as MASQUERADE mostly has it; an address alone in its prefix, a virtual IP, may move away.
#[test]
fn what_leaves_by_a_device_has_that_devices_first_address() {
    sources(
        "eth0  hardware 192.0.2.9/32 192.0.2.1/24 192.0.2.2/24,secondary default default6  -> uplink
         eth1  hardware 198.51.100.9/32 2001:db8::9/128                                     -> uplink
         eth2  hardware 2001:db8::5/64,secondary 2001:db8::6/64,deprecated 2001:db8::7/64   -> uplink
         eth3  hardware 127.0.0.9/8 203.0.113.1/24,secondary                                -> uplink",
        &[
            ("eth0", "192.0.2.1", "2001:db8::9"),
            ("eth1", "198.51.100.9", "2001:db8::9"),
            ("eth2", "192.0.2.1", "2001:db8::7"),
            ("eth3", "203.0.113.1", "2001:db8::9"),
        ],
    );
}

#[test]
fn what_leaves_by_a_port_has_its_bridges_address() {
    sources(
        "eth0  hardware 192.0.2.1/24 default        -> uplink
         cni0  bridge   10.244.0.1/24 fd00::1/64    -> bridge
         veth1 veth far in=cni0                     -> pod of cni0
         veth2 veth far in=cni0 10.9.9.9/32         -> pod of cni0
         cali1 veth far                             -> pod
         kind1 veth far 10.244.0.1/32               -> pod",
        &[
            ("cali1", "192.0.2.1", "-"),
            ("cni0", "10.244.0.1", "fd00::1"),
            ("eth0", "192.0.2.1", "-"),
            ("kind1", "10.244.0.1", "-"),
            ("veth1", "10.244.0.1", "fd00::1"),
            ("veth2", "10.9.9.9", "fd00::1"),
        ],
    );
}

#[test]
fn a_device_without_addresses_takes_those_of_the_best_way_out() {
    // The metric decides; a route's preferred source goes before the addresses of its device.
    sources(
        "eth0  hardware 192.0.2.1/24 default=200                               -> uplink
         eth1  hardware 198.51.100.1/24 198.51.100.2/24,secondary default=100,198.51.100.2 -> uplink
         wg0   wireguard                                                       -> overlay, raw",
        &[
            ("eth0", "192.0.2.1", "-"),
            ("eth1", "198.51.100.1", "-"),
            ("wg0", "198.51.100.2", "-"),
        ],
    );
    // No default route: an uplink, by ifindex. The families are apart. The tunnel's own address is its own.
    sources(
        "wg0   wireguard 10.1.0.1/24       -> overlay, raw
         eth0  hardware  2001:db8::1/64    -> uplink
         eth1  hardware  192.0.2.1/24      -> uplink
         cali1 veth far                    -> pod",
        &[
            ("cali1", "192.0.2.1", "2001:db8::1"),
            ("eth0", "192.0.2.1", "2001:db8::1"),
            ("eth1", "192.0.2.1", "2001:db8::1"),
            ("wg0", "10.1.0.1", "2001:db8::1"),
        ],
    );
    // Unnumbered (BGP on the host): the loopback's.
    sources(
        "lo    loopback 127.0.0.1/8 ::1/128 10.9.9.9/32   -> nothing
         eth0  hardware default default6                 -> uplink",
        &[("eth0", "10.9.9.9", "-")],
    );
}
