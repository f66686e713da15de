//! Tests of the packet path. Each step is a packet, the hook that it passes, and the expected result.

mod answers;
mod claims;
mod clients_of_cluster;
mod clients_outside;
mod closing;
mod deleted_backends;
mod fixture;
mod fragments;
mod hairpin;
mod icmp_errors;
mod limits;
mod lookup;
mod masquerade;
mod model;
mod moved_backends;
mod node;
mod not_ours;
mod properties;
mod refusals;
mod scene;
mod sctp;
mod straight;
mod xdp;
