//! Translated flows. A flow has two halves, forward and reverse; each half's `out` is the other half's key,
//! inverted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::{
    addr::Addr,
    hash::{finish, mix},
};

/// A packet's 5-tuple. Key of `FLOWS`, `NEW_FLOWS` and `SNAT_CLAIMS`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct FlowKey {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Source port, network order.
    pub src_port: U16,
    /// Destination port, network order.
    pub dst_port: U16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}
const _: () = assert!(size_of::<FlowKey>() == 40);

impl FlowKey {
    /// The same tuple with source and destination exchanged.
    #[inline(always)]
    #[must_use]
    pub const fn inverted(&self) -> Self {
        // Copies `protocol` and `pad` as one word: LLVM would compile a zeroed `pad` into a call of memset,
        // which BPF does not have.
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ..*self
        }
    }

    /// Source and destination port as the first four bytes of a TCP, UDP or SCTP header.
    #[inline(always)]
    pub const fn port_bytes(&self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.src_port.to_bytes(), self.dst_port.to_bytes());
        [a, b, c, d]
    }

    /// The two ports and the protocol as words, for hashing.
    #[inline(always)]
    const fn tail(&self) -> (u32, u32) {
        (
            (self.src_port.get() as u32) << 16 | self.dst_port.get() as u32,
            self.protocol as u32,
        )
    }

    /// A 32-bit hash of the tuple, cheap enough to compute for every packet. It detects a wrong element; it
    /// does not resist deliberate collisions.
    #[inline(always)]
    pub const fn fingerprint(&self) -> u32 {
        let (s, d, (ports, protocol)) = (self.src.words(), self.dst.words(), self.tail());
        s[0].wrapping_mul(0x9e37_79b1)
            .wrapping_add(s[1].wrapping_mul(0x85eb_ca77))
            .wrapping_add(s[2].wrapping_mul(0xc2b2_ae3d))
            .wrapping_add(s[3].wrapping_mul(0x27d4_eb2f))
            .wrapping_add(d[0].wrapping_mul(0x1656_67b1))
            .wrapping_add(d[1].wrapping_mul(0xd3a2_646d))
            .wrapping_add(d[2].wrapping_mul(0xfd70_46c5))
            .wrapping_add(d[3].wrapping_mul(0xb55a_4f09))
            .wrapping_add(ports.wrapping_mul(0x7feb_352d))
            .wrapping_add(protocol.wrapping_mul(0x846c_a68b))
    }

    /// A hash of the tuple under a secret key, so that senders cannot choose their backend.
    #[inline(always)]
    pub const fn keyed_hash(&self, key: [u32; 2]) -> u32 {
        let (s, d, (ports, protocol)) = (self.src.words(), self.dst.words(), self.tail());
        let mut h = key[0];
        h = mix(mix(mix(mix(h, s[0]), s[1]), s[2]), s[3]);
        h = mix(mix(mix(mix(h, d[0]), d[1]), d[2]), d[3]);
        finish(mix(mix(mix(h, ports), protocol), key[1]))
    }
}

impl FlowKey {
    /// A hash of protocol, source address and source port. With a seed shared by all nodes, a client has the
    /// same hash at every node and frontend, so another node can take over.
    #[inline(always)]
    pub const fn client_hash(&self, seed: u32) -> u32 {
        // Reads the words as big-endian, so that nodes of different byte order agree.
        let [a, b, c, d] = self.src.words();
        let h = mix(mix(seed, u32::from_be(a)), u32::from_be(b));
        let h = mix(mix(h, u32::from_be(c)), u32::from_be(d));
        let tail = (self.src_port.get() as u32) << 16 | self.protocol as u32;
        finish(mix(h, tail))
    }
}

/// Direction of a half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Half {
    /// Client → frontend. Translated at ingress of the device that leads to the client.
    Forward = 1,
    /// Backend → client. Translated at egress of the device that leads to the client, or at ingress if the flow
    /// has `SNAT`.
    Reverse = 2,
}

/// Bits of [`FlowValue::flags`].
pub mod flow_flags {
    /// The source is translated too. The reverse half is in `SNAT_CLAIMS` and is looked up at ingress.
    pub const SNAT: u8 = 1;
    /// Hairpin: the backend is the client itself. Packets go back out of the device that they came in on.
    pub const HAIRPIN: u8 = 2;
    /// The backend is on this node. Translated packets continue into the kernel's stack.
    pub const LOCAL: u8 = 4;
    /// A reply was seen.
    pub const CONFIRMED: u8 = 8;
    /// Only the source port is translated, because another flow holds the client's own tuple to this backend.
    pub const PORT: u8 = 16;
    /// The flow is counted in `LOADS`: its backend was chosen by least connections.
    pub const COUNTED: u8 = 32;
    /// The backend is on this node and the client is outside: netfilter is to masquerade the client
    /// (semantics A2).
    pub const MASQUERADE: u8 = 64;
}

/// Bits of [`FlowValue::seen`]: TCP flags (or the SCTP chunks that correspond to them) seen on this half's
/// packets.
pub mod seen {
    /// SYN.
    pub const SYN: u8 = 1;
    /// FIN.
    pub const FIN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// A packet without any of these flags.
    pub const DATA: u8 = 8;
}

/// Value of the flow tables: one half of a flow.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FlowValue {
    /// The tuple after translation. Inverted, it is the key of the other half.
    pub out: FlowKey,
    /// Time when the flow was created, in jiffies (low 32 bits).
    pub created: u32,
    /// Approximate time of this half's last packet, in jiffies (low 32 bits).
    pub last_seen: u32,
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation of the backend when the flow was created.
    pub generation: u32,
    /// [`Half`] as a number.
    pub half: u8,
    /// [`flow_flags`].
    pub flags: u8,
    /// [`seen`].
    pub seen: u8,
    /// Zero.
    pub pad: u8,
    /// [`FlowKey::fingerprint`] of this half's own key. A reader compares it to detect that the element was
    /// evicted and reused during the read.
    pub fingerprint: u32,
}
const _: () = assert!(size_of::<FlowValue>() == 64);

impl FlowValue {
    /// Whether the client opened this connection directly to the backend's address, not to a frontend. Only the
    /// source port of such a flow is translated ([`flow_flags::PORT`]). `key` is the key of this half.
    #[inline(always)]
    pub const fn is_straight(&self, key: &FlowKey) -> bool {
        if self.half == Half::Forward as u8 {
            self.out.dst.same(&key.dst) && self.out.dst_port.get() == key.dst_port.get()
        } else {
            self.out.src.same(&key.src) && self.out.src_port.get() == key.src_port.get()
        }
    }
}
