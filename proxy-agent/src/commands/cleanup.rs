//! `cleanup`: detaches all programs and removes all maps, of every version; doing it twice does no harm.

use anyhow::Context as _;

use crate::{
    commands::BpffsArgs,
    dataplane::{pin::PinFolder, remove},
};

/// Flags of `cleanup`.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
}

/// Removes everything and says what it was.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let pins = PinFolder::new(&args.bpffs.bpffs);
    if !pins.base().exists() {
        println!("nothing is pinned under {}", pins.base().display());
        return Ok(());
    }
    let _lock = pins.lock()?;
    let removed =
        remove::all(&pins).context("not everything could be removed; run cleanup again")?;
    println!(
        "detached {} programs and removed {} maps under {}",
        removed.programs,
        removed.maps,
        pins.base().display()
    );
    Ok(())
}
