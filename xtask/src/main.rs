//! The project's own commands: `cargo xtask --help`.

mod build_ebpf;
mod process;
mod setup;
mod ui;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{ui::Ui, workspace::Workspace};

#[derive(Parser)]
#[command(name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need (they all do this by themselves)
    Setup,
    /// Build the eBPF object, with BTF
    BuildEbpf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new();
    let result = Workspace::find().and_then(|workspace| match cli.command {
        Command::Setup => setup::run(&ui),
        Command::BuildEbpf => build_ebpf::run(&ui, &workspace).map(drop),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
