//! Forwarded packets that were translated, and the replies, past a FORWARD chain that drops (docs/adr/0016).
//!
//! ```text
//! tools ─ listing ─▶ iptables, nftables ─▶ Chain ─ edit ─▶ iptables, nftables ─ script ─▶ tools
//! ```

mod chain;
mod iptables;
mod nftables;
mod review;

pub(super) use self::review::review;
use super::OURS;

/// `--manage-forward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ManageForward {
    /// Add accept rules at the end of FORWARD chains that drop.
    #[default]
    Auto,
    /// Add no rules, and remove those of an earlier run.
    Off,
}

/// What is accepted. The comments tell our rules, and of which kind and mark they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accept {
    /// What has this bit of the mark: translated here, and handed up.
    Translated(u32),
    /// What conntrack knows.
    Replies,
}

impl Accept {
    /// All rules, in their order.
    const fn all(mark: u32) -> [Self; 2] {
        [Self::Translated(mark), Self::Replies]
    }

    fn comment(self) -> String {
        match self {
            Self::Translated(mark) => format!("{OURS} translated, mark {mark:#x}"),
            Self::Replies => format!("{OURS} replies"),
        }
    }
}
