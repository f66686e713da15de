//! Filters of clsact qdiscs by rtnetlink(7), in the network namespace of the thread that opened the socket.
//!
//! Lists are read attribute by attribute: a filter of another's whose options nobody here understands is one all the same.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};

use super::Direction;

/// What the kernel fills at most for one read of a list (`netlink_dump`).
const BUFFER: usize = 32 * 1024;
/// `struct tcmsg`.
const HEADER: usize = 20;
/// `ETH_P_ALL`.
pub const ALL_PROTOCOLS: u16 = 3;
/// The kind of filters that are BPF programs.
pub const BPF: &str = "bpf";
const CLSACT: &str = "clsact";
/// `TCA_KIND`, `TCA_OPTIONS`, `TCA_BPF_NAME`, `TCA_BPF_ID`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_NAME: u16 = 7;
const BPF_ID: u16 = 11;

/// A filter, or the head of a list of filters of one priority (which has the handle 0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Those with lower numbers come first.
    pub priority: u16,
    /// Ethertype, or [`ALL_PROTOCOLS`].
    pub protocol: u16,
    /// Tells filters of one priority apart.
    pub handle: u32,
    /// What it is; all of one priority are the same.
    pub kind: String,
    /// What a BPF filter's owner called it.
    pub name: String,
    /// The kernel's number of a BPF filter's program.
    pub program: u32,
}

/// A socket to change traffic control by.
#[derive(Debug)]
pub struct TrafficControl {
    socket: Socket,
    buffer: Vec<u8>,
}

impl TrafficControl {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(NETLINK_ROUTE)?,
            buffer: vec![0; BUFFER],
        })
    }

    /// The devices that have a clsact qdisc.
    pub fn devices(&mut self) -> io::Result<Vec<u32>> {
        let mut found = Vec::new();
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        self.send(request, NLM_F_DUMP)?;
        self.replies(|payload| {
            if let (Ok(header), CLSACT) = (TcHeader::parse(payload), &*kind_of(payload)) {
                found.push(header.index.cast_unsigned());
            }
        })?;
        Ok(found)
    }

    /// Gives a device a clsact qdisc: `EEXIST` if it has one, or an ingress qdisc.
    pub fn add_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::NewQueueDiscipline(clsact(ifindex));
        self.send(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL)?;
        self.replies(|_| {})
    }

    /// Removes a device's clsact qdisc with all that is on it.
    pub fn remove_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let request = RouteNetlinkMessage::DelQueueDiscipline(clsact(ifindex));
        self.send(request, NLM_F_ACK)?;
        self.replies(|_| {})
    }

    /// The filters on a side of a device; none where there is no qdisc.
    pub fn filters(&mut self, ifindex: u32, side: Direction) -> io::Result<Vec<Filter>> {
        let mut found = Vec::new();
        let request = RouteNetlinkMessage::GetTrafficFilter(on(ifindex, side));
        self.send(request, NLM_F_DUMP)?;
        self.replies(|payload| found.extend(filter(payload)))?;
        Ok(found)
    }

    /// One filter, by its priority, protocol, handle and kind.
    pub fn get(
        &mut self,
        ifindex: u32,
        side: Direction,
        wanted: &Filter,
    ) -> io::Result<Option<Filter>> {
        let mut found = None;
        let message = named(ifindex, side, wanted);
        self.send(RouteNetlinkMessage::GetTrafficFilter(message), 0)?;
        self.replies(|payload| found = filter(payload))?;
        Ok(found)
    }

    /// Adds a program for all protocols, or replaces that which is there already: no packet passes between the two.
    /// `EEXIST`: it is there, and not `replace`.
    pub fn put(
        &mut self,
        ifindex: u32,
        side: Direction,
        filter: &Filter,
        program: impl AsFd,
        replace: bool,
    ) -> io::Result<()> {
        let mut message = named(ifindex, side, filter);
        message.attributes.push(TcAttribute::Options(vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(
                program.as_fd().as_raw_fd().cast_unsigned(),
            )),
            TcOption::Bpf(TcFilterBpfOption::ProgName(filter.name.clone())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ]));
        let exclusive = if replace { 0 } else { NLM_F_EXCL };
        self.send(
            RouteNetlinkMessage::NewTrafficFilter(message),
            NLM_F_ACK | NLM_F_CREATE | exclusive,
        )?;
        self.replies(|_| {})
    }

    /// Removes one.
    pub fn remove(&mut self, ifindex: u32, side: Direction, filter: &Filter) -> io::Result<()> {
        let message = named(ifindex, side, filter);
        self.send(RouteNetlinkMessage::DelTrafficFilter(message), NLM_F_ACK)?;
        self.replies(|_| {})
    }

    fn send(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads to the end of a list, a single answer, or what came of a request.
    fn replies(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            let received = match self.socket.recv(&mut self.buffer.as_mut_slice(), 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let mut bytes = &self.buffer[..received.min(self.buffer.len())];
            while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
                match message.message_type() {
                    // Both begin with an error number, negated; the end of a list may be without.
                    NLMSG_DONE | NLMSG_ERROR => {
                        let errno = message.payload().first_chunk().copied();
                        return match errno.map_or(0, i32::from_ne_bytes) {
                            0 => Ok(()),
                            errno => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
                        };
                    }
                    _ => {
                        each(message.payload());
                        if message.flags() & NLM_F_MULTIPART == 0 {
                            return Ok(());
                        }
                    }
                }
                // NLMSG_ALIGN
                let whole = (message.length() as usize).next_multiple_of(4);
                bytes = bytes.get(whole..).unwrap_or_default();
            }
        }
    }
}

fn clsact(ifindex: u32) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message
        .attributes
        .push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

fn on(ifindex: u32, side: Direction) -> TcMessage {
    let mut message = TcMessage::with_index(ifindex.cast_signed());
    message.header.parent = TcHandle {
        major: TcHandle::CLSACT.major,
        minor: match side {
            Direction::Ingress => TcHandle::MIN_INGRESS,
            Direction::Egress => TcHandle::MIN_EGRESS,
        },
    };
    message
}

fn named(ifindex: u32, side: Direction, filter: &Filter) -> TcMessage {
    let mut message = on(ifindex, side);
    message.header.handle = filter.handle.into();
    message.header.info = u32::from(filter.priority) << 16 | u32::from(filter.protocol.to_be());
    message
        .attributes
        .push(TcAttribute::Kind(filter.kind.clone()));
    message
}

fn filter(payload: &[u8]) -> Option<Filter> {
    let header = TcHeader::parse(payload).ok()?;
    let options = attribute(payload.get(HEADER..)?, OPTIONS).unwrap_or_default();
    Some(Filter {
        priority: (header.info >> 16) as u16,
        protocol: u16::from_be(header.info as u16),
        handle: header.handle.into(),
        kind: kind_of(payload),
        name: text(&attribute(&options, BPF_NAME).unwrap_or_default()),
        program: attribute(&options, BPF_ID)
            .and_then(|id| Some(u32::from_ne_bytes(id.try_into().ok()?)))
            .unwrap_or_default(),
    })
}

fn kind_of(payload: &[u8]) -> String {
    let attributes = payload.get(HEADER..).unwrap_or_default();
    text(&attribute(attributes, KIND).unwrap_or_default())
}

fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    NlasIterator::new(bytes)
        .flatten()
        .find(|attribute| attribute.kind() == kind)
        .map(|attribute| attribute.value().to_vec())
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}
