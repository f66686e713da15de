//! Looking names up as any program in a pod does: by the C library, which goes by the pod's resolv.conf.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proxy_lab::{Family, Host, Result};

/// How the library asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    Udp,
    Tcp,
}

/// The addresses of a name; empty if the name does not exist.
pub fn look_up(pod: &Host, name: &str, family: Family, by: By) -> Result<BTreeSet<IpAddr>> {
    let database = match family {
        Family::V4 => "ahostsv4",
        Family::V6 => "ahostsv6",
    };
    let found = getent(pod, database, name, by)?;
    let words = found.lines().filter_map(|line| line.split(' ').next());
    let addresses = words.filter_map(|word| word.parse().ok());
    // Where a name has no IPv6 address, the library gives an IPv4 one in IPv6's clothes.
    Ok(addresses
        .filter(|&address| Family::of(address) == family && !is_mapped(address))
        .collect())
}

/// The name of an address, if it has one.
pub fn name_of(pod: &Host, address: IpAddr) -> Result<Option<String>> {
    let found = getent(pod, "hosts", &address.to_string(), By::Udp)?;
    Ok(found.split_whitespace().nth(1).map(str::to_owned))
}

/// getent(1) exits with 2 if the entry does not exist.
fn getent(pod: &Host, database: &str, key: &str, by: By) -> Result<String> {
    let script = "getent \"$@\" || [ $? -eq 2 ]";
    let options = match by {
        By::Udp => "RES_OPTIONS=",
        By::Tcp => "RES_OPTIONS=use-vc",
    };
    pod.run(["env", options, "sh", "-c", script, "sh", database, key])
}

fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}
