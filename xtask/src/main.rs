//! The project's own commands: `cargo xtask --help`.

mod bench;
mod build;
mod build_ebpf;
mod conformance;
mod demo;
mod image;
mod lint;
mod mutants;
mod process;
mod setup;
mod summary;
mod test;
mod ui;
mod verify;
mod workspace;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{ui::Ui, workspace::Workspace};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need (each of them does so by itself);
    /// `PROXY_EBPF_TOOLCHAIN=rustup` or `debian` chooses where the eBPF toolchain comes from
    Setup,
    /// Build the eBPF object, with BTF
    BuildEbpf,
    /// Build the product: the agent with the eBPF object inside, optimised
    Build,
    /// Build the container image of a static agent, an OCI archive, without a container engine
    Image,
    /// Check formats and lints, also of the eBPF crate
    Lint,
    /// Check and test everything, or one part; as root for the tests that need it
    Test {
        /// Only this part
        part: Option<test::Part>,
    },
    /// Make named mistakes in a copy of the sources, and expect that the conformance suite notices each (root)
    Mutants {
        /// Only these
        names: Vec<String>,
        /// Say which there are, and do nothing
        #[arg(long)]
        list: bool,
    },
    /// Load every eBPF program and print what it costs: instructions verified, time (root)
    Verify,
    /// Measure the product in the lab on the real control plane (root)
    Bench {
        /// Which measurement: `api-latency`, `api-start`, `rolling-update` or `packets`, and its numbers
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Judge this proxy and kube-proxy, rule by rule, on the real control plane, and write docs/conformance.md (root)
    Conformance {
        /// Arguments for the judge itself, see `cargo xtask conformance -- --help`; with any, nothing is written unless asked
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Build all, then show Services at work in a lab of network namespaces (root)
    Demo {
        /// Arguments for the demo itself, see `cargo xtask demo -- --help`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ui = Ui::new();
    let result = Workspace::find().and_then(|workspace| match cli.command {
        Command::Setup => setup::run(&ui, &workspace),
        Command::BuildEbpf => build_ebpf::run(&ui, &workspace).map(drop),
        Command::Build => build::product(&ui, &workspace),
        Command::Image => image::run(&ui, &workspace),
        Command::Lint => lint::run(&ui, &workspace),
        Command::Test { part } => test::run(&ui, &workspace, part),
        Command::Mutants { list: true, .. } => mutants::list(&ui, &workspace),
        Command::Mutants { names, .. } => mutants::run(&ui, &workspace, &names),
        Command::Verify => verify::run(&ui, &workspace),
        Command::Bench { arguments } => bench::run(&ui, &workspace, &arguments),
        Command::Conformance { arguments } => conformance::run(&ui, &workspace, &arguments),
        Command::Demo { arguments } => demo::run(&ui, &workspace, &arguments),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.line(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_demo_are_its_own_with_and_without_dashes_before_them() {
        for words in [
            ["xtask", "demo", "--cluster", "--keep"].as_slice(),
            &["xtask", "demo", "--", "--cluster", "--keep"],
        ] {
            let cli = Cli::try_parse_from(words).expect("is understood");
            let Command::Demo { arguments } = cli.command else {
                panic!("{words:?} is no demo");
            };
            assert_eq!(arguments, ["--cluster", "--keep"]);
        }
    }
}
