//! Where the agent's own servers listen: kube-proxy's flags.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use clap::builder::BoolishValueParser;

use crate::serve::ServeConfig;

const HEALTHZ_PORT: u16 = 10256;
const METRICS_PORT: u16 = 10249;

/// Flags of the servers.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeArgs {
    /// Address of /healthz, /livez and /readyz: IP or IP:PORT, or `off`. 0.0.0.0 and :: both listen on both families.
    #[arg(
        long,
        env = "PROXY_HEALTHZ_BIND_ADDRESS",
        value_name = "IP:PORT|off",
        default_value = "0.0.0.0:10256",
        value_parser = healthz
    )]
    healthz_bind_address: BindAddress,

    /// Address of /metrics and /proxyMode: IP or IP:PORT, or `off`.
    #[arg(
        long,
        env = "PROXY_METRICS_BIND_ADDRESS",
        value_name = "IP:PORT|off",
        default_value = "127.0.0.1:10249",
        value_parser = metrics
    )]
    metrics_bind_address: BindAddress,

    /// Exit if one of these two ports is taken. Default: keep trying to get it.
    #[arg(long, env = "PROXY_BIND_ADDRESS_HARD_FAIL", value_parser = BoolishValueParser::new())]
    bind_address_hard_fail: bool,
}

/// A place to listen, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BindAddress(Option<SocketAddr>);

impl ServeArgs {
    /// The flags, checked.
    pub fn check(&self, bpffs: &Path) -> ServeConfig {
        let Self {
            healthz_bind_address,
            metrics_bind_address,
            bind_address_hard_fail,
        } = self;
        ServeConfig {
            healthz: healthz_bind_address.0,
            metrics: metrics_bind_address.0,
            hard_fail: *bind_address_hard_fail,
            local: Some(bpffs.to_owned()),
        }
    }
}

fn healthz(text: &str) -> Result<BindAddress, String> {
    bind_address(text, HEALTHZ_PORT)
}

fn metrics(text: &str) -> Result<BindAddress, String> {
    bind_address(text, METRICS_PORT)
}

fn bind_address(text: &str, port: u16) -> Result<BindAddress, String> {
    let text = text.trim();
    if text.is_empty() || text == "off" {
        return Ok(BindAddress(None));
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let with_port = |ip: IpAddr| SocketAddr::new(ip, port);
    text.parse()
        .or_else(|_| bare.parse().map(with_port))
        .map(|at| BindAddress(Some(at)))
        .map_err(|_| {
            format!(
                "{text:?} is neither IP nor IP:PORT, such as 0.0.0.0:{port} or [::]:{port}, nor off"
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h2_an_address_may_leave_out_its_port() {
        for (text, at) in [
            ("192.0.2.1", "192.0.2.1:10256"),
            ("192.0.2.1:8080", "192.0.2.1:8080"),
            ("::", "[::]:10256"),
            ("[::1]", "[::1]:10256"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
        ] {
            let at = BindAddress(Some(at.parse().unwrap()));
            assert_eq!(healthz(text), Ok(at), "{text}");
        }
        for text in ["", " ", "off"] {
            assert_eq!(metrics(text), Ok(BindAddress(None)), "{text:?}");
        }
        for text in ["localhost", "192.0.2.1:", "192.0.2.1:65536", "10256"] {
            assert!(healthz(text).is_err(), "{text}");
        }
    }
}
