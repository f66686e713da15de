//! The table at the end of a run of many steps.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::ui::Ui;

/// Collects the results of steps; a failed one does not stop the others.
#[derive(Default)]
pub struct Summary {
    rows: Vec<Row>,
    skipped: Vec<String>,
}

struct Row {
    step: String,
    passed: bool,
    note: String,
    time: Duration,
}

impl Summary {
    /// Runs a step, keeps its result, and prints why it failed. `work` returns a note for the table.
    pub fn run(&mut self, ui: &Ui, step: &str, work: impl FnOnce() -> Result<String>) {
        let start = Instant::now();
        let result = work();
        let (passed, note) = match result {
            Ok(note) => (true, note),
            Err(error) => {
                ui.line(&format!("{error:#}"));
                (false, String::new())
            }
        };
        self.rows.push(Row {
            step: step.to_owned(),
            passed,
            note,
            time: start.elapsed(),
        });
    }

    /// Notes what was not run, and why.
    pub fn skip(&mut self, what: &str, reason: &str) {
        self.skipped.push(format!("{what}: {reason}"));
    }

    /// Prints the table; an error if a step failed.
    pub fn finish(self, ui: &Ui) -> Result<()> {
        ui.line(&self.table());
        let failed: Vec<_> = self
            .rows
            .iter()
            .filter(|row| !row.passed)
            .map(|row| row.step.as_str())
            .collect();
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }

    fn table(&self) -> String {
        let width = self
            .rows
            .iter()
            .map(|row| row.step.chars().count())
            .max()
            .unwrap_or(0)
            .max(4);
        let mut table = format!("\n{:width$}  result  seconds\n", "step");
        for row in &self.rows {
            let result = if row.passed { "ok" } else { "FAILED" };
            let seconds = row.time.as_secs_f64();
            let line = format!(
                "{:width$}  {result:6}  {seconds:7.1}  {}",
                row.step, row.note
            );
            table.push_str(line.trim_end());
            table.push('\n');
        }
        let total: Duration = self.rows.iter().map(|row| row.time).sum();
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "{:width$}          {:7.1}",
            "all",
            total.as_secs_f64()
        );
        for skipped in &self.skipped {
            let _ = writeln!(table, "skipped: {skipped}");
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_fails_the_whole_and_the_others_still_run() {
        let ui = Ui::new();
        let mut summary = Summary::default();
        summary.run(&ui, "one", || bail!("no"));
        summary.run(&ui, "two", || Ok("3 tests".to_owned()));
        let error = summary.finish(&ui).expect_err("a step failed");
        assert_eq!(error.to_string(), "failed: one");
    }

    #[test]
    fn the_table_has_every_step_and_what_was_not_run() {
        let mut summary = Summary::default();
        summary.run(&Ui::new(), "one", || bail!("no"));
        summary.run(&Ui::new(), "two", || Ok("3 tests".to_owned()));
        summary.skip("three", "not root");
        let table = summary.table();
        assert!(
            table.contains("one   FAILED") && table.contains("3 tests"),
            "{table}"
        );
        assert!(table.contains("skipped: three: not root"), "{table}");
    }
}
