//! `docs/conformance.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use proxy_lab::{LabError, Result};

use crate::case::Case;
use crate::results::{Results, Verdict};
use crate::subject::Subject;
use crate::{cases, differences, rules, upstream};

const HEAD: &str = "\
# Every rule of a Service, judged beside kube-proxy

Written by `cargo xtask conformance`; do not edit. Each case makes its objects on a real control plane (etcd, kube-apiserver,
kube-controller-manager; pods are network namespaces that serve), sends real traffic from pods, nodes and from outside, and
looks at who answered, whom the server saw, and how a failure was told. Every case runs with each subject on all nodes:

* **iptables**, **nftables**: kube-proxy itself, in these modes.
* **sockets**: ours as it is by default. Sockets of nodes and pods are translated when they connect.
* **packets**: ours with `--socket-lb=host`. Pods' traffic is translated per packet; the nodes' own sockets still are when
  they connect.

✓ the rule shows · ≠ it does not, for the reason given below · – the subject cannot be asked, for the reason given below
✓ with a number: it does not always, or did not at once.
\"not run\": the case is newer than the run that wrote this.

";

/// Writes it.
pub fn write(results: &Results, path: &Path) -> Result<()> {
    std::fs::write(path, text(results)).map_err(LabError::file("writing", path))
}

fn text(results: &Results) -> String {
    let mut notes = Notes::default();
    let table = table(results, &mut notes);
    let mut text = HEAD.to_owned();
    text += &figures(results);
    text += &table;
    text += &notes.text();
    text + &upstream_names()
}

/// Lines about differences, numbered in the order of their use.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn number(&mut self, line: String) -> usize {
        let known = self.0.iter().position(|known| *known == line);
        let index = known.unwrap_or_else(|| {
            self.0.push(line);
            self.0.len() - 1
        });
        index + 1
    }

    fn text(&self) -> String {
        let mut text = "\n## Differences, and what does not apply\n\n".to_owned();
        for (index, line) in self.0.iter().enumerate() {
            let _ = writeln!(text, "{}. {line}", index + 1);
        }
        if self.0.is_empty() {
            text += "None.\n";
        }
        text
    }
}

fn figures(results: &Results) -> String {
    let mut text = format!("{} cases", cases::all().count());
    let (known, theirs) = (theirs_with_a_case(), upstream::all().count());
    let _ = write!(
        text,
        "; {known} of {theirs} tests of sig-network have their case here. "
    );
    let _ = writeln!(
        text,
        "Linux {}, Kubernetes {}; all in {} on two cores.\n",
        results.kernel,
        results.kubernetes,
        minutes(results.took)
    );
    text += "| subject | pass | differ | do not apply | time |\n|---|---|---|---|---|\n";
    for subject in Subject::ALL {
        let count = |of: fn(&Verdict) -> bool| {
            let rows = results.by(subject);
            rows.filter(|row| of(&row.verdict)).count()
        };
        let took = results.times.get(&subject).copied().unwrap_or_default();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            subject.title(),
            count(|verdict| *verdict == Verdict::Passes),
            count(|verdict| matches!(verdict, Verdict::Differs(_))),
            count(|verdict| matches!(verdict, Verdict::NotApplicable(_))),
            minutes(took),
        );
    }
    text
}

fn minutes(time: Duration) -> String {
    format!("{}:{:02} min", time.as_secs() / 60, time.as_secs() % 60)
}

fn theirs_with_a_case() -> usize {
    let covered: BTreeSet<_> = cases::all()
        .flat_map(|case| case.upstream)
        .copied()
        .collect();
    upstream::all()
        .filter(|(_, test)| covered.contains(test.name))
        .count()
}

fn table(results: &Results, notes: &mut Notes) -> String {
    let mut text = "\n## Rules and cases\n".to_owned();
    for (rule, title) in rules::ALL {
        let cases: Vec<_> = cases::all().filter(|case| case.rule == *rule).collect();
        if cases.is_empty() {
            continue;
        }
        let _ = write!(text, "\n### {rule}: {title}\n\n| case |");
        for subject in Subject::ALL {
            let _ = write!(text, " {} |", subject.name());
        }
        text += "\n|---|---|---|---|---|\n";
        for case in cases {
            let _ = write!(text, "| {} |", case.name);
            for subject in Subject::ALL {
                let _ = write!(text, " {} |", mark(results, &case, subject, notes));
            }
            text.push('\n');
        }
    }
    text
}

fn mark(results: &Results, case: &Case, subject: Subject, notes: &mut Notes) -> String {
    let Some(row) = results.of(case.name, subject) else {
        return "not run".to_owned();
    };
    match &row.verdict {
        Verdict::Passes => match (&row.first, differences::reason(case.name, subject)) {
            (Some(first), _) => format!("✓ {}", notes.number(second_attempt(first))),
            (None, Some(reason)) => format!("✓ {}", notes.number(reason.to_owned())),
            (None, None) => "✓".to_owned(),
        },
        Verdict::Differs(_) => match differences::reason(case.name, subject) {
            Some(reason) => format!("≠ {}", notes.number(reason.to_owned())),
            None => "**≠ unexplained**".to_owned(),
        },
        Verdict::NotApplicable(why) => format!("– {}", notes.number(why.clone())),
        Verdict::Unknown(_) => "**?**".to_owned(),
    }
}

fn second_attempt(first: &str) -> String {
    format!("At the second attempt, which kube-proxy alone has. The first saw: {first}")
}

fn upstream_names() -> String {
    let mut text = "
## The tests of Kubernetes' own suite

By file of `test/e2e/network`, in their words; **C** is part of Kubernetes' conformance. Each has a case here that covers
the same ground, or a reason why there is none.
"
    .to_owned();
    for (file, tests) in upstream::FILES {
        let _ = write!(text, "\n### {file}\n\n| test | case |\n|---|---|\n");
        for test in *tests {
            let mark = if test.conformance { " **C**" } else { "" };
            let cases: Vec<_> = cases::all()
                .filter(|case| case.upstream.contains(&test.name))
                .map(|case| case.name)
                .collect();
            let cases = match test.without {
                Some(reason) => format!("none: {reason}"),
                None if cases.is_empty() => "none yet".to_owned(),
                None => cases.join(", "),
            };
            let _ = writeln!(text, "| {}{mark} | {cases} |", test.name);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first columns of the rows of tables.
    fn first_columns(document: &str) -> BTreeSet<&str> {
        let rows = document.lines().filter_map(|line| line.strip_prefix("| "));
        rows.filter_map(|row| row.split(" |").next()).collect()
    }

    #[test]
    fn the_committed_document_has_the_cases_and_the_names_that_there_are() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
        let committed = std::fs::read_to_string(&path).expect("is there");
        let now = text(&Results::default());
        let [committed, now] = [&committed, &now].map(|document| first_columns(document));
        let missing: Vec<_> = now.difference(&committed).collect();
        let stale: Vec<_> = committed.difference(&now).collect();
        assert!(
            missing.is_empty() && stale.is_empty(),
            "`cargo xtask conformance` writes it anew; missing: {missing:?}; stale: {stale:?}"
        );
    }
}
