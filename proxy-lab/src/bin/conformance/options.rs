//! The command line.

use std::path::PathBuf;

use crate::case::Case;
use crate::cases;
use crate::subject::Subject;

/// What is asked for.
#[derive(Debug)]
pub enum Task {
    Judge(Options),
    List,
    Help,
}

/// How to judge.
#[derive(Debug)]
pub struct Options {
    pub subjects: Vec<Subject>,
    /// None: all cases.
    pub patterns: Vec<String>,
    pub jobs: usize,
    pub report: Option<PathBuf>,
    pub earlier: Option<PathBuf>,
    pub document: Option<PathBuf>,
}

impl Options {
    /// The cases that are asked for.
    pub fn chosen(&self) -> Vec<Case> {
        let wanted = |case: &Case| {
            let fits = |pattern: &String| case.name.contains(pattern) || case.rule == pattern;
            self.patterns.is_empty() || self.patterns.iter().any(fits)
        };
        cases::all().filter(wanted).collect()
    }
}

/// Reads it; a problem is a sentence.
pub fn read(mut words: impl Iterator<Item = String>) -> Result<Task, String> {
    let mut options = Options {
        subjects: Subject::ALL.to_vec(),
        patterns: Vec::new(),
        jobs: 6,
        report: None,
        earlier: None,
        document: None,
    };
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a value"));
        match word.as_str() {
            "--subjects" => options.subjects = subjects(&value()?)?,
            "--cases" => options.patterns = list(&value()?),
            "--jobs" => options.jobs = number(&value()?)?,
            "--report" => options.report = Some(value()?.into()),
            "--earlier" => options.earlier = Some(value()?.into()),
            "--write" => options.document = Some(value()?.into()),
            "--list" => return Ok(Task::List),
            "--help" | "-h" => return Ok(Task::Help),
            _ => return Err(format!("{word} is not understood")),
        }
    }
    if options.chosen().is_empty() {
        return Err(format!("no case has {:?} in its name", options.patterns));
    }
    Ok(Task::Judge(options))
}

fn list(text: &str) -> Vec<String> {
    text.split(',')
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn subjects(text: &str) -> Result<Vec<Subject>, String> {
    let known = |name: &String| {
        Subject::named(name).ok_or_else(|| format!("no subject is called {name:?}"))
    };
    list(text).iter().map(known).collect()
}

fn number(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| format!("{text:?} is no number of cases"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &str) -> Result<Task, String> {
        read(words.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_asked_for_is_what_runs() {
        let Ok(Task::Judge(options)) =
            read_words("--subjects sockets,iptables --cases hairpin --jobs 2")
        else {
            panic!("is understood");
        };
        assert_eq!(options.subjects, [Subject::Sockets, Subject::Iptables]);
        assert!(
            options
                .chosen()
                .iter()
                .all(|case| case.name.contains("hairpin"))
        );
        assert!(matches!(read_words("--list"), Ok(Task::List)));
        let Ok(Task::Judge(all)) = read_words("") else {
            panic!("is understood");
        };
        assert_eq!(all.chosen().len(), cases::all().count());
    }

    #[test]
    fn what_cannot_be_judged_is_said() {
        for words in [
            "--subjects envoy",
            "--cases no-such-case",
            "--jobs 0",
            "--jobs",
            "--fast",
        ] {
            assert!(read_words(words).is_err(), "{words}");
        }
    }
}
