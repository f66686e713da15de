//! `run`: the agent itself.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::builder::BoolishValueParser;
use proxy_common::abi::settings::PortRange;

use crate::{
    app::{App, AppConfig},
    commands::BpffsArgs,
    config::{RuleArgs, ServeArgs},
    dataplane::{
        attach::TcMode,
        log::DatapathLog,
        settings::{MarkBit, SettingsConfig, SnatPorts, SocketLb, parse_range},
        xdp::XdpMode,
    },
    devices::classify::DeviceConfig,
    netfilter::{Rules, forward::ManageForward, masquerade::Masquerade},
};

/// Flags of `run`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    #[command(flatten)]
    rules: RuleArgs,

    #[command(flatten)]
    bpffs: BpffsArgs,

    #[command(flatten)]
    serve: ServeArgs,

    /// kube-proxy's configuration file (KubeProxyConfiguration): what applies here is taken for flags that are not given.
    #[arg(long, env = "PROXY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Cgroup v2 folder whose sockets are translated: the root, if not given.
    #[arg(long, env = "PROXY_CGROUP", value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// Devices that lead to the outside, or `auto` to find them.
    #[arg(
        long,
        env = "PROXY_DEVICES",
        value_name = "a,b|auto",
        value_delimiter = ',',
        default_value = "auto"
    )]
    devices: Vec<String>,

    /// Whose sockets are translated when they connect; the node's own always are, so this restricts pods only.
    #[arg(long, env = "PROXY_SOCKET_LB", value_enum, default_value_t)]
    socket_lb: SocketLb,

    /// Ports that the source of a connection to another node is translated to.
    #[arg(
        long,
        env = "PROXY_SNAT_PORTS",
        value_name = "RANGES",
        default_value = "1024-29999,61000-65535"
    )]
    snat_ports: SnatPorts,

    /// The cluster's range of node ports (the API server's flag of this name).
    #[arg(
        long,
        env = "PROXY_SERVICE_NODE_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value = "30000-32767",
        value_parser = node_port_range
    )]
    service_node_port_range: PortRange,

    /// Bit of the packet mark, 0 to 31, that is set on packets that were translated and go on through the kernel.
    #[arg(
        long,
        env = "PROXY_FWMARK_BIT",
        value_name = "BIT",
        default_value = "6"
    )]
    fwmark_bit: MarkBit,

    /// Whether translated packets, which have that bit, and replies are accepted where a FORWARD chain drops.
    #[arg(long, env = "PROXY_MANAGE_FORWARD", value_enum, default_value_t)]
    manage_forward: ManageForward,

    /// Give what comes from outside to a backend on this node an address of the node as its source, as kube-proxy does; not
    /// with externalTrafficPolicy: Local.
    #[arg(long, env = "PROXY_MASQUERADE_LOCAL", value_parser = BoolishValueParser::new())]
    masquerade_local: bool,

    /// Bit of the packet mark, 0 to 31, that says so to the rules which do it.
    #[arg(
        long,
        env = "PROXY_MASQUERADE_BIT",
        value_name = "BIT",
        default_value = "2"
    )]
    masquerade_bit: MarkBit,

    /// What clients' hashes are seeded with where backends are chosen by Maglev: the same on all nodes, and better
    /// unknown to clients.
    #[arg(
        long,
        env = "PROXY_MAGLEV_SEED",
        value_name = "TEXT",
        default_value = ""
    )]
    maglev_seed: String,

    /// Abort UDP sockets that are connected to a backend that is gone, so that they connect again; `false`: leave them.
    #[arg(
        long,
        env = "PROXY_ABORT_UDP_SOCKETS",
        value_name = "true|false",
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    abort_udp_sockets: bool,

    /// End TCP connections to backends that were deleted, at once: sockets get ECONNABORTED, packets RST. Those to
    /// backends that terminate, or do not serve, go on.
    #[arg(
        long,
        env = "PROXY_END_TCP_OF_DELETED_BACKENDS",
        value_parser = BoolishValueParser::new()
    )]
    end_tcp_of_deleted_backends: bool,

    /// What the datapath logs of single packets and sockets; `off` costs nothing.
    #[arg(long, env = "PROXY_DATAPATH_LOG", value_enum, default_value_t)]
    datapath_log: DatapathLog,

    /// How programs go on devices: by tcx (Linux 6.6) or by filters of a clsact qdisc. A restart may change it.
    #[arg(long, env = "PROXY_TC", value_enum, default_value_t)]
    tc: Tc,

    /// XDP on uplinks: in the driver where it can (never on or above a veth, which would lose its segmentation offload),
    /// forced in the driver, without the driver's help, or not at all.
    #[arg(long, env = "PROXY_XDP", value_enum, default_value_t)]
    xdp: XdpMode,

    /// File that is created when all Services of the first full list are programmed.
    #[arg(long, env = "PROXY_READY_FILE", value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

/// Values of `--tc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Tc {
    /// By tcx where the kernel has it.
    #[default]
    Auto,
    /// By tcx, or not at all.
    Tcx,
    /// By filters.
    Clsact,
}

impl Tc {
    const fn mode(self) -> Option<TcMode> {
        match self {
            Self::Auto => None,
            Self::Tcx => Some(TcMode::Tcx),
            Self::Clsact => Some(TcMode::Clsact),
        }
    }
}

fn node_port_range(text: &str) -> Result<PortRange, String> {
    parse_range(text).ok_or_else(|| format!("{text:?} is not a range of ports FIRST-LAST"))
}

/// Runs until it is told to stop (SIGTERM, SIGINT), and leaves everything in the kernel as it is.
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let config = args.check()?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("could not start the runtime")?
        .block_on(async { App::start(config).await?.run().await })
}

impl RunArgs {
    fn check(self) -> anyhow::Result<AppConfig> {
        let Self {
            rules,
            bpffs,
            serve,
            // Its fields are among the flags already.
            config: _,
            cgroup,
            devices,
            socket_lb,
            snat_ports,
            service_node_port_range,
            fwmark_bit,
            manage_forward,
            masquerade_local,
            masquerade_bit,
            maglev_seed,
            abort_udp_sockets,
            end_tcp_of_deleted_backends,
            datapath_log,
            tc,
            xdp,
            ready_file,
        } = self;
        let mut rules = rules.check()?;
        rules.planner.options.end_tcp = end_tcp_of_deleted_backends;
        if let Some(range) = snat_ports.overlapping(service_node_port_range) {
            bail!(
                "--snat-ports {}-{} shares ports with the node ports {}-{}: a reply could not be told from a request",
                range.first,
                range.last,
                service_node_port_range.first,
                service_node_port_range.last
            );
        }
        let masquerade_mark = masquerade_local.then_some(masquerade_bit);
        if masquerade_mark == Some(fwmark_bit) {
            bail!(
                "--masquerade-bit and --fwmark-bit must be two bits, since not all that is translated is masqueraded"
            );
        }
        let masquerade = masquerade_mark.map(|bit| {
            let ports = snat_ports.masquerade().context(
                "--masquerade-local needs two ranges in --snat-ports: the last is for pods that reach themselves by a Service, \
                 and what is masqueraded takes the widest of the others",
            )?;
            let mark = bit.value();
            anyhow::Ok(Masquerade { mark, ports })
        });
        let netfilter = [
            Rules::Masquerade(masquerade.transpose()?),
            Rules::Forward(match manage_forward {
                ManageForward::Auto => Some(fwmark_bit.value()),
                ManageForward::Off => None,
            }),
        ];
        Ok(AppConfig {
            source: rules.source,
            planner: rules.planner,
            node_port_addresses: rules.node_port_addresses,
            bpffs: bpffs.bpffs,
            serve: serve.check(),
            cgroup,
            devices: DeviceConfig::parse(&devices).context("--devices is not understood")?,
            settings: SettingsConfig {
                socket_lb,
                end_tcp: end_tcp_of_deleted_backends,
                snat_ports,
                forward_mark: fwmark_bit,
                masquerade_mark,
                maglev_seed,
            },
            datapath_log,
            tc: tc.mode(),
            netfilter,
            xdp,
            abort_udp_sockets,
            ready_file,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: RunArgs,
    }

    fn check(arguments: &[&str]) -> anyhow::Result<AppConfig> {
        let first = ["run", "--source=file:x", "--hostname-override=worker-1"];
        Line::try_parse_from(first.iter().chain(arguments))?
            .run
            .check()
    }

    #[test]
    fn a2_masquerade_local_is_an_option_with_a_mark_of_its_own() {
        let config = check(&[]).unwrap();
        assert_eq!(config.settings.masquerade_mark, None);
        assert_eq!(config.netfilter[0], Rules::Masquerade(None));

        let config = check(&["--masquerade-local", "--snat-ports=50000-50009,61000-62000"]);
        let config = config.unwrap();
        assert_eq!(config.settings.masquerade_mark.map(MarkBit::value), Some(4));
        let ports = parse_range("50000-50009").unwrap();
        let wanted = Masquerade { mark: 4, ports };
        assert_eq!(config.netfilter[0], Rules::Masquerade(Some(wanted)));

        let single = ["--masquerade-local", "--snat-ports=1024-29999"];
        let error = check(&single).unwrap_err().to_string();
        assert!(error.contains("two ranges"), "{error}");
        assert!(check(&single[1..]).is_ok());

        let same = ["--masquerade-local", "--masquerade-bit=6"];
        let error = check(&same).unwrap_err().to_string();
        assert!(error.contains("two bits"), "{error}");
        // What is not used does no harm.
        assert!(check(&same[1..]).is_ok());
        assert!(check(&["--masquerade-local", "--masquerade-bit=14"]).is_err());
    }
}
