//! The kernel's word that something in nftables has changed, whoever changed it (iptables-nft too).

use std::{io, time::Duration};

use futures_util::FutureExt;
use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};
use tokio::time;

/// `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const NFTABLES: u32 = 7;
/// What does not fit of a message is cut: nothing is read of it.
const ROOM: usize = 8192;
/// More messages than a socket holds.
const MOST: usize = 10_000;

/// A socket that hears of changes.
pub(super) struct Events {
    socket: TokioSocket,
}

impl Events {
    /// To be called within a tokio runtime with I/O.
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_mut().add_membership(NFTABLES)?;
        Ok(Self { socket })
    }

    /// Until something has changed, or this much time has passed.
    pub async fn wait(&self, most: Duration) {
        // An error says that events were lost, which is one, too.
        let _ = time::timeout(most, self.receive()).await;
    }

    /// Forgets what it has heard of.
    pub fn forget(&self) {
        for _ in 0..MOST {
            if self.receive().now_or_never().is_none() {
                break;
            }
        }
    }

    async fn receive(&self) -> io::Result<()> {
        let mut message = Vec::with_capacity(ROOM);
        self.socket.recv(&mut message).await
    }
}
