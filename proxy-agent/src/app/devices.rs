//! This node's devices and addresses, and what is attached to them.

use std::{collections::BTreeMap, time::Instant};

use super::App;
use crate::{
    dataplane::{attach::Port, audit::Kind, probe},
    devices::{
        addresses::{node_addresses, node_addrs},
        classify::classify,
    },
};

impl App {
    /// Makes attachments, maps and plans what devices and addresses are now.
    pub(super) fn take_devices(&mut self) {
        let classes = classify(&self.observed, &self.config.devices);
        for problem in &classes.problems {
            if !self.device_problems.contains(problem) {
                tracing::warn!("{problem}");
            }
        }
        self.device_problems = classes.problems;
        // A device is known to the programs before they are on it.
        self.program_devices(&classes.ports);
        let served = classes.ports.values().map(|port| port.device.class);
        self.monitor.set_devices(served);
        self.inspector.look_at(&classes.ports);
        self.ports = classes.ports;
        self.audit();
        self.take_addresses();
    }

    /// Makes attachments and pins what they should be, whoever changed them. What a driver can do for XDP may change without an
    /// event, too.
    pub(super) fn audit(&mut self) {
        let mut findings = self.pins.reconcile();
        let trusted = self.pins.is_trusted();
        self.attachments.trust_pins(trusted);
        self.uplinks.trust_pins(trusted);
        let devices = self.attachments.reconcile(&self.ports);
        self.monitor.set_device_failures(devices.failures.len());
        findings.extend(devices);
        let programs = self.attachments.programs_mut();
        findings.extend(self.uplinks.reconcile(programs, &self.ports));
        // A cgroup that was given by name may have been made anew under that name.
        if let Some(path) = &self.config.cgroup {
            match probe::open_cgroup(Some(path)) {
                Ok(cgroup) => self.cgroup = cgroup,
                Err(error) => findings.failed(Kind::Cgroup, path.display().to_string(), error),
            }
        }
        findings.extend(self.attachments.reconcile_sockets(&self.cgroup));
        self.monitor.audited(&findings);
        self.teller.tell(&findings, Instant::now());
        let ports = std::mem::take(&mut self.ports);
        self.program_devices(&ports);
        self.ports = ports;
    }

    fn program_devices(&mut self, ports: &BTreeMap<u32, Port>) {
        let entry = |(&ifindex, port): (&u32, &Port)| {
            let mut device = port.device;
            device.flags |= self.uplinks.flags(ifindex, port);
            (ifindex, device)
        };
        let entries = ports.iter().map(entry).collect();
        let outcome = self.programmer.set_devices(entries, Instant::now());
        self.settle(outcome);
    }

    /// Makes maps and plans what this node's addresses are now. Before the first full list the Node object, which
    /// `--nodeport-addresses=primary` goes by, may be missing: what an earlier run programmed stays.
    pub(super) fn take_addresses(&mut self) {
        let addresses = node_addresses(&self.observed);
        if self.planner.is_synced() {
            let primary: Vec<_> = self
                .planner
                .node()
                .map(|node| node.primary_addresses().collect())
                .unwrap_or_default();
            let flags = node_addrs(&addresses, &self.config.node_port_addresses, &primary);
            let outcome = self.programmer.set_node_addrs(flags, Instant::now());
            self.settle(outcome);
            let nowhere = self
                .config
                .node_port_addresses
                .nowhere(&addresses, &primary);
            self.journal.holds("--nodeport-addresses", nowhere);
            let listen = self.config.node_port_addresses.listen(&addresses, &primary);
            self.monitor.set_check_addresses(listen);
        }
        let problems = self.planner.set_node_addresses(addresses);
        self.complain(&problems);
    }
}
