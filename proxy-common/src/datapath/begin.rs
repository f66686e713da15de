//! The first packet of a flow: frontend, backend, claim.

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

/// Backends that are tried when the client's tuple to one is held by another of its flows.
const MAX_BACKENDS_TRIED: u32 = 3;

/// A SYN is sent again after a second at the earliest (RFC 6298 §2.1), give or take the clocks' ticks.
const RETRANSMITS_PER_SECOND: u32 = 2;

/// Source ports that are tried for a connection straight to a backend: a few, since it may go on without.
const MAX_PORTS_BESIDE: u32 = 2;

/// What the packet that may begin a flow, and belongs to none that is confirmed, is to become. A number, since a
/// shell may make this a program of its own that returns one; see [`Step`] for what it means.
#[inline(always)]
pub fn begin<T: PacketTables>(t: &mut T, w: &mut Work, ifindex: u32, scope: Scope) -> u32 {
    if lookup(t, w, scope) {
        begin_here(t, w, ifindex, scope)
    } else {
        untranslated(t, w)
    }
}

/// [`begin`] for a packet from outside that comes by again where XDP does not finish it: what has no frontend is left alone.
#[inline(always)]
pub fn begin_early<T: PacketTables>(t: &mut T, w: &mut Work, ifindex: u32) -> u32 {
    if lookup(t, w, Scope::External) {
        begin_here(t, w, ifindex, Scope::External)
    } else {
        Step::PASS
    }
}

/// Begins at the frontend in `Work::found`.
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

/// Goes on where [`begin`] says so, and says what comes then.
#[inline(always)]
pub(super) fn finish<T: PacketTables>(t: &mut T, w: &mut Work, step: u32) -> Step {
    Step::from_u32(if step == Step::CREATE {
        t.create(w)
    } else {
        step
    })
}

/// Gives the flow that begins with the packet in `Work`, at the frontend found there, its backend and both of its
/// halves. What comes of it is a number, for the same reason.
#[inline(always)]
pub fn create<T: PacketTables>(t: &mut T, w: &mut Work) -> u32 {
    match choose_and_claim(t, w) {
        Ok(()) => Step::TRANSLATE,
        Err(reason) => reason as u32,
    }
}

/// Whether [`begin`] or [`create`] said that the packet is translated.
#[inline(always)]
pub const fn translates(step: u32) -> bool {
    step == Step::TRANSLATE
}

/// What comes after [`begin`], and [`create`] where that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not ours.
    Pass,
    /// Translate it as `Work::value` says.
    Translate,
    /// Refuse it.
    Refuse,
    /// Drop it, for this reason.
    Drop(Counter),
}

impl Step {
    const PASS: u32 = u32::MAX;
    const TRANSLATE: u32 = u32::MAX - 1;
    const REFUSE: u32 = u32::MAX - 2;
    /// It begins a flow: [`create`].
    const CREATE: u32 = u32::MAX - 3;

    /// From what [`begin`] or [`create`] returned: one of the constants, or the number of a counter.
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

/// Where a new flow begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    ifindex: u32,
    outside: bool,
    /// Its SYN went to the backend under the client's own port before, and nothing came back.
    unanswered: bool,
}

/// Finds the frontend of a packet. One on an address of this node leaves the node's own listeners alone (semantics S7).
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

/// A connection that is not translated. Where a translated flow of the same client holds its tuple, and lives, the
/// backend knows that tuple already: the new one is given another source port. A flow that is over, or that nobody has
/// answered yet, gives way.
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

/// Whether neither side of the confirmed flow, whose reverse half is in `Work`, has closed it.
#[inline(always)]
fn lives<T: PacketTables>(t: &mut T, w: &mut Work) -> bool {
    let closing = seen::FIN | seen::RST;
    w.other.out = w.value.out.inverted();
    w.value.seen & closing == 0
        && t.flow(FlowTable::Confirmed, &w.other.out)
            .and_then(|entry| entry.state(&w.other.out))
            .is_some_and(|forward| forward.seen & closing == 0)
}

/// A connection straight to the backend of the flow in `Work`, on that flow's tuple: only its source port is translated.
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
    // Where there is no room or no port, it goes on as it is: it is not ours to drop.
    if matches!(claim::claim_port(t, w, seed, MAX_PORTS_BESIDE), Ok(true))
        && write_forward(t, w).is_ok()
    {
        Step::TRANSLATE
    } else {
        Step::PASS
    }
}

/// Removes both halves of a flow of which `Work` holds one.
#[inline(always)]
fn forget<T: PacketTables>(t: &mut T, w: &mut Work, table: FlowTable) {
    t.remove_flow(table, &w.key);
    w.other.out = w.value.out.inverted();
    t.remove_flow(flow::other_table(&w.value, table), &w.other.out);
    if w.value.flags & flow_flags::COUNTED != 0 {
        // It was found by its reverse half.
        w.key = w.other.out;
        t.count_flow(w, load::ENDS);
    }
}

/// What [`repeated`] found.
enum Repeated {
    /// The flow, in `Work::value`.
    Yes,
    /// A flow that went by the client's own port, and was not answered; it is forgotten.
    Unanswered,
    /// Nothing of use.
    No,
}

/// Finds the forward half of an unconfirmed flow that this packet repeats, while its backend serves and its reverse
/// half, which may have been evicted alone, is there or can be made again.
///
/// A SYN that is sent again after a retransmission's time has had no answer under the client's own port. The backend
/// may know that tuple already, from a connection of this client straight to it, which we did not see. An INIT is answered
/// on a tuple that is known, too (RFC 9260 §5.2.2): one that is sent again was lost.
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

/// Whether the reverse half of the flow in `Work` is there, made again if it was not.
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

/// The forward half is in `Work::value` then.
#[inline(always)]
fn choose_and_claim<T: PacketTables>(t: &mut T, w: &mut Work) -> Result<(), Counter> {
    let seed = w.h.tuple.keyed_hash(t.settings().hash_key);
    // Ports that were tried before are not tried first again.
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

/// Writes the forward half of the flow in `Work::value`, whose reverse half is claimed.
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
