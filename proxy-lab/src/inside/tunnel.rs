//! Packets of a tun device, in UDP.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use super::spawn;
use crate::protocol::Tunnel;
use crate::tun;

/// More than any device's MTU here.
const LARGEST: usize = 2048;

/// Starts the threads that forward packets.
pub(super) fn start(tunnel: Tunnel) -> std::io::Result<()> {
    let device = Arc::new(tun::open(&tunnel.device)?);
    let socket = Arc::new(UdpSocket::bind(tunnel.bind)?);
    let (to, from) = (Arc::clone(&device), Arc::clone(&socket));
    spawn(move || inward(&from, &to))?;
    spawn(move || outward(&device, &socket, &tunnel.peers))?;
    Ok(())
}

/// A packet that can't be carried is lost, as on any network.
fn inward(socket: &UdpSocket, mut device: &File) {
    let mut packet = [0; LARGEST];
    loop {
        if let Ok(length) = socket.recv(&mut packet) {
            let _ = device.write(&packet[..length]);
        }
    }
}

fn outward(mut device: &File, socket: &UdpSocket, peers: &[(Ipv4Addr, Ipv6Addr, SocketAddr)]) {
    let mut packet = [0; LARGEST];
    // An error means that the device was removed.
    while let Ok(length) = device.read(&mut packet) {
        let packet = &packet[..length];
        let peer = destination(packet).and_then(|to| peers.iter().find(|peer| behind(peer, to)));
        if let Some((_, _, at)) = peer {
            let _ = socket.send_to(packet, at);
        }
    }
}

/// Where an IP packet goes.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(16..20)?)
            .ok()
            .map(IpAddr::from),
        6 => <[u8; 16]>::try_from(packet.get(24..40)?)
            .ok()
            .map(IpAddr::from),
        _ => None,
    }
}

fn behind((v4, v6, _): &(Ipv4Addr, Ipv6Addr, SocketAddr), to: IpAddr) -> bool {
    match to {
        IpAddr::V4(to) => to.octets()[..3] == v4.octets()[..3],
        IpAddr::V6(to) => to.octets()[..8] == v6.octets()[..8],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_goes_where_its_destination_is() {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[10, 244, 2, 10]);
        assert_eq!(destination(&packet), "10.244.2.10".parse().ok());
        packet[0] = 0x60;
        packet[24] = 0xfd;
        assert_eq!(destination(&packet), "fd00::".parse().ok());
        assert_eq!(destination(&packet[..39]), None);
        assert_eq!(destination(&[]), None);
        let peer = (
            "10.244.2.0".parse().unwrap(),
            "fd00:10:244:2::".parse().unwrap(),
            "172.30.0.12:1".parse().unwrap(),
        );
        assert!(behind(&peer, "10.244.2.10".parse().unwrap()));
        assert!(!behind(&peer, "10.244.1.10".parse().unwrap()));
        assert!(behind(&peer, "fd00:10:244:2::10".parse().unwrap()));
        assert!(!behind(&peer, "fd00:10:244:1::10".parse().unwrap()));
    }
}
