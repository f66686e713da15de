//! The same with sockets, where the kernel has them (`CONFIG_IP_SCTP`).

use std::io::{Error, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use proxy_lab::{Family, Host, LabError, Result, address, skipped};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{HERE, PORT, TARGET_PORT, THERE, lab, node_port, vip};

const PATIENCE: Duration = Duration::from_secs(10);

/// A one-to-one socket in a host's namespace; the kernel's error where it has none.
fn socket(host: &Host, family: Family) -> Result<std::io::Result<Socket>> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    host.netns().run(move || {
        Ok(Socket::new(
            domain,
            Type::STREAM,
            Some(Protocol::from(libc::IPPROTO_SCTP)),
        ))
    })
}

/// Whether there are no such sockets here; says so.
fn no_sockets(host: &Host) -> Result<bool> {
    let missing = |error: &Error| error.raw_os_error() == Some(libc::EPROTONOSUPPORT);
    let error = socket(host, Family::V4)?.err();
    if let Some(error) = error.as_ref().filter(|error| missing(error)) {
        eprintln!("skipped: this kernel has no SCTP sockets (CONFIG_IP_SCTP): {error}");
        return Ok(true);
    }
    error.map_or(Ok(false), |error| panic!("no socket: {error}"))
}

/// Answers each association with the address that it came from.
fn serve(host: &Host, family: Family) -> Result<()> {
    let listener = socket(host, family)?.expect("a socket");
    let at = host.at(family, TARGET_PORT);
    let action = || format!("listening on {at} of {}", host.name());
    let ready = listener.bind(&at.into()).and_then(|()| listener.listen(8));
    ready.map_err(LabError::kernel(action()))?;
    thread::spawn(move || {
        while let Ok((mut peer, from)) = listener.accept() {
            let from = from.as_socket().map(|from| from.to_string());
            // A client that went away is no reason to end.
            let _ = peer.write_all(from.unwrap_or_default().as_bytes());
        }
    });
    Ok(())
}

/// Whom the backend behind `to` says that it sees.
fn ask(host: &Host, to: SocketAddr) -> Result<std::io::Result<SocketAddr>> {
    let family = Family::of(to.ip());
    let mut client = socket(host, family)?.expect("a socket");
    let mut ask = || {
        client.set_read_timeout(Some(PATIENCE))?;
        client.connect_timeout(&to.into(), PATIENCE)?;
        let mut answer = [0; 64];
        let len = client.read(&mut answer)?;
        let text = std::str::from_utf8(&answer[..len]).map_err(Error::other)?;
        text.parse()
            .map_err(|_| Error::new(ErrorKind::InvalidData, text.to_owned()))
    };
    Ok(ask())
}

#[test]
fn p1_sockets_of_a_pod_and_of_the_outside_reach_backends() -> Result<()> {
    if skipped() {
        return Ok(());
    }
    let (lab, _agent) = lab("sctpsock", "off")?;
    let (node, pod, outside) = (lab.node("worker-1"), lab.pod("client"), lab.workstation());
    if no_sockets(pod)? {
        return Ok(());
    }
    for family in Family::ALL {
        for name in ["here", "there"] {
            serve(lab.pod(name), family)?;
        }
        for number in [HERE, THERE] {
            let from = ask(pod, vip(number, family))?.expect("an answer to the pod");
            assert_eq!(from.ip(), pod.ip(family));
            for to in [
                node.at(family, node_port(number)),
                (address::load_balancer(number).of(family), PORT).into(),
            ] {
                let from = ask(outside, to)?.expect("an answer to the outside");
                let expected = if number == HERE {
                    outside.ip(family)
                } else {
                    node.ip(family)
                };
                assert_eq!(from.ip(), expected, "{to}");
            }
        }
    }
    Ok(())
}
