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
    descriptors,
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

    /// kube-proxy's configuration file (`KubeProxyConfiguration`). Flags and environment variables override its fields.
    /// Unsupported fields are logged and ignored.
    #[arg(long, env = "PROXY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// Cgroup v2 folder to attach the socket programs to. Default: the root of the hierarchy.
    #[arg(long, env = "PROXY_CGROUP", value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// Uplinks: the devices that lead out of the node. `auto` finds them.
    #[arg(
        long,
        env = "PROXY_DEVICES",
        value_name = "a,b|auto",
        value_delimiter = ',',
        default_value = "auto"
    )]
    devices: Vec<String>,

    /// Sockets to translate when they connect. The node's own sockets always are, so this restricts pods only.
    #[arg(long, env = "PROXY_SOCKET_LB", value_enum, default_value_t)]
    socket_lb: SocketLb,

    /// Source ports for SNAT to backends on other nodes. The last range is for pods that reach themselves through a Service.
    #[arg(
        long,
        env = "PROXY_SNAT_PORTS",
        value_name = "RANGES",
        default_value = "1024-29999,61000-65535"
    )]
    snat_ports: SnatPorts,

    /// The cluster's node port range: the value of the API server's flag of the same name.
    #[arg(
        long,
        env = "PROXY_SERVICE_NODE_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value = "30000-32767",
        value_parser = node_port_range
    )]
    service_node_port_range: PortRange,

    /// Bit of the packet mark (0 to 31) to set on translated packets that continue through the kernel's stack.
    #[arg(
        long,
        env = "PROXY_FWMARK_BIT",
        value_name = "BIT",
        default_value = "6"
    )]
    fwmark_bit: MarkBit,

    /// Whether to accept translated packets (known by --fwmark-bit) and replies in FORWARD chains that drop.
    #[arg(long, env = "PROXY_MANAGE_FORWARD", value_enum, default_value_t)]
    manage_forward: ManageForward,

    /// Masquerade traffic from outside to backends on this node, as kube-proxy does, except with externalTrafficPolicy: Local.
    #[arg(long, env = "PROXY_MASQUERADE_LOCAL", value_parser = BoolishValueParser::new())]
    masquerade_local: bool,

    /// Bit of the packet mark (0 to 31) that selects packets for --masquerade-local.
    #[arg(
        long,
        env = "PROXY_MASQUERADE_BIT",
        value_name = "BIT",
        default_value = "2"
    )]
    masquerade_bit: MarkBit,

    /// Seed of Maglev's client hash. It must be the same on all nodes. Keep it secret if clients must not be able to choose
    /// their backend.
    #[arg(
        long,
        env = "PROXY_MAGLEV_SEED",
        value_name = "TEXT",
        default_value = ""
    )]
    maglev_seed: String,

    /// Abort UDP sockets that are connected to a backend that is gone, so that their owners reconnect.
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

    /// End TCP connections to deleted backends at once: sockets get ECONNABORTED, packets are answered with RST.
    /// Connections to backends that are terminating or unready continue.
    #[arg(
        long,
        env = "PROXY_END_TCP_OF_DELETED_BACKENDS",
        value_parser = BoolishValueParser::new()
    )]
    end_tcp_of_deleted_backends: bool,

    /// Events of single packets and sockets to log. `off` costs nothing.
    #[arg(long, env = "PROXY_DATAPATH_LOG", value_enum, default_value_t)]
    datapath_log: DatapathLog,

    /// How to attach programs to devices: tcx (Linux 6.6 and later) or filters of a clsact qdisc.
    #[arg(long, env = "PROXY_TC", value_enum, default_value_t)]
    tc: Tc,

    /// Mode of XDP on uplinks. tc handles other devices, and packets that XDP does not finish.
    #[arg(long, env = "PROXY_XDP", value_enum, default_value_t)]
    xdp: XdpMode,

    /// File to create when the first full list of Services is programmed.
    #[arg(long, env = "PROXY_READY_FILE", value_name = "PATH")]
    ready_file: Option<PathBuf>,
}

/// Values of `--tc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Tc {
    /// tcx if the kernel has it, else clsact.
    #[default]
    Auto,
    /// tcx; fail if the kernel does not have it.
    Tcx,
    /// Filters of a clsact qdisc.
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
    descriptors::raise();
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
            serve: serve.check(&bpffs.bpffs),
            bpffs: bpffs.bpffs,
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
