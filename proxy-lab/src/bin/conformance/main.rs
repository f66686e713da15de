//! The judge: every rule of a Service as cases, on a real control plane, for kube-proxy and for this project. `cargo xtask
//! conformance` builds what it needs and runs it.

mod case;
mod cases;
mod differences;
mod document;
mod ground;
mod options;
mod results;
mod rules;
mod runner;
mod subject;
mod upstream;

use std::process::ExitCode;

use options::{Options, Task};
use proxy_lab::Result;
use results::Results;
use runner::Plan;

const USAGE: &str = "\
Judges service proxies case by case, on a real control plane in a lab (needs root).

usage: conformance [--subjects NAME[,NAME…]] [--cases PATTERN[,PATTERN…]] [--jobs N]
                   [--report FILE.json] [--earlier FILE.json] [--write FILE.md]
       conformance --list

  --subjects  of iptables, nftables (kube-proxy), sockets, packets (ours); all, if not given
  --cases     those whose name has one of the patterns in it, or whose rule is one
  --jobs      cases at once (6)
  --report    write what came of it, as JSON
  --earlier   take what this run does not judge from the report of an earlier one
  --write     write the document, as Markdown

The exit code is 1 when a case fails without a line that explains it, or passes in spite of one.
";

fn main() -> ExitCode {
    let task = options::read(std::env::args().skip(1));
    let options = match task {
        Ok(Task::Judge(options)) => options,
        Ok(Task::List) => {
            for case in cases::all() {
                let alone = if case.exclusive { "  (alone)" } else { "" };
                println!("{:4} {}{alone}", case.rule, case.name);
            }
            return ExitCode::SUCCESS;
        }
        Ok(Task::Help) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprint!("{problem}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match judge(&options) {
        _ if proxy_lab::interrupted() => ExitCode::from(130),
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the judge cannot go on: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it should be.
fn judge(options: &Options) -> Result<bool> {
    proxy_lab::take_down_on_signals()?;
    let earlier = options.earlier.as_deref().map(Results::read).transpose()?;
    let mut results = runner::run(&Plan {
        subjects: options.subjects.clone(),
        cases: options.chosen(),
        jobs: options.jobs,
    })?;
    if let Some(earlier) = earlier {
        results.complete_with(earlier);
    }
    if let Some(path) = &options.report {
        results.write(path)?;
    }
    if let Some(path) = &options.document {
        document::write(&results, path)?;
    }
    println!("{}", results.summary());
    Ok(results.are_good())
}
