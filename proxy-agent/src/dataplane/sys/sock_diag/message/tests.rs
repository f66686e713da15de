use super::*;

const NLMSG_NOOP: u16 = 1;

const COOKIE: u64 = 0x1122_3344_5566_7788;

fn listed(family: u8, destination: [u8; 16]) -> Listed {
    Listed {
        family,
        state: 1,
        timer: 0,
        retransmits: 0,
        id: Id {
            source_port: U16::new(40_000),
            destination_port: U16::new(53),
            source: [7; 16],
            destination,
            interface: 3,
            cookie: [COOKIE as u32, (COOKIE >> 32) as u32],
        },
        expires: 0,
        receive_queue: 0,
        send_queue: 0,
        uid: 0,
        inode: 9,
    }
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let header = Header {
        len: (size_of::<Header>() + body.len()) as u32,
        kind,
        ..Header::default()
    };
    let mut bytes = [header.as_bytes(), body].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn v4(last: u8) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&[10, 0, 0, last]);
    octets
}

#[test]
fn a_list_asks_for_connected_sockets_only() {
    let dump = Dump::connected(Protocol::Udp, Family::V6);
    let bytes = dump.as_bytes();
    assert_eq!(bytes[..4], 72_u32.to_ne_bytes());
    assert_eq!(bytes[4..6], 20_u16.to_ne_bytes());
    assert_eq!(bytes[6..8], 0x301_u16.to_ne_bytes());
    assert_eq!(bytes[16..20], [10, 17, 0, 0]);
    assert_eq!(bytes[20..24], 2_u32.to_ne_bytes());
}

#[test]
fn an_abort_names_the_socket_that_was_listed_by_its_cookie_too() {
    let listed = listed(AF_INET, v4(1));
    let socket = Connected {
        family: listed.family,
        id: listed.id,
    };
    let destroy = Destroy::of(Protocol::Udp, &socket);
    let bytes = destroy.as_bytes();
    assert_eq!(bytes[4..6], 21_u16.to_ne_bytes());
    assert_eq!(bytes[6..8], 0x5_u16.to_ne_bytes());
    assert_eq!(bytes[16..18], [2, 17]);
    assert_eq!(&bytes[24..], listed.id.as_bytes());
    assert_eq!(bytes[64..68], 0x5566_7788_u32.to_ne_bytes());
    assert_eq!(bytes[68..], 0x1122_3344_u32.to_ne_bytes());
}

#[test]
fn sockets_of_both_families_are_read_and_so_is_the_end() {
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    let mut bytes = Vec::new();
    for (family, peer) in [(AF_INET, v4(1)), (AF_INET6, mapped)] {
        // Attributes follow.
        let body = [listed(family, peer).as_bytes(), &[8, 0, 8, 0, 1, 0, 0]].concat();
        bytes.extend(message(SOCK_DIAG_BY_FAMILY, &body));
    }
    bytes.extend(message(NLMSG_NOOP, &[]));
    bytes.extend(message(NLMSG_DONE, &0_i32.to_ne_bytes()));
    let replies: Vec<_> = replies(&bytes).collect();
    let [Reply::Socket(four), Reply::Socket(six), Reply::End(0)] = replies[..] else {
        panic!("{replies:?}");
    };
    for socket in [four, six] {
        assert_eq!(socket.peer(), Addr::v4([10, 0, 0, 1]));
        assert_eq!(socket.peer_port().get(), 53);
        assert_eq!(socket.cookie(), COOKIE);
    }
}

#[test]
fn an_error_is_told_and_what_is_cut_off_is_not_read() {
    let refused = (-libc::EOPNOTSUPP).to_ne_bytes();
    let refused = message(NLMSG_ERROR, &refused);
    let all: Vec<_> = replies(&refused).collect();
    assert_eq!(all, [Reply::End(libc::EOPNOTSUPP)]);
    let whole = message(SOCK_DIAG_BY_FAMILY, listed(AF_INET, v4(1)).as_bytes());
    assert_eq!(replies(&whole).count(), 1);
    for len in 0..whole.len() {
        assert_eq!(replies(&whole[..len]).count(), 0, "{len}");
    }
    // A length of less than the header ends it too.
    assert_eq!(replies(&[0; 32]).count(), 0);
}
