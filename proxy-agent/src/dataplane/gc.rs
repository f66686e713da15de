//! Collecting flows that are over, a few at a time: one step holds up the agent's other work for some milliseconds.
//!
//! Tables of a million elements are never held in memory: they are walked in chunks, each half is judged together
//! with its other one ([`proxy_common::flow_timeout`]), and both go together, the forward half first, so that no
//! client's packets are translated without their replies.
//!
//! Both halves are read again right before they are deleted. A packet that arrives in the some ten microseconds in
//! between, after seconds to hours of silence, loses its flow: TCP then goes on as an untranslated packet, which
//! ends it; a datagram or SYN begins anew.

mod judge;
mod loads;
mod pace;
mod sockets;
pub mod tables;

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use proxy_common::{
    abi::{
        counter::Counter,
        flow::FlowKey,
        socket::{SocketBackend, SocketKey},
    },
    flow_timeout::Reason,
    tables::FlowTable,
};

use self::{
    judge::Judge,
    loads::LoadTables,
    pace::{Census, Pace, steps},
    sockets::SocketTables,
    tables::{FlowTables, TableError},
};
use super::{
    clock::{Clock, ClockError},
    open::{self, MapError},
    pin::PinFolder,
    sys::map::{CounterMap, Position},
};

/// Elements that are read at once.
const CHUNK: usize = 128;

/// No chunk is begun after a step has taken this long.
const LONGEST_STEP: Duration = Duration::from_millis(5);

/// Sockets are looked after in one round of so many.
const SOCKET_ROUNDS: u64 = 6;

/// Why collecting failed. The round is given up; the next one begins when it is due.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// A map could not be opened.
    #[error(transparent)]
    Open(#[from] MapError),
    /// The clock could not be read.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// A flow table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Another map.
    #[error("could not {action} the map {map}")]
    Map {
        /// What was tried.
        action: &'static str,
        /// On what.
        map: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What a step has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Elements looked at.
    pub examined: usize,
    /// Flows removed, each with both of its halves, by reason.
    pub removed: BTreeMap<Reason, usize>,
    /// Backends of idle UDP sockets forgotten.
    pub sockets: usize,
    /// Whether this step ended a round over all tables.
    pub finished: bool,
}

impl Collected {
    /// Flows removed, for whatever reason.
    pub fn flows(&self) -> usize {
        self.removed.values().sum()
    }

    /// Adds what another step has done.
    pub fn add(&mut self, other: Self) {
        self.examined += other.examined;
        self.sockets += other.sockets;
        self.finished |= other.finished;
        for (reason, flows) in other.removed {
            *self.removed.entry(reason).or_default() += flows;
        }
    }
}

/// Where a round is.
#[derive(Debug)]
enum Place {
    Flows(Position<FlowKey>),
    Claims(Position<FlowKey>),
    FlowLoads(Position<FlowKey>),
    SocketLoads(Position<u64>),
    Sockets(Position<SocketKey>),
}

/// Walks the tables, over and over.
#[derive(Debug)]
pub struct Collector {
    tables: FlowTables,
    sockets: SocketTables,
    loads: LoadTables,
    counters: CounterMap,
    clock: Clock,
    place: Option<Place>,
    round: u64,
    pace: Pace,
    flows: Census,
    claims: Census,
    /// Elements that the last step got to within a table.
    reach: usize,
}

/// What may have been added to the tables, ever, in halves.
#[derive(Clone, Copy)]
struct Growth {
    flows: u64,
    claims: u64,
}

/// How much one step may do.
#[derive(Clone, Copy)]
struct Limits {
    budget: usize,
    until: Instant,
}

impl Limits {
    fn allow(self, examined: usize) -> bool {
        examined < self.budget && (examined == 0 || Instant::now() < self.until)
    }
}

impl Collector {
    /// Elements to look at in one step: as many as it comes to in the time that a step may take.
    pub const BUDGET: usize = 1 << 14;

    /// Opens the maps pinned in `pins`.
    pub fn open(pins: &PinFolder, clock: Clock) -> Result<Self, CollectError> {
        let tables = FlowTables::open(pins)?;
        let counters = open::counters(pins)?;
        let growth = growth(&counters)?;
        let census = |table, counter| Census::new(tables.map(table).capacity(), counter);
        Ok(Self {
            flows: census(FlowTable::Confirmed, growth.flows),
            claims: census(FlowTable::Claims, growth.claims),
            sockets: SocketTables::open(pins)?,
            loads: LoadTables::open(pins)?,
            tables,
            counters,
            clock,
            place: None,
            round: 0,
            pace: Pace::default(),
            reach: Self::BUDGET,
        })
    }

    /// The clock of the flow tables.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Looks at about `budget` elements, at fewer if that takes longer than some milliseconds, or at what is left of one
    /// table; does nothing while no round is due. Call it again after [`pause`](Self::pause).
    pub fn step(&mut self, budget: usize) -> Result<Collected, CollectError> {
        let began = Instant::now();
        let growth = growth(&self.counters)?;
        let limits = Limits {
            budget,
            until: began + LONGEST_STEP,
        };
        let place = match self.place.take() {
            Some(place) => place,
            None if self.pace.is_due(began, self.is_crowded(growth)) => {
                self.pace.begin(began);
                self.round += 1;
                self.flows.begin(growth.flows);
                Place::Flows(Position::start(CHUNK))
            }
            None => return Ok(Collected::default()),
        };
        let mut done = Collected::default();
        self.place = match place {
            Place::Flows(position) => {
                let crowded = self.flows.is_crowded(growth.flows);
                let position =
                    self.collect_flows(FlowTable::Confirmed, position, crowded, limits, &mut done)?;
                self.note_reach(&position, done.examined);
                Some(if position.is_end() {
                    self.flows.end();
                    self.claims.begin(growth.claims);
                    Place::Claims(Position::start(CHUNK))
                } else {
                    Place::Flows(position)
                })
            }
            Place::Claims(position) => {
                let crowded = self.claims.is_crowded(growth.claims);
                let position =
                    self.collect_flows(FlowTable::Claims, position, crowded, limits, &mut done)?;
                self.note_reach(&position, done.examined);
                Some(if position.is_end() {
                    self.claims.end();
                    Place::FlowLoads(Position::start(CHUNK))
                } else {
                    Place::Claims(position)
                })
            }
            Place::FlowLoads(position) => {
                let position = self.collect_flow_loads(position, limits, &mut done)?;
                Some(if position.is_end() {
                    Place::SocketLoads(Position::start(CHUNK))
                } else {
                    Place::FlowLoads(position)
                })
            }
            Place::SocketLoads(position) => {
                let position = self.count_socket_loads(position, limits, &mut done)?;
                if position.is_end() {
                    self.round
                        .is_multiple_of(SOCKET_ROUNDS)
                        .then(|| Place::Sockets(Position::start(CHUNK)))
                } else {
                    Some(Place::SocketLoads(position))
                }
            }
            Place::Sockets(position) => {
                let position = self.collect_sockets(position, limits, &mut done)?;
                (!position.is_end()).then_some(Place::Sockets(position))
            }
        };
        done.finished = self.place.is_none();
        self.pace.step(began.elapsed(), !done.finished);
        Ok(done)
    }

    /// Elements of the tables of confirmed flows and of claims, as the last round found them.
    pub fn elements(&self) -> [(&'static str, u64); 2] {
        [
            ("FLOWS", self.flows.elements()),
            ("SNAT_CLAIMS", self.claims.elements()),
        ]
    }

    /// Begins a round with the next step, whether or not one is due.
    pub fn restart(&mut self) {
        self.place = None;
        self.pace = Pace::default();
    }

    /// How long to wait before the next step: a round every ten seconds, or every three where a table is nearly full,
    /// spread evenly; a second at most, so that a table that fills up is noticed.
    pub fn pause(&self) -> Duration {
        let crowded = growth(&self.counters).is_ok_and(|growth| self.is_crowded(growth));
        let steps = steps([&self.flows, &self.claims], self.reach);
        self.pace.pause(Instant::now(), steps, crowded)
    }

    /// Keeps how far a step gets that was not ended by the end of its table.
    const fn note_reach<K>(&mut self, position: &Position<K>, examined: usize) {
        if !position.is_end() {
            self.reach = examined;
        }
    }

    fn is_crowded(&self, growth: Growth) -> bool {
        self.flows.is_crowded(growth.flows) || self.claims.is_crowded(growth.claims)
    }

    /// Goes on with the walk over a flow table, and gives where it is then.
    fn collect_flows(
        &mut self,
        table: FlowTable,
        position: Position<FlowKey>,
        crowded: bool,
        limits: Limits,
        done: &mut Collected,
    ) -> Result<Position<FlowKey>, CollectError> {
        let mut walk = self.tables.map(table).resume(position);
        while limits.allow(done.examined) {
            let chunk = walk.next_chunk().map_err(|source| TableError {
                action: "walk",
                table,
                source,
            })?;
            let Some(chunk) = chunk else { break };
            let judge = Judge {
                tables: &self.tables,
                now: self.clock.now()?,
                hz: self.clock.hz(),
                crowded,
            };
            let over = judge.remove_what_is_over(table, &chunk, done)?;
            done.examined += chunk.len();
            let census = match table {
                FlowTable::Claims => &mut self.claims,
                FlowTable::Confirmed | FlowTable::New => &mut self.flows,
            };
            census.keep(chunk.len().saturating_sub(over));
        }
        Ok(walk.leave())
    }

    fn collect_flow_loads(
        &mut self,
        position: Position<FlowKey>,
        limits: Limits,
        done: &mut Collected,
    ) -> Result<Position<FlowKey>, CollectError> {
        let failed = |action| failed(action, "FLOW_LOADS");
        let mut position = position;
        while limits.allow(done.examined) {
            let mut walk = self.loads.flows.resume(position);
            let chunk = walk.next_chunk().map_err(failed("walk"))?;
            position = walk.leave();
            let Some(chunk) = chunk else { break };
            for record in &chunk {
                let examined = self.loads.examine(&self.tables, record);
                examined.map_err(failed("clean"))?;
            }
            done.examined += chunk.len();
        }
        Ok(position)
    }

    fn count_socket_loads(
        &mut self,
        position: Position<u64>,
        limits: Limits,
        done: &mut Collected,
    ) -> Result<Position<u64>, CollectError> {
        let mut position = position;
        while limits.allow(done.examined) {
            let mut walk = self.loads.sockets.resume(position);
            let chunk = walk.next_chunk().map_err(failed("walk", "SOCKET_LOADS"))?;
            position = walk.leave();
            let Some(chunk) = chunk else { break };
            for (_, slot) in &chunk {
                self.loads.count(*slot);
            }
            done.examined += chunk.len();
        }
        if position.is_end() {
            self.loads.settle();
        }
        Ok(position)
    }

    fn collect_sockets(
        &self,
        position: Position<SocketKey>,
        limits: Limits,
        done: &mut Collected,
    ) -> Result<Position<SocketKey>, CollectError> {
        let failed = |action| failed(action, "SOCKET_BACKENDS");
        let mut walk = self.sockets.backends.resume(position);
        while limits.allow(done.examined) {
            let Some(chunk) = walk.next_chunk().map_err(failed("walk"))? else {
                break;
            };
            let (now, hz) = (self.clock.now()?, self.clock.hz());
            let collect = |element: &(SocketKey, SocketBackend)| {
                self.sockets.collect(&self.tables, element, now, hz)
            };
            for element in &chunk {
                done.sockets += usize::from(collect(element).map_err(failed("clean"))?);
            }
            done.examined += chunk.len();
        }
        Ok(walk.leave())
    }
}

const COUNTERS: &str = "COUNTERS";

fn failed(action: &'static str, map: &'static str) -> impl FnOnce(io::Error) -> CollectError {
    move |source| CollectError::Map {
        action,
        map,
        source,
    }
}

fn growth(counters: &CounterMap) -> Result<Growth, CollectError> {
    let sum = |counter: Counter| {
        counters
            .sum(counter as u32)
            .map_err(|source| CollectError::Map {
                action: "read",
                map: COUNTERS,
                source,
            })
    };
    Ok(Growth {
        flows: sum(Counter::FlowConfirmed)?.wrapping_mul(2),
        claims: sum(Counter::FlowCreated)?,
    })
}
