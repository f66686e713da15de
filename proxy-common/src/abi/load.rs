//! How many connections from this node a backend has, for least connections.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `LOADS`. The count is changed by atomic additions, by programs and by the agent; the first connection to a
/// new generation stores both as one word.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C, align(8))]
pub struct Load {
    /// Sockets in `SOCKET_LOADS` and flows in `FLOW_LOADS` that name this generation of the backend.
    pub count: u32,
    /// Generation of the backend that is counted for.
    pub generation: u32,
}
const _: () = assert!(size_of::<Load>() == 8);

impl Load {
    /// Connections of a generation; those of others do not count.
    #[inline(always)]
    pub const fn of(self, generation: u32) -> u32 {
        if self.generation == generation {
            self.count
        } else {
            0
        }
    }
}
