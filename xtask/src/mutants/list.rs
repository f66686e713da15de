//! The list of mutations: `xtask/mutants.yaml`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;

/// Where the list is, in the workspace.
const FILE: &str = "xtask/mutants.yaml";

/// One mistake, made in one place of the sources, that cases of the conformance suite must notice.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    pub name: String,
    /// The rule that it breaks.
    pub rule: String,
    /// What it does wrong, in a few words.
    pub what: String,
    /// The file, in the workspace.
    pub file: PathBuf,
    /// A text that the file has exactly once, …
    pub find: String,
    /// … and what stands there instead.
    pub replace: String,
    /// The cases that are run, by parts of their names: at least one must fail.
    pub cases: Vec<String>,
    /// What they are run against: `sockets`, `packets`.
    pub subjects: Vec<String>,
}

/// Reads the list, and checks that each of its entries still fits the sources.
pub fn load(root: &Path) -> Result<Vec<Mutant>> {
    let file = root.join(FILE);
    let text =
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    let mutants: Vec<Mutant> =
        serde_saphyr::from_str(&text).with_context(|| format!("{FILE} is no list of mutants"))?;
    let mut names = BTreeSet::new();
    for mutant in &mutants {
        ensure!(
            names.insert(&mutant.name),
            "{FILE}: two mutants are called {}",
            mutant.name
        );
        ensure!(
            !mutant.cases.is_empty() && !mutant.subjects.is_empty(),
            "{FILE}: {} names no cases or no subjects that could notice it",
            mutant.name
        );
        mutant.mutated(root)?;
    }
    Ok(mutants)
}

/// Those with these names, in the list's order; all, if there are no names.
pub fn select(mutants: Vec<Mutant>, names: &[String]) -> Result<Vec<Mutant>> {
    for name in names {
        if !mutants.iter().any(|mutant| mutant.name == *name) {
            let known: Vec<_> = mutants.iter().map(|mutant| mutant.name.as_str()).collect();
            bail!("{FILE} has no mutant {name}; it has: {}", known.join(", "));
        }
    }
    let wanted = |mutant: &Mutant| names.is_empty() || names.contains(&mutant.name);
    Ok(mutants.into_iter().filter(wanted).collect())
}

impl Mutant {
    /// Its file's text, with the mistake in it.
    pub fn mutated(&self, root: &Path) -> Result<String> {
        let file = root.join(&self.file);
        let text = fs::read_to_string(&file)
            .with_context(|| format!("{FILE}: {}: could not read {}", self.name, file.display()))?;
        self.apply(&text)
    }

    fn apply(&self, text: &str) -> Result<String> {
        let found = text.matches(&self.find).count();
        ensure!(
            found == 1 && self.find != self.replace,
            "{FILE}: {}: the text to find must be in {} exactly once, and differ from what replaces it; it is there \
             {found} times. Make the entry fit the sources as they are now:\n{}",
            self.name,
            self.file.display(),
            self.find
        );
        Ok(text.replacen(&self.find, &self.replace, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_mutant_fits_the_sources() {
        let mutants = load(&root()).expect("the list is right");
        assert!(mutants.len() >= 10, "{} mutants", mutants.len());
        for mutant in mutants {
            let words = mutant.name.split('-');
            let plain = words.flat_map(str::chars).all(|c| c.is_ascii_lowercase());
            assert!(plain, "{}: names are words with dashes", mutant.name);
            for subject in &mutant.subjects {
                assert!(
                    ["sockets", "packets"].contains(&subject.as_str()),
                    "{}: {subject} is not of ours",
                    mutant.name
                );
            }
        }
    }

    fn mutant(find: &str) -> Mutant {
        Mutant {
            name: "m".to_owned(),
            rule: "B1".to_owned(),
            what: "errs".to_owned(),
            file: "f.rs".into(),
            find: find.to_owned(),
            replace: "c".to_owned(),
            cases: vec!["x".to_owned()],
            subjects: vec!["sockets".to_owned()],
        }
    }

    #[test]
    fn a_text_that_is_not_there_exactly_once_is_an_error() {
        assert_eq!(mutant("b").apply("abd").expect("is there"), "acd");
        for (find, times) in [("x", "0 times"), ("a", "2 times")] {
            let error = mutant(find).apply("aba").expect_err("is not there once");
            let error = error.to_string();
            assert!(
                error.contains("m: the text") && error.contains(times),
                "{error}"
            );
        }
        assert!(mutant("c").apply("abc").is_err(), "it changes nothing");
    }

    #[test]
    fn mutants_are_chosen_by_name() {
        let both = || vec![mutant("a"), mutant("b")];
        assert_eq!(select(both(), &[]).expect("all").len(), 2);
        let error = select(both(), &["n".to_owned()]).expect_err("is not there");
        assert!(error.to_string().contains("has no mutant n; it has: m, m"));
    }
}
