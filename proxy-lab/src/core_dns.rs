//! The real CoreDNS in a pod, with its kubernetes plugin.

use crate::control_plane::{ControlPlane, Identity, binaries};
use crate::error::{LabError, Result};
use crate::pod::Pod;

/// Starts it in a pod of the API, as a user of the API server that may list and watch Services, EndpointSlices and
/// Namespaces. It answers on port 53 by UDP and TCP, and ends with the lab.
pub fn start_core_dns(
    cluster: &ControlPlane,
    pod: &Pod,
    identity: &Identity,
    domain: &str,
) -> Result<()> {
    let kubeconfig = cluster.kubeconfig(identity)?;
    let file = cluster.folder().join("Corefile");
    // No cache: what changes is answered at once.
    let text = format!(
        ".:53 {{\n  errors\n  kubernetes {domain} in-addr.arpa ip6.arpa {{\n    kubeconfig {}\n    ttl 5\n  }}\n}}\n",
        kubeconfig.display()
    );
    std::fs::write(&file, text).map_err(LabError::file("writing", &file))?;
    let program = binaries::program("coredns")?;
    let words = [program.as_os_str(), "-conf".as_ref(), file.as_os_str()];
    pod.start_program(words, &cluster.folder().join("coredns.log"))
}
