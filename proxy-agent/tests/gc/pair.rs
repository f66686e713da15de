//! Flows as tests put them into the maps.

use std::net::SocketAddr;

use proxy_common::{
    abi::flow::{FlowKey, FlowValue, Half, flow_flags, seen},
    addr::Addr,
    tables::FlowTable,
};
use zerocopy::network_endian::U16;

use crate::fixture::{FRONTEND, GENERATION, LIVING, backend_addr};

/// Seconds since all flows were made.
const AGE: u32 = 100;

/// A flow as it is written.
#[derive(Clone, Debug)]
pub struct Pair {
    id: u32,
    claim: u32,
    pub protocol: u8,
    pub flags: u8,
    seen: (u8, u8),
    idle: (u32, u32),
    backend: u32,
    forward: bool,
    reverse: bool,
}

impl Pair {
    /// A flow that was used just now, of the client of this number.
    pub fn new(id: u32, protocol: u8, flags: u8) -> Self {
        Self {
            id,
            claim: id,
            protocol,
            flags,
            seen: (seen::DATA, seen::DATA),
            idle: (0, 0),
            backend: LIVING,
            forward: true,
            reverse: true,
        }
    }

    /// The same, of another flow's client.
    pub fn of_client(self, other: &Self) -> Self {
        Self {
            id: other.id,
            claim: other.claim,
            ..self
        }
    }

    /// What the client's packets and the backend's have carried.
    pub fn seen(self, client: u8, backend: u8) -> Self {
        let seen = (client, backend);
        Self { seen, ..self }
    }

    /// Seconds since the client's last packet, and the backend's.
    pub fn idle(self, client: u32, backend: u32) -> Self {
        let idle = (client, backend);
        Self { idle, ..self }
    }

    pub fn backend(self, backend: u32) -> Self {
        Self { backend, ..self }
    }

    pub fn without_forward(self) -> Self {
        let forward = false;
        Self { forward, ..self }
    }

    pub fn without_reverse(self) -> Self {
        let reverse = false;
        Self { reverse, ..self }
    }

    /// Takes the translated source of another flow.
    pub fn claiming_as(self, other: &Self) -> Self {
        let claim = other.claim;
        Self { claim, ..self }
    }

    /// How many halves are written.
    pub fn halves(&self) -> usize {
        usize::from(self.forward) + usize::from(self.reverse)
    }

    pub fn client(&self) -> SocketAddr {
        let key = self.forward_key();
        SocketAddr::new(key.src.to_ip(), key.src_port.get())
    }

    pub fn forward_key(&self) -> FlowKey {
        FlowKey {
            src: numbered(1, self.id),
            dst: Addr::v4(FRONTEND),
            src_port: U16::new(40_000),
            dst_port: U16::new(80),
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    pub fn forward_value(&self) -> FlowValue {
        let mut out = self.forward_key();
        out.dst = backend_addr(self.backend);
        out.dst_port = U16::new(8080);
        if self.flags & flow_flags::SNAT != 0 {
            out.src = numbered(2, self.claim);
        }
        if self.flags & (flow_flags::SNAT | flow_flags::PORT) != 0 {
            out.src_port = U16::new(61_000);
        }
        FlowValue {
            out,
            backend: self.backend,
            generation: GENERATION,
            half: Half::Forward as u8,
            flags: self.flags,
            seen: self.seen.0,
            fingerprint: self.forward_key().fingerprint(),
            ..FlowValue::default()
        }
    }

    /// What is to be written, with times relative to `now`.
    pub fn elements(&self, now: u32, hz: u32) -> Vec<(FlowTable, FlowKey, FlowValue)> {
        let before = |seconds: u32| now.wrapping_sub(seconds * hz);
        let table = if self.flags & flow_flags::CONFIRMED == 0 {
            FlowTable::New
        } else {
            FlowTable::Confirmed
        };
        let reverse_table = if self.flags & flow_flags::SNAT == 0 {
            table
        } else {
            FlowTable::Claims
        };
        let forward = FlowValue {
            created: before(AGE),
            last_seen: before(self.idle.0),
            ..self.forward_value()
        };
        let reverse_key = forward.out.inverted();
        let reverse = FlowValue {
            out: self.forward_key().inverted(),
            last_seen: before(self.idle.1),
            half: Half::Reverse as u8,
            seen: self.seen.1,
            fingerprint: reverse_key.fingerprint(),
            ..forward
        };
        let mut elements = Vec::new();
        if self.forward {
            elements.push((table, self.forward_key(), forward));
        }
        if self.reverse {
            elements.push((reverse_table, reverse_key, reverse));
        }
        elements
    }
}

fn numbered(network: u8, id: u32) -> Addr {
    let [zero, a, b, c] = id.to_be_bytes();
    assert_eq!(zero, 0);
    let mut octets = [0; 16];
    octets[10] = 0xff;
    octets[11] = 0xff;
    octets[12..].copy_from_slice(&[10 * network + (a & 0x0f), b, c, 9]);
    Addr::from_octets(octets)
}
