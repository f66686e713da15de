//! The folder of the pins, the lock on it, and the pins of the maps.

use std::sync::Arc;

use proxy_common::abi::MAPS;

use super::{Findings, Kind};
use crate::dataplane::pin::{Held, PinError, PinFolder, PinLock};

/// Maintains the pins that do not belong to a link. Without the pins of the maps, other programs can't read the maps, and the
/// next agent would begin with empty maps.
#[derive(Debug)]
pub struct PinAudit {
    pins: PinFolder,
    lock: Arc<PinLock>,
    /// Whether the folder was ours at the last comparison.
    trusted: bool,
    maps: Held,
}

impl PinAudit {
    /// Opens the maps that are pinned now, and holds them open.
    pub fn new(pins: PinFolder, lock: Arc<PinLock>) -> Result<Self, PinError> {
        let mut maps = Held::new(pins.maps());
        for spec in MAPS {
            maps.get(spec.name)?;
        }
        Ok(Self {
            pins,
            lock,
            trusted: true,
            maps,
        })
    }

    /// Creates missing folders again, locks the folder, and pins maps again whose pins are missing.
    pub fn reconcile(&mut self) -> Findings {
        let mut findings = Findings::default();
        let folder = self.reconcile_folder(&mut findings);
        self.trusted = folder.is_ok();
        self.maps.trust(self.trusted);
        if let Err(error) = folder {
            let folder = self.pins.root().display().to_string();
            findings.failed(Kind::PinFolder, folder, error);
        }
        findings.repinned(Kind::MapPin, &mut self.maps);
        findings
    }

    /// Whether the folder was ours at the last [`reconcile`](Self::reconcile): nobody else may write to it, and no other agent
    /// works on it.
    pub const fn is_trusted(&self) -> bool {
        self.trusted
    }

    fn reconcile_folder(&mut self, findings: &mut Findings) -> Result<(), PinError> {
        let there = self.pins.is_complete();
        if !there {
            self.pins.create()?;
        }
        // The lock is on the folder itself, not on its name.
        let locked = self.lock.is_on(self.pins.base());
        if !locked {
            self.lock = Arc::new(self.pins.lock()?);
        }
        if !(there && locked) {
            let folder = self.pins.root().display().to_string();
            findings.repaired(Kind::PinFolder, folder, "it was removed or replaced");
        }
        Ok(())
    }
}
