//! Elements of the flow tables.

use core::ptr;

use proxy_common::{
    abi::flow::{FlowKey, FlowValue},
    tables::{FlowRef, FlowState},
};

/// An element of a flow table. Other CPUs may write it concurrently.
#[derive(Clone, Copy)]
pub struct FlowElement(pub *mut FlowValue);

impl FlowRef for FlowElement {
    #[inline(always)]
    fn load(&self, key: &FlowKey, into: &mut FlowValue) -> bool {
        // SAFETY: the pointer is to the map's memory, which stays valid until the program ends. The
        // fingerprint, read last, tells whether the element still belongs to this key.
        unsafe {
            // Copied word by word: a copy of the whole struct compiles to a call of memmove, which works byte
            // by byte.
            let (from, to) = (self.0.cast::<u32>(), ptr::from_mut(into).cast::<u32>());
            let mut i = 0;
            while i < size_of::<FlowValue>() / size_of::<u32>() {
                to.add(i).write(ptr::read_volatile(from.add(i)));
                i += 1;
            }
            ptr::read_volatile(&raw const (*self.0).fingerprint) == key.fingerprint()
        }
    }

    #[inline(always)]
    fn state(&self, key: &FlowKey) -> Option<FlowState> {
        // SAFETY: as above.
        unsafe {
            let state = FlowState {
                last_seen: (*self.0).last_seen,
                half: (*self.0).half,
                flags: (*self.0).flags,
                seen: (*self.0).seen,
            };
            let fingerprint = ptr::read_volatile(&raw const (*self.0).fingerprint);
            (fingerprint == key.fingerprint()).then_some(state)
        }
    }

    #[inline(always)]
    fn touch(&self, now: u32, seen: u8) {
        // SAFETY: as above. These are single aligned words, and a lost update costs only accuracy. They are
        // written only if they change, so that the cache line stays shared.
        unsafe {
            if (*self.0).last_seen != now {
                (*self.0).last_seen = now;
            }
            if (*self.0).seen | seen != (*self.0).seen {
                (*self.0).seen |= seen;
            }
        }
    }

    #[inline(always)]
    fn set_flags(&self, flags: u8) {
        // SAFETY: as above.
        unsafe { (*self.0).flags = flags };
    }
}
