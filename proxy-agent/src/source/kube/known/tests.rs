//! Whatever is listed, watched and lost in between: the reader has what the server has.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    model::{Change, Event},
    source::kube::decode::{self, Line, Service},
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// An object is made or changed, at the server.
    Put(u8),
    Delete(u8),
    /// The watch hears what it has not heard.
    Hear,
    /// The watch has lost what it has not heard, and a list tells.
    List,
    /// A list of which only so many objects arrive.
    Broken(usize),
    /// A list, during which an object goes.
    Shrinking(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_u8).prop_map(Step::Put),
        2 => (0..6_u8).prop_map(Step::Delete),
        4 => Just(Step::Hear),
        1 => Just(Step::List),
        1 => (0..6_usize).prop_map(Step::Broken),
        1 => (0..6_u8).prop_map(Step::Shrinking),
    ]
}

/// Versions by name.
type Objects = BTreeMap<u8, u32>;

#[derive(Default)]
struct World {
    version: u32,
    server: Objects,
    unheard: Vec<(&'static str, u8, u32)>,
    known: Known<Service>,
    reader: BTreeMap<String, String>,
    /// Events that changed nothing for the reader.
    idle: usize,
}

fn item(kind: &str, name: u8, version: u32) -> Item {
    let address = format!("10.96.{}.{}", version / 250, version % 250 + 1);
    let line = json!({"type": kind, "object": {
        "metadata": {"name": format!("s{name}"), "namespace": "ns", "resourceVersion": version.to_string()},
        "spec": {"clusterIP": address, "ports": [{"port": 80}]},
    }});
    match decode::line::<Service>(line.to_string().as_bytes()).unwrap() {
        Line::Changed(item) | Line::Removed(item) => item,
        other => panic!("{other:?}"),
    }
}

impl World {
    fn take(&mut self, update: Update) {
        assert_eq!(update.problems, []);
        for event in update.events {
            let changed = match event {
                Event::Service(Change::Upsert(service)) => {
                    let (name, address) = (service.name.to_string(), service.cluster_ips[0]);
                    self.reader.insert(name, address.to_string()) != Some(address.to_string())
                }
                Event::Service(Change::Delete(name)) => {
                    self.reader.remove(&name.to_string()).is_some()
                }
                other => panic!("{other:?}"),
            };
            self.idle += usize::from(!changed);
        }
    }

    fn go(&mut self, step: &Step) {
        match step {
            Step::Put(name) => {
                self.version += 1;
                self.server.insert(*name, self.version);
                self.unheard.push(("MODIFIED", *name, self.version));
            }
            Step::Delete(name) => {
                if self.server.remove(name).is_some() {
                    self.version += 1;
                    self.unheard.push(("DELETED", *name, self.version));
                }
            }
            Step::Hear => {
                let mut update = Update::default();
                for (kind, name, version) in std::mem::take(&mut self.unheard) {
                    let item = item(kind, name, version);
                    if kind == "DELETED" {
                        self.known.removed(&item.name, &mut update);
                    } else {
                        self.known.changed(item, &mut update);
                    }
                }
                self.take(update);
            }
            Step::List => self.list(None),
            Step::Broken(count) => {
                self.known.begin();
                for (name, version) in self.server.iter().take(*count) {
                    self.known.listed(item("ADDED", *name, *version));
                }
            }
            Step::Shrinking(name) => self.list(Some(*name)),
        }
    }

    fn list(&mut self, goes: Option<u8>) {
        self.unheard.clear();
        self.known.begin();
        for (name, version) in &self.server {
            self.known.listed(item("ADDED", *name, *version));
        }
        if let Some(name) = goes.filter(|name| self.server.remove(name).is_some()) {
            self.version += 1;
            self.known
                .unlisted(&item("DELETED", name, self.version).name);
        }
        let update = self.known.complete();
        self.take(update);
        assert_eq!(self.known.len(), self.server.len());
        self.is_right();
    }

    fn is_right(&self) {
        let wanted: BTreeMap<String, String> = self
            .server
            .iter()
            .map(|(name, version)| {
                let address = format!("10.96.{}.{}", version / 250, version % 250 + 1);
                (format!("ns/s{name}"), address)
            })
            .collect();
        assert_eq!(self.reader, wanted);
    }
}

proptest! {
    #[test]
    fn the_reader_has_what_the_server_has(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::default();
        for step in &steps {
            world.go(step);
        }
        world.go(&Step::Hear);
        world.is_right();
        // Nothing is told twice, but what came and went within a list.
        let shrinking = steps.iter().filter(|step| matches!(step, Step::Shrinking(_))).count();
        prop_assert!(world.idle <= shrinking, "{}", world.idle);
    }
}
