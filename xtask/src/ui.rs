//! Output for the user: one line per finished step, and a spinner with the latest output in between.

use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// The terminal. Off a terminal there are no spinners, only the lines.
pub struct Ui {
    spinners: MultiProgress,
}

impl Ui {
    pub fn new() -> Self {
        Self {
            spinners: MultiProgress::new(),
        }
    }

    /// Prints a line above the running spinners.
    pub fn line(&self, text: &str) {
        self.spinners.suspend(|| eprintln!("{text}"));
    }

    /// Runs `work` under a spinner and prints the step with its time when it has ended.
    pub fn step<T>(&self, title: &str, work: impl FnOnce(&Step) -> Result<T>) -> Result<T> {
        if self.spinners.is_hidden() {
            self.line(&format!("  … {title}"));
        }
        let start = Instant::now();
        let spinner = self.spinners.add(ProgressBar::new_spinner());
        spinner.set_style(spinner_style());
        spinner.set_prefix(title.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(120));
        let step = Step { spinner };
        let result = work(&step);
        step.spinner.finish_and_clear();
        self.spinners.remove(&step.spinner);
        let mark = if result.is_ok() { '✓' } else { '✗' };
        self.line(&format!("  {mark} {title}  ({})", seconds(start.elapsed())));
        result
    }
}

/// A running step.
pub struct Step {
    spinner: ProgressBar,
}

impl Step {
    /// Shows the latest line of the step's output beside its title.
    pub fn show(&self, line: &str) {
        self.spinner.set_message(line.trim().to_owned());
    }
}

/// A duration as `8.1 s` or `2 min 05 s`.
pub fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_seconds_then_minutes() {
        assert_eq!(seconds(Duration::from_millis(8_120)), "8.1 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn the_spinner_template_parses() {
        assert!(
            ProgressStyle::with_template("  {spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
                .is_ok()
        );
    }
}
