//! Maps and helpers as `Tables`: all access to shared memory. This module has the part that every program
//! needs.

mod flow;
mod packets;
mod sockets;

use core::{arch::asm, ptr};

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    maps::lpm_trie,
};
use proxy_common::{
    abi::{
        affinity::{AffinityKey, AffinityValue},
        counter::Counter,
        frontend::{FrontendKey, FrontendValue},
        load::Load,
        settings::Settings,
        target::{Backend, BackendWord, RangeKey, Slot, Target, TargetWord},
    },
    addr::Addr,
    tables::Tables,
};

use crate::maps;

/// The kernel's implementation of `Tables`, for a program with the context `C`.
pub struct Kernel<C>(pub *mut C);

impl<C> Tables for Kernel<C> {
    #[inline(always)]
    fn now(&mut self) -> u32 {
        // SAFETY: a helper without arguments.
        unsafe { bpf_jiffies64() as u32 }
    }

    #[inline(always)]
    fn monotonic(&mut self) -> u64 {
        // SAFETY: as above.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn settings(&mut self) -> Settings {
        maps::SETTINGS.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn frontend(&mut self, key: &FrontendKey) -> Option<FrontendValue> {
        let value = maps::FRONTENDS.get_ptr(key)?;
        // SAFETY: the pointer is to a live element. It is one aligned word, so a single read is never torn.
        Some(FrontendValue(unsafe {
            ptr::read_volatile(value.cast::<u64>())
        }))
    }

    #[inline(always)]
    fn target(&mut self, id: u32) -> Option<Target> {
        let p = maps::TARGETS.get_ptr(id)?;
        // SAFETY: the pointer is to an array element, which lives as long as the map. The word is read once.
        unsafe {
            Some(Target {
                word: TargetWord(ptr::read_volatile(&raw const (*p).word.0)),
                affinity_seconds: ptr::read_volatile(&raw const (*p).affinity_seconds),
                ranges: ptr::read_volatile(&raw const (*p).ranges),
                slow_start: ptr::read_volatile(&raw const (*p).slow_start),
                ..*p
            })
        }
    }

    #[inline(always)]
    fn slot(&mut self, index: u32) -> Option<Slot> {
        let p = maps::SLOTS.get_ptr(index)?;
        // SAFETY: as above; a slot is one aligned word.
        let word = unsafe { ptr::read_volatile(p.cast::<u64>()) };
        Some(Slot::from_word(word))
    }

    #[inline(always)]
    fn backend(&mut self, id: u32) -> Option<Backend> {
        let p = maps::BACKENDS.get_ptr(id)?;
        // SAFETY: as above. Only `word`, `weight` and `since` change while an id is in use.
        unsafe {
            Some(Backend {
                word: BackendWord(ptr::read_volatile(&raw const (*p).word.0)),
                since: ptr::read_volatile(&raw const (*p).since),
                ..*p
            })
        }
    }

    #[inline(always)]
    fn in_ranges(&mut self, key: &RangeKey) -> bool {
        let a = key.addr.words();
        let key = lpm_trie::Key::new(key.prefix_len, [key.set, a[0], a[1], a[2], a[3]]);
        maps::SOURCE_RANGES.get(key).is_some()
    }

    #[inline(always)]
    fn node_addr(&mut self, addr: &Addr) -> Option<u32> {
        // SAFETY: the element is a single aligned word.
        maps::NODE_ADDRS
            .get_ptr(addr)
            .map(|p| unsafe { ptr::read_volatile(p) })
    }

    #[inline(always)]
    fn affinity(&mut self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: a hash element may be reused for another client during the copy. At worst this client gets
        // another backend, since backend, generation and list are checked afterwards.
        unsafe { maps::AFFINITY.get(key).copied() }
    }

    #[inline(always)]
    fn put_affinity(&mut self, key: &AffinityKey, value: &AffinityValue) {
        // An insertion into an LRU table fails only in rare races. The client's next connection then chooses
        // again.
        let _ = maps::AFFINITY.insert(key, value, 0);
    }

    #[inline(always)]
    fn turn(&mut self, target: u32) -> u32 {
        let Some(p) = maps::TURNS.get_ptr_mut(target) else {
            return 0;
        };
        // SAFETY: the pointer is to an array element, one aligned word. If two CPUs take the same turn, one
        // backend gets two connections in a row.
        unsafe {
            let turn = ptr::read_volatile(p);
            ptr::write_volatile(p, turn.wrapping_add(1));
            turn as u32
        }
    }

    #[inline(always)]
    fn load(&mut self, slot: Slot) -> u32 {
        match maps::LOADS.get_ptr(slot.backend) {
            // SAFETY: the pointer is to an array element, one aligned word.
            Some(p) => load_of(unsafe { ptr::read_volatile(p.cast::<u64>()) }).of(slot.generation),
            None => 0,
        }
    }

    #[inline(always)]
    fn add_load(&mut self, slot: Slot) {
        let Some(p) = maps::LOADS.get_ptr_mut(slot.backend) else {
            return;
        };
        // SAFETY: as above. If two CPUs count the first connection to a generation at the same time, one may be
        // lost. The agent corrects counts periodically.
        unsafe {
            if load_of(ptr::read_volatile(p.cast::<u64>())).generation == slot.generation {
                atomic_add(&raw mut (*p).count, 1);
            } else {
                let first = u64::from(slot.generation) << 32 | 1;
                ptr::write_volatile(p.cast::<u64>(), first);
            }
        }
    }

    #[inline(always)]
    fn take_load(&mut self, slot: Slot) {
        if self.load(slot) != 0
            && let Some(p) = maps::LOADS.get_ptr_mut(slot.backend)
        {
            // SAFETY: as above.
            unsafe { atomic_add(&raw mut (*p).count, u32::MAX) };
        }
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        if let Some(p) = maps::COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the element belongs to this CPU.
            unsafe { *p = (*p).wrapping_add(1) };
        }
    }
}

/// Decodes an element of `LOADS` that was read as one word.
#[inline(always)]
const fn load_of(word: u64) -> Load {
    Load {
        count: word as u32,
        generation: (word >> 32) as u32,
    }
}

/// Adds to a word that other CPUs and the agent write, too. Does not return the old value: kernels before 5.12
/// have no atomic instruction that does.
///
/// # Safety
///
/// `at` must be aligned and point into a map element.
#[inline(always)]
unsafe fn atomic_add(at: *mut u32, n: u32) {
    // SAFETY: the caller ensures that `at` is valid.
    unsafe { asm!("lock *(u32 *)({0} + 0) += {1}", in(reg) at, in(wreg) n, options(nostack)) };
}
