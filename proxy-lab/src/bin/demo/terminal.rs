//! How the story looks: headings, sentences, outcomes. Colours on a terminal only (and not with `NO_COLOR`).

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Longest bar of a chart.
const BAR: usize = 30;

/// The terminal, and the number of observed outcomes.
pub struct Terminal {
    colours: bool,
    start: Instant,
    observed: usize,
    missed: usize,
}

impl Terminal {
    pub fn new() -> Self {
        let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            colours,
            start: Instant::now(),
            observed: 0,
            missed: 0,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// The first lines.
    pub fn title(&self, title: &str, subtitle: &str) {
        println!(
            "\n{}\n{}\n",
            self.paint("1", title),
            self.paint("2", subtitle)
        );
    }

    /// A new part.
    pub fn part(&self, title: &str) {
        println!("\n{}", self.paint("1;36", title));
    }

    /// Something to look at: a table, a command.
    pub fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("   {}", self.paint("2", &format!("│ {line}")));
        }
    }

    /// An outcome: whether it was observed, and in what words.
    pub fn observe(&mut self, observed: bool, text: &str) {
        if observed {
            self.observed += 1;
            println!("   {} {text}", self.paint("32", "✓"));
        } else {
            self.missed += 1;
            println!("   {} {}", self.paint("31", "✗ not observed:"), text);
        }
    }

    /// A bar for each name.
    pub fn chart(&self, counts: &BTreeMap<String, usize>, label: impl Fn(&str) -> String) {
        let most = counts.values().copied().max().unwrap_or(1).max(1);
        let width = counts.keys().map(String::len).max().unwrap_or(0);
        for (name, count) in counts {
            let bar = self.paint("34", &"█".repeat((count * BAR).div_ceil(most)));
            println!(
                "     {name:width$}  {bar} {count:<3} {}",
                self.paint("2", &label(name))
            );
        }
    }

    /// The last line; whether all was observed.
    pub fn end(&self) -> bool {
        let took = seconds(self.start.elapsed());
        if self.missed == 0 {
            let text = format!("All {} outcomes were observed, in {took}.", self.observed);
            println!("\n{}", self.paint("1;32", &text));
        } else {
            let text = format!(
                "{} of {} outcomes were not observed.",
                self.missed,
                self.missed + self.observed
            );
            println!("\n{}", self.paint("1;31", &text));
        }
        self.missed == 0
    }
}

/// A sentence.
pub fn say(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

/// Formats a time for humans.
pub fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}
