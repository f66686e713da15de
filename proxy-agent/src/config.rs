//! Flags that `run` and `plan` share. They have kube-proxy's names where the meaning is the same, and each can be given
//! by environment too.

pub mod environment;
pub mod file;
pub mod nearest;
mod node_port_addresses;
mod serve;

use std::fs;

use clap::builder::BoolishValueParser;
use proxy_common::abi::target::Algorithm;

pub use node_port_addresses::{NodePortAddresses, NodePortAddressesError};
pub use serve::ServeArgs;

use crate::{
    convert::slow_start,
    planner::PlannerConfig,
    policy::Options,
    source::{
        Source, SourceSpec,
        kube::{AccessArgs, Cluster},
    },
};

const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// What the rules of a Service depend on.
#[derive(Clone, Debug, clap::Args)]
pub struct RuleArgs {
    /// Source of Services, EndpointSlices and Nodes: the API server (`kube`), or a folder of YAML files (`file:DIR`).
    #[arg(long, env = "PROXY_SOURCE", value_name = "file:DIR|kube")]
    pub source: SourceSpec,

    /// How to reach the API server.
    #[command(flatten)]
    pub access: AccessArgs,

    /// Name of this node's Node object. Default: the host name.
    #[arg(long, env = "PROXY_HOSTNAME_OVERRIDE", value_name = "NAME")]
    pub hostname_override: Option<String>,

    /// Addresses of this node that serve node ports: CIDRs, or `primary` for the Node object's first address of each
    /// family. A family without a CIDR serves them on all of its addresses. Default: all addresses.
    #[arg(
        long,
        env = "PROXY_NODEPORT_ADDRESSES",
        value_name = "CIDR,…|primary",
        value_delimiter = ','
    )]
    pub nodeport_addresses: Vec<String>,

    /// Also serve Services whose label service.kubernetes.io/service-proxy-name has this value.
    #[arg(long, env = "PROXY_SERVICE_PROXY_NAME", value_name = "NAME")]
    pub service_proxy_name: Option<String>,

    /// Accept traffic from outside the cluster to any `clusterIP`.
    #[arg(long, env = "PROXY_EXTERNAL_CLUSTER_IP", value_parser = BoolishValueParser::new())]
    pub external_cluster_ip: bool,

    /// Apply loadBalancerSourceRanges to all frontends of a Service, not only to its load balancer IPs. Pods and nodes then
    /// need a range of their own to get in.
    #[arg(long, env = "PROXY_SOURCE_RANGES_FOR_ALL_FRONTENDS", value_parser = BoolishValueParser::new())]
    pub source_ranges_for_all_frontends: bool,

    /// Algorithm that chooses backends for Services without the annotation kube-proxy-ebpf.io/algorithm: random,
    /// round-robin, maglev or least-connections.
    #[arg(
        long,
        env = "PROXY_DEFAULT_ALGORITHM",
        value_name = "NAME",
        default_value = Algorithm::Random.name(),
        value_parser = algorithm
    )]
    pub default_algorithm: Algorithm,

    /// Time over which a new backend ramps up to its full share of new connections, for Services without the annotation
    /// kube-proxy-ebpf.io/slow-start: 1s to 18h, or 0s for no slow start.
    #[arg(
        long,
        env = "PROXY_SLOW_START",
        value_name = "DURATION",
        default_value = "0s",
        value_parser = slow_start::seconds
    )]
    pub slow_start: u16,
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::from_name(text).ok_or_else(|| {
        format!(
            "{text:?} is none of {}",
            Algorithm::ALL.map(Algorithm::name).join(", ")
        )
    })
}

/// A flag that can't be followed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// See [`NodePortAddressesError`].
    #[error("--nodeport-addresses is not understood")]
    NodePortAddresses(#[from] NodePortAddressesError),
    /// The host name can't be read.
    #[error("can't read the host name from {HOSTNAME}; give --hostname-override")]
    Hostname(#[source] std::io::Error),
    /// It is empty.
    #[error("the name of this node is empty; give --hostname-override")]
    NoName,
}

/// The flags, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Where objects come from.
    pub source: Source,
    /// For the planner.
    pub planner: PlannerConfig,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
}

impl RuleArgs {
    /// Checks the flags and fills in what was not given.
    pub fn check(self) -> Result<Rules, ConfigError> {
        let Self {
            source,
            access,
            hostname_override,
            nodeport_addresses,
            service_proxy_name,
            external_cluster_ip,
            source_ranges_for_all_frontends,
            default_algorithm,
            slow_start,
        } = self;
        let node_name = match hostname_override {
            Some(name) => name,
            None => fs::read_to_string(HOSTNAME).map_err(ConfigError::Hostname)?,
        };
        // As kube-proxy and the kubelet do.
        let node_name = node_name.trim().to_lowercase();
        if node_name.is_empty() {
            return Err(ConfigError::NoName);
        }
        Ok(Rules {
            planner: PlannerConfig {
                // Watches of the API server do not wait for each other.
                slices_may_come_first: source == SourceSpec::Kube,
                node_name: node_name.clone(),
                options: Options {
                    service_proxy_name: service_proxy_name.filter(|name| !name.is_empty()),
                    external_cluster_ip,
                    filter_all_frontends: source_ranges_for_all_frontends,
                    default_algorithm,
                    default_slow_start: slow_start,
                    end_tcp: false,
                },
            },
            node_port_addresses: NodePortAddresses::parse(&nodeport_addresses)?,
            source: match source {
                SourceSpec::File(folder) => Source::File(folder),
                SourceSpec::Kube => Source::Kube(Box::new(Cluster::new(access.into(), node_name))),
            },
        })
    }
}
