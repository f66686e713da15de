//! The way to the API server: which address, and as whom.
//!
//! | given | address | credentials |
//! |---|---|---|
//! | `--kubeconfig` | `--api-server`, else the file's | the file's |
//! | in a pod | `--api-server`, else those of `--api-server-from`, else the `kubernetes` Service | the service account's |
//! | neither | `--api-server` | none |
//!
//! A proxy for Services must not need a Service to begin with: so in a pod the `kubernetes` Service comes last. What is in
//! files is read again for each new client.

use std::{
    env, io,
    path::{Path, PathBuf},
};

use http::Uri;
use kube::config::{AuthInfo, Config, Kubeconfig, KubeconfigError};

use super::pace::Pace;
use crate::{files, telemetry::chain};

const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Flags that name the API server.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct AccessArgs {
    /// Kubeconfig with the API server's address and credentials.
    #[arg(long, env = "PROXY_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,

    /// Address of the API server. It overrides all other sources of the address.
    #[arg(
        long,
        alias = "master",
        env = "PROXY_API_SERVER",
        value_name = "URL",
        value_parser = server_url
    )]
    pub api_server: Option<Uri>,

    /// Kubeconfigs to take the API server's address from, in a pod without --kubeconfig and --api-server. Missing files are
    /// skipped. Credentials are the service account's.
    #[arg(
        long,
        env = "PROXY_API_SERVER_FROM",
        value_name = "PATH,…",
        value_delimiter = ',',
        default_value = "/var/lib/kube-proxy/kubeconfig.conf"
    )]
    pub api_server_from: Vec<PathBuf>,
}

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The kubeconfig is missing or wrong.
    #[error("the kubeconfig {path} can't be used", path = path.display())]
    Kubeconfig {
        /// Which one.
        path: PathBuf,
        #[source]
        /// Why.
        source: KubeconfigError,
    },
    /// A file of the service account can't be read.
    #[error("the file {path} of the service account can't be used", path = path.display())]
    File {
        /// Which one.
        path: PathBuf,
        #[source]
        /// Why.
        source: io::Error,
    },
    /// The flags name none, and this is no pod.
    #[error(
        "there is no way to the API server: give --kubeconfig or --api-server (in a pod the service account's token would do)"
    )]
    None,
}

/// The flags, and what the pod's environment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    kubeconfig: Option<PathBuf>,
    server: Option<Uri>,
    server_from: Vec<PathBuf>,
    service_account: PathBuf,
    service: Option<Uri>,
}

impl From<AccessArgs> for Access {
    fn from(args: AccessArgs) -> Self {
        let AccessArgs {
            kubeconfig,
            api_server,
            api_server_from,
        } = args;
        Self {
            kubeconfig,
            server: api_server,
            server_from: api_server_from,
            service_account: SERVICE_ACCOUNT.into(),
            service: kubernetes_service(
                env::var("KUBERNETES_SERVICE_HOST").ok(),
                env::var("KUBERNETES_SERVICE_PORT").ok(),
            ),
        }
    }
}

impl Access {
    /// How to reach the API server. Where several addresses are known, `attempt` 0, 1, … go round.
    pub(super) fn config(&self, attempt: usize, pace: &Pace) -> Result<Config, AccessError> {
        let mut config = match &self.kubeconfig {
            Some(path) => self.by_kubeconfig(path)?,
            None => self.without_kubeconfig(attempt)?,
        };
        config.connect_timeout = Some(pace.connect);
        // Repeating is ours, so that it is told and spread.
        config.default_retry = false;
        Ok(config)
    }

    fn by_kubeconfig(&self, path: &Path) -> Result<Config, AccessError> {
        let error = |source| AccessError::Kubeconfig {
            path: path.to_owned(),
            source,
        };
        let kubeconfig = read_kubeconfig(path).map_err(error)?;
        check_files(&kubeconfig).map_err(error)?;
        let asks_for_proxy = kubeconfig
            .clusters
            .iter()
            .filter_map(|named| named.cluster.as_ref())
            .any(|cluster| cluster.proxy_url.is_some());
        let mut config = Config::try_from(kubeconfig).map_err(error)?;
        if !asks_for_proxy {
            // HTTPS_PROXY is for the world outside.
            config.proxy_url = None;
        }
        if let Some(server) = &self.server {
            config.cluster_url = server.clone();
        }
        Ok(config)
    }

    fn without_kubeconfig(&self, attempt: usize) -> Result<Config, AccessError> {
        let token = self.service_account.join("token");
        let in_pod = token.exists();
        let servers: Vec<Uri> = match &self.server {
            Some(server) => vec![server.clone()],
            None if in_pod => self.servers_of_pod(),
            None => Vec::new(),
        };
        let server = servers
            .get(attempt.checked_rem(servers.len()).unwrap_or(0))
            .ok_or(AccessError::None)?;
        let mut config = Config::new(server.clone());
        if in_pod {
            let authority = self.service_account.join("ca.crt");
            check_file(&token)?;
            if authority.exists() {
                check_file(&authority)?;
                // The file alone is trusted, and read again as it changes. Without a set here the client would first look
                // for the system's, and fail where there is none: in our image.
                config.root_cert = Some(Vec::new());
                config.root_cert_file = Some(authority);
            }
            config.auth_info = AuthInfo {
                token_file: Some(token.display().to_string()),
                ..AuthInfo::default()
            };
        }
        Ok(config)
    }

    fn servers_of_pod(&self) -> Vec<Uri> {
        let mut servers: Vec<Uri> = Vec::new();
        for path in &self.server_from {
            match server_of(path) {
                Ok(Some(server)) => servers.push(server),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), error, "--api-server-from: the file is passed over");
                }
            }
        }
        servers.extend(self.service.clone());
        servers
    }
}

/// Reads a kubeconfig, if it is a file that ends.
fn read_kubeconfig(path: &Path) -> Result<Kubeconfig, KubeconfigError> {
    files::check_configuration(path)
        .map_err(|source| KubeconfigError::ReadConfig(source, path.to_owned()))?;
    Kubeconfig::read_from(path)
}

/// Fails where a file that a kubeconfig names, and that the client will read, is none.
fn check_files(kubeconfig: &Kubeconfig) -> Result<(), KubeconfigError> {
    let clusters = kubeconfig
        .clusters
        .iter()
        .filter_map(|named| named.cluster.as_ref());
    let users = kubeconfig
        .auth_infos
        .iter()
        .filter_map(|named| named.auth_info.as_ref());
    let named = clusters
        .map(|cluster| &cluster.certificate_authority)
        .chain(
            users.flat_map(|user| [&user.client_certificate, &user.client_key, &user.token_file]),
        );
    for path in named.flatten().map(Path::new) {
        match files::check_configuration(path) {
            // The client says that better, where it needs it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => {
                result.map_err(|source| KubeconfigError::ReadConfig(source, path.to_owned()))?;
            }
        }
    }
    Ok(())
}

fn check_file(path: &Path) -> Result<(), AccessError> {
    files::check_configuration(path).map_err(|source| AccessError::File {
        path: path.to_owned(),
        source,
    })
}

/// The address of the cluster in a kubeconfig; `None` where there is no such file.
fn server_of(path: &Path) -> Result<Option<Uri>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let kubeconfig = read_kubeconfig(path).map_err(|error| chain(&error))?;
    let context = kubeconfig.current_context.as_deref();
    let cluster = kubeconfig
        .contexts
        .iter()
        .find(|named| Some(named.name.as_str()) == context)
        .and_then(|named| named.context.as_ref())
        .map(|context| context.cluster.as_str());
    let server = kubeconfig
        .clusters
        .iter()
        .find(|named| cluster.is_none_or(|cluster| named.name == cluster))
        .and_then(|named| named.cluster.as_ref()?.server.as_deref())
        .ok_or("it names no server")?;
    server_url(server).map(Some)
}

/// The `kubernetes` Service as a pod's environment names it.
fn kubernetes_service(host: Option<String>, port: Option<String>) -> Option<Uri> {
    let (host, port) = (host?, port?);
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    server_url(&format!("https://{host}:{port}")).ok()
}

fn server_url(text: &str) -> Result<Uri, String> {
    // kube-proxy's --master may be given without a scheme.
    let text = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let uri: Uri = text
        .parse()
        .map_err(|error| format!("{text:?} is no URL: {error}"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|host| !host.is_empty()) => Ok(uri),
        _ => Err(format!("{text:?} is no URL of an API server")),
    }
}

#[cfg(test)]
mod tests;
