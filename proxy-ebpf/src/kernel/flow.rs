//! Elements of the flow tables.

use core::ptr;

use proxy_common::{
    abi::flow::{FlowKey, FlowValue},
    tables::{FlowRef, FlowState},
};

/// A flow table's element, which other CPUs may write.
#[derive(Clone, Copy)]
pub struct FlowElement(pub *mut FlowValue);

impl FlowRef for FlowElement {
    #[inline(always)]
    fn load(&self, key: &FlowKey, into: &mut FlowValue) -> bool {
        // SAFETY: the pointer is to memory of the map, valid until the program ends; whether it still is this
        // key's element is told by the fingerprint, read last.
        unsafe {
            // Word by word: a copy of the whole is a call of memmove, which goes byte by byte.
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
        // SAFETY: as above; single aligned words, whose loss in a race costs nothing but accuracy. They are
        // written only when they change, to leave the cache line shared.
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
