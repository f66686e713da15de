//! One lab, one control plane; the subjects one after the other, each with all cases.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use proxy_lab::{ControlPlane, Lab, Result};

use crate::case::{Case, Failure, Outcome};
use crate::ground::{self, Ground, Numbers, Restart};
use crate::results::{Results, Row, Verdict};
use crate::subject::{Running, Subject};
use crate::{cases, differences};

/// What shall run.
pub struct Plan {
    pub subjects: Vec<Subject>,
    pub cases: Vec<Case>,
    /// Cases at once, those aside that run alone.
    pub jobs: usize,
}

/// Runs it.
pub fn run(plan: &Plan) -> Result<Results> {
    let start = Instant::now();
    let lab = ground::lab()?;
    let cluster = ground::control_plane(&lab)?;
    let numbers = Numbers::default();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Its version, without the builder's suffix.
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let mut results = Results {
        kernel: kernel.to_owned(),
        kubernetes: version(cluster)?,
        ..Results::default()
    };
    for &subject in &plan.subjects {
        let start = Instant::now();
        results
            .rows
            .extend(judge(&lab, cluster, subject, plan, &numbers)?);
        eprintln!("{}: judged in {:.0?}", subject.title(), start.elapsed());
        results.times.insert(subject, start.elapsed());
    }
    results.took = start.elapsed();
    Ok(results)
}

/// The API server's version.
fn version(cluster: &ControlPlane) -> Result<String> {
    let text = cluster.kubectl(["version", "-o", "json"])?;
    let versions: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let version = versions["serverVersion"]["gitVersion"].as_str();
    Ok(version.unwrap_or("of an unknown version").to_owned())
}

fn judge(
    lab: &Lab,
    cluster: &ControlPlane,
    subject: Subject,
    plan: &Plan,
    numbers: &Numbers,
) -> Result<Vec<Row>> {
    let start = Instant::now();
    let running = Running::start(lab, cluster, subject)?;
    eprintln!(
        "{}: runs on all nodes after {:.1?}",
        subject.title(),
        start.elapsed()
    );
    let judge = Judge {
        lab,
        cluster,
        subject,
        restart: &|| running.restart(),
        numbers,
    };
    let (alone, together): (Vec<_>, Vec<_>) = plan.cases.iter().partition(|case| case.exclusive);
    let mut rows = judge.all(&together, plan.jobs);
    rows.extend(judge.all(&alone, 1));
    if subject.is_kube_proxy() {
        judge.ask_again(&mut rows);
    }
    let failed = rows.iter().any(Row::is_unexplained);
    if failed {
        running.print_logs();
    }
    running.stop()?;
    ground::wait_until_cleared(cluster)?;
    rows.sort_by_key(|row| plan.cases.iter().position(|case| case.name == row.case));
    Ok(rows)
}

struct Judge<'a> {
    lab: &'a Lab,
    cluster: &'a ControlPlane,
    subject: Subject,
    restart: Restart<'a>,
    numbers: &'a Numbers,
}

impl Judge<'_> {
    /// Runs cases, several at a time.
    fn all(&self, cases: &[&Case], jobs: usize) -> Vec<Row> {
        let next = AtomicUsize::new(0);
        let rows = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..jobs.min(cases.len()) {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if proxy_lab::interrupted() {
                            return;
                        }
                        let row = self.one(case);
                        eprintln!("{row}");
                        rows.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(row);
                    }
                });
            }
        });
        rows.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self, case: &Case) -> Row {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.attempt(case)));
        let panicked = |panic: Box<dyn Any + Send>| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("it panicked: {}", words.unwrap_or("without a word"))
        };
        Row {
            case: case.name.to_owned(),
            subject: self.subject,
            verdict: match outcome {
                Ok(Ok(())) => Verdict::Passes,
                Ok(Err(Failure::NotApplicable(why))) => Verdict::NotApplicable(why),
                Ok(Err(Failure::Differs(why))) => Verdict::Differs(why),
                Ok(Err(Failure::Lab(error))) => Verdict::Unknown(error.chain()),
                Err(panic) => Verdict::Unknown(panicked(panic)),
            },
            took: round(start.elapsed()),
            first: None,
        }
    }

    /// Runs cases with unlisted differences once more, alone. Not for our agent, whose races must be
    /// fixed.
    fn ask_again(&self, rows: &mut [Row]) {
        for row in rows.iter_mut().filter(|row| row.is_unexplained()) {
            let (Verdict::Differs(first), Some(case)) = (&row.verdict, cases::named(&row.case))
            else {
                continue;
            };
            let again = self.one(&case);
            eprintln!("{again} (the second attempt)");
            if again.verdict == Verdict::Passes {
                let first = Some(first.clone());
                *row = Row { first, ..again };
            }
        }
    }

    fn attempt(&self, case: &Case) -> Outcome {
        let in_vain = differences::is_certain(case.name, self.subject);
        let subject = (self.subject, self.restart);
        let ground = Ground::new(self.lab, self.cluster, subject, self.numbers, in_vain)?;
        let outcome = (case.run)(&ground);
        if outcome.is_err() && !in_vain {
            self.show(&ground);
        }
        ground.clear()?;
        outcome
    }

    /// What there is in the API when a case fails.
    fn show(&self, ground: &Ground<'_>) {
        let words = [
            "-n",
            &ground.space,
            "get",
            "services,endpointslices,pods",
            "-o",
            "wide",
        ];
        match self.cluster.kubectl(words) {
            Ok(text) => eprintln!("{text}"),
            Err(error) => eprintln!("{}", error.chain()),
        }
    }
}

fn round(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}
