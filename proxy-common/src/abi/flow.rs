//! Translated flows: two halves, each of which holds the other's key, inverted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, network_endian::U16};

use crate::{
    addr::Addr,
    hash::{finish, mix},
};

/// A tuple as it is seen in a packet, and the key of `FLOWS`, `NEW_FLOWS` and `SNAT_CLAIMS`.
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
    /// The same tuple seen from the other end.
    #[inline(always)]
    #[must_use]
    pub const fn inverted(&self) -> Self {
        // The rest is copied as one word: a padding that is written anew is a call of memset in BPF.
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ..*self
        }
    }

    /// The two ports as every transport header begins with them.
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

    /// 32 bits over the tuple, cheap enough for every packet; tells tuples apart, resists nobody.
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

    /// Hash under a key that senders do not know, so that they cannot choose their backend.
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
    /// Hash of the client's end alone, under a seed that all nodes share: whichever node and frontend a client comes
    /// by, and whichever takes over, it is the same.
    #[inline(always)]
    pub const fn client_hash(&self, seed: u32) -> u32 {
        // Nodes of different byte order read the same words.
        let [a, b, c, d] = self.src.words();
        let h = mix(mix(seed, u32::from_be(a)), u32::from_be(b));
        let h = mix(mix(h, u32::from_be(c)), u32::from_be(d));
        let tail = (self.src_port.get() as u32) << 16 | self.protocol as u32;
        finish(mix(h, tail))
    }
}

/// Which way the packets of a half go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Half {
    /// Client → frontend; translated at the ingress of the device that the client is behind.
    Forward = 1,
    /// Backend → client; translated at the egress of that device, or at ingress if the source was translated.
    Reverse = 2,
}

/// Bits of [`FlowValue::flags`].
pub mod flow_flags {
    /// The source is translated too: the reverse half lives in `SNAT_CLAIMS` and is found at ingress.
    pub const SNAT: u8 = 1;
    /// The backend is the client itself: packets go back out of the device they came from.
    pub const HAIRPIN: u8 = 2;
    /// The backend is on this node: translated packets go on to the kernel.
    pub const LOCAL: u8 = 4;
    /// A reply was seen.
    pub const CONFIRMED: u8 = 8;
    /// The source port alone is translated, since the client's own tuple to this backend is held.
    pub const PORT: u8 = 16;
    /// Counts in `LOADS` while it lives: its backend was chosen by least connections.
    pub const COUNTED: u8 = 32;
    /// The backend is on this node and the client outside: netfilter is told to masquerade it (semantics A2).
    pub const MASQUERADE: u8 = 64;
}

/// Bits of [`FlowValue::seen`]: TCP flags that this half's packets have carried.
pub mod seen {
    /// SYN.
    pub const SYN: u8 = 1;
    /// FIN.
    pub const FIN: u8 = 2;
    /// RST.
    pub const RST: u8 = 4;
    /// A segment without any of them.
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
    /// Jiffies (low 32 bits) when the flow was made.
    pub created: u32,
    /// Jiffies (low 32 bits) of about the last packet of this half.
    pub last_seen: u32,
    /// Index in `BACKENDS`.
    pub backend: u32,
    /// Generation that the backend had.
    pub generation: u32,
    /// [`Half`] as a number.
    pub half: u8,
    /// [`flow_flags`].
    pub flags: u8,
    /// [`seen`].
    pub seen: u8,
    /// Zero.
    pub pad: u8,
    /// [`FlowKey::fingerprint`] of this half's own key: an element that was evicted and reused while it was read is
    /// told by it.
    pub fingerprint: u32,
}
const _: () = assert!(size_of::<FlowValue>() == 64);

impl FlowValue {
    /// Whether this half, found under `key`, is of a connection that its client has opened straight to the backend: not
    /// to a frontend ([`flow_flags::PORT`] alone is translated).
    #[inline(always)]
    pub const fn is_straight(&self, key: &FlowKey) -> bool {
        if self.half == Half::Forward as u8 {
            self.out.dst.same(&key.dst) && self.out.dst_port.get() == key.dst_port.get()
        } else {
            self.out.src.same(&key.src) && self.out.src_port.get() == key.src_port.get()
        }
    }
}
