//! The agent's configuration, checked.

use std::path::PathBuf;

use crate::{
    config::NodePortAddresses,
    dataplane::{
        abort::Protocol, attach::TcMode, log::DatapathLog, settings::SettingsConfig, xdp::XdpMode,
    },
    devices::classify::DeviceConfig,
    netfilter::Rules,
    planner::PlannerConfig,
    serve::ServeConfig,
    source::Source,
};

/// The agent's configuration.
#[derive(Clone, Debug)]
pub struct AppConfig {
    /// Where objects come from.
    pub source: Source,
    /// For the planner.
    pub planner: PlannerConfig,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Where everything is pinned.
    pub bpffs: PathBuf,
    /// Where health and metrics are served.
    pub serve: ServeConfig,
    /// Cgroup of the socket hooks; the root, if not given.
    pub cgroup: Option<PathBuf>,
    /// Which devices are uplinks.
    pub devices: DeviceConfig,
    /// For all programs.
    pub settings: SettingsConfig,
    /// Of what the programs tell.
    pub datapath_log: DatapathLog,
    /// How programs go on devices; `None`: as the kernel can.
    pub tc: Option<TcMode>,
    /// Rules for translated packets, those that are not wanted, too.
    pub netfilter: [Rules; 2],
    /// Where XDP programs are used.
    pub xdp: XdpMode,
    /// Whether UDP sockets that are connected to a backend that is gone are aborted.
    pub abort_udp_sockets: bool,
    /// Created when the first full list is programmed.
    pub ready_file: Option<PathBuf>,
}

impl AppConfig {
    /// Whose sockets are aborted when their backend is gone.
    pub(super) fn protocols_to_abort(&self) -> Vec<Protocol> {
        let tcp = self.settings.end_tcp.then_some(Protocol::Tcp);
        let udp = self.abort_udp_sockets.then_some(Protocol::Udp);
        tcp.into_iter().chain(udp).collect()
    }
}
