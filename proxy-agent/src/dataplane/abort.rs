//! Aborting what cannot end by itself: a UDP socket that the socket hooks have connected to a backend that is gone would
//! send to nobody for as long as it lives. It gets `ECONNABORTED`, and a living backend when it connects again
//! (semantics L6). TCP sockets too, where that is asked for (ADR 27).
//!
//! Only sockets that were translated are looked for, by what the hooks wrote down of them, and only if there are any:
//! most backends go without a socket left. Then the network namespaces of all processes are entered one after the
//! other, on a thread of its own, until all are found. The agent's loop never waits for any of this.

mod choice;
mod namespaces;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use proxy_common::{
    abi::{
        Pinned,
        frontend::{FrontendKey, FrontendValue},
        socket::{SocketFrontend, SocketKey},
        target::Target,
    },
    addr::Family,
};

use self::{
    choice::{Lost, frontend_keys, key_of},
    namespaces::namespaces,
};
use super::{
    open::{MapError, open},
    pin::PinFolder,
    sys::{map::Map, netns, process, sock_diag::SockDiag},
};
use crate::{delta::Gone, telemetry::chain};

pub use super::sys::sock_diag::Protocol;

/// How long hooks that run are waited for where the kernel cannot say when they are through.
const READERS_DELAY: Duration = Duration::from_millis(100);

/// Why sockets were not aborted.
#[derive(Debug, thiserror::Error)]
pub enum AbortError {
    /// A map could not be opened.
    #[error(transparent)]
    Open(#[from] MapError),
    /// The thread could not be started.
    #[error("could not start the thread that aborts sockets")]
    Thread(#[source] io::Error),
    /// A map could not be read.
    #[error("could not read {map} to find the sockets of backends that are gone")]
    Read {
        /// Its name.
        map: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel lacks what it takes.
    #[error(
        "this kernel cannot abort sockets (CONFIG_INET_UDP_DIAG, CONFIG_INET_TCP_DIAG, CONFIG_INET_DIAG_DESTROY): those \
         that are connected to a backend that is gone keep sending to it until they connect again"
    )]
    Unsupported,
    /// Some namespaces could not be searched.
    #[error(
        "could not search {failed} of {searched} network namespaces for sockets of backends that are gone; they \
         keep sending to these until they connect again (CAP_SYS_ADMIN, CAP_NET_ADMIN and the host's /proc are needed)"
    )]
    Search {
        /// How many.
        failed: usize,
        /// Of how many.
        searched: usize,
        /// Why the first could not.
        #[source]
        source: io::Error,
    },
}

/// Sends backends that are gone to the thread that aborts their sockets. The thread ends when this is dropped.
#[derive(Debug)]
pub struct Aborter {
    protocols: Vec<Protocol>,
    batches: Sender<Vec<Gone>>,
}

impl Aborter {
    /// Starts the thread that aborts sockets of these protocols, with the maps pinned in `pins`; `aborted` is told how many of
    /// which it has aborted.
    pub fn start(
        pins: &PinFolder,
        protocols: Vec<Protocol>,
        aborted: impl Fn(Protocol, usize) + Send + 'static,
    ) -> Result<Self, AbortError> {
        let sockets = Sockets::open(pins, protocols.clone())?;
        let (batches, receiver) = channel();
        thread::Builder::new()
            .name("abort".to_owned())
            .spawn(move || work(&sockets, &receiver, aborted))
            .map_err(AbortError::Thread)?;
        Ok(Self { protocols, batches })
    }

    /// Aborts, soon, the sockets that are connected to backends that a Service has no more.
    pub fn abort(&self, gone: &[Gone]) {
        let wanted = |gone: &&Gone| {
            let mut protocols = self.protocols.iter();
            protocols.any(|protocol| *protocol as u8 == gone.protocol as u8)
        };
        let gone: Vec<_> = gone.iter().filter(wanted).copied().collect();
        // The thread only ends before its channel by a panic, which has been told.
        if !gone.is_empty() && self.batches.send(gone).is_err() {
            tracing::debug!("sockets are not aborted any more");
        }
    }
}

fn work(sockets: &Sockets, batches: &Receiver<Vec<Gone>>, tell: impl Fn(Protocol, usize)) {
    let mut told = false;
    while let Ok(mut gone) = batches.recv() {
        gone.extend(batches.try_iter().flatten());
        let started = Instant::now();
        match sockets.abort(&Lost::new(&gone)) {
            Ok(Done { wanted: 0, .. }) => {}
            Ok(done) => {
                for (protocol, count) in &done.aborted {
                    tell(*protocol, *count);
                }
                tracing::info!(
                    sockets = done.aborted.values().sum::<usize>(),
                    candidates = done.wanted,
                    namespaces = done.namespaces,
                    elapsed = ?started.elapsed(),
                    "sockets of backends that are gone were aborted"
                );
            }
            Err(AbortError::Unsupported) if told => {}
            Err(error) => {
                told |= matches!(error, AbortError::Unsupported);
                tracing::warn!("{}", chain(&error));
            }
        }
    }
}

/// What came of a search.
#[derive(Clone, Debug, Default)]
struct Done {
    /// Sockets that may have been connected to a backend that is gone; or have sent to it unconnected, or are closed.
    wanted: usize,
    aborted: BTreeMap<Protocol, usize>,
    namespaces: usize,
}

/// What the socket hooks know of sockets.
#[derive(Debug)]
struct Sockets {
    protocols: Vec<Protocol>,
    translated: Map<SocketKey, SocketFrontend>,
    frontends: Map<FrontendKey, FrontendValue>,
    targets: Map<u32, Target>,
}

/// Sockets to abort, by cookie and backend.
type Wanted = BTreeMap<SocketKey, SocketFrontend>;

impl Sockets {
    fn open(pins: &PinFolder, protocols: Vec<Protocol>) -> Result<Self, MapError> {
        Ok(Self {
            protocols,
            translated: open(pins, Pinned::SOCKET_FRONTENDS)?,
            frontends: open(pins, Pinned::FRONTENDS)?,
            targets: open(pins, Pinned::TARGETS)?,
        })
    }

    fn abort(&self, lost: &Lost) -> Result<Done, AbortError> {
        // A hook that still chooses by what stood in the maps before is waited for: its socket is then found here.
        if process::membarrier().is_err() {
            thread::sleep(READERS_DELAY);
        }
        let wanted = self.wanted(lost)?;
        if wanted.is_empty() {
            return Ok(Done::default());
        }
        // A thread that has entered a namespace is of no other use.
        thread::scope(|scope| {
            let search = thread::Builder::new()
                .name("abort-netns".to_owned())
                .spawn_scoped(scope, || self.search(wanted))
                .map_err(AbortError::Thread)?;
            search
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn wanted(&self, lost: &Lost) -> Result<Wanted, AbortError> {
        let mut wanted = Wanted::new();
        let mut walk = self.translated.walk();
        while let Some(chunk) = walk.next_chunk().map_err(unread("SOCKET_FRONTENDS"))? {
            for (key, frontend) in chunk {
                if lost.may_have(&key) && lost.has(&key, self.owner(key.protocol, &frontend)?) {
                    wanted.insert(key, frontend);
                }
            }
        }
        Ok(wanted)
    }

    /// The Service port that a frontend leads to now.
    fn owner(&self, protocol: u8, frontend: &SocketFrontend) -> Result<Option<u32>, AbortError> {
        for key in frontend_keys(protocol, frontend) {
            let value = self.frontends.lookup(&key).map_err(unread("FRONTENDS"))?;
            if let Some(value) = value.filter(|value| value.belongs_to(&key)) {
                let target = self.targets.lookup(&value.target());
                return Ok(target.map_err(unread("TARGETS"))?.map(|t| t.service));
            }
        }
        Ok(None)
    }

    fn search(&self, mut wanted: Wanted) -> Result<Done, AbortError> {
        let mut done = Done {
            wanted: wanted.len(),
            ..Done::default()
        };
        let mut failures = Vec::new();
        for namespace in namespaces() {
            done.namespaces += 1;
            let aborted = &mut done.aborted;
            match namespace.and_then(|namespace| self.abort_in(&namespace, &mut wanted, aborted)) {
                Ok(()) => {}
                Err(error) if is_unsupported(&error) => return Err(AbortError::Unsupported),
                Err(error) => failures.push(error),
            }
            if wanted.is_empty() {
                break;
            }
        }
        let failed = failures.len();
        match failures.into_iter().next() {
            None => Ok(done),
            Some(source) => Err(AbortError::Search {
                failed,
                searched: done.namespaces,
                source,
            }),
        }
    }

    /// Aborts those of one namespace, which are wanted no more then. What they connected to is compared with what they
    /// are connected to now: one that has moved meanwhile is left alone.
    fn abort_in(
        &self,
        namespace: &File,
        wanted: &mut Wanted,
        aborted: &mut BTreeMap<Protocol, usize>,
    ) -> io::Result<()> {
        netns::enter(namespace)?;
        let mut diag = SockDiag::open()?;
        for &protocol in &self.protocols {
            if !wanted.keys().any(|key| key.protocol == protocol as u8) {
                continue;
            }
            for family in [Family::V4, Family::V6] {
                let is_wanted = |socket: &_| wanted.contains_key(&key_of(protocol, socket));
                for socket in diag.connected(protocol, family, is_wanted)? {
                    if !diag.abort(protocol, &socket)? {
                        continue;
                    }
                    *aborted.entry(protocol).or_default() += 1;
                    let key = key_of(protocol, &socket);
                    // It has no peer any more by which its release would find this.
                    if wanted.remove(&key).is_some() {
                        self.translated.delete(&key)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// `ENOENT` from opening or entering is not among these: a namespace's file is held open by then.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::ENOENT | libc::EPROTONOSUPPORT)
    )
}

fn unread(map: &'static str) -> impl Fn(io::Error) -> AbortError {
    move |source| AbortError::Read { map, source }
}
