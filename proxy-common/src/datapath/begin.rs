//! The first packet of a flow: look up the frontend, choose a backend, claim the reverse tuple.

mod shape;

use self::shape::shape;
use super::{Work, choose, claim, flow, since};
use crate::{
    abi::{
        counter::Counter,
        flow::{FlowValue, Half, flow_flags, seen},
        frontend::{FrontendKind, Scope},
        protocol,
        target::TargetState,
    },
    balance, load,
    tables::{FlowRef, FlowTable, Insert, PacketTables},
};

/// Backends to try while another flow holds the client's tuple to the chosen one.
const MAX_BACKENDS_TRIED: u32 = 3;

/// A SYN that comes `hz` / 2 jiffies or more after its flow's first SYN counts as retransmitted. Senders wait
/// at least one second (RFC 6298 §2.1); half of that leaves room for coarse clocks.
const RETRANSMITS_PER_SECOND: u32 = 2;

/// Source ports to try for a connection directly to a backend. Few, because the connection also works
/// untranslated.
const MAX_PORTS_BESIDE: u32 = 2;

/// Decides what to do with a packet that may begin a flow and belongs to no confirmed one. Returns a number, as
/// `Step::from_u32` decodes it, because `proxy-ebpf` compiles this as a separate BPF function.
#[inline(always)]
pub fn begin<T: PacketTables>(t: &mut T, w: &mut Work, ifindex: u32, scope: Scope) -> u32 {
    if lookup(t, w, scope) {
        begin_here(t, w, ifindex, scope)
    } else {
        untranslated(t, w)
    }
}

/// [`begin`] for XDP. Passes a packet without a frontend, since tc sees it next and runs [`begin`].
#[inline(always)]
pub fn begin_early<T: PacketTables>(t: &mut T, w: &mut Work, ifindex: u32) -> u32 {
    if lookup(t, w, Scope::External) {
        begin_here(t, w, ifindex, Scope::External)
    } else {
        Step::PASS
    }
}

/// [`begin`] for a packet whose frontend is in `Work::found`.
#[inline(always)]
fn begin_here<T: PacketTables>(t: &mut T, w: &mut Work, ifindex: u32, scope: Scope) -> u32 {
    if !w.found.admits(t, &w.h.tuple.src) {
        return Counter::DropSourceRange as u32;
    }
    match w.found.word.state() {
        TargetState::Reject => return Step::REFUSE,
        TargetState::Drop => return Counter::DropNoLocalEndpoint as u32,
        TargetState::Serve | TargetState::Absent => {}
    }
    let unanswered = match repeated(t, w) {
        Repeated::Yes => return Step::TRANSLATE,
        Repeated::Unanswered => true,
        Repeated::No => false,
    };
    w.place = Place {
        ifindex,
        outside: scope as u8 == Scope::External as u8,
        unanswered,
    };
    Step::CREATE
}

/// Runs [`create`] if [`begin`] asks for it, and decodes the result.
#[inline(always)]
pub(super) fn finish<T: PacketTables>(t: &mut T, w: &mut Work, step: u32) -> Step {
    Step::from_u32(if step == Step::CREATE {
        t.create(w)
    } else {
        step
    })
}

/// Creates a flow for the packet in `Work`, at the frontend in `Work::found`: chooses a backend and writes both
/// halves. Returns a number, like [`begin`].
#[inline(always)]
pub fn create<T: PacketTables>(t: &mut T, w: &mut Work) -> u32 {
    match choose_and_claim(t, w) {
        Ok(()) => Step::TRANSLATE,
        Err(reason) => reason as u32,
    }
}

/// Whether this result of [`begin`] or [`create`] means that the packet is translated.
#[inline(always)]
pub const fn translates(step: u32) -> bool {
    step == Step::TRANSLATE
}

/// Result of [`begin`] and [`create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not for the proxy.
    Pass,
    /// Translate the packet as `Work::value` says.
    Translate,
    /// Refuse the packet.
    Refuse,
    /// Drop the packet for this reason.
    Drop(Counter),
}

impl Step {
    const PASS: u32 = u32::MAX;
    const TRANSLATE: u32 = u32::MAX - 1;
    const REFUSE: u32 = u32::MAX - 2;
    /// The packet begins a flow: call [`create`].
    const CREATE: u32 = u32::MAX - 3;

    /// Decodes a result of [`begin`] or [`create`]: one of the constants, or else the number of a drop counter.
    #[inline(always)]
    pub(super) fn from_u32(n: u32) -> Self {
        match n {
            Self::PASS => Self::Pass,
            Self::TRANSLATE => Self::Translate,
            Self::REFUSE => Self::Refuse,
            n => Self::Drop(Counter::from_u32(n).unwrap_or(Counter::DropRewrite)),
        }
    }
}

/// Where the first packet of a new flow came in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    ifindex: u32,
    outside: bool,
    /// An earlier SYN went to a backend under the client's own port and had no reply.
    unanswered: bool,
}

/// Looks up the frontend of a packet. On an external IP that is an address of this node, a local listener takes
/// precedence (semantics S7).
#[inline(always)]
fn lookup<T: PacketTables>(t: &mut T, w: &mut Work, scope: Scope) -> bool {
    let tuple = &w.h.tuple;
    if !balance::find(
        t,
        &tuple.dst,
        tuple.dst_port,
        tuple.protocol,
        scope,
        &mut w.found,
    ) {
        return false;
    }
    !(w.found.kind == FrontendKind::ExternalIp
        && t.node_addr(&w.h.tuple.dst).is_some()
        && t.listens(&w.h.tuple))
}

/// Handles a connection without a frontend. If a live translated flow of the same client holds its tuple, the
/// backend already has a connection with that tuple, so the new connection gets another source port (ADR 7). A
/// flow that is closed or unconfirmed is removed instead.
#[inline(always)]
fn untranslated<T: PacketTables>(t: &mut T, w: &mut Work) -> u32 {
    if !w.h.is_syn() {
        return Step::PASS;
    }
    w.key = w.h.tuple.inverted();
    if let Some(entry) = t.flow(FlowTable::Confirmed, &w.key)
        && entry.load(&w.key, &mut w.value)
        && w.value.half == Half::Reverse as u8
    {
        if lives(t, w) {
            return beside(t, w);
        }
        forget(t, w, FlowTable::Confirmed);
    }
    w.key = w.h.tuple.inverted();
    if let Some(entry) = t.flow(FlowTable::New, &w.key)
        && entry.load(&w.key, &mut w.value)
        && w.value.half == Half::Reverse as u8
    {
        forget(t, w, FlowTable::New);
    }
    Step::PASS
}

/// Whether neither side has closed the confirmed flow whose reverse half is in `Work`.
#[inline(always)]
fn lives<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    let closing = seen::FIN | seen::RST;
    w.other.out = w.value.out.inverted();
    w.value.seen & closing == 0
        && t.flow(FlowTable::Confirmed, &w.other.out)
            .and_then(|entry| entry.state(&w.other.out))
            .is_some_and(|forward| forward.seen & closing == 0)
}

/// Translates the source port of a connection to the backend itself, because the flow in `Work` holds its
/// tuple.
#[inline(always)]
fn beside<T: PacketTables>(t: &mut T, w: &mut Work) -> u32 {
    let (backend, generation) = (w.value.backend, w.value.generation);
    let flags = w.value.flags & flow_flags::LOCAL | flow_flags::PORT;
    if matches!(repeated(t, w), Repeated::Yes) {
        return Step::TRANSLATE;
    }
    let now = t.now();
    w.value = FlowValue {
        out: w.h.tuple,
        created: now,
        last_seen: now,
        backend,
        generation,
        flags,
        ..FlowValue::default()
    };
    let seed = w.h.tuple.keyed_hash(t.settings().hash_key) ^ now;
    // Without a free port or table space, the connection passes untranslated: it does not go through a Service.
    if matches!(claim::claim_port(t, w, seed, MAX_PORTS_BESIDE), Ok(true))
        && write_forward(t, w).is_ok()
    {
        Step::TRANSLATE
    } else {
        Step::PASS
    }
}

/// Removes both halves of the flow of which `Work` holds one half.
#[inline(always)]
fn forget<T: PacketTables>(t: &mut T, w: &mut Work, table: FlowTable) {
    t.remove_flow(table, &w.key);
    w.other.out = w.value.out.inverted();
    t.remove_flow(flow::other_table(&w.value, table), &w.other.out);
    if w.value.flags & flow_flags::COUNTED != 0 {
        // Loads are keyed by the forward half, and `Work::value` is the reverse half.
        w.key = w.other.out;
        t.count_flow(w, load::ENDS);
    }
}

/// Result of [`repeated`].
enum Repeated {
    /// The flow, loaded into `Work::value`.
    Yes,
    /// A flow under the client's own port that had no reply. It was removed.
    Unanswered,
    /// No usable flow.
    No,
}

/// Looks for the unconfirmed flow of a retransmitted packet. The flow is usable if its backend serves and its
/// reverse half exists or can be created again (the LRU table may have evicted it alone).
///
/// A SYN that is retransmitted under the client's own port has had no reply. The backend may already have a
/// connection with that tuple: one that the client opened directly to the backend and that the proxy did not
/// see. So the flow is removed, and the next one gets another source port. An SCTP endpoint answers an INIT
/// even on a known tuple (RFC 9260 §5.2.2), so a retransmitted INIT was simply lost.
#[inline(always)]
fn repeated<T: PacketTables>(t: &mut T, w: &mut Work) -> Repeated {
    let Some(entry) = t.flow(FlowTable::New, &w.h.tuple) else {
        return Repeated::No;
    };
    let mut answer = Repeated::No;
    if entry.load(&w.h.tuple, &mut w.value)
        && w.value.half == Half::Forward as u8
        && balance::serving(t, flow::slot(&w.value)).is_some()
        && has_reverse(t, w)
    {
        let (now, hz) = (t.now(), t.settings().hz);
        if w.h.tuple.protocol != protocol::TCP
            || w.value.flags & flow_flags::SNAT != 0
            || since(now, w.value.created) < hz / RETRANSMITS_PER_SECOND
        {
            entry.touch(now, super::seen_flags(&w.h));
            return Repeated::Yes;
        }
        w.key = w.value.out.inverted();
        t.remove_flow(FlowTable::New, &w.key);
        answer = Repeated::Unanswered;
    }
    t.remove_flow(FlowTable::New, &w.h.tuple);
    answer
}

/// Whether the reverse half of the flow in `Work` exists. Creates it if it does not.
#[inline(always)]
fn has_reverse<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    w.key = w.value.out.inverted();
    let table = flow::other_table(&w.value, FlowTable::New);
    if let Some(entry) = t.flow(table, &w.key)
        && entry.load(&w.key, &mut w.other)
    {
        let (theirs, mine) = (&w.other.out, &w.h.tuple);
        return theirs.dst.same(&mine.src)
            && theirs.src.same(&mine.dst)
            && theirs.dst_port == mine.src_port
            && theirs.src_port == mine.dst_port;
    }
    matches!(claim::result(t.claim_tuple(w)), Ok(true))
}

/// Chooses a backend and writes both halves. The forward half is in `Work::value` afterwards.
#[inline(always)]
fn choose_and_claim<T: PacketTables>(t: &mut T, w: &mut Work) -> Result<(), Counter> {
    let seed = w.h.tuple.keyed_hash(t.settings().hash_key);
    // After an unanswered SYN the time changes the seed, so that other ports are tried.
    let ports = if w.place.unanswered {
        seed ^ t.now()
    } else {
        seed
    };
    let mut tried = 0;
    while tried < MAX_BACKENDS_TRIED {
        let choice = t.choose(w, tried);
        if choice == choose::NONE {
            return Err(Counter::DropStaleBackend);
        }
        if choice == choose::CHOSEN && w.found.slow_start != 0 {
            t.reconsider(w, tried);
        }
        tried += 1;
        let last =
            choice == choose::KEPT || tried == MAX_BACKENDS_TRIED || w.found.word.count() == 1;
        shape(t, w)?;
        if claim::claim(t, w, ports, last)? {
            write_forward(t, w)?;
            choose::keep(t, w);
            return Ok(());
        }
    }
    Err(Counter::DropNoSourcePort)
}

/// Writes the forward half in `Work::value`. Its reverse half must be claimed already.
#[inline(always)]
fn write_forward<T: PacketTables>(t: &mut T, w: &mut Work) -> Result<(), Counter> {
    w.value.half = Half::Forward as u8;
    w.value.seen = flow::first_seen(&w.h);
    w.value.fingerprint = w.h.tuple.fingerprint();
    if t.insert_flow(FlowTable::New, &w.h.tuple, &w.value) == Insert::Full {
        return Err(Counter::DropFlowTableFull);
    }
    t.count(Counter::FlowCreated);
    Ok(())
}
