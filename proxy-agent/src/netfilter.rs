//! What netfilter must do with packets that were translated here and go on to the kernel, known by bits of their mark:
//! kube-proxy's rules did it, and go away with it.
//!
//! ```text
//! tools ─ listing ─▶ forward      accepts, where a FORWARD chain drops (docs/adr/0016)           ─ script ─▶ tools
//! shell              masquerade   an address of this node for the client's, by option (0031)                shell
//!                    pure
//! ```

mod child;
mod events;
pub mod forward;
pub mod host;
mod iptables;
mod keeper;
pub mod masquerade;
mod nftables;
mod review;
mod tools;

use self::masquerade::Masquerade;
pub use self::{
    keeper::{Keeper, KeeperError},
    review::{Review, RuleError},
    tools::{Installed, ToolError, Tools},
};

/// Begins the comment of all our rules.
const OURS: &str = "kube-proxy-ebpf:";

/// Rules that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Accepts of what has this bit of the mark, and of replies; `None`: no such rules.
    Forward(Option<u32>),
    /// Of what the datapath asks for; `None`: no such rules.
    Masquerade(Option<Masquerade>),
}

impl Rules {
    /// No rule of any kind.
    pub const NONE: [Self; 2] = [Self::Masquerade(None), Self::Forward(None)];

    /// Whether there are to be any.
    const fn are_wanted(&self) -> bool {
        matches!(self, Self::Forward(Some(_)) | Self::Masquerade(Some(_)))
    }

    /// One look at all chains, and what was wrong put right.
    pub fn review(&self, tools: &impl Tools) -> Review {
        self.review_after(tools, true)
    }

    /// The same, where it is known from the look before whether there may be `leftovers` ([`Review::leftovers`]).
    fn review_after(&self, tools: &impl Tools, leftovers: bool) -> Review {
        match self {
            Self::Forward(mark) => forward::review(tools, *mark),
            Self::Masquerade(wanted) => masquerade::review(tools, wanted.as_ref(), leftovers),
        }
    }

    /// What an error comes to, and what there is to do.
    fn advice(&self, error: &RuleError) -> String {
        match self {
            _ if !self.are_wanted() || matches!(error, RuleError::Leftover { .. }) => {
                "rules of an earlier time may be left, and act on what has their bit of the mark: it is tried again; `nft list \
                 ruleset` and `iptables-save` show them by the comment kube-proxy-ebpf"
                    .to_owned()
            }
            Self::Forward(mark) => format!(
                "where a FORWARD chain drops, accept packets with the bit {:#x} of the mark and RELATED,ESTABLISHED there \
                 yourself (and set --manage-forward=off)",
                mark.unwrap_or_default()
            ),
            Self::Masquerade(_) => "until its rules are there, --masquerade-local has no effect, and backends on this node see \
                 their clients: see to it that nft or iptables works on this node"
                .to_owned(),
        }
    }
}
