//! Counters: drop reasons (semantics P6) and other events, by index in the per-CPU array `COUNTERS`.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal, $sentence:literal;)*) => {
        /// An event that is counted; its number is the index in `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Counter { $(#[doc = $sentence] $name),* }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$name),*];
            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The counter of a number.
            #[inline(always)]
            pub const fn from_u32(n: u32) -> Option<Self> {
                $(if n == Self::$name as u32 { return Some(Self::$name); })*
                None
            }

            /// Label in metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label),* }
            }

            /// Why a packet was dropped, if that is what is counted: the label without its `drop_`.
            pub fn drop_reason(self) -> Option<&'static str> {
                self.label().strip_prefix("drop_")
            }

            /// What happened, as a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence),* }
            }
        }
    };
}

// New ones come last: the map outlives the agent, and what is in it keeps its meaning.
counters! {
    FlowCreated = "flow_created", "A new flow was given a backend by a packet.";
    FlowConfirmed = "flow_confirmed", "The first reply of a flow was seen.";
    SocketTranslated = "socket_translated", "A socket was connected, or sent, to a backend.";
    RejectedNoEndpoint = "reject_no_endpoint", "A packet was answered with RST or port unreachable: its Service has no endpoint.";
    RefusedNoEndpoint = "refuse_no_endpoint", "A socket was refused: its Service has no endpoint.";
    DropNoLocalEndpoint = "drop_no_local_endpoint", "Dropped: the Service has endpoints, but none that its traffic policy allows here.";
    DropSourceRange = "drop_source_range", "Dropped: the client is in none of the Service's loadBalancerSourceRanges.";
    DropFlowTableFull = "drop_flow_table_full", "Dropped: no room for the flow in the flow tables.";
    DropNoSourcePort = "drop_no_source_port", "Dropped: no source port was free for the translated flow.";
    DropNoSourceAddress = "drop_no_source_address", "Dropped: the device towards the backend has no address to translate the source to.";
    DropNoRoute = "drop_no_route", "Dropped: this node has no route to the backend or client.";
    DropTtl = "drop_ttl", "Dropped: the packet's hop limit was used up, and it is not answered.";
    DropTooBig = "drop_too_big", "Dropped: the packet is bigger than the path to the backend or client takes, and it is not answered.";
    DropRewrite = "drop_rewrite", "Dropped: the packet could not be rewritten.";
    DropStaleBackend = "drop_stale_backend", "Dropped: the backend chosen was gone before it could be used.";
    DropAnswer = "drop_answer", "Dropped: the packet was to be refused, and is not answered (with a RST behind IP options or extension headers; a fragment other than the first; from or to others than one host).";
    XdpSent = "xdp_sent", "A translated packet was sent out by XDP.";
    XdpPassed = "xdp_passed", "XDP left a packet of a Service to tc.";
    TcpEnded = "tcp_ended", "A client's packet was answered with RST: the backend of its connection was deleted.";
    IcmpTranslated = "icmp_translated", "An ICMP error about a translated packet was translated, and sent on.";
    TooBigAnswered = "answer_too_big", "A packet was answered with fragmentation needed (packet too big): the path to the backend or client takes less.";
    TtlAnswered = "answer_time_exceeded", "A packet was answered with time exceeded: its hop limit was used up.";
    FlowUnconfirmed = "flow_unconfirmed", "A reply was translated and went on, but its flow was not confirmed: the flow table is full. The next reply tries again.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p6_drops_have_reasons_and_nothing_else_has() {
        assert_eq!(Counter::DropTtl.drop_reason(), Some("ttl"));
        assert_eq!(Counter::FlowCreated.drop_reason(), None);
        let drops = Counter::ALL.iter().filter(|c| c.drop_reason().is_some());
        let told = Counter::ALL
            .iter()
            .filter(|c| c.sentence().starts_with("Dropped:"));
        assert!(drops.eq(told));
    }
}
