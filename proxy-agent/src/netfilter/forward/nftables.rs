//! Base chains of nftables that forwarded packets pass, as `nft -j` lists them, and changes of them for `nft -f`.

use std::fmt::Write as _;

use serde_json::Map;

use super::{
    super::nftables::{Output, RuleItem},
    Accept,
    chain::{Chain, Edit, Effect},
};

/// A base chain's name, in full.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Base {
    pub family: String,
    pub table: String,
    pub name: String,
}

impl Base {
    /// As nft wants it.
    pub fn words(&self) -> [&str; 3] {
        [&self.family, &self.table, &self.name]
    }
}

/// The filters at the hook `forward`, from what `nft -j list chains` wrote.
pub(super) fn forward_chains(text: &str) -> Result<Vec<Base>, serde_json::Error> {
    let output: Output = serde_json::from_str(text)?;
    let chains = output.nftables.into_iter().filter_map(|item| item.chain);
    let wanted = chains.filter(|chain| {
        chain.hook.as_deref() == Some("forward")
            && chain.kind.as_deref() == Some("filter")
            && matches!(chain.family.as_str(), "ip" | "ip6" | "inet")
    });
    Ok(wanted
        .map(|chain| Base {
            family: chain.family,
            table: chain.table,
            name: chain.name,
        })
        .collect())
}

/// A listing of one chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    pub chain: Chain,
    /// The rules' handles.
    handles: Vec<u64>,
}

/// Reads what `nft -j list chain …` wrote.
pub(super) fn parse(text: &str) -> Result<Listing, serde_json::Error> {
    let output: Output = serde_json::from_str(text)?;
    let (mut chain, mut handles) = (Chain::default(), Vec::new());
    for item in output.nftables {
        if let Some(described) = item.chain {
            chain.refuses = described.policy.as_deref() == Some("drop");
        }
        if let Some(rule) = item.rule {
            handles.push(rule.handle);
            chain.rules.push(effect(&rule));
        }
    }
    Ok(Listing { chain, handles })
}

fn effect(rule: &RuleItem) -> Effect {
    if let Some(comment) = rule.ours() {
        return Effect::Ours(comment.to_owned());
    }
    let mut logs = false;
    for statement in rule.expr.iter().flat_map(Map::keys) {
        match statement.as_str() {
            "counter" => {}
            "log" => logs = true,
            "drop" | "reject" => return Effect::Refuses,
            "accept" => return Effect::Accepts,
            "return" => return Effect::Returns,
            _ => return Effect::Other,
        }
    }
    if logs { Effect::Logs } else { Effect::Other }
}

/// What `nft -f` makes an edit by, in one transaction.
pub(super) fn script(base: &Base, listing: &Listing, edit: &Edit, accepts: &[Accept]) -> String {
    let mut text = String::new();
    let chain = base.words().join(" ");
    for handle in edit.remove.iter().filter_map(|&at| listing.handles.get(at)) {
        let _ = writeln!(text, "delete rule {chain} handle {handle}");
    }
    let others = (0..listing.handles.len()).filter(|at| !edit.remove.contains(at));
    let others: Vec<u64> = others.map(|at| listing.handles[at]).collect();
    for &accept in accepts {
        let spec = spec(accept);
        let _ = match edit.insert {
            None => Ok(()),
            Some(at) => match others.get(at) {
                Some(before) => writeln!(text, "insert rule {chain} handle {before} {spec}"),
                None => writeln!(text, "add rule {chain} {spec}"),
            },
        };
    }
    text
}

fn spec(accept: Accept) -> String {
    let comment = accept.comment();
    let matches = match accept {
        Accept::Translated(mark) => format!("meta mark & {mark:#x} == {mark:#x}"),
        Accept::Replies => "ct state established,related".to_owned(),
    };
    format!("{matches} counter accept comment \"{comment}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As nft 1.0.6 writes them.
    const CHAINS: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"chain": {"family": "inet", "table": "own", "name": "pass", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "own", "name": "rest", "handle": 2}},
        {"chain": {"family": "ip", "table": "nat", "name": "x", "handle": 1, "type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}},
        {"chain": {"family": "bridge", "table": "b", "name": "f", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}}]}"#;

    const CHAIN: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"chain": {"family": "inet", "table": "own", "name": "pass", "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "own", "chain": "pass", "handle": 2, "comment": "kube-proxy-ebpf: translated, mark 0x40", "expr": [{"match": {"op": "==", "left": {"&": [{"meta": {"key": "mark"}}, 64]}, "right": 64}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "own", "chain": "pass", "handle": 5, "expr": [{"jump": {"target": "rest"}}]}},
        {"rule": {"family": "inet", "table": "own", "chain": "pass", "handle": 6, "expr": [{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "own", "chain": "pass", "handle": 7, "comment": "of others", "expr": [{"counter": {"packets": 0, "bytes": 0}}, {"log": {"prefix": "x"}}]}},
        {"rule": {"family": "inet", "table": "own", "chain": "pass", "handle": 8, "expr": [{"log": null}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]}}]}"#;

    fn own() -> Base {
        forward_chains(CHAINS).unwrap().remove(0)
    }

    #[test]
    fn filters_at_the_hook_are_found() {
        let chains = forward_chains(CHAINS).unwrap();
        let found: Vec<_> = chains.iter().map(Base::words).collect();
        assert_eq!(
            found,
            [["inet", "own", "pass"], ["ip6", "filter", "FORWARD"]]
        );
        assert!(forward_chains("").is_err());
    }

    #[test]
    fn a_chain_is_put_right_in_one_transaction() {
        let listing = parse(CHAIN).unwrap();
        let effects = [
            Effect::Ours("kube-proxy-ebpf: translated, mark 0x40".to_owned()),
            Effect::Other,
            Effect::Other,
            Effect::Logs,
            Effect::Refuses,
        ];
        assert!(listing.chain.refuses);
        assert_eq!(listing.chain.rules, effects);
        let accepts = Accept::all(0x40);
        let edit = listing.chain.edit(&accepts.map(Accept::comment)).unwrap();
        let [translated, replies] = accepts.map(spec);
        assert_eq!(
            script(&own(), &listing, &edit, &accepts),
            format!(
                "delete rule inet own pass handle 2\n\
                 insert rule inet own pass handle 7 {translated}\n\
                 insert rule inet own pass handle 7 {replies}\n"
            )
        );
        let none = listing.chain.edit(&[]).unwrap();
        assert_eq!(
            script(&own(), &listing, &none, &[]),
            "delete rule inet own pass handle 2\n"
        );
    }

    #[test]
    fn at_the_end_where_only_the_policy_drops() {
        let text = CHAIN
            .replace("\"log\"", "\"x\"")
            .replace("\"reject\"", "\"y\"");
        let listing = parse(&text).unwrap();
        let accepts = Accept::all(0x40);
        let edit = listing.chain.edit(&accepts.map(Accept::comment)).unwrap();
        let script = script(&own(), &listing, &edit, &accepts);
        assert_eq!(script.matches("\nadd rule inet own pass ").count(), 2);
    }
}
