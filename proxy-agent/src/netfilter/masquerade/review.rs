//! One look at the rules, and what was wrong put right: by nft where it works, else by iptables.

use super::{
    super::{
        iptables::{Variant, name, program, usual_program},
        review::{Review, RuleError},
        tools::{ToolError, Tools},
    },
    Masquerade, iptables, nftables,
};

/// Makes the rules those that are wanted; without any of ours, if none are. Where nft finds its table right, iptables is asked
/// only if there may be `leftovers`: of an earlier run, or of a time when nft did not work.
pub(in crate::netfilter) fn review(
    tools: &impl Tools,
    wanted: Option<&Masquerade>,
    leftovers: bool,
) -> Review {
    let mut work = Work {
        tools,
        review: Review::default(),
    };
    match (work.by_nft(wanted), wanted) {
        (Ok(false), Some(_)) if !leftovers => {}
        (Ok(_), _) => work.none_by_iptables(),
        (Err(error), Some(wanted)) => {
            work.review.leftovers = true;
            work.by_iptables(wanted, error);
        }
        (Err(error), None) => {
            work.review.errors.push(error);
            work.none_by_iptables();
        }
    }
    work.review
}

struct Work<'a, T> {
    tools: &'a T,
    review: Review,
}

impl<T: Tools> Work<'_, T> {
    /// Says whether something was changed.
    fn by_nft(&mut self, wanted: Option<&Masquerade>) -> Result<bool, RuleError> {
        let table = format!("table inet {}", nftables::NAME);
        let failed = |source| RuleError::Program {
            what: table.clone(),
            source,
        };
        let listing = match self.tools.run("nft", &nftables::LIST, "") {
            Ok(listing) => Some(listing),
            Err(ToolError::Failed { said, .. }) if said.contains("No such file") => None,
            // A kernel without nftables has no table.
            Err(ToolError::Failed { said, .. })
                if wanted.is_none() && said.contains("not supported") =>
            {
                None
            }
            Err(source) => return Err(failed(source)),
        };
        let script = match (wanted, listing) {
            (None, None) => return Ok(false),
            (None, Some(_)) => nftables::removal(),
            (Some(wanted), None) => nftables::script(wanted),
            (Some(wanted), Some(listing)) => match nftables::is_right(&listing, wanted) {
                Ok(true) => return Ok(false),
                Ok(false) => nftables::script(wanted),
                Err(error) => {
                    return Err(RuleError::Output {
                        what: table,
                        problem: error.to_string(),
                    });
                }
            },
        };
        self.tools
            .run("nft", &["-f", "-"], &script)
            .map_err(failed)?;
        self.changed(&table, wanted);
        Ok(true)
    }

    /// For both families, since nft does not do it.
    fn by_iptables(&mut self, wanted: &Masquerade, nft: RuleError) {
        let mut errors = Vec::new();
        for v6 in [false, true] {
            let done = usual_program(self.tools, v6).and_then(|(program, variant)| {
                self.review.legacy |= variant == Variant::Legacy;
                self.edit(&program, Some(wanted))
            });
            if let Err(source) = done {
                errors.push(RuleError::Program {
                    what: format!("the POSTROUTING chain of IPv{}", if v6 { 6 } else { 4 }),
                    source,
                });
            }
        }
        if errors.len() == 2 && errors.iter().chain([&nft]).all(RuleError::is_missing) {
            self.review.errors.push(RuleError::NoProgram);
        } else if !errors.is_empty() {
            errors.extend((!nft.is_missing()).then_some(nft));
            self.review.errors.append(&mut errors);
        }
    }

    fn none_by_iptables(&mut self) {
        for v6 in [false, true] {
            for variant in [Variant::Nft, Variant::Legacy] {
                let is_there = match variant {
                    // Asking does not make a table.
                    Variant::Nft => true,
                    Variant::Legacy => {
                        let tables = self.tools.legacy_tables(v6);
                        tables.lines().any(|table| table == "nat")
                    }
                };
                if !is_there {
                    continue;
                }
                let done =
                    program(self.tools, variant, v6).and_then(|program| self.edit(&program, None));
                match done {
                    Ok(()) | Err(ToolError::Missing(_)) => {}
                    // Nor in such a kernel.
                    Err(ToolError::Failed { said, .. }) if said.contains("not supported") => {}
                    Err(source) => {
                        self.review.leftovers = true;
                        self.review.errors.push(RuleError::Leftover {
                            what: format!("the POSTROUTING chain of {}", name(variant, v6)),
                            source,
                        });
                    }
                }
            }
        }
    }

    fn edit(&mut self, program: &str, wanted: Option<&Masquerade>) -> Result<(), ToolError> {
        let listing = self.tools.run(program, &iptables::LIST, "")?;
        let Some(script) = iptables::script(&listing, wanted) else {
            return Ok(());
        };
        let restore = format!("{program}-restore");
        self.tools
            .run(&restore, &["-w", "5", "--noflush"], &script)?;
        self.changed(&format!("POSTROUTING chain of {program}"), wanted);
        Ok(())
    }

    fn changed(&mut self, what: &str, wanted: Option<&Masquerade>) {
        self.review.changed.push(if wanted.is_some() {
            format!("{what}: what comes from outside to backends on this node is masqueraded")
        } else {
            format!("{what}: our rules are removed")
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{EXAMPLE, listing},
        *,
    };
    use crate::netfilter::tools::fake::Node;

    const NO_TABLE: &str = "error: Error: No such file or directory";
    const TABLE: &str = r#"{"nftables": []}"#;
    const OPEN: &str = "-P POSTROUTING ACCEPT\n";
    const OURS: &str = "-P POSTROUTING ACCEPT\n-A POSTROUTING -m comment --comment \"kube-proxy-ebpf: masquerade\" -j MASQUERADE\n";

    fn node(outputs: &[(&'static str, &'static str)]) -> Node {
        Node {
            outputs: outputs.to_vec(),
            ..Node::default()
        }
    }

    fn missing(program: &str) -> ToolError {
        ToolError::Missing(program.to_owned())
    }

    #[test]
    fn a_table_of_our_own_by_nft() {
        for listing in [NO_TABLE, TABLE] {
            let node = node(&[("nft -j", listing), ("nft -f", "done")]);
            let found = review(&node, Some(&EXAMPLE), false);
            assert_eq!((found.changed.len(), found.errors), (1, vec![]));
            assert_eq!(node.ran("nft -f -\nadd table inet kube-proxy-ebpf"), 1);
        }
    }

    #[test]
    fn without_nft_by_iptables_in_both_families() {
        for nft in [&[][..], &[("nft", "error: Operation not supported")]] {
            let outputs = [
                ("iptables --version", "iptables v1.8.9 (nf_tables)"),
                ("ip6tables --version", "ip6tables v1.8.9 (nf_tables)"),
                ("iptables -w", OPEN),
                ("ip6tables -w", OPEN),
                ("iptables-restore", "done"),
                ("ip6tables-restore", "done"),
            ];
            let node = node(&[nft, &outputs].concat());
            let found = review(&node, Some(&EXAMPLE), false);
            assert_eq!((found.changed.len(), found.errors), (2, vec![]));
            assert!(!found.legacy);
            for program in ["iptables", "ip6tables"] {
                let script = format!("{program}-restore -w 5 --noflush\n*nat\n-I POSTROUTING 1 ");
                assert_eq!(node.ran(&script), 1);
            }
        }
    }

    #[test]
    fn of_iptables_legacy_it_is_known_that_nobody_tells() {
        let node = node(&[
            ("iptables-legacy --version", "iptables v1.8.9 (legacy)"),
            ("iptables-legacy -w", OPEN),
            ("iptables-legacy-restore", "done"),
            ("ip6tables --version", "ip6tables v1.6.1"),
            ("ip6tables -w", OPEN),
            ("ip6tables-restore", "done"),
        ]);
        let found = review(&node, Some(&EXAMPLE), false);
        assert_eq!((found.changed.len(), found.errors), (2, vec![]));
        assert!(found.legacy);
    }

    #[test]
    fn what_a_time_without_nft_left_goes_when_the_table_comes() {
        let iptables = [
            ("iptables-nft --version", "v1"),
            ("iptables-nft -w", OURS),
            ("iptables-nft-restore", "done"),
        ];
        let node = node(&[&[("nft -j", NO_TABLE), ("nft -f", "done")], &iptables[..]].concat());
        let found = review(&node, Some(&EXAMPLE), false);
        assert_eq!((found.changed.len(), found.errors), (2, vec![]));
        assert_eq!(
            node.ran("iptables-nft-restore -w 5 --noflush\n*nat\n-D POSTROUTING"),
            1
        );
    }

    #[test]
    fn beside_a_right_table_leftovers_of_iptables_are_looked_for_where_there_may_be_any() {
        let mut outputs = vec![
            ("nft -j", listing(&EXAMPLE)),
            ("iptables-nft --version", "v1"),
            ("iptables-nft -w", OURS),
            ("iptables-nft-restore", "done"),
        ];
        let known = node(&outputs);
        assert_eq!(review(&known, Some(&EXAMPLE), false), Review::default());
        assert_eq!(known.ran("ip"), 0);

        let first = node(&outputs);
        let found = review(&first, Some(&EXAMPLE), true);
        assert_eq!((found.changed.len(), found.errors), (1, vec![]));
        assert!(!found.leftovers);
        let removal = "iptables-nft-restore -w 5 --noflush\n*nat\n-D POSTROUTING";
        assert_eq!((first.ran(removal), first.ran("nft -f")), (1, 0));
        // That would make a table of iptables-legacy.
        assert_eq!(first.ran("iptables-legacy -w"), 0);

        outputs[3].1 = "error: Resource temporarily unavailable";
        let found = review(&node(&outputs), Some(&EXAMPLE), true);
        assert!(matches!(found.errors[..], [RuleError::Leftover { .. }]));
        assert!(found.leftovers);
    }

    #[test]
    fn a_kernel_without_nftables_has_nothing_to_remove() {
        let node = node(&[
            ("nft", "error: netlink: Operation not supported"),
            ("iptables-nft --version", "v1"),
            (
                "iptables-nft",
                "error: Failed to initialize nft: Protocol not supported",
            ),
        ]);
        assert_eq!(review(&node, None, true), Review::default());
    }

    #[test]
    fn nothing_is_left_where_none_are_wanted() {
        let outputs = || {
            vec![
                ("nft -j", TABLE),
                ("nft -f", "done"),
                ("iptables --version", "iptables v1.6.1"),
                ("iptables -w", OURS),
                ("iptables-restore", "done"),
            ]
        };
        let node = Node {
            outputs: outputs(),
            legacy: "nat\n",
            ..Node::default()
        };
        let found = review(&node, None, false);
        assert_eq!((found.changed.len(), found.errors), (2, vec![]));
        assert_eq!(node.ran("nft -f -\ndelete table inet kube-proxy-ebpf"), 1);
        assert_eq!(node.ran("iptables-restore"), 1);
        // Of iptables-legacy nothing is asked where it has no table, since that would make one.
        let node = Node {
            outputs: outputs(),
            ..Node::default()
        };
        assert_eq!(review(&node, None, false).changed.len(), 1);
        assert_eq!(node.ran("iptables -w"), 0);
    }

    #[test]
    fn what_is_missing_is_told_in_one_sentence() {
        let bare = review(&Node::default(), Some(&EXAMPLE), false);
        assert_eq!(bare.errors, [RuleError::NoProgram]);
        assert!(bare.errors[0].is_missing());

        // One family alone is not enough.
        let node = node(&[
            ("iptables --version", "v1"),
            ("iptables -w", OPEN),
            ("iptables-restore", "done"),
        ]);
        let found = review(&node, Some(&EXAMPLE), false);
        let what = "the POSTROUTING chain of IPv6".to_owned();
        let source = missing("ip6tables");
        assert_eq!(found.errors, [RuleError::Program { what, source }]);
    }

    #[test]
    fn a_failure_of_nft_is_told_where_iptables_does_not_help() {
        let node = node(&[("nft", "error: Operation not permitted")]);
        let found = review(&node, Some(&EXAMPLE), false);
        assert_eq!(found.errors.len(), 3);
        let of_nft = |error: &&RuleError| matches!(error, RuleError::Program { what, source: ToolError::Failed { .. } } if what.contains("table inet"));
        assert_eq!(found.errors.iter().filter(of_nft).count(), 1);
    }
}
