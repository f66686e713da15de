//! The shell around the kernel: says what there is, and when that changes.
//!
//! Every event, whatever it says, has everything listed anew: that is simple, and cheap beside what a CNI does for a
//! pod. So nothing depends on the order of events, or on none being lost.

mod decode;

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkExtentMask,
    route::{RouteHeader, RouteMessage},
};
use rtnetlink::{
    Handle, MulticastGroup,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{self, Instant, Interval, MissedTickBehavior},
};

use super::observed::{Address, Observed};

/// How long the first of several events is waited upon: a CNI makes a device, an address and a route at once.
const BURST: Duration = Duration::from_millis(10);
/// Time between two lists, however many events there are.
const PACE: Duration = Duration::from_millis(50);
/// How often everything is listed without an event.
const REVIEW: Duration = Duration::from_mins(1);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the kernel may take for one list.
const PATIENCE: Duration = Duration::from_secs(10);

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Why the devices are not known.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No socket.
    #[error("could not open a netlink socket to watch devices and addresses")]
    Open(#[source] io::Error),
    /// A list failed.
    #[error("could not list the {what} of this node by netlink")]
    List {
        /// Links, addresses or routes.
        what: &'static str,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
    /// The task that follows them is gone.
    #[error("devices and addresses are not followed any more")]
    Ended,
    /// A list did not come.
    #[error("the kernel did not list the {what} of this node within {} s", PATIENCE.as_secs())]
    Patience {
        /// Links, addresses or routes.
        what: &'static str,
    },
}

type Message = NetlinkMessage<RouteNetlinkMessage>;

/// A netlink socket and the task that serves it.
struct Connection {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A socket of its own, so that a flood of events never stands in the way of a list.
fn connect() -> Result<Connection, WatchError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(WatchError::Open)?;
    Ok(Connection {
        handle,
        task: tokio::spawn(connection),
    })
}

/// The events, and the socket they come by.
struct Events {
    messages: Box<dyn Stream<Item = Message> + Send + Unpin>,
    _connection: Connection,
}

fn subscribe() -> Result<Events, WatchError> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&GROUPS).map_err(WatchError::Open)?;
    Ok(Events {
        messages: Box::new(messages.map(|(message, _)| message)),
        _connection: Connection {
            handle,
            task: tokio::spawn(connection),
        },
    })
}

/// Follows the network namespace that it was started in.
///
/// A task of its own reads the lists. A caller that waits for a change may stop waiting at any time; a list that was
/// asked for must be read to its end all the same, since what nobody reads stays in the socket and netlink-proto warns
/// of each such message.
#[derive(Debug)]
pub struct Watcher {
    seen: watch::Receiver<Result<Observed, Arc<WatchError>>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Begins to follow the network namespace of the calling thread; returns what it holds now. To be called within a
    /// tokio runtime with I/O and time.
    pub async fn start() -> Result<(Self, Observed), WatchError> {
        // Events first: what happens while the lists are read is then not missed.
        let events = subscribe()?;
        let lists = connect()?;
        let first = list(&lists.handle).await?;
        let mut review = time::interval_at(Instant::now() + REVIEW, REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let follower = Follower {
            lists,
            events,
            review,
            listed: Instant::now(),
        };
        let (tell, seen) = watch::channel(Ok(first.clone()));
        let task = tokio::spawn(follower.follow(tell));
        Ok((Self { seen, task }, first))
    }

    /// Waits until something is different, and returns all there is then. May be dropped and called again at any
    /// time without a loss. After an error, wait for the next change: lists go on being tried.
    pub async fn changed(&mut self) -> Result<Observed, Arc<WatchError>> {
        if self.seen.changed().await.is_err() {
            return Err(Arc::new(WatchError::Ended));
        }
        self.seen.borrow_and_update().clone()
    }
}

/// What the task of a [`Watcher`] holds. The namespace is that of the thread that opened the sockets; another socket is
/// opened by the thread that runs the task.
struct Follower {
    lists: Connection,
    events: Events,
    review: Interval,
    /// When the last list was read.
    listed: Instant,
}

impl Follower {
    /// Tells what there is whenever that has changed, and each failure, for as long as somebody listens.
    async fn follow(mut self, tell: watch::Sender<Result<Observed, Arc<WatchError>>>) {
        let mut failed = false;
        while !tell.is_closed() {
            let event = if failed {
                time::sleep(AGAIN).await;
                Ok(())
            } else {
                self.wait().await
            };
            let now = match event {
                Ok(()) => self.list().await,
                Err(error) => Err(error),
            };
            failed = now.is_err();
            tell.send_if_modified(|told| {
                let news = match (&*told, &now) {
                    (Ok(told), Ok(now)) => told != now,
                    _ => true,
                };
                if news {
                    *told = now.map_err(Arc::new);
                }
                news
            });
        }
    }

    /// Lists everything, a little after the event that asks for it.
    async fn list(&mut self) -> Result<Observed, WatchError> {
        time::sleep(BURST).await;
        time::sleep_until(self.listed + PACE).await;
        self.skip_pending();
        let now = list(&self.lists.handle).await;
        if now.is_err() {
            // The socket may be what is wrong.
            self.lists = connect()?;
        }
        self.listed = Instant::now();
        now
    }

    /// Until an event that matters, or the time of a review.
    async fn wait(&mut self) -> Result<(), WatchError> {
        loop {
            tokio::select! {
                message = self.events.messages.next() => match message {
                    Some(message) if matters(&message) => return Ok(()),
                    Some(_) => {}
                    None => {
                        tracing::warn!("netlink socket for events was closed; opening another");
                        self.events = subscribe()?;
                        return Ok(());
                    }
                },
                _ = self.review.tick() => return Ok(()),
            }
        }
    }

    /// Events from before a list say nothing new.
    fn skip_pending(&mut self) {
        while let Some(Some(_)) = self.events.messages.next().now_or_never() {}
    }
}

/// Whether an event can change what is observed. Routes to other nodes come and go in great numbers.
fn matters(message: &Message) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => decode::is_default(route) || decode::host_route(route).is_some(),
        // Links and addresses, and `Overrun`: events were lost.
        _ => true,
    }
}

async fn list(handle: &Handle) -> Result<Observed, WatchError> {
    let links = handle
        .link()
        .get()
        .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    let links = collect("links", links.execute()).await?;
    let addresses = collect("addresses", handle.address().get().execute()).await?;
    let mut addresses: Vec<_> = addresses.iter().filter_map(decode::address).collect();
    addresses.sort_by_key(|address| address.ifindex);
    let (mut default_routes, mut host_routes) = (BTreeSet::new(), BTreeSet::new());
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut query = RouteMessage::default();
        query.header.address_family = family;
        query.header.table = RouteHeader::RT_TABLE_MAIN;
        // A node that speaks BGP has very many: none is kept.
        let routes = handle.route().get(query).execute().try_filter_map(|route| {
            default_routes.extend(decode::default_routes(&route));
            if let Some((ifindex, host)) = decode::host_route(&route)
                && in_subnet_of(&addresses, ifindex, host)
            {
                host_routes.insert(ifindex);
            }
            std::future::ready(Ok(None::<()>))
        });
        collect("routes", routes).await?;
    }
    Ok(Observed {
        links: links.iter().filter_map(decode::link).collect(),
        addresses,
        default_routes,
        host_routes,
    })
}

/// Whether a host is in the subnet of one of a device's addresses, not being that address.
fn in_subnet_of(addresses: &[Address], ifindex: u32, host: IpAddr) -> bool {
    let first = addresses.partition_point(|address| address.ifindex < ifindex);
    addresses[first..]
        .iter()
        .take_while(|address| address.ifindex == ifindex)
        .any(|address| !address.is_single_host() && address.ip != host && address.holds(host))
}

async fn collect<T>(
    what: &'static str,
    list: impl Stream<Item = Result<T, rtnetlink::Error>>,
) -> Result<Vec<T>, WatchError> {
    match time::timeout(PATIENCE, list.try_collect()).await {
        Ok(Ok(all)) => Ok(all),
        // A kernel without IPv6.
        Ok(Err(rtnetlink::Error::NetlinkError(error)))
            if [-libc::EAFNOSUPPORT, -libc::EOPNOTSUPP].contains(&error.raw_code()) =>
        {
            Ok(Vec::new())
        }
        Ok(Err(source)) => Err(WatchError::List { what, source }),
        Err(_) => Err(WatchError::Patience { what }),
    }
}
