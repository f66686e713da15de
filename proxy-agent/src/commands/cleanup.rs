//! `cleanup`: detaches all programs and removes all maps, of every version, and the rules of netfilter; doing it twice
//! does no harm.

use anyhow::Context as _;

use crate::{
    commands::{BpffsArgs, plan::print_text},
    dataplane::{
        pin::PinFolder,
        remove::{self, Removed},
    },
    netfilter::{Installed, RuleError, Rules},
    telemetry::chain,
    text,
};

/// Flags of `cleanup`.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    #[command(flatten)]
    bpffs: BpffsArgs,
}

/// Removes everything and says what it was. Where an agent works, nothing is changed. The rules go last, so that what is
/// translated meanwhile still passes.
pub fn run(args: &CleanupArgs) -> anyhow::Result<()> {
    let pins = PinFolder::new(&args.bpffs.bpffs);
    let base = pins.base().display();
    if !pins.exists() {
        say(&format!("nothing is pinned under {base}"))?;
        return rules();
    }
    let _lock = pins.lock()?;
    let removed = remove::all(&pins);
    // Whatever came of that.
    let said = rules();
    let Removed { programs, maps } =
        removed.context("not everything could be removed; run cleanup again")?;
    say(&format!(
        "detached {programs} programs and removed {maps} maps under {base}"
    ))?;
    said
}

fn say(sentence: &str) -> anyhow::Result<()> {
    print_text(&(text::plain(sentence, text::SENTENCE) + "\n"))
}

/// Removes our rules. What cannot be looked at is told, and does not keep the rest from being removed.
fn rules() -> anyhow::Result<()> {
    for rules in Rules::NONE {
        let review = rules.review(&Installed::for_a_look());
        for changed in review.changed {
            say(&changed)?;
        }
        let told = |error: &RuleError| !error.is_missing();
        for error in review.errors.into_iter().filter(told) {
            tracing::warn!("{}", chain(&error));
        }
    }
    Ok(())
}
