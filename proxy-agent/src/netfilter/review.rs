//! What a look at chains comes to.

use super::tools::ToolError;

/// Why rules are not as they should be, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum RuleError {
    /// A program that could not be used on a chain or table.
    #[error("{what} is not looked after")]
    Program {
        /// The chain or table.
        what: String,
        /// Why not.
        #[source]
        source: ToolError,
    },
    /// The chains could not be listed.
    #[error("chains of nftables that forwarded packets pass are not looked after")]
    List(#[source] ToolError),
    /// A program that could not say whether a chain has rules that nobody wants any more, or not remove them.
    #[error("rules of ours that are no longer wanted may be left in {what}")]
    Leftover {
        /// The chain.
        what: String,
        /// Why not.
        #[source]
        source: ToolError,
    },
    /// What nft wrote is not understood.
    #[error("nft wrote of {what} what is not understood: {problem}")]
    Output {
        /// Of what.
        what: String,
        /// Where.
        problem: String,
    },
    /// None of the programs that could write a rule is there.
    #[error("neither nft nor iptables is installed")]
    NoProgram,
}

impl RuleError {
    /// A program is not there; so nothing has ever been done with it from here.
    pub const fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::NoProgram
                | Self::List(ToolError::Missing(_))
                | Self::Program {
                    source: ToolError::Missing(_),
                    ..
                }
        )
    }
}

/// What was found and done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
    /// What was done, each a sentence that begins with the chain or table.
    pub changed: Vec<String>,
    /// What went wrong.
    pub errors: Vec<RuleError>,
    /// There is a table of iptables-legacy to look after: the kernel does not tell when it changes.
    pub legacy: bool,
    /// Beside the rules that are wanted there may be others of ours, by another program: the next look must look for them.
    pub leftovers: bool,
}
