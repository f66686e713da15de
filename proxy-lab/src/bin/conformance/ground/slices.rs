//! What the EndpointSlice controller has written, and slices that a case writes itself.

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api as Resource, ListParams};
use proxy_lab::objects::{Endpoint, Slice};
use proxy_lab::{Family, LabError, Protocol, Result};

use super::{Ground, TARGET, until_prepared};

/// An endpoint of a Service, as the API has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    /// The pod's name.
    pub pod: String,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

impl Ground<'_> {
    /// The endpoints in a Service's slices of one family.
    pub fn endpoints(&self, service: &str) -> Result<Vec<Known>> {
        let (space, selector) = (
            self.space.clone(),
            format!("kubernetes.io/service-name={service}"),
        );
        let listed: kube::Result<_> = self.api().run(move |client| async move {
            let slices: Resource<EndpointSlice> = Resource::namespaced(client, &space);
            slices.list(&ListParams::default().labels(&selector)).await
        });
        let slices = listed.map_err(|source| LabError::Api {
            action: format!("listing the slices of {}/{service}", self.space),
            source: Box::new(source),
        })?;
        let v4 = slices
            .items
            .into_iter()
            .filter(|slice| slice.address_type == "IPv4");
        let endpoints = v4.flat_map(|slice| slice.endpoints.unwrap_or_default());
        let mut known: Vec<_> = endpoints
            .map(|endpoint| {
                let conditions = endpoint.conditions.unwrap_or_default();
                Known {
                    pod: endpoint
                        .target_ref
                        .and_then(|pod| pod.name)
                        .unwrap_or_default(),
                    ready: conditions.ready.unwrap_or(true),
                    serving: conditions.serving.unwrap_or(true),
                    terminating: conditions.terminating.unwrap_or(false),
                }
            })
            .collect();
        known.sort();
        Ok(known)
    }

    /// Waits until these pods, and no others, are a Service's ready endpoints.
    pub fn until_endpoints<'n>(
        &self,
        service: &str,
        pods: impl IntoIterator<Item = &'n str>,
    ) -> Result<()> {
        let mut pods: Vec<&str> = pods.into_iter().collect();
        pods.sort_unstable();
        self.until_known(service, &format!("{pods:?} are ready"), |known| {
            let ready = known.iter().filter(|endpoint| endpoint.ready);
            ready
                .map(|endpoint| endpoint.pod.as_str())
                .eq(pods.iter().copied())
        })
    }

    /// Waits until a Service's endpoints are as they shall be.
    pub fn until_known(
        &self,
        service: &str,
        what: &str,
        is_so: impl Fn(&[Known]) -> bool,
    ) -> Result<()> {
        let what = format!("in the slices of {}/{service}: {what}", self.space);
        until_prepared(&what, || Ok(is_so(&self.endpoints(service)?)))
    }

    /// A slice of a Service without a selector: its ports `tcp` and `udp` lead to [`TARGET`].
    pub fn slice(
        &self,
        service: &str,
        name: &str,
        endpoints: impl IntoIterator<Item = Endpoint>,
    ) -> Slice {
        Slice::new(&self.space, service, Family::V4)
            .named(name)
            .port("tcp", Protocol::Tcp, TARGET)
            .port("udp", Protocol::Udp, TARGET)
            .endpoints(endpoints)
    }
}
