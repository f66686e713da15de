//! Programs of other components on the devices of pods (docs/adr/0017). One that keeps state may see a Service's address in
//! one direction and a pod's in the other, or send replies past ours: such pods are served by their sockets only, and that
//! is told.
//!
//! Nothing depends on what is found, so all of it happens on a thread of its own.

mod judge;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use aya::{maps::MapInfo as AyaMapInfo, programs::loaded_programs};
use futures_util::TryStreamExt;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use tokio::{
    runtime,
    sync::watch,
    time::{sleep, timeout},
};

use self::judge::{Finding, Table, Used, sentences};
use super::{
    attach::{Direction, Port},
    load::{LoadError, PacketProgram, ProgramName, Programs},
    sys::{
        link, object,
        object::{MapInfo, ProgramInfo},
    },
};
use crate::telemetry::chain;

/// How long a CNI is given to attach its programs to a new device.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked again: that a program was attached is not told by the kernel.
const REVIEW: Duration = Duration::from_mins(1);

/// Why it is not looked for other components' programs.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Our programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Their numbers.
    #[error("could not examine our own programs")]
    Own(#[source] io::Error),
    /// The thread.
    #[error("could not start the thread that looks for other components' programs")]
    Thread(#[source] io::Error),
    /// Netlink.
    #[error("could not open a netlink socket to ask for the tc filters of devices")]
    Netlink(#[source] io::Error),
}

/// Looks at devices for as long as it lives.
#[derive(Debug)]
pub struct Inspector {
    devices: watch::Sender<BTreeMap<u32, String>>,
}

impl Inspector {
    /// Starts the thread, in the network namespace of the calling one. `programs` are those that are ours.
    pub fn start(programs: &Programs) -> Result<Self, InspectError> {
        let mut own = BTreeSet::new();
        for program in PacketProgram::ALL {
            let fd = programs.fd(ProgramName::Packet(program))?;
            let info: ProgramInfo = object::info(fd).map_err(InspectError::Own)?;
            own.insert(info.id);
        }
        let (devices, changes) = watch::channel(BTreeMap::new());
        thread::Builder::new()
            .name("foreign".to_owned())
            .spawn(move || inspect(&own, changes))
            .map_err(InspectError::Thread)?;
        Ok(Self { devices })
    }

    /// Looks at these devices that are pod-facing, soon and again and again.
    pub fn look_at(&self, ports: &BTreeMap<u32, Port>) {
        let pods = ports.iter().filter(|(_, port)| port.faces_a_pod());
        let pods = pods.map(|(&ifindex, port)| (ifindex, port.name.clone()));
        self.devices.send_replace(pods.collect());
    }
}

fn inspect(own: &BTreeSet<u32>, mut changes: watch::Receiver<BTreeMap<u32, String>>) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::warn!(%error, "other components' programs on devices of pods are not looked for");
            return;
        }
    };
    runtime.block_on(async {
        let mut told = BTreeSet::new();
        let mut failed = false;
        // The sender is dropped at the agent's end.
        while !matches!(timeout(REVIEW, changes.changed()).await, Ok(Err(_))) {
            sleep(PAUSE).await;
            let devices = changes.borrow_and_update().clone();
            match findings(own, &devices).await {
                Ok(found) => {
                    for sentence in sentences(&found, &told) {
                        tracing::warn!("{sentence}");
                    }
                    told = found;
                    failed = false;
                }
                Err(error) if !failed => {
                    tracing::warn!(
                        error = chain(&error),
                        "other components' programs on devices of pods are not looked for"
                    );
                    failed = true;
                }
                Err(_) => {}
            }
        }
    });
}

/// The programs on devices that keep state.
async fn findings(
    own: &BTreeSet<u32>,
    devices: &BTreeMap<u32, String>,
) -> Result<BTreeSet<Finding>, InspectError> {
    let mut places = BTreeMap::<u32, BTreeSet<(String, Direction)>>::new();
    let filters = filters(devices).await?;
    for (&ifindex, name) in devices {
        for side in Direction::ALL {
            // A device that is gone, or a kernel without tcx.
            let chain = link::tcx_chain(ifindex, side.attach_type()).unwrap_or_default();
            let programs = chain.iter().map(|entry| entry.program);
            let programs =
                programs.chain(filters.get(&(ifindex, side)).into_iter().flatten().copied());
            for program in programs.filter(|program| !own.contains(program)) {
                places
                    .entry(program)
                    .or_default()
                    .insert((name.clone(), side));
            }
        }
    }
    if places.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut found = BTreeSet::new();
    // A program that went meanwhile is not there to be examined.
    for info in loaded_programs().flatten() {
        let Some(places) = places.get(&info.id()) else {
            continue;
        };
        let used = Used {
            program: match info.name_as_str() {
                Some(name) if !name.is_empty() => name.to_owned(),
                _ => format!("of number {}", info.id()),
            },
            tables: tables(info.map_ids().ok().flatten().unwrap_or_default()),
        };
        if let Some(reason) = used.reason() {
            found.extend(places.iter().map(|(device, side)| Finding {
                program: used.program.clone(),
                reason: reason.clone(),
                device: device.clone(),
                side: side.label(),
            }));
        }
    }
    Ok(found)
}

/// The programs of tc filters, by device and side.
async fn filters(
    devices: &BTreeMap<u32, String>,
) -> Result<BTreeMap<(u32, Direction), Vec<u32>>, InspectError> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(InspectError::Netlink)?;
    let connection = tokio::spawn(connection);
    let mut programs = BTreeMap::new();
    for &ifindex in devices.keys() {
        for side in Direction::ALL {
            let query = handle.traffic_filter(ifindex.cast_signed()).get();
            let query = match side {
                Direction::Ingress => query.ingress(),
                Direction::Egress => query.egress(),
            };
            // Without a clsact qdisc, or without the device, there are none.
            let found: Vec<TcMessage> = query.execute().try_collect().await.unwrap_or_default();
            let found: Vec<u32> = found.iter().flat_map(program_of).collect();
            if !found.is_empty() {
                programs.insert((ifindex, side), found);
            }
        }
    }
    connection.abort();
    Ok(programs)
}

fn program_of(filter: &TcMessage) -> impl Iterator<Item = u32> {
    let options = filter
        .attributes
        .iter()
        .flat_map(|attribute| match attribute {
            TcAttribute::Options(options) => options.as_slice(),
            _ => &[],
        });
    options.filter_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
        _ => None,
    })
}

fn tables(ids: Vec<u32>) -> Vec<Table> {
    let examine = |id| {
        let map = AyaMapInfo::from_id(id).ok()?;
        let info: MapInfo = object::info(map.fd().ok()?.as_fd()).ok()?;
        Some(Table {
            name: map.name_as_str().unwrap_or_default().to_owned(),
            kind: info.kind,
            flags: info.flags,
        })
    };
    ids.into_iter().filter_map(examine).collect()
}
