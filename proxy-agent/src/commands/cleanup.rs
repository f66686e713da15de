//! `cleanup`: detaches all programs and removes all maps, of every version, and the rules of netfilter; doing it twice
//! does no harm.

use anyhow::Context as _;

use crate::{
    commands::BpffsArgs,
    dataplane::{pin::PinFolder, remove},
    netfilter::{Installed, RuleError, Rules},
    telemetry::chain,
};

/// Flags of `cleanup`.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
}

/// Removes everything and says what it was.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    rules();
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

/// Removes our rules. What cannot be looked at is told, and does not keep the rest from being removed.
fn rules() {
    for rules in Rules::NONE {
        let review = rules.review(&Installed);
        for changed in review.changed {
            println!("{changed}");
        }
        let told = |error: &RuleError| !error.is_missing();
        for error in review.errors.into_iter().filter(told) {
            tracing::warn!("{}", chain(&error));
        }
    }
}
