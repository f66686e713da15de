//! A [`FlowReport`] as a table for people. There may be a million rows: none is kept.

use std::fmt::{self, Write as _};

use super::{Flag, Flow, FlowReport, State};
use crate::{report::Protocol, text};

const COLUMNS: usize = 9;
const HEADER: [&str; COLUMNS] = [
    "PROTOCOL", "CLIENT", "FRONTEND", "BACKEND", "SOURCE", "STATE", "AGE", "IDLE", "FLAGS",
];

impl fmt::Display for FlowReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = HEADER.map(str::len);
        for cells in self.flows.iter().map(cells) {
            for (width, cell) in widths.iter_mut().zip(&cells) {
                *width = (*width).max(cell.len());
            }
        }
        writeln!(f, "{} flows", self.flows.len())?;
        line(f, &widths, &HEADER.map(str::to_owned))?;
        for cells in self.flows.iter().map(cells) {
            line(f, &widths, &cells)?;
        }
        for warning in &self.warnings {
            writeln!(f, "warning: {}", text::plain(warning, text::SENTENCE))?;
        }
        Ok(())
    }
}

fn line(
    f: &mut fmt::Formatter<'_>,
    widths: &[usize; COLUMNS],
    cells: &[String; COLUMNS],
) -> fmt::Result {
    let mut text = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        write!(text, "{cell:width$}  ")?;
    }
    writeln!(f, "{}", text.trim_end())
}

fn cells(flow: &Flow) -> [String; COLUMNS] {
    let flags: Vec<&str> = flow.flags.iter().map(|flag| flag.name()).collect();
    [
        match flow.protocol {
            Protocol::Sctp => "SCTP",
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
        .to_owned(),
        flow.client.to_string(),
        flow.frontend.to_string(),
        flow.backend.to_string(),
        flow.source
            .map_or_else(|| "-".to_owned(), |source| source.to_string()),
        flow.state.name().to_owned(),
        duration(flow.age_seconds),
        duration(flow.idle_seconds),
        flags.join(","),
    ]
}

/// As kubectl prints ages.
fn duration(seconds: Option<u32>) -> String {
    match seconds {
        None => "?".to_owned(),
        Some(s) if s < 120 => format!("{s}s"),
        Some(s) if s < 3 * 3600 => format!("{}m", s / 60),
        Some(s) if s < 48 * 3600 => format!("{}h", s / 3600),
        Some(s) => format!("{}d", s / (24 * 3600)),
    }
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Claimed => "claimed",
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Orphan => "orphan",
        }
    }
}

impl Flag {
    const fn name(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Hairpin => "hairpin",
            Self::Local => "local",
            Self::Port => "port",
            Self::Masquerade => "masquerade",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [
            (None, "?"),
            (Some(119), "119s"),
            (Some(120), "2m"),
            (Some(10_800), "3h"),
            (Some(172_800), "2d"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }
}
