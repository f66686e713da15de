//! What CNIs add to netfilter, so that pods reach the world outside.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::address::Family;
use crate::error::{LabError, Result};
use crate::node::Node;

/// All pods of the cluster.
const PODS: [(Family, &str, &str); 2] = [
    (Family::V4, "ip", "10.244.0.0/16"),
    (Family::V6, "ip6", "fd00:10:244::/48"),
];

impl Node {
    /// Masquerades what its pods send to addresses that are no pods, as CNIs do (`ipMasq`). Needs nft. (With it come
    /// conntrack on every packet and a NAT hook.)
    pub fn masquerade(&self) -> Result<()> {
        let mut rules = String::new();
        for (family, word, all) in PODS {
            let own = self.pod_range(family);
            // Writing to a String does not fail.
            let _ = writeln!(
                rules,
                "add rule inet cni postrouting {word} saddr {own} {word} daddr != {all} masquerade"
            );
        }
        self.nft(&format!(
            "add table inet cni\n\
             add chain inet cni postrouting {{ type nat hook postrouting priority srcnat; }}\n{rules}"
        ))
    }

    /// Runs a script of nft.
    pub fn nft(&self, script: &str) -> Result<()> {
        let file: PathBuf = self.temp().join(format!("{}.nft", self.name()));
        std::fs::write(&file, script).map_err(LabError::file("writing", &file))?;
        self.exec(["nft".as_ref(), "-f".as_ref(), file.as_os_str()])
            .map(drop)
    }
}
