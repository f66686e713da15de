//! The programs of iptables, and how they write rules.

use super::{
    OURS,
    tools::{ToolError, Tools},
};

/// Which of the kernel's two filters the program `iptables` speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    Nft,
    Legacy,
}

/// A program's own name for a variant.
pub(super) const fn name(variant: Variant, v6: bool) -> &'static str {
    match (variant, v6) {
        (Variant::Nft, false) => "iptables-nft",
        (Variant::Nft, true) => "ip6tables-nft",
        (Variant::Legacy, false) => "iptables-legacy",
        (Variant::Legacy, true) => "ip6tables-legacy",
    }
}

const fn plain(v6: bool) -> &'static str {
    if v6 { "ip6tables" } else { "iptables" }
}

/// The program for a variant: by its own name, or the one that has no variant in its name, if it is of this one.
pub(super) fn program(tools: &impl Tools, variant: Variant, v6: bool) -> Result<String, ToolError> {
    let own = name(variant, v6);
    match tools.run(own, &["--version"], "") {
        Ok(_) => return Ok(own.to_owned()),
        Err(ToolError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    if plain_variant(tools, v6)? == variant {
        Ok(plain(v6).to_owned())
    } else {
        Err(ToolError::Missing(own.to_owned()))
    }
}

/// The program that the host's own rules are written with, and its variant: the one without a variant in its name, else any.
pub(super) fn usual_program(tools: &impl Tools, v6: bool) -> Result<(String, Variant), ToolError> {
    match plain_variant(tools, v6) {
        Ok(variant) => return Ok((plain(v6).to_owned(), variant)),
        Err(ToolError::Missing(_)) => {}
        Err(error) => return Err(error),
    }
    for variant in [Variant::Nft, Variant::Legacy] {
        match program(tools, variant, v6) {
            Ok(program) => return Ok((program, variant)),
            Err(ToolError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ToolError::Missing(plain(v6).to_owned()))
}

fn plain_variant(tools: &impl Tools, v6: bool) -> Result<Variant, ToolError> {
    let version = tools.run(plain(v6), &["--version"], "")?;
    Ok(if version.contains("nf_tables") {
        Variant::Nft
    } else {
        Variant::Legacy
    })
}

/// The rules of a chain as `iptables -S CHAIN` lists them, each without its `-A CHAIN `.
pub(super) fn specs(chain: &str, text: &str) -> Vec<String> {
    let append = format!("-A {chain} ");
    text.lines()
        .filter_map(|line| line.strip_prefix(&append))
        .map(str::to_owned)
        .collect()
}

/// The comment of a rule of ours.
pub(super) fn ours(words: &[String]) -> Option<&str> {
    let comments = words.windows(2).filter(|pair| pair[0] == "--comment");
    let mut comments = comments.map(|pair| pair[1].as_str());
    comments.find(|comment| comment.starts_with(OURS))
}

/// Splits a rule into words; what stands in double quotes is one, in which a backslash takes the next character as it is.
pub(super) fn words(spec: &str) -> Vec<String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let (mut quoted, mut characters) = (false, spec.chars());
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(characters.next()),
            ' ' if !quoted => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}
