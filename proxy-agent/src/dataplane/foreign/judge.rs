//! Which programs keep state, as far as it can be seen from outside.

use std::collections::{BTreeMap, BTreeSet};

/// `enum bpf_map_type`: those that a connection can be looked up in, and that of tail calls.
const HASH: u32 = 1;
const PROG_ARRAY: u32 = 3;
const PERCPU_HASH: u32 = 5;
const LRU_HASH: u32 = 9;
const LRU_PERCPU_HASH: u32 = 10;
/// `BPF_F_RDONLY_PROG`: programs can't write it.
const READ_ONLY: u32 = 1 << 7;

/// How names of programs of CNIs begin that are known to track connections (Cilium, Calico).
const KNOWN: [&str; 3] = ["cil_", "cali_", "calico_"];

/// A map that a program uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub name: String,
    /// `enum bpf_map_type`.
    pub kind: u32,
    pub flags: u32,
}

/// A program and the maps it uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Used {
    pub program: String,
    pub tables: Vec<Table>,
}

impl Used {
    /// Why it is taken to keep state; `None`: it is not.
    pub fn reason(&self) -> Option<String> {
        if KNOWN.iter().any(|known| self.program.starts_with(known)) {
            return Some("which tracks connections".to_owned());
        }
        let writes = |table: &&Table| {
            matches!(table.kind, HASH | PERCPU_HASH | LRU_HASH | LRU_PERCPU_HASH)
                && table.flags & READ_ONLY == 0
        };
        if let Some(table) = self.tables.iter().find(writes) {
            return Some(format!("which may keep state (map {:?})", table.name));
        }
        let calls = self.tables.iter().any(|table| table.kind == PROG_ARRAY);
        calls.then(|| "which goes on in programs that can't be seen (tail calls)".to_owned())
    }
}

/// A program that keeps state, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub program: String,
    pub reason: String,
    pub device: String,
    pub side: &'static str,
}

/// What is to be said of what was not told before: one sentence for each program and side.
pub(super) fn sentences(found: &BTreeSet<Finding>, told: &BTreeSet<Finding>) -> Vec<String> {
    let mut devices = BTreeMap::<_, Vec<&str>>::new();
    for finding in found.difference(told) {
        let of = (&finding.program, &finding.reason, finding.side);
        devices.entry(of).or_default().push(&finding.device);
    }
    let sentence = |((program, reason, side), devices): ((&String, &String, &str), Vec<&str>)| {
        format!(
            "devices of pods ({}) have another component's tc program {program} at their {side}, {reason}: it may see a \
             Service's address in one direction and the pod's in the other, or send replies past our programs. Pods are \
             served by their sockets there, so leave --socket-lb=all; those that sockets do not cover are not supported",
            devices.join(", ")
        )
    };
    devices.into_iter().map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(program: &str, tables: &[(u32, u32)]) -> Option<String> {
        let table = |&(kind, flags)| Table {
            name: "ct".to_owned(),
            kind,
            flags,
        };
        let used = Used {
            program: program.to_owned(),
            tables: tables.iter().map(table).collect(),
        };
        used.reason()
    }

    #[test]
    fn programs_with_tables_that_they_may_write_keep_state() {
        const ARRAY: u32 = 2;
        const PERCPU_ARRAY: u32 = 6;
        const LPM_TRIE: u32 = 11;
        assert_eq!(reason("meter", &[(ARRAY, 0), (PERCPU_ARRAY, 0)]), None);
        assert_eq!(
            reason("filter", &[(LPM_TRIE, 1), (HASH, READ_ONLY | 1)]),
            None
        );
        for kind in [HASH, PERCPU_HASH, LRU_HASH, LRU_PERCPU_HASH] {
            let found = reason("filter", &[(ARRAY, 0), (kind, 1)]);
            assert_eq!(found.unwrap(), "which may keep state (map \"ct\")");
        }
        assert!(reason("entry", &[(PROG_ARRAY, 0)]).is_some());
        assert!(reason("cil_from_contai", &[]).is_some());
        assert!(reason("cali_tc_preambl", &[]).is_some());
    }

    #[test]
    fn each_program_is_told_once_with_its_devices() {
        let finding = |program: &str, device: &str, side| Finding {
            program: program.to_owned(),
            reason: "which tracks connections".to_owned(),
            device: device.to_owned(),
            side,
        };
        let first: BTreeSet<_> = [
            finding("cil_from_contai", "lxc1", "ingress"),
            finding("cil_from_contai", "lxc2", "ingress"),
            finding("cil_to_containe", "lxc1", "egress"),
        ]
        .into();
        let said = sentences(&first, &BTreeSet::new());
        assert_eq!(said.len(), 2);
        assert!(
            said[0].starts_with(
                "devices of pods (lxc1, lxc2) have another component's tc program cil_from_contai at their ingress, which \
                 tracks connections: "
            ),
            "{}",
            said[0]
        );
        assert_eq!(sentences(&first, &first), [""; 0]);
        let mut later = first.clone();
        later.insert(finding("cil_from_contai", "lxc3", "ingress"));
        let said = sentences(&later, &first);
        assert!(said.len() == 1 && said[0].contains("(lxc3)"), "{said:?}");
    }
}
