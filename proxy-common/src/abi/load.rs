//! The number of connections from this node to a backend, for least connections.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `LOADS`. Programs and the agent change the count by atomic addition. The first connection to a new
/// generation writes count and generation as one 64-bit word.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Load {
    /// Sockets in `SOCKET_LOADS` and flows in `FLOW_LOADS` that name this generation of the backend.
    pub count: u32,
    /// Generation of the backend that `count` refers to.
    pub generation: u32,
}
const _: () = assert!(size_of::<Load>() == 8);

impl Load {
    /// The number of connections to `generation`; 0 if the count refers to another generation.
    #[inline(always)]
    pub const fn of(self, generation: u32) -> u32 {
        if self.generation == generation {
            self.count
        } else {
            0
        }
    }
}
