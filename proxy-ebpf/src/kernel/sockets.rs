//! The part of the tables that socket programs need.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_prandom_u32};
use proxy_common::{
    abi::{
        socket::{SocketBackend, SocketFrontend, SocketKey},
        target::Slot,
    },
    balance::{Draw, Found},
    tables::SocketTables,
};

use super::Kernel;
use crate::{calls, maps};

impl<C> SocketTables for Kernel<C> {
    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn socket_backend(&mut self, key: &SocketKey) -> Option<SocketBackend> {
        // SAFETY: a hash element may be reused for another socket during the copy. At worst one datagram goes
        // to another serving backend, since backend and generation are checked afterwards.
        unsafe { maps::SOCKET_BACKENDS.get(key).copied() }
    }

    #[inline(always)]
    fn put_socket_backend(&mut self, key: &SocketKey, value: &SocketBackend) {
        // An insertion into an LRU table fails only in rare races. The socket then chooses again at its next
        // datagram.
        let _ = maps::SOCKET_BACKENDS.insert(key, value, 0);
    }

    #[inline(always)]
    fn socket_frontend(&mut self, key: &SocketKey) -> Option<SocketFrontend> {
        // SAFETY: a hash element may be reused for another socket during the copy. At worst one wrong peer is
        // reported.
        unsafe { maps::SOCKET_FRONTENDS.get(key).copied() }
    }

    #[inline(always)]
    fn put_socket_frontend(&mut self, key: &SocketKey, value: &SocketFrontend) {
        let _ = maps::SOCKET_FRONTENDS.insert(key, value, 0);
    }

    #[inline(always)]
    fn remove_socket_frontend(&mut self, key: &SocketKey) {
        let _ = maps::SOCKET_FRONTENDS.remove(key);
    }

    #[inline(always)]
    fn socket_load(&mut self, cookie: u64) -> Option<Slot> {
        // SAFETY: the cookie is that of a live socket, which no other socket shares.
        unsafe { maps::SOCKET_LOADS.get(cookie).copied() }
    }

    #[inline(always)]
    fn put_socket_load(&mut self, cookie: u64, slot: Slot) -> bool {
        // If the table is full, the connection is not counted.
        maps::SOCKET_LOADS
            .insert(cookie, slot, u64::from(BPF_NOEXIST))
            .is_ok()
    }

    #[inline(always)]
    fn remove_socket_load(&mut self, cookie: u64) -> bool {
        maps::SOCKET_LOADS.remove(cookie).is_ok()
    }

    #[inline(always)]
    fn reconsider(&mut self, found: &Found, draw: Draw, chosen: Slot) -> Slot {
        Slot::from_word(calls::reconsider_slot(
            found.target,
            found.word.0,
            found.slow_start.into(),
            draw.random,
            chosen.to_word(),
        ))
    }
}
