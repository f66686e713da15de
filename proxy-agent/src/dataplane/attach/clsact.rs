//! Kernels before 6.6: filters of a clsact qdisc. They stay when the agent goes, are known by handle and name, and are
//! replaced in place.

mod netlink;

use std::{collections::BTreeMap, io, os::fd::BorrowedFd};

use self::netlink::{ALL_PROTOCOLS, BPF, Filter, TrafficControl};
use super::{DETACHED, Direction, Found, PacketProgram, REPLACED};
use crate::dataplane::sys::process::device_name;

/// Why the filters of a device could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// No socket.
    #[error("could not open a netlink socket for traffic control")]
    Open(#[source] io::Error),
    /// A list failed.
    #[error("could not list the {what}")]
    List {
        /// Qdiscs or filters, and where.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A qdisc.
    #[error("could not {action} the clsact qdisc of device {device}")]
    Qdisc {
        /// What was tried.
        action: &'static str,
        /// Its name, or ifindex.
        device: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A filter.
    #[error("could not {action} the filter {name} at the {side} of device {device}")]
    Filter {
        /// What was tried.
        action: &'static str,
        /// Filter.
        name: String,
        /// Ingress or egress.
        side: &'static str,
        /// Its name, or ifindex.
        device: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// "kp": tells our filter from others of its priority.
const HANDLE: u32 = 0x6b70;
/// How the names of our filters begin.
const NAME: &str = "kube-proxy-ebpf/";
/// Where filters without a priority are not: the kernel gives those out from 0xc000 downwards.
const LAST: u16 = 0xfff0;

/// Attaches, by one socket for all devices.
#[derive(Debug, Default)]
pub struct Clsact {
    tc: Option<TrafficControl>,
    /// Where our filters were seen last: asking for one is cheaper than listing all of a device.
    seen: BTreeMap<(u32, Direction), Filter>,
}

impl Clsact {
    /// Makes the filter on a side of a device the one of a program, which has this number. Filters of others are left as
    /// they are.
    pub fn attach(
        &mut self,
        ifindex: u32,
        side: Direction,
        program: PacketProgram,
        fd: BorrowedFd<'_>,
        id: u32,
    ) -> Result<Found, ClsactError> {
        let mut tc = match self.tc.take() {
            Some(tc) => tc,
            None => TrafficControl::open().map_err(ClsactError::Open)?,
        };
        let name = format!("{NAME}{}", program.name());
        let seen = self.seen.remove(&(ifindex, side));
        let wanted = seen.filter(|seen| (seen.program, &seen.name) == (id, &name));
        // What became of it shows in the list.
        if let Some(wanted) = wanted
            && tc.get(ifindex, side, &wanted).ok().flatten().as_ref() == Some(&wanted)
        {
            self.seen.insert((ifindex, side), wanted);
            self.tc = Some(tc);
            return Ok(None);
        }
        let others = list(&mut tc, ifindex, side)?;
        let old = others.iter().find(|filter| is_ours(filter));
        let filter = Filter {
            priority: old.map_or_else(|| free_priority(side, &others), |old| old.priority),
            protocol: ALL_PROTOCOLS,
            handle: HANDLE,
            kind: BPF.to_owned(),
            name,
            program: id,
        };
        let found = match old {
            Some(old) if *old == filter => None,
            Some(_) => Some(REPLACED),
            None => Some(DETACHED),
        };
        if found.is_some() {
            put(&mut tc, ifindex, side, &filter, fd, old.is_some())?;
        }
        self.seen.insert((ifindex, side), filter);
        // Not after an error, which may leave answers in it.
        self.tc = Some(tc);
        Ok(found)
    }

    /// A device's side is not looked at any more.
    pub fn forget(&mut self, ifindex: u32, side: Direction) {
        self.seen.remove(&(ifindex, side));
    }
}

fn put(
    tc: &mut TrafficControl,
    ifindex: u32,
    side: Direction,
    filter: &Filter,
    fd: BorrowedFd<'_>,
    replace: bool,
) -> Result<(), ClsactError> {
    match tc.add_clsact(ifindex) {
        Err(source) if source.raw_os_error() != Some(libc::EEXIST) => {
            return Err(ClsactError::Qdisc {
                action: "add",
                device: device(ifindex),
                source,
            });
        }
        Ok(()) | Err(_) => {}
    }
    tc.put(ifindex, side, filter, fd, replace)
        .map_err(changing("attach", filter, side, ifindex))
}

/// Removes our filters from a side of a device, and its qdisc where nothing else is on it then; returns how many. A
/// device that is gone has none.
pub fn detach(ifindex: u32, side: Direction) -> Result<usize, ClsactError> {
    let mut tc = TrafficControl::open().map_err(ClsactError::Open)?;
    let mut removed = 0;
    for filter in list(&mut tc, ifindex, side)?.iter().filter(|f| is_ours(f)) {
        match tc.remove(ifindex, side, filter) {
            Err(error) if !is_gone(&error) => {
                return Err(changing("detach", filter, side, ifindex)(error));
            }
            Ok(()) | Err(_) => removed += 1,
        }
    }
    if removed == 0 {
        return Ok(0);
    }
    for side in Direction::ALL {
        if !list(&mut tc, ifindex, side)?.is_empty() {
            return Ok(removed);
        }
    }
    match tc.remove_clsact(ifindex) {
        // An ingress qdisc of another's, which has our parent's number.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(removed),
        Err(source) if !is_gone(&source) => Err(ClsactError::Qdisc {
            action: "remove",
            device: device(ifindex),
            source,
        }),
        Ok(()) | Err(_) => Ok(removed),
    }
}

/// Where our filters are, of this run or of an earlier one.
pub fn attached() -> Result<Vec<(u32, Direction)>, ClsactError> {
    let mut tc = TrafficControl::open().map_err(ClsactError::Open)?;
    let devices = match tc.devices() {
        // CONFIG_NET_SCHED is missing.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Vec::new(),
        other => other.map_err(|source| ClsactError::List {
            what: "qdiscs of this node".to_owned(),
            source,
        })?,
    };
    let mut found = Vec::new();
    for ifindex in devices {
        for side in Direction::ALL {
            if list(&mut tc, ifindex, side)?.iter().any(is_ours) {
                found.push((ifindex, side));
            }
        }
    }
    Ok(found)
}

fn list(
    tc: &mut TrafficControl,
    ifindex: u32,
    side: Direction,
) -> Result<Vec<Filter>, ClsactError> {
    match tc.filters(ifindex, side) {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        other => other.map_err(|source| ClsactError::List {
            what: format!(
                "filters at the {} of device {}",
                side.label(),
                device(ifindex)
            ),
            source,
        }),
    }
}

fn changing(
    action: &'static str,
    filter: &Filter,
    side: Direction,
    ifindex: u32,
) -> impl FnOnce(io::Error) -> ClsactError {
    let (name, side, device) = (filter.name.clone(), side.label(), device(ifindex));
    move |source| ClsactError::Filter {
        action,
        name,
        side,
        device,
        source,
    }
}

fn device(ifindex: u32) -> String {
    device_name(ifindex).unwrap_or_else(|| ifindex.to_string())
}

fn is_ours(filter: &Filter) -> bool {
    filter.kind == BPF && filter.handle == HANDLE && filter.name.starts_with(NAME)
}

/// The device, its qdisc or the filter.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT))
}

/// A priority for ours: first at ingress (the kernel puts the latest of one priority first), last at egress. Filters of
/// one priority are of one kind and protocol.
fn free_priority(side: Direction, others: &[Filter]) -> u16 {
    let may_share = |priority: &u16| {
        let mut same = others.iter().filter(|f| f.priority == *priority);
        same.all(|f| f.kind == BPF && f.protocol == ALL_PROTOCOLS && f.handle != HANDLE)
    };
    let behind_all = |priority: &u16| others.iter().all(|f| f.priority < *priority);
    let found = match side {
        Direction::Ingress => (1..=LAST).find(may_share),
        Direction::Egress => (LAST..=u16::MAX)
            .find(behind_all)
            .or_else(|| (1..=LAST).rev().find(may_share)),
    };
    // All taken: the kernel says so.
    found.unwrap_or(LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(priority: u16, kind: &str, protocol: u16, handle: u32) -> Filter {
        Filter {
            priority,
            protocol,
            handle,
            kind: kind.to_owned(),
            name: String::new(),
            program: 0,
        }
    }

    #[test]
    fn p4_ours_goes_first_at_ingress_and_last_at_egress_beside_those_of_others() {
        use Direction::{Egress, Ingress};
        let bpf = |priority| filter(priority, BPF, ALL_PROTOCOLS, 1);
        for (side, others, expected) in [
            (Ingress, vec![], 1),
            (Egress, vec![], LAST),
            // Programs share a priority, with another handle.
            (Ingress, vec![bpf(1)], 1),
            (Egress, vec![bpf(1), bpf(0xc000)], LAST),
            (Egress, vec![bpf(LAST)], LAST + 1),
            (Egress, vec![bpf(u16::MAX)], LAST),
            // Filters of another kind, of one protocol, or with our handle don't.
            (
                Ingress,
                vec![filter(1, "matchall", ALL_PROTOCOLS, 1), bpf(2)],
                2,
            ),
            (Ingress, vec![filter(1, BPF, 0x0800, 1)], 2),
            (Ingress, vec![filter(1, BPF, ALL_PROTOCOLS, HANDLE)], 2),
            (
                Egress,
                vec![bpf(u16::MAX), filter(LAST, "u32", ALL_PROTOCOLS, 1)],
                LAST - 1,
            ),
        ] {
            assert_eq!(
                free_priority(side, &others),
                expected,
                "{side:?} {others:?}"
            );
        }
    }

    #[test]
    fn a_filter_is_ours_by_its_kind_handle_and_name() {
        let ours = Filter {
            name: format!("{NAME}tc_egress"),
            ..filter(1, BPF, ALL_PROTOCOLS, HANDLE)
        };
        assert!(is_ours(&ours));
        for other in [
            Filter {
                name: "tc_egress".to_owned(),
                ..ours.clone()
            },
            Filter {
                handle: 1,
                ..ours.clone()
            },
            Filter {
                kind: "flower".to_owned(),
                ..ours
            },
        ] {
            assert!(!is_ours(&other), "{other:?}");
        }
    }
}
