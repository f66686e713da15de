//! Captures the frames that pass a device, so that tests can check what was on the wire.

mod socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{LabError, Result};
use crate::host::Host;
use crate::packet::{Flaw, Packet, check_sums};
use socket::PacketSocket;

/// The kernel's state of a frame's transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checksum {
    /// Not computed yet (`CHECKSUM_PARTIAL`): the field holds the pseudo-header's sum, and the device, or the end of
    /// the path, will put it right. On its way between local sockets over veth it stays so.
    Partial,
    /// The kernel knows it to be right.
    Verified,
    /// As it came; look with [`Frame::check_sums`].
    Unknown,
}

/// A captured frame.
#[derive(Debug, Clone)]
pub struct Frame {
    /// From the Ethernet header on. A frame may be larger than the MTU: segments are split after we see them.
    pub bytes: Vec<u8>,
    /// It was leaving by the device.
    pub outgoing: bool,
    /// The state of the transport checksum.
    pub checksum: Checksum,
    /// The outermost VLAN tag (its two bytes of control information); the kernel takes it out of the bytes.
    pub tag: Option<u16>,
    /// Since the capture started.
    pub at: Duration,
}

impl Frame {
    /// The packet in it; `None` if it is not IP or cut off.
    pub fn packet(&self) -> Option<Packet<'_>> {
        Packet::read(&self.bytes).ok().flatten()
    }

    /// Whether its checksums are right. One with [`Checksum::Partial`] is wrong by nature.
    pub fn check_sums(&self) -> Result<(), Flaw> {
        check_sums(&self.bytes)
    }
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let arrow = if self.outgoing { "out" } else { "in" };
        write!(f, "{:?} {arrow} ", self.at)?;
        match self.packet() {
            Some(packet) => match packet.ends() {
                Some((from, to)) => write!(f, "{from} > {to} protocol {}", packet.protocol)?,
                None => write!(
                    f,
                    "{} > {} protocol {}",
                    packet.source, packet.destination, packet.protocol
                )?,
            },
            None => write!(f, "not IP")?,
        }
        write!(
            f,
            ", {} bytes, checksum {:?}",
            self.bytes.len(),
            self.checksum
        )
    }
}

/// A running capture on one device, or on all of a host.
#[derive(Debug)]
pub struct Capture {
    stopped: Arc<AtomicBool>,
    reader: JoinHandle<std::io::Result<Captured>>,
}

/// What was captured.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// The frames, oldest first.
    pub frames: Vec<Frame>,
    /// How many the kernel could not hand over in time.
    pub missed: u32,
}

impl Captured {
    /// Frames with a wrong checksum, and which one is wrong. Frames with [`Checksum::Partial`] are not
    /// checked.
    pub fn flawed(&self) -> Vec<(&Frame, Flaw)> {
        let judged = self
            .frames
            .iter()
            .filter(|frame| frame.checksum != Checksum::Partial);
        judged
            .filter_map(|frame| frame.check_sums().err().map(|flaw| (frame, flaw)))
            .collect()
    }
}

/// How long the reader waits for a frame before it looks whether it was stopped.
const PATIENCE: Duration = Duration::from_millis(30);

impl Host {
    /// Starts to collect the frames of TCP, UDP and SCTP from or to these ports (none: all frames) that pass a device of this
    /// host, in both directions.
    ///
    /// What comes in is seen before tc ingress, what goes out after tc egress.
    pub fn capture(&self, device: &str, ports: &[u16]) -> Result<Capture> {
        let socket = self.netns().run(|| {
            let action = || format!("capturing on {device} of {}", self.name());
            PacketSocket::open(device, PATIENCE).map_err(LabError::kernel(action()))
        })?;
        let stopped = Arc::new(AtomicBool::new(false));
        let (stop, ports) = (Arc::clone(&stopped), ports.to_vec());
        let reader = thread::spawn(move || collect(&socket, &stop, &ports));
        Ok(Capture { stopped, reader })
    }
}

impl Host {
    /// Sends frames, from the Ethernet header on and as they are, out of a device of this host.
    pub fn inject(&self, device: &str, frames: &[Vec<u8>]) -> Result<()> {
        self.netns().run(|| {
            let action = || format!("sending frames by {device} of {}", self.name());
            let socket = PacketSocket::open(device, PATIENCE);
            let socket = socket.map_err(LabError::kernel(action()))?;
            let mut frames = frames.iter();
            frames.try_for_each(|frame| socket.send(frame).map_err(LabError::kernel(action())))
        })
    }
}

impl Capture {
    /// Waits until no more frames arrive, stops, and returns the captured frames.
    pub fn stop(self) -> Result<Captured> {
        self.stopped.store(true, Ordering::Relaxed);
        let captured = self
            .reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        captured.map_err(LabError::kernel("reading captured frames"))
    }
}

fn collect(socket: &PacketSocket, stop: &AtomicBool, ports: &[u16]) -> std::io::Result<Captured> {
    let start = Instant::now();
    let mut captured = Captured::default();
    // Longer than any segment that is not split yet.
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let Some(received) = socket.receive(&mut buffer)? else {
            // Nothing for a while: the end, if it was asked for.
            if stop.load(Ordering::Relaxed) {
                captured.missed = socket.missed()?;
                return Ok(captured);
            }
            continue;
        };
        let bytes = &buffer[..received.length];
        if wanted(bytes, ports) {
            captured.frames.push(Frame {
                bytes: bytes.to_vec(),
                outgoing: received.outgoing,
                checksum: received.checksum,
                tag: received.tag,
                at: start.elapsed(),
            });
        }
    }
}

fn wanted(frame: &[u8], ports: &[u16]) -> bool {
    if ports.is_empty() {
        return true;
    }
    let ends = Packet::read(frame)
        .ok()
        .flatten()
        .and_then(|packet| packet.ends());
    ends.is_some_and(|(from, to)| ports.contains(&from.port()) || ports.contains(&to.port()))
}
