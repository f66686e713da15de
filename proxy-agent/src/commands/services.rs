//! `services`: what is programmed, read back from the maps alone; the agent need not run.

use crate::{
    commands::{BpffsArgs, plan::Output},
    dataplane::{maps::KernelMaps, pin::PinFolder},
    maps::Maps as _,
    view,
};

/// Flags of `services`.
#[derive(Clone, Debug, clap::Args)]
pub struct ServicesArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,

    /// Output format.
    #[arg(short, long, env = "PROXY_OUTPUT", value_enum, default_value_t)]
    output: Output,
}

/// Prints the maps.
pub fn run(args: &ServicesArgs) -> anyhow::Result<()> {
    let pins = PinFolder::new(&args.bpffs.bpffs);
    pins.check_present()?;
    let snapshot = KernelMaps::open(&pins)?.snapshot()?;
    args.output.print(&view::report(&snapshot))
}
