//! Kernels before 6.6: filters of a clsact qdisc. They stay when the agent goes, and are replaced in place by their
//! fixed priority and handle.

use std::io;

use aya::programs::{
    ProgramError, SchedClassifier, TcAttachType,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
};

use super::{Direction, PacketProgram, Programs};
use crate::dataplane::sys::process::device_name;

/// Why the filters of a device could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// The qdisc.
    #[error("could not add a clsact qdisc to device {device}")]
    Qdisc {
        /// Device.
        device: String,
        /// Why not.
        #[source]
        source: TcError,
    },
    /// A filter.
    #[error("could not {action} the filter {program} of device {device}")]
    Filter {
        /// What was tried.
        action: &'static str,
        /// Program.
        program: &'static str,
        /// Device.
        device: String,
        /// Why not.
        #[source]
        source: Box<ProgramError>,
    },
}

/// "kp": tells our filter from others of its priority.
const HANDLE: TcHandle = TcHandle::new(0, 0x6b70);

/// Ours is first at ingress and last at egress: the kernel gives out priorities from 0xc000 downwards.
const fn priority(side: Direction) -> u16 {
    match side {
        Direction::Ingress => 1,
        Direction::Egress => 0xfff0,
    }
}

const fn attach_type(side: Direction) -> TcAttachType {
    match side {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Adds the filter, or replaces ours.
pub fn attach(
    programs: &mut Programs,
    device: &str,
    side: Direction,
    program: PacketProgram,
) -> Result<(), ClsactError> {
    match tc::qdisc_add_clsact(device) {
        Err(source) if !exists(&source) => {
            return Err(ClsactError::Qdisc {
                device: device.to_owned(),
                source,
            });
        }
        Ok(()) | Err(_) => {}
    }
    let failed = |source| ClsactError::Filter {
        action: "attach",
        program: program.name(),
        device: device.to_owned(),
        source: Box::new(source),
    };
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let classifier: &mut SchedClassifier = programs
        .ebpf
        .program_mut(program.name())
        .ok_or_else(|| failed(missing().into()))?
        .try_into()
        .map_err(failed)?;
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: priority(side),
        handle: HANDLE,
        classid: None,
    });
    let link = match classifier.attach_with_options(device, attach_type(side), options) {
        Err(ProgramError::TcError(error)) if exists(&error) => {
            let old = SchedClassifierLink::attached(
                device,
                attach_type(side),
                priority(side),
                HANDLE,
                None,
            )
            .map_err(|error| failed(error.into()))?;
            classifier.attach_to_link(old)
        }
        other => other,
    }
    .map_err(failed)?;
    // aya detaches what it drops; the filter is to outlive the agent.
    let link = classifier.take_link(link).map_err(failed)?;
    std::mem::forget(link);
    Ok(())
}

/// Removes our filters from a side of a device; a device that is gone has none.
pub fn detach(ifindex: u32, side: Direction) -> Result<usize, ClsactError> {
    let Some(device) = device_name(ifindex) else {
        return Ok(0);
    };
    let mut removed = 0;
    for program in PacketProgram::ALL {
        match tc::qdisc_detach_program(&device, attach_type(side), program.name()) {
            Ok(()) => removed += 1,
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            // Without a clsact qdisc there is nothing to detach.
            Err(TcError::NetlinkError(_)) => {}
            Err(source) => {
                return Err(ClsactError::Filter {
                    action: "detach",
                    program: program.name(),
                    device,
                    source: Box::new(source.into()),
                });
            }
        }
    }
    Ok(removed)
}

fn exists(error: &TcError) -> bool {
    matches!(error, TcError::NetlinkError(error) if error.raw_os_error() == Some(libc::EEXIST))
}
