//! Follows a folder: inotify tells of changes, a slow look at everything catches what it missed.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecursiveMode, Watcher,
    event::{ModifyKind, RenameMode},
};
use tokio::sync::mpsc;

use super::{Folder, KIND, Look, document::Syntax};
use crate::source::{Update, pulse::Pulse};

/// Changes that come this close to each other are read together.
const QUIET: Duration = Duration::from_millis(20);
/// The same where something went: a folder that is removed loses its files first.
const QUIET_AFTER_REMOVAL: Duration = Duration::from_millis(200);
/// A folder that never rests is read nevertheless.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often it is seen whether the folder is still the same.
const CHECK: Duration = Duration::from_millis(500);
/// How often all files are looked at.
const RESCAN: Duration = Duration::from_secs(10);
/// Events of inotify that may wait while a file is read.
const MOST_EVENTS: usize = 10_000;
/// Updates that may wait for the reader.
const BACKLOG: usize = 16;

/// Reads the folder, and goes on reading it as it changes, on a thread of its own. It ends when the receiver is
/// dropped.
pub fn follow(path: PathBuf, pulse: Arc<Pulse>) -> io::Result<mpsc::Receiver<Update>> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    thread::Builder::new()
        .name("file-source".to_owned())
        .spawn(move || Follower::new(path).run(&sender, &pulse))?;
    Ok(receiver)
}

struct Follower {
    folder: Folder,
    watch: Option<Watch>,
    events: Receiver<notify::Result<notify::Event>>,
    sender: SyncSender<notify::Result<notify::Event>>,
    last_scan: Instant,
}

/// An inotify watch, and the folder that it is on: the path may come to mean another.
struct Watch {
    _watcher: notify::RecommendedWatcher,
    identity: Identity,
}

type Identity = (u64, u64);

impl Follower {
    fn new(path: PathBuf) -> Self {
        let (sender, events) = std::sync::mpsc::sync_channel(MOST_EVENTS);
        Self {
            folder: Folder::new(path),
            watch: None,
            events,
            sender,
            last_scan: Instant::now(),
        }
    }

    fn run(mut self, updates: &mpsc::Sender<Update>, pulse: &Pulse) {
        let mut look = Some(Look::Everywhere);
        self.check_watch();
        while !updates.is_closed() {
            if let Some(look) = look {
                let update = self.folder.read(&look);
                if look == Look::Everywhere {
                    self.last_scan = Instant::now();
                }
                if self.folder.failure().is_none() {
                    pulse.heard(KIND, Instant::now());
                    pulse.listed(KIND);
                }
                if !update.is_empty() && updates.blocking_send(update).is_err() {
                    return;
                }
            }
            look = self.wait();
            if self.check_watch() {
                self.settle();
                look = Some(Look::Everywhere);
            } else if self.folder.failure().is_some() {
                look = Some(Look::Everywhere);
            }
        }
    }

    /// Waits until something happened and it is quiet again; returns what to look at.
    fn wait(&self) -> Option<Look> {
        let Ok(first) = self.events.recv_timeout(CHECK) else {
            return (self.last_scan.elapsed() >= RESCAN).then_some(Look::Everywhere);
        };
        let deadline = Instant::now() + LONGEST_WAIT;
        let mut heap = Heap::default();
        heap.add(first, self.folder.path());
        while Instant::now() < deadline {
            match self.events.recv_timeout(heap.quiet()) {
                Ok(event) => heap.add(event, self.folder.path()),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        heap.into_look()
    }

    /// Waits until a folder that is new in its place is quiet: it may still be filled, and what is missing would be taken
    /// for removed.
    fn settle(&self) {
        let deadline = Instant::now() + LONGEST_WAIT;
        while Instant::now() < deadline && self.events.recv_timeout(QUIET_AFTER_REMOVAL).is_ok() {}
    }

    /// Puts the watch on the folder that is there now; says whether it is another than before.
    fn check_watch(&mut self) -> bool {
        let identity = identity(self.folder.path());
        if identity.is_some() && self.watch.as_ref().map(|watch| watch.identity) == identity {
            return false;
        }
        let had_one = self.watch.take().is_some();
        let Some(identity) = identity else {
            return had_one;
        };
        let sender = self.sender.clone();
        let watcher = notify::recommended_watcher(move |event| {
            // What does not fit is seen when all files are looked at.
            let _ = sender.try_send(event);
        })
        .and_then(|mut watcher| {
            watcher.watch(self.folder.path(), RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watcher {
            Ok(watcher) => {
                self.watch = Some(Watch {
                    _watcher: watcher,
                    identity,
                });
                true
            }
            Err(error) => {
                tracing::warn!(
                    folder = %self.folder.path().display(),
                    %error,
                    "no inotify watch: changes are seen every {} s only",
                    RESCAN.as_secs()
                );
                had_one
            }
        }
    }
}

/// What events add up to.
#[derive(Default)]
struct Heap {
    names: BTreeSet<String>,
    everything: bool,
    removal: bool,
}

impl Heap {
    fn add(&mut self, event: notify::Result<notify::Event>, folder: &Path) {
        let Ok(event) = event else {
            self.everything = true;
            return;
        };
        if matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        let gone = matches!(
            event.kind,
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From))
        );
        for path in &event.paths {
            match path.strip_prefix(folder).ok().and_then(Path::to_str) {
                Some(name) if Syntax::of(name).is_some() => {
                    self.names.insert(name.to_owned());
                    self.removal |= gone;
                }
                // The folder itself, or a link that files go through (`..data` of a `ConfigMap`).
                None => self.everything = true,
                Some(name) => self.everything |= name.is_empty() || name.starts_with(".."),
            }
        }
        self.everything |= event.paths.is_empty() || event.need_rescan();
    }

    const fn quiet(&self) -> Duration {
        if self.removal {
            QUIET_AFTER_REMOVAL
        } else {
            QUIET
        }
    }

    fn into_look(self) -> Option<Look> {
        if self.everything {
            Some(Look::Everywhere)
        } else if self.names.is_empty() {
            None
        } else {
            Some(Look::At(self.names))
        }
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}
