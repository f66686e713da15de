//! Devices and addresses that come and go while traffic runs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use proxy_lab::{
    Cni, Family, Host, Lab, Overlay, Protocol, Result, TcpRequest, UdpRequest, address, eventually,
    skipped,
};

use crate::{PORT, lab, node_port, start};

/// A change is followed within milliseconds; so much is left to a machine that is busy.
const FOLLOWED: Duration = Duration::from_secs(3);

/// Whether a server answers, over both protocols, before a second SYN would be sent.
fn answers(client: &Host, to: SocketAddr, server: &str) -> Result<bool> {
    let timeout = Duration::from_millis(200);
    for protocol in Protocol::ALL {
        let exchanges = match protocol {
            Protocol::Tcp => client.tcp_all(TcpRequest::to(to).timeout(timeout))?,
            Protocol::Udp => client.udp_all(UdpRequest::to(to).timeout(timeout))?,
        };
        if exchanges[0].server() != Some(server) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn come(what: &str, client: &Host, ways: &[SocketAddr], server: &str) -> Result<()> {
    let since = Instant::now();
    for &to in ways {
        eventually(
            &format!("{what}: {} reaches {to}", client.name()),
            FOLLOWED,
            || answers(client, to, server),
        )?;
    }
    eprintln!("{what}: served after {:?}", since.elapsed());
    Ok(())
}

fn cluster_ips(number: u16) -> [SocketAddr; 2] {
    Family::ALL.map(|family| (address::cluster_ip(number).of(family), PORT).into())
}

fn node_ports(lab: &Lab, number: u16) -> [SocketAddr; 2] {
    Family::ALL.map(|family| lab.node("worker-1").at(family, node_port(number)))
}

/// A pod that no socket hook sees is served on a device that was not there before, and as a backend behind one.
#[test]
fn a_pods_device_that_is_new_is_served() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    for (label, cni) in [("newptp", Cni::PtpSubnet), ("newbr", Cni::BRIDGE)] {
        let lab = lab(label, cni, Overlay::Direct)?;
        let _agents = start(&lab)?;
        for _ in 0..3 {
            lab.replug(lab.pod("packets"))?;
            come(
                "a client's device",
                lab.pod("packets"),
                &cluster_ips(2),
                "elsewhere",
            )?;
            lab.replug(lab.pod("here"))?;
            come(
                "a backend's device",
                lab.workstation(),
                &node_ports(&lab, 1),
                "here",
            )?;
        }
    }
    Ok(())
}

/// S4: node ports answer on an address as long as the node has it.
#[test]
fn s4_node_ports_follow_the_addresses_of_an_uplink() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("addresses", Cni::Ptp, Overlay::Direct)?;
    let _agents = start(&lab)?;
    let (node, outside) = (lab.node("worker-1"), lab.workstation());
    for (ip, prefix) in [("172.30.0.77", 24), ("fd00:30::77", 64)] {
        let address = format!("{ip}/{prefix}");
        let change = |verb: &str| {
            let nodad = if prefix == 64 { "nodad" } else { "scope" };
            let rest: &[&str] = if prefix == 64 {
                &[nodad]
            } else {
                &[nodad, "global"]
            };
            let words = [&["ip", "address", verb, &address, "dev", "eth0"], rest].concat();
            node.exec(words).map(drop)
        };
        for number in [1, 2] {
            let to = SocketAddr::new(ip.parse().expect("an address"), node_port(number));
            let server = if number == 1 { "here" } else { "elsewhere" };
            change("add")?;
            come("an address", outside, &[to], server)?;
            change("del")?;
            eventually("the address is gone", FOLLOWED, || {
                Ok(!answers(outside, to, server)?)
            })?;
        }
    }
    Ok(())
}

/// The vxlan device goes and comes again, with another number, while a client of other pods keeps asking.
#[test]
fn an_overlay_that_is_made_anew_is_served() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let lab = lab("newvxlan", Cni::BRIDGE, Overlay::Vxlan)?;
    let _agents = start(&lab)?;
    let outside = lab.workstation();
    come("at first", outside, &node_ports(&lab, 2), "elsewhere")?;
    for _ in 0..2 {
        lab.remake_overlay(lab.node("worker-1"))?;
        come("an overlay", outside, &node_ports(&lab, 2), "elsewhere")?;
        come(
            "an overlay",
            lab.pod("packets"),
            &cluster_ips(2),
            "elsewhere",
        )?;
    }
    Ok(())
}
