//! Printer of the lines of several logs, each line with the name of its log.

use std::io::{BufWriter, IsTerminal, Stdout, Write};

use crate::commands::color;
use orch_base::text::printable::one_line;
use orch_base::text::redaction::redacted;
use orch_views::{StyledLine, TextTone};
use unicode_width::UnicodeWidthStr;

/// Printer on standard output.
pub struct LinePrinter {
    output: BufWriter<Stdout>,
    has_color: bool,
    /// Padded names of the logs; empty if there is only one log.
    prefixes: Vec<String>,
}

impl LinePrinter {
    /// Creates a printer; only a terminal gets colours.
    pub fn new() -> Self {
        let output = std::io::stdout();
        Self {
            has_color: color(output.is_terminal()),
            output: BufWriter::new(output),
            prefixes: Vec::new(),
        }
    }

    /// Sets the names of the logs.
    pub fn set_names<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let names: Vec<String> = names.map(one_line).collect();
        let width = names.iter().map(|name| name.width()).max().unwrap_or(0);
        let padded = |name: &String| format!("{name}{} | ", " ".repeat(width - name.width()));
        self.prefixes = match names.len() {
            0 | 1 => Vec::new(),
            _ => names.iter().map(padded).collect(),
        };
    }

    /// Prints a line of the log with this number; returns false if nobody reads any more.
    pub fn print(&mut self, log: usize, line: &[u8]) -> bool {
        let text = String::from_utf8_lossy(line);
        let mut styled = StyledLine::default();
        if let Some(prefix) = self.prefixes.get(log) {
            styled.push(TextTone::Source(log), prefix);
        }
        styled.plain(redacted(text.trim_end_matches('\r')));
        writeln!(self.output, "{}", styled.whole(self.has_color)).is_ok()
    }

    /// Writes everything that is printed; returns false if nobody reads any more.
    pub fn flush(&mut self) -> bool {
        self.output.flush().is_ok()
    }
}
