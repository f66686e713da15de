//! A table of our own, for `nft`: nobody else has a reason to touch it, and it is replaced whole.

use super::{super::nftables::Output, Masquerade, PROTOCOLS};

/// `nft list table` of it.
pub(super) const LIST: [&str; 5] = ["-j", "list", "table", "inet", NAME];
/// Its name, of the family `inet`.
pub(super) const NAME: &str = "kube-proxy-ebpf";
const CHAIN: &str = "postrouting";

/// Whether the table that `nft -j` wrote is the one that is wanted.
pub(super) fn is_right(text: &str, wanted: &Masquerade) -> Result<bool, serde_json::Error> {
    let output: Output = serde_json::from_str(text)?;
    let mut chains = 0;
    let mut comments = Vec::new();
    for item in output.nftables {
        if let Some(chain) = item.chain {
            let is_ours = chain.name == CHAIN
                && chain.kind.as_deref() == Some("nat")
                && chain.hook.as_deref() == Some("postrouting")
                && chain.policy.as_deref() == Some("accept");
            if !is_ours {
                return Ok(false);
            }
            chains += 1;
        }
        if let Some(rule) = item.rule {
            comments.push(rule.ours().map(str::to_owned));
        }
    }
    Ok(chains == 1 && comments == wanted.comments().map(Some))
}

/// What makes the table anew, in one transaction, whether there is one or not.
pub(super) fn script(wanted: &Masquerade) -> String {
    let Masquerade { mark, ports } = wanted;
    let (first, last) = (ports.first, ports.last);
    let rules = PROTOCOLS.map(|protocol| {
        let comment = wanted.comment(protocol);
        format!(
            "add rule inet {NAME} {CHAIN} meta mark & {mark:#x} == {mark:#x} meta l4proto {protocol} counter \
             masquerade to :{first}-{last} fully-random comment \"{comment}\"\n"
        )
    });
    // srcnat, by number: names of priorities came to the family inet later.
    format!(
        "add table inet {NAME}\n\
         delete table inet {NAME}\n\
         add table inet {NAME}\n\
         add chain inet {NAME} {CHAIN} {{ type nat hook postrouting priority 100; policy accept; }}\n\
         {}",
        rules.concat()
    )
}

/// What removes it.
pub(super) fn removal() -> String {
    format!("delete table inet {NAME}\n")
}

#[cfg(test)]
mod tests {
    use super::{super::EXAMPLE, *};

    /// As nft 1.0.6 writes it, with the rules of these comments.
    fn listing(kind: &str, comments: &[String]) -> String {
        let rule = |comment: &String| {
            format!(
                r#", {{"rule": {{"family": "inet", "table": "kube-proxy-ebpf", "chain": "postrouting", "handle": 2,
                "comment": "{comment}", "expr": [{{"counter": {{"packets": 0, "bytes": 0}}}},
                {{"masquerade": {{"flags": "fully-random", "port": {{"range": [1024, 29999]}}}}}}]}}}}"#
            )
        };
        let rules: String = comments.iter().map(rule).collect();
        format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}},
            {{"table": {{"family": "inet", "name": "kube-proxy-ebpf", "handle": 1}}}},
            {{"chain": {{"family": "inet", "table": "kube-proxy-ebpf", "name": "postrouting", "handle": 1, "type": "{kind}",
            "hook": "postrouting", "prio": 100, "policy": "accept"}}}}{rules}]}}"#
        )
    }

    #[test]
    fn the_table_is_right_with_all_its_rules_and_no_others() {
        let right = EXAMPLE.comments();
        let is_right = |kind: &str, comments: &[String]| {
            is_right(&listing(kind, comments), &EXAMPLE).expect("what nft writes")
        };
        assert!(is_right("nat", &right));
        assert!(!is_right("filter", &right));
        assert!(!is_right("nat", &[]));
        assert!(!is_right("nat", &right[..2]));
        assert!(!is_right(
            "nat",
            &[&right[..], &["of others".to_owned()]].concat()
        ));
        let other = Masquerade {
            mark: 0x8,
            ..EXAMPLE
        };
        assert!(!is_right("nat", &other.comments()));
        assert!(super::is_right("what?", &EXAMPLE).is_err());
        assert!(!super::is_right(r#"{"nftables": []}"#, &EXAMPLE).expect("JSON"));
    }

    #[test]
    fn the_table_is_made_anew_in_one_transaction() {
        let rule = |protocol| {
            format!(
                "add rule inet kube-proxy-ebpf postrouting meta mark & 0x4 == 0x4 meta l4proto {protocol} counter \
                 masquerade to :1024-29999 fully-random \
                 comment \"kube-proxy-ebpf: masquerade {protocol}, mark 0x4, ports 1024-29999\"\n"
            )
        };
        assert_eq!(
            script(&EXAMPLE),
            [
                "add table inet kube-proxy-ebpf\n\
                 delete table inet kube-proxy-ebpf\n\
                 add table inet kube-proxy-ebpf\n\
                 add chain inet kube-proxy-ebpf postrouting { type nat hook postrouting priority 100; policy accept; }\n",
                &rule("tcp"),
                &rule("udp"),
                &rule("sctp"),
            ]
            .concat()
        );
    }
}
