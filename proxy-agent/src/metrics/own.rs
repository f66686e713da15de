//! Our own metrics: what the agent holds, writes and refuses.

use jiff::Timestamp;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use proxy_common::abi::{ABI_VERSION, MAPS, device::DeviceClass};

use super::Factory;
use crate::{
    dataplane::abort::Protocol, delta::refusal::Reason, maps::OpKind, model::Problem,
    programmer::Statistics,
};

/// The metrics.
#[derive(Debug)]
pub struct Own {
    capacity: IntGaugeVec,
    entries: IntGaugeVec,
    unplaced: IntGaugeVec,
    operations: IntCounterVec,
    write_failures: IntCounter,
    /// Operations that restored the planned content of the maps.
    pub map_corrections: IntCounter,
    /// Services in the maps.
    pub services: IntGauge,
    /// Services that are not in the maps as planned, for any reason.
    pub services_pending: IntGauge,
    refused: IntGaugeVec,
    problems: IntCounterVec,
    devices: IntGaugeVec,
    /// Programs that could not be attached to or detached from devices.
    pub device_failures: IntGauge,
    /// Whether the source has this node's Node.
    pub node_found: IntGauge,
    source_updated: Gauge,
    flows_collected: IntCounter,
    sockets_aborted: IntCounterVec,
    health_check_ports: IntGaugeVec,
    /// Connections to the servers that were closed to make room for a new connection.
    pub connections_given_way: IntCounter,
}

/// Maps whose number of elements in use is known without a walk.
const MAPS_SHOWN: [&str; 8] = [
    "FRONTENDS",
    "TARGETS",
    "SLOTS",
    "BACKENDS",
    "SOURCE_RANGES",
    "META_NAMES",
    "FLOWS",
    "SNAT_CLAIMS",
];

/// Maps with entries that do not belong to a Service.
const MAPS_THAT_MAY_BE_FULL: [&str; 3] = ["META_NAMES", "NODE_ADDRS", "DEVICES"];

const CLASSES: [(DeviceClass, &str); 4] = [
    (DeviceClass::Uplink, "uplink"),
    (DeviceClass::Overlay, "overlay"),
    (DeviceClass::Pod, "pod"),
    (DeviceClass::Bridge, "bridge"),
];

const KINDS: [&str; 5] = ["Service", "EndpointSlice", "Node", "file", "other"];

impl Own {
    pub(super) fn new(factory: &Factory<'_>) -> prometheus::Result<Self> {
        let build = factory.gauges(
            "proxy_build_info",
            "Always 1. The labels are the version of the agent and the version of its maps.",
            &["version", "maps"],
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), &ABI_VERSION.to_string()])
            .set(1);
        let capacity = factory.gauges(
            "proxy_map_capacity_entries",
            "Capacity of a map, in elements.",
            &["map"],
        )?;
        let metrics = Self {
            capacity,
            entries: factory.gauges(
                "proxy_map_entries",
                "Elements of a map that are in use. For flow tables, the number that the last walk found.",
                &["map"],
            )?,
            unplaced: factory.gauges(
                "proxy_map_entries_without_room",
                "Entries that are missing from a map because it is full. Entries of Services do not count.",
                &["map"],
            )?,
            operations: factory.counters(
                "proxy_map_operations_total",
                "Operations written to the maps.",
                &["operation"],
            )?,
            write_failures: factory.counter(
                "proxy_map_write_failures_total",
                "Failed writes to the maps. The agent retries them.",
            )?,
            map_corrections: factory.counter(
                "proxy_map_corrections_total",
                "Operations that restored the planned content of the maps after a comparison with the plans.",
            )?,
            services: factory.gauge("proxy_services", "Services in the maps.")?,
            services_pending: factory.gauge(
                "proxy_services_pending",
                "Services that are not in the maps as planned: refused, failed or waiting.",
            )?,
            refused: factory.gauges(
                "proxy_services_refused",
                "Services that are not in the maps as planned because they were refused.",
                &["reason"],
            )?,
            problems: factory.counters(
                "proxy_problems_total",
                "Parts of objects that the agent ignored because they are invalid.",
                &["kind"],
            )?,
            devices: factory.gauges(
                "proxy_devices",
                "Network devices that the proxy serves.",
                &["class"],
            )?,
            device_failures: factory.gauge(
                "proxy_device_failures",
                "Programs that could not be attached to or detached from devices, at the last attempt.",
            )?,
            node_found: factory.gauge(
                "proxy_node_found",
                "1 while a Node object with this node's name exists.",
            )?,
            source_updated: factory.register(Gauge::new(
                "proxy_source_last_update_timestamp_seconds",
                "When objects changed last, in seconds since 1970.",
            )?)?,
            flows_collected: factory.counter(
                "proxy_flows_collected_total",
                "Ended flows that were removed from the flow tables.",
            )?,
            sockets_aborted: factory.counters(
                "proxy_sockets_aborted_total",
                "Sockets that were aborted because their backend is gone.",
                &["protocol"],
            )?,
            health_check_ports: factory.gauges(
                "proxy_health_check_ports",
                "Sockets for health checks of Services (healthCheckNodePort).",
                &["state"],
            )?,
            connections_given_way: factory.counter(
                "proxy_connections_given_way_total",
                "Connections to the servers of health and metrics that were closed to make room for a new connection.",
            )?,
        };
        metrics.show_all();
        Ok(metrics)
    }

    /// Shows events that have not happened yet as 0, instead of omitting them.
    fn show_all(&self) {
        let entries = MAPS_SHOWN.iter().map(|map| (*map, 0));
        self.set_entries(entries);
        self.set_capacities(MAPS.iter().map(|spec| (spec.name, spec.entries)));
        self.set_unplaced(MAPS_THAT_MAY_BE_FULL.map(|map| (map, 0)));
        for kind in OpKind::ALL {
            self.operations.with_label_values(&[kind.label()]);
        }
        for label in Reason::LABELS {
            self.refused.with_label_values(&[label]);
        }
        for kind in KINDS {
            self.problems.with_label_values(&[kind]);
        }
        for protocol in Protocol::ALL {
            self.count_aborted_sockets(protocol, 0);
        }
        self.set_devices(std::iter::empty());
        self.set_health_check_ports(0, 0);
    }

    /// How many elements maps have room for.
    pub fn set_capacities(&self, capacities: impl Iterator<Item = (&'static str, u32)>) {
        for (map, entries) in capacities.filter(|(map, _)| MAPS_SHOWN.contains(map)) {
            self.capacity.with_label_values(&[map]).set(entries.into());
        }
    }

    /// How many elements of maps are in use.
    pub fn set_entries(&self, entries: impl IntoIterator<Item = (&'static str, usize)>) {
        for (map, count) in entries {
            self.entries.with_label_values(&[map]).set(number(count));
        }
    }

    /// How many entries maps have no room for.
    pub fn set_unplaced(&self, entries: impl IntoIterator<Item = (&'static str, usize)>) {
        for (map, count) in entries {
            self.unplaced.with_label_values(&[map]).set(number(count));
        }
    }

    /// What the programmer has written so far.
    pub fn set_statistics(&self, statistics: &Statistics) {
        for (kind, count) in &statistics.ops {
            raise(&self.operations.with_label_values(&[kind.label()]), *count);
        }
        raise(&self.write_failures, statistics.failures);
    }

    /// The reason of each refused Service, and the number of Services that are too big to be planned.
    pub fn set_refused<'a>(&self, reasons: impl Iterator<Item = &'a Reason>, too_big: usize) {
        let mut counts = Reason::LABELS.map(|label| (label, 0));
        for reason in reasons {
            for (_, count) in counts
                .iter_mut()
                .filter(|(label, _)| *label == reason.label())
            {
                *count += 1;
            }
        }
        for (label, count) in counts {
            self.refused.with_label_values(&[label]).set(count);
        }
        let too_big = too_big.try_into().unwrap_or(i64::MAX);
        self.refused.with_label_values(&["too_big"]).set(too_big);
    }

    /// Something is wrong with an object.
    pub fn count_problem(&self, problem: &Problem) {
        let kind = problem.object.kind.as_str();
        let known = KINDS.into_iter().find(|known| *known == kind);
        self.problems
            .with_label_values(&[known.unwrap_or("other")])
            .inc();
    }

    /// The devices that are served, by `DeviceClass` as a number.
    pub fn set_devices(&self, classes: impl Iterator<Item = u8>) {
        let mut counts = CLASSES.map(|(class, label)| (class as u8, label, 0));
        for class in classes {
            for (_, _, count) in counts.iter_mut().filter(|(known, ..)| *known == class) {
                *count += 1;
            }
        }
        for (_, label, count) in counts {
            self.devices.with_label_values(&[label]).set(count);
        }
    }

    /// Objects changed.
    pub fn source_updated(&self, time: Timestamp) {
        self.source_updated.set(time.as_duration().as_secs_f64());
    }

    /// Sockets were aborted because their backend is gone.
    pub fn count_aborted_sockets(&self, protocol: Protocol, count: usize) {
        let label = match protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        self.sockets_aborted
            .with_label_values(&[label])
            .inc_by(count as u64);
    }

    /// Flows were removed.
    pub fn count_collected(&self, flows: usize) {
        self.flows_collected.inc_by(flows as u64);
    }

    /// Sockets for health checks that serve, and those that could not be opened.
    pub fn set_health_check_ports(&self, serving: usize, failed: usize) {
        for (state, count) in [("serving", serving), ("failed", failed)] {
            self.health_check_ports
                .with_label_values(&[state])
                .set(number(count));
        }
    }
}

fn number(count: usize) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Brings a counter up to a total that is counted elsewhere.
pub(super) fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
