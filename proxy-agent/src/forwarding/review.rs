//! One look at all chains, and what was wrong put right.

use super::{
    Accept, iptables,
    nftables::{self, Base},
    tools::{ToolError, Tools},
};

/// Why forwarded packets may be dropped that should not be, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ForwardError {
    /// A program that could not be used on a chain.
    #[error("the FORWARD chain {chain} is not looked after")]
    Chain {
        /// The chain.
        chain: String,
        /// Why not.
        #[source]
        source: ToolError,
    },
    /// The chains could not be listed.
    #[error("chains of nftables that forwarded packets pass are not looked after")]
    List(#[source] ToolError),
    /// What nft wrote is not understood.
    #[error("nft wrote of {what} what is not understood: {problem}")]
    Output {
        /// Of what.
        what: String,
        /// Where.
        problem: String,
    },
}

impl ForwardError {
    /// A program is not there; so nothing has ever been done with it from here.
    pub const fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::List(ToolError::Missing(_))
                | Self::Chain {
                    source: ToolError::Missing(_),
                    ..
                }
        )
    }
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// The chains that were changed, with what was done, as sentences.
    pub changed: Vec<String>,
    /// What went wrong.
    pub errors: Vec<ForwardError>,
    /// There is a table of iptables-legacy: the kernel does not tell when it changes.
    pub legacy: bool,
}

/// Makes all chains right: with `mark`, where they refuse packets; without any rule of ours, if there is none.
pub fn review(tools: &impl Tools, mark: Option<u32>) -> Review {
    let accepts = mark.map(Accept::all);
    let mut work = Work {
        tools,
        accepts: accepts.as_ref().map_or(&[], |all| all.as_slice()),
        review: Review::default(),
    };
    work.all();
    work.review
}

/// Which of the kernel's two filters the program `iptables` speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Variant {
    Nft,
    Legacy,
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

    fn bases(&self) -> Result<Vec<Base>, ForwardError> {
        let text = match self.tools.run("nft", &["-j", "list", "chains"], "") {
            Ok(text) => text,
            // A kernel without nftables.
            Err(ToolError::Failed { said, .. }) if said.contains("not supported") => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(ForwardError::List(error)),
        };
        nftables::forward_chains(&text).map_err(|error| ForwardError::Output {
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
                let chain = format!("of {}", name(variant, v6));
                self.review
                    .errors
                    .push(ForwardError::Chain { chain, source });
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

    fn nftables(&mut self, base: &Base) -> Result<(), ForwardError> {
        let name = base.words().join(" ");
        let failed = |source| ForwardError::Chain {
            chain: name.clone(),
            source,
        };
        let [family, table, chain] = base.words();
        let words = ["-j", "list", "chain", family, table, chain];
        let text = self.tools.run("nft", &words, "").map_err(failed)?;
        let listing = nftables::parse(&text).map_err(|error| ForwardError::Output {
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
            format!("{chain}: it drops, so translated packets and replies are accepted at its end")
        } else {
            format!("{chain}: our rules are removed")
        });
    }
}

/// Whether a chain is that of iptables-nft.
fn is_of_iptables(base: &Base, v6: bool) -> bool {
    base.words() == [if v6 { "ip6" } else { "ip" }, "filter", "FORWARD"]
}

const fn name(variant: Variant, v6: bool) -> &'static str {
    match (variant, v6) {
        (Variant::Nft, false) => "iptables-nft",
        (Variant::Nft, true) => "ip6tables-nft",
        (Variant::Legacy, false) => "iptables-legacy",
        (Variant::Legacy, true) => "ip6tables-legacy",
    }
}

/// The program for a variant: by its own name, or the one that has no variant in its name, if it is of this one.
fn program(tools: &impl Tools, variant: Variant, v6: bool) -> Result<String, ToolError> {
    let own = name(variant, v6);
    match tools.run(own, &["--version"], "") {
        Ok(_) => return Ok(own.to_owned()),
        Err(ToolError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    let plain = if v6 { "ip6tables" } else { "iptables" };
    let version = tools.run(plain, &["--version"], "")?;
    let found = if version.contains("nf_tables") {
        Variant::Nft
    } else {
        Variant::Legacy
    };
    if found == variant {
        Ok(plain.to_owned())
    } else {
        Err(ToolError::Missing(own.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// A node with these programs; their output is given by what their command lines begin with.
    #[derive(Default)]
    struct Node {
        outputs: Vec<(&'static str, &'static str)>,
        legacy: &'static str,
        ran: RefCell<Vec<String>>,
    }

    impl Tools for Node {
        fn run(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, ToolError> {
            let line = [&[program], arguments].concat().join(" ");
            let found = self
                .outputs
                .iter()
                .find(|(begin, _)| line.starts_with(begin));
            self.ran.borrow_mut().push(format!("{line}\n{input}"));
            match found {
                Some((_, "")) | None => Err(ToolError::Missing(program.to_owned())),
                Some((_, output)) => match output.strip_prefix("error: ") {
                    Some(said) => Err(ToolError::Failed {
                        line,
                        said: said.to_owned(),
                    }),
                    None => Ok((*output).to_owned()),
                },
            }
        }

        fn legacy_tables(&self, _v6: bool) -> String {
            self.legacy.to_owned()
        }
    }

    const NO_CHAINS: &str = r#"{"nftables": []}"#;
    const OF_IPTABLES: &str = r#"{"nftables": [{"chain": {"family": "ip", "table": "filter", "name": "FORWARD",
        "handle": 1, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}}]}"#;
    const DROPS: &str = "-P FORWARD DROP\n";

    fn ran(node: &Node, begin: &str) -> usize {
        let ran = node.ran.borrow();
        ran.iter().filter(|line| line.starts_with(begin)).count()
    }

    #[test]
    fn without_a_chain_no_program_of_iptables_is_run() {
        let node = Node {
            outputs: vec![("nft", NO_CHAINS), ("ip", DROPS)],
            ..Node::default()
        };
        assert_eq!(review(&node, Some(0x40)), Review::default());
        assert_eq!(ran(&node, "ip"), 0);
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
        assert_eq!(ran(&node, "iptables-nft-restore"), 1);
        assert_eq!(ran(&node, "ip6tables"), 0);
        assert_eq!(ran(&node, "nft"), 1);
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
            ran(&node, "nft -f -\nadd rule ip filter FORWARD meta mark"),
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
        assert_eq!(ran(&node, "ip"), 0);
    }

    #[test]
    fn what_is_missing_is_told_once_by_its_name() {
        let bare = review(&Node::default(), Some(0x40));
        let missing = ForwardError::List(ToolError::Missing("nft".to_owned()));
        assert_eq!(bare.errors, [missing]);

        let node = Node {
            outputs: vec![("nft", OF_IPTABLES)],
            ..Node::default()
        };
        let found = review(&node, Some(0x40));
        let chain = "of iptables-nft".to_owned();
        let source = ToolError::Missing("iptables".to_owned());
        assert_eq!(found.errors, [ForwardError::Chain { chain, source }]);
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
