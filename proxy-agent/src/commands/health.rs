//! `health`: asks the agent of this node for its health. For probes: the command fails unless the answer is yes, and only
//! the agent can answer.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::{commands::BpffsArgs, serve::local};

/// Flags of `health`.
#[derive(Clone, Debug, clap::Args)]
pub struct HealthArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,

    /// Question to ask.
    #[arg(value_enum, default_value_t)]
    question: Asked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum Asked {
    /// Are the API server's objects in the maps? (/readyz)
    #[default]
    Ready,
    /// Does the agent work, even if it waits for the API server? (/livez)
    Live,
    /// May load balancers send traffic to this node? (/healthz)
    Node,
}

impl Asked {
    const fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/livez",
            Self::Node => "/healthz",
        }
    }
}

/// Prints the answer.
pub fn run(args: &HealthArgs) -> anyhow::Result<ExitCode> {
    let answer = local::ask(&args.bpffs.bpffs, args.question.path())
        .context("the agent of this node does not answer")?;
    println!("{}", answer.body);
    Ok(if answer.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
