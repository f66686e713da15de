//! The thread that keeps the rules right.

use std::{collections::BTreeSet, io, thread, time::Duration};

use tokio::{runtime, sync::oneshot, time};

use super::{
    Rules,
    events::Events,
    review::{Review, RuleError},
    tools::{Installed, Tools},
};
use crate::telemetry::chain;

/// How long after a change it is looked again, so that a burst of changes is one.
const BURST: Duration = Duration::from_secs(1);
/// How often it is looked without an event.
const REVIEW: Duration = Duration::from_mins(1);
/// The same, where the kernel tells nothing: chains of iptables-legacy.
const REVIEW_LEGACY: Duration = Duration::from_secs(5);

/// Why the rules are not looked after.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// The thread.
    #[error("could not start the thread that looks after rules of netfilter")]
    Thread(#[source] io::Error),
}

/// Looks after the rules of the network namespace that it was started in, until it is dropped. The rules stay.
#[derive(Debug)]
pub struct Keeper {
    _stop: oneshot::Sender<()>,
}

impl Keeper {
    /// Starts the thread. Programs are run there, so nobody waits for them. Of kinds that are not wanted, what an earlier run
    /// left is removed.
    pub fn start(rules: impl IntoIterator<Item = Rules>) -> Result<Self, KeeperError> {
        let (stop, stopped) = oneshot::channel();
        let kept: Vec<Kept> = rules.into_iter().map(Kept::new).collect();
        thread::Builder::new()
            .name("netfilter".to_owned())
            .spawn(move || keep(kept, stopped))
            .map_err(KeeperError::Thread)?;
        Ok(Self { _stop: stop })
    }
}

fn keep(mut kept: Vec<Kept>, mut stopped: oneshot::Receiver<()>) {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "rules of netfilter are not looked after");
            return;
        }
    };
    runtime.block_on(async {
        // Without nftables in the kernel there is nothing to hear of.
        let events = Events::open().ok();
        loop {
            let most = look(&mut kept, &Installed::for_a_look());
            if kept.is_empty() {
                return;
            }
            tokio::select! {
                // Dropped, by the agent's end.
                _ = &mut stopped => return,
                () = until_it_may_differ(events.as_ref(), most) => {}
            }
        }
    });
}

/// One look at all; says when the next is due.
fn look(kept: &mut Vec<Kept>, tools: &impl Tools) -> Duration {
    let mut most = REVIEW;
    for one in kept.iter_mut() {
        if one.look(tools) {
            most = REVIEW_LEGACY;
        }
    }
    kept.retain(|one| !one.is_over());
    most
}

async fn until_it_may_differ(events: Option<&Events>, most: Duration) {
    match events {
        Some(events) => {
            events.wait(most).await;
            time::sleep(BURST).await;
            events.forget();
        }
        None => time::sleep(most).await,
    }
}

/// Rules, and what is known of them from the look before.
struct Kept {
    rules: Rules,
    /// What was said of them: everything is said once.
    told: BTreeSet<RuleError>,
    /// [`Review::leftovers`]; at first there may be those of an earlier run.
    leftovers: bool,
}

impl Kept {
    const fn new(rules: Rules) -> Self {
        Self {
            rules,
            told: BTreeSet::new(),
            leftovers: true,
        }
    }

    /// What is not wanted was removed, and does not come back by itself; a program that is not there has put nothing in.
    fn is_over(&self) -> bool {
        !self.rules.are_wanted() && self.told.iter().all(RuleError::is_missing)
    }

    /// One look; says whether the kernel does not tell when something changes.
    fn look(&mut self, tools: &impl Tools) -> bool {
        let Review {
            changed,
            errors,
            legacy,
            leftovers,
        } = self.rules.review_after(tools, self.leftovers);
        for changed in changed {
            tracing::info!("{changed}");
        }
        let wanted = self.rules.are_wanted();
        let errors: BTreeSet<_> = errors.into_iter().collect();
        for error in errors.difference(&self.told) {
            if wanted || !error.is_missing() {
                tracing::warn!(error = chain(error), "{}", self.rules.advice(error));
            } else {
                tracing::debug!(
                    error = chain(error),
                    "rules of an earlier run can't be looked for"
                );
            }
        }
        self.told = errors;
        self.leftovers = leftovers;
        wanted && legacy
    }
}

#[cfg(test)]
mod tests {
    use proxy_common::abi::settings::PortRange;

    use super::*;
    use crate::netfilter::{
        masquerade::{Masquerade, listing},
        tools::fake::Node,
    };

    const NO_TABLE: &str = "error: Error: No such file or directory";
    const OURS: &str = "-P POSTROUTING ACCEPT\n-A POSTROUTING -m comment --comment \"kube-proxy-ebpf: masquerade\" -j MASQUERADE\n";
    const OURS_FORWARD: &str = "-P FORWARD ACCEPT\n-A FORWARD -m comment --comment \"kube-proxy-ebpf: replies\" -j ACCEPT\n";

    fn kept(rules: impl IntoIterator<Item = Rules>) -> Vec<Kept> {
        rules.into_iter().map(Kept::new).collect()
    }

    fn node(outputs: &[(&'static str, &'static str)]) -> Node {
        Node {
            outputs: outputs.to_vec(),
            legacy: "nat\nfilter\n",
            ..Node::default()
        }
    }

    #[test]
    fn what_is_not_wanted_is_looked_for_until_it_is_gone() {
        let mut kept = kept(Rules::NONE);
        let outputs = [
            ("nft -j list table ", NO_TABLE),
            ("nft -j list chains", r#"{"nftables": []}"#),
            ("iptables-legacy --version", "v1"),
            ("iptables-legacy -w 5 -t nat", OURS),
            ("iptables-legacy -w 5 -S", OURS_FORWARD),
        ];
        let lock = "error: Another app is currently holding the xtables lock";
        let locked = node(&[&outputs[..], &[("iptables-legacy-restore", lock)]].concat());
        for _ in 0..2 {
            // Nothing is lost by a minute's wait, and a host where it never works is not kept busy.
            assert_eq!(look(&mut kept, &locked), REVIEW);
            assert_eq!(kept.len(), 2);
        }
        assert_eq!(locked.ran("iptables-legacy-restore"), 4);
        for one in &kept {
            let mut advice = one.told.iter().map(|error| one.rules.advice(error));
            assert!(advice.any(|text| text.contains("may be left")));
        }

        let free = node(&[&outputs[..], &[("iptables-legacy-restore", "done")]].concat());
        look(&mut kept, &free);
        assert!(kept.is_empty());
        assert_eq!(free.ran("iptables-legacy-restore"), 2);
    }

    #[test]
    fn where_no_program_is_there_is_nothing_to_wait_for() {
        let mut kept = kept(Rules::NONE);
        look(&mut kept, &Node::default());
        assert!(kept.is_empty());
    }

    #[test]
    fn what_iptables_has_of_a_failure_of_nft_goes_at_the_next_look() {
        let ports = PortRange {
            first: 1024,
            last: 29_999,
        };
        let wanted = Masquerade { mark: 0x4, ports };
        let mut kept = kept([Rules::Masquerade(Some(wanted.clone()))]);
        let nothing = "-P POSTROUTING ACCEPT\n";
        let usual = |nft, listing| {
            node(&[
                ("nft", nft),
                ("iptables --version", "iptables v1.8.9 (nf_tables)"),
                ("ip6tables --version", "ip6tables v1.8.9 (nf_tables)"),
                ("iptables -w", listing),
                ("ip6tables -w", listing),
                ("iptables-restore", "done"),
                ("ip6tables-restore", "done"),
            ])
        };
        let right = listing(&wanted);

        let first = usual(right, nothing);
        look(&mut kept, &first);
        assert_eq!(
            (first.ran("iptables -w"), first.ran("iptables-restore")),
            (1, 0)
        );
        let known = usual(right, nothing);
        look(&mut kept, &known);
        assert_eq!(known.ran("ip"), 0);

        let failed = usual("error: Cannot allocate memory", nothing);
        look(&mut kept, &failed);
        assert_eq!(failed.ran("iptables-restore -w 5 --noflush\n*nat\n-I"), 1);
        let after = usual(right, OURS);
        look(&mut kept, &after);
        for program in ["iptables", "ip6tables"] {
            let removal = format!("{program}-restore -w 5 --noflush\n*nat\n-D POSTROUTING");
            assert_eq!(after.ran(&removal), 1, "{program}");
        }
        let known = usual(right, nothing);
        look(&mut kept, &known);
        assert_eq!(known.ran("ip"), 0);
    }
}
