//! Waiting until a subject knows all that was written so far.

use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use proxy_lab::objects::{Endpoint, Service as Builder};
use proxy_lab::{Family, Protocol};
use serde_json::Value;

use super::{Ground, PORT, TARGET, Way, family_name};
use crate::case::Outcome;

/// The pod behind Services by which it is seen.
pub const BEACON: &str = "beacon";

static NEXT: AtomicU16 = AtomicU16::new(1);

impl Ground<'_> {
    /// Waits until these pods, and no others, are a Service's ready endpoints, and all nodes' proxies know it.
    pub fn settled_on<'n>(
        &self,
        service: &str,
        pods: impl IntoIterator<Item = &'n str>,
    ) -> Outcome {
        self.until_endpoints(service, pods)?;
        self.settled()
    }

    /// Waits until the proxies of all nodes have programmed all earlier writes: it writes a Service
    /// with slices, and waits until each node uses them in both families. Objects that controllers
    /// derive must exist already.
    pub fn settled(&self) -> Outcome {
        let name = format!("beacon-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let service = Builder::new(&name)
            .namespace(&self.space)
            .port("tcp", Protocol::Tcp, PORT);
        let mut object = Value::from(service.clone());
        // The API server chooses.
        object["spec"] = serde_json::json!({
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{"name": "tcp", "port": PORT, "targetPort": TARGET}],
        });
        self.api().put(object)?;
        let pod = self.lab.pod(BEACON);
        for family in Family::ALL {
            let slice = service
                .slice(family, TARGET)
                .endpoint(Endpoint::of(pod, family));
            self.api().put(slice)?;
        }
        let beacon = self.get_service(&name)?;
        for node in self.lab.nodes() {
            for family in Family::ALL {
                let way = Way::tcp(node, beacon.at(family, PORT));
                let what = format!(
                    "{} knows a new {} Service",
                    node.name(),
                    family_name(family)
                );
                self.eventually(&what, || {
                    let answers = way.ask(1, Duration::from_millis(500))?;
                    Ok(answers.servers.contains_key(BEACON))
                })?;
            }
        }
        Ok(self.delete_service(&beacon)?)
    }
}
