//! Pins, and the folder that they are in.

use std::{fs, sync::Arc};

use proxy_agent::dataplane::{
    attach::TcMode,
    audit::{Kind, PinAudit},
    pin::PinFolder,
    sys::object::{self, MapInfo},
};
use proxy_common::abi::MAPS;

use crate::fixture::{pods, repairs, with};

fn id_of(pins: &PinFolder, map: &str) -> u32 {
    let map = object::open(&pins.map(map)).unwrap();
    object::info::<MapInfo>(map).unwrap().id
}

#[test]
fn pins_of_maps_are_put_back() {
    with("maps", |fixture| {
        let pins = &fixture.pins;
        let programs = fixture.programs();
        let mut audit = PinAudit::new(pins.clone(), Arc::new(pins.lock().unwrap())).unwrap();
        assert_eq!(repairs(&audit.reconcile()), []);
        let before = id_of(pins, "FRONTENDS");

        fs::remove_file(pins.map("FRONTENDS")).unwrap();
        assert_eq!(repairs(&audit.reconcile()), [(Kind::MapPin, "FRONTENDS")]);
        assert_eq!(id_of(pins, "FRONTENDS"), before);

        // Another map under that name.
        fs::remove_file(pins.map("FRONTENDS")).unwrap();
        let other = object::open(&pins.map("NODE_ADDRS")).unwrap();
        object::pin(&other, &pins.map("FRONTENDS")).unwrap();
        assert_eq!(repairs(&audit.reconcile()), [(Kind::MapPin, "FRONTENDS")]);
        assert_eq!(id_of(pins, "FRONTENDS"), before);
        assert_eq!(repairs(&audit.reconcile()), []);
        drop(programs);
    });
}

/// All that was pinned comes back, and nobody else gets the folder.
#[test]
fn a_folder_that_was_removed_is_made_again_and_locked() {
    with("folder", |fixture| {
        let pins = &fixture.pins;
        let ports = pods(1);
        let mut attachments = fixture.attachments(TcMode::Tcx);
        let mut audit = PinAudit::new(pins.clone(), Arc::new(pins.lock().unwrap())).unwrap();
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
        let before = id_of(pins, "FRONTENDS");

        fs::remove_dir_all(pins.base()).unwrap();
        let findings = audit.reconcile();
        let mended = repairs(&findings);
        assert_eq!(mended[0].0, Kind::PinFolder);
        assert_eq!(mended.len(), 1 + MAPS.len());
        assert_eq!(id_of(pins, "FRONTENDS"), before);
        assert!(pins.lock().is_err(), "the new folder is locked, too");
        let findings = attachments.reconcile(&ports);
        let kinds: Vec<_> = repairs(&findings).iter().map(|found| found.0).collect();
        assert_eq!(kinds, [Kind::LinkPin; 2]);

        assert_eq!(repairs(&audit.reconcile()), []);
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
    });
}

/// A folder that another agent has locked meanwhile is that agent's.
#[test]
fn nothing_is_pinned_in_the_folder_of_another_agent() {
    with("another", |fixture| {
        let pins = &fixture.pins;
        let ports = pods(1);
        let mut attachments = fixture.attachments(TcMode::Tcx);
        let mut audit = PinAudit::new(pins.clone(), Arc::new(pins.lock().unwrap())).unwrap();
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);

        fs::remove_dir_all(pins.base()).unwrap();
        let another = pins.lock().unwrap();
        pins.create().unwrap();
        let mut look = || {
            let mut findings = audit.reconcile();
            attachments.trust_pins(audit.is_trusted());
            findings.extend(attachments.reconcile(&ports));
            findings
        };
        let findings = look();
        assert!(findings.repairs.is_empty());
        let failed: Vec<_> = findings
            .failures
            .iter()
            .map(|failure| failure.kind)
            .collect();
        assert_eq!(failed, [Kind::PinFolder]);
        for folder in [pins.maps(), pins.links()] {
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
        }

        drop(another);
        let findings = look();
        assert_eq!(findings.failures.len(), 0);
        assert_eq!(fs::read_dir(pins.maps()).unwrap().count(), MAPS.len());
        assert_eq!(fs::read_dir(pins.links()).unwrap().count(), 2);
    });
}

/// As where the file system was unmounted: an error, until there is a place again.
#[test]
fn what_cannot_be_pinned_is_told_and_tried_again() {
    with("nowhere", |fixture| {
        let pins = &fixture.pins;
        let ports = pods(1);
        let mut attachments = fixture.attachments(TcMode::Tcx);
        assert_eq!(repairs(&attachments.reconcile(&ports)), []);
        fs::remove_dir_all(pins.base()).unwrap();
        // Without the folder, which is not its business.
        let findings = attachments.reconcile(&ports);
        let kinds: Vec<_> = findings.failures.iter().map(|failed| failed.kind).collect();
        assert_eq!(kinds, [Kind::LinkPin; 2]);
        assert!(findings.repairs.is_empty());
        pins.create().unwrap();
        assert_eq!(repairs(&attachments.reconcile(&ports)).len(), 2);
    });
}
