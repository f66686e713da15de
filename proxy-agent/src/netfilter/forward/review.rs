//! One look at all chains, and what was wrong put right.

use super::{
    super::{
        iptables::{Variant, name, program},
        review::{Review, RuleError},
        tools::{ToolError, Tools},
    },
    Accept, iptables,
    nftables::{self, Base},
};

/// Makes all chains right: with `mark`, where they refuse packets; without any rule of ours, if there is none.
pub(in crate::netfilter) fn review(tools: &impl Tools, mark: Option<u32>) -> Review {
    let accepts = mark.map(Accept::all);
    let mut work = Work {
        tools,
        accepts: accepts.as_ref().map_or(&[], |all| all.as_slice()),
        review: Review::default(),
    };
    work.all();
    work.review
}

struct Work<'a, T> {
    tools: &'a T,
    accepts: &'a [Accept],
    review: Review,
}

impl<T: Tools> Work<'_, T> {
    fn all(&mut self) {
        let mut bases = match self.bases() {
            Ok(bases) => Some(bases),
            Err(error) => {
                self.review.errors.push(error);
                None
            }
        };
        for v6 in [false, true] {
            // Without nft, it is not known whether there is a table; asking does not make one.
            let there = bases
                .as_ref()
                .is_none_or(|bases| bases.iter().any(|base| is_of_iptables(base, v6)));
            if there
                && self.iptables(Variant::Nft, v6, bases.is_some())
                && let Some(bases) = &mut bases
            {
                bases.retain(|base| !is_of_iptables(base, v6));
            }
            let tables = self.tools.legacy_tables(v6);
            if tables.lines().any(|table| table == "filter") {
                self.review.legacy = true;
                self.iptables(Variant::Legacy, v6, true);
            }
        }
        for base in bases.into_iter().flatten() {
            if let Err(error) = self.nftables(&base) {
                self.review.errors.push(error);
            }
        }
    }

    fn bases(&self) -> Result<Vec<Base>, RuleError> {
        let text = match self.tools.run("nft", &["-j", "list", "chains"], "") {
            Ok(text) => text,
            // A kernel without nftables.
            Err(ToolError::Failed { said, .. }) if said.contains("not supported") => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(RuleError::List(error)),
        };
        nftables::forward_chains(&text).map_err(|error| RuleError::Output {
            what: "all chains".to_owned(),
            problem: error.to_string(),
        })
    }

    /// Says whether the chain is seen to; not if iptables can't read it, because somebody wrote it with nft.
    /// It `must` be where there is a table.
    fn iptables(&mut self, variant: Variant, v6: bool, must: bool) -> bool {
        let program = program(self.tools, variant, v6);
        let done = program.and_then(|program| self.edit_iptables(&program));
        match done {
            Ok(()) => true,
            Err(ToolError::Failed { said, .. }) if said.contains("incompatible") => false,
            // That nft is missing too has been said.
            Err(ToolError::Missing(_)) if !must => true,
            Err(source) => {
                let what = format!("the FORWARD chain of {}", name(variant, v6));
                self.review.errors.push(RuleError::Program { what, source });
                true
            }
        }
    }

    fn edit_iptables(&mut self, program: &str) -> Result<(), ToolError> {
        let text = self.tools.run(program, &["-w", "5", "-S", "FORWARD"], "")?;
        let listing = iptables::parse(&text);
        let Some(edit) = listing.chain.edit(&self.comments()) else {
            return Ok(());
        };
        let script = iptables::script(&listing, &edit, self.accepts);
        let restore = format!("{program}-restore");
        self.tools
            .run(&restore, &["-w", "5", "--noflush"], &script)?;
        self.changed(program, edit.insert.is_some());
        Ok(())
    }

    fn nftables(&mut self, base: &Base) -> Result<(), RuleError> {
        let name = base.words().join(" ");
        let failed = |source| RuleError::Program {
            what: format!("the FORWARD chain {name}"),
            source,
        };
        let [family, table, chain] = base.words();
        let words = ["-j", "list", "chain", family, table, chain];
        let text = self.tools.run("nft", &words, "").map_err(failed)?;
        let listing = nftables::parse(&text).map_err(|error| RuleError::Output {
            what: name.clone(),
            problem: error.to_string(),
        })?;
        let Some(edit) = listing.chain.edit(&self.comments()) else {
            return Ok(());
        };
        let script = nftables::script(base, &listing, &edit, self.accepts);
        self.tools
            .run("nft", &["-f", "-"], &script)
            .map_err(failed)?;
        self.changed(&name, edit.insert.is_some());
        Ok(())
    }

    fn comments(&self) -> Vec<String> {
        self.accepts.iter().map(|accept| accept.comment()).collect()
    }

    fn changed(&mut self, chain: &str, placed: bool) {
        self.review.changed.push(if placed {
            format!("FORWARD chain of {chain}: it drops, so translated packets and replies are accepted at its end")
        } else {
            format!("FORWARD chain of {chain}: our rules are removed")
        });
    }
}

/// Whether a chain is that of iptables-nft.
fn is_of_iptables(base: &Base, v6: bool) -> bool {
    base.words() == [if v6 { "ip6" } else { "ip" }, "filter", "FORWARD"]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::tools::fake::Node;

    const NO_CHAINS: &str = r#"{"nftables": []}"#;
    const OF_IPTABLES: &str = r#"{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD",
        "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#;
    const DROPS: &str = "-P FORWARD DROP\n";

    #[test]
    fn without_a_chain_no_program_of_iptables_is_run() {
        let node = Node {
            outputs: vec![("nft", NO_CHAINS), ("ip", DROPS)],
            ..Node::default()
        };
        assert_eq!(review(&node, Some(0x40)), Review::default());
        assert_eq!(node.ran("ip"), 0);
    }

    #[test]
    fn the_chain_of_iptables_is_changed_by_iptables() {
        let node = Node {
            outputs: vec![
                ("nft", OF_IPTABLES),
                ("iptables-nft --version", "v1"),
                ("iptables-nft -w 5 -S", DROPS),
                ("iptables-nft-restore", "done"),
            ],
            ..Node::default()
        };
        let found = review(&node, Some(0x40));
        assert_eq!((found.changed.len(), found.errors), (1, vec![]));
        assert_eq!(node.ran("iptables-nft-restore"), 1);
        assert_eq!(node.ran("ip6tables"), 0);
        assert_eq!(node.ran("nft"), 1);
    }

    /// Somebody wrote rules of nft into it: iptables would fail from then on.
    #[test]
    fn a_chain_that_iptables_cannot_read_is_changed_by_nft() {
        let node = Node {
            outputs: vec![
                ("nft", OF_IPTABLES),
                ("iptables --version", "iptables v1.8.9 (nf_tables)"),
                (
                    "iptables -w",
                    "error: chain `FORWARD' in table `filter' is incompatible, use 'nft' tool.",
                ),
            ],
            ..Node::default()
        };
        let found = review(&node, Some(0x40));
        assert_eq!((found.changed.len(), found.errors), (1, vec![]));
        assert_eq!(
            node.ran("nft -f -\nadd rule ip filter FORWARD meta mark"),
            1
        );
    }

    #[test]
    fn legacy_tables_are_looked_at_where_there_are_any() {
        let outputs = || {
            vec![
                ("nft", NO_CHAINS),
                ("iptables --version", "iptables v1.6.1"),
                ("ip6tables --version", "ip6tables v1.6.1"),
                ("iptables -w", "-P FORWARD ACCEPT"),
                ("ip6tables -w", DROPS),
                ("ip6tables-restore", "done"),
            ]
        };
        let node = Node {
            outputs: outputs(),
            legacy: "nat\nfilter\n",
            ..Node::default()
        };
        let found = review(&node, Some(0x40));
        assert!(found.legacy);
        assert_eq!((found.changed.len(), found.errors), (1, vec![]));
        let node = Node {
            outputs: outputs(),
            legacy: "nat\n",
            ..Node::default()
        };
        assert_eq!(review(&node, Some(0x40)), Review::default());
        assert_eq!(node.ran("ip"), 0);
    }

    #[test]
    fn what_is_missing_is_told_once_by_its_name() {
        let bare = review(&Node::default(), Some(0x40));
        let missing = RuleError::List(ToolError::Missing("nft".to_owned()));
        assert_eq!(bare.errors, [missing]);

        let node = Node {
            outputs: vec![("nft", OF_IPTABLES)],
            ..Node::default()
        };
        let found = review(&node, Some(0x40));
        let what = "the FORWARD chain of iptables-nft".to_owned();
        let source = ToolError::Missing("iptables".to_owned());
        assert_eq!(found.errors, [RuleError::Program { what, source }]);
    }

    #[test]
    fn a_kernel_without_nftables_has_no_chains_of_it() {
        let node = Node {
            outputs: vec![("nft", "error: netlink: Operation not supported")],
            ..Node::default()
        };
        assert_eq!(review(&node, Some(0x40)), Review::default());
    }
}
