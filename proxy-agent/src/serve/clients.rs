//! The table of connections. All servers share it, so that any number of ports and clients stays within the limits. If the
//! table is full, the connection that has gone longest without a request is closed: a new connection is served within
//! milliseconds, while a connection with a half-sent request grows old.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus::IntCounter;
use tokio::{task::AbortHandle, time::sleep_until};

/// See [`Limits::longest`].
const LONGEST: Duration = Duration::from_secs(20);

/// A client; all its connections count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// The node's own processes over TCP, such as the kubelet, by address: loopback, or a node's address to itself.
    Node(IpAddr),
    /// Programs that connect to the agent's Unix socket.
    Local,
    /// An IPv4 address of another host.
    V4(Ipv4Addr),
    /// A /64 of other hosts: one host may have all of it.
    V6([u16; 4]),
}

impl Client {
    /// The client at the other end of a connection.
    pub fn of(peer: IpAddr, local: IpAddr) -> Self {
        let peer = peer.to_canonical();
        match peer {
            // No other host can complete a handshake from an address of the node.
            _ if peer.is_loopback() || peer == local.to_canonical() => Self::Node(peer),
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                Self::V6([a, b, c, d])
            }
        }
    }

    const fn group(self) -> Group {
        match self {
            Self::Node(_) => Group::Node,
            Self::Local => Group::Local,
            Self::V4(_) | Self::V6(_) => Group::Elsewhere,
        }
    }
}

/// A group of clients. Clients of different groups never take each other's places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Group {
    Node,
    Local,
    Elsewhere,
}

/// Limits on the descriptors of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections from other hosts.
    pub elsewhere: usize,
    /// Connections from one client on another host.
    pub client: usize,
    /// Connections of the node's own processes over TCP, and also the number over the Unix socket. No other client can take
    /// these places.
    pub own: usize,
    /// Sockets that listen for health checks of Services.
    pub listeners: usize,
    /// How long a connection may last after its last request began, or after it was opened if it had no request. A client
    /// that reads its answer needs less.
    pub longest: Duration,
}

impl Limits {
    /// Shares of the number of files that this process may open. At least half is left for maps, links and other work.
    pub fn of(descriptors: usize) -> Self {
        let elsewhere = (descriptors / 8).clamp(4, 512);
        Self {
            elsewhere,
            client: elsewhere / 4,
            own: (descriptors / 32).clamp(4, 64),
            listeners: descriptors / 4,
            longest: LONGEST,
        }
    }

    /// The limit of a group, and the limit of one client in the group.
    const fn of_group(&self, group: Group) -> (usize, usize) {
        match group {
            Group::Node | Group::Local => (self.own, self.own),
            Group::Elsewhere => (self.elsewhere, self.client),
        }
    }
}

/// The table of connections.
#[derive(Clone, Debug)]
pub struct Clients {
    limits: Limits,
    table: Arc<Mutex<Table>>,
    given_way: IntCounter,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    /// When its last request began, or when it was opened if it had no request.
    since: Instant,
    task: Option<AbortHandle>,
}

/// A connection's place in the table. Dropping it frees the place.
#[derive(Debug)]
pub struct Place {
    id: u64,
    clients: Clients,
}

impl Table {
    /// The connection to close for a new connection of a client. If the client has reached its limit, it is the client's own
    /// oldest connection. If the group is full, it is the oldest connection of the client with the most.
    fn victim(&self, client: Client, limits: &Limits) -> Option<u64> {
        let (all, share) = limits.of_group(client.group());
        let mut clients = BTreeMap::<Client, Vec<(Instant, u64)>>::new();
        let group = |open: &&Connection| open.client.group() == client.group();
        for (id, open) in self.open.iter().filter(|(_, open)| group(open)) {
            clients
                .entry(open.client)
                .or_default()
                .push((open.since, *id));
        }
        let own = clients.get(&client).filter(|own| own.len() >= share);
        let is_full = clients.values().map(Vec::len).sum::<usize>() >= all;
        let oldest = |connections: &Vec<_>| connections.iter().min().copied();
        let from = own.or_else(|| {
            let most = clients
                .values()
                .max_by_key(|connections| (connections.len(), Reverse(oldest(connections))));
            most.filter(|_| is_full)
        });
        Some(oldest(from?)?.1)
    }

    fn oldest(&self) -> Option<u64> {
        let oldest = self.open.iter().min_by_key(|(_, open)| open.since);
        oldest.map(|(id, _)| *id)
    }
}

impl Clients {
    /// An empty table. `given_way` counts connections that were closed for others.
    pub fn new(limits: Limits, given_way: IntCounter) -> Self {
        Self {
            limits,
            table: Arc::default(),
            given_way,
        }
    }

    /// The limits.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Adds a connection. If another connection is closed for it, that connection's task ends at its next poll.
    pub fn admit(&self, client: Client) -> Place {
        let mut table = self.table();
        if let Some(victim) = table.victim(client, &self.limits) {
            self.close(&mut table, victim);
        }
        let id = table.next;
        table.next += 1;
        let connection = Connection {
            client,
            since: Instant::now(),
            task: None,
        };
        table.open.insert(id, connection);
        let clients = self.clone();
        Place { id, clients }
    }

    /// Sets the task that serves a connection.
    pub fn set_task(&self, id: u64, task: AbortHandle) {
        if let Some(open) = self.table().open.get_mut(&id) {
            open.task = Some(task);
        }
    }

    /// Closes the oldest connection of all clients, because no descriptors are left.
    pub fn close_oldest(&self) {
        let mut table = self.table();
        if let Some(id) = table.oldest() {
            self.close(&mut table, id);
        }
    }

    fn close(&self, table: &mut Table, id: u64) {
        if let Some(task) = table.open.remove(&id).and_then(|open| open.task) {
            task.abort();
            self.given_way.inc();
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Its number in the table.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// A request has begun.
    pub fn requested(&self) {
        if let Some(open) = self.clients.table().open.get_mut(&self.id) {
            open.since = Instant::now();
        }
    }

    /// Ready when the connection has lasted too long without a new request.
    pub async fn expired(&self) {
        let longest = self.clients.limits.longest;
        let end = || {
            let table = self.clients.table();
            table.open.get(&self.id).map(|open| open.since + longest)
        };
        while let Some(end) = end().filter(|end| *end > Instant::now()) {
            sleep_until(end.into()).await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.table().open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests;
