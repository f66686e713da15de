//! The host's implementation of [`Packet`](crate::packet::Packet) and [`Tables`](crate::tables::Tables):
//! packets in a `Vec`, maps in `BTreeMap`s, a clock that tests advance, random numbers from a fixed seed.
//!
//! Unit, property and differential tests run the datapath on it. It is deterministic: the same world and the
//! same packets give the same bytes.
//!
//! ```
//! use proxy_common::{
//!     abi::{device::LinkType, frontend::FrontendKind, protocol},
//!     datapath::{self, Ingress, Verdict, Work},
//!     host::{Service, Segment, World},
//! };
//!
//! let world = World::default();
//! world.add_service(
//!     &Service::new(protocol::TCP)
//!         .frontend(FrontendKind::ClusterIp, "10.96.0.1:80")
//!         .backend("10.0.1.7:8080"),
//! );
//! let mut syn = Segment::tcp("10.0.0.5:40000", "10.96.0.1:80").syn().frame();
//! let at = Ingress { ifindex: 5, link: LinkType::Ethernet };
//! let verdict = datapath::pod_ingress(&mut syn, &mut &world, &mut Work::default(), at);
//!
//! assert_eq!(verdict, Verdict::Continue);
//! assert_eq!(syn, Segment::tcp("10.0.0.5:40000", "10.0.1.7:8080").syn().frame());
//! ```

mod array;
mod fragments;
mod frame;
mod routes;
mod segment;
mod service;
mod table;
mod world;

pub use array::Array;
pub use fragments::fragments;
pub use frame::{Frame, PendingChecksum, checksum_of, crc32c_of};
pub use routes::{Listener, RouteTable};
pub use segment::{MacPair, Segment, Transport};
pub use service::{Placed, Service};
pub use table::Table;
pub use world::{FlowElement, World};
