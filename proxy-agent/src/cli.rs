//! The command line. Each command has a module of its own under `commands`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{commands, forwarding::host, telemetry::LogArgs};

/// Service proxy in eBPF, in place of kube-proxy.
#[derive(Debug, Parser)]
#[command(name = "proxy-agent", version, about)]
pub struct Cli {
    /// How to log.
    #[command(flatten)]
    pub log: LogArgs,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep this node's programs and maps as Services say
    Run(commands::run::RunArgs),
    /// Print what would be programmed on a node, without touching it
    Plan(commands::plan::PlanArgs),
    /// Print what is programmed, from the maps alone
    Services(commands::services::ServicesArgs),
    /// Print the translated flows, from the maps alone
    Flows(commands::flows::FlowsArgs),
    /// Detach all programs and remove all maps
    Cleanup(commands::cleanup::CleanupArgs),
    /// Become a program of the host, from a container that sees its processes
    #[command(name = host::COMMAND, hide = true)]
    OnHost(commands::on_host::OnHostArgs),
    /// Print the version
    Version,
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => commands::run::run(args),
            Command::Plan(args) => commands::plan::run(args),
            Command::Services(args) => commands::services::run(&args),
            Command::Flows(args) => commands::flows::run(&args),
            Command::Cleanup(args) => commands::cleanup::run(&args),
            Command::OnHost(args) => return Ok(commands::on_host::run(&args)),
            Command::Version => {
                commands::version::run();
                Ok(())
            }
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
