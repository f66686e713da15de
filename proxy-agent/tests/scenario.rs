//! Manifests in, `plan -o json` out: `tests/scenarios/NAME.yaml` → `NAME.json`. The first line of a scenario is
//! `# plan: ` and the flags, without `--source`. With `UPDATE_SCENARIOS=1` the expected files are written anew; read
//! the difference before you commit it.

#![cfg(test)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use clap::Parser;
use proxy_agent::{commands::plan::PlanArgs, report::Report};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    plan: PlanArgs,
}

fn scenarios() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let entries = fs::read_dir(&dir).unwrap();
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    paths.sort();
    paths
}

/// Plans a scenario, alone in a folder.
fn plan(path: &Path) -> Report {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let text = fs::read_to_string(path).unwrap();
    let flags = text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("# plan: "));
    let flags = flags.unwrap_or_else(|| panic!("{}: no flags", path.display()));
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = env::temp_dir().join(format!("scenario-{}-{number}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::copy(path, dir.join("scenario.yaml")).unwrap();
    let source = format!("file:{}", dir.display());
    let arguments = ["plan", "--source", &source]
        .into_iter()
        .chain(flags.split_whitespace());
    let report = Command::try_parse_from(arguments).unwrap().plan.report();
    fs::remove_dir_all(&dir).unwrap();
    report.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()))
}

#[test]
fn scenarios_give_what_is_expected() {
    let update = env::var_os("UPDATE_SCENARIOS").is_some();
    let mut differing = Vec::new();
    for path in scenarios() {
        let actual = plan(&path).to_json().unwrap() + "\n";
        let expected = path.with_extension("json");
        if update {
            fs::write(&expected, &actual).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != actual {
            eprintln!("{}: got\n{actual}", path.display());
            differing.push(path);
        }
    }
    assert!(differing.is_empty(), "differ: {differing:?}");
}

#[test]
fn reports_keep_their_contract() {
    for path in scenarios() {
        let report = plan(&path);
        let keys: Vec<_> = report
            .frontends
            .iter()
            .map(|f| (f.address, f.port, f.protocol, f.scope))
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{}", path.display());
        for frontend in &report.frontends {
            assert_eq!(frontend.backends.is_empty(), frontend.empty.is_some());
            assert!(!frontend.address.is_loopback());
        }
        let read: Report = serde_json::from_str(&report.to_json().unwrap()).unwrap();
        assert_eq!(read, report);
        assert!(report.to_string().starts_with("node "));
    }
}
